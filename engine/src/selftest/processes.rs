//! A process for each GPU, as a run of the engine has them: started, waited for, and never left behind. Knows no operation.

use std::io;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use camino::Utf8Path;
use rustix::process::{Pid, Signal, kill_process};

use super::{Tested, name};
use crate::clock::monotonic_ns;
use crate::comm::shm;
use crate::shard::Dtype;

/// How long a test may take: kernels are compiled first, for each type.
const PATIENCE: Duration = Duration::from_secs(300);

/// Tests the operations of each of these GPUs, side by side. `program` is an executable with the `gpu-selftest-rank` command.
pub fn each(program: &Path, gpus: &[usize], dtypes: &[Dtype]) -> io::Result<Vec<Tested>> {
    run(program, gpus, dtypes, None, PATIENCE)
}

/// Tests what these GPUs send each other.
pub fn between(program: &Path, gpus: &[usize], dtypes: &[Dtype]) -> io::Result<Vec<Tested>> {
    let memory = shm::create(gpus.len())?;
    run(program, gpus, dtypes, Some(&memory.path()), PATIENCE)
}

fn run(
    program: &Path,
    gpus: &[usize],
    dtypes: &[Dtype],
    meet: Option<&Utf8Path>,
    patience: Duration,
) -> io::Result<Vec<Tested>> {
    let end_ns = monotonic_ns() + patience.as_nanos() as u64;
    let mut waiting = Vec::new();
    for rank in 0..gpus.len() {
        // From this thread, with whose end its children end.
        waiting.push(Waiting::of(spawn(program, gpus, rank, dtypes, meet)?));
    }
    Ok(waiting.into_iter().map(|child| tested(child.output(end_ns))).collect())
}

fn spawn(
    program: &Path,
    gpus: &[usize],
    rank: usize,
    dtypes: &[Dtype],
    meet: Option<&Utf8Path>,
) -> io::Result<Child> {
    let gpus: Vec<String> = gpus.iter().map(usize::to_string).collect();
    let dtypes: Vec<&str> = dtypes.iter().map(|dtype| name(*dtype)).collect();
    let mut command = Command::new(program);
    command.args(["gpu-selftest-rank", "--gpus", &gpus.join(","), "--rank", &rank.to_string()]);
    command.args(["--dtype", &dtypes.join(",")]);
    command.args(meet.iter().flat_map(|path| ["--meet", path.as_str()]));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
}

/// A process whose output a thread collects. Dropped, it is gone.
struct Waiting {
    process: Pid,
    output: Receiver<io::Result<Output>>,
    ended: bool,
}

impl Waiting {
    fn of(child: Child) -> Self {
        let process = Pid::from_child(&child);
        let (sender, output) = channel();
        // Nobody may be left to hear of it.
        std::thread::spawn(move || sender.send(child.wait_with_output()));
        Self { process, output, ended: false }
    }

    /// What it said by `end_ns`.
    fn output(mut self, end_ns: u64) -> Result<Output, String> {
        let left = Duration::from_nanos(end_ns.saturating_sub(monotonic_ns()));
        let output = self.output.recv_timeout(left);
        self.ended = output.is_ok();
        let output = output.map_err(|_| "expected it done in time, found it still at work".to_owned())?;
        output.map_err(|error| format!("its process: {error}"))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.ended {
            // Not waited for yet, so that its number is nobody else's. One that has just ended needs no signal.
            let _ = kill_process(self.process, Signal::KILL);
            let _ = self.output.recv();
        }
    }
}

/// What a process found, or how it ended.
fn tested(output: Result<Output, String>) -> Tested {
    let said = output.and_then(|output| {
        let last = || {
            String::from_utf8_lossy(&output.stderr)
                .trim()
                .lines()
                .last()
                .unwrap_or("without a word")
                .to_owned()
        };
        serde_json::from_slice(&output.stdout)
            .map_err(|_| format!("its process ended, {}: {}", output.status, last()))
    });
    said.unwrap_or_else(|failure| Tested { checks: Vec::new(), failure: Some(failure) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// What is said of a program that runs these lines of a shell, and how long it took.
    fn failure(lines: &str) -> (String, Duration) {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fs_err::write(&program, format!("#!/bin/sh\n{lines}\n")).unwrap();
        fs_err::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let began_ns = monotonic_ns();
        let found = run(&program, &[3], &[Dtype::Float32], None, Duration::from_millis(200)).unwrap();
        assert!(!found[0].is_right() && found[0].checks.is_empty(), "{found:?}");
        (found[0].failure.clone().unwrap(), Duration::from_nanos(monotonic_ns() - began_ns))
    }

    #[test]
    fn a_process_that_dies_or_hangs_is_a_failure_in_words() {
        assert_eq!(failure("echo one >&2; echo two >&2; exit 3").0, "its process ended, exit status: 3: two");
        assert_eq!(failure("kill -9 $$").0, "its process ended, signal: 9 (SIGKILL): without a word");
        let (said, took) = failure("exec sleep 100");
        assert_eq!(said, "expected it done in time, found it still at work");
        assert!(took < Duration::from_secs(50), "it was killed, after {took:?}");
    }
}
