//! Digests of files, remembered by stat: a file whose size, times and inode are what they were when it was hashed is
//! not hashed again. Knows nothing of blobs or actions.
//!
//! The one danger is a write within the same tick of the file system's clock as the hashing: the stat stays as it
//! was and the content does not. So an entry is kept only if the file was already older than any tick (see [`SETTLED`])
//! when it was hashed; a younger file is hashed again next time. Files that Chariot writes itself are set back in time
//! as they are written and are [vouched for](FileDigests::vouch) at once.
//!
//! What a stat cannot show (a disk that changes bytes by itself, a writer that puts size, mtime *and* ctime back) is
//! found by `verify`, which hashes everything.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

use camino::{Utf8Path, Utf8PathBuf};

use crate::digest::Digest;
use crate::durable::{self, write_atomic};
use crate::error::{Error, Result};
use crate::sealed::Kind;

const KIND: Kind = Kind { name: "stamps", version: 1 };

/// A change this long ago is in another tick than one that happens now: twice the 10 ms of the slowest kernel clock.
const SETTLED_NS: i64 = 20_000_000;
/// The same for file systems that keep whole seconds (even ones, on FAT); told by a time without a fraction.
const SETTLED_COARSE_NS: i64 = 2_000_000_000;
/// How often a file that changes under our hands is read again before we give up.
const ATTEMPTS: u32 = 3;

/// What a file's content cannot change without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified_ns: i64,
    changed_ns: i64,
    inode: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    stamp: Stamp,
    digest: Digest,
}

#[derive(Debug, Default)]
struct Table {
    entries: BTreeMap<Utf8PathBuf, Entry>,
    changed: bool,
}

/// A cache of file digests. Reading a file's digest through it costs one stat when nothing changed.
#[derive(Debug)]
pub struct FileDigests {
    /// Paths are taken, and kept, relative to this.
    root: Utf8PathBuf,
    /// A lock because actions are keyed and published from several threads; held for look-ups, never while hashing.
    table: Mutex<Table>,
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> Self {
        let ns = |seconds: i64, fraction: i64| seconds.saturating_mul(1_000_000_000).saturating_add(fraction);
        Self {
            size: metadata.size(),
            modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        }
    }

    /// Whether a write at `now_ns` or later is sure to show.
    fn is_settled(&self, now_ns: i64) -> bool {
        [self.modified_ns, self.changed_ns].into_iter().all(|time| {
            let tick = if time % 1_000_000_000 == 0 { SETTLED_COARSE_NS } else { SETTLED_NS };
            time.saturating_add(tick) <= now_ns
        })
    }

    /// Equal but for the time of change, which a new hard link moves.
    fn is_same_content(&self, other: &Self) -> bool {
        Self { changed_ns: 0, ..*self } == Self { changed_ns: 0, ..*other }
    }
}

impl FileDigests {
    /// Reads what was saved at `index`; starts empty where that is missing, damaged or of another version.
    pub fn load(index: &Utf8Path, root: &Utf8Path) -> Self {
        let entries =
            fs_err::read(index).ok().and_then(|file| decode(KIND.open(&file).ok()?)).unwrap_or_default();
        Self { root: root.to_owned(), table: Mutex::new(Table { entries, changed: false }) }
    }

    /// The digest of a file; `path` is absolute or relative to the root.
    pub fn digest(&self, path: &Utf8Path) -> Result<Digest> {
        let full = self.root.join(path);
        let metadata = fs_err::metadata(&full)?;
        if let Some(entry) = self.table().entries.get(self.key(&full))
            && entry.stamp == Stamp::of(&metadata)
        {
            return Ok(entry.digest);
        }
        for _ in 0..ATTEMPTS {
            if let Some(entry) = self.hash(&full)? {
                return Ok(entry.digest);
            }
        }
        Err(Error::Unstable { path: full })
    }

