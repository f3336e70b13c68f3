//! A store in a directory of its own, and actions whose outputs are a function of their number.

#![allow(dead_code, reason = "each test binary uses a part")]

use camino::{Utf8Path, Utf8PathBuf};
use chariot_cache::{ActionRecord, Digest, Lookup, Manifest, Run, Store};

/// A directory that goes with its test.
pub(crate) struct Scratch {
    _dir: tempfile::TempDir,
    /// Where it is.
    pub(crate) root: Utf8PathBuf,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        Self { _dir: dir, root }
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(&self.root.join("store")).unwrap()
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> Utf8PathBuf {
        let hex = digest.to_string();
        self.root.join(format!("store/cas/{}/{}", &hex[..2], &hex[2..]))
    }
}

/// A small generator; the same numbers for the same seed.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }
}

pub(crate) fn manifest(number: u64) -> Manifest {
    let mut manifest = Manifest::new();
    manifest.list("argv", ["make".to_owned(), number.to_string()]);
    manifest
}

/// What action `number` makes: a file of its own, one that it shares with others, an empty one, and a large one.
pub(crate) fn contents(number: u64) -> Vec<(Utf8PathBuf, Vec<u8>)> {
    let large = vec![number as u8; 20_000 + Rng(number).below(50_000) as usize];
    vec![
        ("own.json".into(), format!("{{\"number\": {number}}}").into_bytes()),
        ("shared".into(), format!("shared by every third: {}", number % 3).into_bytes()),
        ("empty".into(), Vec::new()),
        ("deep/records".into(), large),
    ]
}

/// Runs action `number` in `dir` and publishes it.
pub(crate) fn publish(store: &Store, number: u64, dir: &Utf8Path) -> ActionRecord {
    let mut outputs = Vec::new();
    for (name, content) in contents(number) {
        let path = dir.join(&name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(&path, content).unwrap();
        outputs.push((name, path));
    }
    let log = dir.join("log");
    fs_err::write(&log, format!("making {number}\n")).unwrap();
    let run = Run {
        tool: "make".into(),
        exit_code: 0,
        wall_ns: number,
        finished_at: "2026-01-02T03:04:05Z".into(),
        host: "here".into(),
    };
    store.publish(&manifest(number), &outputs, &[("stderr".into(), log)], &run).unwrap()
}

/// The number an action was made from.
pub(crate) fn number_of(record: &ActionRecord) -> u64 {
    record.manifest.get("argv", "0001").unwrap().parse().unwrap()
}

/// Checks that all a record promises is there, to the byte.
pub(crate) fn assert_whole(store: &Store, record: &ActionRecord) {
    let number = number_of(record);
    let expected = contents(number);
    assert_eq!(record.outputs.len(), expected.len());
    for (name, content) in expected {
        let blob = record.outputs[&name];
        assert_eq!(blob.size_bytes, content.len() as u64);
        assert!(store.cas().get(&blob.digest).unwrap() == content, "action {number}: {name}");
    }
    let log = store.cas().get(&record.logs[Utf8Path::new("stderr")].digest).unwrap();
    assert_eq!(log, format!("making {number}\n").into_bytes());
}

/// Whether action `number` is a hit; a hit is checked to the byte.
pub(crate) fn is_hit(store: &Store, number: u64) -> bool {
    match store.lookup(&manifest(number).digest()).unwrap() {
        Lookup::Hit(record) => {
            assert_eq!(number_of(&record), number);
            assert_whole(store, &record);
            true
        }
        Lookup::Miss(_) => false,
    }
}

/// All files below a directory, in order.
pub(crate) fn files_below(dir: &Utf8Path) -> Vec<Utf8PathBuf> {
    let mut files = Vec::new();
    for entry in dir.read_dir_utf8().unwrap() {
        let path = entry.unwrap().into_path();
        match path.is_dir() {
            true => files.extend(files_below(&path)),
            false => files.push(path),
        }
    }
    files.sort();
    files
}

/// Overwrites a file in place, read-only or not, as a stray program of the same user could.
pub(crate) fn damage(path: &Utf8Path, change: impl FnOnce(&mut Vec<u8>)) {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs_err::metadata(path).unwrap().permissions();
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut bytes = fs_err::read(path).unwrap();
    change(&mut bytes);
    fs_err::write(path, bytes).unwrap();
    fs_err::set_permissions(path, mode).unwrap();
}
