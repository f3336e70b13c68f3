//! Times of made-up batches, round after round, and the tables that they make.

use super::design::{Point, tokens};
use super::fit::{Observation, digits, rising, stage};
use super::median::median;
use super::quiet::{Machine, others};
use super::spread::spread;
use super::{BLOCK_SIZE, BLOCKS};
use crate::clock::monotonic_ns;
use crate::runtime::{Loss, ProbePlan, Probed, RuntimeExecutor, probe_blocks};
use crate::sched::batch::{Batch, Chunk};
use crate::sim::curve::Curve;
use crate::sim::measured::{Fit, StageTable};
use crate::sim::spread::Spread;
use crate::units::{BatchId, Nanos, SeqId};

/// Short batches are repeated within a round until they have taken this long.
const VISIT_US: f64 = 100_000.0;
/// But not more often than this.
const VISIT_MAX: f64 = 50.0;
/// Times count while others use no more than this share of the machine; those of busier moments only where there are no such.
const OTHERS_MAX: f64 = 0.05;
/// Progress is told this often, in seconds.
const TELL_S: f64 = 5.0;

/// What was seen of each batch.
pub(super) struct Samples {
    seen: Vec<Seen>,
    rounds: u32,
    /// Visits, and those of them in which others used much of the machine.
    visits: u32,
    disturbed: u32,
}

/// Times in microseconds.
struct Seen {
    point: Point,
    times: Times,
    /// Of moments when others used much of the machine.
    disturbed: Times,
}

#[derive(Default)]
struct Times {
    /// By stage, one for each run.
    stages: Vec<Vec<f64>>,
    /// From each stage to the next.
    sends: Vec<Vec<f64>>,
    /// Driver to first stage and last stage to driver.
    trips: Vec<f64>,
}

impl Samples {
    /// Runs `points` in rounds of alternating order, with `depth` batches under way, for `seconds` and at least one round.
    pub(super) fn gather(
        executor: &mut RuntimeExecutor,
        points: Vec<Point>,
        vocabulary: u32,
        depth: u32,
        seconds: f64,
        progress: &mut dyn FnMut(u32),
    ) -> Result<Self, Loss> {
        let mut seen: Vec<Seen> = points.into_iter().map(Seen::new).collect();
        let machine = Machine::new(executor.processes());
        let mut plan = ProbePlan { first_block: 0, vocabulary, times: 1, depth };
        let mut disturbed = 0;
        let began = monotonic_ns();
        let elapsed = || (monotonic_ns() - began) as f64 / 1e9;
        let (mut rounds, mut told) = (0, -TELL_S);
        // Another round if more of it lies within the time than beyond.
        while rounds == 0 || elapsed() * (1.0 + 0.5 / f64::from(rounds)) < seconds {
            if elapsed() >= told + TELL_S {
                told = elapsed();
                progress(rounds + 1);
            }
            let count = seen.len();
            for step in 0..count {
                // There and back: a machine that grows slower all the while is then no slower for some points than for others.
                let index = if rounds % 2 == 0 { step } else { count - 1 - step };
                disturbed += u32::from(seen[index].visit(executor, &machine, &mut plan)?);
            }
            rounds += 1;
        }
        let visits = rounds * seen.len() as u32;
        seen.iter_mut().for_each(Seen::settle);
        Ok(Self { seen, rounds, visits, disturbed })
    }

    /// Tables of all stages.
    pub(super) fn stages(&self) -> Vec<StageTable> {
        let count = self.seen.first().map_or(0, |seen| seen.times.stages.len());
        let table = |number: usize| {
            let observations: Vec<_> = (self.seen.iter())
                .map(|seen| Observation { point: &seen.point, us: seen.stage_us(number) })
                .collect();
            stage(&observations, number + 1 == count)
        };
        (0..count).map(table).collect()
    }

    /// How well `stages` give the medians back.
    pub(super) fn fit(&self, stages: &[StageTable]) -> Fit {
        let mut errors = Vec::new();
        for seen in &self.seen {
            let batch = batch(&seen.point);
            for (number, table) in stages.iter().enumerate() {
                errors.push((table.seconds(&batch) * 1e6 / seen.stage_us(number) - 1.0).abs());
            }
        }
        let error_max = digits(errors.iter().copied().fold(0.0, f64::max));
        let points = self.seen.len() as u32;
        let disturbed = digits(f64::from(self.disturbed) / f64::from(self.visits.max(1)));
        Fit { points, rounds: self.rounds, disturbed, error_median: digits(median(&errors)), error_max }
    }

