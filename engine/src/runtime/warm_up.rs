//! The batches that a run of workers starts with, before its clock does. Pure.

use super::protocol::{Part, Step};
use crate::model::sampler::Sampling;

/// Warm-up batches have numbers from here on, which no other has.
const FIRST_BATCH: u32 = u32::MAX - 16;
/// Each kind of batch runs this often: the first time touches memory, the second fills caches.
const ROUNDS: u32 = 2;

/// One prompt of `tokens` tokens, then one decode of `sequences` sequences, as far as `blocks` blocks go; twice.
pub(super) fn steps(tokens: u32, sequences: u32, blocks: u32, block_size: u32) -> Vec<Step> {
    let tokens = tokens.min(blocks.saturating_mul(block_size)).max(1);
    let kinds =
        |round: u32| [prompt(2 * round, tokens, block_size), decodes(2 * round + 1, sequences, blocks)];
    (0..ROUNDS).flat_map(kinds).collect()
}

fn prompt(number: u32, tokens: u32, block_size: u32) -> Step {
    let blocks = 0..tokens.div_ceil(block_size);
    step(number, vec![part(0, tokens, blocks.collect())], tokens)
}

fn decodes(number: u32, sequences: u32, blocks: u32) -> Step {
    let parts = (0..sequences.max(1)).map(|slot| part(slot, 1, vec![slot % blocks.max(1)])).collect();
    step(number, parts, sequences.max(1))
}

fn part(slot: u32, tokens: u32, blocks_new: Vec<u32>) -> Part {
    let sample = Some((Sampling::greedy(), 0));
    Part { slot, context: 0, tokens, blocks_kept: 0, blocks_new, sample }
}

fn step(number: u32, parts: Vec<Part>, tokens: u32) -> Step {
    Step { batch: FIRST_BATCH + number, sent_ns: 0, parts, tokens: vec![0; tokens as usize], logits: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_stay_within_the_blocks() {
        for (tokens, sequences, blocks) in [(512, 128, 4), (1, 1, 1), (512, 8, 1000), (8192, 256, 100)] {
            for step in steps(tokens, sequences, blocks, 16) {
                let total: u32 = step.parts.iter().map(|part| part.tokens).sum();
                assert_eq!(total as usize, step.tokens.len());
                for part in &step.parts {
                    assert!(part.blocks_new.iter().all(|block| *block < blocks), "{part:?}");
                    assert!(part.blocks_new.len() as u32 * 16 >= part.tokens, "{part:?}");
                }
            }
        }
    }
}
