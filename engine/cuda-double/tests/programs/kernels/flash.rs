//! Attention of prompts' chunks over the paged cache; tensor cores are the prelude's plain twins here.

use cudarc::driver::PushKernelArg;

use super::card::{Card, Element, run, wide};
use crate::passes;

/// Heads, cache and chunks of a step. Nobody has block 0, so that its values are NaN.
struct Step {
    query: usize,
    kv: usize,
    dim: usize,
    block: usize,
    /// Tokens, those before them that the cache already has, and blocks.
    chunks: &'static [(usize, usize, &'static [u32])],
}

/// Blocks of a chunk's table, and of the cache.
const TABLE: usize = 12;
const BLOCKS: usize = 16;

impl Step {
    /// Where a head's key of a chunk's position lies in the cache.
    fn slot(&self, chunk: usize, position: usize, kv_head: usize) -> usize {
        let block = self.chunks[chunk].2[position / self.block] as usize;
        ((block * self.kv + kv_head) * self.block + position % self.block) * self.dim
    }

    fn width(&self) -> usize {
        (self.query + 2 * self.kv) * self.dim
    }

    /// Keys or values; NaN where no chunk has a token.
    fn cache(&self, element: Element, seed: u32) -> Vec<f32> {
        let mut cache = vec![f32::NAN; BLOCKS * self.kv * self.block * self.dim];
        for (chunk, (tokens, context, _)) in self.chunks.iter().enumerate() {
            for position in 0..tokens + context {
                for head in 0..self.kv {
                    let at = self.slot(chunk, position, head);
                    let seed = seed + 2 * ((chunk * 1000 + position) * self.kv + head) as u32;
                    cache[at..at + self.dim].copy_from_slice(&element.noise(seed, self.dim));
                }
            }
        }
        cache
    }

    /// A head's result of one row, and the sums of its terms' sizes.
    fn attend(
        &self,
        query: &[f32],
        cache: [&[f32]; 2],
        (chunk, token): (usize, usize),
        head: usize,
    ) -> Vec<(f64, f64)> {
        let at = |position| self.slot(chunk, position, head / (self.query / self.kv));
        let score = |position| {
            let key = wide(&cache[0][at(position)..][..self.dim]);
            key.iter().zip(query).map(|(k, q)| k * f64::from(*q)).sum::<f64>()
        };
        let shares: Vec<f64> =
            (0..=self.chunks[chunk].1 + token).map(|position| score(position).exp()).collect();
        let sum: f64 = shares.iter().sum();
        let mut out = vec![(0.0, 0.0); self.dim];
        for (position, share) in shares.iter().enumerate() {
            for (out, value) in out.iter_mut().zip(wide(&cache[1][at(position)..][..self.dim])) {
                *out = (out.0 + share / sum * value, out.1 + share / sum * value.abs());
            }
        }
        out
    }

    /// Rows of chunks follow each other, behind one that must stay.
    fn run(&self, card: &Card) {
        let rows: Vec<(usize, usize)> = (self.chunks.iter().enumerate())
            .flat_map(|(chunk, (tokens, ..))| (0..*tokens).map(move |token| (chunk, token)))
            .collect();
        let (width, out_width) = (self.width(), self.query * self.dim);
        let qkv = card.noise(1, (rows.len() + 1) * width);
        let (keys, values) = (self.cache(card.element, 10), self.cache(card.element, 11));
        let (mut tiles, mut spans, mut tables, mut row) = (Vec::new(), Vec::new(), Vec::new(), 1);
        for (chunk, (tokens, context, blocks)) in self.chunks.iter().enumerate() {
            tiles.extend((0..*tokens as u32).step_by(64).flat_map(|first| [chunk as u32, first]));
            spans.extend([row, *tokens as u32, *context as u32]);
            tables.extend(blocks.iter().copied().chain(std::iter::repeat_n(u32::MAX, TABLE - blocks.len())));
            row += *tokens as u32;
        }
        let mut out = card.put(&vec![9.0; (rows.len() + 1) * out_width]);
        let [qkv_there, keys_there, values_there] = [&qkv, &keys, &values].map(|v| card.put(v));
        let [tiles_there, spans_there, tables_there] = [&tiles, &spans, &tables].map(|v| card.put_plain(v));
        run!(
            card,
            &format!("flash_prefill_{}", self.dim),
            (tiles.len() as u32 / 2, self.query as u32, 1),
            128,
            &mut out,
            &qkv_there,
            &keys_there,
            &values_there,
            &tiles_there,
            &spans_there,
            &tables_there,
            &(TABLE as i32),
            &(self.block as i32),
            &(self.query as i32),
            &(self.kv as i32),
            &1.0_f32,
        );
        let mut expected = vec![(9.0, 0.0); out_width];
        for (row, place) in rows.into_iter().enumerate() {
            for head in 0..self.query {
                let query = &qkv[(row + 1) * width + head * self.dim..][..self.dim];
                expected.extend(self.attend(query, [&keys, &values], place, head));
            }
        }
        // Shares are rounded to the dtype, then their sum is.
        for (at, (found, (expected, terms))) in card.take(&out).iter().zip(expected).enumerate() {
            let allowed = 4e-6 + card.element.rounding() * (terms + expected.abs());
            let (row, head, i) = (at / out_width, at % out_width / self.dim, at % self.dim);
            let apart = (f64::from(*found) - expected).abs();
            assert!(
                apart <= allowed,
                "row {row}, head {head}, value {i}: expected {expected}, found {found}"
            );
        }
    }
}

fn check(steps: &[Step]) {
    for element in [Element::Bf16, Element::F16] {
        let card = Card::new(include_str!("../../../../src/backend/cuda/kernels/flash.cu"), element);
        steps.iter().for_each(|step| step.run(&card));
    }
}

/// More keys than three tiles have, so that each buffer is taken again.
#[test]
fn few_chunks() {
    passes("kernels::flash::few_chunks", || {
        let chunks: &[(usize, usize, &[u32])] =
            &[(5, 140, &[3, 12, 9, 2, 15, 6, 1, 4, 8, 5]), (20, 0, &[7, 11])];
        check(&[Step { query: 3, kv: 1, dim: 64, block: 16, chunks }]);
    });
}

#[test]
fn many_heads() {
    passes("kernels::flash::many_heads", || {
        let short: &[(usize, usize, &[u32])] = &[(2, 9, &[3, 1]), (1, 0, &[5])];
        let long: &[(usize, usize, &[u32])] = &[(66, 0, &[3, 12, 9, 2, 15, 6, 1, 4, 8])];
        check(&[
            Step { query: 71, kv: 1, dim: 64, block: 8, chunks: short },
            Step { query: 16, kv: 2, dim: 128, block: 8, chunks: short },
            Step { query: 2, kv: 2, dim: 128, block: 8, chunks: long },
        ]);
    });
}
