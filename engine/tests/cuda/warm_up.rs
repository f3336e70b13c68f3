//! What a trial asks the GPU for after its warm-up, by what the double is asked for: nothing that takes memory, and nothing that is recorded.

use serde_json::{Value, json};

use crate::bench::{Bench, PLATFORM};

/// Heads that the flash kernel takes.
const WIDE: &str = "name: wide\nfamily: falcon\nhidden_size: 128\nlayers: 2\nquery_heads: 2\nkv_heads: 2\nhead_dim: 64\nffn_size: 96\n\
                    vocab_size: 256\nparallel_attention: true\nnorms_per_layer: 2\ntied_embedding: false\n";

/// Calls of the double that are counted.
const COUNTED: [&str; 3] = ["allocate", "allocate pinned", "record"];

fn config(scheduler: &Value, qps: u32) -> String {
    json!({
        "format": 1,
        "scheduler": scheduler,
        "workload": {
            "requests": 7,
            "arrivals": {"kind": "static", "qps": qps},
            "lengths": {"kind": "fixed", "prompt": 50, "output": 30},
        },
        "max_model_len": 96, "block_size": 16, "gpu_memory_utilization": 0.85, "time_limit_s": 600.0,
        "seed": 42, "repetition": 0, "band": "central", "compat": "honest",
    })
    .to_string()
}

/// How often a trial at such a rate allocates and records, its start and warm-up included, on all of its ranks.
fn asked(bench: &Bench, scheduler: &Value, qps: u32) -> [(&'static str, u32); 3] {
    bench.write("config.json", &config(scheduler, qps));
    let folder = tempfile::tempdir().unwrap();
    let line = "bench --cluster cluster.json --weights weights.json --config config.json --out trial";
    let mut command = bench.double.command(&line.split_whitespace().collect::<Vec<_>>());
    let output =
        command.current_dir(bench.path()).env("CHARIOT_DOUBLE_TRACE", folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut counts = COUNTED.map(|call| (call, 0));
    for entry in fs_err::read_dir(folder.path()).unwrap() {
        for call in fs_err::read_to_string(entry.unwrap().path()).unwrap().lines() {
            counts.iter_mut().filter(|(counted, _)| *counted == call).for_each(|(_, count)| *count += 1);
        }
    }
    counts
}

/// A trial whose requests come one after the other asks for as much as one in which they come at once, and batches are of all sizes.
fn asks_for_nothing_later(bench: &Bench, model: &str, more: &str, scheduler: &Value) {
    bench.succeeds(&format!("shard --cluster cluster.json --model {model}.yaml --out weights.json {more}"));
    // The first one on a machine tests its GPUs, too.
    asked(bench, scheduler, 1000);
    let (apart, at_once) = (asked(bench, scheduler, 1), asked(bench, scheduler, 1000));
    assert_eq!(apart, at_once, "{model} {more}");
    assert!(apart.iter().all(|(_, count)| *count > 0), "{apart:?}");
}

#[test]
fn a_trial_takes_no_memory_and_records_nothing_after_its_warm_up() {
    let bench = Bench::new();
    bench.write("wide.yaml", WIDE);
    bench.write("gpus.yaml", &PLATFORM.replace("nodes: 2", "nodes: 1"));
    bench.succeeds("cluster --platform gpus.yaml --on cuda --out cluster.json");
    let chunks = json!({"policy": "sarathi", "chunk": 24, "batch_cap": 5});
    asks_for_nothing_later(&bench, "small", "--tp 1 --pp 2 --dtype f32", &chunks);
    let whole_prompts = json!({"policy": "vllm", "max_batched_tokens": 150, "batch_cap": 5});
    asks_for_nothing_later(&bench, "wide", "--tp 2 --pp 1 --dtype bf16", &whole_prompts);
}
