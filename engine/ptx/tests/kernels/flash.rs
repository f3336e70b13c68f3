//! Attention of prompts' chunks over the paged cache, by tensor cores.

use chariot_ptx::Argument::{Buffer, F32, I32};
use chariot_ptx::{Fault, LaunchError};

use crate::card::{Card, Element, wide};
use crate::nvrtc::{CARDS, FLASH, compiled, compiled_for};

const ELEMENTS: [Element; 2] = [Element::Bf16, Element::F16];

/// Heads, cache and chunks of a step.
struct Step {
    query: usize,
    kv: usize,
    dim: usize,
    block: usize,
    /// Tokens, and those before them that the cache already has.
    chunks: &'static [(usize, usize)],
    /// Of scores.
    scale: f32,
}

/// Blocks of a chunk's table, more than any needs.
const TABLE: usize = 32;

/// Buffers as the host would fill them.
struct Filled {
    qkv: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    tiles: Vec<u32>,
    spans: Vec<u32>,
    tables: Vec<u32>,
    rows: usize,
}

impl Step {
    fn width(&self) -> usize {
        (self.query + 2 * self.kv) * self.dim
    }

    /// Where a head's key of a chunk's position lies in the cache.
    fn slot(&self, tables: &[u32], chunk: usize, position: usize, kv_head: usize) -> usize {
        let block = tables[chunk * TABLE + position / self.block] as usize;
        ((block * self.kv + kv_head) * self.block + position % self.block) * self.dim
    }

    /// The cache is NaN wherever no chunk has a token, and so is a row before the first chunk and behind each.
    fn filled(&self, element: Element) -> Filled {
        let blocks: usize =
            self.chunks.iter().map(|(tokens, context)| (tokens + context).div_ceil(self.block)).sum();
        // 7 is prime to the count, so that each block is taken once, in no order. Nobody has block 0.
        let count = if (blocks + 1).is_multiple_of(7) { blocks + 2 } else { blocks + 1 };
        let mut free = (1..count).map(|i| (i * 7 % count) as u32);
        let cache = count * self.kv * self.block * self.dim;
        let (mut keys, mut values) = (vec![f32::NAN; cache], vec![f32::NAN; cache]);
        let (mut tiles, mut spans, mut tables, mut rows) = (Vec::new(), Vec::new(), Vec::new(), 1);
        for (chunk, (tokens, context)) in self.chunks.iter().enumerate() {
            spans.extend([rows as u32, *tokens as u32, *context as u32]);
            tiles.extend((0..*tokens as u32).step_by(64).flat_map(|first| [chunk as u32, first]));
            rows += tokens + 1;
            let needed = (tokens + context).div_ceil(self.block);
            tables.extend(free.by_ref().take(needed).chain(std::iter::repeat_n(u32::MAX, TABLE - needed)));
            for position in 0..tokens + context {
                for head in 0..self.kv {
                    let (at, seed) = (
                        self.slot(&tables, chunk, position, head),
                        (chunk * 1000 + position) * self.kv + head,
                    );
                    keys[at..at + self.dim].copy_from_slice(&element.noise(2 * seed as u32 + 10, self.dim));
                    values[at..at + self.dim].copy_from_slice(&element.noise(2 * seed as u32 + 11, self.dim));
                }
            }
        }
        let mut qkv = element.noise(1, rows * self.width());
        for outside in [0].into_iter().chain(spans.chunks(3).map(|span| (span[0] + span[1]) as usize)) {
            qkv[outside * self.width()..][..self.width()].fill(f32::NAN);
        }
        Filled { qkv, keys, values, tiles, spans, tables, rows }
    }

    /// A row's result of one head, and the sum of its terms' sizes.
    fn attend(&self, filled: &Filled, chunk: usize, token: usize, head: usize) -> Vec<(f64, f64)> {
        let row = filled.spans[3 * chunk] as usize + token;
        let query = wide(&filled.qkv[row * self.width() + head * self.dim..][..self.dim]);
        let at = |position| self.slot(&filled.tables, chunk, position, head / (self.query / self.kv));
        let seen = self.chunks[chunk].1 + token + 1;
        let score = |position| {
            let key = &filled.keys[at(position)..][..self.dim];
            f64::from(self.scale) * query.iter().zip(key).map(|(q, k)| q * f64::from(*k)).sum::<f64>()
        };
        let scores: Vec<f64> = (0..seen).map(score).collect();
        let most = scores.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - most).exp()).sum();
        let mut out = vec![(0.0, 0.0); self.dim];
        for (position, score) in scores.iter().enumerate() {
            let share = (score - most).exp() / sum;
            for (out, value) in out.iter_mut().zip(&filled.values[at(position)..]) {
                *out = (out.0 + share * f64::from(*value), out.1 + share * f64::from(value.abs()));
            }
        }
        out
    }

    /// Launches, and checks every row: those outside of chunks must stay.
    fn run(&self, card: &mut Card) -> Result<(), LaunchError> {
        let filled = self.filled(card.element);
        let width = self.query * self.dim;
        let out = card.put(&vec![9.0; filled.rows * width]);
        let mut arguments = vec![Buffer(out)];
        arguments.extend([&filled.qkv, &filled.keys, &filled.values].map(|values| Buffer(card.put(values))));
        let indices = [&filled.tiles, &filled.spans, &filled.tables];
        arguments.extend(indices.map(|values| Buffer(card.memory.put(values))));
        arguments.extend([TABLE, self.block, self.query, self.kv].map(|count| I32(count as i32)));
        arguments.push(F32(self.scale));
        let grid = [filled.tiles.len() as u32 / 2, self.query as u32, 1];
        card.try_run(&format!("flash_prefill_{}", self.dim), grid, 128, &arguments)?;
        let mut expected = vec![(9.0, 0.0); filled.rows * width];
        for (chunk, (tokens, _)) in self.chunks.iter().enumerate() {
            for token in 0..*tokens {
                for head in 0..self.query {
                    let at = (filled.spans[3 * chunk] as usize + token) * width + head * self.dim;
                    expected[at..at + self.dim].copy_from_slice(&self.attend(&filled, chunk, token, head));
                }
            }
        }
        // Shares are rounded to the dtype, then their sum is.
        let rounding = card.element.rounding();
        for (at, (found, (expected, terms))) in card.take(out).iter().zip(expected).enumerate() {
            let allowed = 4e-6 * f64::from(self.scale).max(1.0) + rounding * (terms + expected.abs());
            let (row, head, i) = (at / width, at % width / self.dim, at % self.dim);
            let apart = (f64::from(*found) - expected).abs();
            assert!(
                apart <= allowed,
                "row {row}, head {head}, value {i}: expected {expected}, found {found}"
            );
        }
        Ok(())
    }
}

