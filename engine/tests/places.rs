//! Workers behind a command of their node's: the tokens of workers beside the driver, one error in time when one is lost, and nobody left when
//! the driver is. The command is a script, and where the system permits it a network namespace's.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::print_stderr, reason = "a test that could not run says so")]

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chariot_engine::backend::BackendName;
use chariot_engine::bring_up;
use chariot_engine::engine::Engine;
use chariot_engine::model::KvSpec;
use chariot_engine::model::sampler::Sampling;
use chariot_engine::runtime::{
    Exchange, ExchangeKind, Loss, Place, Places, Plan, Prompt, RuntimeExecutor, Weights,
};
use chariot_engine::sched::{ChunkSchedule, Compat, NewSequence, Policy, Scheduler, SchedulerConfig};
use chariot_engine::selftest;
use chariot_engine::shard::Parallel;
use chariot_engine::units::{Nanos, SeqId};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/golden/falcon-new");
const PROGRAM: &str = env!("CARGO_BIN_EXE_chariot-engine");
const TINY: &str = "
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
const OUTPUT: u32 = 32;
const LENGTH_MAX: u32 = 128;
const BLOCK_SIZE: u32 = 16;
/// A lost worker is named, and a lost driver's workers are gone, at the latest after this.
const SECONDS_MAX: f64 = 5.0;

