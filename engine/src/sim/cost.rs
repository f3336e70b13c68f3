//! The cost model: what a batch takes in each stage, on the links and on the CPU, as formulas over its token counts.
//! Knows nothing of clocks, queues or the scheduler's reasons. Each term's source and error: docs/cost-model.md.

use crate::sched::batch::Batch;
use crate::shape::{F16_BYTES, ModelShape};
use crate::shard::{Division, Parallel};
use crate::units::Nanos;

use super::coefficient::Band;
use super::curve::Curve;
use super::kernels::{KernelTimes, Work};
use super::measured::{Layout, Measured, StageTable};
use super::platform::{Affine, CpuCosts, PerSequence, Platform, StageCosts, Transfer};
use super::spread::Spread;

/// Seconds in a microsecond and a millisecond: the presets' units.
const US: f64 = 1e-6;
const MS: f64 = 1e-3;

/// All costs of one model, divided one way, on one platform, at one end of the band.
/// Two that are equal cost every batch the same.
#[derive(Debug, Clone, PartialEq)]
pub struct CostModel {
    stages: Vec<StageTime>,
    sends: Vec<SendTime>,
    /// How far measured stages' times are from their medians.
    spread: Spread,
    hidden_bytes: f64,
    schedule: Line,
    prepare: Line,
    sampler: Line,
    process: Line,
    one_way: f64,
}

/// `fixed + slope * x`, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Line {
    fixed: f64,
    slope: f64,
}

impl Line {
    fn at(self, x: f64) -> f64 {
        self.fixed + self.slope * x
    }

    fn per_sequence(cost: &PerSequence, band: Band) -> Self {
        Self { fixed: cost.ms.at(band) * MS, slope: cost.per_sequence_ms.at(band) * MS }
    }

