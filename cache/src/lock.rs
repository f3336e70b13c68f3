//! One holder at a time, across processes. Knows nothing of what is protected.
//!
//! The operating system's advisory lock on a file, gone with the process that holds it however it ends. The file stays:
//! removing a lock file while another process opens it would let two hold "the" lock. The holder's process id is written
//! inside for messages only.

use std::fs::TryLockError;
use std::io::{Read, Write};

use camino::Utf8Path;

use crate::error::{Error, Result};

/// Held while it lives.
#[derive(Debug)]
pub struct Lock {
    _file: fs_err::File,
}

impl Lock {
    /// Takes the lock, or says at once who holds it.
    pub fn try_acquire(path: &Utf8Path) -> Result<Self> {
        let mut file = open(path)?;
        match file.try_lock() {
            Ok(()) => Self::signed(file),
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder)?;
                let holder = if holder.trim().is_empty() { "unknown" } else { holder.trim() };
                Err(Error::Held { path: path.to_owned(), holder: holder.to_owned() })
            }
            Err(TryLockError::Error(e)) => Err(e.into()),
        }
    }

    /// Takes the lock, waiting for as long as somebody else holds it.
    pub fn acquire(path: &Utf8Path) -> Result<Self> {
        let file = open(path)?;
        file.lock()?;
        Self::signed(file)
    }

    fn signed(mut file: fs_err::File) -> Result<Self> {
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self { _file: file })
    }
}

fn open(path: &Utf8Path) -> Result<fs_err::File> {
    Ok(fs_err::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use camino::Utf8PathBuf;

    #[test]
    fn a_second_taker_learns_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(dir.path().join("lock")).unwrap();
        let first = Lock::try_acquire(&path).unwrap();
        let error = Lock::try_acquire(&path).unwrap_err();
        assert_eq!(error.to_string(), format!("{path} is held by process {}", std::process::id()));
        drop(first);
        Lock::try_acquire(&path).unwrap();
        Lock::acquire(&path).unwrap();
    }
}
