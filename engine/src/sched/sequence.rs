//! A request inside the engine. Knows its own progress, not its neighbours.

use crate::units::{BlockId, Nanos, SeqId};

/// A request that has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewSequence {
    /// Its number: 0, 1, ... in arrival order, which is also its priority.
    pub id: SeqId,
    /// When it was planned to arrive.
    pub arrival: Nanos,
    /// Tokens of the prompt, at least 1.
    pub prompt_tokens: u32,
    /// Output tokens to produce, at least 1.
    pub output_tokens: u32,
}

/// A sequence in the queue: it holds no block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    pub(crate) id: SeqId,
    pub(crate) prompt_tokens: u32,
    pub(crate) output_tokens: u32,
    /// Output tokens it had produced when it was preempted; they are recomputed with the prompt.
    pub(crate) generated: u32,
}

impl Waiting {
    /// Tokens that must be processed before it can decode (again).
    pub(crate) fn prefill_tokens(&self) -> u32 {
        self.prompt_tokens + self.generated
    }
}

/// A running sequence: it holds blocks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sequence {
    pub(crate) id: SeqId,
    /// Tokens that prefill (or recomputation) must process.
    pub(crate) prefill_target: u32,
    /// Tokens in the KV cache.
    pub(crate) context: u32,
    pub(crate) prompt_tokens: u32,
    pub(crate) output_tokens: u32,
    pub(crate) generated: u32,
    pub(crate) table: Vec<BlockId>,
    /// Nobody wants it any more; it ends with the batch that it is in.
    pub(crate) aborted: bool,
}

impl Sequence {
    /// A sequence leaves the queue; the block table, empty, keeps its capacity.
    pub(crate) fn start(&mut self, head: &Waiting) {
        self.id = head.id;
        self.prefill_target = head.prefill_tokens();
        self.context = 0;
        self.prompt_tokens = head.prompt_tokens;
        self.output_tokens = head.output_tokens;
        self.generated = head.generated;
        self.aborted = false;
    }

    pub(crate) fn prefill_left(&self) -> u32 {
        self.prefill_target.saturating_sub(self.context)
    }

    /// Back into the queue; its blocks must have been released.
    pub(crate) fn to_waiting(&self) -> Waiting {
        Waiting {
            id: self.id,
            prompt_tokens: self.prompt_tokens,
            output_tokens: self.output_tokens,
            generated: self.generated,
        }
    }
}
