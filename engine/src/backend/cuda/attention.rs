//! Attention over the paged cache: one kernel for sequences with one new token, products and a softmax for longer chunks.

use super::batch::{Batch, Chunk, Decodes};
use super::blas::{Matrices, Output, Product, Right};
use super::card::Card;
use super::compile::Element;
use super::error::CudaError;
use super::launch::Argument;
use super::scratch::Scratch;
use super::tensor::{KvCache, Layer, Tensor};
use crate::backend::AttentionShape;

/// Of the decode kernel (`attention.cu`): query heads that share a read of their keys, and warps of a block.
const HEADS: usize = 8;
const DECODE_WARPS: usize = 4;
/// Parts of a sequence that blocks take each, at most.
const SPLITS_MAX: usize = 8;
/// A block of the decode kernel should have as many keys, or splitting costs more than it saves.
const KEYS_PER_SPLIT: usize = 64;
/// Scores and shares of a tile of a chunk; half of an A100's second-level cache.
const TILE_BYTES: usize = 20 << 20;
/// Tokens of a tile at least.
const TILE_TOKENS_MIN: usize = 16;

/// Buffers of all layers' attention.
#[derive(Debug, Default)]
pub(super) struct Room {
    parts: Scratch,
    keys: Scratch,
    values: Scratch,
    scores: Scratch,
    shares: Scratch,
}

/// One layer's attention of one batch.
pub(super) struct Attention<'a> {
    pub(super) card: &'a Card,
    pub(super) shape: &'a AttentionShape,
    pub(super) kv: &'a KvCache,
    pub(super) layer: usize,
    pub(super) batch: &'a Batch,
    pub(super) qkv: &'a Tensor,
    /// Has its shape.
    pub(super) out: &'a Tensor,
    /// Whether to take the flash kernel where there is one.
    pub(super) flash: bool,
}

/// A chunk's keys and values side by side, and which of its tokens a tile has.
struct Tile {
    keys: u64,
    values: u64,
    /// Of the whole chunk and what is before it.
    keys_all: usize,
    first: usize,
    tokens: usize,
}

