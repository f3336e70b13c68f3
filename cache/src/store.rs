//! The store as a whole: blobs and records together, so that a record is there only if its blobs are.
//!
//! **Publishing.** An action's blobs and its record are written to temps and fsynced, all at once; then the blobs are
//! renamed into place, then the record, then the record's directory is fsynced. So no name is made before the bytes of
//! all files it leads to are on the disk, and the record's name comes last.
//! After a kill -9 at any instant the record is there, whole, with all its blobs, or it is not there; temps and blobs
//! that no record names are left for gc. After a loss of power the same holds where the file system keeps renames in order
//! (ext4, XFS), and the last fsync makes all of them last; where it does not, a record may outlive a blob's
//! name, which the lookup finds and calls a miss. Never is a blob's name there without its bytes.
//!
//! The cost is that of about two journal commits an action, however many outputs it has: fsyncs that wait at the same
//! time share a commit. One fsync after the other took one commit each, and one `syncfs` writes out everybody
//! else's dirty pages too; both were slower (`benches/store.rs`).
//!
//! **Several processes** may publish and look up at once, the same action included: every file is renamed into place
//! whole, and two publishers of one name bring the same bytes or, for records, equally good ones. Only garbage collection
//! must be alone, and takes the [`Lock`] to prove it; a run should hold it too, so that nothing is collected under it.

use std::collections::BTreeMap;
use std::fmt;

use camino::{Utf8Path, Utf8PathBuf};

use crate::action_cache::{ActionCache, ActionRecord, Found, Run};
use crate::cas::{Blob, Cas, Check, Staged};
use crate::digest::Digest;
use crate::durable;
use crate::error::Result;
use crate::lock::Lock;
use crate::manifest::Manifest;
use crate::stamps::FileDigests;

/// A store in a directory, usually `.chariot` of a project.
#[derive(Debug)]
pub struct Store {
    root: Utf8PathBuf,
    cas: Cas,
    actions: ActionCache,
    files: FileDigests,
}

/// Whether an action's results are at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// They are, every blob whole.
    Hit(Box<ActionRecord>),
    /// They are not.
    Miss(Miss),
}

/// Why there is no hit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Miss {
    /// The action never ended well here, or its record was collected.
    NoRecord,
    /// There is a record that cannot be used.
    UnreadableRecord(String),
    /// A blob of the record is gone.
    MissingBlob {
        /// The output or log.
        name: Utf8PathBuf,
    },
    /// A blob of the record was damaged.
    DamagedBlob {
        /// The output or log.
        name: Utf8PathBuf,
        /// Where its bytes lie now.
        quarantined: Utf8PathBuf,
    },
}

impl Store {
    /// Opens a store, making its directories if need be. Its parent directory is the root of [`Store::files`].
    pub fn open(root: &Utf8Path) -> Result<Self> {
        let root = camino::absolute_utf8(root)?;
        let (cas, actions) = (Cas::open(&root)?, ActionCache::open(&root)?);
        let files = FileDigests::load(&root.join("index/files"), durable::parent(&root));
        Ok(Self { root, cas, actions, files })
    }

    /// The blobs.
    pub fn cas(&self) -> &Cas {
        &self.cas
    }

    /// The records.
    pub fn actions(&self) -> &ActionCache {
        &self.actions
    }

    /// Digests of files outside the store: inputs, tools, what lies in `out/`.
    pub fn files(&self) -> &FileDigests {
        &self.files
    }

    /// The store's directory, absolute.
    pub fn root(&self) -> &Utf8Path {
        &self.root
    }

    /// Takes the store's lock, or fails with its holder's process id.
    pub fn lock(&self) -> Result<Lock> {
        Lock::try_acquire(&self.root.join("lock"))
    }

    /// Looks for an action's results; a hit's blobs are all whole. Damaged blobs are moved aside.
    pub fn lookup(&self, action: &Digest) -> Result<Lookup> {
        let record = match self.actions.get(action)? {
            Found::Record(record) => record,
            Found::Nothing => return Ok(Lookup::Miss(Miss::NoRecord)),
            Found::Unreadable(reason) => return Ok(Lookup::Miss(Miss::UnreadableRecord(reason))),
        };
        for (name, blob) in record.blobs() {
            let name = name.to_owned();
            match self.cas.check(&blob.digest)? {
                Check::Whole => {}
                Check::Missing => return Ok(Lookup::Miss(Miss::MissingBlob { name })),
                Check::Damaged(quarantined) => {
                    return Ok(Lookup::Miss(Miss::DamagedBlob { name, quarantined }));
                }
            }
        }
        Ok(Lookup::Hit(record))
    }

    /// Stores what an action made and publishes its record: whole or not at all.
    /// `outputs` and `logs` are pairs of name and file; the key is the manifest's digest.
    pub fn publish(
        &self,
        manifest: &Manifest,
        outputs: &[(Utf8PathBuf, Utf8PathBuf)],
        logs: &[(Utf8PathBuf, Utf8PathBuf)],
        run: &Run,
    ) -> Result<ActionRecord> {
        let paths: Vec<_> = outputs.iter().chain(logs).map(|(_, path)| path.as_path()).collect();
        let staged = self.cas.stage_files(&paths)?;
        let blobs: Vec<_> = staged.iter().map(|s| s.blob).collect();
        let (output_blobs, log_blobs) = blobs.split_at(outputs.len());
        let named = |files: &[(Utf8PathBuf, _)], blobs: &[Blob]| -> BTreeMap<_, _> {
            files.iter().map(|(name, _)| name.clone()).zip(blobs.iter().copied()).collect()
        };
        let (outputs, logs) = (named(outputs, output_blobs), named(logs, log_blobs));
        let record = ActionRecord { manifest: manifest.clone(), outputs, logs, run: run.clone() };
        self.commit(staged, &record)?;
        Ok(record)
    }

    /// Publishes what is already stored under a second key, for which it is as good.
    pub fn publish_also(&self, manifest: &Manifest, record: &ActionRecord) -> Result<ActionRecord> {
        let record = ActionRecord { manifest: manifest.clone(), ..record.clone() };
        self.commit(Vec::new(), &record)?;
        Ok(record)
    }

    /// Bytes to the disk, then names: blobs first, the record last.
    fn commit(&self, blobs: Vec<Staged>, record: &ActionRecord) -> Result<()> {
        let staged = self.actions.stage(record)?;
        let unsynced: Vec<_> = blobs.iter().filter_map(Staged::unsynced).chain([staged.unsynced()]).collect();
        durable::sync_files(&unsynced)?;
        self.cas.place(blobs)?;
        self.actions.place(staged)
    }

    /// Writes a blob to `dest`, read-only (see [`Cas::materialise`]); its digest is then known to [`Store::files`].
    pub fn materialise(&self, digest: &Digest, dest: &Utf8Path) -> Result<()> {
        self.cas.materialise(digest, dest)?;
        self.files.vouch(dest, *digest)?;
        Ok(())
    }

    /// Writes what was learnt of files' stats; without it the next process hashes them again. Call it when a run ends.
    pub fn save(&self) -> Result<()> {
        self.cas.index().save(&self.root.join("index/blobs"))?;
        self.files.save(&self.root.join("index/files"))?;
        Ok(())
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRecord => f.write_str("never run"),
            Self::UnreadableRecord(reason) => write!(f, "its record cannot be used: {reason}"),
            Self::MissingBlob { name } => write!(f, "its {name} is no longer in the store"),
            Self::DamagedBlob { name, quarantined } => {
                write!(f, "its {name} was damaged; moved aside to {quarantined}")
            }
        }
    }
}
