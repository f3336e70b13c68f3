//! The self-test on the double: it passes, finds whatever computes wrongly, and stands before every measured trial.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;

use chariot_engine::backend::cuda::compile::{Element, sources, text};
use serde_json::Value;

use crate::double::Double;

/// Every kernel, and the operation whose result shows that it is wrong. Without the first two nothing can be seen.
const SHOWN_BY: [(&str, &str); 17] = [
    ("embed", "embed_head, logits"),
    ("to_f32", "embed_head, logits"),
    ("gather_rows", "take_rows"),
    ("layer_norm", "layer norm"),
    ("rms_norm", "RMS norm"),
    ("gelu", "gelu"),
    ("silu_mul", "silu_mul"),
    ("add", "add"),
    ("argmax", "greedy"),
    ("draw", "draw"),
    ("rotate_store", "rotate_and_store"),
    ("flash_prefill_64", "attend"),
    ("flash_prefill_128", "attend"),
    ("gather_kv", "attend by products"),
    ("causal_softmax", "attend by products"),
    ("paged_decode", "attend"),
    ("combine", "attend"),
];

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(!err.contains("panicked"), "{err}");
    (output.status.code(), out, err)
}

/// `gpu-selftest` with a part that computes wrongly: its closing line.
fn spoilt(what: &str, more: &[&str]) -> String {
    let double = Double::new().with("CHARIOT_DOUBLE_WRONG", what);
    let arguments = [&["gpu-selftest"], more].concat();
    let (code, out, err) = said(&double.run(&arguments));
    assert_eq!(code, Some(1), "{what}: {out}{err}");
    out.lines().last().unwrap().to_owned()
}

#[test]
fn two_gpus_pass_in_all_types_with_a_line_an_operation() {
    let (code, out, err) = said(&Double::new().run(&["gpu-selftest", "--devices", "0,1"]));
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    let last = out.lines().last().unwrap();
    assert!(last.starts_with("2 GPUs compute and exchange values rightly: "), "{last}");
    let operations: BTreeSet<&str> =
        ["product", "rotate_and_store", "all_reduce", "all_gather", "send, recv"].into();
    for operation in operations.into_iter().chain(SHOWN_BY.map(|(_, operation)| operation)) {
        let types =
            if operation == "attend by products" { &["bf16", "f16"][..] } else { &["f32", "bf16", "f16"] };
        for (gpu, dtype) in [0, 1].into_iter().flat_map(|gpu| types.iter().map(move |dtype| (gpu, dtype))) {
            let is_it = |line: &&str| {
                line.starts_with(&format!("GPU {gpu}  {operation} "))
                    && line.contains(&format!("  {dtype} "))
                    && line.ends_with("  ok")
            };
            assert!(out.lines().any(|line| is_it(&line)), "no {operation} in {dtype} on GPU {gpu}: {out}");
        }
    }
}

#[test]
fn a_json_answer_has_every_result() {
    let (code, out, _) =
        said(&Double::new().run(&["gpu-selftest", "--devices", "1", "--dtype", "bf16", "--json"]));
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &answer["right"]), (Some(0), &Value::Bool(true)));
    let checks = answer["checks"].as_array().unwrap();
    assert!(checks.len() > 20, "{out}");
    for check in checks {
        assert_eq!((&check["gpu"], &check["dtype"]), (&1.into(), &"bfloat16".into()));
        assert!(check["error"].as_f64().unwrap() <= check["allowed"].as_f64().unwrap(), "{check}");
    }
}

#[test]
fn every_kernel_that_computes_wrongly_is_found_and_named() {
    let kernels: BTreeSet<String> = sources(Element::Bf16).flat_map(|source| names(&text(source))).collect();
    let shown = SHOWN_BY.map(|(kernel, _)| kernel.to_owned());
    assert_eq!(kernels, shown.into(), "a kernel lacks the operation that shows it");
    std::thread::scope(|scope| {
        for half in SHOWN_BY.chunks(SHOWN_BY.len().div_ceil(2)) {
            scope.spawn(|| half.iter().for_each(|(kernel, operation)| check_found(kernel, operation)));
        }
    });
}

fn check_found(kernel: &str, operation: &str) {
    for dtype in ["f32", "bf16"] {
        // f32 is not widened, and has no flash kernels, so that all of its chunks go through products.
        if dtype == "f32" && (kernel == "to_f32" || kernel.starts_with("flash")) {
            continue;
        }
        let operation = if dtype == "f32" { operation.trim_end_matches(" by products") } else { operation };
        let last = spoilt(kernel, &["--devices", "0", "--dtype", dtype]);
        let expected = format!("GPU 0 computes wrongly: {operation} of ");
        assert!(last.starts_with(&expected) && last.contains(dtype), "{kernel} in {dtype}: {last}");
    }
}

