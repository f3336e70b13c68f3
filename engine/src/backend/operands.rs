//! What a model hands to any backend: bytes of weights, the heads of a rank, and the spans of a batch. Knows no backend.

use std::borrow::Cow;

use half::{bf16, f16};

use crate::shard::Dtype;

/// A rank's part of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Part<'a> {
    /// Type of its values.
    pub dtype: Dtype,
    /// Rows and columns.
    pub shape: Vec<u32>,
    /// Row-major, little-endian.
    pub bytes: Cow<'a, [u8]>,
}

impl Part<'_> {
    /// Its values as f32, row-major: exactly, for f32 has them all.
    pub fn widen(&self) -> Vec<f32> {
        let bytes = &self.bytes[..];
        match self.dtype {
            Dtype::Float32 => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            Dtype::Float16 => bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
            Dtype::Bfloat16 => bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
        }
    }
}

/// Heads of one rank.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Query heads; a multiple of the KV heads. Query head h reads KV head h / (query_heads / kv_heads).
    pub query_heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Values of a head, even, at most [`super::Backend::HEAD_DIM_MAX`].
    pub head_dim: usize,
    /// Factor of the scores, `1 / sqrt(head_dim)` as a rule.
    pub scale: f32,
}

/// One sequence's tokens in a batch.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    /// Row of its first token.
    pub first_row: usize,
    /// Its tokens in this batch.
    pub tokens: usize,
    /// Its tokens in the cache before them.
    pub context: usize,
    /// Its blocks, in the order of its tokens.
    pub table: &'a [u32],
}
