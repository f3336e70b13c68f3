//! The simulated executor: a virtual clock and stages as servers, timed by the cost model.
//! Knows nothing of sequences' lives, of what real kernels compute, or of files.
//!
//! Batches pass every stage in the order submitted, so when each leaves each stage is known at submission:
//! it enters stage s when it has left stage s-1 and been sent, and stage s has let the batch before it go.
//! That recursion is the whole event queue; no heap is needed, and an event costs O(stages). Where stages slow each other down it
//! does not hold, and `contention` follows the batches as time passes.

pub mod cluster;
pub mod coefficient;
mod contention;
pub mod cost;
pub mod curve;
pub mod hardware;
mod kernels;
pub mod measured;
pub mod place;
pub mod platform;
pub mod spread;

use std::collections::VecDeque;
use std::convert::Infallible;

use crate::executor::{Event, Executor, StageStay};
use crate::sched::Scheduler;
use crate::sched::batch::Batch;
use crate::units::{BatchId, Nanos};

use contention::{Contention, Job, Left};
use cost::CostModel;

/// Simulates the stages of one engine.
#[derive(Debug)]
pub struct SimExecutor {
    now: Nanos,
    costs: CostModel,
    /// When each stage has let its newest batch go.
    stage_free: Vec<Nanos>,
    /// Batches not yet reported complete, oldest first.
    in_flight: VecDeque<Flight>,
    /// Stage times of the batch being submitted.
    scratch: Vec<Nanos>,
    stays: Option<Vec<StageStay>>,
    /// The batches under way where stages slow each other down; then `in_flight` has none.
    contention: Option<Contention>,
}

#[derive(Debug, Clone, Copy)]
struct Flight {
    batch: BatchId,
    start: Nanos,
    /// Its outputs are back at the driver.
    back: Nanos,
    process: Nanos,
}

impl SimExecutor {
    /// At time zero, with empty stages.
    pub fn new(costs: CostModel) -> Self {
        let stages = costs.depth() as usize;
        let contention = costs.is_contended().then(|| Contention::new(stages));
        Self {
            contention,
            now: Nanos::ZERO,
            costs,
            stage_free: vec![Nanos::ZERO; stages],
            in_flight: VecDeque::with_capacity(stages),
            scratch: Vec::with_capacity(stages),
            stays: None,
        }
    }

    /// Keeps each batch's stay in each stage, for a timeline.
    pub fn keep_stays(mut self) -> Self {
        self.stays = Some(Vec::new());
        self
    }

    /// What `keep_stays` kept: in order of submission, or of leaving where stages slow each other down.
    pub fn into_stays(self) -> Vec<StageStay> {
        self.stays.unwrap_or_default()
    }

    /// A batch enters the first stage as soon as it can: its way through all stages is known from here on.
    fn enter(&mut self, batch: &Batch) {
        let under_way = self.contention.as_ref().map_or(self.in_flight.len(), Contention::len);
        assert!(under_way < self.stage_free.len(), "caller keeps batches in flight <= depth");
        let cost = self.costs.cost(batch, &mut self.scratch);
        self.now += cost.schedule;
        if let Some(contention) = &mut self.contention {
            let factor = |(stage, &time)| (time, self.costs.slowdown(stage, &cost));
            contention.enter(Job {
                batch: batch.id,
                arrives: self.now + cost.one_way,
                work: self.scratch.iter().enumerate().map(factor).collect(),
                sends: (1..self.scratch.len()).map(|next| self.costs.send(next - 1, &cost)).collect(),
                back: cost.one_way,
                process: cost.process,
            });
            return;
        }
        let mut ready = self.now + cost.one_way;
        let mut start = None;
        for (stage, (free, &time)) in self.stage_free.iter_mut().zip(&self.scratch).enumerate() {
            if stage > 0 {
                ready += self.costs.send(stage - 1, &cost);
            }
            let enter = ready.max(*free);
            ready = enter + time;
            *free = ready;
            start.get_or_insert(enter);
            if let Some(stays) = &mut self.stays {
                stays.push(StageStay { batch: batch.id, stage: stage as u32, start: enter, end: ready });
            }
        }
        let start = start.expect("a cost model has a stage");
        self.in_flight.push_back(Flight {
            batch: batch.id,
            start,
            back: ready + cost.one_way,
            process: cost.process,
        });
    }

    /// The oldest batch leaves, if it is back by `until`.
    fn leave(&mut self, until: Nanos) -> Event {
        if let Some(contention) = &mut self.contention {
            assert!(
                contention.len() > 0 || until < Nanos::MAX,
                "caller waits for a batch in flight or for a time"
            );
            let keep = |stay| self.stays.iter_mut().for_each(|stays| stays.push(stay));
            return match contention.leave(until, keep) {
                Some(Left { batch, start, back, process }) => {
                    self.now = self.now.max(back) + process;
                    Event::Completed { batch, start, end: self.now }
                }
                None => {
                    self.now = self.now.max(until);
                    Event::TimeReached
                }
            };
        }
        let Some(flight) = self.in_flight.pop_front_if(|flight| flight.back <= until) else {
            assert!(until < Nanos::MAX, "caller waits for a batch in flight or for a time");
            self.now = self.now.max(until);
            return Event::TimeReached;
        };
        self.now = self.now.max(flight.back) + flight.process;
        Event::Completed { batch: flight.batch, start: flight.start, end: self.now }
    }
}

impl Executor for SimExecutor {
    type Error = Infallible;

    fn now(&self) -> Nanos {
        self.now
    }

    fn depth(&self) -> u32 {
        self.costs.depth()
    }

    fn submit(&mut self, batch: &Batch, _: &Scheduler) -> Result<(), Infallible> {
        self.enter(batch);
        Ok(())
    }

    fn wait(&mut self, until: Nanos) -> Result<Event, Infallible> {
        Ok(self.leave(until))
    }
}

#[cfg(test)]
mod tests;
