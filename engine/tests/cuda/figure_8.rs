//! Figure 8 on GPUs from end to end, as its file says to run it: the planner, the engine and the figures, on CUDA's double. What makes it small is
//! said with `--set`, but for the model and the platform. Its times mean nothing; what is measured, kept and run again does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::double::Double;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

const PLATFORM: &str = "
name: two-gpus
nodes: 1
gpus_per_node: 2
gpu_memory_gb: 0.01
links:
  - {name: pair, span: 2, all_reduce: {alpha_us: 20, ring_gbps: 20}, send_recv: {alpha_us: 20, gbps: 20}}
runtime: {backend: cuda, threads: 1, transport: shared_memory}
";

const MODEL: &str = "
name: small
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

/// Chunks are so small that prompts wait for each other at a high rate, whatever a step takes.
const SMALL: [&str; 11] = [
    "platform=two-gpus",
    "model=small",
    "layouts={tensor: {tp: 2, pp: 1}, hybrid: {tp: 1, pp: 2}}",
    "systems={tensor: {parallel: tensor, scheduler: {policy: sarathi, chunk: 4}}, hybrid: {parallel: hybrid, scheduler: {policy: sarathi, chunk: 4}}}",
    "batches=[2]",
    "chunk=16",
    "requests=12",
    "max_model_len=32",
    "time_limit=1 min",
    "qps=4",
    "granularity=90 %",
];

const TRIALS: [&str; 2] =
    ["figure-8-gpus/latency/measured-tensor-b2", "figure-8-gpus/latency/measured-hybrid-b2"];

/// A project with the repository's pipelines, on two GPUs that nobody has used yet.
struct Project {
    folder: tempfile::TempDir,
    double: Double,
}

/// Every file in `out/figure-8-gpus`.
type Files = BTreeMap<String, Vec<u8>>;

impl Project {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pipelines = folder.path().join("pipelines");
        let copied =
            Command::new("cp").arg("-r").arg(format!("{ROOT}/pipelines")).arg(&pipelines).status().unwrap();
        assert!(copied.success());
        for (name, text) in [("platforms/two-gpus.yaml", PLATFORM), ("models/small.yaml", MODEL)] {
            fs_err::write(pipelines.join(name), text).unwrap();
        }
        // No earlier test has passed the self-test for it.
        let cache = folder.path().join("cache");
        let double =
            Double::new().with("CHARIOT_DOUBLE_DEVICES", "2").with("XDG_CACHE_HOME", cache.to_str().unwrap());
        Self { folder, double }
    }

    /// What `chariot` says, which must do what it is told. The planner and the figures' tool must have been built beside the engine, as a test of the
    /// workspace does.
    fn ok(&self, arguments: &[&str]) -> String {
        let engine = Path::new(env!("CARGO_BIN_EXE_chariot-engine"));
        for tool in ["chariot", "chariot-results"] {
            let beside = engine.with_file_name(tool);
            assert!(beside.exists(), "expected {}; run `cargo build --workspace` first", beside.display());
        }
        let mut command = Command::new(engine.with_file_name("chariot"));
        command.args(arguments).current_dir(&self.folder);
        let output = self.double.lend(command).output().unwrap();
        let [out, err] = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap());
        assert!(output.status.success(), "{arguments:?}: {:?}\n{out}\n{err}", output.status.code());
        out
    }

    /// `chariot run` or `plan` of all that is measured, with more parameters.
    fn small(&self, command: &str, targets: &[&str], more: &[String]) -> String {
        let sets = SMALL.iter().copied().chain(more.iter().map(String::as_str));
        let sets: Vec<&str> = sets.flat_map(|set| ["--set", set]).collect();
        self.ok(&[&[command], targets, &sets].concat())
    }

    fn files(&self) -> Files {
        let root = self.folder.path().join("out/figure-8-gpus");
        let (mut files, mut open) = (Files::new(), vec![root.clone()]);
        while let Some(folder) = open.pop() {
            for entry in fs_err::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => open.push(path),
                    false => {
                        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                        files.insert(name, fs_err::read(&path).unwrap());
                    }
                }
            }
        }
        files
    }

    /// Takes the newest result of a step out of the store.
    fn forget(&self, address: &str) {
        let store = self.folder.path().join(".chariot");
        let history = fs_err::read_to_string(store.join("history")).unwrap();
        let mut entries = history.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let newest = entries.rfind(|entry| entry["address"] == address).unwrap();
        let (folder, name) = newest["key"].as_str().unwrap().split_at(2);
        fs_err::remove_file(store.join("actions").join(folder).join(name)).unwrap();
    }
}

fn json(files: &Files, name: &str) -> Value {
    serde_json::from_slice(&files[name]).unwrap()
}

/// The cluster says what it ran on, and has the links that were measured there.
fn check_cluster(files: &Files) {
    let cluster = json(files, "measuring/cluster.json");
    let expected = (&json!("measured"), &json!("measured"), &json!("cuda"));
    let preset = &cluster["preset"];
    assert_eq!((&cluster["provenance"], &cluster["link_costs"], &preset["runtime"]["backend"]), expected);
    let gpus = cluster["hardware"][0]["gpus"].as_array().unwrap();
    assert_eq!(gpus.len(), 2, "{cluster}");
    for gpu in gpus {
        assert_eq!(gpu["name"], "Chariot CUDA double");
        assert!(gpu["free_bytes"].as_u64().unwrap() > 0, "{gpu}");
    }
    for (kind, rate) in [("all_reduce", "ring_gbps"), ("send_recv", "gbps")] {
        let (link, measured) = (&preset["links"][0][kind], &cluster["measured_links"][0][kind]);
        assert_eq!((&link["alpha_us"], &link[rate]), (&measured["alpha_us"], &measured["gbps"]));
        assert!(measured["points"].as_array().unwrap().len() > 1, "{measured}");
    }
}

