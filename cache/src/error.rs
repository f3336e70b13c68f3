//! What can go wrong in the store.

use std::io;

use camino::Utf8PathBuf;

use crate::digest::Digest;

/// Result of the store's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system said no; the message names the path.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A blob that nothing in the store holds.
    #[error("blob {digest} is not in the store")]
    Missing {
        /// Which.
        digest: Digest,
    },
    /// A blob whose bytes are no longer those it is named after.
    #[error("blob {digest} was damaged; moved aside to {quarantined}")]
    Damaged {
        /// Which.
        digest: Digest,
        /// Where its bytes lie now.
        quarantined: Utf8PathBuf,
    },
    /// Somebody else holds the lock.
    #[error("{path} is held by process {holder}")]
    Held {
        /// The lock file.
        path: Utf8PathBuf,
        /// What the holder wrote into it: its process id, or "unknown" in the instant before it did.
        holder: String,
    },
    /// A file kept changing while its digest was taken.
    #[error("{path} changes while it is being read")]
    Unstable {
        /// Which.
        path: Utf8PathBuf,
    },
    /// Something that is not a file where a file must be.
    #[error("expected a file at {path}, found {found}")]
    NotAFile {
        /// Where.
        path: Utf8PathBuf,
        /// A directory, a pipe, ...
        found: &'static str,
    },
}
