//! Causal attention over the paged KV cache.

use super::{Cpu, KvCache};

/// Heads of one rank.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Query heads; a multiple of the KV heads. Query head h reads KV head h / (query_heads / kv_heads).
    pub query_heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Values of a head, even.
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

impl Cpu {
    /// `out[tokens, query_heads head_dim]`: each token attends to its sequence up to itself. The keys and values of the
    /// batch's own tokens must have been stored.
    pub fn attend(
        &self,
        cache: &KvCache,
        layer: usize,
        shape: &AttentionShape,
        qkv: &[f32],
        spans: &[Span<'_>],
        out: &mut [f32],
    ) {
        let AttentionShape { query_heads, kv_heads, head_dim, scale } = *shape;
        let width = (query_heads + 2 * kv_heads) * head_dim;
        let mut scores = Vec::new();
        for span in spans {
            for (token, head) in
                (0..span.tokens).flat_map(|token| (0..query_heads).map(move |head| (token, head)))
            {
                let row = span.first_row + token;
                let query = &qkv[row * width + head * head_dim..][..head_dim];
                let kv_head = head / (query_heads / kv_heads);
                let keys = 0..=span.context + token;
                scores.clear();
                scores.extend(
                    keys.map(|key| scale * dot(query, cache.row(shape, layer, 0, span, key, kv_head))),
                );
                softmax(&mut scores);
                let out = &mut out[(row * query_heads + head) * head_dim..][..head_dim];
                out.fill(0.0);
                for (key, share) in scores.iter().enumerate() {
                    for (out, value) in out.iter_mut().zip(cache.row(shape, layer, 1, span, key, kv_head)) {
                        *out += share * value;
                    }
                }
            }
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn softmax(scores: &mut [f32]) {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - most).exp();
        sum += *score;
    }
    for score in scores {
        *score /= sum;
    }
}
