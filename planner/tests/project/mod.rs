//! A project of its own with the repository's pipelines, driven through the real binaries.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A folder with `pipelines/`, removed at the end.
pub(crate) struct Project {
    pub(crate) dir: tempfile::TempDir,
}

impl Project {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repo = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let copied =
            Command::new("cp").arg("-r").arg(repo.join("pipelines")).arg(dir.path()).status().unwrap();
        assert!(copied.success());
        Self { dir }
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let chariot = PathBuf::from(env!("CARGO_BIN_EXE_chariot"));
        for tool in ["chariot-engine", "chariot-results"] {
            let beside = chariot.with_file_name(tool);
            assert!(beside.exists(), "expected {}; run `cargo build --workspace` first", beside.display());
        }
        let mut command = Command::new(chariot);
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    pub(crate) fn chariot(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs and expects success; returns stdout.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.chariot(args);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "chariot {args:?}: {:?}\n{out}\n{err}", output.status.code());
        out.into_owned()
    }

    pub(crate) fn out(&self) -> BTreeMap<String, Vec<u8>> {
        let root = self.dir.path().join("out");
        let mut files = BTreeMap::new();
        let mut open = vec![root.clone()];
        while let Some(dir) = open.pop() {
            for entry in fs_err::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
                    files.insert(name, fs_err::read(&path).unwrap());
                }
            }
        }
        files
    }
}
