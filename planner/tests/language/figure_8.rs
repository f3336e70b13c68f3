//! `pipelines/figure-8.yaml`: its steps, and what a change to it reaches.

use std::collections::BTreeMap;

use chariot::step::{ActionTemplate, Source, Step, Steps, Work};
use expect_test::expect;

use super::{addresses, compiled, root};

fn figure_8() -> String {
    fs_err::read_to_string(root().join("pipelines/figure-8.yaml")).expect("the pipeline is committed")
}

fn expanded(text: &str, sets: &[(&str, &str)]) -> Steps {
    compiled(text, sets).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Address -> what the step does, with edges by address, so that steps of two expansions compare.
fn works(steps: &Steps) -> BTreeMap<&str, String> {
    let mut works = BTreeMap::new();
    for step in &steps.steps {
        let edges: Vec<&str> = inputs(step)
            .filter_map(|source| match source {
                Source::Output { step, .. } => Some(steps.steps[step.0 as usize].address.as_str()),
                _ => None,
            })
            .collect();
        let mut work = step.work.clone();
        actions(&mut work)
            .for_each(|action| action.inputs.retain(|_, s| !matches!(s, Source::Output { .. })));
        works.insert(step.address.as_str(), format!("{work:?} {edges:?}"));
    }
    works
}

fn inputs(step: &Step) -> Box<dyn Iterator<Item = &Source> + '_> {
    match &step.work {
        Work::Action(action) => Box::new(action.inputs.values()),
        Work::Search(search) => Box::new(search.repeats.iter().flat_map(|r| r.trial.action.inputs.values())),
    }
}

fn actions(work: &mut Work) -> Box<dyn Iterator<Item = &mut ActionTemplate> + '_> {
    match work {
        Work::Action(action) => Box::new(std::iter::once(action)),
        Work::Search(search) => Box::new(search.repeats.iter_mut().map(|r| &mut r.trial.action)),
    }
}

/// The addresses whose step differs between the file and the file with one text replaced.
fn changed(from: &str, to: &str) -> Vec<String> {
    let text = figure_8();
    assert!(text.contains(from), "the file no longer holds {from:?}");
    let (before, after) = (expanded(&text, &[]), expanded(&text.replace(from, to), &[]));
    let (before, after) = (works(&before), works(&after));
    let differs = |address: &&&str| before.get(**address) != after.get(**address);
    let all: std::collections::BTreeSet<&&str> = before.keys().chain(after.keys()).collect();
    all.into_iter().filter(differs).map(|address| address.to_string()).collect()
}

