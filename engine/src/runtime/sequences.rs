//! The tokens of every sequence, and which of its blocks the workers know. Turns the scheduler's chunks into what workers need.

use super::step::{Part, Step};
use crate::model::sampler::Sampling;
use crate::sched::batch::Chunk;
use crate::units::BlockId;

/// What a request brings along.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// Token ids, at least one.
    pub tokens: Vec<u32>,
    /// How its output is drawn.
    pub sampling: Sampling,
    /// Output tokens at most.
    pub output_max: u32,
    /// Token ids that end it early.
    pub stop: Vec<u32>,
}

/// All sequences that were inserted and are not finished.
///
/// Each has a slot, by which the workers know its block table; a slot is free again when its sequence is over.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    slots: Vec<Option<Sequence>>,
    free: Vec<u32>,
    /// By number of the sequence; [`NO_SLOT`] where it is not live.
    slot_of: Vec<u32>,
}

const NO_SLOT: u32 = u32::MAX;

#[derive(Debug)]
struct Sequence {
    /// Prompt, then output.
    tokens: Vec<u32>,
    prompt_len: usize,
    prompt: Prompt,
    /// Entries of its block table that the workers have.
    blocks_known: u32,
}

/// How a sequence stands after a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// It goes on.
    Going,
    /// It has all its tokens.
    Full,
    /// It ended itself.
    Stopped,
}

impl Sequences {
    /// A sequence whose chunks may come from now on.
    pub(super) fn insert(&mut self, seq: u32, mut prompt: Prompt) {
        assert!(!prompt.tokens.is_empty(), "expected at least one prompt token");
        let tokens = std::mem::take(&mut prompt.tokens);
        let sequence = Sequence { prompt_len: tokens.len(), tokens, prompt, blocks_known: 0 };
        assert!(self.slot(seq).is_none(), "expected sequence {seq} once");
        let slot = self.free.pop().unwrap_or(self.slots.len() as u32);
        self.slots.resize_with(self.slots.len().max(slot as usize + 1), || None);
        self.slots[slot as usize] = Some(sequence);
        self.slot_of.resize(self.slot_of.len().max(seq as usize + 1), NO_SLOT);
        self.slot_of[seq as usize] = slot;
    }

    /// Whether the workers know no block table.
    pub(super) fn all_unknown(&self) -> bool {
        self.slots.iter().flatten().all(|sequence| sequence.blocks_known == 0)
    }

    fn slot(&self, seq: u32) -> Option<u32> {
        self.slot_of.get(seq as usize).copied().filter(|slot| *slot != NO_SLOT)
    }

    /// A live sequence and its slot.
    fn live(&mut self, seq: u32) -> Option<(u32, &mut Sequence)> {
        let slot = self.slot(seq)?;
        self.slots[slot as usize].as_mut().map(|sequence| (slot, sequence))
    }

    /// Its blocks were taken from it.
    pub(super) fn preempted(&mut self, seq: u32) {
        if let Some((_, sequence)) = self.live(seq) {
            sequence.blocks_known = 0;
        }
    }

    /// Adds to a step what the workers need to run `chunk`, whose sequence has the blocks of `table`.
    pub(super) fn add(&mut self, chunk: &Chunk, table: &[BlockId], block_size: u32, step: &mut Step) {
        let (slot, sequence) = self.live(chunk.seq.0).expect("a scheduled sequence was inserted and is live");
        let (first, last) = (chunk.context as usize, (chunk.context + chunk.tokens) as usize);
        step.tokens.extend(&sequence.tokens[first..last]);
        let kept = sequence.blocks_known;
        let needed = (chunk.context + chunk.tokens).div_ceil(block_size).max(kept);
        sequence.blocks_known = needed;
        let output = (sequence.tokens.len() - sequence.prompt_len) as u32;
        step.blocks.extend(table[kept as usize..needed as usize].iter().map(|block| block.0));
        step.parts.push(Part {
            slot,
            context: chunk.context,
            tokens: chunk.tokens,
            blocks_kept: kept,
            blocks_new: needed - kept,
            sample: chunk.emits_token.then_some((sequence.prompt.sampling, output)),
        });
    }

    /// Nobody wants a sequence any more, and it is in no batch under way. It may have finished.
    pub(super) fn remove(&mut self, seq: u32) {
        if let Some(slot) = self.slot(seq) {
            self.slot_of[seq as usize] = NO_SLOT;
            self.slots[slot as usize] = None;
            self.free.push(slot);
        }
    }

    /// A sequence produced a token.
    pub(super) fn push(&mut self, seq: u32, token: u32) -> After {
        let (_, sequence) = self.live(seq).expect("a sequence in flight is live");
        sequence.tokens.push(token);
        let output = sequence.tokens.len() - sequence.prompt_len;
        let after = match () {
            () if sequence.prompt.stop.contains(&token) => After::Stopped,
            () if output >= sequence.prompt.output_max as usize => After::Full,
            () => After::Going,
        };
        if after != After::Going {
            self.remove(seq);
        }
        after
    }
}
