//! Causal attention over the paged KV cache, by a running softmax: no more scores at a time than a tile of rows has for some keys.
//!
//! A row's result depends on its own sequence alone: its keys are taken in the same steps, and in the same order, in a prompt as in
//! decoding, and beside any other rows.
#![expect(unsafe_code, reason = "threads write disjoint heads of one output")]

use super::elementwise::exp;
use super::format::Values;
use super::kv_cache::{GROUP, Layer, Pages, Reader};
use super::lanes::{Kernel, Lanes};
use super::pool::Parts;
use super::{AttentionShape, Cpu, KvCache, Span};

/// Values of a head at most.
pub const HEAD_DIM_MAX: usize = 256;
/// Rows of a tile at most: tokens times query heads of one KV head.
const TILE: usize = 12;
/// Groups of 16 keys that are taken at once.
const STEP: usize = 4;

/// Some tokens of a span: what one task attends for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    span: usize,
    first: usize,
    tokens: usize,
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
        assert!(shape.head_dim <= HEAD_DIM_MAX, "expected heads of at most {HEAD_DIM_MAX} values");
        let pieces = &mut self.scratch().pieces;
        cut(spans, (TILE * shape.kv_heads / shape.query_heads).max(1), pieces);
        let out = Parts::new(out);
        cache.read(layer, shape, Attend { cpu: self, shape, qkv, spans, pieces, out });
    }
}

/// The spans in pieces of at most `step` tokens, those with most keys first, so that none is waited for at the end.
fn cut(spans: &[Span<'_>], step: usize, pieces: &mut Vec<Piece>) {
    pieces.clear();
    for (index, span) in spans.iter().enumerate() {
        for first in (0..span.tokens).step_by(step) {
            pieces.push(Piece { span: index, first, tokens: step.min(span.tokens - first) });
        }
    }
    pieces.sort_unstable_by_key(|piece| {
        std::cmp::Reverse((spans[piece.span].context + piece.first, piece.span))
    });
}

/// One call.
struct Attend<'a> {
    cpu: &'a Cpu,
    shape: &'a AttentionShape,
    qkv: &'a [f32],
    spans: &'a [Span<'a>],
    pieces: &'a [Piece],
    out: Parts<'a, f32>,
}

impl Reader for Attend<'_> {
    fn read<V: Values>(self, pages: Pages<&Layer<V>>) {
        let kv_heads = self.shape.kv_heads;
        self.cpu.pool.run(self.pieces.len() * kv_heads, &|task| {
            let (piece, kv_head) = (self.pieces[task / kv_heads], task % kv_heads);
            self.cpu.isa.run(Task {
                call: &self,
                pages: &pages,
                span: &self.spans[piece.span],
                piece,
                kv_head,
            });
        });
    }
}

/// One piece and KV head.
struct Task<'a, V: Values> {
    call: &'a Attend<'a>,
    pages: &'a Pages<&'a Layer<V>>,
    span: &'a Span<'a>,
    piece: Piece,
    kv_head: usize,
}

/// Queries of a tile and what has become of them.
struct Tile<const R: usize> {
    /// Scaled; zeros in rows that no head has.
    queries: [[f32; HEAD_DIM_MAX]; R],
    /// Sums of values, each times its share, which [`Tile::sums`] is the sum of.
    out: [[[f32; GROUP]; HEAD_DIM_MAX / GROUP]; R],
    /// Of the keys of a step, then their shares.
    scores: [[[f32; GROUP]; STEP]; R],
    largest: [f32; R],
    sums: [f32; R],
    /// The last key that a row sees.
    positions: [usize; R],
}

/// Where the keys of a step lie.
#[derive(Clone, Copy, Default)]
struct Group {
    block: u32,
    /// First token, in its block and in its sequence.
    in_block: usize,
    position: usize,
    tokens: usize,
}

impl<V: Values> Kernel for Task<'_, V> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let heads = self.call.shape.query_heads / self.call.shape.kv_heads;
        let mut first_head = 0;
        while first_head < heads {
            // With few heads a tile has several tokens, with many it has a part of one token's.
            let count = (heads - first_head).min(TILE);
            match self.piece.tokens * count {
                1 => self.tile::<L, 1>(first_head, count),
                2..=4 => self.tile::<L, 4>(first_head, count),
                5..=8 => self.tile::<L, 8>(first_head, count),
                _ => self.tile::<L, TILE>(first_head, count),
            }
            first_head += count;
        }
    }
}

