//! Pipelines whose trials run for real: what `on` changes, and what it does not.

use camino::Utf8Path;
use chariot::step::{ActionTemplate, Source, Step, Steps, Work};
use expect_test::{Expect, expect};

use super::compiled;

const PIPELINE: &str = "
chariot: 1
platform: constant-x8
targets:
  cluster: {recipe: cluster}
  weights: {recipe: shard, model: falcon-7b, parallel: {tp: 2, pp: 1}}
  trial:
    recipe: trial
    weights: weights
    scheduler: {policy: sarathi, chunk: 64}
    batch_cap: 4
    requests: 8
    lengths: {kind: fixed, prompt: 8, output: 8}
    max_model_len: 32
    time_limit: 1 min
    arrivals: {kind: static, qps: 2}
    seed: 1
    band: all
  search:
    recipe: capacity
    weights: weights
    scheduler: {policy: vllm}
    batch_cap: 4
    requests: 8
    lengths: {kind: fixed, prompt: 8, output: 8}
    max_model_len: 32
    time_limit: 1 min
    rate: {start: 2, granularity: 10 %}
    seeds: [1, 2]
    band: ends
    slo: [p99(tbt) <= 1 s]
";

fn action(step: &Step) -> &ActionTemplate {
    match &step.work {
        Work::Action(action) => action,
        Work::Search(search) => &search.repeats[0].trial.action,
    }
}

/// Each step's command line, then what it reads and leaves, and on what terms.
fn shown(steps: &Steps) -> String {
    let one = |step: &Step| {
        let action = action(step);
        let inputs: Vec<&str> = action.inputs.keys().map(|path| path.as_str()).collect();
        let outputs: Vec<&str> = action.outputs.iter().map(|path| path.as_str()).collect();
        let repeats = match &step.work {
            Work::Action(_) => String::new(),
            Work::Search(search) => format!(", {} repeats", search.repeats.len()),
        };
        format!(
            "{}: {}\n  {} -> {}\n  exclusive {}, facts {:?}, retries {}, cutoff {}{repeats}\n",
            step.address,
            action.args.join(" "),
            inputs.join(" "),
            outputs.join(" "),
            action.resources.exclusive,
            action.facts,
            action.retries,
            action.cutoff.is_some(),
        )
    };
    steps.steps.iter().map(one).collect()
}

