//! A pipeline's text to steps, for 10,000 trials with their summaries and one figure over all of them.

use std::fmt::Write;

use camino::Utf8Path;
use chariot::load::compile;
use chariot::resolve::{Presets, Surroundings};
use criterion::{Criterion, criterion_group, criterion_main};

/// `trials` instances, by batch cap and rate.
fn pipeline(trials: usize) -> String {
    let mut text = "\
chariot: 1
platform: p
targets:
  cluster: {recipe: cluster}
  weights: {recipe: shard, model: m, parallel: {tp: 8, pp: 1}}
  latency:
    recipe: trial
    weights: weights
    scheduler: {policy: sarathi, chunk: 512}
    batch_cap: ${batch}
    arrivals: {kind: poisson, qps: \"${qps}\"}
    requests: 100
    lengths: {kind: quantiles, table: l}
    max_model_len: 4096
    time_limit: 30 min
    seed: 42
    for:
"
    .to_owned();
    let list = |count: usize| (1..=count).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    write!(text, "      batch: [{}]\n      qps: [{}]\n", list(100), list(trials / 100))
        .expect("a string takes all");
    text + "  figure: {recipe: figure, from: latency, title: t, x: {variable: batch}, series: {variable: qps}, metrics: [p50(tbt)]}\n"
}

fn presets() -> Presets {
    let one = |folder: &'static str, name: &str| (folder, [(name.to_owned(), "file.yaml".into())].into());
    Presets::from([one("platforms", "p"), one("models", "m"), one("lengths", "l")])
}

fn expansion(criterion: &mut Criterion) {
    for trials in [1_000, 10_000, 100_000] {
        let (text, presets) = (pipeline(trials), presets());
        let surroundings = Surroundings { presets: &presets, list: &|_| Vec::new() };
        criterion.bench_function(&format!("expand {trials} trials"), |bencher| {
            bencher.iter_with_large_drop(|| {
                let (steps, ..) =
                    compile(Utf8Path::new("x.yaml"), text.clone(), &[], surroundings).expect("it is right");
                assert_eq!(steps.steps.len(), 2 * trials + 3);
                steps
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = expansion
}
criterion_main!(benches);
