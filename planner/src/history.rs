//! What last happened to each address: an append-only journal, read whole. Knows nothing of plans.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use chariot_cache::{Digest, Journal, write_atomic};
use serde::{Deserialize, Serialize};

/// A journal this many times longer than it need be is rewritten.
const SLACK: usize = 4;
/// One shorter than this never is.
const COMPACT_MIN: usize = 1000;

/// One event: an action ran, failed, or was answered by the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The action's address.
    pub address: String,
    /// The key its results are found by, or would have been.
    pub key: Digest,
    /// Why it failed, in one line.
    pub failure: Option<String>,
    /// When.
    pub at: String,
}

/// The newest events by address.
#[derive(Debug)]
pub struct History {
    path: Utf8PathBuf,
    journal: Option<Journal<Entry>>,
    lines: usize,
    newest: BTreeMap<String, Latest>,
}

/// What is known of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latest {
    /// The newest event.
    pub entry: Entry,
    /// The key of the newest success.
    pub succeeded: Option<Digest>,
}

impl History {
    /// Reads the history in the directory of the store.
    pub fn read(root: &Utf8Path) -> chariot_cache::Result<Self> {
        let path = root.join("history");
        let lines = Journal::<Entry>::read(&path)?;
        let count = lines.entries.len() + lines.damaged;
        let mut history = Self { path, journal: None, lines: count, newest: BTreeMap::new() };
        lines.entries.into_iter().for_each(|entry| history.note(entry));
        Ok(history)
    }

    fn note(&mut self, entry: Entry) {
        let succeeded = match entry.failure {
            None => Some(entry.key),
            Some(_) => self.newest.get(&entry.address).and_then(|latest| latest.succeeded),
        };
        self.newest.insert(entry.address.clone(), Latest { entry, succeeded });
    }

    /// What is known of an address.
    pub fn latest(&self, address: &str) -> Option<&Latest> {
        self.newest.get(address)
    }

    /// All addresses with what is known of them.
    pub fn all(&self) -> impl Iterator<Item = &Latest> {
        self.newest.values()
    }

    /// Notes an event; one that says what the newest already says is dropped.
    pub fn append(&mut self, entry: Entry) -> chariot_cache::Result<()> {
        let same = |latest: &Latest| latest.entry.key == entry.key && latest.entry.failure == entry.failure;
        if self.latest(&entry.address).is_some_and(same) {
            return Ok(());
        }
        if self.journal.is_none() {
            self.journal = Some(Journal::open(&self.path)?);
        }
        if let Some(journal) = &self.journal {
            journal.append(&entry)?;
        }
        self.lines += 1;
        self.note(entry);
        Ok(())
    }

    /// Rewrites a journal that has grown far beyond what it says. Only the holder of the lock may.
    pub fn compact(&mut self) -> chariot_cache::Result<()> {
        if self.lines < COMPACT_MIN.max(self.newest.len() * SLACK) {
            return Ok(());
        }
        let mut text = Vec::new();
        let mut lines = 0;
        for latest in self.newest.values() {
            let before = latest.succeeded.filter(|_| latest.entry.failure.is_some());
            let before = before.map(|key| Entry { key, failure: None, ..latest.entry.clone() });
            for entry in before.iter().chain(std::iter::once(&latest.entry)) {
                serde_json::to_writer(&mut text, entry).map_err(std::io::Error::other)?;
                text.push(b'\n');
                lines += 1;
            }
        }
        self.journal = None;
        write_atomic(&self.path, &text)?;
        self.lines = lines;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(address: &str, key: &str, failure: Option<&str>) -> Entry {
        Entry {
            address: address.to_owned(),
            key: Digest::of(key.as_bytes()),
            failure: failure.map(str::to_owned),
            at: "then".to_owned(),
        }
    }

    #[test]
    fn the_newest_event_and_the_newest_success_are_known_again() {
        let temp = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::from_path_buf(temp.path().to_owned()).unwrap();
        let mut history = History::read(&root).unwrap();
        history.append(entry("p/a", "1", None)).unwrap();
        history.append(entry("p/a", "2", Some("exited with code 1"))).unwrap();
        let again = History::read(&root).unwrap();
        let latest = again.latest("p/a").unwrap();
        assert_eq!(latest.entry, entry("p/a", "2", Some("exited with code 1")));
        assert_eq!(latest.succeeded, Some(Digest::of(b"1")));
    }

    #[test]
    fn a_long_journal_is_rewritten_and_says_the_same() {
        let temp = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::from_path_buf(temp.path().to_owned()).unwrap();
        let mut history = History::read(&root).unwrap();
        for round in 0..COMPACT_MIN {
            history.append(entry("p/a", &round.to_string(), None)).unwrap();
        }
        history.append(entry("p/a", "bad", Some("x"))).unwrap();
        let before = history.latest("p/a").cloned();
        history.compact().unwrap();
        let mut again = History::read(&root).unwrap();
        assert_eq!((again.lines, again.latest("p/a").cloned()), (2, before));
        again.append(entry("p/a", "new", None)).unwrap();
        assert_eq!(History::read(&root).unwrap().lines, 3);
    }
}