impl<V: Values> Task<'_, V> {
    #[inline(always)]
    fn tile<L: Lanes, const R: usize>(&self, first_head: usize, heads: usize) {
        let mut tile = Tile::<R> {
            queries: [[0.0; HEAD_DIM_MAX]; R],
            out: [[[0.0; GROUP]; HEAD_DIM_MAX / GROUP]; R],
            scores: [[[0.0; GROUP]; STEP]; R],
            largest: [f32::NEG_INFINITY; R],
            sums: [0.0; R],
            positions: [0; R],
        };
        self.load(first_head, heads, &mut tile);
        let keys = self.span.context + self.piece.first + self.piece.tokens;
        let (mut position, mut groups) = (0, [Group::default(); STEP]);
        while position < keys {
            let count = self.next_groups(&mut position, keys, &mut groups);
            let groups = &groups[..count];
            self.scores::<L, R>(groups, &mut tile);
            let factors = tile.shares(groups);
            let mut vector = 0;
            while vector + 2 <= self.pages.value_vectors() {
                self.values::<L, R, 2>(groups, vector, &factors, &mut tile);
                vector += 2;
            }
            if vector < self.pages.value_vectors() {
                self.values::<L, R, 1>(groups, vector, &factors, &mut tile);
            }
        }
        self.store(first_head, heads, &tile);
    }

    /// Rows are tokens times heads.
    #[inline(always)]
    fn load<const R: usize>(&self, first_head: usize, heads: usize, tile: &mut Tile<R>) {
        let AttentionShape { query_heads, kv_heads, head_dim, scale } = *self.call.shape;
        let width = (query_heads + 2 * kv_heads) * head_dim;
        let first_head = self.kv_head * (query_heads / kv_heads) + first_head;
        for row in 0..self.piece.tokens * heads {
            let token = self.piece.first + row / heads;
            let start = (self.span.first_row + token) * width + (first_head + row % heads) * head_dim;
            for (scaled, query) in tile.queries[row].iter_mut().zip(&self.call.qkv[start..start + head_dim]) {
                *scaled = query * scale;
            }
            tile.positions[row] = self.span.context + token;
        }
    }

    /// The groups from `position` on, up to a step's and no further than `keys`.
    #[inline(always)]
    fn next_groups(&self, position: &mut usize, keys: usize, groups: &mut [Group; STEP]) -> usize {
        let block_size = self.pages.block_size;
        for (count, group) in groups.iter_mut().enumerate() {
            if *position >= keys {
                return count;
            }
            let in_block = *position % block_size;
            let tokens = GROUP.min(block_size - in_block).min(keys - *position);
            *group = Group {
                block: self.span.table[*position / block_size],
                in_block,
                position: *position,
                tokens,
            };
            *position += tokens;
        }
        STEP
    }

    /// Each row's query times each key, minus infinity where the row does not see it: one chain over the head's values.
    #[inline(always)]
    fn scores<L: Lanes, const R: usize>(&self, groups: &[Group], tile: &mut Tile<R>) {
        let mut index = 0;
        while index < groups.len() {
            match groups.len() - index {
                1 => self.score_groups::<L, R, 1>(groups, index, tile),
                _ => self.score_groups::<L, R, 2>(groups, index, tile),
            }
            index += 2;
        }
    }

    #[inline(always)]
    fn score_groups<L: Lanes, const R: usize, const G: usize>(
        &self,
        groups: &[Group],
        first: usize,
        tile: &mut Tile<R>,
    ) {
        let mut keys: [&[[V::Stored; GROUP]]; G] = [&[]; G];
        for (keys, group) in keys.iter_mut().zip(&groups[first..]) {
            *keys = self.pages.keys(group.block, self.kv_head, group.in_block / GROUP);
        }
        let head_dim = self.pages.head_dim.min(HEAD_DIM_MAX);
        let mut sums = [[L::splat(0.0); G]; R];
        for i in 0..head_dim {
            let mut wide = [L::splat(0.0); G];
            for (wide, keys) in wide.iter_mut().zip(&keys) {
                *wide = V::wide::<L>(&keys[i]);
            }
            for (sums, queries) in sums.iter_mut().zip(&tile.queries) {
                let query = L::splat(queries[i]);
                for (sum, &wide) in sums.iter_mut().zip(&wide) {
                    *sum = sum.add_product(query, wide);
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (index, &sum) in sums.iter().enumerate() {
                let scores = &mut tile.scores[row][first + index];
                sum.store(scores);
                let group = &groups[first + index];
                let seen = (tile.positions[row] + 1).saturating_sub(group.position).min(group.tokens);
                if seen < GROUP {
                    scores[seen..].fill(f32::NEG_INFINITY);
                }
            }
        }
    }

    /// Adds the step's values, each times its share, to D vectors of each row's output, which `factors` first scale.
    #[inline(always)]
    fn values<L: Lanes, const R: usize, const D: usize>(
        &self,
        groups: &[Group],
        vector: usize,
        factors: &[f32; R],
        tile: &mut Tile<R>,
    ) {
        let mut sums = [[L::splat(0.0); D]; R];
        for (row, sums) in sums.iter_mut().enumerate() {
            for (sum, out) in sums.iter_mut().zip(&tile.out[row][vector..]) {
                *sum = L::load(out).mul(L::splat(factors[row]));
            }
        }
        for (index, group) in groups.iter().enumerate() {
            let values = self.pages.values(group.block, self.kv_head, group.in_block, group.tokens);
            let mut shares: [&[f32; GROUP]; R] = [&[0.0; GROUP]; R];
            for (shares, scores) in shares.iter_mut().zip(&tile.scores) {
                *shares = &scores[index];
            }
            sums = add_values::<L, V, R, D>(
                sums,
                &shares,
                &values[vector..],
                self.pages.value_vectors(),
                group.tokens,
            );
        }
        for (row, sums) in sums.iter().enumerate() {
            for (sum, out) in sums.iter().zip(&mut tile.out[row][vector..]) {
                sum.store(out);
            }
        }
    }

    #[inline(always)]
    fn store<const R: usize>(&self, first_head: usize, heads: usize, tile: &Tile<R>) {
        let AttentionShape { query_heads, kv_heads, head_dim, .. } = *self.call.shape;
        let first_head = self.kv_head * (query_heads / kv_heads) + first_head;
        for row in 0..self.piece.tokens * heads {
            let token = self.span.first_row + self.piece.first + row / heads;
            let start = (token * query_heads + first_head + row % heads) * head_dim;
            // SAFETY: one task has these heads of these tokens.
            let out = unsafe { self.call.out.part(start, head_dim) };
            let scale = 1.0 / tile.sums[row];
            for (out, value) in out.iter_mut().zip(tile.out[row].as_flattened()) {
                *out = value * scale;
            }
        }
    }
}

impl<const R: usize> Tile<R> {
    /// Scores become shares of the largest so far; the answer is what makes older sums comparable.
    #[inline(always)]
    fn shares(&mut self, groups: &[Group]) -> [f32; R] {
        let mut factors = [1.0; R];
        for (row, scores) in self.scores.iter_mut().enumerate() {
            let mut most = [f32::NEG_INFINITY; GROUP];
            let mut sums = [0.0; GROUP];
            for scores in &scores[..groups.len()] {
                for (most, &score) in most.iter_mut().zip(scores) {
                    *most = if score > *most { score } else { *most };
                }
            }
            let mut largest = self.largest[row];
            for most in most {
                largest = if most > largest { most } else { largest };
            }
            for scores in &mut scores[..groups.len()] {
                for (score, sum) in scores.iter_mut().zip(&mut sums) {
                    *score = exp(*score - largest);
                    *sum += *score;
                }
            }
            factors[row] = exp(self.largest[row] - largest);
            self.sums[row] = self.sums[row] * factors[row] + sums.iter().sum::<f32>();
            self.largest[row] = largest;
        }
        factors
    }
}

/// Adds D vectors of each token's values, which are `stride` vectors apart, each times the rows' shares.
#[inline(always)]
fn add_values<L: Lanes, V: Values, const R: usize, const D: usize>(
    mut sums: [[L; D]; R],
    shares: &[&[f32; GROUP]; R],
    values: &[[V::Stored; GROUP]],
    stride: usize,
    tokens: usize,
) -> [[L; D]; R] {
    for key in 0..tokens.min(GROUP) {
        let values = &values[key * stride..][..D];
        let mut wide = [L::splat(0.0); D];
        for (wide, values) in wide.iter_mut().zip(values) {
            *wide = V::wide::<L>(values);
        }
        for (sums, shares) in sums.iter_mut().zip(shares) {
            let share = L::splat(shares[key]);
            for (sum, &wide) in sums.iter_mut().zip(&wide) {
                *sum = sum.add_product(share, wide);
            }
        }
    }
    sums
}
