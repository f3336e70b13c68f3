//! The chunk's softmax, and decode attention over pages.

use chariot_ptx::Argument::{Buffer, F32, I32};
use chariot_ptx::LaunchError;

use crate::card::{Card, Element, in_each, wide};
use crate::nvrtc::ATTENTION;

in_each!(ATTENTION, causal_softmax, paged_decode_and_combine, long_heads, combine);

/// Shares of the first `seen`, zeros for the rest.
fn softmax(scores: impl Iterator<Item = f64>, seen: usize) -> Vec<f64> {
    let exponents: Vec<f64> = scores.enumerate().map(|(i, s)| if i < seen { s.exp() } else { 0.0 }).collect();
    let sum: f64 = exponents.iter().sum();
    (0..exponents.len()).map(|i| if i < seen { exponents[i] / sum } else { 0.0 }).collect()
}

fn causal_softmax(mut card: Card) {
    // One warp, and so many that they are combined four at a time with a rest; fewer and more than keys.
    for threads in [32, 64, 224, 288] {
        shares_of_a_chunk(&mut card, threads, 3.0).unwrap();
        shares_of_a_chunk(&mut card, threads, 64.0).unwrap();
    }
}

/// The last row has a NaN.
pub(crate) fn shares_of_a_chunk(card: &mut Card, threads: u32, scale: f32) -> Result<(), LaunchError> {
    let (heads, tokens, context) = (2, 5, 250);
    let keys = context + tokens;
    let mut scores = Element::F32.noise(1, heads * tokens * keys);
    if scale > 3.0 {
        // One score stands out so far that missing it as the largest makes its exponent infinite.
        scores.iter_mut().for_each(|score| *score = *score * 0.25 - 0.75);
        (0..heads * tokens).for_each(|row| scores[row * keys + row * 53 % context] = 1.0);
    }
    scores[(heads * tokens - 1) * keys + 3] = f32::NAN;
    let (there, shares) = (card.memory.put(&scores), card.room(scores.len()));
    let counts = [tokens, keys, context].map(|count| I32(count as i32));
    let arguments = [&[Buffer(shares), Buffer(there), F32(scale)][..], &counts].concat();
    card.try_run("causal_softmax", [(heads * tokens) as u32, 1, 1], threads, &arguments)?;
    let mut expected = Vec::new();
    for (row, scores) in scores.chunks(keys).enumerate() {
        expected.extend(softmax(
            scores.iter().map(|&s| f64::from(scale) * f64::from(s)),
            context + row % tokens + 1,
        ));
    }
    // Of scores up to 3 a share is of the size of e^3 / sum.
    card.near(shares, &expected, if scale > 3.0 { 1.0 } else { 0.02 });
    Ok(())
}

/// Heads, cache and sequences of a test.
struct Decode {
    query: usize,
    kv: usize,
    dim: usize,
    block: usize,
    lengths: [u32; 2],
    /// Four blocks a sequence, of six.
    tables: [u32; 8],
    splits: usize,
    scale: f32,
}

fn paged_decode_and_combine(card: Card) {
    // Eleven query heads on a KV head, more than share a tile; one sequence leaves most parts without a key.
    let tables = [2, 0, 0, 0, 5, 1, 4, 3];
    let (lengths, splits, scale) = ([1, 14], 2, 0.5);
    decode(card, &Decode { query: 22, kv: 2, dim: 37, block: 4, lengths, tables, splits, scale });
}

fn long_heads(card: Card) {
    let tables = [1, 3, 0, 0, 5, 4, 2, 0];
    // Scores up to some hundred: without the largest taken off, exponents would be infinite.
    let (lengths, splits, scale) = ([6, 13], 1, 16.0);
    decode(card, &Decode { query: 11, kv: 1, dim: 233, block: 5, lengths, tables, splits, scale });
}

/// Of parts that are no multiple of four, one of them without a key.
fn combine(mut card: Card) {
    let (rows, dim) = (3, 37);
    for parts in [1, 2, 3, 7] {
        let mut partial = Element::F32.noise(5, rows * parts * (dim + 2));
        for (i, part) in partial.chunks_mut(dim + 2).enumerate() {
            (part[0], part[1]) = (part[0] * 100.0, part[1] + 2.0);
            if i % parts == 1 {
                part.fill(0.0);
                part[0] = f32::NEG_INFINITY;
            }
        }
        let (there, out) = (card.memory.put(&partial), card.room(rows * dim));
        let arguments = [Buffer(out), Buffer(there), I32(parts as i32), I32(dim as i32)];
        card.run("combine", [rows as u32, 1, 1], 64, &arguments);
        let mut expected = Vec::new();
        for row in wide(&partial).chunks(parts * (dim + 2)) {
            let parts: Vec<&[f64]> = row.chunks(dim + 2).collect();
            let most = parts.iter().map(|part| part[0]).fold(f64::MIN, f64::max);
            let sum = |at: usize| parts.iter().map(|part| (part[0] - most).exp() * part[at]).sum::<f64>();
            expected.extend((0..dim).map(|i| sum(2 + i) / sum(1)));
        }
        card.near(out, &expected, 1.0);
    }
}

fn decode(mut card: Card, test: &Decode) {
    let Decode { query, kv, dim, block, lengths, tables, splits, scale } = *test;
    let (width, cache) = ((query + 2 * kv) * dim, 6 * block * kv * dim);
    let noise = |seed, count| card.element.noise(seed, count);
    let (qkv, keys, values) = (noise(2, 2 * width), noise(3, cache), noise(4, cache));
    let there = [&qkv, &keys, &values].map(|v| Buffer(card.put(v)));
    let (parts, tiles) = (splits * 4, (query / kv).div_ceil(8));
    let partial = Buffer(card.memory.room(2 * query * parts * (dim + 2) * 4));
    let indices = [Buffer(card.memory.put(&lengths)), Buffer(card.memory.put(&tables))];
    let counts = [4, block, query, kv, dim].map(|count| I32(count as i32));
    let arguments = [&[partial][..], &there, &indices, &counts, &[F32(scale)]].concat();
    card.run("paged_decode", [splits as u32, (kv * tiles) as u32, 2], 128, &arguments);
    let out = card.room(2 * query * dim);
    let arguments = [Buffer(out), partial, I32(parts as i32), I32(dim as i32)];
    card.run("combine", [(2 * query) as u32, 1, 1], 32, &arguments);
    let mut expected = Vec::new();
    for seq in 0..2 {
        for head in 0..query {
            let of_head = &qkv[seq * width + head * dim..][..dim];
            let page = |position: usize| {
                let block_id = tables[seq * 4 + position / block] as usize;
                ((block_id * kv + head / (query / kv)) * block + position % block) * dim
            };
            let length = lengths[seq] as usize;
            let score = |position: usize| {
                let key = &keys[page(position)..][..dim];
                f64::from(scale)
                    * of_head.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>()
            };
            let shares = softmax((0..length).map(score), length);
            let value =
                |i: usize| (0..length).map(|p| shares[p] * f64::from(values[page(p) + i])).sum::<f64>();
            expected.extend((0..dim).map(value));
        }
    }
    // A score's error is the share's.
    card.near(out, &expected, f64::from(scale).max(1.0));
}
