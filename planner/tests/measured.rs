//! A pipeline whose trials run for real, from end to end through the real binaries: what is measured, what is cached, what is said.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod project;

use project::Project;

const MODEL: &str = "
name: tiny
family: falcon
hidden_size: 64
layers: 2
query_heads: 4
kv_heads: 2
head_dim: 16
ffn_size: 128
vocab_size: 256
parallel_attention: true
norms_per_layer: 2
tied_embedding: false
";

const PLATFORM: &str = "
name: host-x2
nodes: 1
gpus_per_node: 2
gpu_memory_gb: 0.01
links:
  - {name: memory, span: 2, all_reduce: {alpha_us: 1, ring_gbps: 1}, send_recv: {alpha_us: 1, gbps: 1}}
runtime: {threads: 1, transport: shared_memory}
";

const PIPELINE: &str = "
chariot: 1
platform: host-x2
on: cpu
params:
  layouts: {tp2: {tp: 2, pp: 1}, pp2: {tp: 1, pp: 2}}
  repetition: 0
  slo: 100 s
targets:
  cluster: {recipe: cluster}
  weights: {recipe: shard, for: {parallel: '${layouts}'}, model: tiny, parallel: '${parallel}', weights: {dummy: 1, dtype: f32}}
  latency:
    recipe: trial
    for: {parallel: '${layouts}'}
    weights: weights/${parallel}
    scheduler: {policy: sarathi, chunk: 16}
    batch_cap: 4
    arrivals: {kind: static, qps: 100}
    seed: 1
    repetition: ${repetition}
    lengths: &short {kind: fixed, prompt: 24, output: 8}
    <<: &run {requests: 6, max_model_len: 64, time_limit: 1 min}
  capacity:
    recipe: capacity
    for: {parallel: '${layouts}'}
    weights: weights/${parallel}
    scheduler: {policy: vllm}
    batch_cap: 4
    rate: {start: 50, max: 100, granularity: 50 %}
    seeds: [1]
    slo: ['p99(tbt) <= ${slo}']
    lengths: *short
    <<: *run
  bars:
    {recipe: figure, from: latency, title: Tiny, x: {variable: parallel}, series: {variable: parallel}, y: {unit: ms}, metrics: [p50(tbt)]}
  capacities:
    {recipe: figure, from: capacity, title: Tiny, x: {variable: parallel}, series: {variable: parallel}}
";

fn project() -> Project {
    let project = Project::new();
    let pipelines = project.dir.path().join("pipelines");
    for (file, text) in [("models/tiny", MODEL), ("platforms/host-x2", PLATFORM), ("tiny", PIPELINE)] {
        fs_err::write(pipelines.join(file).with_extension("yaml"), text).unwrap();
    }
    project
}

#[test]
fn trials_are_measured_once_and_a_repetition_is_another_sample() {
    let project = project();
    let first = project.ok(&["run", "tiny"]);
    assert!(first.contains("Tiny (measured)") && !first.contains("simulated"), "{first}");
    let files = project.out();
    let json = |name: &str| serde_json::from_slice::<serde_json::Value>(&files[name]).unwrap();
    for layout in ["tp2", "pp2"] {
        let trial = json(&format!("tiny/latency/{layout}/trial.json"));
        assert_eq!((&trial["provenance"], &trial["stopped"]), (&"measured".into(), &serde_json::Value::Null));
        assert!(files.contains_key(&format!("tiny/weights/{layout}/rank-001.safetensors")));
        let capacity = json(&format!("tiny/capacity/{layout}/capacity.json"));
        let verdict = capacity.pointer("/searches/0/probes/0/verdict/provenance");
        assert_eq!(verdict, Some(&"measured".into()), "{capacity}");
    }
    for figure in ["bars", "capacities"] {
        let svg = String::from_utf8_lossy(&files[&format!("tiny/{figure}.svg")]).into_owned();
        assert!(
            svg.contains("measured") && !svg.contains("simulated") && !svg.contains("uncertain"),
            "{svg}"
        );
    }

    let again = project.ok(&["run", "tiny"]);
    assert!(again.contains("nothing to do"), "{again}");

    // Another sample: two trials and their summaries, the figure of both, and no weights.
    let plan = project.ok(&["plan", "tiny", "--set", "repetition=1"]);
    for (step, runs) in
        [("tiny/latency/tp2", true), ("tiny/weights/tp2", false), ("tiny/capacity/tp2", false)]
    {
        let line = plan.lines().find(|line| line.contains(step));
        assert_eq!(line.is_some_and(|line| line.contains("run")), runs, "{step} in\n{plan}");
    }
    project.ok(&["run", "tiny", "--set", "repetition=1"]);
    let records = |files: &std::collections::BTreeMap<String, Vec<u8>>| {
        files["tiny/latency/tp2/records.parquet"].clone()
    };
    assert_ne!(records(&files), records(&project.out()));
    // And back: the first sample is still there.
    project.ok(&["run", "tiny"]);
    assert_eq!(records(&files), records(&project.out()));
}

