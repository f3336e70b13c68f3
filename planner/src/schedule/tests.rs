use std::collections::BTreeMap;
use std::convert::Infallible;

use chariot_cache::Run;
use proptest::prelude::*;

use super::*;
use crate::action::{Input, Origin, ToolFile};
use crate::graph::Graph;
use crate::plan::{Found, Made, PlanError};
use crate::step::{ActionTemplate, Location, Source, Step, Steps, Tool};

/// Results by key, in memory. Every action makes its own address.
#[derive(Default)]
struct Memory(BTreeMap<Digest, Found>);

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NoError(#[from] PlanError);

impl From<Infallible> for NoError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl View for Memory {
    type Error = NoError;

    fn resolve(
        &mut self,
        _: &Step,
        address: String,
        template: &ActionTemplate,
        made: Made<'_>,
    ) -> Result<Action, NoError> {
        let tool = ToolFile { path: "/bin/true".into(), digest: Digest::of(b"tool") };
        let input = |source: &Source| match source {
            Source::Output { step, path } => made.output(*step, path).expect("only what is done is read"),
            Source::File(_) | Source::Inline(_) => Digest::of(b"file"),
        };
        let inputs = template
            .inputs
            .iter()
            .map(|(path, source)| (path.clone(), Input { digest: input(source), origin: Origin::Store }))
            .collect();
        Ok(Action::new(address, template, tool, inputs, &BTreeMap::new()))
    }

    fn lookup(&mut self, action: &Action) -> Result<Option<Found>, NoError> {
        Ok(self.0.get(&action.key.digest).cloned())
    }

    fn read(&mut self, _: &Digest) -> Result<Vec<u8>, NoError> {
        Ok(Vec::new())
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<Digest, NoError> {
        Ok(Digest::of(bytes))
    }
}

impl Memory {
    fn publish(&mut self, action: &Action) {
        let run = Run {
            tool: "true".to_owned(),
            exit_code: 0,
            wall_ns: 1,
            finished_at: String::new(),
            host: String::new(),
        };
        let outputs = BTreeMap::from([("o".into(), Digest::of(action.address.as_bytes()))]);
        self.0.insert(action.key.digest, Found { key: action.key.digest, outputs, run });
    }
}

#[derive(Debug, Clone)]
struct Node {
    needs: Vec<prop::sample::Index>,
    resources: Resources,
}

fn dag() -> impl Strategy<Value = Vec<Node>> {
    let resources = (0..4u32, 0..3u32, prop::bool::weighted(0.1));
    let node = (prop::collection::vec(any::<prop::sample::Index>(), 0..4), resources).prop_map(
        |(needs, (cpu, gpu, exclusive))| Node { needs, resources: Resources { cpu, gpu, exclusive } },
    );
    prop::collection::vec(node, 1..40)
}

/// A step that takes these resources and reads from `needs`.
fn step(address: &str, needs: &[u32], resources: Resources, retries: u32) -> Step {
    let source = |need: &u32| Source::Output { step: StepId(*need), path: "o".into() };
    Step {
        address: address.to_owned(),
        kind: "command",
        location: Location { file: "p.yaml".into(), line: 1, column: 1 },
        work: Work::Action(ActionTemplate {
            tool: Tool::User("true".to_owned()),
            args: vec![address.to_owned()],
            env: BTreeMap::new(),
            inputs: needs.iter().map(|need| (need.to_string().into(), source(need))).collect(),
            outputs: vec!["o".into()],
            resources,
            timeout: None,
            retries,
            facts: Vec::new(),
            cutoff: None,
        }),
        place: None,
        show: Vec::new(),
    }
}

fn pipeline(steps: Vec<Step>) -> Graph {
    Graph::new(Steps { pipeline: "p".to_owned(), steps }).unwrap()
}

/// Node `n` needs only nodes before it.
fn graph(nodes: &[Node]) -> Graph {
    let steps = nodes.iter().enumerate().map(|(index, node)| {
        let needs = node.needs.iter().filter(|_| index > 0).map(|need| need.index(index.max(1)) as u32);
        step(&format!("p/{index}"), &needs.collect::<Vec<_>>(), node.resources, 0)
    });
    pipeline(steps.collect())
}

/// Runs a schedule with processes that end in the order `picks` say; checks limits all the way. Returns what ran.
fn drive(
    graph: &Graph,
    memory: &mut Memory,
    picks: &[usize],
    mut fails: impl FnMut(&str) -> bool,
) -> Vec<String> {
    let named = graph.select("p").unwrap();
    let plan = Plan::new(graph, &named, BTreeSet::new());
    let mut schedule = Schedule::new(plan, Pool::new(2, 2), true);
    let mut running: Vec<Arc<Action>> = Vec::new();
    let mut ran = Vec::new();
    let mut picks = picks.iter().cycle();
    loop {
        schedule.settle(memory).unwrap();
        running.extend(schedule.start());
        check_limits(&running);
        if running.is_empty() {
            assert!(schedule.is_over());
            return ran;
        }
        let action = running.swap_remove(picks.next().unwrap() % running.len());
        ran.push(action.address.clone());
        schedule.process_over(&action.key.digest);
        if fails(&action.address) {
            if !schedule.retry(&action.key.digest) {
                schedule.failed(&action.key.digest);
            }
        } else {
            memory.publish(&action);
            schedule.published(&action.key.digest);
        }
    }
}

fn check_limits(running: &[Arc<Action>]) {
    let cpu: u32 = running.iter().map(|action| action.resources.cpu.min(2)).sum();
    let gpu: u32 = running.iter().map(|action| action.resources.gpu).sum();
    assert!(cpu <= 2 && gpu <= 2, "{cpu} CPU slots and {gpu} GPUs are taken");
    assert!(running.len() <= 1 || running.iter().all(|action| !action.resources.exclusive));
}

proptest! {
    #[test]
    fn every_action_runs_once_after_what_it_needs(nodes in dag(), picks in prop::collection::vec(0..8usize, 1..20)) {
        let graph = graph(&nodes);
        let mut memory = Memory::default();
        let ran = drive(&graph, &mut memory, &picks, |_| false);
        prop_assert_eq!(ran.len(), nodes.len());
        let at = |id: &StepId| ran.iter().position(|address| *address == graph.step(*id).address).unwrap();
        for id in graph.order() {
            for need in graph.needs(*id) {
                prop_assert!(at(need) < at(id));
            }
        }
        prop_assert_eq!(drive(&graph, &mut memory, &picks, |_| false), Vec::<String>::new());
    }

    #[test]
    fn a_failure_loses_what_needs_it_and_nothing_else(nodes in dag(), picks in prop::collection::vec(0..8usize, 1..20), bad: prop::sample::Index) {
        let graph = graph(&nodes);
        let bad = format!("p/{}", bad.index(nodes.len()));
        let mut memory = Memory::default();
        let ran: BTreeSet<String> = drive(&graph, &mut memory, &picks, |address| address == bad).into_iter().collect();
        for id in graph.order() {
            let needs_bad = graph.with_needs(&BTreeSet::from([*id])).iter().any(|need| need != id && graph.step(*need).address == bad);
            prop_assert_eq!(ran.contains(&graph.step(*id).address), !needs_bad);
        }
    }
}

/// Two lines of steps, declared as pipelines are: what begins both before what ends both; and one step that reads the ends.
fn two_lines(retries: u32) -> Graph {
    let alone = Resources { cpu: 1, gpu: 0, exclusive: true };
    let step = |address: &str, needs: &[u32]| step(address, needs, alone, retries);
    pipeline(vec![
        step("p/a-begins", &[]),
        step("p/b-begins", &[]),
        step("p/a-ends", &[0]),
        step("p/b-ends", &[1]),
        step("p/figure", &[2, 3]),
    ])
}

#[test]
fn what_was_begun_is_finished_before_the_next_is_begun() {
    let ran = drive(&two_lines(0), &mut Memory::default(), &[0], |_| false);
    assert_eq!(ran, ["p/a-begins", "p/a-ends", "p/b-begins", "p/b-ends", "p/figure"]);
}

/// Two steps of one action: `p/late` can be run at once, `p/early` only once `file` has been made, and goes before `p/between`.
fn one_action_twice(exclusive: bool) -> Graph {
    let resources = Resources { cpu: 1, gpu: 0, exclusive };
    let mut steps = vec![
        step("file", &[], resources, 0),
        step("p/early", &[0], resources, 0),
        step("p/between", &[], resources, 0),
        step("p/late", &[], resources, 0),
    ];
    for index in [1, 3] {
        let Work::Action(action) = &mut steps[index].work else { unreachable!("all are actions") };
        action.args = vec!["same".to_owned()];
        // What `file` makes has the digest of any file.
        action.inputs.entry("0".into()).or_insert(Source::File("any".into()));
    }
    pipeline(steps)
}

#[test]
fn an_action_takes_the_place_of_the_first_step_that_wants_it() {
    let ran = drive(&one_action_twice(true), &mut Memory::default(), &[0], |_| false);
    assert_eq!(ran, ["file", "p/late", "p/between"], "once, for both");
}

#[test]
fn an_action_that_runs_already_is_waited_for() {
    // Of what runs, first `p/between` ends, then `file`, while `p/late` goes on.
    let ran = drive(&one_action_twice(false), &mut Memory::default(), &[1, 0, 0], |_| false);
    assert_eq!(ran, ["p/between", "file", "p/late"]);
}

/// An action of a step that reads nothing.
fn action_of(graph: &Graph, id: u32) -> Action {
    let step = graph.step(StepId(id));
    let Work::Action(template) = &step.work else { unreachable!("all are actions") };
    let tool = ToolFile { path: "/bin/true".into(), digest: Digest::of(b"tool") };
    Action::new(step.address.clone(), template, tool, BTreeMap::new(), &BTreeMap::new())
}

/// Three steps, and what starts at once, in order, of the actions that steps want on so many processors.
fn check_starts(wants: &[(u32, u32)], cpus: u32, stopped: Option<u32>, expected: &[&str]) {
    let resources = Resources { cpu: 1, gpu: 0, exclusive: false };
    let graph = pipeline(["p/a", "p/b", "p/c"].map(|address| step(address, &[], resources, 0)).into());
    let plan = Plan::new(&graph, &graph.select("p").unwrap(), BTreeSet::new());
    let mut schedule = Schedule::new(plan, Pool::new(cpus, 0), true);
    for (wanting, wanted) in wants {
        schedule.want::<NoError>(StepId(*wanting), action_of(&graph, *wanted)).unwrap();
    }
    let mut started = schedule.start();
    if let Some(id) = stopped {
        let key = action_of(&graph, id).key.digest;
        schedule.process_over(&key);
        schedule.stopped(&key);
        started = schedule.start();
    }
    let addresses: Vec<&str> = started.iter().map(|action| &action.address[..]).collect();
    assert_eq!(addresses, expected, "{wants:?}");
}

#[test]
fn actions_that_one_step_wants_run_side_by_side() {
    check_starts(&[(1, 0), (1, 1), (1, 2)], 3, None, &["p/a", "p/b", "p/c"]);
}

#[test]
fn what_was_stopped_runs_again_in_the_place_of_its_first_step() {
    check_starts(&[(0, 0), (1, 1), (2, 0)], 1, Some(0), &["p/a"]);
}

#[test]
fn what_failed_twice_lets_all_others_pass() {
    let mut failures = 2;
    let ran = drive(&two_lines(2), &mut Memory::default(), &[0], |address| {
        let fails = address == "p/a-ends" && failures > 0;
        failures -= u32::from(fails);
        fails
    });
    assert_eq!(ran, ["p/a-begins", "p/a-ends", "p/a-ends", "p/b-begins", "p/b-ends", "p/a-ends", "p/figure"]);
}
