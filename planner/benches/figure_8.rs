//! Times what a user waits for: `chariot run figure-8` from nothing, again with nothing to do, and after small edits.
//!
//! `cargo build --release && cargo bench -p chariot --bench figure_8` prints a table; limits are those the README promises.
#![allow(clippy::print_stdout, reason = "a benchmark's table is its output")]
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;

fn main() {
    let repo =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("planner/ lies in the workspace").to_path_buf();
    let chariot = repo.join("target/release/chariot");
    assert!(chariot.exists(), "expected {}; run `cargo build --release` first", chariot.display());

    let mut cold = Vec::new();
    let mut noop = Vec::new();
    let mut batch_256 = Vec::new();
    let mut slo = Vec::new();
    for _ in 0..ROUNDS {
        let project = Project::new(&repo);
        cold.push(project.run(&chariot, &[]));
        noop.push(project.run(&chariot, &[]));
        batch_256.push(project.run(&chariot, &["--set", "batches=[8,16,32,64,128,256]"]));
        project.edit("<= 2 s", "<= 3 s");
        slo.push(project.run(&chariot, &[]));
    }
    println!("{:<34} {:>9} {:>9} {:>9}   limit", "chariot run figure-8", "min", "median", "max");
    row("from nothing", cold, Some(10_000));
    row("nothing to do", noop, Some(50));
    row("batch size 256 added", batch_256, None);
    row("scheduling-delay SLO 2 s -> 3 s", slo, None);
}

fn row(name: &str, mut times: Vec<Duration>, limit_ms: Option<u64>) {
    times.sort();
    let ms = |d: Duration| format!("{:.1} ms", d.as_secs_f64() * 1e3);
    let limit = limit_ms.map_or("-".to_owned(), |l| format!("{l} ms"));
    let (first, middle, last) = (times[0], times[times.len() / 2], times[times.len() - 1]);
    println!("{name:<34} {:>9} {:>9} {:>9}   {limit}", ms(first), ms(middle), ms(last));
}

/// A fresh project with the repository's pipelines.
struct Project {
    dir: tempfile::TempDir,
}

impl Project {
    fn new(repo: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let copied = Command::new("cp")
            .arg("-r")
            .arg(repo.join("pipelines"))
            .arg(dir.path())
            .status()
            .expect("cp runs");
        assert!(copied.success());
        Self { dir }
    }

    fn pipeline(&self) -> PathBuf {
        self.dir.path().join("pipelines/figure-8.yaml")
    }

    fn edit(&self, from: &str, to: &str) {
        let text = fs_err::read_to_string(self.pipeline()).expect("figure-8.yaml is readable");
        assert!(text.contains(from), "expected `{from}` in figure-8.yaml");
        fs_err::write(self.pipeline(), text.replace(from, to)).expect("figure-8.yaml is writable");
    }

    fn run(&self, chariot: &Path, more: &[&str]) -> Duration {
        let start = Instant::now();
        let output = Command::new(chariot)
            .args(["run", "figure-8"])
            .args(more)
            .current_dir(self.dir.path())
            .output()
            .expect("chariot runs");
        let wall = start.elapsed();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        wall
    }
}
