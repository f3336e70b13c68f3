//! How many KV blocks a GPU gets: planned with what is free on it, refused in words where somebody has taken it meanwhile. On CUDA's double.

use std::io::{BufRead as _, BufReader};
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::bench::MODEL;
use crate::double::Double;
use crate::models::Llama;

const PLATFORM: &str = "name: one\nnodes: 1\ngpus_per_node: 1\ngpu_memory_gb: 80\n\
    links: [{name: none, span: 1, all_reduce: {alpha_us: 1, ring_gbps: 1}, send_recv: {alpha_us: 1, gbps: 1}}]\n\
    stage: {affine: {fixed_ms: 1, prefill_token_us: 0, decode_token_us: 0}}\n\
    cpu: {schedule: {ms: 0, per_sequence_ms: 0}, prepare: {ms: 0, per_sequence_ms: 0}, sampler: {ms: 0, per_sequence_ms: 0},\n      \
    process: {ms: 0, per_sequence_ms: 0}, driver_round_trip_ms: 0}\n";
const CONFIG: &str = r#"{"format": 1, "scheduler": {"policy": "sarathi", "chunk": 24, "batch_cap": 2},
    "workload": {"requests": 2, "arrivals": {"kind": "static", "qps": 1000}, "lengths": {"kind": "fixed", "prompt": 30, "output": 2}},
    "max_model_len": 64, "block_size": 16, "gpu_memory_utilization": 0.5, "time_limit_s": 60.0,
    "seed": 42, "repetition": 0, "band": "central", "compat": "honest"}"#;
const TRIAL: &str = "--cluster cluster.json --weights weights.json --config config.json --out";
const FALCON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/golden/falcon-new");
/// Of a small GPU, and what others hold of it.
const TOTAL: u64 = 8_000_000;
const TAKEN: u64 = 2_000_000;

/// A GPU of so many bytes of which others hold some.
fn gpu(total: u64, taken: u64) -> Double {
    let double = Double::new().with("CHARIOT_DOUBLE_DEVICES", "1");
    double.with("CHARIOT_DOUBLE_MEMORY", &total.to_string()).with("CHARIOT_DOUBLE_TAKEN", &taken.to_string())
}

fn run(double: &Double, folder: &tempfile::TempDir, line: &str) -> Output {
    let arguments: Vec<&str> = line.split_whitespace().collect();
    double.command(&arguments).current_dir(folder).output().unwrap()
}

fn succeeds(double: &Double, folder: &tempfile::TempDir, line: &str) -> String {
    let output = run(double, folder, line);
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{line}: {said}");
    said
}

fn json(folder: &tempfile::TempDir, name: &str) -> Value {
    serde_json::from_slice(&fs_err::read(folder.path().join(name)).unwrap()).unwrap()
}

