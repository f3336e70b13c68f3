//! Greedy tokens.

use chariot_ptx::Argument::{Buffer, I32, U32};
use chariot_ptx::LaunchError;

use crate::card::{Card, Element, in_both};
use crate::nvrtc::SAMPLING;

in_both!(SAMPLING, argmax);

fn argmax(mut card: Card) {
    largest_logits(&mut card).unwrap();
    no_logit_above_minus_infinity(&mut card);
}

/// On blocks of three warps.
pub(crate) fn largest_logits(card: &mut Card) -> Result<(), LaunchError> {
    let vocab = 131;
    let mut logits = Element::F32.noise(1, 4 * vocab);
    // Two that are equal: the first counts, whichever thread has it.
    (logits[vocab + 97], logits[vocab + 33]) = (2.0, 2.0);
    logits[2 * vocab] = 3.0;
    logits[4 * vocab - 1] = 3.0;
    let there = card.memory.put(&logits);
    let [tokens, largest] = [0, 1].map(|_| card.memory.room(4 * 4));
    let arguments = [Buffer(tokens), Buffer(largest), Buffer(there), U32(1000), I32(vocab as i32)];
    card.try_run("argmax", [4, 1, 1], 96, &arguments)?;
    let row = &logits[..vocab];
    let most = row.iter().copied().fold(f32::MIN, f32::max);
    let index = row.iter().position(|&logit| logit == most).unwrap() as u32;
    assert_eq!(card.memory.take::<u32>(tokens).unwrap(), [1000 + index, 1033, 1000, 1130]);
    assert_eq!(card.memory.take::<f32>(largest).unwrap(), [most, 2.0, 3.0, 3.0]);
    Ok(())
}

/// Fewer logits than threads, none of them finite: still the first.
fn no_logit_above_minus_infinity(card: &mut Card) {
    let there = card.memory.put(&[f32::NEG_INFINITY; 7]);
    let [token, largest] = [0, 1].map(|_| card.memory.room(4));
    let arguments = [Buffer(token), Buffer(largest), Buffer(there), U32(5), I32(7)];
    card.run("argmax", [1, 1, 1], 64, &arguments);
    assert_eq!(card.memory.take::<u32>(token).unwrap(), [5]);
    assert_eq!(card.memory.take::<f32>(largest).unwrap(), [f32::NEG_INFINITY]);
}
