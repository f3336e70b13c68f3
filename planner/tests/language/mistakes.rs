//! What is said of mistakes in keys, types and YAML itself: file, line, column, what was expected, the nearest right name.

use expect_test::{Expect, expect};

use super::compiled;

/// A pipeline that is right, to be put wrong one text at a time.
pub(super) const RIGHT: &str = "\
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
pub(super) fn check(from: &str, to: &str, expected: Expect) {
    assert!(RIGHT.contains(from), "{from:?} is not in the pipeline");
    check_text(&RIGHT.replacen(from, to, 1), &[], expected);
}

pub(super) fn check_text(text: &str, sets: &[(&str, &str)], expected: Expect) {
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