    /// Hashes a file whatever is remembered of it; `None`: it changed meanwhile.
    fn hash(&self, full: &Utf8Path) -> Result<Option<Entry>> {
        let now_ns = now_ns();
        let file = fs_err::File::open(full)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            let found = if metadata.is_dir() { "a directory" } else { "no regular file" };
            return Err(Error::NotAFile { path: full.to_owned(), found });
        }
        let stamp = Stamp::of(&metadata);
        let digest = Digest::of_reader(&file)?;
        if Stamp::of(&file.metadata()?) != stamp {
            return Ok(None);
        }
        let entry = Entry { stamp, digest };
        match stamp.is_settled(now_ns) {
            true => self.remember(full, entry),
            false => self.forget(full),
        }
        Ok(Some(entry))
    }

    /// Remembers the digest of a file that we wrote, and set back in time, ourselves.
    pub(crate) fn vouch(&self, path: &Utf8Path, digest: Digest) -> io::Result<()> {
        let full = self.root.join(path);
        let stamp = Stamp::of(&fs_err::metadata(&full)?);
        self.remember(&full, Entry { stamp, digest });
        Ok(())
    }

    /// Goes on trusting a file that got a further hard link since it was last checked, if nothing else changed.
    pub(crate) fn vouch_linked(&self, path: &Utf8Path) -> io::Result<()> {
        let full = self.root.join(path);
        let stamp = Stamp::of(&fs_err::metadata(&full)?);
        let known = self.table().entries.get(self.key(&full)).copied();
        if let Some(entry) = known
            && entry.stamp.is_same_content(&stamp)
        {
            self.remember(&full, Entry { stamp, ..entry });
        }
        Ok(())
    }

    /// Forgets what is known of a file.
    pub fn forget(&self, path: &Utf8Path) {
        let full = self.root.join(path);
        let mut table = self.table();
        table.changed |= table.entries.remove(self.key(&full)).is_some();
    }

    /// Forgets every file that is gone.
    pub fn prune(&self) {
        let root = &self.root;
        let mut table = self.table();
        let before = table.entries.len();
        table.entries.retain(|path, _| root.join(path).exists());
        table.changed |= table.entries.len() != before;
    }

    /// Writes the index, if anything changed since it was read.
    pub fn save(&self, index: &Utf8Path) -> io::Result<()> {
        let body = {
            let mut table = self.table();
            if !std::mem::take(&mut table.changed) {
                return Ok(());
            }
            encode(&table.entries)
        };
        write_atomic(index, &KIND.seal(&body))
    }

    fn remember(&self, full: &Utf8Path, entry: Entry) {
        let mut table = self.table();
        let before = table.entries.insert(self.key(full).to_owned(), entry);
        table.changed |= before != Some(entry);
    }

    fn key<'a>(&self, full: &'a Utf8Path) -> &'a Utf8Path {
        full.strip_prefix(&self.root).unwrap_or(full)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Every change of the table is one insertion or removal, so it is whole even if a thread died holding it.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now_ns() -> i64 {
    let since = durable::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Per entry: length of the path, path, digest, size, the two times, inode; integers little-endian.
fn encode(entries: &BTreeMap<Utf8PathBuf, Entry>) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * 160);
    for (path, Entry { stamp, digest }) in entries {
        out.extend_from_slice(&(path.as_str().len() as u64).to_le_bytes());
        out.extend_from_slice(path.as_str().as_bytes());
        out.extend_from_slice(digest.as_bytes());
        out.extend_from_slice(&stamp.size.to_le_bytes());
        out.extend_from_slice(&stamp.modified_ns.to_le_bytes());
        out.extend_from_slice(&stamp.changed_ns.to_le_bytes());
        out.extend_from_slice(&stamp.inode.to_le_bytes());
    }
    out
}

fn decode(mut body: &[u8]) -> Option<BTreeMap<Utf8PathBuf, Entry>> {
    let mut entries = Vec::new();
    while !body.is_empty() {
        let len = usize::try_from(u64::from_le_bytes(take(&mut body)?)).ok()?;
        let (path, rest) = body.split_at_checked(len)?;
        body = rest;
        let digest = Digest::from_bytes(take(&mut body)?);
        let stamp = Stamp {
            size: u64::from_le_bytes(take(&mut body)?),
            modified_ns: i64::from_le_bytes(take(&mut body)?),
            changed_ns: i64::from_le_bytes(take(&mut body)?),
            inode: u64::from_le_bytes(take(&mut body)?),
        };
        entries.push((Utf8PathBuf::from(std::str::from_utf8(path).ok()?), Entry { stamp, digest }));
    }
    Some(entries.into_iter().collect())
}

fn take<const N: usize>(body: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = body.split_first_chunk()?;
    *body = rest;
    Some(*head)
}

#[cfg(test)]
mod tests;
