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
use crate::sched::{Admission, NewSequence, Outcome, Scheduler};
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

/// A scheduler and an executor, and the batches between them: the loop's two moves, for whoever serves requests.
pub struct Engine<E> {
    scheduler: Scheduler,
    executor: E,
    in_flight: VecDeque<Batch>,
}

/// A batch that has left the last stage.
pub struct Completed<'a> {
    /// What ran.
    pub batch: &'a Batch,
    /// One a chunk, in the batch's order.
    pub outcomes: &'a [Outcome],
    /// When its first stage began.
    pub start: Nanos,
    /// When its outputs were known.
    pub end: Nanos,
}

impl<E: Executor> Engine<E> {
    /// Nothing in flight.
    pub fn new(scheduler: Scheduler, executor: E) -> Self {
        Self { scheduler, executor, in_flight: VecDeque::new() }
    }

    /// What waits and runs.
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// A request has arrived.
    pub fn add(&mut self, seq: NewSequence) -> Admission {
        self.scheduler.add(seq)
    }

    /// Nobody wants a request's output any more; see [`Scheduler::abort`].
    pub fn abort(&mut self, seq: SeqId) -> bool {
        self.scheduler.abort(seq)
    }

    /// Who runs the batches.
    pub fn executor(&self) -> &E {
        &self.executor
    }

    /// Who runs the batches.
    pub fn executor_mut(&mut self) -> &mut E {
        &mut self.executor
    }

    /// Hands the executor back.
    pub fn into_executor(self) -> E {
        self.executor
    }

    /// Whether no batch is under way.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Whether as many batches are under way as there are stages.
    pub fn is_full(&self) -> bool {
        self.in_flight.len() >= self.executor.depth() as usize
    }

    /// Forms and submits a batch, if there is a place in flight and anything to run; with the time at which it was formed and
    /// the scheduler as it stands then.
    pub fn submit(&mut self) -> Result<Option<(&Batch, Nanos, &Scheduler)>, E::Error> {
        if self.is_full() {
            return Ok(None);
        }
        let Some(batch) = self.scheduler.schedule() else { return Ok(None) };
        let now = self.executor.now();
        self.executor.submit(&batch, &self.scheduler)?;
        self.in_flight.push_back(batch);
        Ok(self.in_flight.back().map(|batch| (batch, now, &self.scheduler)))
    }

    /// Waits for the oldest batch, but not beyond `until`, and shows it to `seen` when it is complete.
    pub fn wait<T>(
        &mut self,
        until: Nanos,
        seen: impl FnOnce(&E, Completed<'_>) -> T,
    ) -> Result<Option<T>, E::Error> {
        let Event::Completed { start, end, .. } = self.executor.wait(until)? else { return Ok(None) };
        let batch = self.in_flight.pop_front().expect("executors complete only what was submitted");
        let outcomes = self.scheduler.complete(&batch, self.executor.ended());
        let result = seen(&self.executor, Completed { batch: &batch, outcomes, start, end });
        self.scheduler.recycle(batch);
        Ok(Some(result))
    }
}

/// A trial under way.
pub struct Trial<'a, E, W: Write + Send> {
    requests: &'a [Request],
    engine: Engine<E>,
    recorder: &'a mut Recorder<W>,
    timeline: Option<&'a mut Timeline>,
    arrived: usize,
    ending: Ending,
}

impl<'a, E: Executor, W: Write + Send> Trial<'a, E, W> {
    /// Serves `requests`, which are in arrival order; every event goes to `recorder`.
    pub fn new(
        requests: &'a [Request],
        scheduler: Scheduler,
        executor: E,
        recorder: &'a mut Recorder<W>,
    ) -> Self {
        let ending = Ending { end: Nanos::ZERO, stopped: None, completed: 0, ignored: 0, batches: 0 };
        let engine = Engine::new(scheduler, executor);
        Self { requests, engine, recorder, timeline: None, arrived: 0, ending }
    }

    /// Tells `timeline` of every event too.
    pub fn with_timeline(mut self, timeline: Option<&'a mut Timeline>) -> Self {
        self.timeline = timeline;
        self
    }

    /// Runs until every request is done, the limit is reached, or a watched predicate can no longer hold.
    pub fn run(mut self, time_limit: Nanos) -> Result<Ending, TrialError<E::Error>> {
        while self.now() < time_limit {
            self.admit();
            if let Some(predicate) = self.recorder.hopeless(self.now()) {
                self.ending.stopped = Some(predicate.to_owned());
                break;
            }
            if self.submit().map_err(TrialError::Executor)? {
                continue;
            }
            let Some(until) = self.next_event(time_limit) else { break };
            self.wait(until)?;
        }
        self.ending.end = self.now();
        Ok(self.ending)
    }

    fn now(&self) -> Nanos {
        self.engine.executor().now()
    }

    /// Tells the scheduler of everyone who has arrived by now.
    fn admit(&mut self) {
        let now = self.now();
        while let Some(request) = self.requests.get(self.arrived).filter(|request| request.arrival <= now) {
            let seq = NewSequence {
                id: SeqId(self.arrived as u32),
                arrival: request.arrival,
                prompt_tokens: request.prompt_tokens,
                output_tokens: request.output_tokens,
            };
            let ignored = self.engine.add(seq) == Admission::Ignored;
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
        let Some((batch, now, scheduler)) = self.engine.submit()? else { return Ok(false) };
        self.recorder.scheduled(batch, now);
        if let Some(timeline) = &mut self.timeline {
            timeline.scheduled(batch, now, scheduler);
        }
        Ok(true)
    }

    /// Until when to wait for a batch: the next arrival, where it could be scheduled at once. `None`: nothing is left to do.
    fn next_event(&self, time_limit: Nanos) -> Option<Nanos> {
        let next_arrival = self.requests.get(self.arrived).map(|request| request.arrival);
        let idle = self.engine.is_idle();
        if idle && next_arrival.is_none() && self.engine.scheduler().unfinished() == 0 {
            return None;
        }
        let full = self.engine.is_full();
        let until = next_arrival.filter(|_| !full).unwrap_or(time_limit).min(time_limit);
        assert!(!(idle && until == Nanos::MAX), "a scheduler with all blocks free runs its oldest sequence");
        Some(until)
    }

    fn wait(&mut self, until: Nanos) -> Result<(), TrialError<E::Error>> {
        let Self { engine, recorder, timeline, ending, .. } = self;
        let seen = |_: &E, Completed { batch, outcomes, start, end }: Completed<'_>| {
            ending.batches += 1;
            ending.completed += outcomes.iter().filter(|outcome| outcome.finished).count() as u32;
            if let Some(timeline) = timeline {
                timeline.completed(batch, outcomes, start, end);
            }
            recorder.completed(batch, outcomes, start, end)
        };
        let recorded = engine.wait(until, seen).map_err(TrialError::Executor)?;
        recorded.transpose()?;
        Ok(())
    }
}
