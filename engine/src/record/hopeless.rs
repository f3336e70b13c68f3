//! When a trial can stop early: as soon as a predicate can no longer hold, whatever comes after.
//!
//! A quantile q of N samples is read at position (N - 1) q of the sorted samples, linear in between. It is above the
//! limit for certain once so many samples are above the limit that the sample just below that position is one of them:
//! V >= N - floor((N - 1) q). The right side never falls as N grows, so an upper bound on N is sound.

use std::str::FromStr;

use crate::sched::NewSequence;
use crate::units::{Nanos, SeqId};

/// What a predicate is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Gaps between consecutive output tokens.
    Tbt,
    /// Arrival to first token.
    Ttft,
    /// Arrival to first time scheduled.
    SchedulingDelay,
}

/// `QUANTILE(METRIC) <= SECONDS`.
#[derive(Debug, Clone, PartialEq)]
pub struct Predicate {
    text: String,
    metric: Metric,
    quantile: Quantile,
    limit: Nanos,
}

/// A share as written: `digits / scale`, and as the nearest f64.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Quantile {
    digits: u64,
    scale: u64,
}

/// Why a predicate cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("predicate '{text}': expected {expected}")]
pub struct PredicateError {
    text: String,
    expected: &'static str,
}

impl FromStr for Predicate {
    type Err = PredicateError;

    fn from_str(text: &str) -> Result<Self, PredicateError> {
        let error = |expected| PredicateError { text: text.to_owned(), expected };
        let shape = || error("QUANTILE(METRIC) <= SECONDS, such as 'p99(tbt) <= 1.0'");
        let (left, right) = text.split_once("<=").ok_or_else(shape)?;
        let (quantile, metric) =
            left.trim().strip_suffix(')').and_then(|left| left.split_once('(')).ok_or_else(shape)?;
        let metric = match metric.trim() {
            "tbt" => Metric::Tbt,
            "ttft" => Metric::Ttft,
            "scheduling_delay" => Metric::SchedulingDelay,
            _ => return Err(error("one of the metrics tbt, ttft, scheduling_delay")),
        };
        let quantile = Quantile::parse(quantile.trim())
            .ok_or_else(|| error("a quantile from p0 to p100, such as p50 or p99.9"))?;
        let limit = right.trim().parse().ok().filter(|secs: &f64| (0.0..9e9).contains(secs));
        let limit = limit.ok_or_else(|| error("a limit in seconds of at least 0"))?;
        Ok(Self { text: text.trim().to_owned(), metric, quantile, limit: Nanos::from_secs_f64(limit) })
    }
}

impl Quantile {
    fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('p')?;
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || fraction.len() > 6 || !all_digits(whole) || !all_digits(fraction) {
            return None;
        }
        let scale = 100 * 10_u64.pow(fraction.len() as u32);
        let digits = format!("{whole}{fraction}").parse().ok()?;
        (digits <= scale).then_some(Self { digits, scale })
    }

    /// Samples above the limit that make the quantile of `samples` exceed it. The position is taken exactly and in f64,
    /// and the lower of the two counts, so that a reader's rounding cannot make the answer wrong.
    fn violations_needed(self, samples: u64) -> u64 {
        let Some(last) = samples.checked_sub(1) else { return u64::MAX };
        let exact = (u128::from(last) * u128::from(self.digits) / u128::from(self.scale)) as u64;
        let rounded = (last as f64 * (self.digits as f64 / self.scale as f64)) as u64;
        samples - exact.min(rounded).min(last)
    }
}

/// Counts samples above the limits of some predicates.
#[derive(Debug, Default)]
pub struct Watch {
    gaps: Vec<Counter>,
    delays: Vec<Delays>,
}

#[derive(Debug)]
struct Counter {
    predicate: Predicate,
    /// Upper bound on the samples there will be.
    samples: u64,
    violations: u64,
}

