//! What is said of each mistake: file, line, column, what was expected, the nearest right name.

use expect_test::{Expect, expect};

use super::compiled;

/// A pipeline that is right, to be put wrong one text at a time.
const RIGHT: &str = "\
chariot: 1
platform: constant-x8
params:
  batches: [8, 16]
targets:
  cluster: {recipe: cluster}
  weights:
    recipe: shard
    for: {parallel: {tp2: {tp: 2, pp: 1}, pp2: {tp: 1, pp: 2}}}
    model: falcon-7b
    parallel: ${parallel}
  latency:
    recipe: trial
    for: {parallel: [tp2, pp2], batch: \"${batches}\"}
    weights: weights/${parallel}
    scheduler: {policy: sarathi, chunk: 512}
    batch_cap: ${batch}
    arrivals: {kind: poisson, qps: 0.75}
    requests: 100
    lengths: {kind: quantiles, table: openchat_sharegpt4}
    max_model_len: 4096
    time_limit: 30 min
    seed: 42
  figure:
    recipe: figure
    from: latency
    title: Latency
    x: {variable: batch}
    series: {variable: parallel}
    metrics: [p50(tbt)]
";

/// Replaces `from` by `to` in the right pipeline.
fn check(from: &str, to: &str, expected: Expect) {
    assert!(RIGHT.contains(from), "{from:?} is not in the pipeline");
    check_text(&RIGHT.replacen(from, to, 1), &[], expected);
}

fn check_text(text: &str, sets: &[(&str, &str)], expected: Expect) {
    match compiled(text, sets) {
        Ok(_) => expected.assert_eq("no mistake"),
        Err(errors) => expected.assert_eq(&errors.to_string()),
    }
}

#[test]
fn the_right_pipeline_is_right() {
    check_text(RIGHT, &[], expect!["no mistake"]);
}

#[test]
fn unknown_keys_are_all_reported() {
    let wrong =
        RIGHT.replace("batch_cap:", "batchcap:").replace("seed: 42", "sead: 42").replace("params:", "parms:");
    check_text(&wrong, &[], expect![[r#""#]]);
    check_text(&wrong.replace("parms:", "params:"), &[], expect![[r#""#]]);
}

#[test]
fn missing_key() {
    check("    seed: 42\n", "", expect![[r#""#]]);
}

#[test]
fn duplicate_key() {
    check("    seed: 42\n", "    seed: 42\n    requests: 5\n", expect![[r#""#]]);
}

#[test]
fn wrong_type() {
    check("requests: 100", "requests: many", expect![[r#""#]]);
    check("requests: 100", "requests: 0", expect![[r#""#]]);
    check("requests: 100", "requests: -1", expect![[r#""#]]);
    check("title: Latency", "title: 8", expect![[r#""#]]);
    check("{kind: poisson, qps: 0.75}", "poisson", expect![[r#""#]]);
}

#[test]
fn wrong_type_by_a_parameter_shows_both_places() {
    check("batches: [8, 16]", "batches: [8, sixteen]", expect![[r#""#]]);
}

#[test]
fn wrong_type_deep_inside_says_where() {
    check("qps: 0.75", "qps: -1", expect![[r#""#]]);
    check("pp: 2", "pp: two", expect![[r#""#]]);
}

#[test]
fn unknown_variants() {
    check("policy: sarathi", "policy: sarati", expect![[r#""#]]);
    check("recipe: trial", "recipe: trail", expect![[r#""#]]);
    check("    recipe: trial\n", "", expect![[r#""#]]);
    check("seed: 42", "seed: 42\n    band: medium", expect![[r#""#]]);
}

#[test]
fn a_key_of_another_variant() {
    check("chunk: 512", "chunk: 512, max_batched_tokens: 5", expect![[r#""#]]);
}

#[test]
fn unknown_references() {
    check("weights: weights/${parallel}", "weights: wieghts/${parallel}", expect![[r#""#]]);
    check("weights: weights/${parallel}", "weights: weights/tp", expect![[r#""#]]);
    check("weights: weights/${parallel}", "weights: weights", expect![[r#""#]]);
    check("weights: weights/${parallel}", "weights: cluster # ${parallel}", expect![[r#""#]]);
    check("from: latency", "from: latencies/*", expect![[r#""#]]);
}

#[test]
fn unknown_names_in_references() {
    check("batch_cap: ${batch}", "batch_cap: ${bach}", expect![[r#""#]]);
    check("parallel: ${parallel}\n", "parallel: {tp: \"${parallel.tpp}\", pp: 1}\n", expect![[r#""#]]);
    check("weights: weights/${parallel}", "weights: weights/${parallel", expect![[r#""#]]);
    check("weights: weights/${parallel}", "weights: weights/${batches}", expect![[r#""#]]);
}

#[test]
fn a_reference_in_braces_without_quotes() {
    check("chunk: 512", "chunk: ${batch}", expect![[r#""#]]);
}

#[test]
fn cycles() {
    check("batches: [8, 16]", "batches: ${a}\n  a: ${b.c}\n  b: {c: \"${a}\"}", expect![[r#""#]]);
    let commands = "
chariot: 1
targets:
  first: {recipe: command, argv: [cp, in, out], inputs: {in: \"third:out\"}, outputs: [out]}
  second: {recipe: command, argv: [cp, in, out], inputs: {in: \"first:out\"}, outputs: [out]}
  third: {recipe: command, argv: [cp, in, out], inputs: {in: \"second:out\"}, outputs: [out]}
";
    check_text(commands, &[], expect![[r#""#]]);
}

#[test]
fn empty_sweeps() {
    check("batches: [8, 16]", "batches: []", expect![[r#""#]]);
    check("for: {parallel: [tp2, pp2], batch: \"${batches}\"}", "for: {}", expect![[r#""#]]);
    let all = "exclude: [{parallel: [tp2, pp2]}]\n    seed: 42";
    check("seed: 42", all, expect![[r#""#]]);
}

#[test]
fn excludes() {
    check("seed: 42", "exclude: [{bach: 8}]\n    seed: 42", expect![[r#""#]]);
    check("seed: 42", "exclude: [{parallel: tp4}]\n    seed: 42", expect![[r#""#]]);
}

#[test]
fn duplicate_instance_names() {
    check("seed: 42", "name: ${parallel}\n    seed: 42", expect![[r#""#]]);
    check("[8, 16]", "[8, 8]", expect![[r#""#]]);
}

#[test]
fn names_that_cannot_be_paths() {
    check("[8, 16]", "[8, 1/2]", expect![[r#""#]]);
    check("  latency:", "  late ncy:", expect![[r#""#]]);
}

#[test]
fn variables_that_do_nothing() {
    check("batch_cap: ${batch}", "batch_cap: 8", expect![[r#""#]]);
    check("batches: [8, 16]", "batches: [8, 16]\n  batch: 5", expect![[r#""#]]);
}

#[test]
fn units() {
    check("time_limit: 30 min", "time_limit: 30", expect![[r#""#]]);
    check("time_limit: 30 min", "time_limit: 30 minutes", expect![[r#""#]]);
}

#[test]
fn predicates() {
    let capacity = RIGHT
        .replace("    arrivals: {kind: poisson, qps: 0.75}\n", "    rate: {start: 1, granularity: 2.5}\n");
    let capacity = capacity
        .replace("recipe: trial", "recipe: capacity")
        .replace("seed: 42", "seeds: [1]\n    slo: [p99(tbtt) <= 1]");
    check_text(&capacity, &[], expect![[r#""#]]);
    let capacity = capacity.replace("granularity: 2.5", "granularity: 2.5 %");
    check_text(&capacity, &[], expect![[r#""#]]);
    check_text(&capacity.replace("tbtt", "tbt"), &[], expect![[r#""#]]);
}

#[test]
fn unknown_presets() {
    check("model: falcon-7b", "model: falcon-7", expect![[r#""#]]);
    check("platform: constant-x8", "platform: azure", expect![[r#""#]]);
    check("table: openchat_sharegpt4", "table: openchat", expect![[r#""#]]);
}

#[test]
fn figures() {
    check("variable: batch}", "variable: bach}", expect![[r#""#]]);
    check("p50(tbt)", "p50(tbt_decodes)", expect![[r#""#]]);
    check("    metrics: [p50(tbt)]\n", "", expect![[r#""#]]);
    check("series: {variable: parallel}", "series: {variable: batch}", expect![[r#""#]]);
}

#[test]
fn sets() {
    check_text(RIGHT, &[("batch", "5")], expect![[r#""#]]);
    check_text(RIGHT, &[("batches.first", "5")], expect![[r#""#]]);
    check_text(RIGHT, &[("batches", "[8, sixteen]")], expect![[r#""#]]);
    check_text(RIGHT, &[("batches", "[8")], expect![[r#""#]]);
}

#[test]
fn yaml() {
    check_text("", &[], expect![[r#""#]]);
    check_text("- a\n", &[], expect![[r#""#]]);
    check_text("chariot: 2\ntargets: {}\n", &[], expect![[r#""#]]);
    check_text("chariot: 1\ntargets: {a: *b}\n", &[], expect![[r#""#]]);
    check_text("chariot: 1\n---\nchariot: 1\n", &[], expect![[r#""#]]);
    check_text("chariot: !!int 1\ntargets: {a: !b {recipe: cluster}}\n", &[], expect![[r#""#]]);
    check_text("chariot: 1\n# für später, äöü\ntargets: {ä: 1}\n", &[], expect![[r#""#]]);
}

#[test]
fn commands() {
    let with = |rest: &str| {
        format!(
            "chariot: 1\ntargets:\n  a: {{recipe: command, argv: [true], {rest}}}\n  b: {{recipe: cluster, platform: constant-x8}}\n"
        )
    };
    check_text(&with("outputs: []"), &[], expect![[r#""#]]);
    check_text(&with("outputs: [../x]"), &[], expect![[r#""#]]);
    check_text(&with("outputs: [x], inputs: {y: 'b:clusters.json'}"), &[], expect![[r#""#]]);
    check_text(&with("outputs: [x], show: [z]"), &[], expect![[r#""#]]);
    check_text(&with("outputs: [x], timeout: 5 minute"), &[], expect![[r#""#]]);
}
