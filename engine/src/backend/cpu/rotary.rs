//! Rotary position embedding, half rotation: value i of a head turns with value i + head_dim / 2 (Su et al. 2021, in the layout of GPT-NeoX).

use super::lanes::{Kernel, Lanes};
use super::{AttentionShape, Cpu, Span};

/// Cosines and sines of every position.
#[derive(Debug)]
pub struct RotaryTable {
    half: usize,
    /// `[positions, half]`.
    cosines: Vec<f32>,
    /// `[positions, half]`.
    sines: Vec<f32>,
}

impl RotaryTable {
    /// Angles `position / theta^(2 i / head_dim)`, i below `head_dim / 2`.
    pub fn new(theta: f64, head_dim: usize, positions: usize) -> Self {
        let half = head_dim / 2;
        let angle =
            |position: usize, i: usize| position as f64 / theta.powf(2.0 * i as f64 / head_dim as f64);
        let all = || (0..positions).flat_map(|p| (0..half).map(move |i| angle(p, i)));
        Self {
            half,
            cosines: all().map(|angle| angle.cos() as f32).collect(),
            sines: all().map(|angle| angle.sin() as f32).collect(),
        }
    }
}

/// Turns the heads of one token.
struct Turn<'a> {
    heads: &'a mut [f32],
    cosines: &'a [f32],
    sines: &'a [f32],
}

impl Kernel for Turn<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let half = self.cosines.len();
        for head in self.heads.chunks_exact_mut(2 * half) {
            let (low, high) = head.split_at_mut(half);
            let turns = self.cosines.iter().zip(self.sines);
            for ((low, high), (cos, sin)) in low.iter_mut().zip(high).zip(turns) {
                (*low, *high) = (*low * cos - *high * sin, *high * cos + *low * sin);
            }
        }
    }
}

impl Cpu {
    /// Turns the query and key heads of `qkv[tokens, (query_heads + 2 kv_heads) head_dim]` by the spans' positions.
    pub fn rotate(&self, table: &RotaryTable, shape: &AttentionShape, qkv: &mut [f32], spans: &[Span<'_>]) {
        let AttentionShape { query_heads, kv_heads, head_dim, .. } = *shape;
        let width = (query_heads + 2 * kv_heads) * head_dim;
        self.pool.rows(qkv, width, &|first, rows| {
            let end = first + rows.len() / width;
            for span in spans {
                for row in span.first_row.max(first)..(span.first_row + span.tokens).min(end) {
                    let position = (span.context + row - span.first_row) * table.half;
                    self.isa.run(Turn {
                        heads: &mut rows[(row - first) * width..][..(query_heads + kv_heads) * head_dim],
                        cosines: &table.cosines[position..][..table.half],
                        sines: &table.sines[position..][..table.half],
                    });
                }
            }
        });
    }
}
