//! The one seam between real and simulated execution. Whoever executes owns time.

use std::error::Error;

use crate::sched::Scheduler;
use crate::sched::batch::Batch;
use crate::units::{BatchId, Nanos, SeqId};

/// Runs batches through the stages and tells the time.
pub trait Executor {
    /// What can go wrong: nothing in a simulation, a dead worker in reality.
    type Error: Error + Send + Sync + 'static;

    /// Time since the start of the trial.
    fn now(&self) -> Nanos;

    /// How many batches may be in flight: the number of pipeline stages.
    fn depth(&self) -> u32;

    /// Hands a batch to the first stage; returns at once (the executor's own scheduling overhead, if it models
    /// or spends any, has passed on its clock). The caller keeps batches in flight <= depth.
    /// `scheduler` tells where the batch's sequences have their blocks.
    fn submit(&mut self, batch: &Batch, scheduler: &Scheduler) -> Result<(), Self::Error>;

    /// Waits until a batch is complete or the clock reaches `until`, whichever is first.
    /// Completed batches come in the order submitted. `until` may be `Nanos::MAX` while a batch is in flight.
    fn wait(&mut self, until: Nanos) -> Result<Event, Self::Error>;

    /// Sequences of the batch completed last that produced their end-of-sequence token in it.
    fn ended(&self) -> &[SeqId] {
        &[]
    }
}

impl<E: Executor> Executor for &mut E {
    type Error = E::Error;

    fn now(&self) -> Nanos {
        (**self).now()
    }

    fn depth(&self) -> u32 {
        (**self).depth()
    }

    fn submit(&mut self, batch: &Batch, scheduler: &Scheduler) -> Result<(), E::Error> {
        (**self).submit(batch, scheduler)
    }

    fn wait(&mut self, until: Nanos) -> Result<Event, E::Error> {
        (**self).wait(until)
    }

    fn ended(&self) -> &[SeqId] {
        (**self).ended()
    }
}

/// What `wait` saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A batch left the last stage and its outputs are known: its place in flight is free.
    Completed {
        /// Which.
        batch: BatchId,
        /// When its first stage began.
        start: Nanos,
        /// When its outputs were known; `now()` is not before it.
        end: Nanos,
    },
    /// The clock reached `until`, or something else wants the caller's attention.
    TimeReached,
}

/// What one kind of call took in a batch's stay in a stage.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Operation {
    /// The kernel, product or collective.
    pub name: String,
    /// How often it was called.
    pub calls: u32,
    /// All calls together.
    pub time: Nanos,
}

/// A batch's operations in a stage, on the stage's first rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageOperations {
    /// Which batch.
    pub batch: BatchId,
    /// Where.
    pub stage: u32,
    /// By kind.
    pub operations: Vec<Operation>,
}

/// One batch in one stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageStay {
    /// Which.
    pub batch: BatchId,
    /// Where, from 0.
    pub stage: u32,
    /// When it entered.
    pub start: Nanos,
    /// When it left.
    pub end: Nanos,
}