impl Attention<'_> {
    pub(super) fn run(&self, room: &mut Room) -> Result<(), CudaError> {
        for run in &self.batch.decodes {
            self.decode(run, room)?;
        }
        match self.flash_kernel() {
            Some(kernel) => self.chunks(kernel),
            None => self.batch.chunks.iter().try_for_each(|chunk| self.chunk(chunk, room)),
        }
    }

    /// The flash kernel for these heads: it takes values that tensor cores take, and heads of two sizes.
    fn flash_kernel(&self) -> Option<&'static str> {
        let takes = self.flash && self.card.element() != Element::F32;
        match self.shape.head_dim {
            64 if takes => Some("flash_prefill_64"),
            128 if takes => Some("flash_prefill_128"),
            _ => None,
        }
    }

    /// All chunks at once, straight over the cache.
    fn chunks(&self, kernel: &'static str) -> Result<(), CudaError> {
        let AttentionShape { query_heads, kv_heads, scale, .. } = *self.shape;
        let batch = self.batch;
        self.card.launch(
            kernel,
            [batch.tiles, query_heads, 1],
            128,
            &[
                Argument::Pointer(self.out.pointer()),
                Argument::Pointer(self.qkv.pointer()),
                Argument::Pointer(self.layer().keys.pointer),
                Argument::Pointer(self.layer().values.pointer),
                Argument::Pointer(batch.tiles_at),
                Argument::Pointer(batch.spans_at),
                Argument::Pointer(batch.tables),
                Argument::I32(batch.table_width as i32),
                Argument::I32(self.kv.block_size as i32),
                Argument::I32(query_heads as i32),
                Argument::I32(kv_heads as i32),
                Argument::F32(scale),
            ],
        )
    }

    fn layer(&self) -> &Layer {
        &self.kv.layers[self.layer]
    }

    /// Values of a row of `qkv`.
    fn width(&self) -> usize {
        (self.shape.query_heads + 2 * self.shape.kv_heads) * self.shape.head_dim
    }

    /// Query heads of a KV head.
    fn group(&self) -> usize {
        self.shape.query_heads / self.shape.kv_heads
    }

    /// Blocks that would fill the card twice, in tiles of a sequence.
    fn wanted(&self) -> usize {
        let tiles = self.shape.kv_heads * self.group().div_ceil(HEADS);
        (2 * self.card.multiprocessors).div_ceil(tiles)
    }

    fn decode(&self, run: &Decodes, room: &mut Room) -> Result<(), CudaError> {
        let AttentionShape { query_heads, kv_heads, head_dim, scale } = *self.shape;
        let (card, batch, bytes) = (self.card, self.batch, self.card.value_bytes());
        let splits = splits(self.wanted(), run.count, run.keys_max);
        let parts = splits * DECODE_WARPS;
        let most = query_heads * splits_max(self.wanted(), run.count) * DECODE_WARPS * (head_dim + 2);
        let partial = room.parts.room(card, 4 * most)?;
        let queries = self.qkv.pointer() + (run.row * self.width() * bytes) as u64;
        let tables = batch.tables + 4 * (run.span * batch.table_width) as u64;
        card.launch(
            "paged_decode",
            [splits, kv_heads * self.group().div_ceil(HEADS), run.count],
            32 * DECODE_WARPS as u32,
            &[
                Argument::Pointer(partial),
                Argument::Pointer(queries),
                Argument::Pointer(self.layer().keys.pointer),
                Argument::Pointer(self.layer().values.pointer),
                Argument::Pointer(batch.lengths + 4 * run.span as u64),
                Argument::Pointer(tables),
                Argument::I32(batch.table_width as i32),
                Argument::I32(self.kv.block_size as i32),
                Argument::I32(query_heads as i32),
                Argument::I32(kv_heads as i32),
                Argument::I32(head_dim as i32),
                Argument::F32(scale),
            ],
        )?;
        let out = self.out.pointer() + (run.row * query_heads * head_dim * bytes) as u64;
        card.launch(
            "combine",
            [run.count * query_heads, 1, 1],
            128,
            &[
                Argument::Pointer(out),
                Argument::Pointer(partial),
                Argument::I32(parts as i32),
                Argument::I32(head_dim as i32),
            ],
        )
    }

    fn chunk(&self, chunk: &Chunk, room: &mut Room) -> Result<(), CudaError> {
        let AttentionShape { kv_heads, head_dim, .. } = *self.shape;
        let bytes = self.card.value_bytes();
        let keys_all = chunk.context + chunk.tokens;
        let gathered = kv_heads * keys_all * head_dim * bytes;
        let keys = room.keys.room(self.card, gathered)?;
        let values = room.values.room(self.card, gathered)?;
        self.gather(chunk, keys_all, keys, values)?;
        let most = tile_tokens(self.tile_scores(), chunk.tokens, keys_all);
        for kv_head in 0..kv_heads {
            let head = (kv_head * keys_all * head_dim * bytes) as u64;
            for first in (0..chunk.tokens).step_by(most) {
                let tokens = most.min(chunk.tokens - first);
                let tile = Tile { keys: keys + head, values: values + head, keys_all, first, tokens };
                self.tile(chunk, kv_head, &tile, room)?;
            }
        }
        Ok(())
    }

    /// Scores of a query head in a tile, if its tokens are enough then.
    fn tile_scores(&self) -> usize {
        TILE_BYTES / (self.group() * (4 + self.card.value_bytes()))
    }

    fn gather(&self, chunk: &Chunk, keys_all: usize, keys: u64, values: u64) -> Result<(), CudaError> {
        let AttentionShape { kv_heads, head_dim, .. } = *self.shape;
        let table = self.batch.tables + 4 * (chunk.span * self.batch.table_width) as u64;
        self.card.launch(
            "gather_kv",
            [keys_all, kv_heads, 1],
            head_dim.next_multiple_of(32).min(256) as u32,
            &[
                Argument::Pointer(keys),
                Argument::Pointer(values),
                Argument::Pointer(self.layer().keys.pointer),
                Argument::Pointer(self.layer().values.pointer),
                Argument::Pointer(table),
                Argument::I32(self.kv.block_size as i32),
                Argument::I32(kv_heads as i32),
                Argument::I32(head_dim as i32),
            ],
        )
    }

    /// Some tokens of a chunk against the keys up to the last of them, for the query heads of one KV head.
    fn tile(&self, chunk: &Chunk, kv_head: usize, tile: &Tile, room: &mut Room) -> Result<(), CudaError> {
        let AttentionShape { head_dim, scale, query_heads, .. } = *self.shape;
        let Tile { first, tokens, .. } = *tile;
        let (card, bytes, group, width) = (self.card, self.card.value_bytes(), self.group(), self.width());
        let context = chunk.context + first;
        let keys = context + tokens;
        debug_assert!(keys <= tile.keys_all, "a tile ends within its chunk");
        let most = tile_scores_max(self.tile_scores(), chunk.tokens, tile.keys_all);
        let scores = room.scores.room(card, 4 * group * most)?;
        let shares = room.shares.room(card, bytes * group * most)?;
        let (row, head) = (chunk.row + first, kv_head * group * head_dim);
        let queries = self.qkv.pointer() + ((row * width + head) * bytes) as u64;
        let out = self.out.pointer() + ((row * query_heads * head_dim + head) * bytes) as u64;
        let (square, wide) = (tokens * keys, query_heads * head_dim);
        card.product(&Product {
            what: "scores of a chunk",
            m: tokens,
            n: keys,
            k: head_dim,
            batch: group,
            a: Matrices { pointer: queries, row: width, next: head_dim },
            b: Matrices { pointer: tile.keys, row: head_dim, next: 0 },
            right: Right::Transposed,
            out: Matrices { pointer: scores, row: keys, next: square },
            output: Output::F32,
        })?;
        card.launch(
            "causal_softmax",
            [group * tokens, 1, 1],
            256,
            &[
                Argument::Pointer(shares),
                Argument::Pointer(scores),
                Argument::F32(scale),
                Argument::I32(tokens as i32),
                Argument::I32(keys as i32),
                Argument::I32(context as i32),
            ],
        )?;
        card.product(&Product {
            what: "values of a chunk",
            m: tokens,
            n: head_dim,
            k: keys,
            batch: group,
            a: Matrices { pointer: shares, row: keys, next: square },
            b: Matrices { pointer: tile.values, row: head_dim, next: 0 },
            right: Right::AsIs,
            out: Matrices { pointer: out, row: wide, next: head_dim },
            output: Output::Element,
        })
    }
}

