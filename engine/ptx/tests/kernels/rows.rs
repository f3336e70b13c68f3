//! Rows by index.

use chariot_ptx::Argument::{Buffer, I32, U32};

use crate::card::{Card, in_each};
use crate::nvrtc::EMBEDDING;

in_each!(EMBEDDING, embed, gather_rows);

const HIDDEN: usize = 37;
/// Of a block: some of them twice, one value beyond the row, all at once.
const THREADS: [u32; 3] = [32, 36, 64];

fn embed(mut card: Card) {
    let (first, rows) = (10_u32, 4_u32);
    let table = card.element.noise(1, rows as usize * HIDDEN);
    let tokens = [13_u32, 9, 10, 14, 0];
    let (table_there, tokens_there) = (card.put(&table), card.memory.put(&tokens));
    let rest = [Buffer(table_there), Buffer(tokens_there), U32(first), U32(rows), I32(HIDDEN as i32)];
    let row = |token: u32| match token.checked_sub(first).filter(|row| *row < rows) {
        Some(row) => table[row as usize * HIDDEN..][..HIDDEN].to_vec(),
        None => vec![0.0; HIDDEN],
    };
    let expected: Vec<f32> = tokens.iter().flat_map(|&token| row(token)).collect();
    for threads in THREADS {
        let out = card.room(tokens.len() * HIDDEN);
        card.run("embed", [tokens.len() as u32, 1, 1], threads, &[&[Buffer(out)][..], &rest].concat());
        assert_eq!(card.take(out), expected);
    }
}

fn gather_rows(mut card: Card) {
    let x = card.element.noise(2, 4 * HIDDEN);
    let (there, indices) = (card.put(&x), card.memory.put(&[3_u32, 0, 3]));
    for threads in THREADS {
        let out = card.room(3 * HIDDEN);
        let arguments = [Buffer(out), Buffer(there), Buffer(indices), I32(HIDDEN as i32)];
        card.run("gather_rows", [3, 1, 1], threads, &arguments);
        assert_eq!(card.take(out), [&x[3 * HIDDEN..], &x[..HIDDEN], &x[3 * HIDDEN..]].concat());
    }
}