#[test]
fn a_measured_trial_has_the_host_to_itself_and_reads_the_weights() {
    expect![[r#"
        x/cluster: cluster --platform platform.yaml --out cluster.json --on cpu
          platform.yaml -> cluster.json
          exclusive false, facts [], retries 0, cutoff false
        x/weights: shard --cluster cluster.json --model model.yaml --tp 2 --pp 1 --out weights.json
          cluster.json model.yaml -> weights.json rank-000.safetensors rank-001.safetensors
          exclusive false, facts [], retries 0, cutoff false
        x/trial: bench --cluster cluster.json --weights weights.json --config config.json --out .
          cluster.json config.json rank-000.safetensors rank-001.safetensors weights.json -> batches.parquet records.parquet trial.json
          exclusive true, facts ["arch", "cores", "cpu"], retries 2, cutoff false
        x/trial/summary: summarize --trial trial --out .
          trial/batches.parquet trial/records.parquet trial/trial.json -> summary.json
          exclusive false, facts [], retries 0, cutoff false
        x/search: bench --cluster cluster.json --weights weights.json --config config.json --out .
          cluster.json rank-000.safetensors rank-001.safetensors weights.json -> batches.parquet records.parquet trial.json
          exclusive true, facts ["arch", "cores", "cpu"], retries 2, cutoff true, 2 repeats
    "#]].assert_eq(&shown(&compiled(PIPELINE, &[("on", "cpu")]).unwrap()));
}

#[test]
fn on_gpus_the_cluster_is_measured_too_and_each_rank_makes_its_weights() {
    expect![[r#"
        x/cluster: cluster --platform platform.yaml --out cluster.json --on cuda
          platform.yaml -> cluster.json
          exclusive true, facts ["arch", "cores", "cpu", "gpu"], retries 0, cutoff false
        x/weights: shard --cluster cluster.json --model model.yaml --tp 2 --pp 1 --out weights.json --in-memory
          cluster.json model.yaml -> weights.json
          exclusive false, facts [], retries 0, cutoff false
        x/trial: bench --cluster cluster.json --weights weights.json --config config.json --out .
          cluster.json config.json weights.json -> batches.parquet records.parquet trial.json
          exclusive true, facts ["arch", "cores", "cpu", "gpu"], retries 0, cutoff false
        x/trial/summary: summarize --trial trial --out .
          trial/batches.parquet trial/records.parquet trial/trial.json -> summary.json
          exclusive false, facts [], retries 0, cutoff false
        x/search: bench --cluster cluster.json --weights weights.json --config config.json --out .
          cluster.json weights.json -> batches.parquet records.parquet trial.json
          exclusive true, facts ["arch", "cores", "cpu", "gpu"], retries 0, cutoff true, 2 repeats
    "#]].assert_eq(&shown(&compiled(PIPELINE, &[("on", "cuda")]).unwrap()));
}

#[test]
fn on_gpus_a_folders_weights_are_still_divided_into_files() {
    let text = PIPELINE.replace("pp: 1}}", "pp: 1}, weights: {folder: models/tiny}}");
    let steps = compiled(&text, &[("on", "cuda")]).unwrap();
    let shard = action(&steps.steps[1]);
    assert!(!shard.args.contains(&"--in-memory".to_owned()), "{:?}", shard.args);
    assert_eq!(shard.outputs, ["weights.json", "rank-000.safetensors", "rank-001.safetensors"]);
    assert!(action(&steps.steps[2]).inputs.contains_key(Utf8Path::new("rank-001.safetensors")));
}

#[test]
fn on_can_be_the_pipelines_the_clusters_or_the_command_lines() {
    let of = |text: &str, sets: &[(&str, &str)]| {
        let steps = compiled(text, sets).unwrap();
        (action(&steps.steps[0]).args.join(" "), action(&steps.steps[2]).args[0].clone())
    };
    let simulated = ("cluster --platform platform.yaml --out cluster.json".to_owned(), "simulate".to_owned());
    let measured =
        ("cluster --platform platform.yaml --out cluster.json --on cpu".to_owned(), "bench".to_owned());
    assert_eq!(of(PIPELINE, &[]), simulated);
    assert_eq!(of(PIPELINE, &[("on", "simulator")]), simulated);
    assert_eq!(of(PIPELINE, &[("on", "cpu")]), measured);
    let pipelines = PIPELINE.replace("platform: constant-x8\n", "platform: constant-x8\non: cpu\n");
    assert_eq!(of(&pipelines, &[]), measured);
    assert_eq!(of(&pipelines, &[("on", "simulator")]), simulated);
    let clusters = PIPELINE.replace("{recipe: cluster}", "{recipe: cluster, on: cpu}");
    assert_eq!(of(&clusters, &[]), measured);
    assert_eq!(of(&clusters, &[("on", "simulator")]), measured, "a cluster that says it is not overruled");
}

#[test]
fn the_same_seed_measured_again_is_another_sample() {
    let repetition = |n: &str| {
        let text = PIPELINE.replace("    band: all\n", &format!("    repetition: {n}\n"));
        let steps = compiled(&text, &[("on", "cpu")]).unwrap();
        match &action(&steps.steps[2]).inputs[Utf8Path::new("config.json")] {
            Source::Inline(bytes) => bytes.clone(),
            other => panic!("expected the configuration, found {other:?}"),
        }
    };
    assert_ne!(repetition("0"), repetition("1"));
}

/// The pipeline with a shard's `weights` key: the arguments of the shard, and what it reads.
fn check_weights(weights: &str, expected: Expect) {
    let text = PIPELINE.replace("pp: 1}}", &format!("pp: 1}}, weights: {weights}}}"));
    expected.assert_eq(&match compiled(&text, &[("on", "cpu")]) {
        Ok(steps) => {
            let action = action(&steps.steps[1]);
            let inputs: Vec<&str> = action.inputs.keys().map(|path| path.as_str()).collect();
            format!("{}\n{}", action.args[9..].join(" "), inputs.join(" "))
        }
        Err(errors) => errors.to_string(),
    });
}

#[test]
fn weights_are_made_up_or_a_folders() {
    check_weights(
        "{dummy: 7, dtype: f32}",
        expect![[r#"
        --out weights.json --dummy 7 --dtype f32
        cluster.json model.yaml"#]],
    );
    check_weights(
        "{dummy: 7}",
        expect![[r#"
        --out weights.json --dummy 7
        cluster.json model.yaml"#]],
    );
    check_weights(
        "{folder: models/tiny}",
        expect![[r#"
        --out weights.json --weights weights
        cluster.json model.yaml weights/config.json weights/model.safetensors"#]],
    );
    check_weights(
        "{folder: models/empty}",
        expect![[r#"
        error: expected a folder with config.json and safetensors, found no config.json in `models/empty`
         --> pipelines/x.yaml:6:90
          |
        6 |   weights: {recipe: shard, model: falcon-7b, parallel: {tp: 2, pp: 1}, weights: {folder: models/empty}}
          |                                                                                          ^^^^^^^^^^^^
          |
          = help: paths are relative to the project's root"#]],
    );
    check_weights(
        "{folder: models/tiny, dtype: f32}",
        expect![[r#"
        error: expected `dummy`, with or without `dtype`, or `folder` alone
         --> pipelines/x.yaml:6:81
          |
        6 |   weights: {recipe: shard, model: falcon-7b, parallel: {tp: 2, pp: 1}, weights: {folder: models/tiny, dtype: f32}}
          |                                                                                 ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: write `weights: {dummy: 0, dtype: bf16}` or `weights: {folder: models/falcon}`"#]],
    );
    check_weights(
        "{dummy: 7, dtype: f64}",
        expect![[r#"
        error: unknown name `f64`
         --> pipelines/x.yaml:6:99
          |
        6 |   weights: {recipe: shard, model: falcon-7b, parallel: {tp: 2, pp: 1}, weights: {dummy: 7, dtype: f64}}
          |                                                                                                   ^^^
          |
          = note: in `weights.dtype`
          = help: expected one of: `bf16`, `f16`, `f32`"#]],
    );
}

/// The message that a changed pipeline gives.
fn check_mistake(from: &str, to: &str, expected: Expect) {
    let text = PIPELINE.replace(from, to);
    assert_ne!(text, PIPELINE);
    let message = compiled(&text, &[]).map_or_else(|errors| errors.to_string(), |_| "no mistake".to_owned());
    expected.assert_eq(&message);
}

#[test]
fn mistakes() {
    check_mistake(
        "platform: constant-x8\n",
        "platform: constant-x8\non: gpu\n",
        expect![[r#"
        error: expected `simulator`, `cpu` or `cuda`, found the string `gpu`
         --> pipelines/x.yaml:4:5
          |
        4 | on: gpu
          |     ^^^
          |
          = note: `on` says what runs the trials"#]],
    );
    check_mistake(
        "{recipe: cluster}",
        "{recipe: cluster, on: cude}",
        expect![[r#"
            error: unknown name `cude`
             --> pipelines/x.yaml:5:34
              |
            5 |   cluster: {recipe: cluster, on: cude}
              |                                  ^^^^
              |
              = help: did you mean `cuda`?"#]],
    );
    check_mistake(
        "{recipe: cluster}",
        "{recipe: cluster, platform: constant-x8, profile: host}",
        expect![[r#"
            error: expected either `platform` or `profile`, found both
             --> pipelines/x.yaml:5:62
              |
            5 |   cluster: {recipe: cluster, platform: constant-x8, profile: host}
              |                                                              ^^^^
              |
              = help: a profile has its platform's devices and links; remove one of the two"#]],
    );
    check_mistake(
        "{recipe: cluster}",
        "{recipe: cluster, profile: weights}",
        expect![[r#"
        error: expected a target with `recipe: profile`, found `weights` with `recipe: shard`
         --> pipelines/x.yaml:5:39
          |
        5 |   cluster: {recipe: cluster, profile: weights}
          |                                       ^^^^^^^
        6 |   weights: {recipe: shard, model: falcon-7b, parallel: {tp: 2, pp: 1}}
          |   ------- declared here
          |
          = help: there is no target with `recipe: profile`"#]],
    );
    check_mistake(
        "targets:\n",
        "targets:\n  host: {recipe: profile, model: falcon-7b, parallels: []}\n",
        expect![[r#"
            error: expected at least one way of dividing the model, found none
             --> pipelines/x.yaml:5:56
              |
            5 |   host: {recipe: profile, model: falcon-7b, parallels: []}
              |                                                        ^^
              |
              = help: write `parallels: [{tp: 2, pp: 1}]`"#]],
    );
}

#[test]
fn a_cluster_takes_its_costs_from_a_profile() {
    let text = PIPELINE.replace(
        "  cluster: {recipe: cluster}\n",
        "  cluster: {recipe: cluster, profile: host}\n  host: {recipe: profile, model: falcon-7b, parallels: [{tp: 2, pp: 1}, {tp: 1, pp: 2}], dtype: f32, seed: 3, time: 2 min}\n",
    );
    let steps = compiled(&text, &[]).unwrap();
    assert_eq!(
        action(&steps.steps[0]).inputs[Utf8Path::new("platform.yaml")],
        Source::Output { step: chariot::step::StepId(1), path: "platform.yaml".into() }
    );
    expect![[r#"["profile", "--platform", "preset.yaml", "--model", "model.yaml", "--parallel", "2x1,1x2", "--dtype", "f32", "--seed", "3", "--seconds", "120", "--out", "platform.yaml"] true"#]].assert_eq(&format!(
        "{:?} {}",
        action(&steps.steps[1]).args,
        action(&steps.steps[1]).resources.exclusive
    ));
}
