//! What is done, what must run, what cannot be told yet: graph x cache view -> plan. Pure; who plans and who runs both use it.
//!
//! This is the suspending scheduler with constructive traces of *Build Systems a la Carte*: a step is looked at once its
//! inputs' contents are known; it is done if the cache holds its results, whoever made them; otherwise it names the
//! actions whose results it wants. When these were run it is looked at again. A step whose inputs came out as they
//! were is therefore done without running: early cutoff.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use camino::{Utf8Path, Utf8PathBuf};
use chariot_cache::{Digest, Run};

use crate::action::{Action, Input, Origin};
use crate::graph::Graph;
use crate::probes::{self, Point, Probes, ProbesError};
use crate::step::{ActionTemplate, Location, SearchTemplate, Step, StepId, Work};

/// Answers about the project, the host and the store.
pub trait View {
    /// What goes wrong with it.
    type Error: From<PlanError>;
    /// Puts an action together; all steps it reads from are done.
    fn resolve(
        &mut self,
        step: &Step,
        address: String,
        template: &ActionTemplate,
        made: Made<'_>,
    ) -> Result<Action, Self::Error>;
    /// The results of an action, if they are at hand and whole.
    fn lookup(&mut self, action: &Action) -> Result<Option<Found>, Self::Error>;
    /// The bytes of a blob.
    fn read(&mut self, blob: &Digest) -> Result<Vec<u8>, Self::Error>;
    /// Keeps bytes that the planner made; says what they are found by.
    fn keep(&mut self, bytes: &[u8]) -> Result<Digest, Self::Error>;
}

/// A search that cannot be done.
#[derive(Debug, thiserror::Error)]
#[error("{file}:{line}:{column}: `{address}`: {source}", file = location.file, line = location.line, column = location.column)]
pub struct PlanError {
    location: Location,
    address: String,
    source: ProbesError,
}

impl PlanError {
    fn new(step: &Step, source: ProbesError) -> Self {
        Self { location: step.location.clone(), address: step.address.clone(), source }
    }

    /// Whether the pipeline is wrong, and not what a judge wrote.
    pub fn is_users(&self) -> bool {
        !matches!(self.source, ProbesError::Verdict { .. })
    }
}

/// Results of an action in the store.
#[derive(Debug, Clone)]
pub struct Found {
    /// The key they are found by.
    pub key: Digest,
    /// Output -> content.
    pub outputs: BTreeMap<Utf8PathBuf, Digest>,
    /// How the run that made them went.
    pub run: Run,
}

/// A step that has its outputs.
#[derive(Debug)]
pub struct Done {
    /// Output -> content.
    pub outputs: BTreeMap<Utf8PathBuf, Digest>,
    /// The actions that made them: one, or all probes of a search.
    pub actions: Vec<Found>,
}

#[derive(Debug, Clone)]
enum State {
    /// Not part of this plan.
    Left,
    /// Waits for steps, or for actions of its own.
    Open,
    /// Has its outputs.
    Done(Rc<Done>),
    /// Never will have.
    Failed,
}

/// What a look at a step found.
#[derive(Debug)]
pub enum Look {
    /// It has its outputs.
    Done(Rc<Done>),
    /// It wants these actions run; then look again.
    Wants(Vec<Action>),
    /// These steps must be done first.
    Waits(Vec<StepId>),
    /// It failed, or what it needs did.
    Failed,
}

/// What is known of a probe.
enum Probed {
    /// Its verdict, and the actions it comes from.
    Verdict(Vec<u8>, [Found; 2]),
    /// This must run first.
    Wants(Action),
}

/// The state of a pipeline's steps.
#[derive(Debug)]
pub struct Plan<'g> {
    graph: &'g Graph,
    needed: Vec<StepId>,
    states: Vec<State>,
    searches: BTreeMap<StepId, Probes>,
    found: BTreeMap<StepId, Vec<Found>>,
    forced: BTreeSet<StepId>,
    fresh: BTreeSet<Digest>,
    news: Vec<News>,
}

/// A probe's answer that was not known before this run.
#[derive(Debug)]
pub struct News {
    /// The search.
    pub step: StepId,
    /// Which of its probes.
    pub point: Point,
    /// Whether the SLO held.
    pub pass: bool,
}

/// What the steps done so far have made.
#[derive(Clone, Copy)]
pub struct Made<'p> {
    graph: &'p Graph,
    states: &'p [State],
}

