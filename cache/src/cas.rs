//! Content-addressed blobs: files named by the digest of their bytes. Knows nothing of actions.
//!
//! **Put.** Bytes are hashed as they are copied into `tmp/`, so a blob's name is the digest of what the store wrote,
//! whatever happened to the source meanwhile. Then fsync, rename to `cas/ab/cdef...`, fsync of the directory. The blobs
//! of one call are staged first and synced together.
//!
//! **Read.** Every byte that leaves the store is hashed on the way; a blob that fails is moved to `quarantine/`.
//! Whether a blob is still whole without reading it out ([`Cas::check`]) is answered from its stat where that is the one
//! it had when it was last hashed (see `stamps`), and by hashing otherwise.
//!
//! **Reflink, copy, hard link.** A reflink shares bytes and no inode: always right, where the file system has it. A hard
//! link shares the inode: whoever writes to the link, as root or after a chmod, writes into the store. The damage would
//! be found (the times move) but the blob would be lost. So files below [`LINK_MIN_BYTES`] are copied, which costs less
//! than running an action again, and only larger ones (weights, of which no second copy may fit) are linked, both
//! into the store and out of it; a source linked into the store turns read-only. A large blob that is
//! materialised is checked by stat, not hashed again.
//!
//! Blobs are read-only and their mtime is set back, so that any later write shows in it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use tempfile::TempPath;

use crate::digest::Digest;
use crate::durable::{self, named};
use crate::error::{Error, Result};
use crate::stamps::FileDigests;

/// From this size on a file is hard-linked rather than copied where it cannot be reflinked: 64 MiB.
pub const LINK_MIN_BYTES: u64 = 64 << 20;

/// A blob's name and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blob {
    /// The digest of its bytes.
    pub digest: Digest,
    /// How many.
    pub size_bytes: u64,
}

/// What a look at a blob found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// There, and the bytes it is named after.
    Whole,
    /// Not there.
    Missing,
    /// It was there with other bytes; now it is in quarantine, at this path.
    Damaged(Utf8PathBuf),
}

/// The blobs of a store.
#[derive(Debug)]
pub struct Cas {
    root: Utf8PathBuf,
    index: FileDigests,
}

/// A blob that is not in its place yet.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) blob: Blob,
    /// The file to be put there; `None`: the store has it already.
    temp: Option<(File, TempPath)>,
}

impl Staged {
    fn new(blob: Blob, temp: (File, TempPath)) -> io::Result<Self> {
        durable::seal_times(&temp.0)?;
        Ok(Self { blob, temp: Some(temp) })
    }

    /// The file whose bytes may not have reached the disk.
    pub(crate) fn unsynced(&self) -> Option<&File> {
        self.temp.as_ref().map(|(file, _)| file)
    }
}

impl Cas {
    pub(crate) fn open(root: &Utf8Path) -> Result<Self> {
        for dir in ["cas", "tmp", "quarantine", "index"] {
            fs_err::create_dir_all(root.join(dir))?;
        }
        let index = FileDigests::load(&root.join("index/blobs"), root);
        Ok(Self { root: root.to_owned(), index })
    }

