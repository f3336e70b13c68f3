//! Every committed pipeline, with the presets and files that are there: it has no mistake, and so many steps of each kind.

use std::collections::{BTreeMap, BTreeSet};

use chariot::graph::Graph;
use chariot::load::load;
use chariot::step::{ActionTemplate, Step, Steps, Tool, Work};
use expect_test::{Expect, expect};

use super::root;

fn loaded(name: &str, sets: &[(&str, &str)]) -> Steps {
    let sets: Vec<(String, String)> = sets.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    load(root(), name, &sets).unwrap_or_else(|errors| panic!("{name}: {errors}"))
}

/// A step's action, or the trial of each of a search's repeats.
fn actions(step: &Step) -> Vec<&ActionTemplate> {
    match &step.work {
        Work::Action(action) => vec![action],
        Work::Search(search) => search.repeats.iter().map(|repeat| &repeat.trial.action).collect(),
    }
}

/// How many steps there are of each kind, what does them, and how often a search is repeated.
fn counted(steps: Steps) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for step in &steps.steps {
        let actions = actions(step);
        let command = match &actions[0].tool {
            Tool::Own(_) => actions[0].args[0].as_str(),
            Tool::User(command) => command.as_str(),
        };
        let repeats = match step.work {
            Work::Action(_) => String::new(),
            Work::Search(_) => format!(" x {}", actions.len()),
        };
        *counts.entry(format!("{}: {command}{repeats}", step.kind)).or_default() += 1;
    }
    Graph::new(steps).unwrap_or_else(|error| panic!("{error}"));
    counts.into_iter().map(|(what, count)| format!("{count} {what}\n")).collect()
}

fn check(name: &str, sets: &[(&str, &str)], expected: Expect) {
    expected.assert_eq(&counted(loaded(name, sets)));
}

/// Each of them is in a test below.
const NAMES: [&str; 7] = [
    "chunk-and-bubbles",
    "examples/commands",
    "examples/netns",
    "figure-8",
    "figure-8-gpus",
    "hybrid-cpu",
    "sim-vs-real",
];

#[test]
fn every_file_has_a_test() {
    let mut found = BTreeSet::new();
    for folder in ["", "examples/"] {
        for entry in root().join("pipelines").join(folder).read_dir_utf8().unwrap() {
            let name = entry.unwrap().file_name().to_owned();
            found.extend(name.strip_suffix(".yaml").map(|name| format!("{folder}{name}")));
        }
    }
    assert_eq!(found, NAMES.map(str::to_owned).into());
}

#[test]
fn those_that_are_simulated() {
    check(
        "chunk-and-bubbles",
        &[],
        expect![[r#"
            8 capacity: simulate x 1
            2 cluster: cluster
            1 figure: figure
            2 shard: shard
        "#]],
    );
    check(
        "figure-8",
        &[],
        expect![[r#"
            6 capacity: simulate x 5
            1 check: check
            1 cluster: cluster
            2 figure: figure
            2 shard: shard
            10 summary: summarize
            10 trial: simulate
        "#]],
    );
}

#[test]
fn those_that_are_measured() {
    check(
        "hybrid-cpu",
        &[],
        expect![[r#"
            6 capacity: bench x 1
            1 check: check
            1 cluster: cluster
            2 figure: figure
            2 shard: shard
            8 summary: summarize
            8 trial: bench
        "#]],
    );
    check(
        "figure-8-gpus",
        &[],
        expect![[r#"
            3 capacity: bench x 1
            3 cluster: cluster
            4 figure: figure
            2 profile: profile
            4 shard: shard
            12 summary: summarize
            6 trial: bench
            6 trial: simulate
        "#]],
    );
    check(
        "sim-vs-real",
        &[],
        expect![[r#"
            1 check: check
            16 cluster: cluster
            2 figure: figure
            15 profile: profile
            18 shard: shard
            120 summary: summarize
            60 trial: bench
            60 trial: simulate
        "#]],
    );
}

#[test]
fn an_example_needs_no_engine() {
    check(
        "examples/commands",
        &[],
        expect![[r#"
            3 command: awk
            1 command: sh
        "#]],
    );
}

#[test]
fn namespaces_are_made_by_a_command() {
    check(
        "examples/netns",
        &[],
        expect![[r#"
        2 command: pipelines/examples/netns.sh
    "#]],
    );
}

/// The same steps as simulated, but for the ends of a band that nothing measured has; on GPUs of their own, from weights that no disk holds.
#[test]
fn figure_8_on_gpus() {
    let on_gpus = [("on", "cuda")];
    check(
        "figure-8",
        &on_gpus,
        expect![[r#"
            6 capacity: bench x 3
            1 check: check
            1 cluster: cluster
            2 figure: figure
            2 shard: shard
            10 summary: summarize
            10 trial: bench
        "#]],
    );
    for step in &loaded("figure-8", &on_gpus).steps {
        for action in actions(step) {
            let is_measured = ["cluster", "trial", "capacity"].contains(&step.kind);
            assert_eq!(action.resources.exclusive, is_measured, "{}", step.address);
            assert_eq!(action.facts.contains(&"gpu".to_owned()), is_measured, "{}", step.address);
            let of = |name: &str| action.args.iter().filter(|arg| *arg == name).count();
            assert_eq!(of("cuda"), usize::from(step.kind == "cluster"), "{}", step.address);
            assert_eq!(of("--in-memory"), usize::from(step.kind == "shard"), "{}", step.address);
        }
    }
}
