//! The chunk's softmax, and decode attention over pages.

use chariot_ptx::Argument::{Buffer, F32, I32};
use chariot_ptx::LaunchError;

use crate::card::{Card, Element, in_both};
use crate::nvrtc::ATTENTION;

in_both!(ATTENTION, causal_softmax, paged_decode_and_combine, long_heads);

/// Shares of the first `seen`, zeros for the rest.
fn softmax(scores: impl Iterator<Item = f64>, seen: usize) -> Vec<f64> {
    let exponents: Vec<f64> = scores.enumerate().map(|(i, s)| if i < seen { s.exp() } else { 0.0 }).collect();
    let sum: f64 = exponents.iter().sum();
    exponents.iter().map(|exponent| exponent / sum).collect()
}

fn causal_softmax(mut card: Card) {
    shares_of_a_chunk(&mut card).unwrap();
}

/// On blocks of two warps.
pub(crate) fn shares_of_a_chunk(card: &mut Card) -> Result<(), LaunchError> {
    let (heads, tokens, context) = (2, 5, 64);
    let keys = context + tokens;
    let scores = Element::F32.noise(1, heads * tokens * keys);
    let (there, shares) = (card.memory.put(&scores), card.room(scores.len()));
    let counts = [tokens, keys, context].map(|count| I32(count as i32));
    let arguments = [&[Buffer(shares), Buffer(there), F32(3.0)][..], &counts].concat();
    card.try_run("causal_softmax", [(heads * tokens) as u32, 1, 1], 64, &arguments)?;
    let mut expected = Vec::new();
    for (row, scores) in scores.chunks(keys).enumerate() {
        expected.extend(softmax(scores.iter().map(|&s| 3.0 * f64::from(s)), context + row % tokens + 1));
    }
    // A share is of the size of e^3 / sum.
    card.near(shares, &expected, 0.05);
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
}

fn paged_decode_and_combine(card: Card) {
    // Eleven query heads on a KV head, more than share a tile; one sequence leaves most parts without a key.
    let tables = [2, 0, 0, 0, 5, 1, 4, 3];
    decode(card, &Decode { query: 22, kv: 2, dim: 37, block: 4, lengths: [1, 14], tables, splits: 2 });
}

fn long_heads(card: Card) {
    let tables = [1, 3, 0, 0, 5, 4, 2, 0];
    decode(card, &Decode { query: 3, kv: 3, dim: 233, block: 5, lengths: [6, 13], tables, splits: 1 });
}

fn decode(mut card: Card, test: &Decode) {
    let Decode { query, kv, dim, block, lengths, tables, splits } = *test;
    let (width, cache) = ((query + 2 * kv) * dim, 6 * block * kv * dim);
    let noise = |seed, count| card.element.noise(seed, count);
    let (qkv, keys, values) = (noise(2, 2 * width), noise(3, cache), noise(4, cache));
    let there = [&qkv, &keys, &values].map(|v| Buffer(card.put(v)));
    let (parts, tiles) = (splits * 4, (query / kv).div_ceil(8));
    let partial = Buffer(card.memory.room(2 * query * parts * (dim + 2) * 4));
    let indices = [Buffer(card.memory.put(&lengths)), Buffer(card.memory.put(&tables))];
    let counts = [4, block, query, kv, dim].map(|count| I32(count as i32));
    let arguments = [&[partial][..], &there, &indices, &counts, &[F32(0.5)]].concat();
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
                0.5 * of_head.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>()
            };
            let shares = softmax((0..length).map(score), length);
            let value =
                |i: usize| (0..length).map(|p| shares[p] * f64::from(values[page(p) + i])).sum::<f64>();
            expected.extend((0..dim).map(value));
        }
    }
    card.near(out, &expected, 1.0);
}
