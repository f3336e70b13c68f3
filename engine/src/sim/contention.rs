//! Stages that slow each other down because they share a machine: each runs at a rate that depends on how many are busy.
//! Knows no cost model and no scheduler.
//!
//! How long a batch stays in a stage depends on what comes after it, so stays are found as time passes and not when a batch is
//! submitted. Batches keep their order; with at most `stages` of them under way an event costs O(stages).

use std::collections::VecDeque;

use crate::executor::StageStay;
use crate::units::{BatchId, Nanos};

/// A batch, ready for its first stage.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) batch: BatchId,
    /// When it reaches the first stage.
    pub(super) arrives: Nanos,
    /// Its time in each stage with all others idle, and the factor of that with all busy.
    pub(super) work: Vec<(Nanos, f64)>,
    /// From each stage to the next.
    pub(super) sends: Vec<Nanos>,
    /// From the last stage to the driver.
    pub(super) back: Nanos,
    /// What the driver then does.
    pub(super) process: Nanos,
}

/// A batch that the driver has back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) batch: BatchId,
    /// When its first stage began.
    pub(super) start: Nanos,
    pub(super) back: Nanos,
    pub(super) process: Nanos,
}

/// Where a batch is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    /// On its way to its stage, or waiting before it.
    Before { since: u64 },
    /// In it, with this much of its lone time to go.
    In { since: u64, left_ns: f64 },
    /// Through all stages; the driver has it then.
    Back { at: u64 },
}

#[derive(Debug)]
struct Flight {
    job: Job,
    stage: usize,
    place: Place,
    start: u64,
}

/// All batches under way, as of some time.
#[derive(Debug)]
pub(super) struct Contention {
    stages: usize,
    now: u64,
    flights: VecDeque<Flight>,
}

impl Contention {
    pub(super) fn new(stages: usize) -> Self {
        Self { stages, now: 0, flights: VecDeque::with_capacity(stages) }
    }

    /// Batches under way.
    pub(super) fn len(&self) -> usize {
        self.flights.len()
    }

    /// One more batch, behind all others.
    pub(super) fn enter(&mut self, job: Job) {
        let place = Place::Before { since: job.arrives.0 };
        self.flights.push_back(Flight { job, stage: 0, place, start: 0 });
    }

    /// Lets time pass until the oldest batch is back, but not beyond `until`. Stays that end go to `stays`.
    pub(super) fn leave(&mut self, until: Nanos, mut stays: impl FnMut(StageStay)) -> Option<Left> {
        loop {
            self.admit();
            let front = self.flights.front()?;
            if let Place::Back { at } = front.place
                && at <= self.now
            {
                let Flight { job: Job { batch, process, .. }, start, .. } = self.flights.pop_front()?;
                return Some(Left { batch, start: Nanos(start), back: Nanos(at), process });
            }
            let next = self.next_event();
            if next > until.0 {
                self.pass(until.0.max(self.now));
                return None;
            }
            self.pass(next);
            self.finish(&mut stays);
        }
    }

    /// Batches that wait before a stage which their predecessor has left go in.
    fn admit(&mut self) {
        let mut before = self.stages + 1;
        for flight in &mut self.flights {
            if let Place::Before { since } = flight.place
                && since <= self.now
                && before > flight.stage
            {
                let (alone, _) = flight.job.work[flight.stage];
                flight.place = Place::In { since: self.now, left_ns: alone.0 as f64 };
                if flight.stage == 0 {
                    flight.start = self.now;
                }
            }
            before = if matches!(flight.place, Place::Back { .. }) { self.stages + 1 } else { flight.stage };
        }
    }

    /// How much slower a batch's work is now than alone: in between, it grows evenly with the number of busy stages.
    fn factor(&self, flight: &Flight) -> f64 {
        let busy = self.flights.iter().filter(|flight| matches!(flight.place, Place::In { .. })).count();
        let (_, all_busy) = flight.job.work[flight.stage];
        let others = (self.stages - 1).max(1) as f64;
        1.0 + (all_busy - 1.0) * (busy.saturating_sub(1)) as f64 / others
    }

    /// When something happens next if nothing new comes; never the past.
    fn next_event(&self) -> u64 {
        let event = |(index, flight): (usize, &Flight)| match flight.place {
            Place::In { left_ns, .. } => self.now + (left_ns * self.factor(flight)).ceil() as u64,
            Place::Before { since } if since > self.now => since,
            Place::Back { at } if index == 0 => at,
            // It waits for its predecessor, and moves when that one does.
            Place::Before { .. } | Place::Back { .. } => u64::MAX,
        };
        self.flights.iter().enumerate().map(event).min().unwrap_or(u64::MAX)
    }

    /// Work goes on until `until`, which is no later than the next event.
    fn pass(&mut self, until: u64) {
        let passed = (until - self.now) as f64;
        for index in 0..self.flights.len() {
            let done = passed / self.factor(&self.flights[index]);
            if let Place::In { left_ns, .. } = &mut self.flights[index].place {
                *left_ns -= done;
            }
        }
        self.now = until;
    }

    /// Batches whose work in their stage is done move on.
    fn finish(&mut self, stays: &mut impl FnMut(StageStay)) {
        for flight in &mut self.flights {
            let Place::In { since, left_ns } = flight.place else { continue };
            // Times are whole nanoseconds.
            if left_ns >= 0.5 {
                continue;
            }
            let (batch, stage) = (flight.job.batch, flight.stage as u32);
            stays(StageStay { batch, stage, start: Nanos(since), end: Nanos(self.now) });
            flight.place = match flight.job.sends.get(flight.stage) {
                Some(send) => {
                    flight.stage += 1;
                    Place::Before { since: self.now + send.0 }
                }
                None => Place::Back { at: self.now + flight.job.back.0 },
            };
        }
    }
}

#[cfg(test)]
mod tests;
