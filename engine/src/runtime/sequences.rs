//! The tokens of every sequence, and which of its blocks the workers know. Turns the scheduler's chunks into what workers need.

use std::collections::HashMap;

use super::protocol::Part;
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
#[derive(Debug, Default)]
pub(super) struct Sequences {
    live: HashMap<u32, Sequence>,
    /// Sequences whose blocks the workers may forget; told with the next step.
    released: Vec<u32>,
}

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
        let previous = self.live.insert(seq, sequence);
        assert!(previous.is_none(), "expected sequence {seq} once");
    }

    /// Its blocks were taken from it.
    pub(super) fn preempted(&mut self, seq: u32) {
        if let Some(sequence) = self.live.get_mut(&seq) {
            sequence.blocks_known = 0;
            self.released.push(seq);
        }
    }

    /// Sequences to forget, since the last call.
    pub(super) fn take_released(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.released)
    }

    /// What the workers need to run `chunk`, whose sequence has the blocks of `table`; its token ids go to `tokens`.
    pub(super) fn part(
        &mut self,
        chunk: &Chunk,
        table: &[BlockId],
        block_size: u32,
        tokens: &mut Vec<u32>,
    ) -> Part {
        let sequence =
            self.live.get_mut(&chunk.seq.0).expect("a scheduled sequence was inserted and is live");
        let (first, last) = (chunk.context as usize, (chunk.context + chunk.tokens) as usize);
        tokens.extend(&sequence.tokens[first..last]);
        let kept = sequence.blocks_known;
        let needed = (chunk.context + chunk.tokens).div_ceil(block_size).max(kept);
        sequence.blocks_known = needed;
        let output = (sequence.tokens.len() - sequence.prompt_len) as u32;
        Part {
            seq: chunk.seq.0,
            context: chunk.context,
            tokens: chunk.tokens,
            blocks_kept: kept,
            blocks_new: table[kept as usize..needed as usize].iter().map(|block| block.0).collect(),
            sample: chunk.emits_token.then_some((sequence.prompt.sampling, output)),
        }
    }

    /// Nobody wants a sequence any more, and it is in no batch under way. It may have finished.
    pub(super) fn remove(&mut self, seq: u32) {
        if self.live.remove(&seq).is_some() {
            self.released.push(seq);
        }
    }

    /// A sequence produced a token.
    pub(super) fn push(&mut self, seq: u32, token: u32) -> After {
        let sequence = self.live.get_mut(&seq).expect("a sequence in flight is live");
        sequence.tokens.push(token);
        let output = sequence.tokens.len() - sequence.prompt_len;
        let after = match () {
            () if sequence.prompt.stop.contains(&token) => After::Stopped,
            () if output >= sequence.prompt.output_max as usize => After::Full,
            () => After::Going,
        };
        if after != After::Going {
            self.live.remove(&seq);
            self.released.push(seq);
        }
        after
    }
}
