//! The sequences a scheduler holds, and the moves the policies are made of: decode, continue a prompt, admit, preempt.
//! Knows no policy.

use std::collections::VecDeque;

use super::batch::Chunk;
use super::block_manager::BlockManager;
use super::config::{Compat, SchedulerConfig};
use super::sequence::{Sequence, Waiting};
use crate::units::SeqId;

/// A running sequence in a runnable list: ordered by arrival, with its place in `State::slots`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Runnable {
    pub(crate) id: SeqId,
    pub(crate) slot: u32,
}

/// The batch being formed.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) preempted: Vec<SeqId>,
    /// Tokens over all chunks.
    pub(crate) tokens: u32,
}

/// Marks a sequence that holds no slot.
const NO_SLOT: u32 = u32::MAX;

/// All sequences and their memory. Lists are in arrival order.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) waiting: VecDeque<Waiting>,
    /// Prompt done, not in flight.
    pub(crate) decoding: Vec<Runnable>,
    /// Prompt under way, not in flight.
    pub(crate) prefilling: Vec<Runnable>,
    /// Sequences that hold blocks, in flight or not.
    pub(crate) running: u32,
    pub(crate) blocks: BlockManager,
    pub(crate) watermark: u32,
    batch_cap: u32,
    /// Tokens an admission takes memory for whatever the prompt; 0: as many as the prompt has.
    reserved_tokens: u32,
    compat: Compat,
    slots: Vec<Sequence>,
    free_slots: Vec<u32>,
    slot_of: Vec<u32>,
}

impl State {
    pub(crate) fn new(cfg: &SchedulerConfig) -> Self {
        Self {
            waiting: VecDeque::new(),
            decoding: Vec::new(),
            prefilling: Vec::new(),
            running: 0,
            blocks: BlockManager::new(cfg.blocks, cfg.block_size),
            watermark: cfg.watermark_blocks(),
            batch_cap: cfg.batch_cap,
            reserved_tokens: if cfg.policy.reserves_max_len() { cfg.max_model_len } else { 0 },
            compat: cfg.compat,
            slots: Vec::new(),
            free_slots: Vec::new(),
            slot_of: Vec::new(),
        }
    }

    /// Whether the sequence could run if it were alone, also after a preemption just before its last token.
    pub(crate) fn fits_alone(&self, prompt_tokens: u32, output_tokens: u32) -> bool {
        let most = (prompt_tokens + output_tokens - 1).max(self.reserved_tokens);
        self.blocks.blocks_for(most) + self.watermark <= self.blocks.total()
    }

    /// Slot of a running sequence.
    pub(crate) fn slot(&self, id: SeqId) -> Option<u32> {
        self.slot_of.get(id.0 as usize).copied().filter(|&slot| slot != NO_SLOT)
    }

    pub(crate) fn seq(&self, slot: u32) -> &Sequence {
        &self.slots[slot as usize]
    }

    pub(crate) fn seq_mut(&mut self, slot: u32) -> &mut Sequence {
        &mut self.slots[slot as usize]
    }

    /// Every runnable sequence with its prompt done gives one decode token, oldest first. Out of blocks, the youngest
    /// runnable sequence is preempted, at last the one that asked.
    pub(crate) fn decode_all(&mut self, draft: &mut Draft) {
        let mut next = 0;
        while next < self.decoding.len() {
            let runnable = self.decoding[next];
            if !self.make_room(runnable, draft) {
                break;
            }
            let seq = &self.slots[runnable.slot as usize];
            draft.chunks.push(Chunk {
                seq: runnable.id,
                context: seq.context,
                tokens: 1,
                is_prefill: false,
                emits_token: true,
            });
            next += 1;
        }
        draft.tokens += next as u32;
        self.decoding.clear();
    }

    /// Gives `runnable` the block its next token needs. False: it had to be preempted itself, which only the youngest
    /// in the list can be.
    fn make_room(&mut self, runnable: Runnable, draft: &mut Draft) -> bool {
        loop {
            let seq = &mut self.slots[runnable.slot as usize];
            let tokens = seq.context + 1;
            if self.blocks.grow(&mut seq.table, tokens) {
                return true;
            }
            let victim = match (self.decoding.last(), self.prefilling.last()) {
                (Some(_), Some(young)) if young.id > runnable.id && Some(young) > self.decoding.last() => {
                    self.prefilling.pop()
                }
                _ => self.decoding.pop(),
            };
            let victim = victim.expect("the list holds at least the sequence that asks");
            self.preempt(victim, draft);
            if victim == runnable {
                return false;
            }
        }
    }

    /// Continues prompts under way, oldest first. `budget`: tokens of the batch, by tokens of the prompt already done.
    pub(crate) fn continue_prompts(&mut self, draft: &mut Draft, budget: impl Fn(u32) -> u32) {
        let mut list = std::mem::take(&mut self.prefilling);
        list.retain(|runnable| !self.prefill(runnable.slot, draft, &budget));
        self.prefilling = list;
    }

