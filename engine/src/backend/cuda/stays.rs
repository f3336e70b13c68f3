//! When the GPU came to points of its stream, by the host's clock and without anybody's waiting there; and stays of a stage, which begin and
//! end at such points. Knows no call.
//!
//! An event has no time of its own, only one since another event. So both clocks are compared now and then: at an event on a stream that has
//! nothing else to do, which the host waits for in some microseconds.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaContext, CudaEvent, CudaStream};

use super::error::{CudaError, driver};
use super::patience::{PATIENCE, Waited};
use super::timer::Marks;
use crate::clock::monotonic_ns;

const WHAT: &str = "time the GPU";
/// How old a comparison of the clocks may become.
const COMPARED_NS: u64 = 1_000_000_000;
/// How long one may take in a step; else the one before is good for longer.
const COMPARING: Duration = Duration::from_millis(1);
/// Comparisons at the start, of which the best counts.
const ROUNDS: usize = 8;
/// By how much two clocks run apart at most, as a part of the time: one over this.
const DRIFT: u64 = 10_000;

/// Whether the stream has come to an event.
pub(super) fn has_come(event: &CudaEvent, what: &'static str) -> Result<bool, CudaError> {
    event.try_is_complete().map_err(driver(what))
}

/// An event that both clocks know.
#[derive(Debug)]
struct Anchor {
    event: CudaEvent,
    ns: u64,
    /// It was then, give or take half of this.
    doubt_ns: u64,
}

impl Anchor {
    /// `None`: the GPU has not come there in time.
    fn new(aside: &Arc<CudaStream>, patience: Duration) -> Result<Option<Self>, CudaError> {
        let event = timed_event(aside.context())?;
        let asked_ns = monotonic_ns();
        event.record(aside).map_err(driver(WHAT))?;
        loop {
            let is_there = has_come(&event, WHAT)?;
            let doubt_ns = monotonic_ns() - asked_ns;
            if is_there {
                return Ok(Some(Self { event, ns: asked_ns + doubt_ns / 2, doubt_ns }));
            }
            if doubt_ns > patience.as_nanos() as u64 {
                return Ok(None);
            }
            std::hint::spin_loop();
        }
    }

    fn age_ns(&self) -> u64 {
        monotonic_ns().saturating_sub(self.ns)
    }
}

fn timed_event(context: &Arc<CudaContext>) -> Result<CudaEvent, CudaError> {
    context.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(driver(WHAT))
}

/// The GPU's clock beside the host's.
#[derive(Debug)]
pub(super) struct Clock {
    aside: Arc<CudaStream>,
    anchor: RefCell<Rc<Anchor>>,
}

impl Clock {
    pub(super) fn new(context: &Arc<CudaContext>) -> Result<Self, CudaError> {
        let aside = context.new_stream().map_err(driver(WHAT))?;
        let mut best: Option<Anchor> = None;
        for _ in 0..ROUNDS {
            let anchor = Anchor::new(&aside, PATIENCE)?;
            let anchor = anchor.ok_or(CudaError::Stuck { what: WHAT, seconds: PATIENCE.as_secs_f64() })?;
            if best.as_ref().is_none_or(|best| anchor.doubt_ns < best.doubt_ns) {
                best = Some(anchor);
            }
        }
        let anchor = RefCell::new(Rc::new(best.expect("there is more than no round")));
        Ok(Self { aside, anchor })
    }

    /// Compares the clocks again, if that is due and says more than what is known.
    pub(super) fn compare(&self) -> Result<(), CudaError> {
        let age_ns = self.anchor.borrow().age_ns();
        if age_ns > COMPARED_NS
            && let Some(anchor) = Anchor::new(&self.aside, COMPARING)?
            && anchor.doubt_ns < self.anchor.borrow().doubt_ns + age_ns / DRIFT
        {
            *self.anchor.borrow_mut() = Rc::new(anchor);
        }
        Ok(())
    }

    /// A point after all that the stream was asked for so far.
    pub(super) fn moment(&self, stream: &CudaStream) -> Result<Moment, CudaError> {
        let event = timed_event(stream.context())?;
        event.record(stream).map_err(driver(WHAT))?;
        Ok(Moment { event, anchor: Rc::clone(&self.anchor.borrow()) })
    }
}

/// A point of a stream.
#[derive(Debug)]
pub(super) struct Moment {
    event: CudaEvent,
    /// An earlier one.
    anchor: Rc<Anchor>,
}

impl Moment {
    pub(super) fn has_come(&self, what: &'static str) -> Result<bool, CudaError> {
        has_come(&self.event, what)
    }

    /// When it came, by the host's clock; it has.
    fn ns(&self) -> Result<u64, CudaError> {
        let since = self.anchor.event.elapsed_ms(&self.event).map_err(driver(WHAT))?;
        Ok(self.anchor.ns + (f64::from(since) * 1e6) as u64)
    }
}

/// How a stay ends.
#[derive(Debug)]
enum End {
    /// It was not left.
    Open,
    /// At this time: it was waited for.
    At(u64),
    Comes(Moment),
}

/// A stage's stay with a step.
#[derive(Debug)]
pub struct Stay {
    pub(super) start: Rc<Moment>,
    end: End,
    /// Calls that were timed.
    pub(super) marks: Marks,
    /// For its end, since it began.
    waited: Option<Waited>,
}

impl Stay {
    /// From here on.
    pub(super) fn enter(clock: &Clock, stream: &CudaStream) -> Result<Self, CudaError> {
        let start = Rc::new(clock.moment(stream)?);
        Ok(Self { start, end: End::Open, marks: Marks::new(), waited: None })
    }

    /// Until `done_ns`, or until the stream has done what it was asked for so far.
    pub(super) fn leave(
        &mut self,
        clock: &Clock,
        stream: &CudaStream,
        done_ns: Option<u64>,
    ) -> Result<(), CudaError> {
        self.end = match done_ns {
            Some(ns) => End::At(ns),
            None => End::Comes(clock.moment(stream)?),
        };
        Ok(())
    }

    /// Whether it is over; an error if it has lasted too long. What it works on may take as long as it likes to come.
    pub(super) fn is_over(&mut self, what: &'static str, patience: Duration) -> Result<bool, CudaError> {
        let end = match &self.end {
            End::Open => return Ok(false),
            End::At(_) => return Ok(true),
            End::Comes(end) => end,
        };
        if end.has_come(what)? {
            return Ok(true);
        }
        if self.waited.is_none() && self.start.has_come(what)? {
            self.waited = Some(Waited::begin());
        }
        match self.waited.as_mut().is_some_and(|waited| waited.so_far() > patience) {
            true => Err(CudaError::Stuck { what, seconds: patience.as_secs_f64() }),
            false => Ok(false),
        }
    }

    /// When it began and ended; it is over.
    pub(super) fn times(&self) -> Result<[u64; 2], CudaError> {
        let start_ns = self.start.ns()?;
        let end_ns = match &self.end {
            End::Open => start_ns,
            End::At(ns) => *ns,
            End::Comes(end) => end.ns()?,
        };
        // Two clocks that were compared may be wrong by microseconds.
        Ok([start_ns, end_ns.max(start_ns)])
    }
}
