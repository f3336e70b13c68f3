//! What a pipeline becomes: sweeps, names, references, presets, commands.

use camino::Utf8Path;
use chariot::load::load;
use chariot::step::{Source, Work};
use expect_test::{Expect, expect};

use super::{addresses, compiled, root};

/// The addresses that a sweep of a command gives.
fn check(sweep: &str, expected: Expect) {
    let text = format!(
        "chariot: 1\ntargets:\n  run:\n    recipe: command\n    argv: [run, \"${{a}}\", \"${{b}}\"]\n    outputs: [out]\n{sweep}"
    );
    match compiled(&text, &[]) {
        Ok(steps) => expected.assert_eq(&addresses(&steps).join(" ")),
        Err(errors) => expected.assert_eq(&errors.to_string()),
    }
}

#[test]
fn sweeps() {
    check("    for: {a: [1, 2], b: [x, y]}\n", expect!["x/run/1-x x/run/1-y x/run/2-x x/run/2-y"]);
    check(
        "    for: {a: [1, 2], b: {x: {deep: 1}, y: 2}}\n",
        expect![[r#"
        error: expected a text or a number, found a map
         --> pipelines/x.yaml:5:25
          |
        5 |     argv: [run, "${a}", "${b}"]
          |                         ^^^^^^
        6 |     outputs: [out]
        7 |     for: {a: [1, 2], b: {x: {deep: 1}, y: 2}}
          |                             --------- the value comes from here
          |
          = note: in `argv.2`, for `run/1-x`"#]],
    );
    check(
        "    for: {a: [1, 2], b: [x, y]}\n    name: b-${b}.${a}\n",
        expect!["x/run/b-x.1 x/run/b-y.1 x/run/b-x.2 x/run/b-y.2"],
    );
    check(
        "    for: {a: [1, 2], b: [x, y]}\n    exclude: [{a: 1, b: y}, {a: 2, b: [x]}]\n",
        expect!["x/run/1-x x/run/2-y"],
    );
    check(
        "    for: {a: [1.0, 1e3], b: [-1]}\n    name: a${a}b${b}\n",
        expect!["x/run/a1.0b-1 x/run/a1e3b-1"],
    );
}

/// The arguments of the first step.
fn args(text: &str, sets: &[(&str, &str)]) -> String {
    let steps = compiled(text, sets).unwrap_or_else(|errors| panic!("{errors}"));
    match &steps.steps[0].work {
        Work::Action(action) => action.args.join(" "),
        Work::Search(_) => panic!("not an action"),
    }
}

#[test]
fn references_keep_types_and_may_chain() {
    let text = "
chariot: 1
params: {a: '${b.list}', b: {list: [run, 1, true, '${c}'], word: w}, c: 'a ${b.word} $${literal}'}
targets:
  run: {recipe: command, argv: '${a}', outputs: [out]}
";
    expect!["1 true a w ${literal}"].assert_eq(&args(text, &[]));
}

#[test]
fn a_named_value_is_its_name_in_text_and_itself_alone() {
    let text = "
chariot: 1
targets:
  run:
    recipe: command
    for: {size: {small: 10, big: 1000}}
    argv: [run, \"--name=${size}\", \"${size}\"]
    outputs: [out]
";
    expect!["--name=small 10"].assert_eq(&args(text, &[]));
}

#[test]
fn merges_and_anchors() {
    let text = "
chariot: 1
targets:
  one: &one {recipe: command, argv: [run, a], outputs: [out]}
  two: {<<: *one, argv: [run, b]}
  three: {<<: [{argv: [run, c]}, *one]}
";
    let steps = compiled(text, &[]).unwrap();
    let argv = |index: usize| match &steps.steps[index].work {
        Work::Action(action) => action.args.clone(),
        Work::Search(_) => Vec::new(),
    };
    assert_eq!([argv(0), argv(1), argv(2)], [["a"], ["b"], ["c"]]);
}

#[test]
fn sets_reach_params_fields_and_the_platform() {
    let text = "
chariot: 1
platform: constant-x8
params: {a: {b: 1, c: 2}}
targets:
  run: {recipe: command, argv: [run, '${a.b}', '${a.c}', '${platform}'], outputs: [out]}
";
    expect!["1 2 constant-x8"].assert_eq(&args(text, &[]));
    expect!["7 2 constant-x8"].assert_eq(&args(text, &[("a.b", "7")]));
    expect!["3 4 other"].assert_eq(&args(text, &[("a", "{b: 3, c: 4}"), ("platform", "other")]));
}

#[test]
fn a_command_reads_files_and_outputs() {
    let text = "
chariot: 1
targets:
  make: {recipe: command, for: {n: [1, 2]}, argv: [make, '${n}'], outputs: [a/x.txt], name: 'n${n}'}
  read:
    recipe: command
    argv: [python3, scripts/read.py]
    inputs:
      scripts/read.py: tools/read.py
      one: make/n1:a/x.txt
      all: make:a/x.txt
      glob: make/*2:a/x.txt
    outputs: [table.txt]
    env: {SEED: 42}
    resources: {cpu: 2, exclusive: true}
    timeout: 10 min
    retries: 1
    facts: [hostname]
    show: [table.txt]
";
    let steps = compiled(text, &[]).unwrap();
    let Work::Action(action) = &steps.steps[2].work else { panic!("a command is an action") };
    let inputs: Vec<String> = action
        .inputs
        .iter()
        .map(|(path, source)| match source {
            Source::File(file) => format!("{path} <- {file}"),
            Source::Output { step, path: of } => {
                format!("{path} <- {}:{of}", steps.steps[step.0 as usize].address)
            }
            Source::Inline(_) => format!("{path} <- inline"),
        })
        .collect();
    expect![[r#"
        all/n1/a/x.txt <- x/make/n1:a/x.txt
        all/n2/a/x.txt <- x/make/n2:a/x.txt
        glob/n2/a/x.txt <- x/make/n2:a/x.txt
        one <- x/make/n1:a/x.txt
        scripts/read.py <- tools/read.py"#]]
    .assert_eq(&inputs.join("\n"));
    expect![[r#"User("python3") ["scripts/read.py"] {"SEED": "42"} Resources { cpu: 2, gpu: 0, exclusive: true } Some(600s) 1 ["hostname"] ["table.txt"]"#]].assert_eq(&format!(
        "{:?} {:?} {:?} {:?} {:?} {} {:?} {:?}",
        action.tool,
        action.args,
        action.env,
        action.resources,
        action.timeout,
        action.retries,
        action.facts,
        steps.steps[2].show
    ));
}

#[test]
fn a_stop_of_hopeless_probes_is_a_cutoff() {
    let text = fs_err::read_to_string(root().join("pipelines/figure-8.yaml")).unwrap();
    let text = text.replace("    band: ends\n", "    early_stop: true\n");
    let steps = compiled(&text, &[]).unwrap();
    let search = steps.steps.iter().find_map(|s| match &s.work {
        Work::Search(search) => Some(search),
        Work::Action(_) => None,
    });
    let cutoff = search.unwrap().repeats[0].trial.action.cutoff.clone().unwrap();
    expect![[r#"Cutoff { args: ["--stop-when-hopeless", "p99(tbt) <= 1.0", "--stop-when-hopeless", "p50(scheduling_delay) <= 2.0"], marker: "trial.json" }"#]].assert_eq(&format!("{cutoff:?}"));
}

#[test]
fn expansion_is_deterministic() {
    let text = fs_err::read_to_string(root().join("pipelines/figure-8.yaml")).unwrap();
    assert_eq!(compiled(&text, &[]).unwrap(), compiled(&text, &[]).unwrap());
}

/// A project on disk with one pipeline.
fn project(pipeline: &str) -> std::io::Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    fs_err::create_dir_all(folder.path().join("pipelines/platforms"))?;
    fs_err::write(folder.path().join("pipelines/platforms/mine.yaml"), "")?;
    fs_err::write(folder.path().join("pipelines/x.yaml"), pipeline)?;
    Ok(folder)
}

fn loaded(pipeline: &str, name: &str) -> String {
    let folder = project(pipeline).expect("a temporary folder can be written");
    match load(Utf8Path::from_path(folder.path()).expect("UTF-8"), name, &[]) {
        Ok(steps) => addresses(&steps).join(" "),
        Err(errors) => errors.to_string(),
    }
}

#[test]
fn loading_finds_pipelines_and_presets() {
    let text = "chariot: 1\nplatform: mine\ntargets: {cluster: {recipe: cluster}}\n";
    expect!["x/cluster"].assert_eq(&loaded(text, "x"));
    expect![[r#"
        error: there is no pipeline `y`: no file pipelines/y.yaml
         |
         = help: pipelines: x"#]]
    .assert_eq(&loaded(text, "y"));
    expect![[r#"
        error: there is no file `mine.yaml` in the project
         --> pipelines/x.yaml:2:11
          |
        2 | platform: ./mine.yaml
          |           ^^^^^^^^^^^
          |
          = help: paths are relative to the project's root"#]]
    .assert_eq(&loaded(&text.replace("mine", "./mine.yaml"), "x"));
    expect![[r#"
        error: there is no file `pipelines/platforms/mien.yaml` in the project
         --> pipelines/x.yaml:2:11
          |
        2 | platform: ./pipelines/platforms/mien.yaml
          |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: did you mean `pipelines/platforms/mine.yaml`?"#]]
    .assert_eq(&loaded(&text.replace("mine", "./pipelines/platforms/mien.yaml"), "x"));
}
