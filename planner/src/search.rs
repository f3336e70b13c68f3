//! The SLO capacity search: which rate to probe next, and what was found. A pure state machine; knows nothing of trials,
//! files or clocks.
//!
//! **Rates** lie on a lattice that every search of equal granularity shares: powers of `1 + granularity`, rounded to four
//! significant digits. Searches from other starts, for other SLOs or with other seeds thus ask for equal rates,
//! and a probe that one has paid for answers the others from the cache.
//!
//! **Steps.** From the start, strides over the lattice double, up while probes pass or down while they fail, until one of
//! the other kind is seen or the range ends; then the bracket is bisected until its ends are neighbours. With `d` lattice
//! steps from the start to the capacity that is at most `2 log2(d) + 3` probes. A first guess begins with a stride of
//! about x1.5 and from a multiple of it, so that different guesses meet on the same coarse grid; a hint (the highest
//! pass of an earlier repeat) begins with a stride of one, so that an equal repeat costs two probes.
//!
//! **The bracket is what was observed**: its lower end passed, its upper end failed, whatever noise does elsewhere.
//!
//! **Speculation.** [`Search::wanted`] also names rates that only some answers would lead to, for cores that would idle.
//! Answers that come early are kept until the search asks for them, so outcome and order of probes are those of
//! a search that ran one probe at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::step::Rates;

/// Finer lattices would not survive rounding to four digits.
const GRANULARITY_MIN: f64 = 0.002;
/// Coarser ones say nothing.
const GRANULARITY_MAX: f64 = 1.0;
/// How far a first guess is doubted at once.
const FIRST_FACTOR: f64 = 1.5;

/// Rates that no search can be made of.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BadRates {
    /// The granularity is out of bounds.
    #[error("expected granularity between {GRANULARITY_MIN} and {GRANULARITY_MAX}, found {0}")]
    Granularity(f64),
    /// The limits are no range of rates.
    #[error("expected 0 < min <= max, both finite, found min {min} and max {max}")]
    Limits {
        /// As given.
        min: f64,
        /// As given.
        max: f64,
    },
    /// The first guess is no rate.
    #[error("expected a start above 0, found {0}")]
    Start(f64),
    /// There is a range, but it is narrower than the granularity.
    #[error("expected a range that holds a rate of the search's lattice, found none between {min} and {max}")]
    Empty {
        /// As given.
        min: f64,
        /// As given.
        max: f64,
    },
}

/// What a search found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome {
    /// The capacity lies between two neighbours of the lattice.
    Bracketed {
        /// Passed.
        highest_pass: f64,
        /// Failed.
        lowest_fail: f64,
    },
    /// No rate meets the SLO: the lowest of the range failed.
    BelowRange {
        /// Failed.
        lowest_fail: f64,
    },
    /// The limit of the search was reached: the highest of the range passed.
    AboveRange {
        /// Passed.
        highest_pass: f64,
    },
}

/// One answer the search asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Probe {
    /// Requests per second.
    pub rate: f64,
    /// Whether the SLO held.
    pub pass: bool,
}

/// Index of a rate in the lattice.
type Index = usize;

/// A search under way.
#[derive(Debug, Clone)]
pub struct Search {
    /// The lattice within the limits, ascending.
    rates: Vec<f64>,
    state: State,
    /// All answers, asked for already or not.
    known: BTreeMap<Index, bool>,
    /// Those asked for, in order.
    probes: Vec<Probe>,
}

/// All that decides the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    start: Index,
    /// How far the next step goes while the bracket is open on one side.
    stride: usize,
    highest_pass: Option<Index>,
    lowest_fail: Option<Index>,
    /// Index of the highest rate.
    last: Index,
}

/// What a state calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Probe(Index),
    Bracketed(Index, Index),
    BelowRange,
    AboveRange,
}

impl Search {
    /// A search over `rates`, from the highest pass of an earlier repeat if there is one, or else from `rates.start`.
    pub fn new(rates: &Rates, start_hint: Option<f64>) -> Result<Self, BadRates> {
        let lattice = Lattice::new(rates)?;
        let guess = start_hint.unwrap_or(rates.start);
        if !(guess.is_finite() && guess > 0.0) {
            return Err(BadRates::Start(guess));
        }
        let nearest = lattice.floor(guess);
        let stride = if start_hint.is_some() { 1 } else { first_stride(rates.granularity) };
        let start = lattice.aligned(nearest, stride);
        let last = lattice.rates.len() - 1;
        let state = State { start, stride, highest_pass: None, lowest_fail: None, last };
        Ok(Self { rates: lattice.rates, state, known: BTreeMap::new(), probes: Vec::new() })
    }

    /// The rate whose answer is needed now; `None`: the search is over.
    pub fn next(&self) -> Option<f64> {
        match self.state.step() {
            Step::Probe(index) => Some(self.rates[index]),
            Step::Bracketed(..) | Step::BelowRange | Step::AboveRange => None,
        }
    }

    /// Up to `n` rates worth probing at once: the needed one first, then those that would be asked for next under either
    /// answer, nearest first. Rates already observed are left out; those under way elsewhere are not known here.
    pub fn wanted(&self, n: usize) -> Vec<f64> {
        let (mut wanted, mut seen) = (Vec::new(), BTreeSet::new());
        let mut states = VecDeque::from([self.state]);
        while let Some(state) = states.pop_front()
            && wanted.len() < n
        {
            let Step::Probe(index) = state.step() else { continue };
            match self.known.get(&index) {
                Some(&pass) => states.push_back(state.after(index, pass)),
                None => {
                    if seen.insert(index) {
                        wanted.push(self.rates[index]);
                    }
                    states.extend([true, false].map(|pass| state.after(index, pass)));
                }
            }
        }
        wanted
    }

