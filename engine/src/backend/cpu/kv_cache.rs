//! The paged KV cache of one rank. Knows blocks, not sequences.

use half::{bf16, f16};

use super::{AttentionShape, Cpu, Dtype, Span};

/// Keys and values of a stage's layers, in blocks of `block_size` tokens.
#[derive(Debug)]
pub struct KvCache {
    block_size: usize,
    dtype: Dtype,
    /// A layer: keys and values, each `[blocks, kv_heads, block_size, head_dim]`.
    layers: Vec<[Vec<f32>; 2]>,
}

impl KvCache {
    /// Room for `blocks` blocks in each of `layers` layers.
    pub fn new(
        shape: &AttentionShape,
        layers: usize,
        blocks: usize,
        block_size: usize,
        dtype: Dtype,
    ) -> Self {
        let values = blocks * block_size * shape.kv_heads * shape.head_dim;
        let layer = || [vec![0.0; values], vec![0.0; values]];
        Self { block_size, dtype, layers: (0..layers).map(|_| layer()).collect() }
    }

    /// The `head_dim` values of one token and head.
    pub(super) fn row(
        &self,
        shape: &AttentionShape,
        layer: usize,
        part: usize,
        span: &Span<'_>,
        token: usize,
        head: usize,
    ) -> &[f32] {
        let start = self.start(shape, span, token, head);
        &self.layers[layer][part][start..start + shape.head_dim]
    }

    fn start(&self, shape: &AttentionShape, span: &Span<'_>, token: usize, head: usize) -> usize {
        let block = span.table[token / self.block_size] as usize;
        ((block * shape.kv_heads + head) * self.block_size + token % self.block_size) * shape.head_dim
    }
}

fn rounded(dtype: Dtype, value: f32) -> f32 {
    match dtype {
        Dtype::F32 => value,
        Dtype::F16 => f16::from_f32(value).to_f32(),
        Dtype::Bf16 => bf16::from_f32(value).to_f32(),
    }
}

impl Cpu {
    /// Stores the keys and values of `qkv[tokens, (query_heads + 2 kv_heads) head_dim]` where the spans' tables say.
    pub fn store_kv(
        &self,
        cache: &mut KvCache,
        layer: usize,
        shape: &AttentionShape,
        qkv: &[f32],
        spans: &[Span<'_>],
    ) {
        let AttentionShape { query_heads, kv_heads, head_dim, .. } = *shape;
        let width = (query_heads + 2 * kv_heads) * head_dim;
        for span in spans {
            for token in 0..span.tokens {
                let row = &qkv[(span.first_row + token) * width..][query_heads * head_dim..width];
                for (index, values) in row.chunks_exact(head_dim).enumerate() {
                    let start = cache.start(shape, span, span.context + token, index % kv_heads);
                    let dtype = cache.dtype;
                    let stored = &mut cache.layers[layer][index / kv_heads][start..start + head_dim];
                    for (stored, value) in stored.iter_mut().zip(values) {
                        *stored = rounded(dtype, *value);
                    }
                }
            }
        }
    }
}
