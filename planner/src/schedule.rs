//! Which actions run when: a plan's wants, each once, under resource limits. Pure; the shell starts and reaps processes.
//!
//! It is asked after every event, so nothing here may take time in proportion to all actions that are left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chariot_cache::Digest;

use crate::action::Action;
use crate::plan::{Look, Plan, View};
use crate::resources::{Pool, TooManyGpus};
use crate::step::{Resources, StepId, Work};

/// How far ahead of a search its probes are run on idle processors.
const AHEAD_MAX: usize = 8;

/// An action that somebody wants, from then until its results are published.
#[derive(Debug)]
struct Job {
    action: Arc<Action>,
    phase: Phase,
    place: Place,
    /// Looked at again when it is over. Empty for a probe run ahead of its search.
    waiters: BTreeSet<StepId>,
    /// The search it was run ahead for.
    ahead_of: Option<StepId>,
    tries_left: u32,
}

/// Where an action stands among those that are ready: as its step does in the plan's order, so that what was begun is finished before the
/// next thing is begun. What failed twice and what is run ahead stand behind all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    rank: u32,
    turn: u64,
}

/// Behind all steps.
const LAST: u32 = u32::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waits for resources.
    Ready,
    /// Runs, holding these.
    Running(Resources),
    /// Its process is over, its results are being stored.
    Publishing,
}

/// The actions of a plan and what they occupy.
#[derive(Debug)]
pub struct Schedule<'g> {
    /// What is done and what is not.
    pub plan: Plan<'g>,
    pool: Pool,
    keep_going: bool,
    halted: bool,
    rank: BTreeMap<StepId, u32>,
    to_look: BTreeSet<(u32, StepId)>,
    /// The searches of the plan, in order.
    searches: Vec<StepId>,
    jobs: BTreeMap<Digest, Job>,
    /// The jobs that nobody waits for: probes run ahead of their search.
    ahead: BTreeSet<Digest>,
    ready: BTreeMap<Place, Digest>,
    turns: u64,
    finished: Vec<StepId>,
}

/// Why scheduling cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError<E: std::error::Error> {
    /// The host's answer was an error.
    #[error(transparent)]
    View(E),
    /// An action that this machine can never run.
    #[error("`{address}`: {source}")]
    TooManyGpus {
        /// The action.
        address: String,
        /// How many, of how many.
        source: TooManyGpus,
    },
    /// Results were stored and are not there.
    #[error("the results of `{address}` were stored and are gone; is something else writing to .chariot?")]
    Lost {
        /// The action.
        address: String,
    },
}

impl<'g> Schedule<'g> {
    /// A schedule of a plan on these resources. With `keep_going`, a failure stops only what needs the failed step.
    pub fn new(plan: Plan<'g>, pool: Pool, keep_going: bool) -> Self {
        let rank: BTreeMap<StepId, u32> = plan.needed().iter().copied().zip(0..).collect();
        let to_look = rank.iter().map(|(id, rank)| (*rank, *id)).collect();
        let is_search = |id: &StepId| matches!(plan.graph().step(*id).work, Work::Search(_));
        let searches = plan.needed().iter().copied().filter(is_search).collect();
        Self {
            plan,
            pool,
            keep_going,
            halted: false,
            rank,
            to_look,
            searches,
            jobs: BTreeMap::new(),
            ahead: BTreeSet::new(),
            ready: BTreeMap::new(),
            turns: 0,
            finished: Vec::new(),
        }
    }

    /// Looks at every step that may have become done or runnable.
    pub fn settle<V: View>(&mut self, view: &mut V) -> Result<(), ScheduleError<V::Error>>
    where
        V::Error: std::error::Error,
    {
        while let Some((_, id)) = self.to_look.pop_first() {
            if !self.plan.is_open(id) {
                continue;
            }
            match self.plan.look(id, view).map_err(ScheduleError::View)? {
                Look::Done(_) => {
                    self.finished.push(id);
                    self.wake(self.plan.graph().needed_by(id));
                }
                Look::Wants(actions) => actions.into_iter().try_for_each(|action| self.want(id, action))?,
                Look::Waits(_) | Look::Failed => {}
            }
        }
        Ok(())
    }

