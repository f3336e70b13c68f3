//! One run of one pipeline, from targets to files in `out/`: what `chariot run` does, without its command line.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use camino::Utf8PathBuf;
use chariot_cache::Digest;

use crate::clock;
use crate::execute::attempt::Site;
use crate::execute::{Outcome, RunError, execute};
use crate::facts;
use crate::graph::{Graph, GraphError};
use crate::history::History;
use crate::host::Host;
use crate::out_dir::{Laid, OutDir};
use crate::plan::{Look, Plan};
use crate::probes;
use crate::progress::Progress;
use crate::project::Project;
use crate::resources::Pool;
use crate::schedule::{Schedule, ScheduleError};
use crate::step::{Step, StepId, Work};
use crate::work_dir;

/// How to run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// CPU slots.
    pub jobs: u32,
    /// GPUs.
    pub gpus: u32,
    /// A failure stops only what needs the failed step.
    pub keep_going: bool,
    /// Named steps run although their results are at hand.
    pub force: bool,
}

/// What a run did.
#[derive(Debug)]
pub struct Summary {
    /// Steps asked for, with all they need.
    pub steps: usize,
    /// Actions that ran to a good end.
    pub ran: usize,
    /// Actions whose results were at hand.
    pub up_to_date: usize,
    /// Actions that failed: address and how.
    pub failures: Vec<(String, String)>,
    /// Steps that were not done.
    pub not_done: usize,
    /// Whether a signal ended it.
    pub interrupted: bool,
    /// What was done to `out/`.
    pub laid: Laid,
    /// Text files of the named steps that are printed at the end.
    pub show: Vec<String>,
    /// How long it took.
    pub wall: Duration,
}

/// Why a run broke off.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// A target that is none.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The pipeline, the host or the store.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The store.
    #[error(transparent)]
    Store(#[from] chariot_cache::Error),
    /// The disk.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl SessionError {
    /// Whether the user can mend it by changing the pipeline, the project or the command.
    pub fn is_users(&self) -> bool {
        match self {
            Self::Graph(_) | Self::Run(ScheduleError::TooManyGpus { .. }) => true,
            Self::Run(ScheduleError::View(error)) => error.is_users(),
            Self::Run(ScheduleError::Lost { .. }) | Self::Store(_) | Self::Io(_) => false,
        }
    }
}

/// The steps that targets name; none named: all of the pipeline.
pub fn select(graph: &Graph, targets: &[String]) -> Result<BTreeSet<StepId>, GraphError> {
    let mut named = BTreeSet::new();
    for target in targets {
        named.extend(graph.select(target)?);
    }
    Ok(named)
}

/// Looks at every step of a plan, in order, without running anything.
pub fn survey<'g>(
    graph: &'g Graph,
    named: &BTreeSet<StepId>,
    host: &mut Host,
) -> Result<Survey<'g>, SessionError> {
    let mut plan = Plan::new(graph, named, BTreeSet::new());
    let mut looks = Vec::with_capacity(plan.needed().len());
    for id in plan.needed().to_vec() {
        looks.push((id, plan.look(id, host).map_err(ScheduleError::View)?));
    }
    Ok(Survey { plan, looks })
}

/// What a look at every step found.
#[derive(Debug)]
pub struct Survey<'g> {
    /// The plan, as far as it is known.
    pub plan: Plan<'g>,
    /// The steps in order.
    pub looks: Vec<(StepId, Look)>,
}

/// Runs targets of a pipeline; the caller holds the project's lock.
pub fn run(
    project: &Project,
    graph: &Graph,
    targets: &[String],
    options: Options,
    history: &mut History,
    progress: &mut dyn Progress,
) -> Result<Summary, SessionError> {
    let started = clock::now();
    let named = select(graph, targets)?;
    work_dir::sweep(&project.work())?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut host = Host::new(Arc::clone(&project.store), &project.root, path.clone(), true);
    let forced = if options.force { named.clone() } else { BTreeSet::new() };
    let plan = Plan::new(graph, &named, forced);
    let schedule = Schedule::new(plan, Pool::new(options.jobs, options.gpus), options.keep_going);
    let site = Arc::new(Site {
        store: Arc::clone(&project.store),
        work: project.work(),
        logs: project.logs(),
        path,
        gpu_environment: facts::gpu_environment(),
        host: facts::hostname(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(execute(schedule, site, &mut host, history, progress));
    history.compact()?;
    let summary = outcome.map_err(SessionError::from).and_then(|outcome| {
        let laid = lay_out(project, graph, &outcome.plan)?;
        summarise(project, graph, &named, outcome, laid)
    });
    project.store.save()?;
    summary.map(|summary| Summary { wall: started.elapsed(), ..summary })
}

fn summarise(
    project: &Project,
    graph: &Graph,
    named: &BTreeSet<StepId>,
    outcome: Outcome<'_>,
    laid: Laid,
) -> Result<Summary, SessionError> {
    let plan = &outcome.plan;
    let mut show = Vec::new();
    let mut up_to_date = BTreeSet::new();
    let mut not_done = 0;
    for id in plan.needed() {
        let Some(done) = plan.done(*id) else {
            not_done += 1;
            continue;
        };
        up_to_date.extend(done.actions.iter().map(|found| found.key).filter(|key| !plan.was_run(key)));
        if named.contains(id) {
            for digest in graph.step(*id).show.iter().filter_map(|path| done.outputs.get(path)) {
                show.push(String::from_utf8_lossy(&project.store.cas().get(digest)?).into_owned());
            }
        }
    }
    Ok(Summary {
        steps: plan.needed().len(),
        ran: outcome.ran,
        up_to_date: up_to_date.len(),
        failures: outcome.failures,
        not_done,
        interrupted: outcome.interrupted,
        laid,
        show,
        wall: Duration::ZERO,
    })
}

/// Lays out what the plan's steps have made.
fn lay_out(project: &Project, graph: &Graph, plan: &Plan<'_>) -> Result<Laid, SessionError> {
    let mut files: BTreeMap<Utf8PathBuf, Digest> = BTreeMap::new();
    for id in plan.needed() {
        if let (Some(place), Some(done)) = (&graph.step(*id).place, plan.done(*id)) {
            files.extend(done.outputs.iter().map(|(path, digest)| (place.join(path), *digest)));
        }
    }
    let possible = graph.order().iter().flat_map(|id| places(graph.step(*id))).collect();
    let out = OutDir::new(&project.store, &project.out(), &graph.pipeline);
    Ok(out.lay_out(&files, &possible)?)
}

/// Where a step's outputs lie in `out/`.
fn places(step: &Step) -> Vec<Utf8PathBuf> {
    let Some(place) = &step.place else { return Vec::new() };
    match &step.work {
        Work::Action(action) => action.outputs.iter().map(|path| place.join(path)).collect(),
        Work::Search(_) => vec![place.join(probes::CAPACITY)],
    }
}
