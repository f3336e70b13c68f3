use std::collections::BTreeMap;

use expect_test::{Expect, expect};

use super::*;
use crate::step::{Location, Resources, Tool};

fn graph(edges: &[(&str, &[u32])]) -> Result<Graph, GraphError> {
    let steps = edges.iter().enumerate().map(|(index, (address, deps))| step(index, address, deps)).collect();
    Graph::new(Steps { pipeline: "p".to_owned(), steps })
}

fn step(index: usize, address: &str, deps: &[u32]) -> Step {
    let inputs = deps
        .iter()
        .map(|dep| (format!("in{dep}").into(), Source::Output { step: StepId(*dep), path: "o".into() }))
        .collect();
    Step {
        address: address.to_owned(),
        kind: "command",
        location: Location { file: "p.yaml".into(), line: index as u32 + 1, column: 3 },
        work: Work::Action(ActionTemplate {
            tool: Tool::User("true".to_owned()),
            args: Vec::new(),
            env: BTreeMap::new(),
            inputs,
            outputs: vec!["o".into()],
            resources: Resources { cpu: 1, gpu: 0, exclusive: false },
            timeout: None,
            retries: 0,
            facts: Vec::new(),
            cutoff: None,
        }),
        place: None,
        show: Vec::new(),
    }
}

fn check_select(wanted: &str, expected: Expect) {
    let graph = graph(&[
        ("p/fig", &[1, 3]),
        ("p/lat/tp8-b8/summary", &[2]),
        ("p/lat/tp8-b8", &[]),
        ("p/lat/tp4-b8", &[]),
        ("p/latter", &[]),
    ])
    .unwrap();
    let answer = match graph.select(wanted) {
        Err(error) => error.to_string(),
        Ok(named) => {
            let names = |ids: Vec<StepId>| {
                ids.into_iter().map(|id| graph.step(id).address.as_str()).collect::<Vec<_>>().join(" ")
            };
            let needs = names(graph.with_needs(&named));
            format!("{}\nneeds {needs}", names(named.into_iter().collect()))
        }
    };
    expected.assert_eq(&answer);
}

#[test]
fn a_target_names_a_step_and_all_below_it() {
    check_select(
        "p/lat",
        expect![[r#"
            p/lat/tp8-b8/summary p/lat/tp8-b8 p/lat/tp4-b8
            needs p/lat/tp8-b8 p/lat/tp8-b8/summary p/lat/tp4-b8"#]],
    );
}

#[test]
fn a_target_takes_what_it_needs() {
    check_select(
        "p/fig",
        expect![[r#"
            p/fig
            needs p/lat/tp8-b8 p/lat/tp8-b8/summary p/lat/tp4-b8 p/fig"#]],
    );
}

#[test]
fn a_pattern_matches_instances_and_takes_their_parts() {
    check_select(
        "p/lat/tp8-*",
        expect![[r#"
            p/lat/tp8-b8/summary p/lat/tp8-b8
            needs p/lat/tp8-b8 p/lat/tp8-b8/summary"#]],
    );
    check_select(
        "p/*/tp4-*",
        expect![[r#"
        p/lat/tp4-b8
        needs p/lat/tp4-b8"#]],
    );
}

#[test]
fn an_unknown_target_is_answered_with_near_names() {
    check_select(
        "p/lats",
        expect![[r#"
            no target `p/lats` in pipeline `p`
              help: did you mean `p/lat`, `p/latter`?"#]],
    );
    check_select("p/nothing-like-it", expect!["no target `p/nothing-like-it` in pipeline `p`"]);
    check_select(
        "p/[",
        expect![
            "expected a target or a pattern such as `figure-8/latency/tp8-*`, found `p/[`: unclosed character class; missing ']'"
        ],
    );
}

#[test]
fn a_cycle_is_named_with_its_places() {
    let error = graph(&[("p/a", &[1]), ("p/b", &[2]), ("p/c", &[1])]).unwrap_err();
    expect![[r#"
        p.yaml:2:3: steps wait for each other: `p/b` (p.yaml:2:3) needs `p/c` (p.yaml:3:3) needs `p/b` (p.yaml:2:3)
          help: one of them must not read from the next"#]]
    .assert_eq(&error.to_string());
    assert!(graph(&[("p/a", &[0])]).is_err());
}

#[test]
fn order_puts_needs_first() {
    let graph = graph(&[("p/a", &[1, 2]), ("p/b", &[2]), ("p/c", &[])]).unwrap();
    let at = |id: u32| graph.order().iter().position(|other| other.0 == id).unwrap();
    assert!(at(2) < at(1) && at(1) < at(0));
    assert_eq!(graph.order().len(), 3, "each once, also what two of them need");
}
