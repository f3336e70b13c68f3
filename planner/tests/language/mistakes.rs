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
    check_text(
        &wrong,
        &[],
        expect![[r#"
        error: unknown key `parms`
         --> pipelines/x.yaml:3:1
          |
        3 | parms:
          | ^^^^^
          |
          = help: did you mean `params`?"#]],
    );
    check_text(
        &wrong.replace("parms:", "params:"),
        &[],
        expect![[r#"
            error: unknown key `batchcap`
              --> pipelines/x.yaml:17:5
               |
            17 |     batchcap: ${batch}
               |     ^^^^^^^^
               |
               = note: for `latency/tp2-8`
               = help: did you mean `batch_cap`?

            error: unknown key `sead`
              --> pipelines/x.yaml:23:5
               |
            23 |     sead: 42
               |     ^^^^
               |
               = note: for `latency/tp2-8`
               = help: did you mean `seed`?"#]],
    );
}

#[test]
fn missing_key() {
    check(
        "    seed: 42\n",
        "",
        expect![[r#"
        error: the key `seed` is missing
          --> pipelines/x.yaml:12:3
           |
        12 |   latency:
           |   ^^^^^^^
           |
           = note: for `latency/tp2-8`"#]],
    );
}

#[test]
fn duplicate_key() {
    check(
        "    seed: 42\n",
        "    seed: 42\n    requests: 5\n",
        expect![[r#"
        error: the key `requests` is given twice
          --> pipelines/x.yaml:24:5
           |
        19 |     requests: 100
           |     -------- first given here
        ...
        24 |     requests: 5
           |     ^^^^^^^^ again
           |
           = help: remove one of the two"#]],
    );
}

#[test]
fn wrong_type() {
    check(
        "requests: 100",
        "requests: many",
        expect![[r#"
        error: expected an integer, found the string `many`
          --> pipelines/x.yaml:19:15
           |
        19 |     requests: many
           |               ^^^^
           |
           = note: for `latency/tp2-8`"#]],
    );
    check(
        "requests: 100",
        "requests: 0",
        expect![[r#"
        error: expected a whole number from 1, found `0`
          --> pipelines/x.yaml:19:15
           |
        19 |     requests: 0
           |               ^
           |
           = note: for `latency/tp2-8`"#]],
    );
    check(
        "requests: 100",
        "requests: -1",
        expect![[r#"
        error: expected an integer from 0 to 4294967295, found the integer `-1`
          --> pipelines/x.yaml:19:15
           |
        19 |     requests: -1
           |               ^^
           |
           = note: for `latency/tp2-8`"#]],
    );
    check(
        "title: Latency",
        "title: 8",
        expect![[r#"
        error: expected a string, found the integer `8`
          --> pipelines/x.yaml:27:12
           |
        27 |     title: 8
           |            ^
           |
           = help: put it in quotes"#]],
    );
    check(
        "{kind: poisson, qps: 0.75}",
        "poisson",
        expect![[r#"
        error: expected a map, found the string `poisson`
          --> pipelines/x.yaml:18:15
           |
        18 |     arrivals: poisson
           |               ^^^^^^^
           |
           = note: for `latency/tp2-8`"#]],
    );
}

#[test]
fn wrong_type_by_a_parameter_shows_both_places() {
    check(
        "batches: [8, 16]",
        "batches: [8, sixteen]",
        expect![[r#"
        error: expected an integer, found the string `sixteen`
          --> pipelines/x.yaml:17:16
           |
         4 |   batches: [8, sixteen]
           |                ------- the value comes from here
        ...
        17 |     batch_cap: ${batch}
           |                ^^^^^^^^
           |
           = note: for `latency/tp2-sixteen`"#]],
    );
}

#[test]
fn wrong_type_deep_inside_says_where() {
    check(
        "qps: 0.75",
        "qps: -1",
        expect![[r#"
        error: expected a number above 0, found `-1`
          --> pipelines/x.yaml:18:36
           |
        18 |     arrivals: {kind: poisson, qps: -1}
           |                                    ^^
           |
           = note: in `arrivals.qps`, for `latency/tp2-8`"#]],
    );
    check(
        "pp: 2",
        "pp: two",
        expect![[r#"
        error: expected an integer, found the string `two`
         --> pipelines/x.yaml:9:60
          |
        9 |     for: {parallel: {tp2: {tp: 2, pp: 1}, pp2: {tp: 1, pp: two}}}
          |                                                            ^^^
          |
          = note: in `parallel.pp`, for `weights/pp2`"#]],
    );
}

#[test]
fn unknown_variants() {
    check(
        "policy: sarathi",
        "policy: sarati",
        expect![[r#"
        error: unknown policy `sarati`
          --> pipelines/x.yaml:16:25
           |
        16 |     scheduler: {policy: sarati, chunk: 512}
           |                         ^^^^^^
           |
           = note: for `latency/tp2-8`
           = help: did you mean `sarathi`?"#]],
    );
    check(
        "recipe: trial",
        "recipe: trail",
        expect![[r#"
        error: unknown recipe `trail`
          --> pipelines/x.yaml:13:13
           |
        13 |     recipe: trail
           |             ^^^^^
           |
           = note: for `latency/tp2-8`
           = help: did you mean `trial`?"#]],
    );
    check(
        "    recipe: trial\n",
        "",
        expect![[r#"
            error: the key `recipe` is missing
              --> pipelines/x.yaml:12:3
               |
            12 |   latency:
               |   ^^^^^^^
               |
               = note: for `latency/tp2-8`
               = help: expected one of: `cluster`, `profile`, `shard`, `trial`, `capacity`, `figure`, `check`, `command`"#]],
    );
    check(
        "seed: 42",
        "seed: 42\n    band: medium",
        expect![[r#"
        error: unknown name `medium`
          --> pipelines/x.yaml:24:11
           |
        24 |     band: medium
           |           ^^^^^^
           |
           = note: for `latency/tp2-8`
           = help: expected one of: `central`, `low`, `high`, `all`"#]],
    );
}

#[test]
fn a_key_of_another_variant() {
    check(
        "chunk: 512",
        "chunk: 512, max_batched_tokens: 5",
        expect![[r#"
        error: unknown key `max_batched_tokens`
          --> pipelines/x.yaml:16:46
           |
        16 |     scheduler: {policy: sarathi, chunk: 512, max_batched_tokens: 5}
           |                                              ^^^^^^^^^^^^^^^^^^
           |
           = note: for `latency/tp2-8`
           = help: keys: `chunk`, `watermark`"#]],
    );
}

#[test]
fn unknown_references() {
    check(
        "weights: weights/${parallel}",
        "weights: wieghts/${parallel}",
        expect![[r#"
            error: unknown target `wieghts/tp2`
              --> pipelines/x.yaml:15:14
               |
            15 |     weights: wieghts/${parallel}
               |              ^^^^^^^^^^^^^^^^^^^
               |
               = note: for `latency/tp2-8`
               = help: did you mean `weights/tp2`?"#]],
    );
}

#[test]
fn references_to_the_wrong_thing() {
    let one = |weights: &str| {
        let text =
            RIGHT.replace("parallel: [tp2, pp2], batch", "batch").replace("weights/${parallel}", weights);
        text.split("  figure:").next().unwrap_or_default().to_owned()
    };
    check_text(
        &one("weights/tp"),
        &[],
        expect![[r#"
        error: unknown target `weights/tp`
          --> pipelines/x.yaml:15:14
           |
        15 |     weights: weights/tp
           |              ^^^^^^^^^^
           |
           = note: for `latency/8`
           = help: did you mean `weights/tp2`?"#]],
    );
    check_text(
        &one("weights"),
        &[],
        expect![[r#"
        error: expected one instance, found 2: `weights`
          --> pipelines/x.yaml:15:14
           |
        15 |     weights: weights
           |              ^^^^^^^
           |
           = note: for `latency/8`
           = help: name one, such as `weights/tp2`, `weights/pp2`"#]],
    );
    check_text(
        &one("cluster"),
        &[],
        expect![[r#"
        error: expected a target with `recipe: shard`, found `cluster` with `recipe: cluster`
          --> pipelines/x.yaml:15:14
           |
         6 |   cluster: {recipe: cluster}
           |   ------- declared here
        ...
        15 |     weights: cluster
           |              ^^^^^^^
           |
           = note: for `latency/8`
           = help: targets with `recipe: shard`: `weights/tp2`, `weights/pp2`"#]],
    );
    check_text(
        &one("nothing"),
        &[],
        expect![[r#"
        error: unknown target `nothing`
          --> pipelines/x.yaml:15:14
           |
        15 |     weights: nothing
           |              ^^^^^^^
           |
           = note: for `latency/8`
           = help: targets: `cluster`, `latency`, `weights`"#]],
    );
    check(
        "from: latency",
        "from: latencies/*",
        expect![[r#"
        error: `latencies/*` matches no target
          --> pipelines/x.yaml:26:11
           |
        26 |     from: latencies/*
           |           ^^^^^^^^^^^
           |
           = help: did you mean `latency`?"#]],
    );
}

#[test]
fn unknown_names_in_references() {
    check(
        "batch_cap: ${batch}",
        "batch_cap: ${bach}",
        expect![[r#"
        error: unknown name `bach` in `${}`
          --> pipelines/x.yaml:17:16
           |
        17 |     batch_cap: ${bach}
           |                ^^^^^^^
           |
           = note: for `latency/tp2-8`
           = help: did you mean `batch`?"#]],
    );
    check(
        "parallel: ${parallel}\n",
        "parallel: {tp: \"${parallel.tpp}\", pp: 1}\n",
        expect![[r#"
        error: `parallel` has no field `tpp`
          --> pipelines/x.yaml:11:21
           |
         9 |     for: {parallel: {tp2: {tp: 2, pp: 1}, pp2: {tp: 1, pp: 2}}}
           |                           -------------- given here
        10 |     model: falcon-7b
        11 |     parallel: {tp: "${parallel.tpp}", pp: 1}
           |                     ^^^^^^^^^^^^^^^
           |
           = note: for `weights/tp2`
           = help: did you mean `tp`?"#]],
    );
    check(
        "weights: weights/${parallel}",
        "weights: weights/${parallel",
        expect![[r#"
        error: `${` without its `}`
          --> pipelines/x.yaml:15:22
           |
        15 |     weights: weights/${parallel
           |                      ^^
           |
           = note: for `latency/tp2-8`
           = help: a `${` that is meant as text is written `$${`"#]],
    );
    check(
        "weights: weights/${parallel}",
        "weights: weights/${batches}",
        expect![[r#"
        error: `batches` is a list, which cannot stand within text
          --> pipelines/x.yaml:15:22
           |
        15 |     weights: weights/${batches}
           |                      ^^^^^^^^^^
           |
           = note: for `latency/tp2-8`"#]],
    );
}

#[test]
fn a_reference_in_braces_without_quotes() {
    check(
        "chunk: 512",
        "chunk: ${batch}",
        expect![[r#"
        error: not valid YAML: while parsing a flow mapping, did not find expected ',' or '}'
          --> pipelines/x.yaml:16:42
           |
        16 |     scheduler: {policy: sarathi, chunk: ${batch}}
           |                                          ^
           |
           = help: inside `{}` and `[]`, put `${...}` in quotes: `"${...}"`"#]],
    );
}

#[test]
fn cycles() {
    check(
        "batches: [8, 16]",
        "batches: ${a}\n  a: ${b.c}\n  b: {c: \"${a}\"}",
        expect![[r#"
        error: `a` refers to itself: a -> b.c -> a
         --> pipelines/x.yaml:6:11
          |
        6 |   b: {c: "${a}"}
          |           ^^^^
          |
          = help: give one of them a value of its own"#]],
    );
    let commands = "
chariot: 1
targets:
  first: {recipe: command, argv: [cp, in, out], inputs: {in: \"third:out\"}, outputs: [out]}
  second: {recipe: command, argv: [cp, in, out], inputs: {in: \"first:out\"}, outputs: [out]}
  third: {recipe: command, argv: [cp, in, out], inputs: {in: \"second:out\"}, outputs: [out]}
";
    check_text(
        commands,
        &[],
        expect![[r#"
        error: targets need one another in a circle: first -> third -> second -> first
         --> pipelines/x.yaml:4:3
          |
        4 |   first: {recipe: command, argv: [cp, in, out], inputs: {in: "third:out"}, outputs: [out]}
          |   ^^^^^
          |
          = help: take one of the inputs out"#]],
    );
}

#[test]
fn empty_sweeps() {
    check(
        "batches: [8, 16]",
        "batches: []",
        expect![[r#"
            error: `batch` has no value, so the sweep is empty
              --> pipelines/x.yaml:14:40
               |
             4 |   batches: []
               |            -- given here
            ...
            14 |     for: {parallel: [tp2, pp2], batch: "${batches}"}
               |                                        ^^^^^^^^^^^^
               |
               = help: give it at least one value"#]],
    );
    check(
        "for: {parallel: [tp2, pp2], batch: \"${batches}\"}",
        "for: {}",
        expect![[r#"
        error: the sweep has no variable
          --> pipelines/x.yaml:14:5
           |
        14 |     for: {}
           |     ^^^
           |
           = help: give it at least one value"#]],
    );
    let all = "exclude: [{parallel: [tp2, pp2]}]\n    seed: 42";
    check(
        "seed: 42",
        all,
        expect![[r#"
        error: `exclude` leaves nothing of the sweep
          --> pipelines/x.yaml:14:5
           |
        14 |     for: {parallel: [tp2, pp2], batch: "${batches}"}
           |     ^^^
           |
           = help: exclude less"#]],
    );
}

#[test]
fn excludes() {
    check(
        "seed: 42",
        "exclude: [{bach: 8}]\n    seed: 42",
        expect![[r#"
        error: `bach` is no variable of this sweep
          --> pipelines/x.yaml:23:16
           |
        23 |     exclude: [{bach: 8}]
           |                ^^^^
           |
           = help: did you mean `batch`?"#]],
    );
    check(
        "seed: 42",
        "exclude: [{parallel: tp4}]\n    seed: 42",
        expect![[r#"
            error: `parallel` never has the value `tp4`
              --> pipelines/x.yaml:23:26
               |
            23 |     exclude: [{parallel: tp4}]
               |                          ^^^
               |
               = help: did you mean `tp2`?"#]],
    );
}

#[test]
fn duplicate_instance_names() {
    check(
        "seed: 42",
        "name: ${parallel}\n    seed: 42",
        expect![[r#"
        error: two instances are named `tp2`
          --> pipelines/x.yaml:23:11
           |
        23 |     name: ${parallel}
           |           ^^^^^^^^^^^
           |
           = note: one with parallel tp2, batch 8; one with parallel tp2, batch 16
           = help: use `${batch}` in the name"#]],
    );
    check(
        "[8, 16]",
        "[8, 8]",
        expect![[r#"
        error: `batch` has the value `8` twice
         --> pipelines/x.yaml:4:16
          |
        4 |   batches: [8, 8]
          |             -  ^
          |             |
          |             first given here
          |
          = help: remove one of the two"#]],
    );
}

#[test]
fn names_that_cannot_be_paths() {
    check(
        "[8, 16]",
        "[8, 1/2]",
        expect![[r#"
        error: expected an instance's name of letters, digits, `.`, `_`, `-`, found `tp2-1/2`
          --> pipelines/x.yaml:14:5
           |
        14 |     for: {parallel: [tp2, pp2], batch: "${batches}"}
           |     ^^^
           |
           = help: name the values (`variable: {NAME: value}`), or give a template such as `name: b${batch}`"#]],
    );
    check(
        "  latency:",
        "  late ncy:",
        expect![[r#"
        error: expected a name for a target, found `late ncy`
          --> pipelines/x.yaml:12:3
           |
        12 |   late ncy:
           |   ^^^^^^^^
           |
           = help: names are made of letters, digits, `.`, `_` and `-`"#]],
    );
}

#[test]
fn variables_that_do_nothing() {
    check(
        "batch_cap: ${batch}",
        "batch_cap: 8",
        expect![[r#"
        error: nothing in `latency` refers to `${batch}`, so its instances would all be alike
          --> pipelines/x.yaml:14:33
           |
        14 |     for: {parallel: [tp2, pp2], batch: "${batches}"}
           |                                 ^^^^^
           |
           = help: refer to `${batch}`, or remove it from `for`"#]],
    );
    check(
        "batches: [8, 16]",
        "batches: [8, 16]\n  batch: 5",
        expect![[r#"
        error: nothing refers to the parameter `batch`
         --> pipelines/x.yaml:5:3
          |
        5 |   batch: 5
          |   ^^^^^
          |
          = help: refer to it by `${batch}`, or remove it"#]],
    );
}

#[test]
fn units() {
    check(
        "time_limit: 30 min",
        "time_limit: 30",
        expect![[r#"
        error: expected a time with its unit, such as `30 min`, found the number `30`
          --> pipelines/x.yaml:22:17
           |
        22 |     time_limit: 30
           |                 ^^
           |
           = note: for `latency/tp2-8`
           = help: write `30 s`, or another of the units `ns`, `us`, `ms`, `s`, `min`, `h`, `d`"#]],
    );
    check(
        "time_limit: 30 min",
        "time_limit: 30 minutes",
        expect![[r#"
        error: unknown unit of time `minutes` in `30 minutes`
          --> pipelines/x.yaml:22:17
           |
        22 |     time_limit: 30 minutes
           |                 ^^^^^^^^^^
           |
           = note: for `latency/tp2-8`
           = help: did you mean `min`?"#]],
    );
}

#[test]
fn predicates() {
    let capacity = RIGHT
        .replace("    arrivals: {kind: poisson, qps: 0.75}\n", "    rate: {start: 1, granularity: 2.5}\n");
    let capacity = capacity
        .replace("recipe: trial", "recipe: capacity")
        .replace("seed: 42", "seeds: [1]\n    slo: [p99(tbtt) <= 1]");
    check_text(
        &capacity,
        &[],
        expect![[r#"
        error: expected a percentage, such as `2.5 %`, found the number `2.5`
          --> pipelines/x.yaml:18:35
           |
        18 |     rate: {start: 1, granularity: 2.5}
           |                                   ^^^
           |
           = note: in `rate.granularity`, for `latency/tp2-8`
           = help: write `2.5 %`"#]],
    );
    let capacity = capacity.replace("granularity: 2.5", "granularity: 2.5 %");
    check_text(
        &capacity,
        &[],
        expect![[r#"
        error: unknown metric `tbtt` in an SLO
          --> pipelines/x.yaml:24:11
           |
        24 |     slo: [p99(tbtt) <= 1]
           |           ^^^^^^^^^^^^^^
           |
           = note: in `slo.0`, for `latency/tp2-8`
           = help: did you mean `tbt`?"#]],
    );
    check_text(
        &capacity.replace("tbtt", "tbt"),
        &[],
        expect![[r#"
        error: expected a time with its unit, such as `30 min`, found `1`
          --> pipelines/x.yaml:24:11
           |
        24 |     slo: [p99(tbt) <= 1]
           |           ^^^^^^^^^^^^^
           |
           = note: in `slo.0`, for `latency/tp2-8`
           = help: write `1 s`, or another of the units `ns`, `us`, `ms`, `s`, `min`, `h`, `d`"#]],
    );
}

#[test]
fn unknown_presets() {
    check(
        "model: falcon-7b",
        "model: falcon-7",
        expect![[r#"
        error: unknown model `falcon-7`
          --> pipelines/x.yaml:10:12
           |
        10 |     model: falcon-7
           |            ^^^^^^^^
           |
           = note: presets are files of `pipelines/models/`; a path begins with `./` or ends in `.yaml`, `.json` or `.csv`
           = help: did you mean `falcon-7b`?"#]],
    );
    check(
        "platform: constant-x8",
        "platform: azure",
        expect![[r#"
        error: unknown platform `azure`
         --> pipelines/x.yaml:2:11
          |
        2 | platform: azure
          |           ^^^^^
          |
          = note: presets are files of `pipelines/platforms/`; a path begins with `./` or ends in `.yaml`, `.json` or `.csv`
          = help: did you mean `azure-nc96ads-a100-v4-x2`?"#]],
    );
    check(
        "table: openchat_sharegpt4",
        "table: openchat",
        expect![[r#"
        error: unknown table of lengths `openchat`
          --> pipelines/x.yaml:20:39
           |
        20 |     lengths: {kind: quantiles, table: openchat}
           |                                       ^^^^^^^^
           |
           = note: presets are files of `pipelines/lengths/`; a path begins with `./` or ends in `.yaml`, `.json` or `.csv`
           = help: did you mean `openchat_sharegpt4`?"#]],
    );
}

#[test]
fn figures() {
    check(
        "variable: batch}",
        "variable: bach}",
        expect![[r#"
        error: `bach` is no variable of `latency`
          --> pipelines/x.yaml:28:19
           |
        28 |     x: {variable: bach}
           |                   ^^^^
           |
           = help: did you mean `batch`?"#]],
    );
    check(
        "p50(tbt)",
        "p50(tbt_decodes)",
        expect![[r#"
        error: unknown metric `tbt_decodes`
          --> pipelines/x.yaml:30:15
           |
        30 |     metrics: [p50(tbt_decodes)]
           |               ^^^^^^^^^^^^^^^^
           |
           = help: did you mean `tbt_decode_only`?"#]],
    );
    check(
        "    metrics: [p50(tbt)]\n",
        "",
        expect![[r#"
        error: the key `metrics` is missing: what is plotted of trials
          --> pipelines/x.yaml:26:11
           |
        26 |     from: latency
           |           ^^^^^^^
           |
           = help: add `metrics: [p50(tbt), p99(tbt)]`"#]],
    );
    check(
        "series: {variable: parallel}",
        "series: {variable: batch}",
        expect![[r#"
        error: `latency/tp2-8` and `latency/pp2-8` would be the same bar
          --> pipelines/x.yaml:26:11
           |
        26 |     from: latency
           |           ^^^^^^^
           |
           = note: both have batch 8 and batch 8
           = help: narrow `from` by a glob such as `target/*-strict`, or name the variable in which repeats differ: `repeats: VARIABLE`"#]],
    );
    check(
        "series: {variable: parallel}",
        "series: {variable: batch}\n    repeats: repeat",
        expect![[r#"
            error: `repeat` is no variable of `latency`
              --> pipelines/x.yaml:30:14
               |
            30 |     repeats: repeat
               |              ^^^^^^
               |
               = help: variables: `parallel`, `batch`"#]],
    );
}

#[test]
fn sets() {
    check_text(
        RIGHT,
        &[("batch", "5")],
        expect![[r#"
        error: there is no parameter `batch` to set
         --> --set:1:1
          |
        1 | batch=5
          | ^^^^^
          |
          = help: did you mean `batches`?"#]],
    );
    check_text(
        RIGHT,
        &[("batches.first", "5")],
        expect![[r#"
        error: there is no field `first` to set: found a list
         --> --set:1:1
          |
        1 | batches.first=5
          | ^^^^^^^^^^^^^
          |
         ::: pipelines/x.yaml:4:12
          |
        4 |   batches: [8, 16]
          |            ------- given here"#]],
    );
    check_text(
        RIGHT,
        &[("batches", "[8, sixteen]")],
        expect![[r#"
        error: expected an integer, found the string `sixteen`
          --> pipelines/x.yaml:17:16
           |
        17 |     batch_cap: ${batch}
           |                ^^^^^^^^
           |
          ::: --set:1:13
           |
         1 | batches=[8, sixteen]
           |             ------- the value comes from here
           |
           = note: for `latency/tp2-sixteen`"#]],
    );
    check_text(
        RIGHT,
        &[("batches", "[8")],
        expect![[r#"
        error: not valid YAML: while parsing a flow sequence, expected ',' or ']'
         --> --set:1:1
          |
        1 | batches=[8
          | ^"#]],
    );
}

#[test]
fn yaml() {
    check_text(
        "",
        &[],
        expect![[r#"
        error: the file is empty
         --> pipelines/x.yaml:1:1
          |
        1 |
          | ^
          |
          = help: begin with `chariot: 1`"#]],
    );
    check_text(
        "- a\n",
        &[],
        expect![[r#"
        error: expected a pipeline, found a list
         --> pipelines/x.yaml:1:1
          |
        1 | - a
          | ^
          |
          = help: begin with `chariot: 1`"#]],
    );
    check_text(
        "chariot: 2\ntargets: {}\n",
        &[],
        expect![[r#"
            error: expected the version of the language, `1`, found the integer `2`
             --> pipelines/x.yaml:1:10
              |
            1 | chariot: 2
              |          ^

            error: expected a map of targets, found an empty map
             --> pipelines/x.yaml:2:10
              |
            2 | targets: {}
              |          ^^"#]],
    );
}

#[test]
fn yaml_syntax() {
    check_text(
        "chariot: 1\ntargets: {a: *b}\n",
        &[],
        expect![[r#"
        error: not valid YAML: while parsing node, found unknown anchor
         --> pipelines/x.yaml:2:14
          |
        2 | targets: {a: *b}
          |              ^"#]],
    );
    check_text(
        "chariot: 1\n---\nchariot: 1\n",
        &[],
        expect![[r#"
        error: expected one document, found a second
         --> pipelines/x.yaml:2:1
          |
        2 | ---
          | ^^^
          |
          = help: split the file at `---`"#]],
    );
    check_text(
        "chariot: !!int 1\ntargets: {a: !b {recipe: cluster}}\n",
        &[],
        expect![[r#"
            error: the tag `tag:yaml.org,2002:!int` means nothing here
             --> pipelines/x.yaml:1:10
              |
            1 | chariot: !!int 1
              |          ^^^^^^^
              |
              = help: remove the tag

            error: the tag `!b` means nothing here
             --> pipelines/x.yaml:2:14
              |
            2 | targets: {a: !b {recipe: cluster}}
              |              ^^^^
              |
              = help: remove the tag"#]],
    );
    check_text(
        "chariot: 1\n# für später, äöü\ntargets: {ä: 1}\n",
        &[],
        expect![[r#"
        error: expected a name for a target, found `ä`
         --> pipelines/x.yaml:3:11
          |
        3 | targets: {ä: 1}
          |           ^
          |
          = help: names are made of letters, digits, `.`, `_` and `-`"#]],
    );
}

#[test]
fn commands() {
    let with = |rest: &str| {
        format!(
            "chariot: 1\ntargets:\n  a: {{recipe: command, argv: [true], {rest}}}\n  b: {{recipe: cluster, platform: constant-x8}}\n"
        )
    };
    check_text(
        &with("outputs: []"),
        &[],
        expect![[r#"
        error: expected at least one output, found none
         --> pipelines/x.yaml:3:47
          |
        3 |   a: {recipe: command, argv: [true], outputs: []}
          |                                               ^^
          |
          = help: a command without an output has nothing to keep; let it write a file"#]],
    );
    check_text(
        &with("outputs: [../x]"),
        &[],
        expect![[r#"
        error: expected a path within the command's directory, found `../x`
         --> pipelines/x.yaml:3:48
          |
        3 |   a: {recipe: command, argv: [true], outputs: [../x]}
          |                                                ^^^^
          |
          = note: in `outputs.0`"#]],
    );
    check_text(
        &with("outputs: [x], inputs: {y: 'b:clusters.json'}"),
        &[],
        expect![[r#"
        error: `b` has no output `clusters.json`
         --> pipelines/x.yaml:3:64
          |
        3 |   a: {recipe: command, argv: [true], outputs: [x], inputs: {y: 'b:clusters.json'}}
          |                                                                ^^^^^^^^^^^^^^^^^
          |
          = help: did you mean `cluster.json`?"#]],
    );
    check_text(
        &with("outputs: [x], show: [z]"),
        &[],
        expect![[r#"
        error: `z` is no output of this command
         --> pipelines/x.yaml:3:59
          |
        3 |   a: {recipe: command, argv: [true], outputs: [x], show: [z]}
          |                                                           ^
          |
          = help: outputs: `x`"#]],
    );
    check_text(
        &with("outputs: [x], timeout: 5 minute"),
        &[],
        expect![[r#"
        error: unknown unit of time `minute` in `5 minute`
         --> pipelines/x.yaml:3:61
          |
        3 |   a: {recipe: command, argv: [true], outputs: [x], timeout: 5 minute}
          |                                                             ^^^^^^^^
          |
          = help: did you mean `min`?"#]],
    );
}

#[test]
fn a_parity_figure_has_two_series() {
    check("    from: latency\n", "    from: latency\n    kind: parity\n", expect!["no mistake"]);
    let three = "    from: latency\n    kind: parity\n    title: Latency\n    x: {variable: parallel}\n    series: {variable: batch}\n";
    let text = RIGHT.replace("[8, 16]", "[8, 16, 32]");
    let from =
        "    from: latency\n    title: Latency\n    x: {variable: batch}\n    series: {variable: parallel}\n";
    check_text(
        &text.replace(from, three),
        &[],
        expect![[r#"
        error: expected a variable with two values, found 3: 8, 16, 32
          --> pipelines/x.yaml:30:24
           |
        30 |     series: {variable: batch}
           |                        ^^^^^
           |
           = help: `kind: parity` draws the first value's numbers over the second's; narrow `from` to two"#]],
    );
}

#[test]
fn only_times_can_be_shown_in_another_unit() {
    let of = |metrics: &str| format!("    metrics: [{metrics}]\n    y: {{unit: ms}}\n");
    check("    metrics: [p50(tbt)]\n", &of("p50(ttft)"), expect!["no mistake"]);
    check("    metrics: [p50(tbt)]\n", "    metrics: [mean(output_throughput)]\n", expect!["no mistake"]);
    check(
        "    metrics: [p50(tbt)]\n",
        &of("mean(output_throughput)"),
        expect![[r#"
        error: expected no `unit` for `output_throughput`, which is in tokens/s
          --> pipelines/x.yaml:30:15
           |
        30 |     metrics: [mean(output_throughput)]
           |               ^^^^^^^^^^^^^^^^^^^^^^^
           |
           = help: only times can be shown in another unit"#]],
    );
}
