//! Tests of the scheduler: a fake executor that drives it and checks every batch, hand-computed traces, properties.

mod checker;
mod config;
mod examples;
mod properties;

use super::*;
use crate::units::{Nanos, SeqId};

/// A small configuration: 4 tokens a block, no watermark.
fn config(policy: Policy) -> SchedulerConfig {
    SchedulerConfig {
        policy,
        batch_cap: 8,
        max_model_len: 64,
        block_size: 4,
        blocks: 64,
        stages: 1,
        watermark: Some(0.0),
        compat: Compat::Honest,
    }
}

fn new_sequence(id: u32, prompt_tokens: u32, output_tokens: u32) -> NewSequence {
    NewSequence { id: SeqId(id), arrival: Nanos::ZERO, prompt_tokens, output_tokens }
}
