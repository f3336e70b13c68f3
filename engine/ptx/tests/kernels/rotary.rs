//! Rotary embedding and the paged cache.

use chariot_ptx::Argument::{Buffer, I32};

use crate::card::{Card, Element, in_each, wide};
use crate::nvrtc::ROTARY;

in_each!(ROTARY, rotate_store, gather_kv);

const QUERY: usize = 5;
const KV: usize = 3;
const DIM: usize = 38;
const HALF: usize = DIM / 2;
const BLOCK: usize = 3;
const BLOCKS: usize = 7;
const WIDTH: usize = (QUERY + 2 * KV) * DIM;
const SHAPE: [chariot_ptx::Argument; 4] =
    [I32(BLOCK as i32), I32(QUERY as i32), I32(KV as i32), I32(DIM as i32)];

/// Where a head's values of a position lie in the cache.
fn slot(table: &[u32], position: usize, head: usize) -> usize {
    ((table[position / BLOCK] as usize * KV + head) * BLOCK + position % BLOCK) * DIM
}

fn rotate_store(mut card: Card) {
    let mut qkv = card.element.noise(1, 3 * WIDTH);
    // In a query's lower and a key's upper half.
    (qkv[3], qkv[2 * QUERY * DIM - 1]) = (f32::NAN, f32::NAN);
    let (cosines, sines) = (Element::F32.noise(2, 9 * HALF), Element::F32.noise(3, 9 * HALF));
    // Two tokens of one sequence, the later first, and one of another.
    let (positions, seqs, tables) = ([8_u32, 1, 7], [1_u32, 0, 1], [0_u32, 3, 2, 6, 1, 5]);
    let unwritten = vec![9.0_f32; BLOCKS * BLOCK * KV * DIM];
    let [cosines_there, sines_there] = [&cosines, &sines].map(|v| card.memory.put(v));
    let indices = [&positions[..], &seqs, &tables].map(|v| Buffer(card.memory.put(v)));
    let (mut turned, mut stored) = (wide(&qkv), [wide(&unwritten), wide(&unwritten)]);
    for row in 0..3 {
        let (position, table) = (positions[row] as usize, &tables[3 * seqs[row] as usize..]);
        for head in 0..QUERY + KV {
            for i in 0..HALF {
                let at = row * WIDTH + head * DIM + i;
                let (low, high) = (turned[at], turned[at + HALF]);
                let [cos, sin] = [&cosines, &sines].map(|v| f64::from(v[position * HALF + i]));
                (turned[at], turned[at + HALF]) = (low * cos - high * sin, high * cos + low * sin);
            }
        }
        for (part, stored) in stored.iter_mut().enumerate() {
            for head in 0..KV {
                let (from, to) =
                    (row * WIDTH + (QUERY + part * KV + head) * DIM, slot(table, position, head));
                stored[to..to + DIM].copy_from_slice(&turned[from..from + DIM]);
            }
        }
    }
    // Of a block: fewer than pairs, and more than pairs and values.
    for threads in [64, 160] {
        let [there, keys, values] = [&qkv, &unwritten, &unwritten].map(|v| card.put(v));
        let mut arguments = [there, keys, values, cosines_there, sines_there].map(Buffer).to_vec();
        arguments.extend(indices);
        arguments.push(I32(3));
        arguments.extend(SHAPE);
        card.run("rotate_store", [3, 1, 1], threads, &arguments);
        card.near(there, &turned, 1.0);
        card.near(keys, &stored[0], 1.0);
        card.near(values, &stored[1], 1.0);
        // The cache has the turned keys' bits, rounded once.
        let (qkv, keys) = (card.take(there), card.take(keys));
        let to = slot(&tables, 1, 2);
        assert_eq!(keys[to..to + DIM], qkv[WIDTH + (QUERY + 2) * DIM..][..DIM]);
    }
}

fn gather_kv(mut card: Card) {
    let count = BLOCKS * BLOCK * KV * DIM;
    let (keys, values, tokens) = (card.element.noise(4, count), card.element.noise(5, count), 8);
    let table = [6_u32, 0, 3];
    let pool = [&keys, &values].map(|v| card.put(v));
    let table_there = Buffer(card.memory.put(&table));
    for threads in [32, 64] {
        let out = [0, 1].map(|_| card.room(KV * tokens * DIM));
        let mut arguments = [out, pool].concat().into_iter().map(Buffer).collect::<Vec<_>>();
        arguments.push(table_there);
        arguments.extend([SHAPE[0], SHAPE[2], SHAPE[3]]);
        card.run("gather_kv", [tokens as u32, KV as u32, 1], threads, &arguments);
        for (pool, out) in [&keys, &values].into_iter().zip(out) {
            let places = (0..KV).flat_map(|head| (0..tokens).map(move |position| (head, position)));
            let row = |(head, position)| &pool[slot(&table, position, head)..][..DIM];
            assert_eq!(card.take(out), places.map(row).collect::<Vec<_>>().concat());
        }
    }
}
