//! A whole trial on CUDA's double: brought up, divided, measured, and what each operation took in its trace.

use serde_json::Value;

use crate::double::Double;

const PLATFORM: &str = "
name: two-gpus
nodes: 1
gpus_per_node: 2
gpu_memory_gb: 0.002
links:
  - {name: nvlink, span: 2, all_reduce: {alpha_us: 40, ring_gbps: 195}, send_recv: {alpha_us: 30, gbps: 195}}
runtime: {threads: 1, transport: shared_memory}
";
const MODEL: &str = "
name: tiny
family: falcon
hidden_size: 64
layers: 2
query_heads: 8
kv_heads: 4
head_dim: 8
ffn_size: 128
vocab_size: 96
parallel_attention: true
norms_per_layer: 2
tied_embedding: false
";
const CONFIG: &str = r#"{"format": 1, "scheduler": {"policy": "sarathi", "chunk": 16, "batch_cap": 4},
    "workload": {"requests": 3, "arrivals": {"kind": "static", "qps": 50}, "lengths": {"kind": "fixed", "prompt": 12, "output": 3}},
    "max_model_len": 32, "block_size": 16, "gpu_memory_utilization": 0.85, "time_limit_s": 60.0,
    "seed": 42, "repetition": 0, "band": "central", "compat": "honest"}"#;

/// Runs a command in a folder, which ends well.
fn ok(double: &Double, folder: &tempfile::TempDir, arguments: &[&str]) {
    let output = double.command(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Every stay in a stage.
fn events(folder: &tempfile::TempDir) -> Vec<Value> {
    let trace: Value =
        serde_json::from_slice(&fs_err::read(folder.path().join("trace.json")).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    events.iter().filter(|event| event["ph"] == "X").cloned().collect()
}

/// The operations of every stay in a stage.
fn operations(folder: &tempfile::TempDir) -> Vec<Value> {
    events(folder).iter().map(|stay| stay["args"]["operations"].clone()).collect()
}

#[test]
fn a_trial_on_gpus_is_measured_and_its_trace_says_what_each_operation_took() {
    let (double, folder) = (Double::new().with("CHARIOT_DOUBLE_DEVICES", "2"), tempfile::tempdir().unwrap());
    for (name, text) in [("platform.yaml", PLATFORM), ("model.yaml", MODEL), ("config.json", CONFIG)] {
        fs_err::write(folder.path().join(name), text).unwrap();
    }
    ok(
        &double,
        &folder,
        &["cluster", "--platform", "platform.yaml", "--on", "cuda", "--out", "cluster.json"],
    );
    let report = measure(&double, &folder, ["2", "1"]);
    assert_eq!(report["provenance"], "measured");
    let all = operations(&folder);
    assert!(all.len() >= 3, "a prompt's batch, and one for each later token: {all:?}");
    for stay in &all {
        // Two layers that sum once each, and the embedding.
        assert_eq!(stay["all-reduce"]["calls"], 3, "{stay}");
        assert_eq!(stay["rotate_store"]["calls"], 2, "{stay}");
        let total: f64 = stay.as_object().unwrap().values().map(|one| one["us"].as_f64().unwrap()).sum();
        assert!(total > 0.0, "{stay}");
    }
    assert!(all.iter().any(|stay| stay["paged_decode"]["calls"] == 2), "{all:?}");
    assert!(all.iter().any(|stay| stay["causal_softmax"].is_object()), "{all:?}");
    // A second stage waits for the first, which is no time of its own kernels.
    measure(&double, &folder, ["1", "2"]);
    let all = operations(&folder);
    let received = all.iter().filter(|stay| stay["recv"]["calls"] == 1).count();
    assert_eq!(2 * received, all.len(), "every other stay is of the second stage: {all:?}");
    for stay in events(&folder).iter().filter(|stay| stay["args"]["operations"]["recv"].is_null()) {
        let operations = stay["args"]["operations"].as_object().unwrap();
        // The first one is timed from a little before the stay on.
        let within = operations.iter().filter(|(name, _)| *name != "embed");
        let us: f64 = within.map(|(_, one)| one["us"].as_f64().unwrap()).sum();
        assert!(
            us > 0.0 && us <= stay["dur"].as_f64().unwrap() + 10.0,
            "by the GPU's clock: {us} us of {stay}"
        );
    }
}

/// Divides the model and runs a trial; what that says of itself.
fn measure(double: &Double, folder: &tempfile::TempDir, [tp, pp]: [&str; 2]) -> Value {
    let shard = ["shard", "--cluster", "cluster.json", "--model", "model.yaml", "--out", "weights.json"];
    ok(double, folder, &[&shard[..], &["--tp", tp, "--pp", pp]].concat());
    let trial =
        ["bench", "--cluster", "cluster.json", "--weights", "weights.json", "--config", "config.json"];
    ok(double, folder, &[&trial[..], &["--out", "trial", "--trace", "trace.json"]].concat());
    serde_json::from_slice(&fs_err::read(folder.path().join("trial/trial.json")).unwrap()).unwrap()
}
