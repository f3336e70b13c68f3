//! Times of made-up batches, round after round, and the tables that they make.

use super::SampleRow;
use super::design::{Point, name, tokens};
use super::fit::{Observation, digits, rising, stage};
use super::median::median;
use super::quiet::Machine;
use super::spread::spread;
use super::visit::{Times, Visit, checks_of, mark_slowed};
use crate::clock::monotonic_ns;
use crate::runtime::{Loss, ProbePlan, RuntimeExecutor, check_ns};
use crate::sched::batch::{Batch, Chunk};
use crate::sim::curve::Curve;
use crate::sim::measured::{Fit, StageTable};
use crate::sim::spread::Spread;
use crate::units::{BatchId, SeqId};

/// Progress is told this often, in seconds.
const TELL_S: f64 = 5.0;

/// What was seen of each batch.
pub(super) struct Samples {
    points: Vec<Point>,
    /// In the order in which they were made.
    visits: Vec<Visit>,
    /// By batch, the visits that count.
    counted: Vec<Vec<usize>>,
    rounds: u32,
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
        let machine = Machine::new(executor.processes());
        // Those made until now are nobody's.
        executor.core_checks()?;
        let mut plan = ProbePlan { first_block: 0, vocabulary, times: 1, depth };
        let mut known_us = vec![0.0_f64; points.len()];
        let mut visits = Vec::new();
        let began = monotonic_ns();
        let elapsed = || (monotonic_ns() - began) as f64 / 1e9;
        let (mut rounds, mut told) = (0, -TELL_S);
        // Another round if more of it lies within the time than beyond.
        while rounds == 0 || elapsed() * (1.0 + 0.5 / f64::from(rounds)) < seconds {
            if elapsed() >= told + TELL_S {
                told = elapsed();
                progress(rounds + 1);
            }
            let count = points.len();
            for step in 0..count {
                // There and back: a machine that grows slower all the while is then no slower for some points than for others.
                let index = if rounds % 2 == 0 { step } else { count - 1 - step };
                let mut visit = Visit::make(executor, &machine, &mut plan, &points[index], known_us[index])?;
                visit.point = index;
                visit.at_s = elapsed();
                known_us[index] = known_us[index].max(visit.times.longest_us());
                visits.push(visit);
            }
            rounds += 1;
        }
        mark_slowed(&mut visits);
        Ok(Self { counted: counted(points.len(), &visits), points, visits, rounds })
    }

    /// Tables of all stages.
    pub(super) fn stages(&self) -> Vec<StageTable> {
        let count = self.visits.first().map_or(0, |visit| visit.times.stages.len());
        let table = |number: usize| {
            let us = self.stage_us(number);
            let observations: Vec<_> =
                self.points.iter().zip(us).map(|(point, us)| Observation { point, us }).collect();
            stage(&observations, number + 1 == count)
        };
        (0..count).map(table).collect()
    }

    /// How well `stages` give the medians back.
    pub(super) fn fit(&self, stages: &[StageTable]) -> Fit {
        let mut errors = Vec::new();
        for (number, table) in stages.iter().enumerate() {
            for (point, us) in self.points.iter().zip(self.stage_us(number)) {
                errors.push((table.seconds(&batch(point)) * 1e6 / us - 1.0).abs());
            }
        }
        let error_max = digits(errors.iter().copied().fold(0.0, f64::max));
        let disturbed = self.visits.iter().filter(|visit| visit.is_disturbed).count();
        Fit {
            points: self.points.len() as u32,
            rounds: self.rounds,
            disturbed: digits(disturbed as f64 / self.visits.len().max(1) as f64),
            core_check_us: checks_of(&self.visits)
                .iter()
                .filter_map(|own| Some(digits(check_ns(own)? / 1e3)))
                .collect(),
            error_median: digits(median(&errors)),
            error_max,
        }
    }

    /// How much longer stages take here, with all of them busy, than their tables say.
    pub(super) fn slow_down(&self, stages: &mut [StageTable]) {
        for (number, table) in stages.iter_mut().enumerate() {
            let factor = |(point, us): (&Point, f64)| {
                let alone = table.seconds(&batch(point)) * 1e6;
                [f64::from(tokens(point)), digits((us / alone).max(1.0))]
            };
            table.slowdown = Curve(self.points.iter().zip(self.stage_us(number)).map(factor).collect());
        }
    }

    /// From each stage to the next, by tokens.
    pub(super) fn sends(&self) -> Vec<Curve> {
        let count = self.visits.first().map_or(0, |visit| visit.times.sends.len());
        let curve = |number: usize| {
            let us = self.medians(|times| &times.sends[number]);
            let mut samples: Vec<(u32, f64)> = self.points.iter().map(tokens).zip(us).collect();
            samples.sort_by_key(|(tokens, _)| *tokens);
            rising(&samples)
        };
        (0..count).map(curve).collect()
    }

    /// To the first stage and back from the last, of a batch of one sequence.
    pub(super) fn round_trip_us(&self) -> f64 {
        let is_single = |point: &Point| point.len() == 1 && point[0].tokens <= 8;
        let single = (0..self.points.len()).filter(|index| is_single(&self.points[*index]));
        median(&single.flat_map(|index| self.all(index, |times| &times.trips)).collect::<Vec<_>>())
    }

    /// How times lie about their batch's median, over all stages.
    pub(super) fn spread(&self) -> Spread {
        spread(&self.groups())
    }

    /// Every time that was measured, in the order of its being so.
    pub(super) fn rows(&self, busy: bool) -> impl Iterator<Item = SampleRow> {
        self.visits.iter().enumerate().flat_map(move |(number, visit)| {
            let point = &self.points[visit.point];
            visit.times.stages.iter().enumerate().flat_map(move |(stage, all)| {
                all.iter().enumerate().map(move |(run, us)| SampleRow {
                    busy,
                    visit: number as u32,
                    at_s: visit.at_s,
                    batch: name(point),
                    tokens: tokens(point),
                    stage: stage as u32,
                    run: run as u32,
                    us: *us,
                    disturbed: visit.is_disturbed,
                })
            })
        })
    }

    /// The times of each stage and batch that count.
    fn groups(&self) -> Vec<Vec<f64>> {
        let stages = self.visits.first().map_or(0, |visit| visit.times.stages.len());
        let of = |stage: usize, point: usize| self.all(point, |times| &times.stages[stage]).collect();
        (0..stages).flat_map(|stage| (0..self.points.len()).map(move |point| of(stage, point))).collect()
    }

    /// The median time of each batch in a stage.
    fn stage_us(&self, number: usize) -> Vec<f64> {
        self.medians(|times| &times.stages[number])
    }

    fn medians(&self, of: impl Fn(&Times) -> &[f64]) -> Vec<f64> {
        (0..self.points.len()).map(|index| median(&self.all(index, &of).collect::<Vec<_>>())).collect()
    }

    /// All times of a batch that count.
    fn all(&self, index: usize, of: impl Fn(&Times) -> &[f64]) -> impl Iterator<Item = f64> {
        self.counted[index].iter().flat_map(move |visit| of(&self.visits[*visit].times).to_vec())
    }
}

/// Undisturbed visits of each batch, and disturbed ones where there are no others.
fn counted(points: usize, visits: &[Visit]) -> Vec<Vec<usize>> {
    let of = |point: usize, disturbed: bool| {
        let own = |(_, visit): &(usize, &Visit)| visit.point == point && (disturbed || !visit.is_disturbed);
        visits.iter().enumerate().filter(own).map(|(number, _)| number).collect::<Vec<_>>()
    };
    (0..points)
        .map(|point| match of(point, false) {
            none if none.is_empty() => of(point, true),
            some => some,
        })
        .collect()
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
