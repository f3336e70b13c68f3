//! A cluster of GPUs, brought up on CUDA's double: what is written down and measured, and trials without rank files. What the double
//! takes for a message means nothing; groups, sizes, units and provenance do.

use serde_json::{Value, json};

use crate::bench::{Bench, PLATFORM};
use crate::double::Double;

/// The groups of a fitted line's points, each once; every group has every size.
fn groups(fitted: &Value) -> Vec<Value> {
    let points = fitted["points"].as_array().unwrap();
    let sizes: Vec<u64> = points.iter().map(|point| point["bytes"].as_u64().unwrap()).collect();
    let expected: Vec<u64> = (18..=24).map(|power| 1 << power).collect();
    assert!(sizes.chunks(expected.len()).all(|group| group == expected), "{sizes:?}");
    for point in points {
        assert!(point["us"].as_f64().unwrap() > 0.0 && point["repeats"].as_u64().unwrap() >= 12, "{point}");
    }
    points.iter().step_by(expected.len()).map(|point| point["ranks"].clone()).collect()
}

/// A line's coefficients are those of the class, and its errors those of its points by the cost model's formula.
fn check_line(link: &Value, kind: &str, rate: &str, measured: &Value) {
    let fitted = &measured[kind];
    assert_eq!((&link[kind]["alpha_us"], &link[kind][rate]), (&fitted["alpha_us"], &fitted["gbps"]));
    let number = |name: &str| fitted[name].as_f64().unwrap();
    let mut worst = 0.0_f64;
    for point in fitted["points"].as_array().unwrap() {
        let ranks = point["ranks"].as_array().unwrap().len() as f64;
        let factor = if kind == "all_reduce" { 2.0 * (ranks - 1.0) / ranks } else { 1.0 };
        let bytes = point["bytes"].as_f64().unwrap();
        let us = number("alpha_us") + factor * bytes / (number("gbps") * 1e9) * 1e6;
        worst = worst.max((us / point["us"].as_f64().unwrap() - 1.0).abs());
    }
    assert!((worst - number("error_max")).abs() < 0.01 * (1.0 + worst), "{worst}: {fitted}");
}

#[test]
fn a_cluster_writes_down_its_gpus_and_measures_every_class_of_links() {
    let bench = Bench::new();
    let told = bench.succeeds("cluster --platform gpus.yaml --on cuda --out cluster.json");
    for line in ["near (measured): all-reduce", "far (measured): send/recv", "gpus (measured): 2 x 2"] {
        assert!(told.contains(line), "expected `{line}` in: {told}");
    }
    let cluster = bench.json("cluster.json");
    assert_eq!((&cluster["provenance"], &cluster["link_costs"]), (&json!("measured"), &json!("measured")));
    assert_eq!(cluster["preset"]["runtime"]["backend"], "cuda");
    let hardware = &cluster["hardware"][0];
    let gpus = hardware["gpus"].as_array().unwrap();
    assert_eq!(gpus.len(), 8, "the double has eight, of which the platform takes four");
    assert!(gpus.iter().all(|gpu| gpu["memory_bytes"].as_u64().unwrap() > 0 && gpu["name"] != ""));
    assert_ne!(gpus[0]["uuid"], gpus[1]["uuid"]);
    let asked: Vec<bool> = gpus.iter().map(|gpu| gpu["free_bytes"].is_u64()).collect();
    assert_eq!(asked, [true, true, true, true, false, false, false, false]);
    assert_eq!(hardware["peers"].as_array().unwrap().len(), 28);
    assert_eq!(hardware["peers"][0]["link"], json!({"kind": "pcie", "nearest": "switch"}));
    assert_eq!(gpus[7]["pcie"], json!({"generation": 4, "lanes": 8}));
    assert!(hardware["nccl"].is_string() && hardware["cuda"].is_string(), "{hardware}");
    let [near, far] = [0, 1].map(|class| &cluster["measured_links"][class]);
    assert_eq!(groups(&near["all_reduce"]), [json!([0, 1]), json!([2, 3])]);
    assert_eq!(groups(&near["send_recv"]), [json!([0, 1]), json!([2, 3])]);
    assert_eq!(groups(&far["all_reduce"]), [json!([0, 1, 2, 3])]);
    assert_eq!(groups(&far["send_recv"]), [json!([0, 2])]);
    for (class, measured) in [near, far].into_iter().enumerate() {
        let link = &cluster["preset"]["links"][class];
        check_line(link, "all_reduce", "ring_gbps", measured);
        check_line(link, "send_recv", "gbps", measured);
    }
    // A trial on it, simulated: the links are this cluster's, the numbers are not called measured.
    bench.succeeds(
        "shard --cluster cluster.json --model small.yaml --tp 2 --pp 2 --in-memory --out weights.json",
    );
    bench.succeeds(
        "simulate --cluster cluster.json --weights weights.json --config config.json --out simulated",
    );
    assert_eq!(bench.json("simulated/trial.json")["provenance"], "simulated");
    // The preset's links alone would have taken a thousand seconds a message.
    assert!(bench.json("simulated/trial.json")["end_ns"].as_u64().unwrap() < 60_000_000_000);
    let told = bench
        .succeeds("bench --cluster cluster.json --weights weights.json --config config.json --out measured");
    assert!(told.contains("gpus (measured), tp2 x pp2: 3 of 3 requests completed"), "{told}");
    assert_eq!(bench.json("measured/trial.json")["provenance"], "measured");
    assert!(!bench.path().join("rank-000.safetensors").exists());
}