/// Kernels of a source.
fn names(text: &str) -> Vec<String> {
    let after = text.split("__global__ void ").skip(1);
    let unbound = |rest: &'_ str| match rest.strip_prefix("__launch_bounds__(") {
        Some(bounds) => bounds.split_once(")\n").map(|(_, rest)| rest.to_owned()).unwrap(),
        None => rest.to_owned(),
    };
    after.map(|rest| unbound(rest).split('(').next().unwrap().to_owned()).collect()
}

#[test]
fn products_and_messages_that_are_wrong_are_found_and_named() {
    let last = spoilt("gemm", &["--devices", "0", "--dtype", "f32"]);
    assert!(last.starts_with("GPU 0 computes wrongly: product of "), "{last}");
    let last = spoilt("nccl", &["--devices", "0,1", "--dtype", "f32"]);
    assert!(last.starts_with("GPU 0 gets wrong values: all_reduce of [3, 331], 2 GPUs in f32 "), "{last}");
}

#[test]
fn a_gpu_without_memory_is_a_failure_of_an_operation() {
    let double = Double::new().with("CHARIOT_DOUBLE_MEMORY", "1000");
    let (code, out, err) = said(&double.run(&["gpu-selftest", "--devices", "0"]));
    assert_eq!((code, err.as_str()), (Some(1), ""), "{out}");
    let last = out.lines().last().unwrap();
    assert!(last.starts_with("GPU 0 does not compute: "), "{last}");
    assert!(last.contains("of device memory for"), "{last}");
}

#[test]
fn without_a_gpu_it_says_what_is_missing() {
    let (code, _, err) = said(&Double::new().without("libcuda").run(&["gpu-selftest"]));
    assert_eq!(code, Some(2));
    assert_eq!(
        err,
        "error: no NVIDIA driver: libcuda.so was not found, so no GPU can be used; install the driver\n"
    );
    let (code, _, err) = said(&Double::new().run(&["gpu-selftest", "--devices", "0,8"]));
    assert_eq!((code, err.as_str()), (Some(2), "error: --devices: expected numbers below 8, found 8\n"));
}

/// One GPU, whose link to none is not measured; tests of several put their number in its place.
const PLATFORM: &str = "name: one-gpu\nnodes: 1\ngpus_per_node: 1\ngpu_memory_gb: 0.5\n\
    links: [{name: none, span: 1, all_reduce: {alpha_us: 1, ring_gbps: 1}, send_recv: {alpha_us: 1, gbps: 1}}]\n\
    runtime: {threads: 1, transport: shared_memory}\n";
const MODEL: &str = "name: small\nfamily: llama\nhidden_size: 64\nlayers: 2\nquery_heads: 4\nkv_heads: 2\nhead_dim: 16\nffn_size: 96\n\
                     vocab_size: 256\nparallel_attention: false\nnorms_per_layer: 2\ntied_embedding: false\n";
const CONFIG: &str = r#"{"format": 1, "scheduler": {"policy": "sarathi", "chunk": 24, "batch_cap": 2},
    "workload": {"requests": 2, "arrivals": {"kind": "static", "qps": 1000}, "lengths": {"kind": "fixed", "prompt": 5, "output": 2}},
    "max_model_len": 16, "block_size": 16, "gpu_memory_utilization": 0.05, "time_limit_s": 60.0,
    "seed": 42, "repetition": 0, "band": "central", "compat": "honest"}"#;

/// A folder with all that a trial of one stage of `tp` ranks needs.
fn trial_folder(double: &Double, tp: u32) -> tempfile::TempDir {
    let platform = PLATFORM
        .replace("gpus_per_node: 1", &format!("gpus_per_node: {tp}"))
        .replace("span: 1", &format!("span: {tp}"));
    folder_of(double, &platform, tp)
}

fn folder_of(double: &Double, platform: &str, tp: u32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs_err::write(path("platform.yaml"), platform).unwrap();
    fs_err::write(path("small.yaml"), MODEL).unwrap();
    fs_err::write(path("config.json"), CONFIG).unwrap();
    let shard = format!(
        "shard --cluster cluster.json --model small.yaml --tp {tp} --pp 1 --dummy 1 --out weights.json"
    );
    for line in ["cluster --platform platform.yaml --on cuda --out cluster.json", &shard] {
        let (code, out, err) = said(&run_in(&folder, double, line));
        assert_eq!(code, Some(0), "{line}: {out}{err}");
    }
    folder
}

