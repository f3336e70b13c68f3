//! The real binary: outputs, exit codes and messages.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::process::{Command, Output};

use camino::{Utf8Path, Utf8PathBuf};

const CONFIG: &str = r#"{
  "format": 1,
  "scheduler": {"policy": "sarathi", "chunk": 512, "batch_cap": 128},
  "workload": {"requests": 50, "arrivals": {"kind": "poisson", "qps": 0.75}, "lengths": {"kind": "fixed", "prompt": 700, "output": 20}},
  "max_model_len": 8192, "block_size": 16, "gpu_memory_utilization": 0.85, "time_limit_s": 1800.0,
  "seed": 42, "repetition": 0, "band": "all", "compat": "honest"
}"#;

fn pipelines(path: &str) -> String {
    format!("{}/../pipelines/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// A directory with a cluster and the weights of Falcon-180B, in both layouts.
struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { directory: tempfile::tempdir().unwrap() };
        let platform = pipelines("platforms/azure-nc96ads-a100-v4-x2.yaml");
        bench.succeeds(&["cluster", "--platform", &platform, "--out", "cluster.json"]);
        for (tp, pp, out) in [("8", "1", "tp8.json"), ("4", "2", "tp4pp2.json")] {
            bench.succeeds(
                &bench
                    .shard(&pipelines("models/falcon-180b.yaml"), tp, pp, out)
                    .each_ref()
                    .map(|a| a.as_str()),
            );
        }
        bench.write("config.json", CONFIG);
        bench
    }

    fn shard(&self, model: &str, tp: &str, pp: &str, out: &str) -> [String; 11] {
        ["shard", "--cluster", "cluster.json", "--model", model, "--tp", tp, "--pp", pp, "--out", out]
            .map(str::to_owned)
    }

    fn path(&self) -> &Utf8Path {
        Utf8Path::from_path(self.directory.path()).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        fs_err::write(self.path().join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs_err::read(self.path().join(name)).unwrap()
    }

    fn json(&self, name: &str) -> serde_json::Value {
        serde_json::from_slice(&self.read(name)).unwrap()
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_chariot-engine"))
            .args(args)
            .current_dir(self.path())
            .output()
            .unwrap()
    }

    fn succeeds(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn refuses(&self, args: &[&str], expected: &str) {
        let output = self.run(args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(expected), "expected `{expected}` in: {stderr}");
    }

    fn simulate(&self, weights: &str, out: &str, more: &[&str]) -> String {
        let args = [
            "simulate",
            "--cluster",
            "cluster.json",
            "--weights",
            weights,
            "--config",
            "config.json",
            "--out",
            out,
        ];
        self.succeeds(&[&args[..], more].concat())
    }

    fn refuses_config(&self, from: &str, to: &str, expected: &str) {
        assert!(CONFIG.contains(from));
        self.write("config.json", &CONFIG.replacen(from, to, 1));
        let args = [
            "simulate",
            "--cluster",
            "cluster.json",
            "--weights",
            "tp8.json",
            "--config",
            "config.json",
            "--out",
            "bad",
        ];
        self.refuses(&args, expected);
        assert!(!self.path().join("bad").exists(), "a refused trial leaves nothing");
    }

    fn files(&self, directory: &str) -> Vec<String> {
        let entries = fs_err::read_dir(self.path().join(directory)).unwrap();
        let name = |entry: std::io::Result<fs_err::DirEntry>| {
            let path = Utf8PathBuf::from_path_buf(entry.unwrap().path()).unwrap();
            path.file_name().unwrap().to_owned()
        };
        let mut names: Vec<String> = entries.map(name).collect();
        names.sort();
        names
    }
}

#[test]
fn a_trial_writes_what_the_contract_says_and_says_simulated() {
    let bench = Bench::new();
    let line = bench.simulate("tp4pp2.json", "trial", &[]);
    assert!(line.contains("falcon-180b on azure-nc96ads-a100-v4-x2 (simulated, central band), tp4 x pp2: 50 of 50 requests completed"), "{line}");
    let expected =
        ["batches.parquet", "records-high.parquet", "records-low.parquet", "records.parquet", "trial.json"];
    assert_eq!(bench.files("trial"), expected);
    let trial = bench.json("trial/trial.json");
    assert_eq!((&trial["provenance"], &trial["stopped"]), (&"simulated".into(), &serde_json::Value::Null));
    assert_eq!((&trial["parallel"]["tp"], &trial["kv_blocks"]), (&4.into(), &78_636.into()));
    assert_eq!(trial["config"], serde_json::from_str::<serde_json::Value>(CONFIG).unwrap());
}

#[test]
fn the_band_widens_a_layout_across_nodes_and_leaves_one_within_alone() {
    let bench = Bench::new();
    for (weights, touched) in [("tp8.json", true), ("tp4pp2.json", false)] {
        bench.simulate(weights, "trial", &[]);
        let central = bench.read("trial/records.parquet");
        assert_eq!(central != bench.read("trial/records-low.parquet"), touched, "{weights}");
        assert_eq!(central != bench.read("trial/records-high.parquet"), touched, "{weights}");
    }
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let bench = Bench::new();
    for out in ["a", "b"] {
        bench.simulate("tp8.json", out, &["--trace", &format!("{out}.trace.json")]);
    }
    for name in bench.files("a") {
        assert!(bench.read(&format!("a/{name}")) == bench.read(&format!("b/{name}")), "{name}");
    }
    assert!(bench.read("a.trace.json") == bench.read("b.trace.json"));
}

#[test]
fn a_trace_has_every_batch_in_every_stage() {
    let bench = Bench::new();
    bench.simulate("tp4pp2.json", "trial", &["--trace", "trace.json"]);
    let trace = bench.json("trace.json");
    assert_eq!(trace["otherData"]["provenance"], "simulated");
    let events = trace["traceEvents"].as_array().unwrap();
    let count = |phase: &str| events.iter().filter(|event| event["ph"] == phase).count();
    let in_stage = |stage| events.iter().filter(|event| event["ph"] == "X" && event["tid"] == stage).count();
    assert!(in_stage(0) > 0 && in_stage(0) == in_stage(1));
    assert_eq!(count("b"), count("e"));
    assert_eq!(count("C"), 2 * in_stage(0));
}

#[test]
fn a_hopeless_trial_stops_and_says_why() {
    let bench = Bench::new();
    let line = bench.simulate("tp8.json", "trial", &["--stop-when-hopeless", "p99(tbt) <= 0.01"]);
    assert!(line.contains("stopped: p99(tbt) <= 0.01 cannot hold any more"), "{line}");
    assert_eq!(bench.json("trial/trial.json")["stopped"], "p99(tbt) <= 0.01");
}

#[test]
fn compat_changes_the_trial() {
    let bench = Bench::new();
    bench.simulate("tp8.json", "honest", &[]);
    bench.write("config.json", &CONFIG.replace("honest", "sarathi"));
    bench.simulate("tp8.json", "sarathi", &[]);
    assert!(bench.read("honest/records.parquet") != bench.read("sarathi/records.parquet"));
}

#[test]
fn falcon_180b_has_the_experiments_kv_memory_in_both_layouts() {
    let bench = Bench::new();
    for weights in ["tp8.json", "tp4pp2.json"] {
        bench.simulate(weights, "trial", &[]);
        let tokens = bench.json("trial/trial.json")["kv_blocks"].as_u64().unwrap() * 16;
        assert!((1_240_000..=1_300_000).contains(&tokens), "{weights}: {tokens}");
        assert_eq!(bench.json(weights)["total_bytes"].as_u64().unwrap() / 1_000_000_000, 359);
    }
}

#[test]
fn models_that_do_not_fit_are_refused() {
    let bench = Bench::new();
    let falcon = pipelines("models/falcon-180b.yaml");
    let refuses = |model: &str, tp, pp, expected| {
        bench.refuses(&bench.shard(model, tp, pp, "w.json").each_ref().map(|a| a.as_str()), expected);
    };
    refuses(&falcon, "3", "1", "expected 232 query heads divisible by tp=3, found remainder 1");
    refuses(
        &falcon,
        "8",
        "2",
        "expected tp x pp of at most 8, the devices of azure-nc96ads-a100-v4-x2, found 8 x 2 = 16",
    );
    refuses(
        &falcon,
        "1",
        "1",
        "expected each rank's weights to fit the 84.99 GB of a device, found 359.05 GB at tp=1 pp=1",
    );
    refuses("absent.yaml", "1", "1", "absent.yaml: expected a file, found none");
    bench.write("model.json", r#"{"model_type": "mixtral"}"#);
    refuses(
        "model.json",
        "1",
        "1",
        "model.json: model_type: expected one of falcon, llama, mistral, found `mixtral`",
    );
    bench.write("model.yaml", "name: x\nlayer: 3\n");
    refuses("model.yaml", "1", "1", "layer");
}

#[test]
fn wrong_configurations_name_the_file_and_the_field() {
    let bench = Bench::new();
    bench.refuses_config("\"format\": 1", "\"format\": 2", "config.json: format: expected 1, found 2");
    bench.refuses_config("\"batch_cap\"", "\"batchcap\"", "config.json: unknown field `batchcap`");
    bench.refuses_config(
        "\"sarathi\"",
        "\"saarthi\"",
        "unknown variant `saarthi`, expected one of `sarathi`",
    );
    bench.refuses_config(
        "\"sarathi\"",
        "\"vllm\"",
        "scheduler.chunk: expected none, but for sarathi and simple_chunking",
    );
    bench.refuses_config(
        "\"chunk\": 512, ",
        "",
        "scheduler.chunk: expected it or chunk_schedule for sarathi, found neither",
    );
    bench.refuses_config("\"chunk\": 512", "\"chunk\": 0", "expected chunk of at least 1, found 0");
    bench.refuses_config(
        "0.85",
        "1.85",
        "gpu_memory_utilization: expected a share above 0 and at most 1, found 1.85",
    );
    bench.refuses_config("0.85", "0.3", "expected room for a KV block");
    bench.refuses_config("\"qps\": 0.75", "\"qps\": 0", "qps");
    bench.refuses_config("1800.0", "-1", "time_limit_s: expected a time above 0");
    bench.refuses_config("}", "", "config.json");
    let args = [
        "simulate",
        "--cluster",
        "tp8.json",
        "--weights",
        "tp8.json",
        "--config",
        "config.json",
        "--out",
        "bad",
    ];
    bench.refuses(&args, "tp8.json");
    bench.refuses(
        &["simulate", "--stop-when-hopeless", "p99(tpot) <= 1"],
        "expected one of the metrics tbt, ttft, scheduling_delay",
    );
}