#[test]
fn steps() {
    let steps = expanded(&figure_8(), &[]);
    expect![[r#"
        x/cluster
        x/weights/tp8
        x/weights/tp4-pp2
        x/latency/tp8-b8
        x/latency/tp8-b8/summary
        x/latency/tp8-b16
        x/latency/tp8-b16/summary
        x/latency/tp8-b32
        x/latency/tp8-b32/summary
        x/latency/tp8-b64
        x/latency/tp8-b64/summary
        x/latency/tp8-b128
        x/latency/tp8-b128/summary
        x/latency/tp4-pp2-b8
        x/latency/tp4-pp2-b8/summary
        x/latency/tp4-pp2-b16
        x/latency/tp4-pp2-b16/summary
        x/latency/tp4-pp2-b32
        x/latency/tp4-pp2-b32/summary
        x/latency/tp4-pp2-b64
        x/latency/tp4-pp2-b64/summary
        x/latency/tp4-pp2-b128
        x/latency/tp4-pp2-b128/summary
        x/capacity/vLLM-TP8-strict
        x/capacity/vLLM-TP8-relaxed
        x/capacity/vLLM-hybrid-strict
        x/capacity/vLLM-hybrid-relaxed
        x/capacity/Sarathi-hybrid-strict
        x/capacity/Sarathi-hybrid-relaxed
        x/figure-8a
        x/figure-8b
        x/claims"#]]
    .assert_eq(&addresses(&steps).join("\n"));
}

#[test]
fn reads_in_a_minute() {
    let lines = figure_8().lines().filter(|line| !line.trim().is_empty()).count();
    assert!(lines <= 72, "figure-8.yaml has {lines} lines that are not blank");
}

#[test]
fn a_trial() {
    let steps = expanded(&figure_8(), &[]);
    let trial = steps.steps.iter().find(|s| s.address == "x/latency/tp4-pp2-b64").unwrap();
    let Work::Action(action) = &trial.work else { panic!("a trial is an action") };
    let Source::Inline(config) = &action.inputs[camino::Utf8Path::new("config.json")] else {
        panic!("inline")
    };
    expect![[r#"
        {
          "band": "all",
          "block_size": 16,
          "compat": "honest",
          "format": 1,
          "gpu_memory_utilization": 0.85,
          "max_model_len": 8192,
          "repetition": 0,
          "scheduler": {
            "batch_cap": 64,
            "chunk": 512,
            "policy": "sarathi"
          },
          "seed": 42,
          "time_limit_s": 1800.0,
          "workload": {
            "arrivals": {
              "kind": "poisson",
              "qps": 0.75
            },
            "lengths": {
              "file": "lengths.yaml",
              "kind": "quantiles",
              "total_max": 8192
            },
            "requests": 2048
          }
        }
    "#]]
    .assert_eq(std::str::from_utf8(config).unwrap());
    expect![[r#"
        ["simulate", "--cluster", "cluster.json", "--weights", "weights.json", "--config", "config.json", "--out", "."]
        ["batches.parquet", "records.parquet", "trial.json", "records-high.parquet", "records-low.parquet"]
        Some("x/latency/tp4-pp2-b64")"#]].assert_eq(&format!("{:?}\n{:?}\n{:?}", action.args, action.outputs, trial.place));
}

#[test]
fn a_search() {
    let steps = expanded(&figure_8(), &[]);
    let step = steps.steps.iter().find(|s| s.address == "x/capacity/Sarathi-hybrid-relaxed").unwrap();
    let Work::Search(search) = &step.work else { panic!("a capacity is a search") };
    let repeats: Vec<String> = search.repeats.iter().map(|r| format!("{:?}", r.labels)).collect();
    expect![[r#"
        {"slo": "relaxed", "system": "Sarathi-hybrid"}
        Rates { start: 1.6, granularity: 0.025, min: 0.0016, max: 1600.0 }
        ["p99(tbt) <= 5.0", "p50(scheduling_delay) <= 2.0"]
        {"band": String("central"), "seed": Number(42)}
        {"band": String("central"), "seed": Number(43)}
        {"band": String("central"), "seed": Number(44)}
        {"band": String("low"), "seed": Number(42)}
        {"band": String("high"), "seed": Number(42)}"#]]
    .assert_eq(&format!("{:?}\n{:?}\n{:?}\n{}", search.labels, search.rates, search.slo, repeats.join("\n")));
    let repeat = &search.repeats[0];
    expect![[r#"{"band":"central","block_size":16,"compat":"honest","format":1,"gpu_memory_utilization":0.85,"max_model_len":8192,"repetition":0,"scheduler":{"batch_cap":128,"chunk":2048,"policy":"sarathi"},"seed":42,"time_limit_s":1800.0,"workload":{"arrivals":{"kind":"poisson"},"lengths":{"file":"lengths.yaml","kind":"quantiles","total_max":8192},"requests":2048}}"#]].assert_eq(&format!("{}", repeat.trial.config));
    expect![[r#"
        ["judge", "--trial", "trial", "--slo", "p99(tbt) <= 5.0", "--slo", "p50(scheduling_delay) <= 2.0", "--out", "verdict.json"]
        {"trial/records.parquet": "records.parquet", "trial/trial.json": "trial.json"}"#]].assert_eq(&format!("{:?}\n{:?}", repeat.judge.args, repeat.judge_inputs));
    assert!(repeat.trial.config.pointer("/workload/arrivals").is_some());
    assert!(repeat.trial.action.cutoff.is_none());
}

#[test]
fn specifications() {
    let steps = expanded(&figure_8(), &[]);
    let spec = |address: &str, file: &str| {
        let step = steps.steps.iter().find(|s| s.address == address).unwrap();
        let Work::Action(action) = &step.work else { panic!("a report is an action") };
        let Source::Inline(bytes) = &action.inputs[camino::Utf8Path::new(file)] else { panic!("inline") };
        serde_json::from_slice::<serde_json::Value>(bytes).unwrap().to_string()
    };
    expect![[r#"{"format":1,"kind":"grouped_bars","names":{"relaxed":"P99 TBT <= 5 s","strict":"P99 TBT <= 1 s"},"rows":[{"file":"inputs/0/capacity.json","labels":{"slo":"strict","system":"vLLM-TP8"}},{"file":"inputs/1/capacity.json","labels":{"slo":"relaxed","system":"vLLM-TP8"}},{"file":"inputs/2/capacity.json","labels":{"slo":"strict","system":"vLLM-hybrid"}},{"file":"inputs/3/capacity.json","labels":{"slo":"relaxed","system":"vLLM-hybrid"}},{"file":"inputs/4/capacity.json","labels":{"slo":"strict","system":"Sarathi-hybrid"}},{"file":"inputs/5/capacity.json","labels":{"slo":"relaxed","system":"Sarathi-hybrid"}}],"scale":{"axis":"linear"},"series":"system","series_order":["vLLM-TP8","vLLM-hybrid","Sarathi-hybrid"],"source":"capacity","title":"Falcon-180B, highest rate that meets the SLO","x":"slo","x_label":"SLO","x_order":["strict","relaxed"],"y_label":"capacity"}"#]].assert_eq(&spec("x/figure-8b", "figure.json"));
    expect![[r#"{"claims":[{"csv":"inputs/figure-8a.csv","denominator":{"metric":"tbt_decode_only_p50","parallel":"tp4-pp2"},"name":"tp8 / tp4-pp2","numerator":{"metric":"tbt_decode_only_p50","parallel":"tp8"},"over":"batch","published":2.0,"source":"arXiv 2403.02310, figure 13","tolerance":0.2,"value":"value_ms"},{"csv":"inputs/figure-8b.csv","denominator":{"slo":"strict","system":"vLLM-hybrid"},"name":"Sarathi-hybrid / vLLM-hybrid, slo strict","numerator":{"slo":"strict","system":"Sarathi-hybrid"},"over":null,"published":3.6,"source":"arXiv 2403.02310, figure 13","tolerance":0.2,"value":"capacity_qps"},{"csv":"inputs/figure-8b.csv","denominator":{"slo":"strict","system":"vLLM-TP8"},"name":"Sarathi-hybrid / vLLM-TP8, slo strict","numerator":{"slo":"strict","system":"Sarathi-hybrid"},"over":null,"published":4.3,"source":"arXiv 2403.02310, figure 13","tolerance":0.2,"value":"capacity_qps"},{"csv":"inputs/figure-8b.csv","denominator":{"slo":"relaxed","system":"vLLM-hybrid"},"name":"Sarathi-hybrid / vLLM-hybrid, slo relaxed","numerator":{"slo":"relaxed","system":"Sarathi-hybrid"},"over":null,"published":1.48,"source":"arXiv 2403.02310, figure 13","tolerance":0.2,"value":"capacity_qps"}],"format":1}"#]].assert_eq(&spec("x/claims", "check.json"));
}

#[test]
fn another_slo_leaves_every_trial_as_it_is() {
    let text = figure_8();
    let (before, after) = (expanded(&text, &[]), expanded(&text, &[("slos.strict.tbt", "2 s")]));
    let trials = |steps: &Steps| {
        let probes = |step: &Step| match &step.work {
            Work::Search(search) => search.repeats.iter().map(|r| format!("{:?}", r.trial)).collect(),
            Work::Action(action) if step.kind == "trial" => vec![format!("{action:?}")],
            Work::Action(_) => Vec::new(),
        };
        steps.steps.iter().flat_map(probes).collect::<Vec<String>>()
    };
    assert_eq!(trials(&before), trials(&after));
    assert_ne!(before, after);
}

#[test]
fn another_quantile_changes_the_figure_alone() {
    expect!["x/figure-8a"].assert_eq(&changed("p99(tbt_decode_only)]", "p95(tbt_decode_only)]").join("\n"));
}

#[test]
fn another_batch_cap_adds_two_trials() {
    expect![[r#"
        x/figure-8a
        x/latency/tp4-pp2-b256
        x/latency/tp4-pp2-b256/summary
        x/latency/tp8-b256
        x/latency/tp8-b256/summary"#]]
    .assert_eq(&changed("64, 128]", "64, 128, 256]").join("\n"));
}

#[test]
fn another_chunk_changes_what_depends_on_it() {
    expect![[r#"
        x/capacity/Sarathi-hybrid-strict
        x/latency/tp4-pp2-b128
        x/latency/tp4-pp2-b16
        x/latency/tp4-pp2-b32
        x/latency/tp4-pp2-b64
        x/latency/tp4-pp2-b8
        x/latency/tp8-b128
        x/latency/tp8-b16
        x/latency/tp8-b32
        x/latency/tp8-b64
        x/latency/tp8-b8"#]]
    .assert_eq(&changed("chunk: 512", "chunk: 1024").join("\n"));
}

#[test]
fn another_platform_changes_the_cluster_alone() {
    let (from, to) = ("platform: azure-nc96ads-a100-v4-x2", "platform: constant-x8");
    expect!["x/cluster"].assert_eq(&changed(from, to).join("\n"));
}

#[test]
fn a_quick_look_by_set() {
    let steps = expanded(&figure_8(), &[("requests", "64"), ("batches", "[8]")]);
    assert_eq!(steps.steps.iter().filter(|s| s.kind == "trial").count(), 2);
}
