//! What the driver adds to each batch: from the end of one to the beginning of the next, in trials of decodes.

use std::io::{Sink, sink};

use super::ProfileError;
use super::fit::digits;
use super::median::median;
use super::{BLOCK_SIZE, BLOCKS};
use crate::engine::Trial;
use crate::executor::StageStay;
use crate::model::sampler::Sampling;
use crate::record::{Recorder, Watch};
use crate::runtime::{Prompt, RuntimeExecutor};
use crate::sched::{ChunkSchedule, Compat, Policy, Scheduler, SchedulerConfig};
use crate::sim::coefficient::Coefficient;
use crate::sim::platform::{CpuCosts, PerSequence};
use crate::units::{Nanos, SeqId};
use crate::workload::Request;

/// Sequences of each trial.
const SEQUENCES: [u32; 3] = [1, 8, 32];
/// Tokens of each prompt: all of a trial's fit one batch, so that one batch is under way at a time.
const PROMPT: u32 = 4;
/// Tokens of each output.
const OUTPUT: u32 = 16;
const TIME_LIMIT: Nanos = Nanos(120_000_000_000);

/// The costs of driver and messages, given the time of messages alone.
pub(super) fn cpu_costs(
    executor: &mut RuntimeExecutor,
    stages: u32,
    round_trip_us: f64,
) -> Result<CpuCosts, ProfileError> {
    let mut points = Vec::new();
    for sequences in SEQUENCES {
        points.push((f64::from(sequences), gap_us(executor, sequences, stages)?));
    }
    let (fixed, slope) = line(&points);
    let ms = |us: f64| Coefficient::certain(digits(us.max(0.0) / 1e3));
    let nothing = || PerSequence { ms: ms(0.0), per_sequence_ms: ms(0.0) };
    Ok(CpuCosts {
        schedule: PerSequence { ms: ms(fixed - round_trip_us), per_sequence_ms: ms(slope) },
        prepare: nothing(),
        sampler: nothing(),
        process: nothing(),
        driver_round_trip_ms: ms(round_trip_us),
    })
}

/// Microseconds from the last stage's end of a batch to the first stage's beginning of the next, with so many decodes in each.
fn gap_us(executor: &mut RuntimeExecutor, sequences: u32, stages: u32) -> Result<f64, ProfileError> {
    let request = Request { arrival: Nanos::ZERO, prompt_tokens: PROMPT, output_tokens: OUTPUT };
    let requests = vec![request; sequences as usize];
    for number in 0..sequences {
        let prompt = Prompt {
            tokens: vec![1; PROMPT as usize],
            sampling: Sampling::greedy(),
            output_max: OUTPUT,
            stop: Vec::new(),
        };
        executor.insert(SeqId(number), prompt);
    }
    let wrong = |error: &dyn std::fmt::Display| ProfileError::Driver(error.to_string());
    let scheduler = Scheduler::new(config(sequences, stages)).map_err(|error| wrong(&error))?;
    let watch = Watch::new(Vec::new(), requests.iter().map(|request| request.output_tokens));
    let mut recorder: Recorder<Sink> =
        Recorder::new(sink(), Some(sink()), watch).map_err(|error| wrong(&error))?;
    executor.begin_stays();
    executor.start();
    let trial = Trial::new(&requests, scheduler, &mut *executor, &mut recorder);
    trial.run(TIME_LIMIT).map_err(|error| wrong(&error))?;
    Ok(median(&gaps(&executor.take_stays(), stages)))
}

fn config(sequences: u32, stages: u32) -> SchedulerConfig {
    SchedulerConfig {
        policy: Policy::Sarathi { chunk: ChunkSchedule::Fixed(PROMPT * sequences) },
        batch_cap: sequences * stages,
        max_model_len: PROMPT + OUTPUT,
        block_size: BLOCK_SIZE,
        blocks: BLOCKS,
        stages,
        watermark: Some(0.0),
        compat: Compat::Honest,
    }
}

/// Microseconds between batches that follow one another.
fn gaps(stays: &[StageStay], stages: u32) -> Vec<f64> {
    let mut starts: Vec<&StageStay> = stays.iter().filter(|stay| stay.stage == 0).collect();
    starts.sort_by_key(|stay| stay.batch);
    let end = |batch| {
        stays.iter().find(|stay| stay.batch == batch && stay.stage + 1 == stages).map(|stay| stay.end)
    };
    let gap = |pair: &[&StageStay]| Some(pair[1].start.saturating_sub(end(pair[0].batch)?).0 as f64 / 1e3);
    starts.windows(2).filter_map(gap).collect()
}

/// Least squares of `fixed + slope x`, the slope not below 0.
fn line(points: &[(f64, f64)]) -> (f64, f64) {
    let count = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
    let covariance: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let variance: f64 = points.iter().map(|(x, _)| (x - mean_x) * (x - mean_x)).sum();
    let slope = (covariance / variance).max(0.0);
    (mean_y - slope * mean_x, slope)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::BatchId;

    #[test]
    fn gaps_go_from_the_last_stage_to_the_first() {
        let stay = |batch, stage, start, end| StageStay {
            batch: BatchId(batch),
            stage,
            start: Nanos(start),
            end: Nanos(end),
        };
        let stays = [
            stay(0, 0, 0, 5_000),
            stay(0, 1, 6_000, 9_000),
            stay(1, 1, 30_000, 40_000),
            stay(1, 0, 11_000, 29_000),
        ];
        assert_eq!(gaps(&stays, 2), [2.0]);
    }

    #[test]
    fn a_line_is_found_and_never_falls() {
        let (fixed, slope) = line(&[(1.0, 12.0), (8.0, 26.0), (32.0, 74.0)]);
        assert!((fixed - 10.0).abs() < 1e-9 && (slope - 2.0).abs() < 1e-9);
        assert_eq!(line(&[(1.0, 9.0), (3.0, 3.0)]), (6.0, 0.0));
    }
}
