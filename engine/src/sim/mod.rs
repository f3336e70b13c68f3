//! The simulated executor: a virtual clock and stages as servers, timed by the cost model.
//! Knows nothing of sequences' lives, of what real kernels compute, or of files.
//!
//! Batches pass every stage in the order submitted, so when each leaves each stage is known at submission:
//! it enters stage s when it has left stage s-1 and been sent, and stage s has let the batch before it go.
//! That recursion is the whole event queue; no heap is needed, and an event costs O(stages).

pub mod cluster;
pub mod coefficient;
pub mod cost;
mod kernels;
pub mod platform;

use std::collections::VecDeque;
use std::convert::Infallible;

use crate::executor::{Event, Executor, StageStay};
use crate::sched::Scheduler;
use crate::sched::batch::Batch;
use crate::units::{BatchId, Nanos};

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
        Self {
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

    /// What `keep_stays` kept, in order of submission.
    pub fn into_stays(self) -> Vec<StageStay> {
        self.stays.unwrap_or_default()
    }

    /// A batch enters the first stage as soon as it can: its way through all stages is known from here on.
    fn enter(&mut self, batch: &Batch) {
        assert!(self.in_flight.len() < self.stage_free.len(), "caller keeps batches in flight <= depth");
        let cost = self.costs.cost(batch, &mut self.scratch);
        self.now += cost.schedule;
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
