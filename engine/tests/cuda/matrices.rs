//! Matrices of two types, which GPUs do not compute with: refused in words before anything is started. On CUDA's double.

use safetensors::Dtype;

use crate::double::Double;
use crate::models::{Llama, retype};

const PLATFORM: &str = "name: one\nnodes: 1\ngpus_per_node: 1\ngpu_memory_gb: 0.5\n\
    links: [{name: none, span: 1, all_reduce: {alpha_us: 1, ring_gbps: 1}, send_recv: {alpha_us: 1, gbps: 1}}]\n\
    runtime: {threads: 1, transport: shared_memory}\n";
const CONFIG: &str = r#"{"format": 1, "scheduler": {"policy": "sarathi", "chunk": 24, "batch_cap": 2},
    "workload": {"requests": 2, "arrivals": {"kind": "static", "qps": 1000}, "lengths": {"kind": "fixed", "prompt": 5, "output": 2}},
    "max_model_len": 16, "block_size": 16, "gpu_memory_utilization": 0.05, "time_limit_s": 60.0,
    "seed": 42, "repetition": 0, "band": "central", "compat": "honest"}"#;
const GENERATE: &str = "generate --model model --prompt-ids 1,2,3 --max-tokens 2 --backend";

/// A folder with a model of bf16 in `model`, one matrix of which is in f32.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    fs_err::create_dir(&model).unwrap();
    Llama::of_two_heads(32, Dtype::BF16).write(&model, false);
    retype(&model, "lm_head.weight", Dtype::F32);
    for (name, text) in [("one.yaml", PLATFORM), ("config.json", CONFIG)] {
        fs_err::write(folder.path().join(name), text).unwrap();
    }
    folder
}

/// How a command ends, and what it says on stderr.
fn run(double: &Double, folder: &tempfile::TempDir, line: &str) -> (Option<i32>, String) {
    let arguments: Vec<&str> = line.split_whitespace().collect();
    let output = double.command(&arguments).current_dir(folder).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn matrices_of_two_types_are_refused_before_anything_is_started() {
    let (double, folder) = (Double::new().with("CHARIOT_DOUBLE_DEVICES", "1"), folder());
    let succeeds = |line: &str| {
        let (code, said) = run(&double, &folder, line);
        assert_eq!(code, Some(0), "{line}: {said}");
    };
    let refused = |line: &str, file: &str| {
        let expected = format!(
            "error: {file}: expected matrices of one type on GPUs, bf16 as the layers' projections, found lm_head.weight in f32; store all of them \
             in one type, or compute on the CPU (--backend cpu, or a cluster brought up --on cpu)\n"
        );
        assert_eq!(run(&double, &folder, line), (Some(2), expected), "{line}");
    };
    refused(&format!("{GENERATE} cuda"), "model");
    refused("serve --model model --port 0 --backend cuda", "model");
    succeeds("cluster --platform one.yaml --on cuda --out gpus.json");
    let shard = "--model model/config.json --weights model --tp 1 --pp 1 --out weights.json";
    refused(&format!("shard --cluster gpus.json {shard}"), "model");
    assert!(!folder.path().join("weights.json").exists());
    // Divided for the CPU, which computes with them.
    succeeds("cluster --platform one.yaml --on cpu --out host.json");
    succeeds(&format!("shard --cluster host.json {shard}"));
    let bench = "--weights weights.json --config config.json --out trial";
    refused(&format!("bench --cluster gpus.json {bench}"), "weights.json");
    assert!(!folder.path().join("trial").exists());
    succeeds(&format!("bench --cluster host.json {bench}"));
    succeeds(&format!("{GENERATE} cpu"));
    // A norm is no matrix.
    let model = folder.path().join("model");
    retype(&model, "lm_head.weight", Dtype::BF16);
    retype(&model, "model.norm.weight", Dtype::F32);
    succeeds(&format!("{GENERATE} cuda"));
    succeeds(&format!("shard --cluster gpus.json {shard}"));
}