impl Made<'_> {
    /// The content of a step's output.
    pub fn output(&self, step: StepId, path: &Utf8Path) -> Option<Digest> {
        match &self.states[step.0 as usize] {
            State::Done(done) => done.outputs.get(path).copied(),
            State::Left | State::Open | State::Failed => None,
        }
    }

    /// The address of a step.
    pub fn address(&self, step: StepId) -> &str {
        &self.graph.step(step).address
    }
}

impl<'g> Plan<'g> {
    /// A plan for the named steps and all they need. The results of `forced` steps are not taken from the cache.
    pub fn new(graph: &'g Graph, named: &BTreeSet<StepId>, forced: BTreeSet<StepId>) -> Self {
        let needed = graph.with_needs(named);
        let mut states = vec![State::Left; graph.len()];
        needed.iter().for_each(|id| states[id.0 as usize] = State::Open);
        Self {
            graph,
            needed,
            states,
            searches: BTreeMap::new(),
            found: BTreeMap::new(),
            forced,
            fresh: BTreeSet::new(),
            news: Vec::new(),
        }
    }

    /// The graph it is about.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// The steps of this plan, each after those it reads from.
    pub fn needed(&self) -> &[StepId] {
        &self.needed
    }

    /// A step's results, once it is done.
    pub fn done(&self, id: StepId) -> Option<&Rc<Done>> {
        match &self.states[id.0 as usize] {
            State::Done(done) => Some(done),
            State::Left | State::Open | State::Failed => None,
        }
    }

    /// Results that are at hand for a step, whether it is done or a search under way.
    pub fn found(&self, id: StepId) -> impl Iterator<Item = &Found> {
        let done = self.done(id).map_or(&[][..], |done| &done.actions);
        done.iter().chain(self.found.get(&id).into_iter().flatten())
    }

    /// Whether a step is still to be done.
    pub fn is_open(&self, id: StepId) -> bool {
        matches!(self.states[id.0 as usize], State::Open)
    }

    /// Gives a step up, with all that need it; returns these.
    pub fn fail(&mut self, id: StepId) -> Vec<StepId> {
        let mut lost = Vec::new();
        let mut next = vec![id];
        while let Some(id) = next.pop() {
            if self.is_open(id) {
                self.states[id.0 as usize] = State::Failed;
                lost.push(id);
                next.extend(self.graph.needed_by(id));
            }
        }
        lost
    }

    /// Notes that an action was run now: its results may be used although its step is forced.
    pub fn ran(&mut self, key: Digest) {
        self.fresh.insert(key);
    }

    /// Whether an action was run now.
    pub fn was_run(&self, key: &Digest) -> bool {
        self.fresh.contains(key)
    }

    /// Answers of probes learned since this was last asked.
    pub fn news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// A search's state, once it was looked at.
    pub fn search(&self, id: StepId) -> Option<&Probes> {
        self.searches.get(&id)
    }

    /// Looks at a step.
    pub fn look<V: View>(&mut self, id: StepId, view: &mut V) -> Result<Look, V::Error> {
        match &self.states[id.0 as usize] {
            State::Done(done) => return Ok(Look::Done(Rc::clone(done))),
            State::Failed => return Ok(Look::Failed),
            State::Left | State::Open => {}
        }
        let waits: Vec<StepId> =
            self.graph.needs(id).iter().copied().filter(|dep| self.done(*dep).is_none()).collect();
        if !waits.is_empty() {
            return Ok(Look::Waits(waits));
        }
        let graph = self.graph;
        let found = match &graph.step(id).work {
            Work::Action(template) => self.look_at_action(id, template, view)?,
            Work::Search(template) => self.look_at_search(id, template, view)?,
        };
        Ok(match found {
            Err(wants) => Look::Wants(wants),
            Ok(done) => {
                let done = Rc::new(done);
                self.states[id.0 as usize] = State::Done(Rc::clone(&done));
                Look::Done(done)
            }
        })
    }

    fn look_at_action<V: View>(
        &self,
        id: StepId,
        template: &ActionTemplate,
        view: &mut V,
    ) -> Result<Result<Done, Vec<Action>>, V::Error> {
        let step = self.graph.step(id);
        let action = view.resolve(step, step.address.clone(), template, self.made())?;
        Ok(match self.find(id, &action, view)? {
            Some(found) => Ok(Done { outputs: found.outputs.clone(), actions: vec![found] }),
            None => Err(vec![action]),
        })
    }

