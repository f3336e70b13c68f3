//! Figure 8 from end to end through the real binaries: what a newcomer types, and what the README promises of it.
//!
//! The engine and the results tool must have been built beside `chariot` (`.ci/run` builds the workspace first).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Fewer requests than the experiment's, so that unoptimised binaries finish in seconds.
const SMALL: &[&str] = &["--set", "requests=128"];

struct Project {
    dir: tempfile::TempDir,
}

impl Project {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repo = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let copied =
            Command::new("cp").arg("-r").arg(repo.join("pipelines")).arg(dir.path()).status().unwrap();
        assert!(copied.success());
        Self { dir }
    }

    fn command(&self, args: &[&str]) -> Command {
        let chariot = PathBuf::from(env!("CARGO_BIN_EXE_chariot"));
        for tool in ["chariot-engine", "chariot-results"] {
            let beside = chariot.with_file_name(tool);
            assert!(beside.exists(), "expected {}; run `cargo build --workspace` first", beside.display());
        }
        let mut command = Command::new(chariot);
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    fn chariot(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs and expects success; returns stdout.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.chariot(args);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "chariot {args:?}: {:?}\n{out}\n{err}", output.status.code());
        out.into_owned()
    }

    fn run_small(&self, more: &[&str]) -> String {
        self.ok(&[&["run", "figure-8"], SMALL, more].concat())
    }

    fn edit(&self, from: &str, to: &str) {
        let path = self.dir.path().join("pipelines/figure-8.yaml");
        let text = fs_err::read_to_string(&path).unwrap();
        assert!(text.contains(from), "expected `{from}` in figure-8.yaml");
        fs_err::write(&path, text.replace(from, to)).unwrap();
    }

    fn out(&self) -> BTreeMap<String, Vec<u8>> {
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

#[track_caller]
fn assert_same(left: &BTreeMap<String, Vec<u8>>, right: &BTreeMap<String, Vec<u8>>) {
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(left), names(right));
    for (name, bytes) in left {
        assert!(bytes == &right[name], "{name} differs");
    }
}