/// Milliseconds of the median step of decoding, in a figure's table.
fn median_ms(files: &Files, layout: &str) -> f64 {
    let table = String::from_utf8(files["figure-8a.csv"].clone()).unwrap();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split(',').collect()).collect();
    let column = |name: &str| rows[0].iter().position(|title| *title == name).unwrap();
    let [layouts, metrics, values] = ["parallel", "metric", "value_ms"].map(column);
    let is_it = |row: &&Vec<&str>| row[layouts] == layout && row[metrics] == "tbt_decode_only_p50";
    rows.iter().find(is_it).unwrap_or_else(|| panic!("no median of {layout} in {table}"))[values]
        .parse()
        .unwrap()
}

fn check_figure(files: &Files, name: &str) {
    assert_eq!(json(files, &format!("{name}.json"))["provenance"], "measured");
    let svg = String::from_utf8_lossy(&files[&format!("{name}.svg")]);
    assert!(svg.contains("measured") && !svg.contains("simulated"), "{svg}");
}

/// What the file says to run first.
fn latencies(project: &Project) -> Files {
    let said = project.small("run", &["figure-8-gpus/figure-8a"], &[]);
    assert!(said.contains("(measured)") && !said.contains("simulated"), "{said}");
    let files = project.files();
    check_cluster(&files);
    check_figure(&files, "figure-8a");
    for [layout, tp, pp] in [["tensor", "2", "1"], ["hybrid", "1", "2"]] {
        let weights = json(&files, &format!("measured/{layout}/weights.json"));
        assert_eq!(
            (&weights["provenance"], &weights["weights"]["in_memory"]),
            (&json!("measured"), &json!(true))
        );
        let trial = json(&files, &format!("latency/measured-{layout}-b2/trial.json"));
        assert_eq!((&trial["provenance"], &trial["stopped"]), (&json!("measured"), &Value::Null));
        let parallel = format!("{}x{}", trial["parallel"]["tp"], trial["parallel"]["pp"]);
        assert_eq!(parallel, format!("{tp}x{pp}"));
        let log = project.ok(&["log", &format!("figure-8-gpus/latency/measured-{layout}-b2")]);
        assert!(log.contains("12 of 12 requests completed"), "{log}");
    }
    let logs = TRIALS.map(|trial| project.ok(&["log", trial])).concat();
    let tested = "self-test before the first trial: 2 GPUs compute and exchange values rightly: ";
    assert_eq!(logs.matches(tested).count(), 1, "before the first trial, and before no other: {logs}");
    files
}

/// The rates between which a layout stops keeping up.
fn check_capacity(files: &Files, layout: &str) {
    let capacity = json(files, &format!("capacity/{layout}/capacity.json"));
    let search = &capacity["searches"][0];
    assert_eq!(search["outcome"], "bracketed", "{capacity}");
    let rate = |name: &str| search[name].as_f64().unwrap();
    let step = rate("lowest_fail") / rate("highest_pass");
    assert!((step - 1.9).abs() < 0.01, "neighbours of the lattice: {capacity}");
    let probes = search["probes"].as_array().unwrap();
    for probe in probes {
        assert_eq!(probe["verdict"]["provenance"], "measured", "{probe}");
    }
    let passed: BTreeSet<bool> = probes.iter().map(|probe| probe["pass"].as_bool().unwrap()).collect();
    assert_eq!(passed.len(), 2, "it was bisected: {capacity}");
}

#[test]
fn it_is_measured_searched_and_drawn_and_no_more_than_what_is_gone_is_measured_again() {
    let project = Project::new();
    let first = latencies(&project);
    // What steps take here says what is slow here.
    let ms = median_ms(&first, "tensor").max(median_ms(&first, "hybrid"));
    let slo = [format!("tbt={} ms", 1000.0 * ms), format!("delay={} ms", 6.0 * ms)];
    let targets = ["figure-8-gpus/figure-8a", "figure-8-gpus/figure-8b"];
    let said = project.small("run", &targets, &slo);
    assert!(said.contains("Highest rate that meets the SLO (measured)"), "{said}");
    let second = project.files();
    check_figure(&second, "figure-8b");
    ["tensor", "hybrid"].iter().for_each(|layout| check_capacity(&second, layout));
    for (name, bytes) in &first {
        assert!(second[name] == *bytes, "{name} was made again");
    }

    let said = project.small("run", &targets, &slo);
    assert!(said.contains("nothing to do"), "{said}");

    project.forget(TRIALS[1]);
    let plan = project.small("plan", &targets, &slo);
    let runs: Vec<&str> = plan.lines().filter_map(|line| line.strip_prefix("run ")).collect();
    assert!(runs.len() == 1 && runs[0].trim_start().starts_with(TRIALS[1]), "{plan}");
    project.small("run", &targets, &slo);
    let third = project.files();
    let changed: BTreeSet<&str> =
        third.keys().filter(|name| second.get(*name) != Some(&third[*name])).map(String::as_str).collect();
    let of_it =
        |name: &&&str| name.starts_with("latency/measured-hybrid-b2/") || name.starts_with("figure-8a.");
    assert_eq!(changed.iter().filter(of_it).count(), changed.len(), "{changed:?}");
    assert!(changed.contains("latency/measured-hybrid-b2/records.parquet"), "{changed:?}");
    let said = project.small("run", &targets, &slo);
    assert!(said.contains("nothing to do"), "{said}");
}