fn run_in(folder: impl AsRef<Path>, double: &Double, line: &str) -> Output {
    let arguments: Vec<&str> = line.split_whitespace().collect();
    double.command(&arguments).current_dir(folder).output().unwrap()
}

const BENCH: &str = "bench --cluster cluster.json --weights weights.json --config config.json --out trial";

#[test]
fn a_trial_is_measured_on_a_gpu_that_passed_once_and_on_no_other() {
    let caches = tempfile::tempdir().unwrap();
    let cache = caches.path().to_str().unwrap();
    let right = Double::new().with("XDG_CACHE_HOME", cache);
    let folder = trial_folder(&right, 1);
    let wrong = Double::new().with("XDG_CACHE_HOME", cache).with("CHARIOT_DOUBLE_WRONG", "silu_mul");
    let (code, out, err) = said(&run_in(&folder, &wrong, BENCH));
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(err.starts_with("error: GPU 0 computes wrongly: silu_mul of "), "{err}");
    assert!(err.contains("nothing is measured on it"), "{err}");
    assert!(!folder.path().join("trial").exists(), "a refused trial leaves nothing");
    let (code, out, err) = said(&run_in(&folder, &right, BENCH));
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(err.starts_with("self-test before the first trial: 1 GPU computes rightly: "), "{err}");
    let (code, out, err) = said(&run_in(&folder, &right, BENCH));
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    // `profile` measures, too, and finds the stamp.
    let line =
        "profile --platform platform.yaml --model small.yaml --max-tokens 4 --seconds 0.1 --out here.yaml";
    let text = fs_err::read_to_string(folder.path().join("platform.yaml")).unwrap();
    let text = text.replace("runtime: {", "runtime: {backend: cuda, ");
    fs_err::write(folder.path().join("platform.yaml"), text).unwrap();
    let elsewhere = caches.path().join("elsewhere");
    let wrong = wrong.with("XDG_CACHE_HOME", elsewhere.to_str().unwrap());
    let (code, out, err) = said(&run_in(&folder, &wrong, line));
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(err.contains("nothing is measured on it"), "{err}");
}

#[test]
fn a_trial_of_two_gpus_waits_for_what_they_exchange() {
    let caches = tempfile::tempdir().unwrap();
    let cache = caches.path().to_str().unwrap();
    let right = Double::new().with("XDG_CACHE_HOME", cache);
    // Each of them computes rightly, and that is remembered.
    for gpu in ["0", "1"] {
        let (code, out, err) = said(&right.run(&["gpu-selftest", "--devices", gpu]));
        assert_eq!(code, Some(0), "{out}{err}");
    }
    let folder = trial_folder(&right, 2);
    let wrong = Double::new().with("XDG_CACHE_HOME", cache).with("CHARIOT_DOUBLE_WRONG", "nccl");
    let (code, _, err) = said(&run_in(&folder, &wrong, BENCH));
    assert_eq!(code, Some(1), "{err}");
    assert!(err.starts_with("error: GPU 0 gets wrong values: all_reduce of "), "{err}");
    let (code, _, err) = said(&run_in(&folder, &right, BENCH));
    assert_eq!(code, Some(0), "{err}");
    // Six results of each of two GPUs in three types, and no operations again.
    assert!(err.contains("2 GPUs exchange values rightly: 36 results in "), "{err}");
}

/// Two hosts with a rank each, which have a GPU and two, and caches of their own in `caches`; what their ranks are told can be replaced by their marks.
fn two_hosts(caches: &Path) -> (Double, String) {
    let place = |host: &str, gpus: u32| {
        let cache = caches.join(host);
        let launch =
            format!("env, CHARIOT_DOUBLE_DEVICES={gpus}, XDG_CACHE_HOME={}, MARK={host}", cache.display());
        format!("{{address: 127.0.0.{gpus}, launch: [{launch}]}}")
    };
    let places = [place("first", 1), place("second", 2)].join(", ");
    let platform = PLATFORM.replace("nodes: 1", "nodes: 2").replace("span: 1", "span: 2").replace(
        "transport: shared_memory",
        &format!("transport: tcp, driver: 127.0.0.1, places: [{places}]"),
    );
    (Double::new().with("XDG_CACHE_HOME", caches.join("driver").to_str().unwrap()), platform)
}

