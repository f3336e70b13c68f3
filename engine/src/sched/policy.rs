//! The five order and budget rules, each as a composition of the moves of `State`.
//!
//! Behaviour follows the schedulers of the Sarathi-Serve artifact (arXiv 2403.02310).

use super::config::{ChunkSchedule, Policy};
use super::state::{Draft, State};

/// Whose turn it is under `simple_chunking`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Prefill,
    Decode,
}

/// Forms the next batch in `draft`; leaves it empty if nothing can run.
pub(crate) fn form(policy: Policy, state: &mut State, turn: &mut Turn, draft: &mut Draft) {
    match policy {
        Policy::Sarathi { chunk } => sarathi(state, chunk, draft),
        Policy::Vllm { max_batched_tokens } => vllm(state, max_batched_tokens, draft),
        Policy::Orca => orca(state, draft),
        Policy::FasterTransformer => faster_transformer(state, draft),
        Policy::SimpleChunking { chunk } => simple_chunking(state, chunk, turn, draft),
    }
}

/// Decodes first, then prompts under way, then new ones, in one hybrid batch.
fn sarathi(state: &mut State, chunk: ChunkSchedule, draft: &mut Draft) {
    state.decode_all(draft);
    state.continue_prompts(draft, |processed| chunk.budget(processed));
    state.admit(draft, |processed| chunk.budget(processed));
}

/// New prompts alone while any fits, else decodes alone.
fn vllm(state: &mut State, max_batched_tokens: u32, draft: &mut Draft) {
    state.admit_whole(draft, max_batched_tokens);
    if draft.chunks.is_empty() {
        state.decode_all(draft);
    }
}

/// Decodes and new prompts in one batch, as many as the reserved memory admits.
fn orca(state: &mut State, draft: &mut Draft) {
    state.decode_all(draft);
    state.admit_whole(draft, u32::MAX);
}

/// New prompts only once every sequence of the last batch has ended.
fn faster_transformer(state: &mut State, draft: &mut Draft) {
    if state.running == 0 {
        state.admit_whole(draft, u32::MAX);
    } else {
        state.decode_all(draft);
    }
}

/// Prompts and decodes take turns; an empty turn is skipped.
fn simple_chunking(state: &mut State, chunk: u32, turn: &mut Turn, draft: &mut Draft) {
    for _ in 0..2 {
        match *turn {
            Turn::Prefill => {
                *turn = Turn::Decode;
                state.continue_prompts(draft, |_| chunk);
                state.admit(draft, |_| chunk);
            }
            Turn::Decode => {
                *turn = Turn::Prefill;
                state.decode_all(draft);
            }
        }
        if !draft.chunks.is_empty() {
            return;
        }
    }
}
