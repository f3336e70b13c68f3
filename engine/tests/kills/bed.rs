//! Trials of a tiny model on four workers, and what can be seen of their processes from outside.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use serde_json::Value;
use tempfile::TempDir;

/// Workers of a run: two stages of two ranks.
pub(crate) const WORLD: usize = 4;

const MODEL: &str = "
name: tiny
family: falcon
hidden_size: 64
layers: 4
query_heads: 8
kv_heads: 4
head_dim: 8
ffn_size: 256
vocab_size: 256
parallel_attention: true
norms_per_layer: 2
tied_embedding: false
";
const CONFIG: &str = r#"{"format": 1, "scheduler": {"policy": "sarathi", "chunk": 16, "batch_cap": 4},
    "workload": {"requests": 6, "arrivals": {"kind": "static", "qps": 100}, "lengths": {"kind": "fixed", "prompt": 24, "output": 12}},
    "max_model_len": 64, "block_size": 16, "gpu_memory_utilization": 0.85, "time_limit_s": 60.0,
    "seed": 42, "repetition": 0, "band": "central", "compat": "honest"}"#;
const TRIAL: [&str; 7] =
    ["bench", "--cluster", "cluster.json", "--weights", "weights.json", "--config", "config.json"];
const FILES: [&str; 3] = ["batches.parquet", "records.parquet", "trial.json"];

#[derive(Debug, Clone, Copy)]
pub(crate) enum Transport {
    SharedMemory,
    Tcp,
}

/// The environment variable that tells the processes of a run.
const MARK: &str = "CHARIOT_KILLS_RUN";

/// Seconds of a monotonic clock.
pub(crate) fn now() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Whether a child of the driver runs its program. Before that it is a copy of the driver, which the system does not let go on until then: stopped
/// there, it stops the driver, too, which can name nobody.
fn is_worker(pid: &str) -> bool {
    let words = fs_err::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    words.split('\0').nth(1) == Some("worker")
}

/// A platform, a divided model and a trial's configuration.
pub(crate) struct Bed {
    dir: TempDir,
    /// Set once, by undisturbed runs.
    phases: [f64; 5],
}

