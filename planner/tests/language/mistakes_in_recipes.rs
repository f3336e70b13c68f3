//! What is said of mistakes in what a recipe asks for: units, predicates, presets, figures, commands.

use camino::Utf8Path;
use chariot::step::{Source, Work};
use expect_test::expect;

use super::compiled;
use super::mistakes::{RIGHT, check, check_text};

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

/// The right pipeline with a check of one claim.
fn with_claim(more: &str) -> String {
    let claim = "{figure: figure, metric: p50(tbt), ratio: {parallel: [tp2, pp2]}, published: 1";
    format!("{RIGHT}  held: {{recipe: check, source: here, tolerance: 5 %, claims: [{claim}{more}}}]}}\n")
}

/// The claim that the check of a pipeline is told.
fn claim_of(pipeline: &str) -> serde_json::Value {
    let steps = compiled(pipeline, &[]).expect("the pipeline is right");
    let step = steps.steps.iter().find(|step| step.address == "x/held").expect("it has a check");
    let Work::Action(action) = &step.work else { panic!("a check is an action") };
    let Source::Inline(bytes) = &action.inputs[Utf8Path::new("check.json")] else { panic!("inline") };
    serde_json::from_slice::<serde_json::Value>(bytes).expect("a specification is JSON")["claims"][0].clone()
}

#[test]
fn a_claim_about_paired_repeats_is_of_a_figure_that_has_some() {
    let claim = with_claim(", paired: true");
    let repeated = claim.replace("x: {variable: batch}", "x: {variable: parallel}\n    repeats: batch");
    assert_eq!(claim_of(&repeated)["paired"], true);
    assert_eq!(claim_of(&with_claim(""))["paired"], serde_json::Value::Null);
    check_text(
        &claim,
        &[],
        expect![[r#"
        error: `figure` has no repeats to pair
          --> pipelines/x.yaml:31:152
           |
        24 |   figure:
           |   ------ declared here
        ...
        31 |   held: {recipe: check, source: here, tolerance: 5 %, claims: [{figure: figure, metric: p50(tbt), ratio: {parallel: [tp2, pp2]}, published: 1, paired: true}]}
           |                                                                                                                                                        ^^^^
           |
           = help: name there the variable in which repeats differ, `repeats: VARIABLE`, or remove `paired`"#]],
    );
}

#[test]
fn a_claim_about_all_ratios_is_over_several() {
    let spec = |more: &str| claim_of(&with_claim(more))["all"].clone();
    assert_eq!(spec(", each: batch, all: true"), true);
    assert_eq!(spec(", each: batch, all: false"), serde_json::Value::Null);
    assert_eq!(spec(", each: batch"), serde_json::Value::Null);
    check_text(
        &with_claim(", where: {batch: 8}, all: true"),
        &[],
        expect![[r#"
            error: `all` of one ratio means nothing
              --> pipelines/x.yaml:31:168
               |
            31 | ...{parallel: [tp2, pp2]}, published: 1, where: {batch: 8}, all: true}]}
               |                                                                  ^^^^
               |
               = help: write `each: VARIABLE` beside it, or remove it"#]],
    );
}
