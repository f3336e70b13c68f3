//! `chariot run`.

use chariot_cache::Lock;

use super::args::{Run, Wait};
use super::{CliError, DONE, FAILED, INTERRUPTED, by_pipeline, inspect, load_graph, print, say, shown};
use crate::history::History;
use crate::progress;
use crate::project::Project;
use crate::session::{self, Options, Summary};

/// Runs the targets, pipeline by pipeline.
pub(super) fn run(project: &Project, args: &Run) -> Result<u8, CliError> {
    if args.dry_run {
        return inspect::plan_targets(project, &args.targets, &args.set.all());
    }
    let groups = by_pipeline(project, &args.targets)?;
    let mut graphs = Vec::new();
    for (pipeline, targets) in groups {
        let graph = load_graph(project, &pipeline, &args.set.all())?;
        session::select(&graph, &targets)?;
        graphs.push((graph, targets));
    }
    let options = Options {
        jobs: args.jobs.unwrap_or_else(processors),
        gpus: args.gpus.unwrap_or_else(gpus),
        keep_going: args.keep_going,
        force: args.force,
    };
    let _lock = lock(project, &args.wait)?;
    let mut history = History::read(project.store.root())?;
    let mut code = DONE;
    for (graph, targets) in &graphs {
        let mut progress = progress::for_stderr();
        let summary = session::run(project, graph, targets, options, &mut history, progress.as_mut())?;
        report(project, &graph.pipeline, &summary)?;
        if summary.interrupted {
            say("what was finished is kept; run the same command to go on");
            return Ok(INTERRUPTED);
        }
        if !summary.failures.is_empty() {
            code = FAILED;
            if !args.keep_going {
                break;
            }
        }
    }
    Ok(code)
}

fn report(project: &Project, pipeline: &str, summary: &Summary) -> Result<(), CliError> {
    let wall = summary.wall.as_secs_f64();
    let Summary { steps, ran, up_to_date, not_done, .. } = summary;
    let out = shown(&project.out().join(pipeline));
    let is_whole = summary.failures.is_empty() && !summary.interrupted;
    if is_whole && *ran == 0 && summary.laid.written == 0 && summary.laid.removed == 0 {
        return print(&format!(
            "{pipeline}: nothing to do ({up_to_date} actions up to date, {wall:.2} s); outputs are in {out}"
        ));
    }
    for text in &summary.show {
        print(text.trim_end())?;
        print("")?;
    }
    let lacks = match (summary.failures.len(), not_done) {
        (0, 0) => String::new(),
        (failed, lost) => format!(", {failed} failed, {lost} steps not done"),
    };
    print(&format!(
        "{pipeline}: {steps} steps, {ran} actions run, {up_to_date} up to date{lacks}, {wall:.1} s; outputs are in {out}"
    ))
}

/// Takes the project for this process, waiting unless told not to.
pub(super) fn lock(project: &Project, wait: &Wait) -> Result<Lock, CliError> {
    Ok(project.lock(!wait.no_wait, |holder| {
        say(&format!("waiting for process {holder}, which is running in this project"));
    })?)
}

fn processors() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX))
}

fn gpus() -> u32 {
    fs_err::read_dir("/proc/driver/nvidia/gpus")
        .map_or(0, |entries| u32::try_from(entries.count()).unwrap_or(0))
}
