//! Instances to steps: the command line, inputs and outputs of every recipe, as `docs/formats.md` has them. Pure.

mod cluster;
mod command;
mod report;
mod serving;

use std::collections::BTreeMap;

use camino::Utf8PathBuf;

use crate::diagnostic::Mistake;
use crate::recipe::{On, Recipe};
use crate::resolve::{Book, Site};
use crate::step::{ActionTemplate, Resources, Source, Step, StepId, Tool, Work};

/// Version of the files that the planner writes for the tools.
pub(crate) const FORMAT: u32 = 1;

/// All steps of all instances, in the order of their [`StepId`]s.
pub fn lower(book: &Book<'_>) -> Result<Vec<Step>, Vec<Mistake>> {
    let mut steps = Vec::new();
    let mut mistakes = Vec::new();
    for site in book.sites() {
        match of_site(&site) {
            Ok(of_site) => steps.extend(of_site),
            Err(mistake) => mistakes.push(noted(mistake, &site)),
        }
    }
    if mistakes.is_empty() {
        mistakes.extend(cycle(book, &steps));
    }
    if mistakes.is_empty() { Ok(steps) } else { Err(mistakes) }
}

fn noted(mistake: Mistake, site: &Site<'_>) -> Mistake {
    match (&mistake.note, &site.instance.name) {
        (None, Some(_)) => mistake.note(format!("for `{}`", site.short_name())),
        _ => mistake,
    }
}

fn of_site(site: &Site<'_>) -> Result<Vec<Step>, Mistake> {
    match &site.instance.recipe {
        Recipe::Cluster(recipe) => Ok(vec![cluster::cluster(site, recipe)?]),
        Recipe::Profile(recipe) => Ok(vec![cluster::profile(site, recipe)?]),
        Recipe::Shard(recipe) => Ok(vec![cluster::shard(site, recipe)?]),
        Recipe::Trial(recipe) => serving::trial(site, recipe),
        Recipe::Capacity(recipe) => Ok(vec![serving::capacity(site, recipe)?]),
        Recipe::Figure(recipe) => Ok(vec![report::figure(site, recipe)?]),
        Recipe::Check(recipe) => Ok(vec![report::check(site, recipe)?]),
        Recipe::Command(recipe) => Ok(vec![command::command(site, recipe)?]),
    }
}

/// A step of the site that shows its outputs under `out/PIPELINE/TARGET[/INSTANCE]`.
fn step(site: &Site<'_>, kind: &'static str, work: Work) -> Step {
    let address = site.address();
    let place = Some(Utf8PathBuf::from(&address));
    Step { address, kind, location: site.location(), work, place, show: Vec::new() }
}

/// An action of one of Chariot's own tools: one CPU slot, nothing else.
fn own<const N: usize>(tool: &'static str, args: [&str; N]) -> ActionTemplate {
    ActionTemplate {
        tool: Tool::Own(tool),
        args: args.map(str::to_owned).to_vec(),
        env: BTreeMap::new(),
        inputs: BTreeMap::new(),
        outputs: Vec::new(),
        resources: Resources { cpu: 1, gpu: 0, exclusive: false },
        timeout: None,
        retries: 0,
        facts: Vec::new(),
        cutoff: None,
    }
}

/// What an action must have so that its measurements mean something: the host and its GPUs to itself, and their kind in its key.
fn measured(action: ActionTemplate, on: On) -> ActionTemplate {
    let gpu = (on == On::Cuda).then_some("gpu");
    let facts = ["arch", "cores", "cpu"].into_iter().chain(gpu).map(str::to_owned).collect();
    ActionTemplate { resources: Resources { exclusive: true, ..action.resources }, facts, ..action }
}

fn output(step: StepId, path: impl Into<Utf8PathBuf>) -> Source {
    Source::Output { step, path: path.into() }
}

/// A JSON input, with a line break at its end so that it reads well in a terminal.
fn json_input(value: &serde_json::Value) -> Source {
    let mut bytes = serde_json::to_vec_pretty(value).expect("a JSON value can always be written");
    bytes.push(b'\n');
    Source::Inline(bytes)
}

/// The first cycle among the steps, by depth-first search; O(steps + edges), on a stack of its own.
fn cycle(book: &Book<'_>, steps: &[Step]) -> Option<Mistake> {
    let needs: Vec<Vec<usize>> = steps.iter().map(needs).collect();
    // 0: not seen, 1: on the path, 2: done.
    let mut state = vec![0u8; steps.len()];
    for root in 0..steps.len() {
        let mut path: Vec<(usize, usize)> = Vec::new();
        if state[root] == 0 {
            state[root] = 1;
            path.push((root, 0));
        }
        while let Some((at, next)) = path.last_mut() {
            let Some(need) = needs[*at].get(*next).copied() else {
                state[*at] = 2;
                path.pop();
                continue;
            };
            *next += 1;
            match state[need] {
                0 => {
                    state[need] = 1;
                    path.push((need, 0));
                }
                1 => {
                    let from = path.iter().position(|(step, _)| *step == need).unwrap_or(0);
                    let cycle: Vec<usize> = path[from..].iter().map(|(step, _)| *step).collect();
                    return Some(in_a_circle(book, steps, &cycle));
                }
                _ => {}
            }
        }
    }
    None
}

fn needs(step: &Step) -> Vec<usize> {
    let of = |source: &Source| match source {
        Source::Output { step, .. } => Some(step.0 as usize),
        _ => None,
    };
    match &step.work {
        Work::Action(action) => action.inputs.values().filter_map(of).collect(),
        Work::Search(search) => search
            .repeats
            .iter()
            .flat_map(|repeat| repeat.trial.action.inputs.values().filter_map(of))
            .collect(),
    }
}

fn in_a_circle(book: &Book<'_>, steps: &[Step], cycle: &[usize]) -> Mistake {
    let short = |step: usize| steps[step].address.split_once('/').map_or("", |(_, rest)| rest);
    let mut names: Vec<&str> = cycle.iter().map(|step| short(*step)).collect();
    names.extend(names.first().copied());
    let site = book.sites().find(|site| site.step(0).0 as usize == cycle[0]);
    let span = site.map(|site| site.target.span);
    let title = format!("targets need one another in a circle: {}", names.join(" -> "));
    let nowhere = crate::diagnostic::Span { source: crate::diagnostic::SourceId(0), start: 0, end: 0 };
    Mistake::new(span.unwrap_or(nowhere), title).help("take one of the inputs out")
}
