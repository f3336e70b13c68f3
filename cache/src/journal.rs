//! An append-only file of JSON lines: what happened, in order. Knows nothing of what is noted.
//!
//! Each line is appended by one write, so a killed process loses at most the line it was writing; [`Journal::sync`] makes
//! what was written last through a loss of power. A torn or damaged line is skipped by the reader and counted; a torn
//! last line is ended before anything is appended after it.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};

use camino::Utf8Path;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::durable;
use crate::error::Result;

/// An open journal; threads may share it.
#[derive(Debug)]
pub struct Journal<T> {
    file: fs_err::File,
    /// The last line has no end.
    is_torn: AtomicBool,
    entries: PhantomData<fn(&T)>,
}

/// What a journal holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lines<T> {
    /// The entries that could be read, in order.
    pub entries: Vec<T>,
    /// How many lines could not.
    pub damaged: usize,
}

impl<T: Serialize + DeserializeOwned> Journal<T> {
    /// Opens a journal for appending; makes it if need be.
    pub fn open(path: &Utf8Path) -> Result<Self> {
        let is_new = !path.exists();
        let mut file = fs_err::OpenOptions::new().read(true).append(true).create(true).open(path)?;
        if is_new {
            durable::sync_dir(durable::parent(path))?;
        }
        let is_torn = AtomicBool::new(ends_torn(&mut file)?);
        Ok(Self { file, is_torn, entries: PhantomData })
    }

    /// Appends an entry: safe from kill -9 when this returns.
    pub fn append(&self, entry: &T) -> Result<()> {
        let mut line = serde_json::to_vec(entry).map_err(io::Error::other)?;
        if self.is_torn.swap(false, Ordering::Relaxed) {
            line.insert(0, b'\n');
        }
        line.push(b'\n');
        let written = self.file.file().write_all(&line);
        if written.is_err() {
            self.is_torn.store(true, Ordering::Relaxed);
        }
        Ok(written?)
    }

    /// Makes everything appended so far last through a loss of power.
    pub fn sync(&self) -> Result<()> {
        Ok(self.file.sync_data()?)
    }

    /// Reads a journal; a missing file is an empty one.
    pub fn read(path: &Utf8Path) -> Result<Lines<T>> {
        let bytes = match fs_err::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e.into()),
        };
        let mut lines = Lines { entries: Vec::new(), damaged: 0 };
        for line in bytes.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(entry) => lines.entries.push(entry),
                Err(_) => lines.damaged += 1,
            }
        }
        Ok(lines)
    }
}

fn ends_torn(file: &mut fs_err::File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != [b'\n'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use camino::Utf8PathBuf;

    fn scratch() -> (tempfile::TempDir, Utf8PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(dir.path().join("journal")).unwrap();
        (dir, path)
    }

    #[test]
    fn entries_come_back_in_order() {
        let (_dir, path) = scratch();
        assert_eq!(Journal::<u32>::read(&path).unwrap(), Lines { entries: vec![], damaged: 0 });
        let journal = Journal::open(&path).unwrap();
        (0..5).for_each(|n: u32| journal.append(&n).unwrap());
        journal.sync().unwrap();
        Journal::open(&path).unwrap().append(&5).unwrap();
        assert_eq!(Journal::read(&path).unwrap(), Lines { entries: vec![0, 1, 2, 3, 4, 5], damaged: 0 });
    }

    #[test]
    fn any_cut_loses_at_most_the_line_it_is_in() {
        let (_dir, path) = scratch();
        let entries = ["alpha", "beta", "gamma"].map(String::from);
        let journal = Journal::open(&path).unwrap();
        entries.iter().for_each(|e| journal.append(e).unwrap());
        let whole = fs_err::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs_err::write(&path, &whole[..cut]).unwrap();
            Journal::open(&path).unwrap().append(&"after".to_owned()).unwrap();
            let lines = Journal::<String>::read(&path).unwrap();
            let (last, kept) = lines.entries.split_last().unwrap();
            assert_eq!(last, "after");
            assert_eq!(kept, &entries[..kept.len()]);
            let ended = whole[..cut].iter().filter(|&&b| b == b'\n').count();
            // A cut between a line's text and its end leaves the entry readable.
            assert!(kept.len() == ended || kept.len() == ended + 1 && whole[cut] == b'\n', "cut at {cut}");
        }
    }
}