    fn transfer(cost: &Transfer, band: Band) -> Self {
        Self { fixed: cost.alpha_us.at(band) * US, slope: 1.0 / (cost.gbps.at(band) * 1e9) }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum StageTime {
    Kernels(Box<KernelTimes>),
    Affine { fixed: f64, prefill: f64, decode: f64 },
    Measured(StageTable),
}

/// From a stage to the next.
#[derive(Debug, Clone, PartialEq)]
enum SendTime {
    /// By bytes.
    Line(Line),
    /// Microseconds by tokens.
    Measured(Curve),
}

impl StageTime {
    fn affine(cost: &Affine, band: Band) -> Self {
        Self::Affine {
            fixed: cost.fixed_ms.at(band) * MS,
            prefill: cost.prefill_token_us.at(band) * US,
            decode: cost.decode_token_us.at(band) * US,
        }
    }

    fn seconds(&mut self, batch: &Batch, work: &Work) -> f64 {
        match self {
            Self::Measured(table) => table.seconds(batch),
            Self::Kernels(times) => times.seconds(work),
            Self::Affine { fixed, prefill, decode } => {
                *fixed + *prefill * f64::from(work.prefill_tokens) + *decode * f64::from(work.decode_tokens)
            }
        }
    }
}

impl CostModel {
    /// Resolves the coefficients for a model on a platform that [covers](Platform::covers) it. Rank r runs on device r.
    pub fn new(platform: &Platform, shape: &ModelShape, division: &Division, band: Band) -> Self {
        let parallel = division.parallel;
        let stage_costs = platform.costs().expect("a simulated cluster was brought up with costs");
        let stage = |stage: u32| match stage_costs {
            StageCosts::Affine(affine) => StageTime::affine(affine, band),
            StageCosts::Kernels(kernels) => {
                let group = &platform.link(&parallel.stage_ranks(stage)).all_reduce;
                StageTime::Kernels(Box::new(KernelTimes::new(kernels, group, shape, division, stage, band)))
            }
            StageCosts::Measured(measured) => {
                StageTime::Measured(layout(measured, shape, parallel).stages[stage as usize].clone())
            }
        };
        // Rank t of a stage sends to rank t of the next; the slowest pair is the one to wait for.
        let send = |next: u32| {
            if let StageCosts::Measured(measured) = stage_costs {
                let sends = &layout(measured, shape, parallel).sends_us;
                return SendTime::Measured(sends[next as usize - 1].clone());
            }
            let (from, to) = (parallel.stage_ranks(next - 1), parallel.stage_ranks(next));
            let links = from.iter().zip(&to).map(|(&from, &to)| platform.link(&[from, to]));
            let farthest = links.max_by_key(|link| link.span).expect("Division refuses tp=0");
            SendTime::Line(Line::transfer(&farthest.send_recv, band))
        };
        let (cpu, spread) = match stage_costs {
            StageCosts::Measured(measured) => {
                let Layout { cpu, spread, .. } = layout(measured, shape, parallel);
                (cpu, spread.clone())
            }
            _ => (platform.cpu.as_ref().expect("costs() has looked for it"), Spread::default()),
        };
        let CpuCosts { schedule, prepare, sampler, process, driver_round_trip_ms } = cpu;
        Self {
            stages: (0..parallel.pp).map(stage).collect(),
            sends: (1..parallel.pp).map(send).collect(),
            spread,
            hidden_bytes: f64::from(shape.hidden_size) * F16_BYTES as f64,
            schedule: Line::per_sequence(schedule, band),
            prepare: Line::per_sequence(prepare, band),
            sampler: Line::per_sequence(sampler, band),
            process: Line::per_sequence(process, band),
            one_way: driver_round_trip_ms.at(band) * MS / 2.0,
        }
    }

    /// Pipeline stages.
    pub fn depth(&self) -> u32 {
        self.stages.len() as u32
    }

    /// What `batch` takes; the stages' times go to `stages`, first stage first. O(chunks + stages).
    pub fn cost(&mut self, batch: &Batch, stages: &mut Vec<Nanos>) -> BatchCost {
        let work = Work::of(batch);
        let sequences = f64::from(work.sequences);
        stages.clear();
        for (number, stage) in self.stages.iter_mut().enumerate() {
            let median = stage.seconds(batch, &work);
            let seconds = median * self.spread.factor(median, batch.id, number);
            stages.push(nanos(self.prepare.at(sequences) + seconds));
        }
        if let Some(last) = stages.last_mut() {
            *last += nanos(self.sampler.at(sequences));
        }
        BatchCost {
            schedule: nanos(self.schedule.at(sequences)),
            process: nanos(self.process.at(sequences)),
            one_way: nanos(self.one_way),
            hidden_bytes: self.hidden_bytes * f64::from(work.tokens()),
            tokens: work.tokens(),
        }
    }

    /// Moving a batch's hidden states from `stage` to the next; every TP rank sends the whole state to its peer, at once.
    pub fn send(&self, stage: usize, cost: &BatchCost) -> Nanos {
        nanos(match &self.sends[stage] {
            SendTime::Line(line) => line.at(cost.hidden_bytes),
            SendTime::Measured(curve) => curve.at(f64::from(cost.tokens)) * US,
        })
    }

    /// Whether stages slow each other down.
    pub fn is_contended(&self) -> bool {
        let is_slowed =
            |stage: &StageTime| matches!(stage, StageTime::Measured(table) if !table.slowdown.0.is_empty());
        self.stages.len() > 1 && self.stages.iter().any(is_slowed)
    }

    /// Factor of a batch's time in `stage` while all stages are busy.
    pub fn slowdown(&self, stage: usize, cost: &BatchCost) -> f64 {
        match &self.stages[stage] {
            StageTime::Measured(table) => table.slowdown(cost.tokens),
            StageTime::Kernels(_) | StageTime::Affine { .. } => 1.0,
        }
    }
}

fn layout<'a>(measured: &'a Measured, shape: &ModelShape, parallel: Parallel) -> &'a Layout {
    measured.layout(shape, parallel).expect("the platform covers the model's layout")
}

/// What a batch takes beside its stages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchCost {
    /// Forming it, on the driver.
    pub schedule: Nanos,
    /// Taking in its outputs, on the driver.
    pub process: Nanos,
    /// From the driver to the first stage, and from the last back.
    pub one_way: Nanos,
    hidden_bytes: f64,
    tokens: u32,
}

fn nanos(seconds: f64) -> Nanos {
    Nanos::from_secs_f64(seconds)
}

#[cfg(test)]
mod tests;
