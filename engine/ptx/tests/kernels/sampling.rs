//! Greedy tokens.

use chariot_ptx::Argument::{Buffer, I32, U32};
use chariot_ptx::LaunchError;

use crate::card::{Card, Element, in_each};
use crate::nvrtc::SAMPLING;

in_each!(SAMPLING, argmax);

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

/// Fewer logits than threads, none of them finite: still the first.
fn no_logit_above_minus_infinity(card: &mut Card) {
    let there = card.memory.put(&[f32::NEG_INFINITY; 7]);
    let [token, largest] = [0, 1].map(|_| card.memory.room(4));
    let arguments = [Buffer(token), Buffer(largest), Buffer(there), U32(5), I32(7), I32(7)];
    card.run("argmax", [1, 1, 1], 64, &arguments);
    assert_eq!(card.memory.take::<u32>(token).unwrap(), [5]);
    assert_eq!(card.memory.take::<f32>(largest).unwrap(), [f32::NEG_INFINITY]);
}