    fn look_at_search<V: View>(
        &mut self,
        id: StepId,
        template: &SearchTemplate,
        view: &mut V,
    ) -> Result<Result<Done, Vec<Action>>, V::Error> {
        let wrong = |source| PlanError::new(self.graph.step(id), source);
        let mut search = match self.searches.remove(&id) {
            Some(search) => search,
            None => Probes::new(template).map_err(wrong)?,
        };
        let mut found = self.found.remove(&id).unwrap_or_default();
        let wants = loop {
            let mut wants = Vec::new();
            let mut learned = false;
            for point in search.wanted() {
                match self.probe(id, template, point, view)? {
                    Probed::Wants(action) => wants.push(action),
                    Probed::Verdict(verdict, actions) => {
                        let pass = search.observe(point, &verdict).map_err(wrong)?;
                        if actions.iter().any(|found| self.fresh.contains(&found.key)) {
                            self.news.push(News { step: id, point, pass });
                        }
                        found.extend(actions);
                        learned = true;
                    }
                }
            }
            if !learned {
                break wants;
            }
        };
        let result = match wants.is_empty() {
            false => Err(wants),
            true => {
                let target = target_of(self.graph, id);
                let digest = view.keep(&search.capacity_json(template, target))?;
                let outputs = BTreeMap::from([(Utf8PathBuf::from(probes::CAPACITY), digest)]);
                Ok(Done { outputs, actions: std::mem::take(&mut found) })
            }
        };
        self.searches.insert(id, search);
        self.found.insert(id, found);
        Ok(result)
    }

    /// The verdict at a point, or the action to run for it next.
    fn probe<V: View>(
        &self,
        id: StepId,
        template: &SearchTemplate,
        point: Point,
        view: &mut V,
    ) -> Result<Probed, V::Error> {
        let step = self.graph.step(id);
        let address = probes::address(&step.address, template, point);
        let repeat = &template.repeats[point.repeat];
        let trial_template =
            probes::trial_at(&repeat.trial, point.rate).map_err(|source| PlanError::new(step, source))?;
        let trial = view.resolve(step, address.clone(), &trial_template, self.made())?;
        let Some(tried) = self.find(id, &trial, view)? else { return Ok(Probed::Wants(trial)) };
        let inputs = repeat.judge_inputs.iter().filter_map(|(path, output)| {
            let digest = *tried.outputs.get(output)?;
            Some((path.clone(), Input { digest, origin: Origin::Store }))
        });
        let judge = view.resolve(step, format!("{address}/verdict"), &repeat.judge, self.made())?;
        let judge = judge.with_inputs(inputs);
        let Some(judged) = self.find(id, &judge, view)? else { return Ok(Probed::Wants(judge)) };
        let verdict = match judged.outputs.get(Utf8Path::new(probes::VERDICT)) {
            Some(digest) => view.read(digest)?,
            None => Vec::new(),
        };
        Ok(Probed::Verdict(verdict, [tried, judged]))
    }

    /// What a search will probably ask next: the first of these actions that are not at hand, at most `count`.
    pub fn ahead<V: View>(&self, id: StepId, count: usize, view: &mut V) -> Result<Vec<Action>, V::Error> {
        let (Some(search), Work::Search(template)) = (self.searches.get(&id), &self.graph.step(id).work)
        else {
            return Ok(Vec::new());
        };
        let mut actions = Vec::new();
        for point in search.ahead(count) {
            if let Probed::Wants(action) = self.probe(id, template, point, view)? {
                actions.push(action);
            }
        }
        Ok(actions)
    }

    fn find<V: View>(&self, id: StepId, action: &Action, view: &mut V) -> Result<Option<Found>, V::Error> {
        let stale = self.forced.contains(&id) && !action.keys().any(|key| self.fresh.contains(&key.digest));
        if stale { Ok(None) } else { view.lookup(action) }
    }

    fn made(&self) -> Made<'_> {
        Made { graph: self.graph, states: &self.states }
    }
}

/// A step's address within its pipeline.
fn target_of(graph: &Graph, id: StepId) -> &str {
    let address = &graph.step(id).address;
    address.strip_prefix(&format!("{}/", graph.pipeline)).unwrap_or(address)
}
