//! The real binary with real workers: the tokens of Transformers at every split and transport, and mistakes in words.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::process::{Command, Stdio};

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

#[test]
fn workers_produce_the_tokens_of_transformers_at_every_split() {
    let golden = golden("falcon-new");
    let prompts = golden["prompts"].as_array().unwrap();
    let tokens: Vec<Vec<u64>> = prompts.iter().map(|prompt| ids(&prompt["tokens"])).collect();
    for more in [
        &["--tp", "1", "--pp", "1"][..],
        &["--tp", "2", "--pp", "1", "--threads", "2"],
        &["--tp", "1", "--pp", "4", "--chunk", "7"],
        &["--tp", "4", "--pp", "2", "--chunk", "16"],
        &["--tp", "2", "--pp", "2", "--tcp"],
        // Room for about half of what the prompts and outputs need: sequences are preempted and recomputed.
        &["--tp", "2", "--pp", "2", "--chunk", "16", "--kv-blocks", "9"],
    ] {
        let output =
            generate("falcon-new", &tokens, &[&["--max-tokens", "32"], more].concat()).output().unwrap();
        assert!(output.status.success(), "{more:?}: {}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["provenance"], "measured");
        for (prompt, output) in prompts.iter().zip(report["outputs"].as_array().unwrap()) {
            assert_eq!(ids(&output["token_ids"]), ids(&prompt["greedy"]), "{more:?}");
        }
    }
}

#[test]
fn draws_are_the_same_at_every_split() {
    let prompt = vec![(1..40).collect::<Vec<u64>>()];
    let draw = |more: &[&str]| {
        let more =
            [&["--max-tokens", "24", "--temperature", "0.9", "--top-p", "0.9", "--seed", "5"], more].concat();
        let output = generate("llama-gqa", &prompt, &more).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        ids(&report["outputs"][0]["token_ids"])
    };
    let one = draw(&[]);
    assert_eq!(draw(&["--tp", "2"]), one);
    assert_eq!(draw(&["--pp", "2", "--chunk", "5"]), one);
}

#[test]
fn mistakes_end_with_code_2_and_say_what_is_wrong() {
    for (more, said) in [
        (&["--tp", "3"][..], "tp=3"),
        (&["--pp", "9"], "pp"),
        (&["--prompt-ids", "1,250"], "expected token ids below 250, found `250`"),
        (&["--kv-blocks", "1", "--max-tokens", "64"], "found 1 blocks"),
    ] {
        let output = generate("falcon-new", &[vec![1, 2, 3]], more).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{more:?}: {error}");
        assert!(error.contains(said), "{more:?}: expected `{said}` in: {error}");
    }
}

/// A trial on two stages of two ranks, over emulated links: the same files as the simulator's, marked measured.
#[test]
fn a_measured_trial_leaves_the_files_of_a_simulated_one() {
    let dir = tempfile::tempdir().unwrap();
    let pipelines = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines");
    let run = |args: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_chariot-engine")).args(args).current_dir(&dir).output().unwrap();
        let (out, err) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        (output.status.code(), out, err)
    };
    let ok = |args: &[&str]| {
        let (code, out, err) = run(args);
        assert_eq!(code, Some(0), "{args:?}: {err}");
        out
    };
    let config = r#"{"format": 1, "scheduler": {"policy": "sarathi", "chunk": 16, "batch_cap": 4},
        "workload": {"requests": 4, "arrivals": {"kind": "static", "qps": 50}, "lengths": {"kind": "fixed", "prompt": 24, "output": 3}},
        "max_model_len": 64, "block_size": 16, "gpu_memory_utilization": 0.85, "time_limit_s": 60.0,
        "seed": 42, "repetition": 0, "band": "central", "compat": "honest"}"#;
    fs_err::write(dir.path().join("config.json"), config).unwrap();
    let platform = fs_err::read_to_string(format!("{pipelines}/platforms/cpu-2x4.yaml")).unwrap();
    let emulated = "shared_memory, emulate: {time_scale: 1, bytes_per_value: 2, late_max: 1000}}";
    fs_err::write(dir.path().join("platform.yaml"), platform.replace("shared_memory}", emulated)).unwrap();
    let model = format!("{pipelines}/models/falcon-60m.yaml");
    ok(&["cluster", "--platform", "platform.yaml", "--on", "cpu", "--out", "cluster.json"]);
    ok(&[
        "shard",
        "--cluster",
        "cluster.json",
        "--model",
        &model,
        "--tp",
        "2",
        "--pp",
        "2",
        "--out",
        "weights.json",
    ]);
    let trial = [
        "--cluster",
        "cluster.json",
        "--weights",
        "weights.json",
        "--config",
        "config.json",
        "--out",
        "trial",
    ];
    let told = ok(&[&["bench"], &trial[..], &["--trace", "trace.json"]].concat());
    assert!(told.contains("(measured), tp2 x pp2: 4 of 4 requests completed"), "{told}");
    assert!(told.contains("emulated links: ") && told.contains("% late, worst by"), "{told}");
    let json = |path: &str| -> Value {
        serde_json::from_slice(&fs_err::read(dir.path().join(path)).unwrap()).unwrap()
    };
    assert_eq!(json("trial/trial.json")["provenance"], "measured");
    assert_eq!(json("trace.json")["otherData"]["provenance"], "measured");
    for file in ["records.parquet", "batches.parquet"] {
        assert!(dir.path().join("trial").join(file).exists(), "{file}");
    }
    let (code, _, err) = run(&["cluster", "--platform", "platform.yaml", "--out", "simulated.json"]);
    assert_eq!(code, Some(2), "no costs, nothing to simulate with");
    assert!(err.contains("costs to simulate with"), "{err}");
}
