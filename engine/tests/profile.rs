//! The real binary measures a small model, and the simulator takes what it found.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::process::{Command, Output};

use serde_json::Value;

const MODEL: &str = "name: small\nfamily: llama\nhidden_size: 64\nlayers: 2\nquery_heads: 4\nkv_heads: 2\nhead_dim: 16\nffn_size: 96\n\
                     vocab_size: 256\nparallel_attention: false\nnorms_per_layer: 2\ntied_embedding: false\n";
const CONFIG: &str = r#"{"format": 1, "scheduler": {"policy": "sarathi", "chunk": 24, "batch_cap": 6},
    "workload": {"requests": 12, "arrivals": {"kind": "static", "qps": 1000}, "lengths": {"kind": "fixed", "prompt": 40, "output": 9}},
    "max_model_len": 64, "block_size": 16, "gpu_memory_utilization": 0.85, "time_limit_s": 60.0,
    "seed": 42, "repetition": 0, "band": "central", "compat": "honest"}"#;

struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        let platforms = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines/platforms");
        for name in ["cpu-2x4", "constant-x8"] {
            fs_err::copy(format!("{platforms}/{name}.yaml"), bench.0.path().join(format!("{name}.yaml")))
                .unwrap();
        }
        bench.write("small.yaml", MODEL);
        bench.write("config.json", CONFIG);
        bench
    }

    fn write(&self, name: &str, text: &str) {
        fs_err::write(self.0.path().join(name), text).unwrap();
    }

    fn run(&self, line: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chariot-engine"));
        command.args(line.split_whitespace()).current_dir(&self.0).output().unwrap()
    }

    fn succeeds(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn refuses(&self, line: &str, expected: &str) {
        let output = self.run(line);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}: {error}");
        assert!(error.contains(expected), "{line}: expected `{expected}` in: {error}");
    }
}

#[test]
fn what_was_measured_can_be_simulated() {
    let bench = Bench::new();
    let told = bench.succeeds(
        "profile --platform cpu-2x4.yaml --model small.yaml --parallel 1x1,2x2 --seconds 2 --max-tokens 48 --out here.yaml --samples times.csv",
    );
    for line in [
        "small at tp1 x pp1 (measured)",
        "small at tp2 x pp2 (measured)",
        "64 x 128, GFLOP/s",
        // One rank's share of a layer in the second stage.
        "48 x 64, GFLOP/s",
        "attention, 1 x 8 @ 0",
        "attention, 16 x 1 @ 224",
        "norm, us",
        "rotary and store, us",
        "activation, us",
        // Of both stages.
        "stage 0, all-reduce",
        "stage 1, all-gather",
    ] {
        assert!(told.contains(line), "expected `{line}` in: {told}");
    }
    let text = fs_err::read_to_string(bench.0.path().join("here.yaml")).unwrap();
    assert!(text.starts_with("# Costs measured on "), "{text}");
    assert!(text.contains("--parallel 1x1,2x2 --dtype bf16 --seed 0 --max-tokens 48 --seconds 2"), "{text}");
    let times = fs_err::read_to_string(bench.0.path().join("times.csv")).unwrap();
    let rows: Vec<Vec<&str>> = times.lines().map(|line| line.split(',').collect()).collect();
    assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{times}");
    let has = |start: &[&str]| rows.iter().any(|row| row.starts_with(start));
    assert!(has(&["small", "1", "1", "false"]) && has(&["small", "2", "2", "true"]), "{times}");
    assert!(rows.iter().any(|row| row[6] == "16 x 1 @ 64" && row[7] == "16" && row[8] == "1"), "{times}");
    bench.succeeds("cluster --platform here.yaml --out simulated.json");
    bench.succeeds("cluster --platform here.yaml --on cpu --out measured.json");
    bench.succeeds("shard --cluster measured.json --model small.yaml --tp 2 --pp 2 --out weights.json");
    let trial = "--weights weights.json --config config.json";
    for out in ["first", "second"] {
        let told = bench
            .succeeds(&format!("simulate --cluster simulated.json {trial} --trace {out}.json --out {out}"));
        assert!(told.contains("(simulated, central band), tp2 x pp2: 12 of 12 requests completed"), "{told}");
    }
    let read = |name: &str| fs_err::read(bench.0.path().join(name)).unwrap();
    assert_eq!(
        read("first/records.parquet"),
        read("second/records.parquet"),
        "measured costs, simulated trials"
    );
    // Every batch was in both stages, and left each after it had come.
    let trace: Value = serde_json::from_slice(&read("first.json")).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let stays =
        |stage: u32| events.iter().filter(|event| event["ph"] == "X" && event["tid"] == stage).count();
    assert!(stays(0) > 0 && stays(0) == stays(1));
    bench.succeeds(&format!("bench --cluster measured.json {trial} --out real"));
    // What nobody measured, and weights of another type.
    bench.succeeds("shard --cluster measured.json --model small.yaml --tp 1 --pp 2 --out other.json");
    let simulate = "simulate --cluster simulated.json --config config.json --out no";
    let known = "expected small at tp1 x pp2, found small at tp1 x pp1, small at tp2 x pp2; measure it with";
    bench.refuses(&format!("{simulate} --weights other.json"), known);
    bench.succeeds(
        "shard --cluster measured.json --model small.yaml --tp 1 --pp 1 --dtype f32 --out wide.json",
    );
    bench.refuses(
        &format!("{simulate} --weights wide.json"),
        "expected Bfloat16, as was measured, found Float32",
    );
    assert!(!bench.0.path().join("no").exists());
}

#[test]
fn mistakes_are_told_before_anything_is_measured() {
    let bench = Bench::new();
    let with =
        |more: &str| format!("profile --platform cpu-2x4.yaml --model small.yaml --out no.yaml {more}");
    bench.refuses(&with("--parallel 3x1"), "small.yaml: expected 4 query heads divisible by tp=3");
    bench.refuses(&with("--parallel 1x4"), "small.yaml: expected pp of at most 2");
    bench.refuses(&with("--parallel 2"), "expected TPxPP such as 4x2, found `2`");
    bench.refuses(&with("--parallel 0x1"), "expected TPxPP such as 4x2, found `0x1`");
    bench.refuses(&with("--seconds 0"), "--seconds: expected a time above 0, found 0");
    bench.refuses(&with("--max-tokens 0"), "--max-tokens: expected a count from 1 to 8192, found 0");
    let profile = "profile --model small.yaml --out no.yaml --platform";
    bench.refuses(
        &format!("{profile} constant-x8.yaml"),
        "runtime: expected how ranks run on this machine, found none",
    );
    bench.refuses(&format!("{profile} absent.yaml"), "absent.yaml: expected a file, found none");
    bench.refuses(
        "profile --platform cpu-2x4.yaml --model absent.yaml --out no.yaml",
        "absent.yaml: expected a file",
    );
    bench.refuses(
        "profile --platform cpu-2x4.yaml --model small.yaml --out no/no.yaml",
        "no/no.yaml: expected its folder to be there, found none",
    );
    bench.refuses(
        "profile --platform cpu-2x4.yaml --model small.yaml --out no.yaml --samples no/no.csv",
        "no/no.csv: expected its folder to be there, found none",
    );
    assert!(!bench.0.path().join("no.yaml").exists());
}