    /// Stores some bytes, durably.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Blob> {
        let blob = Blob { digest: Digest::of(bytes), size_bytes: bytes.len() as u64 };
        if self.check(&blob.digest)? == Check::Whole {
            return Ok(blob);
        }
        let mut temp = durable::temp_in(&self.tmp())?;
        temp.write_all(bytes)?;
        self.commit(vec![Staged::new(blob, temp.into_parts())?])?;
        Ok(blob)
    }

    /// Stores a file's bytes, durably.
    pub fn put_file(&self, path: &Utf8Path) -> Result<Blob> {
        Ok(self.put_files(&[path])?[0])
    }

    /// Stores several files, durably; cheaper than one by one. The blobs come in the order of the paths.
    pub fn put_files(&self, paths: &[&Utf8Path]) -> Result<Vec<Blob>> {
        let staged = self.stage_files(paths)?;
        let blobs = staged.iter().map(|s| s.blob).collect();
        self.commit(staged)?;
        Ok(blobs)
    }

    /// Copies, clones or links files into `tmp/` and tells their digests.
    pub(crate) fn stage_files(&self, paths: &[&Utf8Path]) -> Result<Vec<Staged>> {
        paths.iter().map(|path| self.stage(path)).collect()
    }

    /// A blob's bytes, verified.
    pub fn get(&self, digest: &Digest) -> Result<Vec<u8>> {
        let bytes = match fs_err::read(self.path(digest)) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Error::Missing { digest: *digest }),
            Err(e) => return Err(e.into()),
        };
        if Digest::of(&bytes) != *digest {
            return Err(Error::Damaged { digest: *digest, quarantined: self.quarantine(digest)? });
        }
        Ok(bytes)
    }

    /// Whether a blob is there and whole: one stat if it was hashed before and did not change since.
    pub fn check(&self, digest: &Digest) -> Result<Check> {
        match self.index.digest(&blob_path(digest)) {
            Ok(found) if found == *digest => Ok(Check::Whole),
            Ok(_) => Ok(Check::Damaged(self.quarantine(digest)?)),
            Err(Error::Io(e)) if e.kind() == io::ErrorKind::NotFound => Ok(Check::Missing),
            Err(e) => Err(e),
        }
    }

    /// As [`Cas::check`], but hashes the blob whatever its stat says.
    pub fn rehash(&self, digest: &Digest) -> Result<Check> {
        self.index.forget(&blob_path(digest));
        self.check(digest)
    }

    /// The digests of all blobs, in order.
    pub fn list(&self) -> Result<Vec<Digest>> {
        Ok(durable::list_sharded(&self.root.join("cas"))?)
    }

    /// Writes a blob to `dest`, read-only, replacing what is there at once; makes the directories on the way.
    pub fn materialise(&self, digest: &Digest, dest: &Utf8Path) -> Result<()> {
        let source = match fs_err::File::open(self.path(digest)) {
            Ok(source) => source,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Error::Missing { digest: *digest }),
            Err(e) => return Err(e.into()),
        };
        let dir = durable::parent(dest);
        fs_err::create_dir_all(dir)?;
        if source.metadata()?.len() >= LINK_MIN_BYTES {
            return self.materialise_large(digest, dest);
        }
        let temp = durable::temp_in(dir)?;
        let found = clone_or_copy(source.file(), temp.as_file())?.digest;
        if found != *digest {
            return Err(Error::Damaged { digest: *digest, quarantined: self.quarantine(digest)? });
        }
        durable::seal_times(temp.as_file())?;
        temp.persist(dest).map_err(|e| named(e.error, "replace", dest))?;
        Ok(())
    }

    fn materialise_large(&self, digest: &Digest, dest: &Utf8Path) -> Result<()> {
        match self.check(digest)? {
            Check::Whole => {}
            Check::Missing => return Err(Error::Missing { digest: *digest }),
            Check::Damaged(quarantined) => return Err(Error::Damaged { digest: *digest, quarantined }),
        }
        let source = self.path(digest);
        let temp = match reflink_into(&source, durable::parent(dest))
            .or_else(|_| link_into(&source, durable::parent(dest)))
        {
            Ok(temp) => temp,
            Err(_) => {
                let temp = durable::temp_in(durable::parent(dest))?;
                copy_hashing(fs_err::File::open(&source)?.file(), temp.as_file())?;
                durable::seal_times(temp.as_file())?;
                temp.into_temp_path()
            }
        };
        self.index.vouch_linked(&blob_path(digest))?;
        // Renaming a link over another link of the same file does nothing and would leave the temp behind.
        match fs_err::remove_file(dest) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
            _ => temp.persist(dest).map_err(|e| named(e.error, "replace", dest))?,
        }
        Ok(())
    }

    fn stage(&self, path: &Utf8Path) -> Result<Staged> {
        let source = fs_err::File::open(path)?;
        let metadata = source.metadata()?;
        if !metadata.is_file() {
            let found = if metadata.is_dir() { "a directory" } else { "no regular file" };
            return Err(Error::NotAFile { path: path.to_owned(), found });
        }
        let (blob, temp) = match self.link_large(path, metadata.len()) {
            Some(temp) => {
                let file = fs_err::File::open(&temp)?;
                let digest = Digest::of_reader(&file)?;
                (Blob { digest, size_bytes: file.metadata()?.len() }, (file.into_file(), temp))
            }
            None => {
                let temp = durable::temp_in(&self.tmp())?;
                (clone_or_copy(source.file(), temp.as_file())?, temp.into_parts())
            }
        };
        match self.check(&blob.digest)? {
            Check::Whole => Ok(Staged { blob, temp: None }),
            Check::Missing | Check::Damaged(_) => Ok(Staged::new(blob, temp)?),
        }
    }

    fn link_large(&self, path: &Utf8Path, size: u64) -> Option<TempPath> {
        if size < LINK_MIN_BYTES {
            return None;
        }
        reflink_into(path, &self.tmp()).or_else(|_| link_into(path, &self.tmp())).ok()
    }

    /// Makes staged blobs durable and puts them in place.
    fn commit(&self, staged: Vec<Staged>) -> Result<()> {
        durable::sync_files(&staged.iter().filter_map(Staged::unsynced).collect::<Vec<_>>())?;
        self.place(staged)?.iter().try_for_each(|dir| durable::sync_dir(dir))?;
        Ok(())
    }

    /// Gives staged blobs, whose bytes must be on the disk by now, their names; returns the directories they are in.
    pub(crate) fn place(&self, staged: Vec<Staged>) -> Result<BTreeSet<Utf8PathBuf>> {
        let mut dirs = BTreeSet::new();
        for Staged { blob, temp } in staged {
            let Some((_, temp)) = temp else { continue };
            let dest = self.path(&blob.digest);
            let dir = durable::parent(&dest).to_owned();
            if !dir.exists() {
                fs_err::create_dir_all(&dir)?;
                dirs.insert(self.root.join("cas"));
            }
            temp.persist(&dest).map_err(|e| named(e.error, "replace", &dest))?;
            self.index.vouch(&dest, blob.digest)?;
            dirs.insert(dir);
        }
        Ok(dirs)
    }

    /// Moves a blob out of the way, for people to look at.
    pub(crate) fn quarantine(&self, digest: &Digest) -> Result<Utf8PathBuf> {
        let aside = self.root.join("quarantine").join(digest.to_string());
        self.index.forget(&blob_path(digest));
        match fs_err::rename(self.path(digest), &aside) {
            // Another process found it first.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(aside),
            Err(e) => Err(e.into()),
            Ok(()) => Ok(aside),
        }
    }

    /// Where a blob lies.
    pub(crate) fn path(&self, digest: &Digest) -> Utf8PathBuf {
        self.root.join(blob_path(digest))
    }

    /// What is known of the blobs' stats.
    pub(crate) fn index(&self) -> &FileDigests {
        &self.index
    }

    fn tmp(&self) -> Utf8PathBuf {
        self.root.join("tmp")
    }
}

