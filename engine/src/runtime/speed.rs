//! Whether others slow this rank's core: a fixed amount of arithmetic, timed now and then between steps. On a virtual machine nothing else
//! shows a neighbour that computes on the same physical core, and takes more than a quarter of its speed for a second. Knows nothing of steps.

use std::hint::black_box;

use crate::clock::{monotonic_ns, thread_cpu_ns};

/// Time between checks.
const EVERY_NS: u64 = 20_000_000;
/// Multiplications and additions of a try, for each lane: some microseconds.
const ROUNDS: usize = 1_000;
/// Tries of a check, of which the quickest counts: an interrupt disturbs one of them, a neighbour all.
const TRIES: usize = 3;
/// As many chains as keep all of a core's units busy, for only then does a neighbour take anything away.
const LANES: usize = 32;
/// Checks that are kept until somebody asks; the first ones go first.
const KEPT: usize = 1 << 16;
/// A check that takes this much longer than the median of all was slowed.
const SLOWED: f64 = 1.15;
/// Fewer checks say nothing.
const CHECKS_MIN: usize = 8;

/// Times of checks, in nanoseconds of this thread's processor time: being made to wait is not being slowed.
#[derive(Debug)]
pub(super) struct Speed {
    /// With room for all that are kept, most of which is never touched: checks are made between steps, which allocate nothing.
    checks: Vec<u32>,
    due_ns: u64,
}

impl Default for Speed {
    /// No check so far.
    fn default() -> Self {
        Self { checks: Vec::with_capacity(KEPT), due_ns: 0 }
    }
}

impl Speed {
    /// Checks, if the last time is long enough ago.
    pub(super) fn check_if_due(&mut self) {
        if monotonic_ns() >= self.due_ns {
            self.check();
        }
    }

    /// Checks now.
    pub(super) fn check(&mut self) {
        let quickest = (0..TRIES).map(|_| arithmetic_ns()).min().unwrap_or_default();
        if self.checks.len() == KEPT {
            self.checks.drain(..KEPT / 2);
        }
        self.checks.push(quickest);
        self.due_ns = monotonic_ns() + EVERY_NS;
    }

    /// All since the last time it was asked for.
    pub(super) fn take(&mut self) -> Vec<u32> {
        std::mem::replace(&mut self.checks, Vec::with_capacity(KEPT))
    }
}

/// Does the arithmetic once; what that took.
fn arithmetic_ns() -> u32 {
    let began_ns = thread_cpu_ns();
    let mut lanes = black_box([1.0_f32; LANES]);
    for _ in 0..ROUNDS {
        for lane in &mut lanes {
            *lane = *lane * 0.999 + 0.001;
        }
    }
    black_box(lanes);
    (thread_cpu_ns() - began_ns) as u32
}

/// What a check of this core took in the median, given those of a whole run. None if there are too few.
pub fn check_ns(checks: &[u32]) -> Option<f64> {
    let mut sorted = checks.to_vec();
    sorted.sort_unstable();
    (sorted.len() >= CHECKS_MIN).then(|| f64::from(sorted[sorted.len() / 2]))
}

/// The longest time of a check that was not slowed. None if there are too few.
pub fn check_ns_max(checks: &[u32]) -> Option<f64> {
    check_ns(checks).map(|median| median * SLOWED)
}

/// The share of a core's checks that others slowed.
pub fn slowed(checks: &[u32]) -> f64 {
    let Some(max) = check_ns_max(checks) else { return 0.0 };
    checks.iter().filter(|ns| f64::from(**ns) > max).count() as f64 / checks.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_that_took_longer_than_most_were_slowed() {
        let checks = |slow: usize| [vec![10_000; 100 - slow], vec![13_500; slow]].concat();
        assert_eq!((slowed(&checks(0)), slowed(&checks(7)), slowed(&checks(40))), (0.0, 0.07, 0.4));
        assert_eq!(slowed(&[10_000, 10_900, 11_400, 10_100, 9_000, 9_900, 10_000, 11_000]), 0.0);
    }

    #[test]
    fn a_few_checks_say_nothing() {
        assert_eq!((slowed(&[]), slowed(&[10, 10, 90])), (0.0, 0.0));
    }

    #[test]
    fn a_check_is_made_when_it_is_due_and_told_once() {
        let mut speed = Speed::default();
        speed.check_if_due();
        speed.check_if_due();
        let checks = speed.take();
        assert_eq!(checks.len(), 1, "the second one was not due");
        assert!(checks[0] > 100, "{checks:?}");
        assert_eq!(speed.take(), [0; 0]);
        speed.check();
        assert_eq!(speed.take().len(), 1);
    }

    #[test]
    fn no_more_are_kept_than_there_is_room_for() {
        let mut speed = Speed { checks: vec![7; KEPT], due_ns: 0 };
        speed.check();
        let checks = speed.take();
        assert_eq!(checks.len(), KEPT / 2 + 1);
        assert_ne!(checks[KEPT / 2], 7, "the newest is kept");
    }
}
