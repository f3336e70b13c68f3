//! Draws by temperature and top_p: the tokens that the host draws, to the bit.

use std::collections::BTreeSet;

use cudarc::driver::PushKernelArg;

use super::card::{Card, in_all, run};
use super::draw_rows::{Rows, rows};

const SAMPLING: &str = include_str!("../../../../src/backend/cuda/kernels/sampling.cu");

/// Rows of ranks' parts `[ranks, held, vocab]`.
fn check(card: &Card, count: usize, shape: [usize; 3], threads: u32) {
    let Rows { all, how, tokens: expected } = rows(count, shape, |logit| card.element.round(logit));
    let [_, held, vocab] = shape;
    let (there, how, mut tokens) = (card.put(&all), card.put_plain(&how), card.room_plain::<u32>(count));
    run!(
        card,
        "draw",
        (count as u32, 1, 1),
        threads,
        &mut tokens,
        &there,
        &how,
        &(held as i32),
        &(vocab as i32),
    );
    assert_eq!(card.take_plain(&tokens), expected, "{:?}, {shape:?}, {threads} threads", card.element);
    let different = expected.iter().collect::<BTreeSet<_>>().len();
    assert!(different > count / 3, "{different} tokens of {count} rows: they could be any");
}

#[test]
fn tokens() {
    in_all!("kernels::draws::tokens", text SAMPLING, |card| {
        check(&card, 60, [1, 531, 531], 96);
        check(&card, 60, [3, 180, 531], 64);
        // The last rank has nothing, nor have most warps of a block.
        check(&card, 5, [4, 40, 97], 1024);
        check(&card, 12, [2, 16, 32], 256);
    });
}

#[test]
fn one_logit() {
    in_all!("kernels::draws::one_logit", text SAMPLING, |card| {
        let there = card.put(&[-3.0]);
        let how = card.put_plain(&[u32::MAX, u32::MAX, 7, u32::MAX, 1.0_f32.to_bits(), 0]);
        let mut tokens = card.room_plain::<u32>(1);
        run!(card, "draw", (1, 1, 1), 64, &mut tokens, &there, &how, &1_i32, &1_i32);
        assert_eq!(card.take_plain(&tokens), [0]);
    });
}
