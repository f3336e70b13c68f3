//! Reading JSON whose format is known, and publishing files whole. Knows no content.

use std::io;

use camino::Utf8Path;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};

/// The format this tool reads and writes.
pub const FORMAT: u64 = 1;

/// Reads a JSON file as it is, after checking its `format`.
pub fn read_json_value(path: &Utf8Path) -> Result<Value> {
    let text = fs_err::read_to_string(path).map_err(|e| Error::file(path, cause(&e)))?;
    let value: Value =
        serde_json::from_str(&text).map_err(|e| Error::file(path, format!("expected JSON, found {e}")))?;
    match value.get("format").and_then(Value::as_u64) {
        Some(FORMAT) => Ok(value),
        Some(other) => Err(Error::file(path, format!("expected format {FORMAT}, found {other}"))),
        None => Err(Error::file(path, format!("expected a JSON object with `format: {FORMAT}`, found none"))),
    }
}

/// Reads a JSON file into a type, after checking its `format`.
pub fn read_json<T: DeserializeOwned>(path: &Utf8Path) -> Result<T> {
    serde_json::from_value(read_json_value(path)?).map_err(|e| Error::file(path, e))
}

/// What an I/O error says, without the path that `fs_err` would repeat.
pub fn cause(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "expected a file, found none".to_owned(),
        io::ErrorKind::InvalidData => "expected UTF-8 text".to_owned(),
        kind => kind.to_string(),
    }
}

/// Writes to a temporary name beside `path` and renames: a reader sees all of it or nothing.
pub fn publish(path: &Utf8Path, bytes: &[u8]) -> Result<()> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_str().is_empty()) {
        fs_err::create_dir_all(dir)?;
    }
    let temporary = path.with_file_name(format!(".{}.tmp", path.file_name().unwrap_or("output")));
    fs_err::write(&temporary, bytes)?;
    Ok(fs_err::rename(&temporary, path)?)
}

/// Publishes pretty JSON with a final newline.
pub fn publish_json<T: Serialize>(path: &Utf8Path, value: &T) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
    text.push('\n');
    publish(path, text.as_bytes())
}
