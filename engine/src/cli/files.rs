//! Inputs read with errors that name the file, outputs that appear whole or not at all.

use std::io::{self, BufWriter, Write};
use std::num::NonZeroU64;

use camino::{Utf8Path, Utf8PathBuf};
use fs_err::File;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of a large output after which the disk is asked to take them.
const ASK_EVERY: u64 = 32 << 20;

/// An error that the user can mend.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Mistake(String);

/// Says that `what` is wrong with `file`.
pub(super) fn mistake(file: &Utf8Path, what: impl std::fmt::Display) -> anyhow::Error {
    Mistake(format!("{file}: {what}")).into()
}

/// Says that an argument is wrong.
pub(super) fn wrong(what: impl std::fmt::Display) -> anyhow::Error {
    Mistake(what.to_string()).into()
}

/// The text of an input.
pub(super) fn read(path: &Utf8Path) -> anyhow::Result<String> {
    let reason = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => mistake(path, "expected a file, found none"),
        io::ErrorKind::InvalidData => mistake(path, "expected UTF-8 text"),
        _ => wrong(error),
    };
    fs_err::read_to_string(path).map_err(reason)
}

/// An input in JSON.
pub(super) fn read_json<T: DeserializeOwned>(path: &Utf8Path) -> anyhow::Result<T> {
    serde_json::from_str(&read(path)?).map_err(|error| mistake(path, error))
}

/// Refuses a file of another version.
pub(super) fn check_format(path: &Utf8Path, expected: u32, found: u32) -> anyhow::Result<()> {
    match found == expected {
        true => Ok(()),
        false => Err(mistake(path, format_args!("format: expected {expected}, found {found}"))),
    }
}

/// Writes an output in JSON.
pub(super) fn write_json(path: &Utf8Path, content: &impl Serialize) -> anyhow::Result<()> {
    Output::create(path)?.publish_json(content)
}

/// A file that has its name only once it is whole.
pub(super) struct Output {
    path: Utf8PathBuf,
    /// Deletes the file under its working name, unless it was published.
    draft: Draft,
    file: BufWriter<File>,
}

struct Draft(Utf8PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        // After publish() there is nothing to delete, and before it the first error is the one to report.
        let _ = fs_err::remove_file(&self.0);
    }
}

impl Output {
    /// Opens it under a working name beside its own. Whoever measures first opens first: a folder that is not there is then told at once.
    pub(super) fn create(path: &Utf8Path) -> anyhow::Result<Self> {
        let name = path.file_name().ok_or_else(|| wrong(format_args!("{path}: expected a file name")))?;
        let working = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
        let file = File::create(&working).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => mistake(path, "expected its folder to be there, found none"),
            _ => error.into(),
        })?;
        let file = BufWriter::with_capacity(1 << 18, file);
        Ok(Self { path: path.to_owned(), draft: Draft(working), file })
    }

    /// Fills it with JSON and gives it its name.
    pub(super) fn publish_json(mut self, content: &impl Serialize) -> anyhow::Result<()> {
        serde_json::to_writer_pretty(&mut self, content)?;
        self.write_all(b"\n")?;
        self.publish()
    }

    /// Gives it its name.
    pub(super) fn publish(mut self) -> anyhow::Result<()> {
        self.file.flush()?;
        Ok(fs_err::rename(&self.draft.0, &self.path)?)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A large output, on its way to the disk while it is written, so that little is left to do at its end.
pub(super) struct LargeOutput {
    output: Output,
    /// Bytes in all.
    written: u64,
    /// Of them, those that the disk was asked to take.
    asked: u64,
}

impl LargeOutput {
    /// Opens it under a working name beside its own.
    pub(super) fn create(path: &Utf8Path) -> anyhow::Result<Self> {
        Ok(Self { output: Output::create(path)?, written: 0, asked: 0 })
    }

    /// Gives it its name once it is on the disk.
    pub(super) fn publish(mut self) -> anyhow::Result<()> {
        let Output { path, file, .. } = &mut self.output;
        file.flush()?;
        file.get_ref().sync_all()?;
        let directory = path.parent().filter(|parent| !parent.as_str().is_empty());
        let directory = File::open(directory.unwrap_or(Utf8Path::new(".")))?;
        self.output.publish()?;
        Ok(directory.sync_all()?)
    }

    /// Linux begins to write what it is told that nobody needs, and keeps what is being written in memory. Where it does not begin, all
    /// is written at the end.
    fn ask_disk(&mut self) {
        let bytes = NonZeroU64::new(self.written - self.asked);
        let file = self.output.file.get_ref().file();
        let _ = rustix::fs::fadvise(file, self.asked, bytes, rustix::fs::Advice::DontNeed);
        self.asked = self.written;
    }
}

impl Write for LargeOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.output.write(bytes)?;
        self.written += written as u64;
        if self.written - self.asked >= ASK_EVERY {
            self.ask_disk();
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
