//! What one step runs: plain data between scheduler and executor.

use crate::units::{BatchId, SeqId};

/// The chunks one step runs through all stages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Its number.
    pub id: BatchId,
    /// One per sequence, in the order scheduled: decodes, then prompts.
    pub chunks: Vec<Chunk>,
    /// Sequences preempted to make room since the previous batch was formed; they hold no block any more.
    pub preempted: Vec<SeqId>,
}

impl Batch {
    /// Prompt tokens over all chunks.
    pub fn prefill_tokens(&self) -> u32 {
        self.chunks.iter().filter(|c| c.is_prefill).map(|c| c.tokens).sum()
    }

    /// Decode tokens over all chunks: one per decoding sequence.
    pub fn decode_tokens(&self) -> u32 {
        self.chunks.iter().filter(|c| !c.is_prefill).map(|c| c.tokens).sum()
    }
}

/// A token range of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Whose.
    pub seq: SeqId,
    /// Tokens of this sequence already in the KV cache before this chunk.
    pub context: u32,
    /// Tokens processed by this chunk; 1 for a decode.
    pub tokens: u32,
    /// Prompt (or, after a preemption, recomputed) tokens rather than a decode.
    pub is_prefill: bool,
    /// An output token leaves when this chunk is done: a decode, or the chunk that ends a prompt
    /// (after a preemption: the chunk that ends the recomputation).
    pub emits_token: bool,
}
