//! The DAG of a pipeline's steps: edges, order, and which steps a target names. Knows nothing of caches, files or processes.

use std::collections::{BTreeMap, BTreeSet};

use globset::GlobBuilder;
use petgraph::algo::{tarjan_scc, toposort};
use petgraph::graph::{DiGraph, NodeIndex};

use crate::step::{ActionTemplate, Source, Step, StepId, Steps, Work};

/// How many near names an unknown target is answered with.
const NEAREST_MAX: usize = 3;

/// Steps in an order in which every step comes after those it reads from.
#[derive(Debug)]
pub struct Graph {
    /// Name of the pipeline.
    pub pipeline: String,
    steps: Vec<Step>,
    order: Vec<StepId>,
    needs: Vec<Vec<StepId>>,
    needed_by: Vec<Vec<StepId>>,
}

/// Why steps are no DAG, or a target is none of theirs.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// Steps that wait for each other.
    #[error("{location}: steps wait for each other: {path}\n  help: one of them must not read from the next")]
    Cycle {
        /// Where the first is declared.
        location: String,
        /// The steps with their places, the first again at the end.
        path: String,
    },
    /// No step has this address.
    #[error("no target `{wanted}` in pipeline `{pipeline}`{}", help(nearest))]
    UnknownTarget {
        /// As the user wrote it.
        wanted: String,
        /// Where it was looked for.
        pipeline: String,
        /// The nearest addresses there are.
        nearest: Vec<String>,
    },
    /// Not a pattern.
    #[error("expected a target or a pattern such as `figure-8/latency/tp8-*`, found `{wanted}`: {reason}")]
    BadPattern {
        /// As the user wrote it.
        wanted: String,
        /// What the pattern parser said.
        reason: String,
    },
}

fn help(nearest: &[String]) -> String {
    match nearest {
        [] => String::new(),
        names => format!("\n  help: did you mean `{}`?", names.join("`, `")),
    }
}

impl Graph {
    /// Sorts the steps; fails on a cycle.
    pub fn new(steps: Steps) -> Result<Self, GraphError> {
        let Steps { pipeline, steps } = steps;
        let needs: Vec<Vec<StepId>> = steps.iter().map(|step| step_needs(&step.work)).collect();
        let mut dag = DiGraph::<(), ()>::with_capacity(steps.len(), steps.len());
        for _ in &steps {
            dag.add_node(());
        }
        let mut needed_by = vec![Vec::new(); steps.len()];
        for (index, deps) in needs.iter().enumerate() {
            for dep in deps {
                dag.add_edge(NodeIndex::new(dep.0 as usize), NodeIndex::new(index), ());
                needed_by[dep.0 as usize].push(StepId(index as u32));
            }
        }
        if toposort(&dag, None).is_err() {
            return Err(cycle_error(&dag, &steps, &needs));
        }
        let order = depth_first(&needs, &needed_by);
        Ok(Self { pipeline, steps, order, needs, needed_by })
    }

    /// The step with this id.
    pub fn step(&self, id: StepId) -> &Step {
        &self.steps[id.0 as usize]
    }

    /// All steps, each after those it reads from, depth first: what has begun comes to its end before the next thing is begun.
    pub fn order(&self) -> &[StepId] {
        &self.order
    }

    /// Number of steps.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether the pipeline has no step.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The steps this one reads from, each once.
    pub fn needs(&self, id: StepId) -> &[StepId] {
        &self.needs[id.0 as usize]
    }

    /// The steps that read from this one.
    pub fn needed_by(&self, id: StepId) -> &[StepId] {
        &self.needed_by[id.0 as usize]
    }

    /// The steps a target names: the step of that address, all below it, or all that match the pattern.
    pub fn select(&self, wanted: &str) -> Result<BTreeSet<StepId>, GraphError> {
        let wanted = wanted.trim_end_matches('/');
        let named =
            if wanted.contains(['*', '?', '[', '{']) { self.matching(wanted)? } else { self.below(wanted) };
        if named.is_empty() {
            return Err(self.unknown(wanted));
        }
        Ok(named)
    }

    fn below(&self, wanted: &str) -> BTreeSet<StepId> {
        self.ids().filter(|id| prefixes(&self.step(*id).address).any(|prefix| prefix == wanted)).collect()
    }

    fn matching(&self, wanted: &str) -> Result<BTreeSet<StepId>, GraphError> {
        let glob = GlobBuilder::new(wanted).literal_separator(true).build();
        let matcher = glob
            .map_err(|error| GraphError::BadPattern {
                wanted: wanted.to_owned(),
                reason: error.kind().to_string(),
            })?
            .compile_matcher();
        Ok(self
            .ids()
            .filter(|id| prefixes(&self.step(*id).address).any(|prefix| matcher.is_match(prefix)))
            .collect())
    }

