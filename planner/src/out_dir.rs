//! `out/`: outputs laid out for people, read-only, only what changed. Knows nothing of actions.
//!
//! What was laid out is written down per pipeline, so that what no target makes any more can be taken away again and
//! nothing that somebody else put there ever is.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use chariot_cache::{Digest, Store, write_atomic};

/// The files of a pipeline in `out/`.
#[derive(Debug)]
pub struct OutDir<'a> {
    store: &'a Store,
    /// `out/`, absolute.
    root: Utf8PathBuf,
    /// Where it is written down what was laid out.
    list: Utf8PathBuf,
}

/// What was done to `out/`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Laid {
    /// Files written because they were missing, old or edited.
    pub written: usize,
    /// Files removed because no target makes them any more.
    pub removed: usize,
}

impl<'a> OutDir<'a> {
    /// The files of `pipeline` in `root`.
    pub fn new(store: &'a Store, root: &Utf8Path, pipeline: &str) -> Self {
        let list = store.root().join("out").join(format!("{pipeline}.json"));
        Self { store, root: root.to_owned(), list }
    }

    /// Lays out `files` (path in `out/` -> content). `possible` are all paths that the pipeline's targets can make: files
    /// laid out earlier that are not among them are removed.
    pub fn lay_out(
        &self,
        files: &BTreeMap<Utf8PathBuf, Digest>,
        possible: &BTreeSet<Utf8PathBuf>,
    ) -> chariot_cache::Result<Laid> {
        let before = self.listed()?;
        let mut laid = Laid::default();
        let listed: BTreeSet<Utf8PathBuf> =
            before.iter().filter(|path| possible.contains(*path)).chain(files.keys()).cloned().collect();
        // Written down before it is done, so that nothing is laid out that the list does not know.
        if !listed.is_subset(&before) {
            self.write_list(&before.union(&listed).cloned().collect())?;
        }
        for (path, digest) in files {
            if !self.is_there(path, digest) {
                self.store.materialise(digest, &self.root.join(path))?;
                laid.written += 1;
            }
        }
        for path in before.difference(&listed) {
            laid.removed += usize::from(self.remove(path)?);
        }
        if listed != before {
            self.write_list(&listed)?;
        }
        Ok(laid)
    }

    fn is_there(&self, path: &Utf8Path, digest: &Digest) -> bool {
        self.store.files().digest(&self.root.join(path)).is_ok_and(|found| found == *digest)
    }

    /// Removes a file and the directories that this empties.
    fn remove(&self, path: &Utf8Path) -> io::Result<bool> {
        match fs_err::remove_file(self.root.join(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        }
        for dir in path.ancestors().skip(1).filter(|dir| !dir.as_str().is_empty()) {
            if fs_err::remove_dir(self.root.join(dir)).is_err() {
                break;
            }
        }
        Ok(true)
    }

    /// Removes everything that was laid out for the pipeline.
    pub fn clean(&self) -> chariot_cache::Result<usize> {
        let mut removed = 0;
        for path in self.listed()? {
            removed += usize::from(self.remove(&path)?);
        }
        match fs_err::remove_file(&self.list) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(removed),
        }
    }

    fn listed(&self) -> io::Result<BTreeSet<Utf8PathBuf>> {
        match fs_err::read(&self.list) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(error) => Err(error),
        }
    }

    fn write_list(&self, paths: &BTreeSet<Utf8PathBuf>) -> io::Result<()> {
        if let Some(dir) = self.list.parent() {
            fs_err::create_dir_all(dir)?;
        }
        write_atomic(&self.list, &serde_json::to_vec(paths).map_err(io::Error::other)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        _temp: tempfile::TempDir,
        store: Store,
        root: Utf8PathBuf,
    }

    impl Fixture {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            let root = Utf8PathBuf::from_path_buf(temp.path().to_owned()).unwrap();
            Self { store: Store::open(&root.join(".chariot")).unwrap(), root, _temp: temp }
        }

        fn lay_out(&self, files: &[(&str, &str)], possible: &[&str]) -> Laid {
            let put = |text: &str| self.store.cas().put_bytes(text.as_bytes()).unwrap().digest;
            let files = files.iter().map(|(path, text)| (Utf8PathBuf::from(path), put(text))).collect();
            let possible = possible.iter().map(Utf8PathBuf::from).collect();
            let out = OutDir::new(&self.store, &self.root.join("out"), "p");
            out.lay_out(&files, &possible).unwrap()
        }

        fn text(&self, path: &str) -> String {
            fs_err::read_to_string(self.root.join("out").join(path)).unwrap_or_default()
        }
    }

    fn laid(written: usize, removed: usize) -> Laid {
        Laid { written, removed }
    }

    #[test]
    fn only_what_changed_is_written() {
        let fixture = Fixture::new();
        assert_eq!(fixture.lay_out(&[("p/a", "1"), ("p/b", "2")], &["p/a", "p/b"]), laid(2, 0));
        assert_eq!(fixture.lay_out(&[("p/a", "1"), ("p/b", "2")], &["p/a", "p/b"]), laid(0, 0));
        assert_eq!(fixture.lay_out(&[("p/a", "1"), ("p/b", "3")], &["p/a", "p/b"]), laid(1, 0));
        assert_eq!(fixture.text("p/b"), "3");
    }

    #[test]
    fn a_deleted_or_edited_file_is_restored() {
        let fixture = Fixture::new();
        fixture.lay_out(&[("p/a", "1"), ("p/b", "2")], &["p/a", "p/b"]);
        fs_err::remove_file(fixture.root.join("out/p/a")).unwrap();
        fs_err::remove_file(fixture.root.join("out/p/b")).unwrap();
        fs_err::write(fixture.root.join("out/p/b"), "edited").unwrap();
        assert_eq!(fixture.lay_out(&[("p/a", "1"), ("p/b", "2")], &["p/a", "p/b"]), laid(2, 0));
        assert_eq!((fixture.text("p/a"), fixture.text("p/b")), ("1".to_owned(), "2".to_owned()));
    }

    #[test]
    fn what_no_target_makes_goes_and_what_others_made_stays() {
        let fixture = Fixture::new();
        fixture.lay_out(&[("p/a", "1"), ("p/old/b", "2")], &["p/a", "p/old/b"]);
        fs_err::write(fixture.root.join("out/p/mine"), "mine").unwrap();
        assert_eq!(fixture.lay_out(&[], &["p/a"]), laid(0, 1));
        assert!(!fixture.root.join("out/p/old").exists());
        assert_eq!((fixture.text("p/a"), fixture.text("p/mine")), ("1".to_owned(), "mine".to_owned()));
        let out = OutDir::new(&fixture.store, &fixture.root.join("out"), "p");
        assert_eq!(out.clean().unwrap(), 1);
        assert_eq!(fixture.text("p/mine"), "mine");
    }
}
