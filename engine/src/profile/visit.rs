//! One visit to a batch: it is run some times, and what that took is kept. Knows no other visit.

use super::BLOCK_SIZE;
use super::BLOCKS;
use super::design::Point;
use super::median::median;
use super::quiet::{Machine, others};
use crate::runtime::{Loss, ProbePlan, Probed, RuntimeExecutor, check_ns_max, probe_blocks};
use crate::units::Nanos;

/// Short batches are repeated until they have taken this long.
const VISIT_US: f64 = 100_000.0;
/// But not more often than this.
const VISIT_MAX: f64 = 50.0;
/// Times count while others use no more than this share of the machine; those of busier moments only where there are no such.
const OTHERS_MAX: f64 = 0.05;

/// Times of a batch's runs, one after the other.
pub(super) struct Visit {
    /// Which batch.
    pub(super) point: usize,
    /// Seconds from the first visit's beginning to this one's end.
    pub(super) at_s: f64,
    pub(super) times: Times,
    /// By rank, what checks of its core took meanwhile, nanoseconds.
    checks: Vec<Vec<u32>>,
    /// Others used much of the machine meanwhile, or slowed a rank's core.
    pub(super) is_disturbed: bool,
}

/// Times in microseconds.
#[derive(Default)]
pub(super) struct Times {
    /// By stage, one for each run.
    pub(super) stages: Vec<Vec<f64>>,
    /// From each stage to the next.
    pub(super) sends: Vec<Vec<f64>>,
    /// Driver to first stage and last stage to driver.
    pub(super) trips: Vec<f64>,
}

impl Visit {
    /// Runs a batch that is known to take `known_us`, or 0 if it is new. The next visit finds its blocks after this one's.
    pub(super) fn make(
        executor: &mut RuntimeExecutor,
        machine: &Machine,
        plan: &mut ProbePlan,
        batch: &Point,
        known_us: f64,
    ) -> Result<Self, Loss> {
        let times = if known_us > 0.0 { (VISIT_US / known_us).clamp(1.0, VISIT_MAX) as u32 } else { 1 };
        // While the pipeline fills and empties, not all stages are busy.
        let margin = plan.depth - 1;
        plan.times = times + 2 * margin;
        let before = machine.now();
        let probed = executor.probe(batch, plan)?;
        plan.first_block = (plan.first_block + plan.times * probe_blocks(batch, BLOCK_SIZE)) % BLOCKS;
        let share = before.zip(machine.now()).map_or(0.0, |(before, after)| others(before, after));
        let checks = executor.core_checks()?;
        let mut kept = Times::default();
        probed[margin as usize..(margin + times) as usize].iter().for_each(|run| kept.note(run));
        Ok(Self { point: 0, at_s: 0.0, times: kept, checks, is_disturbed: share > OTHERS_MAX })
    }
}

/// Marks visits in which a check of a rank's core took longer than most of all visits.
pub(super) fn mark_slowed(visits: &mut [Visit]) {
    for (rank, all) in checks_of(visits).iter().enumerate() {
        let Some(most) = check_ns_max(all) else { continue };
        for visit in &mut *visits {
            visit.is_disturbed |= visit.checks[rank].iter().any(|ns| f64::from(*ns) > most);
        }
    }
}

/// By rank, the checks of all visits.
pub(super) fn checks_of(visits: &[Visit]) -> Vec<Vec<u32>> {
    let ranks = visits.first().map_or(0, |visit| visit.checks.len());
    let of = |rank: usize| visits.iter().flat_map(|visit| &visit.checks[rank]).copied().collect();
    (0..ranks).map(of).collect()
}

impl Times {
    pub(super) fn longest_us(&self) -> f64 {
        self.stages.iter().map(|times| median(times)).fold(0.0, f64::max)
    }

    fn note(&mut self, run: &Probed) {
        let us = |from: Nanos, to: Nanos| to.saturating_sub(from).0 as f64 / 1e3;
        self.stages.resize(run.stages.len(), Vec::new());
        self.sends.resize(run.stages.len() - 1, Vec::new());
        for (times, (start, end)) in self.stages.iter_mut().zip(&run.stages) {
            times.push(us(*start, *end).max(0.001));
        }
        for (times, pair) in self.sends.iter_mut().zip(run.stages.windows(2)) {
            times.push(us(pair[0].1, pair[1].0));
        }
        self.trips.push((run.out + run.back).0 as f64 / 1e3);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_visit_is_disturbed_if_one_core_was_slower_than_usual() {
        let visit = |first: u32, second: u32| Visit {
            point: 0,
            at_s: 0.0,
            times: Times::default(),
            checks: vec![vec![10_000, first], vec![20_000, second]],
            is_disturbed: false,
        };
        let mut visits: Vec<Visit> = (0..8).map(|_| visit(10_100, 20_100)).collect();
        visits.extend([visit(14_000, 20_000), visit(10_000, 28_000)]);
        mark_slowed(&mut visits);
        let marks: Vec<bool> = visits.iter().map(|visit| visit.is_disturbed).collect();
        assert_eq!(marks, [[false; 8].as_slice(), &[true; 2]].concat());
    }
}