/// Seconds of a monotonic clock.
fn now() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn golden() -> Vec<(Vec<u32>, Vec<u32>)> {
    let text = fs_err::read_to_string(format!("{MODEL}/golden.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let ids = |ids: &Value| ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    let both = |prompt: &Value| (ids(&prompt["tokens"]), ids(&prompt["greedy"]));
    golden["prompts"].as_array().unwrap().iter().map(both).collect()
}

/// An engine that draws `output` tokens for each of `prompts`.
fn engine(
    places: &Places,
    parallel: Parallel,
    prompts: &[(Vec<u32>, Vec<u32>)],
    output: u32,
) -> Engine<RuntimeExecutor> {
    let room: usize = prompts.iter().map(|(prompt, _)| prompt.len() + output as usize + 16).sum();
    let blocks = room as u32 / BLOCK_SIZE + 2;
    let max_model_len = LENGTH_MAX.max(output + LENGTH_MAX);
    let plan = Plan {
        backend: BackendName::Cpu,
        operations: false,
        parallel,
        threads: 1,
        weights: Weights::HuggingFace(MODEL.into()),
        kv: KvSpec { blocks, block_size: BLOCK_SIZE },
        blocks_touched: 0,
        max_model_len,
        batch_tokens: 16,
        places: places.clone(),
        shared_memory: false,
        cores: Vec::new(),
        links: None,
        ready_by: Duration::from_secs(60),
        step_by: Duration::from_secs(60),
    };
    let scheduler = Scheduler::new(SchedulerConfig {
        policy: Policy::Sarathi { chunk: ChunkSchedule::Fixed(16) },
        batch_cap: prompts.len() as u32,
        max_model_len,
        block_size: BLOCK_SIZE,
        blocks,
        stages: parallel.pp,
        watermark: Some(0.0),
        compat: Compat::Honest,
    });
    let executor = RuntimeExecutor::launch(Path::new(PROGRAM), &plan).unwrap().keep_stays();
    let mut engine = Engine::new(scheduler.unwrap(), executor);
    engine.executor_mut().start();
    for (number, (prompt, _)) in prompts.iter().enumerate() {
        let (id, prompt_tokens) = (SeqId(number as u32), prompt.len() as u32);
        let (tokens, sampling) = (prompt.clone(), Sampling::greedy());
        engine.executor_mut().insert(id, Prompt { tokens, sampling, output_max: output, stop: Vec::new() });
        engine.add(NewSequence { id, arrival: Nanos::ZERO, prompt_tokens, output_tokens: output });
    }
    engine
}

/// One step; tokens drawn go to the end of their sequences.
fn step(engine: &mut Engine<RuntimeExecutor>, drawn: &mut [Vec<u32>]) -> Result<(), Loss> {
    while engine.submit()?.is_some() {}
    engine.wait(Nanos::MAX, |executor, _| {
        for (seq, token) in executor.produced() {
            drawn[seq.0 as usize].push(*token);
        }
    })?;
    Ok(())
}

/// Two ranks, the second behind `launch`.
fn two(addresses: [&str; 2], launch: &[&str]) -> Places {
    let [driver, other] = addresses.map(|address| address.parse::<IpAddr>().unwrap());
    let launch = launch.iter().map(|word| (*word).to_owned()).collect();
    let first = Place { address: driver, launch: Vec::new(), program: None };
    Places { driver, ranks: vec![first, Place { address: other, launch, program: None }] }
}

/// A script that stays between the driver and its worker, as a remote shell does.
/// It begins in a folder of its own, as a login on another host does.
fn wrapper(dir: &Path) -> String {
    let path = dir.join("wrapper");
    fs_err::write(&path, "#!/bin/sh\ncd /\n\"$@\"\nexit $?\n").unwrap();
    fs_err::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn tokens_are_those_of_transformers(places: &Places) {
    let golden = golden();
    for parallel in [Parallel { tp: 2, pp: 1 }, Parallel { tp: 1, pp: 2 }] {
        let mut engine = engine(places, parallel, &golden, OUTPUT);
        let mut drawn = vec![Vec::new(); golden.len()];
        while drawn.iter().any(|tokens| tokens.len() < OUTPUT as usize) {
            step(&mut engine, &mut drawn).unwrap();
        }
        let expected: Vec<Vec<u32>> = golden.iter().map(|(_, greedy)| greedy.clone()).collect();
        assert_eq!(drawn, expected, "{parallel:?}");
        let mut executor = engine.into_executor();
        // One host has one clock: no stage's time is moved, and none can lie outside the run.
        let uncertainty = executor.clock_uncertainty();
        assert!(uncertainty > Nanos::ZERO && uncertainty < Nanos(100_000_000), "{uncertainty:?}");
        let end = chariot_engine::executor::Executor::now(&executor);
        let stays = executor.take_stays();
        assert!(!stays.is_empty());
        assert!(stays.iter().all(|stay| Nanos::ZERO < stay.start && stay.start < stay.end && stay.end < end));
        executor.finish().unwrap();
    }
}

/// A process and all below it.
fn family(pid: u32) -> Vec<u32> {
    let children = fs_err::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let below = children.split_whitespace().flat_map(|child| family(child.parse().unwrap()));
    std::iter::once(pid).chain(below).collect()
}

fn is_alive(pid: u32) -> bool {
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn all_gone(pids: &[u32]) {
    let began = now();
    while pids.iter().any(|pid| is_alive(*pid)) {
        assert!(now() - began < SECONDS_MAX, "some of {pids:?} are left");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

/// The worker itself, at the end of what stands before it, is struck in the middle of a run.
fn a_lost_worker_is_named(places: &Places, how: Signal, said: &str) {
    let mut engine = engine(places, Parallel { tp: 2, pp: 1 }, &golden()[..1], 20_000);
    let (mut drawn, pids) = (vec![Vec::new()], engine.executor_mut().processes());
    (0..10).for_each(|_| step(&mut engine, &mut drawn).unwrap());
    let all: Vec<u32> = pids.iter().flat_map(|pid| family(*pid)).collect();
    let worker = *family(pids[1]).last().unwrap();
    signal(worker, how);
    let struck = now();
    let loss = loop {
        if let Err(loss) = step(&mut engine, &mut drawn) {
            break loss;
        }
    };
    let seconds = now() - struck;
    assert_eq!(loss.rank, 1, "{loss}");
    assert!(loss.to_string().contains(said), "expected `{said}` in: {loss}");
    assert!(seconds < SECONDS_MAX, "{loss}: after {seconds} s");
    drop(engine);
    all_gone(&all);
}

/// What `bench` runs: a platform of two nodes, the second behind `launch`.
fn trial(dir: &Path, addresses: [&str; 2], launch: &[&str]) -> Command {
    let engine = |args: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(args).current_dir(dir).stdin(Stdio::null());
        command
    };
    let presets = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines");
    let platform = fs_err::read_to_string(format!("{presets}/platforms/cpu-2x4.yaml")).unwrap();
    let [driver, other] = addresses;
    let runtime = format!(
        "runtime: {{threads: 1, transport: tcp, driver: \"{driver}\", places: [{{address: \"{driver}\"}}, {{address: \"{other}\", launch: {launch:?}}}]}}"
    );
    let platform = platform.replace("runtime: {threads: 1, transport: shared_memory}", &runtime);
    let platform = platform.replace("gpus_per_node: 4", "gpus_per_node: 1");
    assert!(platform.contains(&runtime));
    let config = r#"{"format": 1, "scheduler": {"policy": "sarathi", "chunk": 16, "batch_cap": 4},
        "workload": {"requests": 4, "arrivals": {"kind": "static", "qps": 100}, "lengths": {"kind": "fixed", "prompt": 8, "output": 5000}},
        "max_model_len": 6000, "block_size": 16, "gpu_memory_utilization": 0.85, "time_limit_s": 60.0,
        "seed": 42, "repetition": 0, "band": "central", "compat": "honest"}"#;
    fs_err::write(dir.join("platform.yaml"), platform).unwrap();
    fs_err::write(dir.join("config.json"), config).unwrap();
    fs_err::write(dir.join("model.yaml"), TINY).unwrap();
    let cluster = ["cluster", "--platform", "platform.yaml", "--on", "cpu", "--out", "cluster.json"];
    let shard = ["shard", "--cluster", "cluster.json", "--model", "model.yaml", "--tp", "2", "--pp", "1"];
    for args in [&cluster[..], &[&shard[..], &["--out", "weights.json"]].concat()] {
        let output = engine(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let bench =
        ["bench", "--cluster", "cluster.json", "--weights", "weights.json", "--config", "config.json"];
    let mut bench = engine(&[&bench[..], &["--out", "trial"]].concat());
    bench.stdout(Stdio::null()).stderr(Stdio::null());
    bench
}

/// At several instants between its start and the middle of its trial.
fn a_lost_driver_leaves_nobody(addresses: [&str; 2], launch: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = trial(dir.path(), addresses, launch);
    for wait_ms in [0, 20, 100, 1500] {
        let mut driver = bench.spawn().unwrap();
        let mut all = family(driver.id());
        while all.len() < 3 && driver.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
            all = family(driver.id());
        }
        std::thread::sleep(Duration::from_millis(wait_ms));
        let all = family(driver.id());
        assert!(all.len() >= 3, "it has two workers when it is killed: {all:?}");
        driver.kill().unwrap();
        driver.wait().unwrap();
        all_gone(&all);
    }
}

#[test]
fn ranks_behind_a_command_draw_the_tokens_of_ranks_beside_the_driver() {
    let dir = tempfile::tempdir().unwrap();
    tokens_are_those_of_transformers(&two(["127.0.0.1", "127.0.0.2"], &[&wrapper(dir.path())]));
}

#[test]
fn what_ranks_behind_a_command_exchange_is_what_they_sent() {
    let dir = tempfile::tempdir().unwrap();
    what_two_ranks_exchange_is_what_they_sent(two(["127.0.0.1", "127.0.0.2"], &[&wrapper(dir.path())]));
}

#[test]
fn a_worker_lost_behind_a_command_is_named_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let places = two(["127.0.0.1", "127.0.0.2"], &[&wrapper(dir.path())]);
    a_lost_worker_is_named(&places, Signal::KILL, "was killed by signal 9 (SIGKILL)");
    a_lost_worker_is_named(&places, Signal::STOP, "hung: expected a sign of life");
}

#[test]
fn workers_behind_a_command_end_with_their_driver() {
    let dir = tempfile::tempdir().unwrap();
    a_lost_driver_leaves_nobody(["127.0.0.1", "127.0.0.2"], &[&wrapper(dir.path())]);
}

/// Two workers at `places`.
fn plan_of_two(places: Places) -> Plan {
    Plan {
        backend: BackendName::Cpu,
        operations: false,
        parallel: Parallel { tp: 2, pp: 1 },
        threads: 1,
        weights: Weights::HuggingFace(MODEL.into()),
        kv: KvSpec { blocks: 4, block_size: BLOCK_SIZE },
        blocks_touched: 0,
        max_model_len: 64,
        batch_tokens: 64,
        places,
        shared_memory: false,
        cores: Vec::new(),
        links: None,
        ready_by: Duration::from_secs(60),
        step_by: Duration::from_secs(60),
    }
}

/// Why two workers at `places` could not be started.
fn launch_error(places: Places) -> String {
    RuntimeExecutor::launch(Path::new(PROGRAM), &plan_of_two(places)).unwrap_err().to_string()
}

/// In all types, and each knows whose message it was.
fn what_two_ranks_exchange_is_what_they_sent(places: Places) {
    let found = bring_up::exchanges(Path::new(PROGRAM), &plan_of_two(places), 2, &selftest::DTYPES).unwrap();
    assert_eq!(found.len(), 2);
    for (rank, checks) in found.iter().enumerate() {
        assert!(checks.iter().all(selftest::Check::is_right), "{checks:?}");
        let told: Vec<String> = checks
            .iter()
            .map(|check| format!("{} of {} in {}", check.operation, check.shape, selftest::name(check.dtype)))
            .collect();
        let of = |dtype: &str, size: &str| {
            [
                format!("all_reduce of {size}, 2 GPUs in {dtype}"),
                format!("all_gather of {size}, 2 GPUs in {dtype}"),
                format!("send, recv of {size}, rank {} to rank {rank} in {dtype}", 1 - rank),
            ]
        };
        let of_type = |dtype| [of(dtype, "[3, 331]"), of(dtype, "[64, 4096]")].concat();
        assert_eq!(told, ["f32", "bf16", "f16"].map(of_type).concat());
    }
}

/// A child of this process, whichever of its threads started it, that is the worker of rank 0.
fn first_worker() -> u32 {
    let is_it = |pid: &u32| {
        fs_err::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().ends_with(b"worker\0--rank\x000\0")
    };
    let began = now();
    loop {
        let threads = fs_err::read_dir("/proc/self/task").unwrap();
        let children = threads.map(|thread| fs_err::read_to_string(thread.unwrap().path().join("children")));
        let children: String = children.map(Result::unwrap_or_default).collect();
        let pids = children.split_whitespace().map(|pid| pid.parse().unwrap());
        if let Some(pid) = pids.into_iter().find(is_it) {
            return pid;
        }
        assert!(now() - began < SECONDS_MAX, "expected a worker of rank 0 among {children}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The looks at it before the other had connected count as well as those after.
#[test]
fn a_worker_stopped_while_another_has_yet_to_connect_is_named_soon() {
    let places = two(["127.0.0.1", "127.0.0.2"], &["sh", "-c", "sleep 1.5; exec \"$@\"", "sh"]);
    let launch = std::thread::spawn(move || (launch_error(places), now()));
    let worker = first_worker();
    std::thread::sleep(Duration::from_millis(500));
    signal(worker, Signal::STOP);
    let struck = now();
    let (found, named) = launch.join().unwrap();
    assert!(
        found.starts_with("rank 0 (process ") && found.contains("hung: its process is stopped"),
        "{found}"
    );
    assert!(named - struck < 3.0, "named after {} s", named - struck);
    all_gone(&[worker]);
}

#[test]
fn a_command_that_is_not_there_is_named() {
    let places = two(["127.0.0.1", "127.0.0.2"], &["/nowhere/launch"]);
    let found = launch_error(places);
    assert!(found.starts_with("start a worker: /nowhere/launch: "), "{found}");
    // An address for documentation: nobody has it.
    let found = launch_error(two(["192.0.2.1", "192.0.2.1"], &[]));
    assert!(found.starts_with("listen for workers at the driver's address: 192.0.2.1: "), "{found}");
}

/// Whether a command does what it is told.
fn works(command: &str, line: &str) -> bool {
    let output = Command::new(command).args(line.split(' ')).stdin(Stdio::null()).output();
    output.is_ok_and(|output| output.status.success())
}

/// A network namespace, joined to this one by a pair of virtual links; gone with its value.
struct Namespace {
    name: String,
    /// This side's end of the pair.
    link: String,
    ends: [String; 2],
}

impl Namespace {
    /// `None` where this system or user may not.
    fn new() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let (pid, number) = (std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let name = format!("chariot-{pid}-{number}");
        // Names and addresses of their own for tests that run at the same time.
        let net = format!("10.{}.{}", 64 + pid / 256 % 64, pid % 256);
        let ends = [1, 2].map(|host| format!("{net}.{}", 4 * number + host));
        let link = format!("ch{}-{number}", pid % 10_000_000);
        let namespace = Self { name: name.clone(), link: link.clone(), ends };
        let [here, there] = &namespace.ends;
        let ip = |line: &str| works("ip", line).then_some(());
        ip(&format!("netns add {name}"))?;
        ip(&format!("link add {link} type veth peer name veth0 netns {name}"))?;
        ip(&format!("addr add {here}/30 dev {link}"))?;
        ip(&format!("link set {link} up"))?;
        ip(&format!("-n {name} addr add {there}/30 dev veth0"))?;
        ip(&format!("-n {name} link set veth0 up"))?;
        Some(namespace)
    }

    /// Limits both directions to a rate; false where this system cannot.
    fn is_limited_to(&self, rate: &str) -> bool {
        let limit = |dev: &str| format!("qdisc add dev {dev} root tbf rate {rate} burst 32kb latency 400ms");
        works("tc", &limit(&self.link))
            && works("ip", &format!("netns exec {} tc {}", self.name, limit("veth0")))
    }

    fn or_skip() -> Option<Self> {
        let namespace = Self::new();
        if namespace.is_none() {
            eprintln!("SKIPPED: this system or user permits no network namespace; nothing was tested");
        }
        namespace
    }

    fn ends(&self) -> [&str; 2] {
        self.ends.each_ref().map(String::as_str)
    }

    fn launch(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.name]
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The links go with it.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).stderr(Stdio::null()).status();
    }
}

#[test]
fn ranks_in_two_namespaces_draw_the_tokens_of_ranks_in_one() {
    let Some(namespace) = Namespace::or_skip() else { return };
    tokens_are_those_of_transformers(&two(namespace.ends(), &namespace.launch()));
}

#[test]
fn what_ranks_in_two_namespaces_exchange_is_what_they_sent() {
    let Some(namespace) = Namespace::or_skip() else { return };
    what_two_ranks_exchange_is_what_they_sent(two(namespace.ends(), &namespace.launch()));
}

#[test]
fn a_worker_lost_in_a_namespace_is_named_in_time() {
    let Some(namespace) = Namespace::or_skip() else { return };
    let places = two(namespace.ends(), &namespace.launch());
    a_lost_worker_is_named(&places, Signal::KILL, "was killed by signal 9 (SIGKILL)");
}

#[test]
fn workers_in_a_namespace_end_with_their_driver() {
    let Some(namespace) = Namespace::or_skip() else { return };
    a_lost_driver_leaves_nobody(namespace.ends(), &namespace.launch());
}

/// Nanoseconds of a message of a megabyte between two ranks, one way, the median of some.
fn megabyte_ns(places: Places) -> u64 {
    const TIMES: u32 = 7;
    let mut executor = RuntimeExecutor::launch(Path::new(PROGRAM), &plan_of_two(places)).unwrap();
    let exchange = Exchange {
        kind: ExchangeKind::SendRecv,
        ranks: vec![0, 1],
        values: 1 << 18,
        in_a_row: 1,
        times: TIMES,
    };
    let mut ns = executor.exchange(&exchange).unwrap();
    executor.finish().unwrap();
    ns.sort_unstable();
    ns[ns.len() / 2]
}

#[test]
fn messages_over_a_link_that_tc_slows_take_as_long_as_it_says() {
    let Some(namespace) = Namespace::or_skip() else { return };
    let places = || two(namespace.ends(), &namespace.launch());
    let free_ns = megabyte_ns(places());
    if !namespace.is_limited_to("100mbit") {
        eprintln!("SKIPPED: no tc, or a kernel without tbf; no slow link was tested");
        return;
    }
    // A megabyte at 12.5 MB/s, of which 32 KB may go at once.
    let least_ns = ((1 << 20) - (32 << 10)) * 80;
    let slowed_ns = megabyte_ns(places());
    assert!(
        (least_ns..2 * least_ns).contains(&slowed_ns),
        "expected {least_ns} ns and a little, found {slowed_ns}"
    );
    assert!(free_ns < least_ns / 2, "expected a link without a limit to be faster: {free_ns} ns");
}
