//! The scheduler's life cycle: add, schedule, complete, recycle. What goes into a batch is the policy's business.

use std::collections::VecDeque;

use super::batch::{Batch, Chunk};
use super::block_manager::BlockManager;
use super::config::{ConfigError, SchedulerConfig};
use super::policy::{self, Turn};
use super::sequence::{NewSequence, Waiting};
use super::state::{Draft, Runnable, State, merge};
use crate::units::{BatchId, BlockId, SeqId};

/// What became of a new sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is in the queue.
    Waiting,
    /// It is longer than `max_model_len`, or more than all blocks could hold; it will never run.
    Ignored,
}

/// What a completed batch did for one of its sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Whose.
    pub seq: SeqId,
    /// An output token left.
    pub emitted: bool,
    /// The prompt (or its recomputation) is done with this batch.
    pub prefill_ended: bool,
    /// That was its last token, or it was given up; its blocks are free.
    pub finished: bool,
}

/// Decides which chunks run in the next batch.
#[derive(Debug)]
pub struct Scheduler {
    cfg: SchedulerConfig,
    state: State,
    turn: Turn,
    in_flight: VecDeque<BatchId>,
    next_seq: u32,
    next_batch: u32,
    /// Preempted while no batch could be formed; told with the next batch.
    draft: Draft,
    recycled: Vec<Batch>,
    outcomes: Vec<Outcome>,
    to_decoding: Vec<Runnable>,
    to_prefilling: Vec<Runnable>,
}

impl Scheduler {
    /// An empty scheduler with all blocks free.
    pub fn new(cfg: SchedulerConfig) -> Result<Self, ConfigError> {
        cfg.check()?;
        Ok(Self {
            state: State::new(&cfg),
            cfg,
            turn: Turn::Prefill,
            in_flight: VecDeque::new(),
            next_seq: 0,
            next_batch: 0,
            draft: Draft::default(),
            recycled: Vec::new(),
            outcomes: Vec::new(),
            to_decoding: Vec::new(),
            to_prefilling: Vec::new(),
        })
    }

    /// A request has arrived. Requests come in the order of their numbers, each with at least one prompt and one
    /// output token.
    pub fn add(&mut self, seq: NewSequence) -> Admission {
        assert!(
            seq.prompt_tokens > 0 && seq.output_tokens > 0,
            "expected at least one token each way, found {seq:?}"
        );
        assert!(
            seq.id.0 >= self.next_seq,
            "expected sequences in order from {}, found {seq:?}",
            self.next_seq
        );
        self.next_seq = seq.id.0 + 1;
        let length = u64::from(seq.prompt_tokens) + u64::from(seq.output_tokens);
        if length > u64::from(self.cfg.max_model_len)
            || !self.state.fits_alone(seq.prompt_tokens, seq.output_tokens)
        {
            return Admission::Ignored;
        }
        self.state.waiting.push_back(Waiting {
            id: seq.id,
            prompt_tokens: seq.prompt_tokens,
            output_tokens: seq.output_tokens,
            generated: 0,
        });
        Admission::Waiting
    }

    /// The next batch; None if `stages` batches are in flight or nothing can run now. O(runnable sequences).
    pub fn schedule(&mut self) -> Option<Batch> {
        if self.in_flight() >= self.cfg.stages {
            return None;
        }
        policy::form(self.cfg.policy, &mut self.state, &mut self.turn, &mut self.draft);
        if self.draft.chunks.is_empty() {
            return None;
        }
        let id = BatchId(self.next_batch);
        self.next_batch = self.next_batch.wrapping_add(1);
        self.in_flight.push_back(id);
        let mut batch =
            self.recycled.pop().unwrap_or(Batch { id, chunks: Vec::new(), preempted: Vec::new() });
        batch.id = id;
        std::mem::swap(&mut batch.chunks, &mut self.draft.chunks);
        std::mem::swap(&mut batch.preempted, &mut self.draft.preempted);
        self.draft.tokens = 0;
        Some(batch)
    }

    /// A batch left the last stage; batches complete in the order scheduled. `ended_early` names sequences that
    /// produced their end-of-sequence token in it. One outcome a chunk, in the batch's order.
    pub fn complete(&mut self, batch: &Batch, ended_early: &[SeqId]) -> &[Outcome] {
        let oldest = self.in_flight.pop_front();
        assert_eq!(oldest, Some(batch.id), "expected the oldest batch in flight to complete first");
        self.outcomes.clear();
        for chunk in &batch.chunks {
            let outcome = self.complete_chunk(chunk, ended_early);
            self.outcomes.push(outcome);
        }
        self.to_decoding.sort_unstable();
        self.to_prefilling.sort_unstable();
        merge(&mut self.state.decoding, &mut self.to_decoding);
        merge(&mut self.state.prefilling, &mut self.to_prefilling);
        &self.outcomes
    }

    fn complete_chunk(&mut self, chunk: &Chunk, ended_early: &[SeqId]) -> Outcome {
        let slot = self.state.slot(chunk.seq).expect("a sequence in flight keeps its slot");
        let seq = self.state.seq_mut(slot);
        seq.context = chunk.context + chunk.tokens;
        seq.generated += u32::from(chunk.emits_token);
        let ended = chunk.emits_token
            && (seq.generated >= seq.output_tokens
                || !ended_early.is_empty() && ended_early.contains(&chunk.seq));
        let finished = ended || seq.aborted;
        let runnable = Runnable { id: chunk.seq, slot };
        let prefill_ended = chunk.is_prefill && seq.context == seq.prefill_target;
        if finished {
            self.state.release(slot);
        } else if chunk.is_prefill && !prefill_ended {
            self.to_prefilling.push(runnable);
        } else {
            if prefill_ended && !chunk.emits_token {
                // The artifact's life cycle: the first decode feeds the last prompt token again.
                seq.context -= 1;
            }
            self.to_decoding.push(runnable);
        }
        Outcome { seq: chunk.seq, emitted: chunk.emits_token, prefill_ended, finished }
    }

    /// Nobody wants `seq` any more. True: it is gone and its blocks are free. False: it is in a batch in flight, whose outcome says
    /// that it finished. Not for sequences that finished or were ignored.
    pub fn abort(&mut self, seq: SeqId) -> bool {
        self.state.abort(seq)
    }

    /// Takes a completed batch's buffers back, so that the next ones need no allocation.
    pub fn recycle(&mut self, mut batch: Batch) {
        batch.chunks.clear();
        batch.preempted.clear();
        self.recycled.push(batch);
    }

    /// Batches scheduled and not completed.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.len() as u32
    }

    /// Sequences added, not ignored and not finished.
    pub fn unfinished(&self) -> usize {
        self.state.waiting.len() + self.running() as usize
    }

    /// Sequences in the queue, preempted ones included.
    pub fn waiting(&self) -> usize {
        self.state.waiting.len()
    }

    /// Sequences that hold blocks, in flight or not.
    pub fn running(&self) -> u32 {
        self.state.running
    }

    /// The KV memory.
    pub fn blocks(&self) -> &BlockManager {
        &self.state.blocks
    }

    /// Blocks of a running sequence in token order; None if it is not running.
    pub fn block_table(&self, seq: SeqId) -> Option<&[BlockId]> {
        self.state.slot(seq).map(|slot| self.state.seq(slot).table.as_slice())
    }

    /// What it was told.
    pub fn config(&self) -> &SchedulerConfig {
        &self.cfg
    }
}