#[test]
fn one_gpu_has_no_links_and_needs_no_nccl() {
    let mut bench = Bench::new();
    bench.double = Double::new().without("libnccl").with("CHARIOT_DOUBLE_MEMORY", "40000000");
    let one = PLATFORM.replace("nodes: 2", "nodes: 1").replace("gpus_per_node: 2", "gpus_per_node: 1");
    bench.write("gpus.yaml", &one);
    bench.succeeds("cluster --platform gpus.yaml --on cuda --out cluster.json");
    let cluster = bench.json("cluster.json");
    assert_eq!((&cluster["link_costs"], &cluster["measured_links"]), (&Value::Null, &Value::Null));
    assert_eq!(cluster["hardware"][0]["nccl"], Value::Null);
    let free = cluster["hardware"][0]["gpus"][0]["free_bytes"].as_f64().unwrap();
    assert!(free > 39e6 && free < 40e6, "a rank without weights has little of 40 MB: {free}");
    assert_eq!(cluster["preset"]["gpu_memory_gb"], free / 1e9, "no more than is free");
    let two = PLATFORM.replace("nodes: 2", "nodes: 1");
    bench.write("gpus.yaml", &two);
    bench.refuses("cluster --platform gpus.yaml --on cuda --out cluster.json", "--on cuda: no NCCL");
}

#[test]
fn measured_links_become_a_platform_that_is_simulated_and_profiled() {
    let bench = Bench::new();
    let two = PLATFORM.replace("nodes: 2", "nodes: 1").replace("name: near", "name: pcie");
    bench.write("gpus.yaml", &two);
    bench.succeeds("cluster --platform gpus.yaml --on cuda --out cluster.json --platform-out here.yaml");
    let measured = bench.json("cluster.json");
    let text = fs_err::read_to_string(bench.path().join("here.yaml")).unwrap();
    let head = "# gpus.yaml with links measured on 2 GPUs Chariot CUDA double, by\n";
    assert!(text.starts_with(head), "{text}");
    for line in [
        "  # measured by chariot-engine cluster, 2 GPUs Chariot CUDA double: all-reduce off by ",
        " at worst; send/recv not measured\n",
    ] {
        assert!(text.contains(line), "expected {line:?} in {text}");
    }
    bench.succeeds("cluster --platform here.yaml --out simulated.json");
    let simulated = bench.json("simulated.json");
    assert_eq!(simulated["preset"]["links"], measured["preset"]["links"]);
    assert_ne!(simulated["preset"]["links"][0]["all_reduce"]["alpha_us"], 1e9);
    assert_eq!(simulated["preset"], measured["preset"]);
    bench.succeeds(
        "profile --platform here.yaml --model small.yaml --parallel 2x1 --seconds 1 --max-tokens 8 --out profiled.yaml",
    );
    bench.succeeds("cluster --platform profiled.yaml --out profiled.json");
    let profiled = bench.json("profiled.json");
    assert_eq!(profiled["preset"]["links"], measured["preset"]["links"]);
    assert!(profiled["preset"]["stage"]["measured"].is_object(), "{profiled}");
    bench.refuses(
        "cluster --platform gpus.yaml --out no.json --platform-out no.yaml",
        "--platform-out: expected --on cuda",
    );
    bench.refuses(
        "cluster --platform gpus.yaml --on cuda --out no.json --platform-out no/no.yaml",
        "no/no.yaml: expected its folder to be there, found none",
    );
    bench.refuses(
        "cluster --platform gpus.yaml --out no/no.json",
        "no/no.json: expected its folder to be there, found none",
    );
    assert!(!bench.path().join("no.json").exists());
    assert!(!bench.path().join("no.yaml").exists());
}