    /// Takes in an answer, whether it is the one needed now or an early one. The first answer for a rate counts.
    ///
    /// # Panics
    /// If no search over these rates can have asked for `rate`.
    pub fn observe(&mut self, rate: f64, pass: bool) {
        let found = self.rates.binary_search_by(|r| r.total_cmp(&rate));
        let index = found.unwrap_or_else(|_| panic!("expected a rate of the search's lattice, found {rate}"));
        self.known.entry(index).or_insert(pass);
        while let Step::Probe(index) = self.state.step()
            && let Some(&pass) = self.known.get(&index)
        {
            self.state = self.state.after(index, pass);
            self.probes.push(Probe { rate: self.rates[index], pass });
        }
    }

    /// What was found; `None` while the search goes on.
    pub fn outcome(&self) -> Option<Outcome> {
        let rate = |index: Index| self.rates[index];
        match self.state.step() {
            Step::Probe(_) => None,
            Step::Bracketed(pass, fail) => {
                Some(Outcome::Bracketed { highest_pass: rate(pass), lowest_fail: rate(fail) })
            }
            Step::BelowRange => Some(Outcome::BelowRange { lowest_fail: rate(0) }),
            Step::AboveRange => Some(Outcome::AboveRange { highest_pass: rate(self.state.last) }),
        }
    }

    /// The answers that led here, in the order asked for; early answers that were never asked for are not among them.
    pub fn probes(&self) -> &[Probe] {
        &self.probes
    }
}

impl State {
    fn step(self) -> Step {
        match (self.highest_pass, self.lowest_fail) {
            (None, None) => Step::Probe(self.start),
            (Some(pass), None) if pass == self.last => Step::AboveRange,
            (Some(pass), None) => Step::Probe((pass + self.stride).min(self.last)),
            (None, Some(0)) => Step::BelowRange,
            (None, Some(fail)) => Step::Probe(fail.saturating_sub(self.stride)),
            (Some(pass), Some(fail)) if fail - pass == 1 => Step::Bracketed(pass, fail),
            (Some(pass), Some(fail)) => Step::Probe(pass + (fail - pass) / 2),
        }
    }

    /// The state once the probe it called for has answered.
    fn after(self, index: Index, pass: bool) -> Self {
        let is_first = self.highest_pass.is_none() && self.lowest_fail.is_none();
        let stride = if is_first { self.stride } else { self.stride.saturating_mul(2) };
        match pass {
            true => Self { highest_pass: Some(index), stride, ..self },
            false => Self { lowest_fail: Some(index), stride, ..self },
        }
    }
}

/// The rates within the limits.
struct Lattice {
    rates: Vec<f64>,
    /// The exponent of the first one.
    first_exponent: i64,
}

impl Lattice {
    fn new(rates: &Rates) -> Result<Self, BadRates> {
        let Rates { granularity, min, max, .. } = *rates;
        if !(GRANULARITY_MIN..=GRANULARITY_MAX).contains(&granularity) {
            return Err(BadRates::Granularity(granularity));
        }
        if !(min > 0.0 && min <= max && max.is_finite()) {
            return Err(BadRates::Limits { min, max });
        }
        let up = powers(|power| power * (1.0 + granularity), |rate| rate <= max).zip(0..);
        let down = powers(|power| power / (1.0 + granularity), |rate| rate >= min).zip((i64::MIN..=0).rev());
        let mut points: Vec<_> = down.skip(1).collect();
        points.reverse();
        points.extend(up);
        points.retain(|(rate, _)| (min..=max).contains(rate));
        let &(_, first_exponent) = points.first().ok_or(BadRates::Empty { min, max })?;
        Ok(Self { rates: points.into_iter().map(|(rate, _)| rate).collect(), first_exponent })
    }

    /// The highest rate not above `rate`, or the lowest.
    fn floor(&self, rate: f64) -> Index {
        self.rates.partition_point(|&r| r <= rate).saturating_sub(1)
    }

    /// The index at or below `index` whose exponent is a multiple of `stride`, or the lowest.
    fn aligned(&self, index: Index, stride: usize) -> Index {
        let exponent = self.first_exponent + index as i64;
        index.saturating_sub(exponent.rem_euclid(stride as i64) as usize)
    }
}

/// 1.0 and what `step` makes of it again and again, each rounded, for as long as `goes_on`. Repeated multiplication
/// and division are exact to the bit on every machine; `pow` need not be.
fn powers(step: impl Fn(f64) -> f64, goes_on: impl Fn(f64) -> bool) -> impl Iterator<Item = f64> {
    std::iter::successors(Some(1.0), move |&power| Some(step(power)))
        .map(rounded)
        .take_while(move |&r| goes_on(r))
}

/// To four significant digits, as written in decimal.
fn rounded(rate: f64) -> f64 {
    format!("{rate:.3e}").parse().expect("a formatted number is a number")
}

/// The largest power of two of lattice steps that stays within [`FIRST_FACTOR`].
fn first_stride(granularity: f64) -> usize {
    let mut steps = 1;
    let mut factor = (1.0 + granularity) * (1.0 + granularity);
    while factor <= FIRST_FACTOR {
        factor *= factor;
        steps *= 2;
    }
    steps
}

#[cfg(test)]
mod tests;