    /// How much longer stages take here, with all of them busy, than their tables say.
    pub(super) fn slow_down(&self, stages: &mut [StageTable]) {
        for (number, table) in stages.iter_mut().enumerate() {
            let factor = |seen: &Seen| {
                let alone = table.seconds(&batch(&seen.point)) * 1e6;
                [f64::from(tokens(&seen.point)), digits((seen.stage_us(number) / alone).max(1.0))]
            };
            table.slowdown = Curve(self.seen.iter().map(factor).collect());
        }
    }

    /// From each stage to the next, by tokens.
    pub(super) fn sends(&self) -> Vec<Curve> {
        let count = self.seen.first().map_or(0, |seen| seen.times.sends.len());
        let curve = |number: usize| {
            let mut samples: Vec<(u32, f64)> = self
                .seen
                .iter()
                .map(|seen| (tokens(&seen.point), median(&seen.times.sends[number])))
                .collect();
            samples.sort_by_key(|(tokens, _)| *tokens);
            rising(&samples)
        };
        (0..count).map(curve).collect()
    }

    /// To the first stage and back from the last, of a batch of one sequence.
    pub(super) fn round_trip_us(&self) -> f64 {
        let single = self.seen.iter().filter(|seen| seen.point.len() == 1 && seen.point[0].tokens <= 8);
        median(&single.flat_map(|seen| seen.times.trips.iter().copied()).collect::<Vec<_>>())
    }

    /// How times lie about their batch's median, over all stages.
    pub(super) fn spread(&self) -> Spread {
        spread(self.seen.iter().flat_map(|seen| &seen.times.stages))
    }
}

impl Seen {
    fn new(point: Point) -> Self {
        Self { point, times: Times::default(), disturbed: Times::default() }
    }

    fn stage_us(&self, number: usize) -> f64 {
        median(&self.times.stages[number])
    }

    /// Runs the batch some times; whether others disturbed it. The next visit finds its blocks after this one's.
    fn visit(
        &mut self,
        executor: &mut RuntimeExecutor,
        machine: &Machine,
        plan: &mut ProbePlan,
    ) -> Result<bool, Loss> {
        let known = [&self.times, &self.disturbed].map(Times::longest_us).into_iter().fold(0.0, f64::max);
        let times = if known > 0.0 { (VISIT_US / known).clamp(1.0, VISIT_MAX) as u32 } else { 1 };
        // While the pipeline fills and empties, not all stages are busy.
        let margin = plan.depth - 1;
        plan.times = times + 2 * margin;
        let before = machine.now();
        let probed = executor.probe(&self.point, plan)?;
        plan.first_block = (plan.first_block + plan.times * probe_blocks(&self.point, BLOCK_SIZE)) % BLOCKS;
        let share = before.zip(machine.now()).map_or(0.0, |(before, after)| others(before, after));
        let is_disturbed = share > OTHERS_MAX;
        let kept = if is_disturbed { &mut self.disturbed } else { &mut self.times };
        probed[margin as usize..(margin + times) as usize].iter().for_each(|run| kept.note(run));
        Ok(is_disturbed)
    }

    /// Makes do with disturbed times where there are no others.
    fn settle(&mut self) {
        if self.times.trips.is_empty() {
            self.times = std::mem::take(&mut self.disturbed);
        }
    }
}

impl Times {
    fn longest_us(&self) -> f64 {
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

/// The batch that the scheduler would have formed of it.
pub(super) fn batch(point: &Point) -> Batch {
    let chunk = |part: &crate::runtime::ProbePart| Chunk {
        seq: SeqId(0),
        context: part.context,
        tokens: part.tokens,
        is_prefill: part.tokens > 1,
        emits_token: part.samples,
    };
    Batch { id: BatchId(0), chunks: point.iter().map(chunk).collect(), preempted: Vec::new() }
}