impl Bed {
    pub(crate) fn new(transport: Transport) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let transport = match transport {
            Transport::SharedMemory => "shared_memory",
            Transport::Tcp => "tcp",
        };
        let presets = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines/platforms/cpu-2x4.yaml");
        let platform = fs_err::read_to_string(presets).unwrap();
        let of_transport = platform.replace("transport: shared_memory", &format!("transport: {transport}"));
        let small = of_transport.replace("gpu_memory_gb: 0.5", "gpu_memory_gb: 0.01");
        assert!(small.contains("memory_gb: 0.01") && small.contains(&format!("transport: {transport}")));
        let files = [("platform.yaml", small.as_str()), ("model.yaml", MODEL), ("config.json", CONFIG)];
        for (name, text) in files {
            fs_err::write(dir.path().join(name), text).unwrap();
        }
        let bed = Self { dir, phases: [0.0; 5] };
        bed.ok(&["cluster", "--platform", "platform.yaml", "--on", "cpu", "--out", "cluster.json"]);
        let shard = ["shard", "--cluster", "cluster.json", "--model", "model.yaml", "--out", "weights.json"];
        bed.ok(&[&shard[..], &["--tp", "2", "--pp", "2"]].concat());
        let mut measured: Vec<[f64; 5]> = (0..3).map(|_| bed.measure()).collect();
        measured.sort_by(|a, b| a[4].total_cmp(&b[4]));
        let phases = measured[1];
        println!("phases of a run, s after a worker has appeared: {phases:.3?}");
        Self { phases, ..bed }
    }

    /// When a worker has appeared, has met its peers, is half through loading and warming up, begins the trial and ends; seconds.
    pub(crate) fn phases(&self) -> [f64; 5] {
        self.phases
    }

    fn engine(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chariot-engine"));
        command.current_dir(&self.dir).stdin(Stdio::null());
        command
    }

    fn ok(&self, args: &[&str]) {
        let output = self.engine().args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A trial, in a process group of its own.
    pub(crate) fn start(&self, number: usize) -> Run {
        self.spawn(number, "")
    }

    /// A trial one rank of which hangs on purpose, as `runtime/hang.rs` says.
    pub(crate) fn start_hanging(&self, number: usize, hang: &str) -> Run {
        self.clear(number);
        self.spawn(number, hang)
    }

    fn spawn(&self, number: usize, hang: &str) -> Run {
        let mut command = self.engine();
        command.args(TRIAL).args(["--out", &format!("trial-{number}")]).env("CHARIOT_HANG", hang);
        Run::of(&mut command)
    }

    /// The phases of one undisturbed run.
    fn measure(&self) -> [f64; 5] {
        static NUMBER: AtomicUsize = AtomicUsize::new(1000);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut run = self.start(number);
        let worker = run.worker(WORLD - 1).unwrap();
        let appeared = now();
        // One that has been told its peers' addresses has a thread that listens and one that speaks.
        while worker.threads() < 3 && run.child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
        let joined = now() - appeared;
        let ending = run.end(60.0);
        let end = now() - appeared;
        assert_eq!(ending.code, Some(0), "{}", ending.stderr);
        let report: Value =
            serde_json::from_slice(&fs_err::read(self.out(number).join("trial.json")).unwrap()).unwrap();
        let trial = (end - report["end_ns"].as_f64().unwrap() * 1e-9).max(joined);
        [0.0, joined, (joined + trial) / 2.0, trial, end]
    }

    /// The same trial again, undisturbed, in a folder of its own.
    pub(crate) fn rerun(&self, number: usize) {
        self.clear(number);
        let mut run = self.start(number);
        let ending = run.end(60.0);
        assert_eq!(ending.code, Some(0), "a rerun passes: {}", ending.stderr);
        assert!(self.is_whole(number), "a rerun is whole: {:?}", self.outputs(number));
    }

    /// Takes a run's folder away.
    pub(crate) fn clear(&self, number: usize) {
        if self.out(number).exists() {
            fs_err::remove_dir_all(self.out(number)).unwrap();
        }
    }

    fn out(&self, number: usize) -> std::path::PathBuf {
        self.dir.path().join(format!("trial-{number}"))
    }

    /// What a run wrote, by name, working names too.
    pub(crate) fn outputs(&self, number: usize) -> Vec<String> {
        let Ok(entries) = fs_err::read_dir(self.out(number)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Whether a run's results are all there, and nothing else.
    pub(crate) fn is_whole(&self, number: usize) -> bool {
        self.outputs(number) == FILES
    }
}

/// A few tokens from a small model with a large KV cache, by processes that may have `limit_kib` each.
pub(crate) fn generate_within(limit_kib: u64, kv_blocks: u64) -> Ending {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/golden/falcon-new");
    let script = format!(
        "ulimit -v {limit_kib} && exec \"$0\" generate --model \"$1\" --prompt-ids 1,2 --tp 2 --pp 2 --kv-blocks {kv_blocks}"
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_chariot-engine"), model]);
    Run::of(command.stdin(Stdio::null())).end(60.0)
}

/// Eight ranks that draw tokens, one of which hangs on purpose.
pub(crate) fn generate_hanging(hang: &str) -> Ending {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/golden/falcon-new");
    let mut command = Command::new(env!("CARGO_BIN_EXE_chariot-engine"));
    command.args(["generate", "--model", model, "--prompt-ids", "1,2,3", "--max-tokens", "40"]);
    command.args(["--tp", "4", "--pp", "2", "--ignore-eos"]).env("CHARIOT_HANG", hang).stdin(Stdio::null());
    Run::of(&mut command).end_after_hang()
}

/// A trial under way.
pub(crate) struct Run {
    child: Child,
    /// In the environment of its processes, and of no others.
    mark: String,
    ended: bool,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// How long that took.
    pub(crate) seconds: f64,
}

impl Run {
    /// Starts a command in a process group of its own.
    fn of(command: &mut Command) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}-{number}", std::process::id());
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).env(MARK, &mark);
        Self { child: command.spawn().unwrap(), mark: format!("{MARK}={mark}"), ended: false }
    }

    /// Waits until a rank hangs on purpose, and then for the end of the run, which is timed from there.
    pub(crate) fn end_after_hang(&mut self) -> Ending {
        let mut lines = BufReader::new(self.child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let mut said: Vec<String> =
            lines.by_ref().take_while(|line| !line.ends_with("hangs on purpose")).collect();
        let began = now();
        said.extend(lines);
        let status = self.child.wait().unwrap();
        let seconds = now() - began;
        self.ended = true;
        assert_eq!(self.left(), [0; 0], "nobody outlives the driver");
        let mut stdout = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        Ending { code: status.code(), stdout, stderr: said.join("\n"), seconds }
    }

    /// The worker of a rank, once there is one; `None` if the run ends before.
    pub(crate) fn worker(&mut self, rank: usize) -> Option<Worker> {
        let driver = self.child.id();
        loop {
            // In the order in which they were started, which is that of their ranks.
            let children = format!("/proc/{driver}/task/{driver}/children");
            let children = fs_err::read_to_string(children).unwrap_or_default();
            if let Some(pid) = children.split_whitespace().nth(rank).filter(|pid| is_worker(pid)) {
                let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
                return Some(Worker { pid, handle: pidfd_open(pid, PidfdFlags::empty()).ok()? });
            }
            if self.child.try_wait().unwrap().is_some() {
                return None;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// Waits for the driver to end; panics if it does not within `seconds_max`.
    pub(crate) fn end(&mut self, seconds_max: f64) -> Ending {
        let began = now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(now() - began < seconds_max, "expected the run to end within {seconds_max} s");
            std::thread::sleep(Duration::from_micros(500));
        };
        let seconds = now() - began;
        self.ended = true;
        // Who is left would hold the pipes open.
        assert_eq!(self.left(), [0; 0], "nobody outlives the driver");
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        Ending { code: status.code(), stdout, stderr, seconds }
    }

    /// Signals driver and workers; `None`: the run is over.
    pub(crate) fn signal_all(&mut self, signal: Signal) -> Option<()> {
        let is_over = self.child.try_wait().unwrap().is_some();
        self.ended |= is_over;
        (!is_over).then(|| kill_process_group(Pid::from_child(&self.child), signal).unwrap())
    }

    pub(crate) fn kill_driver(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.ended = true;
    }

    /// Living processes of the run.
    pub(crate) fn left(&self) -> Vec<u32> {
        // Workers are process groups of their own. What has ended has no environment.
        let is_of_run = |pid: &u32| {
            let environment = fs_err::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry == self.mark.as_bytes())
        };
        let names = fs_err::read_dir("/proc").unwrap();
        let pids = names.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(is_of_run).collect()
    }

    /// Files in memory that carry the driver's number.
    pub(crate) fn memory_files(&self) -> Vec<String> {
        let Ok(entries) = fs_err::read_dir("/dev/shm") else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let number = self.child.id().to_string();
        names.filter(|name| name.split('-').any(|part| part == number)).collect()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.ended {
            // A test that fails leaves no process either.
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// One worker's process, and no other that may get its number later.
pub(crate) struct Worker {
    pid: Pid,
    handle: OwnedFd,
}

impl Worker {
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// `None`: it has ended.
    pub(crate) fn send(&self, signal: Signal) -> Option<()> {
        pidfd_send_signal(&self.handle, signal).ok()
    }

    fn threads(&self) -> usize {
        fs_err::read_dir(format!("/proc/{}/task", self.pid())).map_or(0, Iterator::count)
    }
}

/// A control group that takes memory from one worker.
pub(crate) struct Cage(std::path::PathBuf);

impl Cage {
    /// Lets a worker have `bytes` more than it has; `None` where this system or user may not.
    pub(crate) fn around(worker: &Worker, bytes: u64) -> Option<Self> {
        let versions = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        versions.iter().find_map(|(root, limit)| {
            let cage = Self(std::path::Path::new(root).join(format!("chariot-{}", worker.pid())));
            fs_err::create_dir(&cage.0).ok()?;
            fs_err::write(cage.0.join(limit), bytes.to_string()).ok()?;
            fs_err::write(cage.0.join("cgroup.procs"), worker.pid().to_string()).ok()?;
            Some(cage)
        })
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        // Whoever was in it has ended by now.
        let _ = fs_err::remove_dir(&self.0);
    }
}
