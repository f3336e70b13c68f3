//! A project on disk: its root, its pipelines, where Chariot keeps things in it. Knows nothing of steps.

use std::io;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use chariot_cache::{Error, Lock, Store};

/// A directory with a `pipelines/` folder.
#[derive(Debug)]
pub struct Project {
    /// Absolute.
    pub root: Utf8PathBuf,
    /// `.chariot/`.
    pub store: Arc<Store>,
}

/// Why there is no project to work in.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// No directory on the way up has pipelines.
    #[error(
        "expected a folder `pipelines/` in {from} or a directory above it, found none\n  help: run in a project, or name one with -C DIR"
    )]
    NotFound {
        /// Where the search began.
        from: Utf8PathBuf,
    },
    /// The store could not be opened.
    #[error("cannot open {root}/.chariot: {source}")]
    Store {
        /// The project.
        root: Utf8PathBuf,
        /// Why.
        source: Error,
    },
    /// Somebody else works here.
    #[error(
        "process {holder} is running in this project ({path} is locked)\n  help: wait for it, or leave out --no-wait"
    )]
    Busy {
        /// Its process id.
        holder: String,
        /// The lock.
        path: Utf8PathBuf,
    },
}

impl Project {
    /// Opens the project that `from` lies in.
    pub fn find(from: &Utf8Path) -> Result<Self, ProjectError> {
        let not_found = || ProjectError::NotFound { from: from.to_owned() };
        let start = from.canonicalize_utf8().map_err(|_| not_found())?;
        let root = start.ancestors().find(|dir| dir.join("pipelines").is_dir()).ok_or_else(not_found)?;
        Self::open(root)
    }

    /// Opens the project whose root this is.
    pub fn open(root: &Utf8Path) -> Result<Self, ProjectError> {
        let opened = Store::open(&root.join(".chariot"));
        let store = opened.map_err(|source| ProjectError::Store { root: root.to_owned(), source })?;
        Ok(Self { root: root.to_owned(), store: Arc::new(store) })
    }

    /// Takes the project for ourselves. If somebody else has it: waits, after telling `waiting` who it is, or fails.
    pub fn lock(&self, wait: bool, waiting: impl FnOnce(&str)) -> Result<Lock, ProjectError> {
        match self.store.lock() {
            Err(Error::Held { holder, path }) if wait => {
                waiting(&holder);
                Lock::acquire(&path).map_err(|source| self.store_error(source))
            }
            Err(Error::Held { holder, path }) => Err(ProjectError::Busy { holder, path }),
            other => other.map_err(|source| self.store_error(source)),
        }
    }

    fn store_error(&self, source: Error) -> ProjectError {
        ProjectError::Store { root: self.root.clone(), source }
    }

    /// Where actions run.
    pub fn work(&self) -> Utf8PathBuf {
        self.store.root().join("work")
    }

    /// Logs of failures.
    pub fn logs(&self) -> Utf8PathBuf {
        self.store.root().join("logs")
    }

    /// What people look at.
    pub fn out(&self) -> Utf8PathBuf {
        self.root.join("out")
    }

    /// Names of all pipelines, in order.
    pub fn pipelines(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in self.root.join("pipelines").read_dir_utf8()? {
            let entry = entry?;
            let path = entry.path();
            if path.extension() == Some("yaml") && path.is_file() {
                names.extend(path.file_stem().map(str::to_owned));
            }
        }
        names.sort();
        Ok(names)
    }
}
