//! What an action made: action digest -> record. Knows nothing of how blobs are stored.
//!
//! A record is a sealed file, `actions/ab/cdef...`: one header line with the digest of the rest, then JSON. It holds the
//! manifest whose digest is its own name, so that a record under a wrong name is as visible as a damaged one. Whatever
//! cannot be read as this version's whole record is a miss.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::cas::Blob;
use crate::digest::Digest;
use crate::durable::{self, named};
use crate::error::Result;
use crate::manifest::Manifest;
use crate::sealed::Kind;

const KIND: Kind = Kind { name: "action", version: 1 };

/// How a run of an action went; the caller knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// The executable, as people know it.
    pub tool: String,
    /// Exit code of the process.
    pub exit_code: i32,
    /// From start to exit, in nanoseconds.
    pub wall_ns: u64,
    /// When it ended, as people read it.
    pub finished_at: String,
    /// The machine it ran on.
    pub host: String,
}

/// An action that was run: what from, how, and what it made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActionRecord {
    /// What its key was made of; the key is this manifest's digest.
    pub manifest: Manifest,
    /// Declared output -> its bytes.
    pub outputs: BTreeMap<Utf8PathBuf, Blob>,
    /// Name of a log -> its bytes.
    pub logs: BTreeMap<Utf8PathBuf, Blob>,
    /// How it went.
    pub run: Run,
}

/// What a look for a record found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A whole record of this version, under its own name.
    Record(Box<ActionRecord>),
    /// Nothing.
    Nothing,
    /// A file that is no such record, and why.
    Unreadable(String),
}

/// The records of a store.
#[derive(Debug)]
pub struct ActionCache {
    root: Utf8PathBuf,
    /// Where files are written before they get their names.
    tmp: Utf8PathBuf,
}

/// A record that has no name yet.
#[derive(Debug)]
pub(crate) struct StagedRecord {
    temp: NamedTempFile,
    path: Utf8PathBuf,
}

impl StagedRecord {
    /// The file whose bytes may not have reached the disk.
    pub(crate) fn unsynced(&self) -> &File {
        self.temp.as_file()
    }
}

impl ActionRecord {
    /// The action's digest.
    pub fn action(&self) -> Digest {
        self.manifest.digest()
    }

    /// Every blob it needs, with the name it is known by.
    pub fn blobs(&self) -> impl Iterator<Item = (&Utf8Path, &Blob)> {
        self.outputs.iter().chain(&self.logs).map(|(name, blob)| (name.as_path(), blob))
    }
}

impl ActionCache {
    pub(crate) fn open(root: &Utf8Path) -> Result<Self> {
        let (root, tmp) = (root.join("actions"), root.join("tmp"));
        fs_err::create_dir_all(&root)?;
        Ok(Self { root, tmp })
    }

    /// Looks for an action's record; its blobs may be gone all the same (see `Store::lookup`).
    pub fn get(&self, action: &Digest) -> Result<Found> {
        let file = match fs_err::read(self.path(action)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(e) => return Err(e.into()),
        };
        Ok(match decode(&file, action) {
            Ok(record) => Found::Record(Box::new(record)),
            Err(reason) => Found::Unreadable(reason),
        })
    }

    /// Writes a record's bytes, under no name yet.
    pub(crate) fn stage(&self, record: &ActionRecord) -> Result<StagedRecord> {
        let path = self.path(&record.action());
        fs_err::create_dir_all(durable::parent(&path))?;
        let mut temp = durable::temp_in(&self.tmp)?;
        let json = serde_json::to_vec(record).map_err(io::Error::other)?;
        temp.write_all(&KIND.seal(&json))?;
        Ok(StagedRecord { temp, path })
    }

    /// Gives a record, whose bytes must be on the disk by now, its name: it is published when this returns.
    pub(crate) fn place(&self, staged: StagedRecord) -> Result<()> {
        let StagedRecord { temp, path } = staged;
        temp.persist(&path).map_err(|e| named(e.error, "replace", &path))?;
        Ok(durable::sync_dir(durable::parent(&path))?)
    }

    /// The action digests of all records, in order.
    pub fn list(&self) -> Result<Vec<Digest>> {
        Ok(durable::list_sharded(&self.root)?)
    }

    pub(crate) fn path(&self, action: &Digest) -> Utf8PathBuf {
        let hex = action.to_string();
        self.root.join(&hex[..2]).join(&hex[2..])
    }
}

fn decode(file: &[u8], action: &Digest) -> std::result::Result<ActionRecord, String> {
    let json = KIND.open(file)?;
    let record: ActionRecord = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    match record.action() == *action {
        true => Ok(record),
        false => Err(format!("it is the record of another action, {}", record.action().short())),
    }
}