#[test]
fn what_gpus_of_two_hosts_exchange_is_tested_before_anything_is_measured() {
    let caches = tempfile::tempdir().unwrap();
    let (double, platform) = two_hosts(caches.path());
    let folder = folder_of(&double, &platform, 2);
    let path = folder.path().join("cluster.json");
    let text = fs_err::read_to_string(&path).unwrap();
    // Each GPU of it computes rightly, and alone it exchanges nothing.
    let spoilt = |text: &str| text.replace("MARK=second", "CHARIOT_DOUBLE_WRONG=nccl");
    let check_refused = |line: &str, left: &str| {
        let (code, out, err) = said(&run_in(&folder, &double, line));
        assert_eq!(code, Some(1), "{out}{err}");
        let expected = "error: rank 1 of node 1 (127.0.0.2) gets wrong values: all_reduce of [3, 331], 2 GPUs in f32 is off by ";
        let last = err.lines().last().unwrap();
        assert!(last.starts_with(expected) && last.contains("nothing is measured"), "{err}");
        assert!(!folder.path().join(left).exists(), "a refused measurement leaves nothing");
    };
    fs_err::write(&path, spoilt(&text)).unwrap();
    check_refused(BENCH, "trial");
    let backend = spoilt(&platform).replace("runtime: {", "runtime: {backend: cuda, ");
    fs_err::write(folder.path().join("platform.yaml"), backend).unwrap();
    check_refused(
        "profile --platform platform.yaml --model small.yaml --parallel 2x1 --max-tokens 4 --seconds 0.1 --out here.yaml",
        "here.yaml",
    );
    fs_err::write(&path, &text).unwrap();
    let (code, out, err) = said(&run_in(&folder, &double, BENCH));
    assert_eq!(code, Some(0), "{out}{err}");
    // A sum, a gather and a message of two sizes, in three types, on both.
    assert!(err.contains("2 GPUs of 2 nodes exchange values rightly: 36 results in "), "{err}");
    let (code, out, err) = said(&run_in(&folder, &double, BENCH));
    assert_eq!((code, err.contains("self-test")), (Some(0), false), "it is remembered: {out}{err}");
    // Of these GPUs behind these commands.
    fs_err::write(&path, text.replace("MARK=second", "MARK=third")).unwrap();
    let (code, out, err) = said(&run_in(&folder, &double, BENCH));
    assert_eq!((code, err.contains("exchange values rightly")), (Some(0), true), "{out}{err}");
}

#[test]
fn gpus_of_other_hosts_are_asked_and_tested_there() {
    let caches = tempfile::tempdir().unwrap();
    let (double, platform) = two_hosts(caches.path());
    let folder = folder_of(&double, &platform, 2);
    let path = folder.path().join("cluster.json");
    let text = fs_err::read_to_string(&path).unwrap();
    let cluster: Value = serde_json::from_str(&text).unwrap();
    let free = |host: usize, gpu: usize| &cluster["hardware"][host]["gpus"][gpu]["free_bytes"];
    assert_eq!(cluster["hardware"].as_array().unwrap().len(), 2, "{cluster}");
    // Rank 1 takes the second of its host's two GPUs.
    assert!(free(0, 0).is_u64() && free(1, 0).is_null() && free(1, 1).is_u64(), "{cluster}");
    fs_err::write(&path, text.replace("MARK=second", "CHARIOT_DOUBLE_WRONG=silu_mul")).unwrap();
    let (code, out, err) = said(&run_in(&folder, &double, BENCH));
    assert_eq!(code, Some(1), "{out}{err}");
    let last = err.lines().last().unwrap();
    assert!(
        last.starts_with("error: node 1 (127.0.0.2): `gpu-selftest --if-new --devices 1` failed"),
        "{err}"
    );
    assert!(last.contains("GPU 1 computes wrongly: silu_mul of "), "{err}");
    assert!(!folder.path().join("trial").exists(), "a refused trial leaves nothing");
    fs_err::write(&path, &text).unwrap();
    let (code, out, err) = said(&run_in(&folder, &double, BENCH));
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(
        err.starts_with("node 1 (127.0.0.2): self-test before the first trial: 1 GPU computes rightly: "),
        "{err}"
    );
    let (code, out, err) = said(&run_in(&folder, &double, BENCH));
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(!err.contains("self-test"), "it is remembered there: {err}");
    fs_err::write(&path, text.replace("MARK=second", "CHARIOT_DOUBLE_DEVICES=0")).unwrap();
    let (code, out, err) = said(&run_in(&folder, &double, BENCH));
    assert_eq!(code, Some(2), "{out}{err}");
    assert!(err.starts_with("error: node 1 (127.0.0.2): "), "{err}");
}
