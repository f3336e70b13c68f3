//! What a run costs that has nothing to do, at 10,000 actions: key every action, look it up, check its blob and `out/`.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark panics where it goes wrong")]

use std::collections::BTreeMap;

use camino::Utf8PathBuf;
use chariot::graph::Graph;
use chariot::history::History;
use chariot::progress::Silent;
use chariot::project::Project;
use chariot::session::{self, Options};
use chariot::step::{ActionTemplate, Location, Resources, Source, Step, StepId, Steps, Tool, Work};
use criterion::{Criterion, criterion_group, criterion_main};

const ACTIONS: u32 = 10_000;
const OPTIONS: Options = Options { jobs: 4, gpus: 0, keep_going: false, force: false };

/// Chains of ten.
fn steps() -> Steps {
    let step = |index: u32| {
        let own = Source::Inline(index.to_string().into_bytes());
        let mut inputs = BTreeMap::from([(Utf8PathBuf::from("config.json"), own)]);
        if !index.is_multiple_of(10) {
            inputs.insert("in".into(), Source::Output { step: StepId(index - 1), path: "o".into() });
        }
        Step {
            address: format!("p/{index}"),
            kind: "command",
            location: Location { file: "p.yaml".into(), line: 1, column: 1 },
            work: Work::Action(ActionTemplate {
                tool: Tool::User("cp".to_owned()),
                args: vec!["config.json".to_owned(), "o".to_owned()],
                env: BTreeMap::new(),
                inputs,
                outputs: vec!["o".into()],
                resources: Resources { cpu: 1, gpu: 0, exclusive: false },
                timeout: None,
                retries: 0,
                facts: Vec::new(),
                cutoff: None,
            }),
            place: Some(format!("p/{index}").into()),
            show: Vec::new(),
        }
    };
    Steps { pipeline: "p".to_owned(), steps: (0..ACTIONS).map(step).collect() }
}

/// As one process does it: everything is opened and read anew.
fn run(root: &camino::Utf8Path, steps: &Steps) -> usize {
    let project = Project::open(root).unwrap();
    let graph = Graph::new(steps.clone()).unwrap();
    let mut history = History::read(project.store.root()).unwrap();
    session::run(&project, &graph, &["p".to_owned()], OPTIONS, &mut history, &mut Silent).unwrap().ran
}

fn noop(criterion: &mut Criterion) {
    let temp = tempfile::tempdir().unwrap();
    let root = Utf8PathBuf::from_path_buf(temp.path().to_owned()).unwrap();
    let steps = steps();
    assert_eq!(run(&root, &steps), ACTIONS as usize);
    let mut group = criterion.benchmark_group("planner");
    group.sample_size(10);
    group.bench_function("noop of 10,000 actions", |bencher| {
        bencher.iter(|| assert_eq!(run(&root, &steps), 0));
    });
    group.finish();
}

criterion_group!(benches, noop);
criterion_main!(benches);