#[test]
fn what_cannot_run_says_so() {
    let project = project();
    let say = |args: &[&str]| {
        let output = project.chariot(args);
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), said)
    };
    // A platform without costs cannot be simulated on.
    let (code, said) = say(&["run", "tiny/cluster", "--on", "simulator"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("stage: expected the costs to simulate with, found none"), "{said}");
    // A model that no disk holds is not begun to be written.
    let pipelines = project.dir.path().join("pipelines");
    let huge = MODEL
        .replace("_size: 64", "_size: 65536")
        .replace("_size: 128", "_size: 262144")
        .replace("layers: 2", "layers: 20000");
    fs_err::write(pipelines.join("models/tiny.yaml"), huge).unwrap();
    fs_err::write(pipelines.join("platforms/host-x2.yaml"), PLATFORM.replace("gb: 0.01", "gb: 1e9")).unwrap();
    let (code, said) = say(&["run", "tiny/weights/tp2"]);
    assert!(
        code == Some(1) && said.contains("GB of free space in . for the ranks' weights, found "),
        "{said}"
    );
    let (code, said) = say(&["run", "tiny", "--on", "gpu"]);
    assert!(code == Some(2) && said.contains("simulator, cpu"), "{said}");
}

/// Where the engine looks for CUDA's libraries, and how long it waits for a GPU (docs/cuda.md).
const NEEDED: [&str; 4] = ["LD_LIBRARY_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "CHARIOT_GPU_PATIENCE"];

#[test]
fn an_action_with_the_fact_gpu_sees_what_chooses_among_gpus() {
    let project = Project::new();
    let command = |facts: &str| {
        format!("{{recipe: command, argv: [sh, -c, env > seen], outputs: [seen], facts: [{facts}]}}")
    };
    let pipeline = format!("chariot: 1\ntargets:\n  gpu: {}\n  cpu: {}\n", command("gpu"), command("cpu"));
    fs_err::write(project.dir.path().join("pipelines/seen.yaml"), pipeline).unwrap();
    let run = |devices: &str| {
        let variables = NEEDED.map(|name| (name, "/nowhere"));
        let others = [("CUDA_VISIBLE_DEVICES", devices), ("OTHER", "1")];
        let output = project.command(&["run", "seen"]).envs(variables).envs(others).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        (String::from_utf8(output.stdout).unwrap(), project.out())
    };
    let (_, files) = run("1");
    let seen = |target: &str| String::from_utf8_lossy(&files[&format!("seen/{target}/seen")]).into_owned();
    let gpu = seen("gpu");
    assert!(gpu.contains("CUDA_VISIBLE_DEVICES=1\n"), "{gpu}");
    for name in NEEDED {
        assert!(gpu.contains(&format!("{name}=/nowhere\n")), "expected {name} in: {gpu}");
    }
    assert!(!gpu.contains("OTHER"), "{gpu}");
    assert!(!seen("cpu").contains("CUDA_VISIBLE_DEVICES"), "{}", seen("cpu"));
    // Which GPUs there are is part of the key.
    assert!(run("1").0.contains("nothing to do"));
    assert!(run("0").0.contains("1 actions run, 1 up to date"), "{}", run("0").0);
}