#[test]
fn blocks_are_planned_with_what_is_free_by_the_simulator_and_the_engine_alike() {
    let (double, folder) = (gpu(TOTAL, TAKEN), tempfile::tempdir().unwrap());
    for (name, text) in [("one.yaml", PLATFORM), ("small.yaml", MODEL), ("config.json", CONFIG)] {
        fs_err::write(folder.path().join(name), text).unwrap();
    }
    let told = succeeds(&double, &folder, "cluster --platform one.yaml --on cuda --out cluster.json");
    assert!(told.contains("memory (measured): 0.01 GB free on each GPU, 0.01 GB planned with"), "{told}");
    let cluster = json(&folder, "cluster.json");
    let gpu_0 = &cluster["hardware"][0]["gpus"][0];
    let free = gpu_0["free_bytes"].as_u64().unwrap();
    assert_eq!(gpu_0["memory_bytes"], TOTAL);
    // The rank itself held a little: its small model.
    assert!((TOTAL - TAKEN - 500_000..TOTAL - TAKEN).contains(&free), "{free}");
    let planned = cluster["preset"]["gpu_memory_gb"].as_f64().unwrap();
    assert_eq!((planned * 1e9).round() as u64, free);

    succeeds(
        &double,
        &folder,
        "shard --cluster cluster.json --model small.yaml --tp 1 --pp 1 --in-memory --out weights.json",
    );
    succeeds(&double, &folder, &format!("simulate {TRIAL} simulated"));
    succeeds(&double, &folder, &format!("bench {TRIAL} measured"));
    let blocks = |trial: &str| json(&folder, &format!("{trial}/trial.json"))["kv_blocks"].as_u64().unwrap();
    // 256 bytes of keys and values a token: 2 layers of 2 heads of 16, in bf16. Of activations 168 kB, of weights 150 kB.
    let left = free / 2 - json(&folder, "weights.json")["memory"]["weight_bytes_max"].as_u64().unwrap();
    assert_eq!(blocks("simulated"), blocks("measured"));
    assert!((1..=left / (16 * 256)).contains(&blocks("measured")), "{} in {left}", blocks("measured"));

    // Somebody takes most of the GPU after it was brought up.
    let output = run(&gpu(TOTAL, 5_500_000), &folder, &format!("bench {TRIAL} refused"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let blocks = format!("{} KV blocks need 0.00 GB", blocks("measured"));
    for part in
        ["rank 0 ", "GPU 0 has 0.00 of its 0.01 GB free after weights", &blocks, "gpu_memory_utilization"]
    {
        assert!(said.contains(part), "expected `{part}` in: {said}");
    }
    assert!(!folder.path().join("refused/trial.json").exists());
}

#[test]
fn blocks_that_a_user_asks_for_are_refused_in_words_where_they_do_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let line =
        format!("generate --backend cuda --model {FALCON} --prompt-ids 1,2,3 --max-tokens 2 --kv-blocks");
    succeeds(&gpu(TOTAL, 0), &folder, &format!("{line} 10"));
    let output = run(&gpu(TOTAL, 0), &folder, &format!("{line} 10000"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("; 10000 KV blocks need ") && said.contains("--kv-blocks"), "{said}");
}

/// The server's first line, with the number of its KV blocks.
fn serve(double: &Double, model: &str, more: &[&str]) -> String {
    let arguments = ["serve", "--backend", "cuda", "--port", "0", "--chunk", "32", "--model", model];
    let mut command = double.command(&[&arguments[..], more].concat());
    let mut server = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    server.kill().unwrap();
    let said = server.wait_with_output().unwrap().stderr;
    if line.is_empty() { String::from_utf8(said).unwrap() } else { line }
}

fn blocks_of(line: &str) -> u64 {
    let number = line.split(" KV blocks").next().and_then(|text| text.rsplit(' ').next());
    number.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{line}"))
}

#[test]
fn a_server_takes_what_is_free_where_nobody_says_how_much() {
    let more = ["--batch-cap", "16", "--max-model-len", "2000"];
    let blocks = |double: &Double| blocks_of(&serve(double, FALCON, &more));
    let (most, fewer) = (blocks(&gpu(5 * TOTAL, 0)), blocks(&gpu(5 * TOTAL, 5 * TAKEN)));
    assert!(fewer >= 1 && fewer < most, "{fewer}, {most}");
    let line = serve(&gpu(TOTAL, TOTAL - 1_000_000), FALCON, &more);
    assert!(line.contains("expected GPUs with room for"), "{line}");
}

/// Keys and values take what the weights' type takes, whatever the configuration says of it.
#[test]
fn a_server_plans_with_the_type_that_the_weights_have() {
    let folder = tempfile::tempdir().unwrap();
    Llama::of_two_heads(32, safetensors::Dtype::F32).write(folder.path(), false);
    let more = ["--batch-cap", "64", "--max-model-len", "200"];
    let model = folder.path().to_str().unwrap();
    let blocks = || blocks_of(&serve(&gpu(10_000_000, 0), model, &more));
    let silent = blocks();
    let config = folder.path().join("config.json");
    let text = fs_err::read_to_string(&config).unwrap();
    fs_err::write(&config, text.replacen('{', r#"{"torch_dtype": "float16", "#, 1)).unwrap();
    assert_eq!(blocks(), silent);
}