    fn ids(&self) -> impl Iterator<Item = StepId> + '_ {
        (0..self.steps.len()).map(|index| StepId(index as u32))
    }

    /// These steps and all that they need, in order.
    pub fn with_needs(&self, named: &BTreeSet<StepId>) -> Vec<StepId> {
        let mut wanted = vec![false; self.steps.len()];
        for id in self.order.iter().rev() {
            let index = id.0 as usize;
            wanted[index] |= named.contains(id);
            if wanted[index] {
                self.needs[index].iter().for_each(|dep| wanted[dep.0 as usize] = true);
            }
        }
        self.order.iter().copied().filter(|id| wanted[id.0 as usize]).collect()
    }

    fn unknown(&self, wanted: &str) -> GraphError {
        let known: BTreeSet<&str> = self.steps.iter().flat_map(|step| prefixes(&step.address)).collect();
        GraphError::UnknownTarget {
            wanted: wanted.to_owned(),
            pipeline: self.pipeline.clone(),
            nearest: nearest(wanted, known),
        }
    }
}

/// The names most like `wanted`, best first; none that are far off.
pub fn nearest<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let limit = 2 + wanted.len() / 4;
    let mut scored: Vec<(usize, &str)> = known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(wanted, name), name))
        .filter(|(distance, _)| *distance <= limit)
        .collect();
    scored.sort_unstable();
    scored.into_iter().take(NEAREST_MAX).map(|(_, name)| name.to_owned()).collect()
}

/// `a/b/c` -> `a`, `a/b`, `a/b/c`.
fn prefixes(address: &str) -> impl Iterator<Item = &str> {
    address.match_indices('/').map(|(at, _)| &address[..at]).chain(std::iter::once(address))
}

fn step_needs(work: &Work) -> Vec<StepId> {
    let mut found = BTreeSet::new();
    match work {
        Work::Action(action) => action_needs(action, &mut found),
        Work::Search(search) => {
            for repeat in &search.repeats {
                action_needs(&repeat.trial.action, &mut found);
                action_needs(&repeat.judge, &mut found);
            }
        }
    }
    found.into_iter().collect()
}

fn action_needs(action: &ActionTemplate, found: &mut BTreeSet<StepId>) {
    found.extend(action.inputs.values().filter_map(|source| match source {
        Source::Output { step, .. } => Some(*step),
        Source::File(_) | Source::Inline(_) => None,
    }));
}

/// From the steps that nobody needs, as declared: every step right after the last of those it needs. There is no cycle.
fn depth_first(needs: &[Vec<StepId>], needed_by: &[Vec<StepId>]) -> Vec<StepId> {
    let mut seen = vec![false; needs.len()];
    let mut order = Vec::with_capacity(needs.len());
    for end in (0..needs.len()).filter(|index| needed_by[*index].is_empty()) {
        let mut path = vec![(end, needs[end].iter())];
        while let Some((at, left)) = path.last_mut() {
            if let Some(need) = left.next() {
                let need = need.0 as usize;
                if !std::mem::replace(&mut seen[need], true) {
                    path.push((need, needs[need].iter()));
                }
            } else {
                order.push(StepId(*at as u32));
                path.pop();
            }
        }
    }
    order
}

/// Walks needs from a step of a cycle until one comes again.
fn cycle_error(dag: &DiGraph<(), ()>, steps: &[Step], needs: &[Vec<StepId>]) -> GraphError {
    let mut cycles: Vec<BTreeSet<usize>> = tarjan_scc(dag)
        .into_iter()
        .map(|nodes| nodes.into_iter().map(NodeIndex::index).collect::<BTreeSet<usize>>())
        .filter(|nodes| nodes.len() > 1 || nodes.iter().all(|n| needs[*n].contains(&StepId(*n as u32))))
        .collect();
    cycles.sort();
    let members = cycles.swap_remove(0);
    let mut seen = BTreeMap::new();
    let mut path = Vec::new();
    let mut at = *members.first().expect("a cycle has members");
    while !seen.contains_key(&at) {
        seen.insert(at, path.len());
        path.push(at);
        at = needs[at]
            .iter()
            .map(|dep| dep.0 as usize)
            .find(|dep| members.contains(dep))
            .expect("every member of a cycle needs another");
    }
    let mut path = path.split_off(seen[&at]);
    path.push(at);
    let place = |index: &usize| {
        let location = &steps[*index].location;
        format!("{}:{}:{}", location.file, location.line, location.column)
    };
    let named: Vec<String> =
        path.iter().map(|index| format!("`{}` ({})", steps[*index].address, place(index))).collect();
    GraphError::Cycle { location: place(&path[0]), path: named.join(" needs ") }
}

#[cfg(test)]
mod tests;
