//! Rotary position embedding, half rotation: value i of a head turns with value i + head_dim / 2 (Su et al. 2021, in the layout of GPT-NeoX).

use super::{AttentionShape, Cpu, Span};

/// Cosines and sines of every position.
#[derive(Debug)]
pub struct RotaryTable {
    half: usize,
    /// `[positions, half]` of (cos, sin).
    turns: Vec<(f32, f32)>,
}

impl RotaryTable {
    /// Angles `position / theta^(2 i / head_dim)`, i below `head_dim / 2`.
    pub fn new(theta: f64, head_dim: usize, positions: usize) -> Self {
        let half = head_dim / 2;
        let angle =
            |position: usize, i: usize| position as f64 / theta.powf(2.0 * i as f64 / head_dim as f64);
        let turn = |angle: f64| (angle.cos() as f32, angle.sin() as f32);
        let turns = (0..positions).flat_map(|p| (0..half).map(move |i| turn(angle(p, i)))).collect();
        Self { half, turns }
    }
}

impl Cpu {
    /// Turns the query and key heads of `qkv[tokens, (query_heads + 2 kv_heads) head_dim]` by the spans' positions.
    pub fn rotate(&self, table: &RotaryTable, shape: &AttentionShape, qkv: &mut [f32], spans: &[Span<'_>]) {
        let AttentionShape { query_heads, kv_heads, head_dim, .. } = *shape;
        let width = (query_heads + 2 * kv_heads) * head_dim;
        for span in spans {
            for token in 0..span.tokens {
                let turns = &table.turns[(span.context + token) * table.half..][..table.half];
                let row = &mut qkv[(span.first_row + token) * width..][..(query_heads + kv_heads) * head_dim];
                for head in row.chunks_exact_mut(head_dim) {
                    let (low, high) = head.split_at_mut(table.half);
                    for ((low, high), &(cos, sin)) in low.iter_mut().zip(high).zip(turns) {
                        (*low, *high) = (*low * cos - *high * sin, *high * cos + *low * sin);
                    }
                }
            }
        }
    }
}