    /// Adds the next chunk of a prompt; false: the budget is used up.
    fn prefill(&mut self, slot: u32, draft: &mut Draft, budget: impl Fn(u32) -> u32) -> bool {
        let seq = &self.slots[slot as usize];
        let left = seq.prefill_left();
        let tokens = left.min(budget(seq.context).saturating_sub(draft.tokens));
        if tokens == 0 {
            return false;
        }
        draft.tokens += tokens;
        draft.chunks.push(Chunk {
            seq: seq.id,
            context: seq.context,
            tokens,
            is_prefill: true,
            emits_token: tokens == left && self.compat == Compat::Honest,
        });
        true
    }

    /// Admits waiting sequences in order, with the first chunk of each, while cap, blocks and budget allow.
    pub(crate) fn admit(&mut self, draft: &mut Draft, budget: impl Fn(u32) -> u32) {
        while let Some(head) = self.waiting.front().copied()
            && budget(0) > draft.tokens
            && let Some(slot) = self.allocate(&head)
        {
            self.waiting.pop_front();
            self.prefill(slot, draft, &budget);
        }
    }

    /// Admits waiting sequences in order, each with its whole prompt, up to `max_tokens` in all.
    pub(crate) fn admit_whole(&mut self, draft: &mut Draft, max_tokens: u32) {
        while let Some(head) = self.waiting.front().copied()
            && head.prefill_tokens() <= max_tokens.saturating_sub(draft.tokens)
            && let Some(slot) = self.allocate(&head)
        {
            self.waiting.pop_front();
            self.prefill(slot, draft, |_| u32::MAX);
        }
    }

    /// Takes slot and blocks for a waiting sequence, if cap and watermark allow.
    fn allocate(&mut self, head: &Waiting) -> Option<u32> {
        let tokens = head.prefill_tokens().max(self.reserved_tokens);
        let needed = self.blocks.blocks_for(tokens) + self.watermark;
        if self.running >= self.batch_cap || needed > self.blocks.free() {
            return None;
        }
        let slot = self.take_slot(head);
        let grown = self.blocks.grow(&mut self.slots[slot as usize].table, tokens);
        assert!(grown, "the free blocks were counted above");
        self.running += 1;
        Some(slot)
    }

    fn take_slot(&mut self, head: &Waiting) -> u32 {
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.slots.push(Sequence::default());
            self.slots.len() as u32 - 1
        });
        self.slots[slot as usize].start(head);
        let index = head.id.0 as usize;
        if index >= self.slot_of.len() {
            self.slot_of.resize(index + 1, NO_SLOT);
        }
        self.slot_of[index] = slot;
        slot
    }

    /// Frees a sequence that finished or is preempted; it must be in no list.
    pub(crate) fn release(&mut self, slot: u32) {
        let seq = &mut self.slots[slot as usize];
        self.blocks.release(&mut seq.table);
        self.slot_of[seq.id.0 as usize] = NO_SLOT;
        self.free_slots.push(slot);
        self.running -= 1;
    }

    /// Gives up a sequence that is in no batch in flight; false: it is in one, and is marked to end with it.
    pub(crate) fn abort(&mut self, id: SeqId) -> bool {
        let Some(slot) = self.slot(id) else {
            self.waiting.retain(|waiting| waiting.id != id);
            return true;
        };
        let idle = [&mut self.decoding, &mut self.prefilling].into_iter().any(|list| {
            let before = list.len();
            list.retain(|runnable| runnable.id != id);
            list.len() < before
        });
        match idle {
            true => self.release(slot),
            false => self.slots[slot as usize].aborted = true,
        }
        idle
    }

    fn preempt(&mut self, victim: Runnable, draft: &mut Draft) {
        let waiting = self.seq(victim.slot).to_waiting();
        self.release(victim.slot);
        let place = self.waiting.iter().position(|other| other.id > victim.id).unwrap_or(self.waiting.len());
        self.waiting.insert(place, waiting);
        draft.preempted.push(victim.id);
    }
}

/// Merges `returned` into `list`, both in arrival order; leaves `returned` empty.
pub(crate) fn merge(list: &mut Vec<Runnable>, returned: &mut Vec<Runnable>) {
    if list.last() < returned.first() {
        list.append(returned);
        return;
    }
    let (mut old, mut new) = (list.len(), returned.len());
    list.extend_from_slice(returned);
    while new > 0 {
        let place = old + new - 1;
        if old > 0 && list[old - 1] > returned[new - 1] {
            list[place] = list[old - 1];
            old -= 1;
        } else {
            list[place] = returned[new - 1];
            new -= 1;
        }
    }
    returned.clear();
}
