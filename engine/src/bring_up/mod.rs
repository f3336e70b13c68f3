//! Measures what a cluster's links take and what its devices have free, and checks what comes through them, with the ranks and communicators that
//! trials run on. Knows no file and no command line.

mod emulation;
mod exchanges;
mod fit;
mod groups;
mod promises;

use std::path::Path;

use thiserror::Error;

use crate::model::{KvSpec, ModelConfig};
use crate::runtime::{Exchange, ExchangeKind, LaunchError, Loss, Plan, RuntimeExecutor, Weights};
use crate::shape::{Family, ModelShape};
use crate::shard::{Dtype, Parallel};
use crate::sim::hardware::{Exchanged, Fitted, MeasuredLink};
use crate::sim::platform::Link;

pub use emulation::emulation_doubts;
pub use exchanges::exchanges;
pub use promises::doubts;

/// Bytes of each message: from a decode batch's hidden states to a long chunk's.
pub const BYTES: [u64; 7] = [256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20, 8 << 20, 16 << 20];
/// Type of what is exchanged, as most models' activations have it.
const DTYPE: Dtype = Dtype::Bfloat16;
/// Exchanges that are asked for at once.
const IN_A_ROW: u32 = 4;
/// Rows of a size, by what the first one took.
const ROWS_MIN: u32 = 3;
const ROWS_MAX: u32 = 30;
/// Time for the rows of a size in a group, where `ROWS_MIN` take less.
const ROWS_NS: u64 = 200_000_000;

/// Why nothing could be measured.
#[derive(Debug, Error)]
pub enum BringUpError {
    /// Workers could not be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// A worker was lost.
    #[error(transparent)]
    Lost(#[from] Loss),
}

/// What ranks found out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    /// What each class takes, nearest first; a class that joins no two devices is left out.
    pub links: Vec<MeasuredLink>,
    /// Bytes of each device's memory that stay free while ranks run on it with all that they need beside weights, keys and values: context,
    /// kernels, libraries, communicators. By rank; `None`: devices have no memory of their own.
    pub free_bytes: Option<Vec<u64>>,
}

/// The smallest model of so many stages: workers load one, whatever they are for.
pub fn weights(devices: u32) -> Weights {
    weights_of(devices, DTYPE)
}

fn weights_of(devices: u32, dtype: Dtype) -> Weights {
    let shape = ModelShape {
        name: "bring-up".to_owned(),
        family: Family::Llama,
        hidden_size: 64,
        layers: devices,
        query_heads: 1,
        kv_heads: 1,
        head_dim: 64,
        ffn_size: 64,
        vocab_size: 64,
        parallel_attention: false,
        norms_per_layer: 2,
        tied_embedding: false,
    };
    Weights::Dummy { config: Box::new(ModelConfig::of_shape(shape)), seed: 0, dtype }
}

/// A stage a device, with next to nothing in it.
fn bare(mut plan: Plan, devices: u32, dtype: Dtype) -> Plan {
    plan.parallel = Parallel { tp: 1, pp: devices };
    plan.weights = weights_of(devices, dtype);
    plan.kv = KvSpec { blocks: 1, block_size: 1 };
    plan.max_model_len = 1;
    plan.batch_tokens = 1;
    plan
}

/// Measures links and free memory. `plan` says how ranks run: layout, weights and caches are set here, a stage a device. `progress` is told
/// what is going on.
pub fn look(
    program: &Path,
    plan: Plan,
    classes: &[Link],
    devices: u32,
    progress: &mut dyn FnMut(&str),
) -> Result<Found, BringUpError> {
    progress("starting the ranks");
    let mut executor = RuntimeExecutor::launch(program, &bare(plan, devices, DTYPE))?;
    let mut links = Vec::new();
    let mut narrower = 1;
    for Link { name, span, .. } in classes {
        progress(&format!("all-reduces over {name}"));
        let all = groups::blocks(*span, devices);
        let all_reduce = measure(&mut executor, ExchangeKind::AllReduce, &all)?;
        progress(&format!("transfers over {name}"));
        let pairs = groups::pairs(*span, narrower, devices);
        let send_recv = measure(&mut executor, ExchangeKind::SendRecv, &pairs)?;
        if all_reduce.is_some() || send_recv.is_some() {
            links.push(MeasuredLink { name: name.clone(), all_reduce, send_recv });
        }
        narrower = *span;
    }
    // By now every communicator has moved values and has its buffers.
    let free_bytes = executor.free_bytes()?;
    executor.finish()?;
    Ok(Found { links, free_bytes })
}

/// The line through all groups' times; none without a group.
fn measure(
    executor: &mut RuntimeExecutor,
    kind: ExchangeKind,
    groups: &[Vec<u32>],
) -> Result<Option<Fitted>, BringUpError> {
    let mut points = Vec::new();
    for ranks in groups {
        for bytes in BYTES {
            points.push(point(executor, kind, ranks, bytes)?);
        }
    }
    Ok((!points.is_empty()).then(|| fit::line(points, |point| moved(kind, point))))
}

/// Bytes that count in the cost model's formula.
fn moved(kind: ExchangeKind, point: &Exchanged) -> f64 {
    let bytes = point.bytes as f64;
    match kind {
        ExchangeKind::AllReduce => {
            let ranks = point.ranks.len() as f64;
            2.0 * (ranks - 1.0) / ranks * bytes
        }
        ExchangeKind::AllGather => (point.ranks.len() as f64 - 1.0) * bytes,
        ExchangeKind::SendRecv => bytes,
    }
}

/// One size in one group: a row to see how long it takes, then as many as there is time for.
fn point(
    executor: &mut RuntimeExecutor,
    kind: ExchangeKind,
    ranks: &[u32],
    bytes: u64,
) -> Result<Exchanged, BringUpError> {
    let values = (bytes / DTYPE.bytes()) as u32;
    let exchange = |times| Exchange { kind, ranks: ranks.to_vec(), values, in_a_row: IN_A_ROW, times };
    let first = executor.exchange(&exchange(1))?;
    let row_ns = first.iter().sum::<u64>().max(1) * u64::from(IN_A_ROW);
    let times = (ROWS_NS / row_ns).clamp(u64::from(ROWS_MIN), u64::from(ROWS_MAX)) as u32;
    let mut ns = executor.exchange(&exchange(times))?;
    ns.sort_unstable();
    let us = ns[ns.len() / 2] as f64 / 1e3;
    Ok(Exchanged { ranks: ranks.to_vec(), bytes, us, repeats: times * IN_A_ROW })
}
