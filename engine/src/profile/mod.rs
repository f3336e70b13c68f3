//! Measures a layout of a model on this machine, through the same worker processes that trials run on, and makes the simulator's
//! tables of it. Knows no platform file and no command line.
//!
//! Whole stages are measured, not single operations: ranks share cores, caches and memory bandwidth, wait for each other and for
//! emulated links, and the sum of operations measured alone knows nothing of that.

mod design;
mod fit;
mod median;
mod operations;
mod overhead;
mod quiet;
mod samples;
mod spread;
mod visit;

use std::path::Path;

use thiserror::Error;

use crate::clock::monotonic_ns;
use crate::model::KvSpec;
use crate::runtime::{Bounds, LaunchError, Loss, Plan, RuntimeExecutor};
use crate::shape::ModelShape;
use crate::shard::ShardError;
use crate::sim::measured::Layout;
use samples::Samples;

/// Blocks of the KV cache that probes use; some thousand tokens are more than the caches of a core hold.
const BLOCKS: u32 = 256;
/// Tokens of a block.
const BLOCK_SIZE: u32 = 16;
/// Sequences of the largest decode batch.
const SEQUENCES: u32 = 64;
/// Share of the time for batches alone where there are several stages; the rest is for all stages busy.
const ALONE: f64 = 0.6;

/// Why a layout could not be measured.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// Workers could not be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// A worker was lost.
    #[error(transparent)]
    Lost(#[from] Loss),
    /// The model does not divide so.
    #[error(transparent)]
    Division(#[from] ShardError),
    /// The batches of a trial could not be recorded.
    #[error("measure the driver: {0}")]
    Driver(String),
}

/// What to measure.
pub struct Target<'a> {
    /// An executable with the `worker` command.
    pub program: &'a Path,
    /// Ranks, weights, threads and links; its caches and lengths are set here.
    pub plan: Plan,
    /// The model.
    pub shape: &'a ModelShape,
    /// The largest batch, in tokens; beyond it the tables go on in a straight line.
    pub tokens_max: u32,
    /// For this long, beside starting the workers, and at least one round of all batches.
    pub seconds: f64,
}

/// One time that was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleRow {
    /// Whether all stages were busy meanwhile, with one batch each.
    pub busy: bool,
    /// Number of the visit: runs of a batch one after the other.
    pub visit: u32,
    /// Seconds from the beginning to the visit's end.
    pub at_s: f64,
    /// The batch, such as `16 x 1 @ 128 + 48 @ 64`: sequences x tokens @ context.
    pub batch: String,
    /// All of its tokens.
    pub tokens: u32,
    /// Stage of the pipeline.
    pub stage: u32,
    /// Number of the run in its visit.
    pub run: u32,
    /// Time in the stage, microseconds.
    pub us: f64,
    /// Whether others used much of the machine meanwhile.
    pub disturbed: bool,
}

/// Measures one layout; its tables, and all times that they come from. `progress` is told what is going on.
pub fn layout(
    target: Target<'_>,
    progress: &mut dyn FnMut(&str),
) -> Result<(Layout, Vec<SampleRow>), ProfileError> {
    let Target { program, mut plan, shape, tokens_max, seconds } = target;
    let parallel = plan.parallel;
    plan.kv = KvSpec { blocks: BLOCKS, block_size: BLOCK_SIZE };
    plan.blocks_touched = BLOCKS;
    plan.max_model_len = design::longest();
    plan.batch_tokens = tokens_max.max(SEQUENCES);
    progress("starting the ranks");
    let mut executor = RuntimeExecutor::launch(program, &plan)?;
    executor.warm_up(&Bounds {
        batch_tokens: tokens_max,
        sequences: SEQUENCES.min(tokens_max),
        max_model_len: design::longest(),
        decodes: None,
    })?;
    let vocabulary = shape.vocab_size;
    executor.start();
    let began = monotonic_ns();
    let elapsed = || (monotonic_ns() - began) as f64 / 1e9;
    let share = if parallel.pp > 1 { ALONE } else { 1.0 };
    let alone = Samples::gather(
        &mut executor,
        design::points(tokens_max),
        vocabulary,
        1,
        seconds * share,
        &mut |round| {
            progress(&format!("round {round}, {:.0} of {seconds:.0} s", elapsed()));
        },
    )?;
    let busy = match parallel.pp {
        1 => None,
        depth => {
            let left = (seconds - elapsed()).max(0.0);
            Some(Samples::gather(
                &mut executor,
                design::busy_points(tokens_max),
                vocabulary,
                depth,
                left,
                &mut |round| {
                    progress(&format!("all stages busy, round {round}, {:.0} of {seconds:.0} s", elapsed()));
                },
            )?)
        }
    };
    progress("single operations");
    let operations = operations::measure(&mut executor, shape, parallel, tokens_max)?;
    progress("the driver");
    let cpu = overhead::cpu_costs(&mut executor, parallel.pp, alone.round_trip_us())?;
    executor.finish()?;
    let mut stages = alone.stages();
    let fit = alone.fit(&stages);
    if let Some(busy) = &busy {
        busy.slow_down(&mut stages);
    }
    let rows = alone.rows(false).chain(busy.iter().flat_map(|busy| busy.rows(true))).collect();
    let layout = Layout {
        model: shape.clone(),
        parallel,
        cpu,
        sends_us: alone.sends(),
        spread: alone.spread(),
        fit,
        operations: Some(operations),
        stages,
    };
    Ok((layout, rows))
}