/// Delays from arrival to an event that each request has at most once; one that has not come by the limit is already a
/// violation.
#[derive(Debug)]
struct Delays {
    counter: Counter,
    /// Arrival of each request, in order; `NO_SAMPLE` for an ignored one.
    arrivals: Vec<u64>,
    met: Vec<bool>,
    /// Requests whose limit has passed.
    passed: usize,
}

const NO_SAMPLE: u64 = u64::MAX;

impl Watch {
    /// Watches `predicates` over a trial of requests that produce `output_tokens` each.
    pub fn new(predicates: Vec<Predicate>, output_tokens: impl Iterator<Item = u32>) -> Self {
        let (mut requests, mut gaps) = (0, 0);
        for tokens in output_tokens {
            requests += 1;
            gaps += u64::from(tokens.saturating_sub(1));
        }
        let mut watch = Self::default();
        for predicate in predicates {
            if predicate.metric == Metric::Tbt {
                watch.gaps.push(Counter { predicate, samples: gaps, violations: 0 });
            } else {
                let counter = Counter { predicate, samples: requests, violations: 0 };
                watch.delays.push(Delays { counter, arrivals: Vec::new(), met: Vec::new(), passed: 0 });
            }
        }
        watch
    }

    /// A request arrived; an ignored one will give no sample.
    pub(super) fn arrived(&mut self, seq: &NewSequence, ignored: bool) {
        for delays in &mut self.delays {
            delays.arrivals.push(if ignored { NO_SAMPLE } else { seq.arrival.0 });
            delays.met.push(ignored);
            delays.counter.samples -= u64::from(ignored);
        }
        if ignored {
            for counter in &mut self.gaps {
                counter.samples -= u64::from(seq.output_tokens.saturating_sub(1));
            }
        }
    }

    /// Whether gaps need to be told.
    pub(super) fn watches_gaps(&self) -> bool {
        !self.gaps.is_empty()
    }

    /// A gap between two output tokens.
    pub(super) fn gap(&mut self, gap: Nanos) {
        for counter in &mut self.gaps {
            counter.violations += u64::from(gap > counter.predicate.limit);
        }
    }

    /// A request was scheduled for the first time, `delay` after its arrival.
    pub(super) fn scheduled(&mut self, seq: SeqId, delay: Nanos) {
        self.event(Metric::SchedulingDelay, seq, delay);
    }

    /// A request's first token left, `delay` after its arrival.
    pub(super) fn first_token(&mut self, seq: SeqId, delay: Nanos) {
        self.event(Metric::Ttft, seq, delay);
    }

    fn event(&mut self, metric: Metric, seq: SeqId, delay: Nanos) {
        for delays in self.delays.iter_mut().filter(|delays| delays.counter.predicate.metric == metric) {
            delays.met[seq.0 as usize] = delay <= delays.counter.predicate.limit;
        }
    }

    /// The text of a predicate that can no longer hold, if there is one at `now`.
    pub(super) fn hopeless(&mut self, now: Nanos) -> Option<&str> {
        for delays in &mut self.delays {
            delays.pass(now);
        }
        let delays = self.delays.iter().map(|delays| &delays.counter);
        delays.chain(&self.gaps).find(|counter| counter.is_hopeless()).map(|c| c.predicate.text.as_str())
    }
}

impl Delays {
    /// Counts the requests whose limit has passed by `now` without the event.
    fn pass(&mut self, now: Nanos) {
        let limit = self.counter.predicate.limit.0;
        while let Some(&arrival) = self.arrivals.get(self.passed)
            && (arrival == NO_SAMPLE || arrival + limit < now.0)
        {
            self.counter.violations += u64::from(!self.met[self.passed]);
            self.passed += 1;
        }
    }
}

impl Counter {
    fn is_hopeless(&self) -> bool {
        self.violations > 0 && self.violations >= self.predicate.quantile.violations_needed(self.samples)
    }
}
