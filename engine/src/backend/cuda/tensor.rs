//! What the model holds on the device: activations, weights, norms, angles, keys and values. Knows no kernel.

use super::card::Card;
use super::error::CudaError;
use super::memory::Buffer;
use super::scratch::grow;
use crate::shard::Dtype;

/// Activations `[rows, width]` of the card's type, in a buffer that only grows.
#[derive(Debug, Default)]
pub struct Tensor {
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) buffer: Option<Buffer>,
}

impl Tensor {
    pub(super) fn values(&self) -> usize {
        self.rows * self.width
    }

    /// It becomes `[rows, width]`; its values mean nothing then.
    pub(super) fn reshape(&mut self, card: &Card, rows: usize, width: usize) -> Result<(), CudaError> {
        grow(&mut self.buffer, card, rows * width * card.value_bytes(), "activations")?;
        (self.rows, self.width) = (rows, width);
        Ok(())
    }

    /// Its first value's address; 0 where it has none.
    pub(super) fn pointer(&self) -> u64 {
        self.buffer.as_ref().map_or(0, |buffer| buffer.pointer)
    }
}

/// A weight `[rows, columns]`, row-major.
#[derive(Debug)]
pub struct Linear {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) dtype: Dtype,
    pub(super) buffer: Buffer,
}

/// Rows `first ..` of the embedding.
#[derive(Debug)]
pub struct Embedding {
    pub(super) first: u32,
    pub(super) rows: usize,
    pub(super) hidden: usize,
    pub(super) buffer: Buffer,
}

/// A norm's vectors, f32 whatever the card computes in: some checkpoints have them finer than matrices.
#[derive(Debug)]
pub struct Norm {
    pub(super) weight: Buffer,
    pub(super) bias: Option<Buffer>,
    pub(super) epsilon: f32,
}

/// Cosines and sines `[positions, head_dim / 2]`, f32.
#[derive(Debug)]
pub struct Rotary {
    pub(super) cosines: Buffer,
    pub(super) sines: Buffer,
}

/// Keys and values of each layer `[blocks, kv_heads, block_size, head_dim]`.
#[derive(Debug)]
pub struct KvCache {
    pub(super) layers: Vec<Layer>,
    pub(super) block_size: usize,
    pub(super) bytes: u64,
}

/// One layer's keys and values.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) keys: Buffer,
    pub(super) values: Buffer,
}
