//! Tokens: the likeliest, and those that are drawn.

use chariot_ptx::Argument::{Buffer, I32, U32};
use chariot_ptx::LaunchError;

use crate::card::{Card, Element, in_each};
use crate::draw_rows::{Rows, rows};
use crate::nvrtc::SAMPLING;

in_each!(SAMPLING, argmax, draw);

fn argmax(mut card: Card) {
    // One warp, and so many that they are compared four at a time with a rest.
    for threads in [32, 96, 224, 320] {
        largest_logits(&mut card, threads).unwrap();
    }
    no_logit_above_minus_infinity(&mut card);
}

/// Rows of few different logits, so that equal ones stand in all threads: the first counts, whichever thread has it. Behind each row is
/// padding with larger values, which must not count.
pub(crate) fn largest_logits(card: &mut Card, threads: u32) -> Result<(), LaunchError> {
    let (rows, vocab, stride) = (40, 531, 544);
    let mut logits: Vec<f32> =
        Element::F32.noise(1, rows * stride).iter().map(|x| (x * 30.0).round()).collect();
    // In some rows one is the largest, wherever it stands.
    for row in 0..rows / 2 {
        logits[row * stride + row * 277 % vocab] = 31.0;
    }
    logits.chunks_mut(stride).for_each(|row| row[vocab..].fill(99.0));
    let there = card.memory.put(&logits);
    let [tokens, largest] = [0, 1].map(|_| card.memory.room(4 * rows));
    let counts = [I32(stride as i32), I32(vocab as i32)];
    let arguments = [&[Buffer(tokens), Buffer(largest), Buffer(there), U32(1000)][..], &counts].concat();
    card.try_run("argmax", [rows as u32, 1, 1], threads, &arguments)?;
    let most = |row: &[f32]| row.iter().copied().fold(f32::MIN, f32::max);
    let first = |row: &[f32]| 1000 + row.iter().position(|&logit| logit == most(row)).unwrap() as u32;
    let of_rows = || logits.chunks(stride).map(|row| &row[..vocab]);
    assert_eq!(card.memory.take::<u32>(tokens).unwrap(), of_rows().map(first).collect::<Vec<_>>());
    assert_eq!(card.memory.take::<f32>(largest).unwrap(), of_rows().map(most).collect::<Vec<_>>());
    Ok(())
}

/// Fewer logits than threads, none of them finite: still the first. What is no number is not there.
fn no_logit_above_minus_infinity(card: &mut Card) {
    let (nan, minus) = (f32::NAN, f32::NEG_INFINITY);
    for (logits, expected, most) in
        [([minus; 7], 5, minus), ([nan; 7], 5, minus), ([nan, minus, nan, -3.0, nan, -3.0, minus], 8, -3.0)]
    {
        let there = card.memory.put(&logits);
        let [token, largest] = [0, 1].map(|_| card.memory.room(4));
        let arguments = [Buffer(token), Buffer(largest), Buffer(there), U32(5), I32(7), I32(7)];
        card.run("argmax", [1, 1, 1], 64, &arguments);
        assert_eq!(card.memory.take::<u32>(token).unwrap(), [expected]);
        assert_eq!(card.memory.take::<f32>(largest).unwrap(), [most]);
    }
}

fn draw(mut card: Card) {
    drawn(&mut card, 60, [1, 531, 531], 96).unwrap();
    drawn(&mut card, 60, [3, 180, 531], 64).unwrap();
    // The last rank has nothing, nor have most warps of a block.
    drawn(&mut card, 12, [4, 40, 97], 512).unwrap();
}

/// The tokens that the host draws, to the bit, from rows of ranks' parts `[ranks, held, vocab]`.
pub(crate) fn drawn(
    card: &mut Card,
    count: usize,
    shape: [usize; 3],
    threads: u32,
) -> Result<(), LaunchError> {
    let element = card.element;
    let Rows { all, how, tokens: expected } = rows(count, shape, |logit| element.round(logit));
    let [_, held, vocab] = shape.map(|length| length as i32);
    let (there, how, tokens) = (card.put(&all), card.memory.put(&how), card.memory.room(4 * count));
    let arguments = [Buffer(tokens), Buffer(there), Buffer(how), I32(held), I32(vocab)];
    card.try_run("draw", [count as u32, 1, 1], threads, &arguments)?;
    assert_eq!(card.memory.take::<u32>(tokens).unwrap(), expected, "{shape:?}, {threads} threads");
    Ok(())
}