    fn wake<'a>(&mut self, steps: impl IntoIterator<Item = &'a StepId>) {
        for id in steps {
            if let Some(rank) = self.rank.get(id) {
                self.to_look.insert((*rank, *id));
            }
        }
    }

    fn want<E: std::error::Error>(&mut self, id: StepId, action: Action) -> Result<(), ScheduleError<E>> {
        let key = action.key.digest;
        let rank = self.rank[&id];
        if let Some(job) = self.jobs.get_mut(&key) {
            job.waiters.insert(id);
            self.ahead.remove(&key);
            if job.phase == Phase::Ready && rank < job.place.rank {
                self.ready.remove(&job.place);
                self.queue(&key, rank);
            }
            return Ok(());
        }
        if self.plan.was_run(&key) {
            return Err(ScheduleError::Lost { address: action.address });
        }
        if let Err(source) = self.pool.clamp(action.resources) {
            return Err(ScheduleError::TooManyGpus { address: action.address, source });
        }
        self.insert(action, rank, BTreeSet::from([id]), None);
        Ok(())
    }

    fn insert(&mut self, action: Action, rank: u32, waiters: BTreeSet<StepId>, ahead_of: Option<StepId>) {
        let key = action.key.digest;
        let tries_left = action.retries;
        let action = Arc::new(action);
        if waiters.is_empty() {
            self.ahead.insert(key);
        }
        let place = Place { rank, turn: 0 };
        self.jobs.insert(key, Job { action, phase: Phase::Ready, place, waiters, ahead_of, tries_left });
        self.queue(&key, rank);
    }

    /// Makes an action ready, behind all of its rank.
    fn queue(&mut self, key: &Digest, rank: u32) {
        if let Some(job) = self.jobs.get_mut(key) {
            job.phase = Phase::Ready;
            job.place = Place { rank, turn: self.turns };
            self.ready.insert(job.place, *key);
            self.turns += 1;
        }
    }

    fn remove(&mut self, key: &Digest) -> Option<Job> {
        self.ahead.remove(key);
        self.jobs.remove(key)
    }

    /// The actions to start now, in order.
    pub fn start(&mut self) -> Vec<Arc<Action>> {
        if self.halted {
            return Vec::new();
        }
        let ready = self.ready.values();
        let admitted = self.pool.admit(ready.map(|key| self.jobs[key].action.resources));
        let looked_at = admitted.last().map_or(0, |(index, _)| index + 1);
        let places: Vec<Place> = self.ready.keys().take(looked_at).copied().collect();
        let mut started = Vec::with_capacity(admitted.len());
        for (index, taken) in admitted {
            if let Some(job) = self.ready.remove(&places[index]).and_then(|key| self.jobs.get_mut(&key)) {
                job.phase = Phase::Running(taken);
                started.push(Arc::clone(&job.action));
            }
        }
        started
    }

    /// Queues probes that searches will probably ask for, if processors would be idle otherwise.
    pub fn look_ahead<V: View>(&mut self, view: &mut V) -> Result<(), ScheduleError<V::Error>>
    where
        V::Error: std::error::Error,
    {
        let mut idle = self.pool.idle_cpus() as usize;
        if self.halted || !self.ready.is_empty() || idle == 0 {
            return Ok(());
        }
        self.searches.retain(|id| self.plan.is_open(*id));
        for id in self.searches.clone() {
            if idle == 0 {
                break;
            }
            for action in self.plan.ahead(id, AHEAD_MAX.min(idle + 1), view).map_err(ScheduleError::View)? {
                let costs = action.resources.gpu > 0 || action.resources.exclusive;
                let known =
                    self.jobs.contains_key(&action.key.digest) || self.plan.was_run(&action.key.digest);
                if idle > 0 && !costs && !known {
                    self.insert(action, LAST, BTreeSet::new(), Some(id));
                    idle -= 1;
                }
            }
        }
        Ok(())
    }

    /// Whether anything was queued ahead of its search.
    pub fn has_ahead(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Actions running ahead of a search that no longer will ask for them.
    pub fn in_vain<V: View>(&self, view: &mut V) -> Result<Vec<Digest>, ScheduleError<V::Error>>
    where
        V::Error: std::error::Error,
    {
        let mut keep = BTreeSet::new();
        let jobs = || self.ahead.iter().map(|key| (key, &self.jobs[key]));
        let searches: BTreeSet<StepId> = jobs().filter_map(|(_, job)| job.ahead_of).collect();
        for id in searches {
            if self.plan.is_open(id) {
                let ahead = self.plan.ahead(id, AHEAD_MAX, view).map_err(ScheduleError::View)?;
                keep.extend(ahead.iter().map(|action| action.key.digest));
            }
        }
        let vain = |(key, job): (&Digest, &Job)| {
            (job.phase != Phase::Publishing && !keep.contains(key)).then_some(*key)
        };
        Ok(jobs().filter_map(vain).collect())
    }

    /// An action's process is over: what it occupied is free.
    pub fn process_over(&mut self, key: &Digest) {
        if let Some(job) = self.jobs.get_mut(key)
            && let Phase::Running(taken) = job.phase
        {
            job.phase = Phase::Publishing;
            self.pool.give(taken);
        }
    }

    /// An action's results are in the store.
    pub fn published(&mut self, key: &Digest) {
        if let Some(job) = self.remove(key) {
            self.plan.ran(*key);
            self.wake(&job.waiters);
        }
    }

    /// An action failed. `true`: it will be tried again, at once the first time, then after all others: what disturbed it may last.
    pub fn retry(&mut self, key: &Digest) -> bool {
        match self.jobs.get_mut(key) {
            Some(job) if job.tries_left > 0 && !self.halted => {
                let is_first = job.tries_left == job.action.retries;
                let rank = if is_first { job.place.rank } else { LAST };
                job.tries_left -= 1;
                self.queue(key, rank);
                true
            }
            _ => false,
        }
    }

    /// An action failed for good. Returns whether anybody wanted it, and the steps that are lost with it.
    pub fn failed(&mut self, key: &Digest) -> Option<Vec<StepId>> {
        let job = self.remove(key)?;
        if job.waiters.is_empty() {
            return None;
        }
        self.halted |= !self.keep_going;
        Some(job.waiters.iter().flat_map(|id| self.plan.fail(*id)).collect())
    }

    /// An action was stopped; it runs again if somebody came to want it meanwhile.
    pub fn stopped(&mut self, key: &Digest) {
        let waiters = self.jobs.get(key).into_iter().flat_map(|job| &job.waiters);
        let rank = waiters.map(|id| self.rank[id]).min();
        if let Some(rank) = rank.filter(|_| !self.halted) {
            self.queue(key, rank);
        } else {
            self.remove(key);
        }
    }

    /// Drops what was queued ahead of its search and has not started.
    pub fn drop_queued(&mut self, key: &Digest) -> bool {
        let place = self.jobs.get(key).filter(|job| job.phase == Phase::Ready).map(|job| job.place);
        if let Some(place) = place {
            self.remove(key);
            self.ready.remove(&place);
        }
        place.is_some()
    }

    /// Starts nothing more.
    pub fn halt(&mut self) {
        self.halted = true;
    }

    /// Whether a step is still to be done and can be.
    pub fn is_over(&self) -> bool {
        self.halted || self.jobs.len() == self.ahead.len()
    }

    /// Steps done since this was last asked.
    pub fn finished(&mut self) -> Vec<StepId> {
        std::mem::take(&mut self.finished)
    }
}

#[cfg(test)]
mod tests;
