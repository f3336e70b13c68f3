//! What can go wrong, told apart by whose fault it is. Knows no command.

use std::fmt;

use camino::{Utf8Path, Utf8PathBuf};

/// A failure, with the exit code it deserves.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is missing, damaged, or not what it should be.
    #[error("{path}: {message}")]
    File {
        /// Which.
        path: Utf8PathBuf,
        /// What was expected and found.
        message: String,
    },
    /// An argument or a specification is wrong.
    #[error("{0}")]
    Input(String),
    /// A comparison went beyond its tolerance.
    #[error("{0}")]
    FellShort(String),
    /// Writing failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Error {
    /// A wrong file.
    pub fn file(path: &Utf8Path, message: impl fmt::Display) -> Self {
        Self::File { path: path.to_owned(), message: message.to_string() }
    }

    /// 1: it failed; 2: the input is wrong.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::File { .. } | Self::Input(_) => 2,
            Self::FellShort(_) | Self::Io(_) => 1,
        }
    }
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// `; did you mean "x"?` for the candidate nearest to `found`, or nothing where none is near.
pub fn hint<'a>(found: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let near = candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(found, candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= found.len().max(candidate.len()) / 2);
    near.map(|(_, candidate)| format!("; did you mean `{candidate}`?")).unwrap_or_default()
}