/// A sequence's beginning, its middle, one token that sees all of a tile, two of which the first sees all but one, and as many as a
/// tile has.
const MIXED: [(usize, usize); 5] = [(70, 0), (13, 100), (1, 63), (2, 62), (64, 64)];

fn check(step: &Step) {
    for element in ELEMENTS {
        let Some(mut card) = Card::new(FLASH, element) else { return };
        step.run(&mut card).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn heads_of_64() {
    check(&Step { query: 2, kv: 2, dim: 64, block: 16, chunks: &MIXED, scale: 1.0 });
}

#[test]
fn heads_of_128() {
    check(&Step { query: 1, kv: 1, dim: 128, block: 8, chunks: &MIXED, scale: 0.5 });
}

#[test]
fn three_query_heads_share_keys() {
    check(&Step { query: 6, kv: 2, dim: 64, block: 8, chunks: &[(45, 20), (22, 0)], scale: 1.0 });
}

#[test]
fn eight_query_heads_share_keys() {
    check(&Step { query: 16, kv: 2, dim: 128, block: 16, chunks: &[(9, 57), (3, 0)], scale: 0.5 });
}

#[test]
fn all_of_71_query_heads_share_keys() {
    check(&Step { query: 71, kv: 1, dim: 64, block: 16, chunks: &[(3, 64), (2, 0)], scale: 1.0 });
}

/// Without the largest taken off, exponents would be infinite.
#[test]
fn scores_of_hundreds() {
    check(&Step { query: 1, kv: 1, dim: 64, block: 5, chunks: &[(20, 77)], scale: 64.0 });
}

/// Without any one of its barriers and waits, which the PTX of both heads' lengths has, the kernel goes wrong in words.
#[test]
fn every_barrier_and_wait_is_missed() {
    let Some(ptx) = compiled(FLASH, Element::Bf16) else { return };
    // Three tiles of keys, so that each buffer is taken again.
    let step = |dim| Step { query: 1, kv: 1, dim, block: 16, chunks: &[(10, 140)], scale: 1.0 };
    for dim in [64, 128] {
        let start = ptx.find(&format!(".entry flash_prefill_{dim}(")).unwrap();
        let end = start + ptx[start..].find("\n}").unwrap();
        for (needed, at_least) in [("bar.sync \t0;", 3), ("cp.async.wait_all;", 2)] {
            let places: Vec<usize> =
                ptx[start..end].match_indices(needed).map(|(at, _)| start + at).collect();
            assert!(places.len() >= at_least, "{needed}: {places:?}");
            for at in places {
                let lacking = format!("{}{}", &ptx[..at], &ptx[at + needed.len()..]);
                let found = step(dim).run(&mut Card::of(&lacking, Element::Bf16));
                let is_found = |fault: &Fault| matches!(fault, Fault::Race { .. } | Fault::Unwritten { .. });
                assert!(
                    matches!(&found, Err(LaunchError::Fault { fault, .. }) if is_found(fault)),
                    "{needed} at {at}: {found:?}"
                );
            }
        }
    }
}

/// What makes it fast is in its text, on every card.
#[test]
fn it_takes_tensor_cores() {
    for element in ELEMENTS {
        let Some(texts) = compiled_for(&CARDS, FLASH, element) else { return };
        for (card, ptx) in CARDS.iter().zip(texts) {
            for dim in [64, 128] {
                assert_tensor_cores(&ptx, element.name(), dim, *card);
            }
        }
    }
}

fn assert_tensor_cores(ptx: &str, element: &str, dim: usize, card: u32) {
    let (_, entry) = ptx.split_once(&format!(".entry flash_prefill_{dim}(")).unwrap();
    let (entry, _) = entry.split_once("\n}").unwrap();
    let product = format!("mma.sync.aligned.m16n8k16.row.col.f32.{element}.{element}.f32");
    // 16 64 dim multiplications for a warp's scores and as many for its values; an instruction does 16 8 16, and two share
    // a load of tiles.
    let counts = [&product, "ldmatrix", "cp.async.cg"].map(|what| entry.matches(what).count());
    assert_eq!(counts[..2], [dim, dim / 2], "heads of {dim} on {card}");
    assert!(counts[2] > 0, "heads of {dim} on {card}");
}
