//! A project in a temporary directory, steps made by hand, and runs through the library.

#![allow(dead_code, reason = "every test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test panics where it goes wrong")]

use std::collections::BTreeMap;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use chariot::graph::Graph;
use chariot::history::History;
use chariot::host::Host;
use chariot::plan::Look;
use chariot::progress::Silent;
use chariot::project::Project;
use chariot::session::{self, Options, SessionError, Summary};
use chariot::step::{ActionTemplate, Location, Resources, Source, Step, StepId, Steps, Tool, Work};

/// One slot, stop at the first failure, take what is at hand.
pub(crate) const PLAIN: Options = Options { jobs: 1, gpus: 0, keep_going: false, force: false };

/// A project that is gone when dropped.
pub(crate) struct Rig {
    _temp: Option<tempfile::TempDir>,
    pub(crate) root: Utf8PathBuf,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::from_path_buf(temp.path().canonicalize().unwrap()).unwrap();
        fs_err::create_dir(root.join("pipelines")).unwrap();
        Self { _temp: Some(temp), root }
    }

    /// A project that somebody else removes.
    pub(crate) fn at(root: &Utf8Path) -> Self {
        Self { _temp: None, root: root.to_owned() }
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs_err::read_to_string(self.root.join(path)).unwrap_or_default()
    }

    /// How often commands were executed: each appends a line to a file outside of its directory.
    pub(crate) fn executions(&self) -> Vec<String> {
        self.read("executions").lines().map(str::to_owned).collect()
    }

    pub(crate) fn forget_executions(&self) {
        fs_err::write(self.root.join("executions"), "").unwrap();
    }

    pub(crate) fn project(&self) -> Project {
        Project::open(&self.root).unwrap()
    }

    pub(crate) fn try_run(
        &self,
        steps: &Steps,
        targets: &[&str],
        options: Options,
    ) -> Result<Summary, SessionError> {
        let project = self.project();
        let _lock = project.lock(true, |_| {}).unwrap();
        let graph = Graph::new(steps.clone())?;
        let mut history = History::read(project.store.root()).unwrap();
        let targets: Vec<String> = targets.iter().map(|target| (*target).to_owned()).collect();
        session::run(&project, &graph, &targets, options, &mut history, &mut Silent)
    }

    pub(crate) fn run(&self, steps: &Steps) -> Summary {
        self.try_run(steps, &["p"], PLAIN).unwrap()
    }

    /// Why each step of the pipeline would run: address and reason.
    pub(crate) fn why(&self, steps: &Steps) -> Vec<(String, String)> {
        let project = self.project();
        let graph = Graph::new(steps.clone()).unwrap();
        let history = History::read(project.store.root()).unwrap();
        let path = std::env::var("PATH").unwrap();
        let mut host = Host::new(Arc::clone(&project.store), &project.root, path, false);
        let named = graph.select("p").unwrap();
        let survey = session::survey(&graph, &named, &mut host).unwrap();
        let mut whys = Vec::new();
        for (_, look) in &survey.looks {
            if let Look::Wants(actions) = look {
                for action in actions {
                    let reason = chariot::explain::reason(action, &history, &project.store).unwrap();
                    whys.push((action.address.clone(), reason.full(action, &project.store)));
                }
            }
        }
        whys
    }

    /// Every file in `out/` with its content.
    pub(crate) fn out(&self) -> BTreeMap<Utf8PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        collect(&self.root.join("out"), &mut files);
        files
    }

    /// A shell command that notes its execution and writes `o`.
    pub(crate) fn step(&self, index: u32, name: &str, script: &str, inputs: &[(&str, Source)]) -> Step {
        let noted = format!("echo {name} >> {}/executions; {script}", self.root);
        Step {
            address: format!("p/{name}"),
            kind: "command",
            location: Location { file: "pipelines/p.yaml".into(), line: index + 1, column: 3 },
            work: Work::Action(ActionTemplate {
                tool: Tool::User("sh".to_owned()),
                args: vec!["-c".to_owned(), noted],
                env: BTreeMap::new(),
                inputs: inputs
                    .iter()
                    .map(|(path, source)| (Utf8PathBuf::from(path), source.clone()))
                    .collect(),
                outputs: vec!["o".into()],
                resources: Resources { cpu: 1, gpu: 0, exclusive: false },
                timeout: None,
                retries: 0,
                facts: Vec::new(),
                cutoff: None,
            }),
            place: Some(format!("p/{name}").into()),
            show: Vec::new(),
        }
    }
}

fn collect(dir: &Utf8Path, files: &mut BTreeMap<Utf8PathBuf, Vec<u8>>) {
    let Ok(entries) = dir.read_dir_utf8() else { return };
    for entry in entries {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            collect(entry.path(), files);
        } else {
            files.insert(entry.path().to_owned(), fs_err::read(entry.path()).unwrap());
        }
    }
}

/// The output `o` of a step.
pub(crate) fn made_by(step: u32) -> Source {
    Source::Output { step: StepId(step), path: "o".into() }
}

/// A pipeline `p`.
pub(crate) fn steps(steps: Vec<Step>) -> Steps {
    Steps { pipeline: "p".to_owned(), steps }
}

/// The action of a step.
pub(crate) fn action(step: &mut Step) -> &mut ActionTemplate {
    match &mut step.work {
        Work::Action(action) => action,
        Work::Search(_) => panic!("expected an action, found a search"),
    }
}
