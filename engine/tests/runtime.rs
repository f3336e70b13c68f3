//! The real binary with real workers: the tokens of Transformers at every split and transport, and mistakes in words.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::process::{Command, Stdio};

use safetensors::SafeTensors;
use serde_json::Value;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/golden");

fn golden(model: &str) -> Value {
    serde_json::from_str(&fs_err::read_to_string(format!("{GOLDEN}/{model}/golden.json")).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

fn generate(model: &str, prompts: &[Vec<u64>], more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chariot-engine"));
    command.args(["generate", "--json", "--ignore-eos", "--model", &format!("{GOLDEN}/{model}")]);
    for prompt in prompts {
        let text: Vec<String> = prompt.iter().map(u64::to_string).collect();
        command.args(["--prompt-ids", &text.join(",")]);
    }
    command.args(more).stdin(Stdio::null());
    command
}

/// Every prompt of a golden model and what the workers make of it, 32 tokens each.
fn continued(model: &str, golden: &Value, more: &[&str]) -> Value {
    let prompts = golden["prompts"].as_array().unwrap();
    let tokens: Vec<Vec<u64>> = prompts.iter().map(|prompt| ids(&prompt["tokens"])).collect();
    let output = generate(model, &tokens, &[&["--max-tokens", "32"], more].concat()).output().unwrap();
    assert!(output.status.success(), "{model} {more:?}: {}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["provenance"], "measured");
    for (prompt, output) in prompts.iter().zip(report["outputs"].as_array().unwrap()) {
        assert_eq!(ids(&output["token_ids"]), ids(&prompt["greedy"]), "{model} {more:?}");
    }
    report
}

#[test]
fn workers_produce_the_tokens_of_transformers_at_every_split() {
    let golden = golden("falcon-new");
    for more in [
        &["--tp", "1", "--pp", "1"][..],
        &["--tp", "2", "--pp", "1", "--threads", "2"],
        &["--tp", "1", "--pp", "4", "--chunk", "7"],
        &["--tp", "4", "--pp", "2", "--chunk", "16"],
        &["--tp", "2", "--pp", "2", "--tcp"],
        &["--tp", "8", "--pp", "1"],
        &["--tp", "8", "--pp", "1", "--chunk", "16", "--tcp"],
        &["--tp", "2", "--pp", "4", "--chunk", "16"],
        &["--tp", "2", "--pp", "4", "--tcp"],
    ] {
        let report = continued("falcon-new", &golden, more);
        assert_eq!(report["preemptions"], 0, "there is room for all: {more:?}");
    }
}

#[test]
fn sequences_that_are_preempted_and_recomputed_get_the_same_tokens() {
    for (model, layers) in [("falcon-new", 4), ("llama-tied", 2)] {
        let golden = golden(model);
        // Room for about half of what prompts and outputs need; with 11 blocks the prompts fill all, and the longest wants another one with its first token.
        for [tp, pp, chunk, blocks] in [
            ["1", "1", "16", "9"],
            ["2", "1", "16", "9"],
            ["4", "1", "16", "9"],
            ["8", "1", "16", "9"],
            ["1", "2", "16", "9"],
            ["1", "4", "16", "9"],
            ["2", "2", "16", "9"],
            ["2", "2", "512", "11"],
            ["4", "2", "16", "9"],
            ["2", "4", "16", "9"],
        ] {
            if pp.parse::<u32>().unwrap() > layers {
                continue;
            }
            let more = &["--tp", tp, "--pp", pp, "--chunk", chunk, "--kv-blocks", blocks][..];
            let report = continued(model, &golden, more);
            assert!(report["preemptions"].as_u64().unwrap() > 0, "{model} {more:?}: nobody was preempted");
        }
    }
}

/// Two all-reduces a layer; at TP8 Mistral's four KV heads lie on two ranks each.
#[test]
fn llamas_workers_produce_the_tokens_of_transformers() {
    for (model, more) in [
        ("llama-tied", &["--tp", "8", "--pp", "1"][..]),
        ("llama-tied", &["--tp", "4", "--pp", "2", "--chunk", "16", "--tcp"]),
        ("mistral", &["--tp", "8", "--pp", "1", "--tcp"]),
        ("mistral", &["--tp", "2", "--pp", "2", "--chunk", "7"]),
    ] {
        continued(model, &golden(model), more);
    }
}

/// Every prompt's first logits, and all of one prompt's.
#[test]
fn workers_print_the_logits_of_transformers() {
    for (model, more) in [
        ("falcon-new", &["--tp", "1", "--pp", "1"][..]),
        ("falcon-new", &["--tp", "2", "--pp", "4", "--chunk", "16"]),
        ("falcon-old-sequential", &["--tp", "4", "--pp", "1", "--tcp"]),
        ("llama-tied", &["--tp", "8", "--pp", "1", "--chunk", "7"]),
        ("mistral", &["--tp", "2", "--pp", "2", "--tcp"]),
    ] {
        let golden = golden(model);
        let report = continued(model, &golden, &[&["--logits"], more].concat());
        let bytes = fs_err::read(format!("{GOLDEN}/{model}/logits.safetensors")).unwrap();
        let stored = SafeTensors::deserialize(&bytes).unwrap();
        for (number, output) in report["outputs"].as_array().unwrap().iter().enumerate() {
            let printed: Vec<Vec<f64>> = serde_json::from_value(output["logits"].clone()).unwrap();
            assert_eq!(printed.len(), 32, "{model} {more:?}: a row a token");
            let prefill = rows(&stored, &format!("prefill.{number}"));
            let expected = match number {
                2 => rows(&stored, "decode.2"),
                _ => vec![prefill.last().unwrap().clone()],
            };
            for (step, (printed, expected)) in printed.iter().zip(&expected).enumerate() {
                assert_eq!(printed.len(), expected.len());
                let gap = |(a, b): (&f64, &f64)| (a - b).abs();
                let apart = printed.iter().zip(expected).map(gap).fold(0.0, f64::max);
                let what = format!("{model} {more:?}: prompt {number}, token {step}");
                assert!(apart <= golden["tolerance"].as_f64().unwrap(), "{what}: logits differ by {apart}");
            }
        }
    }
}

/// A tensor of f32, row by row.
fn rows(stored: &SafeTensors<'_>, name: &str) -> Vec<Vec<f64>> {
    let view = stored.tensor(name).unwrap();
    let values = view.data().as_chunks().0.iter().map(|&bytes| f64::from(f32::from_le_bytes(bytes)));
    values.collect::<Vec<_>>().chunks_exact(view.shape()[1]).map(<[f64]>::to_vec).collect()
}

/// `parity.rs` has every split and several seeds, in threads.
#[test]
fn draws_are_the_same_at_every_split() {
    let prompt = vec![(1..40).collect::<Vec<u64>>()];
    for model in ["llama-gqa", "falcon-new"] {
        let draw = |seed: &str, more: &[&str]| {
            let sampling = ["--max-tokens", "24", "--temperature", "0.9", "--top-p", "0.9", "--seed", seed];
            let output = generate(model, &prompt, &[&sampling[..], more].concat()).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            ids(&report["outputs"][0]["token_ids"])
        };
        let one = draw("5", &[]);
        assert_ne!(draw("6", &[]), one);
        for more in [
            &["--tp", "2"][..],
            &["--pp", "2", "--chunk", "5"],
            &["--tp", "8", "--tcp"],
            &["--tp", "2", "--pp", "4"],
        ] {
            assert_eq!(draw("5", more), one, "{model} {more:?}");
        }
    }
}

#[test]
fn mistakes_end_with_code_2_and_say_what_is_wrong() {
    for (more, said) in [
        (&["--tp", "3"][..], "tp=3"),
        (&["--pp", "9"], "pp"),
        (&["--prompt-ids", "1,250"], "expected token ids below 250, found `250`"),
        (&["--kv-blocks", "1", "--max-tokens", "64"], "found 1 blocks"),
        (&["--temperature", "-0.1"], "expected a number from 0 to 2, found -0.1"),
        (&["--temperature", "2.5"], "expected a number from 0 to 2, found 2.5"),
        (&["--temperature", "NaN"], "expected a number from 0 to 2, found NaN"),
        (&["--temperature", "warm"], "expected a number from 0 to 2, found warm"),
        (&["--top-p", "0"], "expected a number above 0 and up to 1, found 0"),
        (&["--top-p", "1.1"], "expected a number above 0 and up to 1, found 1.1"),
        (&["--top-p", "nan"], "expected a number above 0 and up to 1, found nan"),
        (
            &["--tp", "2", "--cores", "0"],
            "--cores: expected 2 cores, one for each of 1 threads of 2 ranks, found 1",
        ),
        (&["--tp", "2", "--cores", "0,1023"], "--cores: expected cores that this host lets the process use"),
        (
            &["--threads", "2", "--cores", "0,0"],
            "--cores: expected a core of its own for each thread of rank 0, found [0, 0]",
        ),
    ] {
        let output = generate("falcon-new", &[vec![1, 2, 3]], more).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{more:?}: {error}");
        assert!(error.contains(said), "{more:?}: expected `{said}` in: {error}");
    }
}

/// A folder with a platform, a trial's configuration and the commands that run it, on two stages of two ranks.
struct Trial {
    dir: tempfile::TempDir,
}

const PIPELINES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines");
const TRIAL: [&str; 9] = [
    "bench",
    "--cluster",
    "cluster.json",
    "--weights",
    "weights.json",
    "--config",
    "config.json",
    "--out",
    "trial",
];

impl Trial {
    /// With `more` under the platform's `runtime`.
    fn new(more: &str) -> Self {
        let trial = Self { dir: tempfile::tempdir().unwrap() };
        let config = r#"{"format": 1, "scheduler": {"policy": "sarathi", "chunk": 16, "batch_cap": 4},
            "workload": {"requests": 4, "arrivals": {"kind": "static", "qps": 50}, "lengths": {"kind": "fixed", "prompt": 24, "output": 3}},
            "max_model_len": 64, "block_size": 16, "gpu_memory_utilization": 0.85, "time_limit_s": 60.0,
            "seed": 42, "repetition": 0, "band": "central", "compat": "honest"}"#;
        fs_err::write(trial.dir.path().join("config.json"), config).unwrap();
        let (code, err) = trial.cluster(more);
        assert_eq!(code, Some(0), "{err}");
        let model = format!("{PIPELINES}/models/falcon-60m.yaml");
        let shard = ["shard", "--cluster", "cluster.json", "--model", &model, "--out", "weights.json"];
        trial.ok(&[&shard[..], &["--tp", "2", "--pp", "2"]].concat());
        trial
    }

    fn cluster(&self, more: &str) -> (Option<i32>, String) {
        let platform = fs_err::read_to_string(format!("{PIPELINES}/platforms/cpu-2x4.yaml")).unwrap();
        let platform = platform.replace("shared_memory}", &format!("shared_memory, {more}}}"));
        assert!(platform.contains(more));
        fs_err::write(self.dir.path().join("platform.yaml"), platform).unwrap();
        let (code, _, err) =
            self.run(&["cluster", "--platform", "platform.yaml", "--on", "cpu", "--out", "cluster.json"]);
        (code, err)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chariot-engine"));
        command.args(args).current_dir(&self.dir);
        command
    }

    fn run(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let output = self.command(args).output().unwrap();
        let (out, err) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        (output.status.code(), out, err)
    }

    fn ok(&self, args: &[&str]) -> String {
        let (code, out, err) = self.run(args);
        assert_eq!(code, Some(0), "{args:?}: {err}");
        out
    }
}

#[test]
fn a_chunk_may_be_longer_than_any_sequence() {
    let trial = Trial::new("emulate: {time_scale: 1, bytes_per_value: 2, late_max: 1000}");
    let path = trial.dir.path().join("config.json");
    let config = fs_err::read_to_string(&path).unwrap();
    fs_err::write(path, config.replace(r#""chunk": 16"#, r#""chunk": 512"#)).unwrap();
    trial.ok(&TRIAL);
}

#[test]
fn links_that_tcp_cannot_emulate_are_doubted() {
    let emulate = "emulate: {time_scale: 20, bytes_per_value: 4}";
    let trial = Trial::new(emulate);
    let platform = fs_err::read_to_string(trial.dir.path().join("platform.yaml")).unwrap();
    let doubts = |platform: &str| {
        fs_err::write(trial.dir.path().join("other.yaml"), platform).unwrap();
        let args = ["cluster", "--platform", "other.yaml", "--on", "cpu", "--out", "other.json"];
        let (code, _, err) = trial.run(&args);
        assert_eq!(code, Some(0), "{err}");
        err
    };
    assert_eq!(doubts(&platform), "", "shared memory keeps up");
    let tcp = platform.replace("transport: shared_memory", "transport: tcp");
    let told = doubts(&tcp);
    assert_eq!(told.lines().count(), 2, "{told}");
    assert!(
        told.starts_with("warning: links.nvlink_pair asks an all-reduce for 9.8 GB/s, and TCP"),
        "{told}"
    );
    assert_eq!(doubts(&tcp.replace("time_scale: 20", "time_scale: 400")), "");
}

/// Over emulated links: the same files as the simulator's, marked measured.
#[test]
fn a_measured_trial_leaves_the_files_of_a_simulated_one() {
    let trial = Trial::new("emulate: {time_scale: 1, bytes_per_value: 2, late_max: 1000}");
    let told = trial.ok(&[&TRIAL[..], &["--trace", "trace.json"]].concat());
    assert!(told.contains("(measured), tp2 x pp2: 4 of 4 requests completed"), "{told}");
    assert!(told.contains("emulated links: ") && told.contains("% late, worst by"), "{told}");
    let path = |path: &str| trial.dir.path().join(path);
    let json = |file: &str| -> Value { serde_json::from_slice(&fs_err::read(path(file)).unwrap()).unwrap() };
    assert_eq!(json("trial/trial.json")["provenance"], "measured");
    assert_eq!(json("trace.json")["otherData"]["provenance"], "measured");
    for file in ["records.parquet", "batches.parquet"] {
        assert!(path("trial").join(file).exists(), "{file}");
    }
    let (code, _, err) = trial.run(&["cluster", "--platform", "platform.yaml", "--out", "simulated.json"]);
    assert_eq!(code, Some(2), "no costs, nothing to simulate with");
    assert!(err.contains("costs to simulate with"), "{err}");
}

/// Some message is late by some nanoseconds, always.
#[test]
fn a_trial_whose_messages_were_late_is_refused_and_leaves_no_result() {
    let trial = Trial::new("emulate: {time_scale: 1, bytes_per_value: 2, late_max: 1e-9}");
    let (code, out, err) = trial.run(&TRIAL);
    assert_eq!(code, Some(1), "{err}");
    let said = "error: the trial is invalid: its messages over emulated links were late by ";
    assert!(err.contains(said) && err.contains("runtime.emulate.time_scale"), "{err}");
    assert!(!out.contains("requests completed"), "{out}");
    let left: Vec<_> = fs_err::read_dir(trial.dir.path().join("trial")).unwrap().collect();
    assert!(left.is_empty(), "expected no result: {left:?}");
}

/// The last core that this process may use.
fn last_core() -> usize {
    let own = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).unwrap();
    (0..nix::sched::CpuSet::count()).rfind(|core| own.is_set(*core).unwrap()).unwrap()
}

/// Runs a command whose workers are to run on this core.
fn check_pinned(command: &mut Command, core: usize) {
    let mut run = command.stdout(Stdio::null()).spawn().unwrap();
    let driver = run.id();
    let mut is_pinned = false;
    while run.try_wait().unwrap().is_none() {
        let children = format!("/proc/{driver}/task/{driver}/children");
        let children = fs_err::read_to_string(children).unwrap_or_default();
        let status = |pid: &str| fs_err::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let allowed = format!("Cpus_allowed_list:\t{core}\n");
        is_pinned |= children.split_whitespace().any(|pid| status(pid).contains(&allowed));
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(run.wait().unwrap().success() && is_pinned, "workers run on core {core}");
}

#[test]
fn ranks_run_on_the_cores_that_the_platform_gives_them() {
    let core = last_core();
    let trial = Trial::new(&format!("cores: {:?}", [[core]; 8]));
    check_pinned(&mut trial.command(&TRIAL), core);

    for (cores, said) in [
        ("[[0], [0]]", "runtime.cores: expected one list of cores a device, found 2 lists for 8 devices"),
        (
            "[[0], [0], [0], [0], [0], [0], [0], [0, 1]]",
            "runtime.cores[7]: expected a core of its own for each thread, found [0, 1]",
        ),
    ] {
        let (code, err) = trial.cluster(&format!("cores: {cores}"));
        assert_eq!(code, Some(2), "{err}");
        assert!(err.contains(said), "expected `{said}`: {err}");
    }
    assert_eq!(trial.cluster(&format!("cores: {:?}", [[1023]; 8])).0, Some(0));
    let (code, _, err) = trial.run(&TRIAL);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("runtime.cores: expected cores that this host lets the process use"), "{err}");
}

#[test]
fn generate_runs_ranks_on_the_cores_that_it_is_given() {
    let core = last_core();
    let cores = format!("{core},{core}");
    let more = ["--max-tokens", "200", "--tp", "2", "--cores", &cores];
    check_pinned(&mut generate("falcon-new", &[vec![1, 2, 3]], &more), core);
}
