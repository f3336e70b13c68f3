//! Removing what no one needs, and looking for damage. Knows nothing of why an action is needed: the caller names the roots.

use std::collections::BTreeSet;
use std::time::SystemTime;

use camino::{Utf8Path, Utf8PathBuf};

use crate::action_cache::{ActionRecord, Found};
use crate::cas::Check;
use crate::digest::Digest;
use crate::error::Result;
use crate::lock::Lock;
use crate::store::Store;

/// What garbage collection must keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// Actions whose records, and these records' blobs, stay.
    pub actions: BTreeSet<Digest>,
    /// Blobs that stay without a record.
    pub blobs: BTreeSet<Digest>,
    /// Records written at this time or later stay too.
    pub keep_since: Option<SystemTime>,
}

/// What garbage collection did, or would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Collected {
    /// Records that stay.
    pub actions_kept: usize,
    /// Records removed.
    pub actions_removed: usize,
    /// Blobs removed.
    pub blobs_removed: usize,
    /// Bytes of blobs, temps and quarantined files removed.
    pub bytes_freed: u64,
}

/// What a look at everything found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verified {
    /// Blobs hashed.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Records read.
    pub actions: usize,
    /// Where the damaged blobs and unreadable records were moved to.
    pub quarantined: Vec<Utf8PathBuf>,
    /// Records that name a blob which is not there; they answer nothing until the action runs again.
    pub incomplete: Vec<Digest>,
}

impl Store {
    /// Removes records that are no roots, blobs that no remaining record names, temps and quarantined files.
    /// With `dry_run` nothing is removed and the answer says what would be. Records go before blobs, so that a crash
    /// in between leaves no record without its blobs.
    pub fn collect(&self, _alone: &Lock, roots: &Roots, dry_run: bool) -> Result<Collected> {
        let mut collected = Collected::default();
        let (mut live, mut doomed) = (roots.blobs.clone(), Vec::new());
        for action in self.actions().list()? {
            match self.kept_record(&action, roots)? {
                Some(record) => live.extend(record.blobs().map(|(_, blob)| blob.digest)),
                None => doomed.push(self.actions().path(&action)),
            }
            collected.actions_kept += 1;
        }
        collected.actions_removed = doomed.len();
        collected.actions_kept -= doomed.len();
        let blobs = self.cas().list()?;
        let dead: Vec<_> = blobs.iter().filter(|d| !live.contains(d)).map(|d| self.cas().path(d)).collect();
        collected.blobs_removed = dead.len();
        doomed.extend(dead);
        for dir in ["tmp", "quarantine"] {
            doomed.extend(files_in(&self.root().join(dir))?);
        }
        for path in doomed {
            collected.bytes_freed += fs_err::metadata(&path)?.len();
            if !dry_run {
                fs_err::remove_file(&path)?;
            }
        }
        self.cas().index().prune();
        self.files().prune();
        self.save()?;
        Ok(collected)
    }

    /// The record of an action, if it is whole and stays.
    fn kept_record(&self, action: &Digest, roots: &Roots) -> Result<Option<ActionRecord>> {
        let Found::Record(record) = self.actions().get(action)? else { return Ok(None) };
        let written = fs_err::metadata(self.actions().path(action))?.modified()?;
        let is_recent = roots.keep_since.is_some_and(|since| written >= since);
        Ok((is_recent || roots.actions.contains(action)).then_some(*record))
    }

    /// Hashes every blob and reads every record; what is damaged is moved to quarantine.
    pub fn verify(&self, _alone: &Lock) -> Result<Verified> {
        let mut verified = Verified::default();
        for digest in self.cas().list()? {
            verified.blobs += 1;
            verified.bytes += fs_err::metadata(self.cas().path(&digest))?.len();
            if let Check::Damaged(aside) = self.cas().rehash(&digest)? {
                verified.quarantined.push(aside);
            }
        }
        for action in self.actions().list()? {
            verified.actions += 1;
            match self.actions().get(&action)? {
                Found::Record(record) if self.is_complete(&record)? => {}
                Found::Record(_) => verified.incomplete.push(action),
                Found::Nothing | Found::Unreadable(_) => {
                    let aside = self.root().join(format!("quarantine/action-{action}"));
                    fs_err::rename(self.actions().path(&action), &aside)?;
                    verified.quarantined.push(aside);
                }
            }
        }
        self.save()?;
        Ok(verified)
    }

    fn is_complete(&self, record: &ActionRecord) -> Result<bool> {
        for (_, blob) in record.blobs() {
            if self.cas().check(&blob.digest)? != Check::Whole {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn files_in(dir: &Utf8Path) -> Result<Vec<Utf8PathBuf>> {
    let mut files = Vec::new();
    for entry in dir.read_dir_utf8()? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push(entry.into_path());
        }
    }
    files.sort_unstable();
    Ok(files)
}

#[cfg(test)]
mod tests;
