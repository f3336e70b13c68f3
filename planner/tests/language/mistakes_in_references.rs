//! What is said of mistakes in references, sweeps and names.

use expect_test::expect;

use super::mistakes::{RIGHT, check, check_text};

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
