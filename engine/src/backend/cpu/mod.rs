//! The CPU backend: what a transformer's stage computes, on the threads of one rank.
//!
//! Activations are f32, row-major, one row a token. Weights stay in their own dtype and are widened where they are used.
//! Knows nothing of layers' order or sequences; only `backend.rs`, which joins it to models, knows that there are other ranks.

use std::sync::{Mutex, MutexGuard, PoisonError};

mod activations;
mod attention;
mod backend;
mod elementwise;
mod embedding;
mod format;
mod gemm;
mod huge_pages;
mod kv_cache;
mod lanes;
mod linear;
mod norm;
mod pool;
mod rotary;
#[cfg(test)]
mod tests;

pub use activations::Activations;
pub use attention::HEAD_DIM_MAX;
pub use backend::Batch;
pub use embedding::Embedding;
pub use kv_cache::KvCache;
pub use lanes::Isa;
pub use linear::Linear;
pub use norm::Norm;
pub use rotary::RotaryTable;

use super::operands::{AttentionShape, Span};
use crate::shard;

/// Type of stored values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// 4 bytes.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
}

impl Dtype {
    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

impl From<shard::Dtype> for Dtype {
    fn from(dtype: shard::Dtype) -> Self {
        match dtype {
            shard::Dtype::Float16 => Self::F16,
            shard::Dtype::Bfloat16 => Self::Bf16,
            shard::Dtype::Float32 => Self::F32,
        }
    }
}

impl From<Dtype> for shard::Dtype {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F16 => Self::Float16,
            Dtype::Bf16 => Self::Bfloat16,
            Dtype::F32 => Self::Float32,
        }
    }
}

/// The threads of one rank, and the operations that run on them.
#[derive(Debug)]
pub struct Cpu {
    pool: pool::Pool,
    isa: Isa,
    /// Locked by the one operation that runs at a time, so that operations need no exclusive `Cpu`.
    scratch: Mutex<Scratch>,
}

/// Room that is kept from operation to operation.
#[derive(Debug, Default)]
struct Scratch {
    /// A product's packed inputs.
    inputs: Vec<f32>,
    /// Attention's tasks.
    pieces: Vec<attention::Piece>,
    /// A draw's weights.
    weights: Vec<u64>,
}

impl Cpu {
    /// A backend of `threads` threads, the caller's own among them; with `cores`, thread i runs on `cores[i]` alone.
    pub fn new(threads: usize, cores: Option<&[usize]>) -> std::io::Result<Self> {
        Self::with_isa(threads, cores, Isa::best())
    }

    /// Like [`Cpu::new`], on an instruction set of choice, which the machine must have.
    pub fn with_isa(threads: usize, cores: Option<&[usize]>, isa: Isa) -> std::io::Result<Self> {
        assert!(threads > 0, "expected at least one thread");
        assert!(cores.is_none_or(|cores| cores.len() == threads), "expected one core a thread");
        assert!(Isa::available().contains(&isa), "expected a machine with {isa:?}");
        Ok(Self { pool: pool::Pool::new(threads, cores)?, isa, scratch: Mutex::default() })
    }

    fn scratch(&self) -> MutexGuard<'_, Scratch> {
        // What a panic has left there is overwritten by the next operation.
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many threads work.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }
}
