//! Commands that look and change nothing: plan, status, explain, graph, list, schema.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use super::args::{Format, GraphArgs, Named, Targets};
use super::{CliError, DONE, by_pipeline, load_graph, print};
use crate::explain::{Reason, reason};
use crate::graph::Graph;
use crate::history::History;
use crate::host::Host;
use crate::plan::Look;
use crate::project::Project;
use crate::session::{self, Survey};
use crate::step::{StepId, Work};

/// A pipeline that was looked at.
struct Seen<'g> {
    graph: &'g Graph,
    named: BTreeSet<StepId>,
    survey: Survey<'g>,
    history: History,
}

/// Looks at targets and hands each pipeline to `show`.
fn look(
    project: &Project,
    targets: &[String],
    sets: &[(String, String)],
    mut show: impl FnMut(&Seen<'_>) -> Result<(), CliError>,
) -> Result<u8, CliError> {
    for (pipeline, targets) in by_pipeline(project, targets)? {
        let graph = load_graph(project, &pipeline, sets)?;
        let named = session::select(&graph, &targets)?;
        let path = std::env::var("PATH").unwrap_or_default();
        let mut host = Host::new(Arc::clone(&project.store), &project.root, path, false);
        let survey = session::survey(&graph, &named, &mut host)?;
        let history = History::read(project.store.root())?;
        show(&Seen { graph: &graph, named, survey, history })?;
    }
    Ok(DONE)
}

/// `chariot plan`.
pub(super) fn plan(project: &Project, args: &Targets) -> Result<u8, CliError> {
    plan_targets(project, &args.targets, &args.set.all())
}

/// What a run of these targets would do.
pub(super) fn plan_targets(
    project: &Project,
    targets: &[String],
    sets: &[(String, String)],
) -> Result<u8, CliError> {
    look(project, targets, sets, |seen| {
        let count = |kind: fn(&Look) -> bool| seen.survey.looks.iter().filter(|(_, look)| kind(look)).count();
        let done = count(|look| matches!(look, Look::Done(_)));
        let wants = count(|look| matches!(look, Look::Wants(_)));
        let waits = seen.survey.looks.len() - done - wants;
        let pipeline = &seen.graph.pipeline;
        if wants == 0 {
            return print(&format!("{pipeline}: nothing to do ({done} steps up to date)"));
        }
        for (id, look) in &seen.survey.looks {
            if let Some(line) = plan_line(project, seen, *id, look)? {
                print(&line)?;
            }
        }
        print(&format!(
            "{pipeline}: {done} steps up to date, {wants} to run, {waits} known once what they need was run"
        ))
    })
}

fn plan_line(
    project: &Project,
    seen: &Seen<'_>,
    id: StepId,
    look: &Look,
) -> Result<Option<String>, CliError> {
    let address = &seen.graph.step(id).address;
    Ok(match look {
        Look::Done(_) => None,
        Look::Wants(_) => Some(format!("run   {address}: {}", why(project, seen, id, look)?)),
        Look::Waits(_) | Look::Failed => Some(format!("wait  {address}: {}", why(project, seen, id, look)?)),
    })
}

/// Why a step is not done, in one line.
fn why(project: &Project, seen: &Seen<'_>, id: StepId, look: &Look) -> Result<String, CliError> {
    Ok(match look {
        Look::Done(_) => "up to date".to_owned(),
        Look::Failed => "cannot be done".to_owned(),
        Look::Waits(steps) => format!("needs {}", addresses(seen.graph, steps)),
        Look::Wants(actions) => {
            let mut whys = Vec::new();
            for action in actions {
                let why = reason(action, &seen.history, &project.store)?.brief();
                let is_step = action.address == seen.graph.step(id).address;
                whys.push(if is_step {
                    why
                } else {
                    format!("{}: {why}", probe_name(seen, id, &action.address))
                });
            }
            let known = seen.survey.plan.search(id).map_or(0, crate::probes::Probes::answered);
            match (&seen.graph.step(id).work, known) {
                (Work::Search(_), known) if known > 0 => {
                    format!("{known} probes are known; {}", whys.join("; "))
                }
                _ => whys.join("; "),
            }
        }
    })
}

fn probe_name<'a>(seen: &Seen<'_>, id: StepId, address: &'a str) -> &'a str {
    let search = &seen.graph.step(id).address;
    address.strip_prefix(search.as_str()).map_or(address, |rest| rest.trim_start_matches('/'))
}

fn addresses(graph: &Graph, steps: &[StepId]) -> String {
    let shown: Vec<&str> = steps.iter().take(3).map(|id| graph.step(*id).address.as_str()).collect();
    match steps.len().saturating_sub(shown.len()) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// `chariot status`.
pub(super) fn status(project: &Project, args: &Targets) -> Result<u8, CliError> {
    look(project, &args.targets, &args.set.all(), |seen| {
        let width =
            seen.survey.looks.iter().map(|(id, _)| seen.graph.step(*id).address.len()).max().unwrap_or(0);
        for (id, look) in &seen.survey.looks {
            let address = &seen.graph.step(*id).address;
            print(&format!("{address:width$}  {}", state(project, seen, *id, look)?))?;
        }
        Ok(())
    })
}

fn state(project: &Project, seen: &Seen<'_>, id: StepId, look: &Look) -> Result<String, CliError> {
    let step = seen.graph.step(id);
    if let Look::Done(done) = look {
        let seconds = done.actions.iter().map(|found| found.run.wall_ns).sum::<u64>() as f64 / 1e9;
        let newest = done.actions.iter().map(|found| &found.run).max_by_key(|run| &run.finished_at);
        let when = newest
            .map_or_else(String::new, |run| format!("  {}  {seconds:.2} s  {}", run.finished_at, run.host));
        let probes = seen.survey.plan.search(id).map(|search| format!("  {} probes", search.answered()));
        return Ok(format!("done{when}{}", probes.unwrap_or_default()));
    }
    let text = why(project, seen, id, look)?;
    let latest = seen.history.latest(&step.address);
    Ok(match (latest, look) {
        (Some(latest), _) if latest.entry.failure.is_some() => format!("failed  {}  {text}", latest.entry.at),
        (Some(latest), _) => format!("stale  last {}  {text}", latest.entry.at),
        (None, Look::Wants(_)) if text == Reason::New.brief() => text,
        (None, _) => match seen.survey.plan.search(id).map_or(0, crate::probes::Probes::answered) {
            0 => format!("never run  {text}"),
            _ => format!("unfinished  {text}"),
        },
    })
}

/// `chariot explain`.
pub(super) fn explain(project: &Project, args: &Named) -> Result<u8, CliError> {
    look(project, &args.targets, &args.set.all(), |seen| {
        for (id, look) in seen.survey.looks.iter().filter(|(id, _)| seen.named.contains(id)) {
            print(&explanation(project, seen, *id, look)?)?;
        }
        Ok(())
    })
}

fn explanation(project: &Project, seen: &Seen<'_>, id: StepId, look: &Look) -> Result<String, CliError> {
    let address = &seen.graph.step(id).address;
    Ok(match look {
        Look::Done(_) => format!("{address}: will not run: {}", state(project, seen, id, look)?),
        Look::Failed => format!("{address}: cannot be done"),
        Look::Waits(steps) => {
            let mut text =
                format!("{address}: known once what it needs was run: {}", addresses(seen.graph, steps));
            for (cause, look) in causes(seen, id) {
                let cause_address = &seen.graph.step(cause).address;
                let _ = write!(text, "\n  {cause_address} will run: {}", why(project, seen, cause, look)?);
            }
            text
        }
        Look::Wants(actions) => {
            let mut text = format!("{address}: will run");
            for action in actions {
                let why = reason(action, &seen.history, &project.store)?.full(action, &project.store);
                let _ = write!(text, "\n  {}: {}", action.address, why.replace('\n', "\n  "));
            }
            text
        }
    })
}

/// The steps that will run before a waiting one, and make it wait.
fn causes<'s>(seen: &'s Seen<'_>, id: StepId) -> Vec<(StepId, &'s Look)> {
    let before: BTreeSet<StepId> = seen.graph.with_needs(&BTreeSet::from([id])).into_iter().collect();
    let wants = seen
        .survey
        .looks
        .iter()
        .filter(|(other, look)| before.contains(other) && matches!(look, Look::Wants(_)));
    wants.map(|(id, look)| (*id, look)).collect()
}

/// `chariot graph`.
pub(super) fn graph(project: &Project, args: &GraphArgs) -> Result<u8, CliError> {
    for (pipeline, targets) in by_pipeline(project, &args.named.targets)? {
        let graph = load_graph(project, &pipeline, &args.named.set.all())?;
        let steps = graph.with_needs(&session::select(&graph, &targets)?);
        print(
            match args.format {
                Format::Dot => dot(&graph, &steps),
                Format::Mermaid => mermaid(&graph, &steps),
            }
            .trim_end(),
        )?;
    }
    Ok(DONE)
}

fn dot(graph: &Graph, steps: &[StepId]) -> String {
    let mut text =
        format!("digraph \"{}\" {{\n  rankdir=LR;\n  node [shape=box];\n", escaped(&graph.pipeline));
    for id in steps {
        let step = graph.step(*id);
        let _ = writeln!(text, "  n{} [label=\"{}\\n{}\"];", id.0, escaped(&step.address), step.kind);
    }
    for id in steps {
        for need in graph.needs(*id) {
            let _ = writeln!(text, "  n{} -> n{};", need.0, id.0);
        }
    }
    text + "}"
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

fn mermaid(graph: &Graph, steps: &[StepId]) -> String {
    let mut text = "flowchart LR\n".to_owned();
    for id in steps {
        let step = graph.step(*id);
        let _ = writeln!(text, "  n{}[\"{}<br/>{}\"]", id.0, step.address.replace('"', "#quot;"), step.kind);
    }
    for id in steps {
        for need in graph.needs(*id) {
            let _ = writeln!(text, "  n{} --> n{}", need.0, id.0);
        }
    }
    text
}

/// `chariot list`.
pub(super) fn list(project: &Project) -> Result<u8, CliError> {
    for pipeline in project.pipelines()? {
        let graph = load_graph(project, &pipeline, &[])?;
        print(&pipeline)?;
        for (target, count) in targets(&graph) {
            let instances = if count == 1 { String::new() } else { format!("  {count} steps") };
            print(&format!("  {target}{instances}"))?;
        }
    }
    Ok(DONE)
}

/// The targets of a pipeline as declared, with how many steps each has.
fn targets(graph: &Graph) -> Vec<(String, usize)> {
    let mut counts: BTreeMap<String, (u32, usize)> = BTreeMap::new();
    for id in graph.order() {
        let step = graph.step(*id);
        let target: Vec<&str> = step.address.splitn(3, '/').take(2).collect();
        let entry = counts.entry(target.join("/")).or_insert((step.location.line, 0));
        entry.1 += 1;
    }
    let mut listed: Vec<_> = counts.into_iter().collect();
    listed.sort_by_key(|(_, (line, _))| *line);
    listed.into_iter().map(|(target, (_, count))| (target, count)).collect()
}

/// `chariot schema`.
pub(super) fn schema() -> Result<u8, CliError> {
    print(crate::schema::schema_json().trim_end())?;
    Ok(DONE)
}