fn blob_path(digest: &Digest) -> Utf8PathBuf {
    let hex = digest.to_string();
    format!("cas/{}/{}", &hex[..2], &hex[2..]).into()
}

/// Fills `to` with the bytes of `from`, sharing them where the file system can, and hashes what `to` then holds.
fn clone_or_copy(from: &File, to: &File) -> io::Result<Blob> {
    if reflink_copy::reflink_file(from, to).is_err() {
        to.set_len(0)?;
        return copy_hashing(from, to);
    }
    let mut clone = to;
    Ok(Blob { digest: Digest::of_reader(&mut clone)?, size_bytes: to.metadata()?.len() })
}

fn copy_hashing(mut from: &File, mut to: &File) -> io::Result<Blob> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    let mut size_bytes = 0;
    loop {
        let len = match from.read(&mut buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if len == 0 {
            return Ok(Blob { digest: hasher.finalize().into(), size_bytes });
        }
        hasher.update(&buffer[..len]);
        to.write_all(&buffer[..len])?;
        size_bytes += len as u64;
    }
}

fn reflink_into(path: &Utf8Path, dir: &Utf8Path) -> io::Result<TempPath> {
    let temp = durable::temp_in(dir)?;
    reflink_copy::reflink_file(fs_err::File::open(path)?.file(), temp.as_file())?;
    durable::seal_times(temp.as_file())?;
    Ok(temp.into_temp_path())
}

fn link_into(path: &Utf8Path, dir: &Utf8Path) -> io::Result<TempPath> {
    let linked =
        tempfile::Builder::new().prefix(".tmp-").make_in(dir, |temp| fs_err::hard_link(path, temp))?;
    Ok(linked.into_temp_path())
}