/// How many blocks share each of `count` sequences: enough for `wanted` in all, if the keys suffice.
fn splits(wanted: usize, count: usize, keys_max: usize) -> usize {
    wanted.div_ceil(count).min(keys_max.div_ceil(KEYS_PER_SPLIT)).clamp(1, SPLITS_MAX)
}

/// Splits of so many sequences together, whatever their keys: never less for more of them, so that room is made once, for the largest batch.
fn splits_max(wanted: usize, count: usize) -> usize {
    (wanted + count).min(SPLITS_MAX * count)
}

/// Tokens of a tile of a chunk, a query head of which may have so many scores.
fn tile_tokens(scores: usize, tokens: usize, keys_all: usize) -> usize {
    (scores / keys_all).max(TILE_TOKENS_MIN).min(tokens)
}

/// Scores of a query head in any tile of a chunk: never less for more tokens or keys, for the same reason.
fn tile_scores_max(scores: usize, tokens: usize, keys_all: usize) -> usize {
    scores.max(TILE_TOKENS_MIN * keys_all).min(tokens * keys_all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_a_decode_takes_fits_in_the_room_of_any_larger_one(
            wanted in 1_usize..500,
            count in 1_usize..600,
            more in 0_usize..600,
            keys_max in 1_usize..5000,
        ) {
            let room = splits_max(wanted, count + more);
            prop_assert!(count * splits(wanted, count, keys_max) <= room);
            prop_assert!(splits_max(wanted, count) <= room);
        }

        #[test]
        fn what_a_tile_takes_fits_in_the_room_of_any_larger_chunk(
            scores in 1_usize..1_000_000,
            (tokens, more_tokens) in (1_usize..2000, 0_usize..2000),
            (context, more_context) in (0_usize..20_000, 0_usize..20_000),
        ) {
            let keys_all = context + tokens;
            let room = tile_scores_max(scores, tokens + more_tokens, keys_all + more_tokens + more_context);
            prop_assert!(tile_tokens(scores, tokens, keys_all) * keys_all <= room);
            prop_assert!(tile_scores_max(scores, tokens, keys_all) <= room);
        }
    }
}