#[test]
fn classes_that_do_not_fit_the_gpus_are_warned_of() {
    let mut bench = Bench::new();
    bench.double =
        Double::new().with("CHARIOT_DOUBLE_LINKS", "pairs").with("CUDA_VISIBLE_DEVICES", "0,2,1,3");
    let two = PLATFORM.replace("nodes: 2", "nodes: 1").replace("name: near", "name: nvlink");
    bench.write("gpus.yaml", &two);
    let told = bench.succeeds("cluster --platform gpus.yaml --on cuda --out cluster.json");
    let expected = "warning: links.nvlink should be NVLink, but GPUs 0 and 1 have PCIe through host bridges of one NUMA node; \
                    CUDA_VISIBLE_DEVICES sets the order of GPUs\n";
    assert!(told.contains(expected), "{told}");
    assert_eq!(
        bench.json("cluster.json")["hardware"][0]["peers"][1]["link"],
        json!({"kind": "nvlink", "links": 4})
    );
    bench.double = Double::new().with("CHARIOT_DOUBLE_LINKS", "pairs").with("CUDA_VISIBLE_DEVICES", "2,3");
    let told = bench.succeeds("cluster --platform gpus.yaml --on cuda --out cluster.json");
    assert!(!told.contains("warning"), "{told}");
}

#[test]
fn emulated_links_are_refused() {
    let bench = Bench::new();
    let emulate =
        "runtime: {threads: 1, transport: shared_memory, emulate: {time_scale: 1, bytes_per_value: 2}}\n";
    bench.write("gpus.yaml", &format!("{PLATFORM}{emulate}"));
    let expected = "runtime.emulate: expected none with backend cuda";
    bench.refuses("cluster --platform gpus.yaml --on cuda --out cluster.json", expected);
}

/// Products of a rank of two, and attention of prompts and of decodes; of at most 8 tokens.
fn check_operations(operations: &Value) {
    let number = |value: &Value| value.as_f64().unwrap();
    let products = operations["products"].as_array().unwrap();
    let sizes: Vec<[f64; 2]> = products.iter().map(|one| [number(&one["k"]), number(&one["n"])]).collect();
    assert_eq!(sizes, [[32.0, 64.0], [48.0, 64.0], [64.0, 64.0], [64.0, 96.0], [64.0, 128.0]]);
    for product in products {
        let points = product["rows_us"].as_array().unwrap();
        let rows: Vec<f64> = points.iter().map(|point| number(&point[0])).collect();
        assert_eq!(rows, [1.0, 8.0], "{product}");
        assert!(points.iter().all(|point| number(&point[1]) > 0.0), "{product}");
    }
    let attention = operations["attention"].as_array().unwrap();
    let batch = |one: &Value| ["sequences", "tokens", "context"].map(|name| number(&one[name]));
    let batches: Vec<[f64; 3]> = attention.iter().map(batch).collect();
    let expected =
        [[1.0, 1.0, 0.0], [1.0, 8.0, 0.0], [1.0, 1.0, 512.0], [1.0, 1.0, 1536.0], [4.0, 1.0, 960.0]];
    assert_eq!(batches, expected);
    assert!(attention.iter().all(|one| number(&one["us"]) > 0.0), "{attention:?}");
    // Three times the keys take longer on anything.
    assert!(number(&attention[3]["us"]) > number(&attention[2]["us"]), "{attention:?}");
}

#[test]
fn a_profile_on_gpus_is_one_that_the_simulator_reads() {
    let mut bench = Bench::new();
    let runtime = "runtime: {backend: cuda, threads: 1, transport: shared_memory}\n";
    let own = PLATFORM.split_once("stage:").unwrap().0;
    bench.write("gpus.yaml", &format!("{own}{runtime}"));
    let told = bench.succeeds(
        "profile --platform gpus.yaml --model small.yaml --parallel 2x1 --seconds 1 --max-tokens 8 --out here.yaml",
    );
    for line in ["small at tp2 x pp1 (measured)", "all-reduce", "64 x 96, GFLOP/s", "attention, 4 x 1 @ 960"]
    {
        assert!(told.contains(line), "expected `{line}` in: {told}");
    }
    let text = fs_err::read_to_string(bench.path().join("here.yaml")).unwrap();
    assert!(text.starts_with("# Costs measured on 8 GPUs (") && text.contains("backend: cuda"), "{text}");
    bench.succeeds("cluster --platform here.yaml --out simulated.json");
    check_operations(
        &bench.json("simulated.json")["preset"]["stage"]["measured"]["layouts"][0]["operations"],
    );
    bench.succeeds(
        "shard --cluster simulated.json --model small.yaml --tp 2 --pp 1 --in-memory --out weights.json",
    );
    let told = bench
        .succeeds("simulate --cluster simulated.json --weights weights.json --config config.json --out out");
    assert!(told.contains("(simulated, central band), tp2 x pp1: 3 of 3 requests completed"), "{told}");
    bench.double = Double::new().with("CHARIOT_DOUBLE_DEVICES", "1");
    bench.refuses(
        "profile --platform gpus.yaml --model small.yaml --parallel 2x1 --out no.yaml",
        "runtime.backend: expected a GPU for each of 2 ranks, found 1",
    );
}
