//! The loop that serves a trial: admit, schedule, submit, wait, complete. The same code for every executor.
//! Knows no file, no clock but the executor's, and no reason why a batch is formed.
//!
//! A batch is formed as soon as fewer batches than stages are in flight, as the artifact does, and not only when the first
//! stage is idle: forming it later would let a few more arrivals in, and would not be the experiment.

use std::collections::VecDeque;
use std::io::Write;

use thiserror::Error;

use crate::executor::{Event, Executor};
use crate::record::{RecordError, Recorder};
use crate::sched::batch::Batch;
use crate::sched::{Admission, NewSequence, Scheduler};
use crate::timeline::Timeline;
use crate::units::{Nanos, SeqId};
use crate::workload::Request;

/// Why a trial came to nothing.
#[derive(Debug, Error)]
pub enum TrialError<E> {
    /// The records could not be written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A batch could not be run.
    #[error("{0}")]
    Executor(E),
}

/// How a trial ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// When.
    pub end: Nanos,
    /// The predicate that could no longer hold, if that is why.
    pub stopped: Option<String>,
    /// Requests that got all their tokens.
    pub completed: u32,
    /// Requests that were refused.
    pub ignored: u32,
    /// Batches completed.
    pub batches: u32,
}

/// A trial under way.
pub struct Trial<'a, E, W: Write + Send> {
    requests: &'a [Request],
    scheduler: Scheduler,
    executor: &'a mut E,
    recorder: &'a mut Recorder<W>,
    timeline: Option<&'a mut Timeline>,
    in_flight: VecDeque<Batch>,
    arrived: usize,
    ending: Ending,
}

impl<'a, E: Executor, W: Write + Send> Trial<'a, E, W> {
    /// Serves `requests`, which are in arrival order; every event goes to `recorder`.
    pub fn new(
        requests: &'a [Request],
        scheduler: Scheduler,
        executor: &'a mut E,
        recorder: &'a mut Recorder<W>,
    ) -> Self {
        let ending = Ending { end: Nanos::ZERO, stopped: None, completed: 0, ignored: 0, batches: 0 };
        let in_flight = VecDeque::new();
        Self { requests, scheduler, executor, recorder, timeline: None, in_flight, arrived: 0, ending }
    }

    /// Tells `timeline` of every event too.
    pub fn with_timeline(mut self, timeline: Option<&'a mut Timeline>) -> Self {
        self.timeline = timeline;
        self
    }

    /// Runs until every request is done, the limit is reached, or a watched predicate can no longer hold.
    pub fn run(mut self, time_limit: Nanos) -> Result<Ending, TrialError<E::Error>> {
        while self.executor.now() < time_limit {
            self.admit();
            if let Some(predicate) = self.recorder.hopeless(self.executor.now()) {
                self.ending.stopped = Some(predicate.to_owned());
                break;
            }
            if self.submit().map_err(TrialError::Executor)? {
                continue;
            }
            let Some(until) = self.next_event(time_limit) else { break };
            let event = self.executor.wait(until).map_err(TrialError::Executor)?;
            if let Event::Completed { start, end, .. } = event {
                self.complete(start, end)?;
            }
        }
        self.ending.end = self.executor.now();
        Ok(self.ending)
    }

    /// Tells the scheduler of everyone who has arrived by now.
    fn admit(&mut self) {
        let now = self.executor.now();
        while let Some(request) = self.requests.get(self.arrived).filter(|request| request.arrival <= now) {
            let seq = NewSequence {
                id: SeqId(self.arrived as u32),
                arrival: request.arrival,
                prompt_tokens: request.prompt_tokens,
                output_tokens: request.output_tokens,
            };
            let ignored = self.scheduler.add(seq) == Admission::Ignored;
            self.recorder.arrived(&seq, ignored);
            self.ending.ignored += u32::from(ignored);
            if let Some(timeline) = self.timeline.as_mut().filter(|_| !ignored) {
                timeline.arrived(&seq);
            }
            self.arrived += 1;
        }
    }

    /// Forms and submits a batch, if there is a place in flight and anything to run.
    fn submit(&mut self) -> Result<bool, E::Error> {
        if self.in_flight.len() >= self.executor.depth() as usize {
            return Ok(false);
        }
        let Some(batch) = self.scheduler.schedule() else { return Ok(false) };
        let now = self.executor.now();
        self.recorder.scheduled(&batch, now);
        if let Some(timeline) = &mut self.timeline {
            timeline.scheduled(&batch, now, &self.scheduler);
        }
        self.executor.submit(&batch, &self.scheduler)?;
        self.in_flight.push_back(batch);
        Ok(true)
    }

    /// Until when to wait for a batch: the next arrival, where it could be scheduled at once. `None`: nothing is left to do.
    fn next_event(&self, time_limit: Nanos) -> Option<Nanos> {
        let next_arrival = self.requests.get(self.arrived).map(|request| request.arrival);
        let idle = self.in_flight.is_empty();
        if idle && next_arrival.is_none() && self.scheduler.unfinished() == 0 {
            return None;
        }
        let full = self.in_flight.len() >= self.executor.depth() as usize;
        let until = next_arrival.filter(|_| !full).unwrap_or(time_limit).min(time_limit);
        assert!(!(idle && until == Nanos::MAX), "a scheduler with all blocks free runs its oldest sequence");
        Some(until)
    }

    fn complete(&mut self, start: Nanos, end: Nanos) -> Result<(), RecordError> {
        let batch = self.in_flight.pop_front().expect("executors complete only what was submitted");
        let outcomes = self.scheduler.complete(&batch, self.executor.ended());
        self.ending.batches += 1;
        self.ending.completed += outcomes.iter().filter(|outcome| outcome.finished).count() as u32;
        self.recorder.completed(&batch, outcomes, start, end)?;
        if let Some(timeline) = &mut self.timeline {
            timeline.completed(&batch, outcomes, start, end);
        }
        self.scheduler.recycle(batch);
        Ok(())
    }
}
