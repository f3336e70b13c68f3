//! A small cluster of the double's GPUs, a model and a trial for it, and commands that run on them.

use std::path::Path;

use serde_json::Value;

use crate::double::Double;

pub(crate) const PLATFORM: &str = "name: gpus\nnodes: 2\ngpus_per_node: 2\ngpu_memory_gb: 0.05\nlinks:
  - {name: near, span: 2, all_reduce: {alpha_us: 1e9, ring_gbps: 1e9}, send_recv: {alpha_us: 1e9, gbps: 1e9}}
  - {name: far, span: 4, all_reduce: {alpha_us: 1e9, ring_gbps: 1e9}, send_recv: {alpha_us: 1e9, gbps: 1e9}}
stage:\n  affine: {fixed_ms: 1, prefill_token_us: 0, decode_token_us: 0}
cpu:\n  schedule: {ms: 0, per_sequence_ms: 0}\n  prepare: {ms: 0, per_sequence_ms: 0}
  sampler: {ms: 0, per_sequence_ms: 0}\n  process: {ms: 0, per_sequence_ms: 0}\n  driver_round_trip_ms: 0\n";
pub(crate) const MODEL: &str = "name: small\nfamily: llama\nhidden_size: 64\nlayers: 2\nquery_heads: 4\nkv_heads: 2\nhead_dim: 16\nffn_size: 96\n\
                     vocab_size: 256\nparallel_attention: false\nnorms_per_layer: 2\ntied_embedding: false\n";
const CONFIG: &str = r#"{"format": 1, "scheduler": {"policy": "sarathi", "chunk": 24, "batch_cap": 2},
    "workload": {"requests": 3, "arrivals": {"kind": "static", "qps": 1000}, "lengths": {"kind": "fixed", "prompt": 30, "output": 3}},
    "max_model_len": 64, "block_size": 16, "gpu_memory_utilization": 0.85, "time_limit_s": 60.0,
    "seed": 42, "repetition": 0, "band": "central", "compat": "honest"}"#;

pub(crate) struct Bench {
    pub(crate) double: Double,
    folder: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let bench = Self { double: Double::new(), folder: tempfile::tempdir().unwrap() };
        for (name, text) in [("gpus.yaml", PLATFORM), ("small.yaml", MODEL), ("config.json", CONFIG)] {
            bench.write(name, text);
        }
        bench
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs_err::write(self.path().join(name), text).unwrap();
    }

    pub(crate) fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs_err::read(self.path().join(name)).unwrap()).unwrap()
    }

    pub(crate) fn run(&self, line: &str) -> (Option<i32>, String) {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let output = self.double.command(&arguments).current_dir(&self.folder).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    }

    pub(crate) fn succeeds(&self, line: &str) -> String {
        let (code, said) = self.run(line);
        assert_eq!(code, Some(0), "{line}: {said}");
        said
    }

    pub(crate) fn refuses(&self, line: &str, expected: &str) {
        let (code, said) = self.run(line);
        assert!(code == Some(2) && said.contains(expected), "{line}: expected `{expected}` in: {said}");
    }
}
