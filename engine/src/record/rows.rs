//! What is kept of a request and of a batch until it is written.

use crate::units::Nanos;

/// No such time yet.
pub(super) const NEVER: u64 = u64::MAX;

/// A request.
#[derive(Debug, Clone)]
pub(super) struct RequestRow {
    pub(super) arrival: u64,
    pub(super) prompt_tokens: u32,
    pub(super) output_tokens: u32,
    pub(super) ignored: bool,
    /// It holds memory.
    pub(super) allocated: bool,
    pub(super) scheduled: u64,
    pub(super) prefill_end: u64,
    pub(super) completed: u64,
    /// Until it completed, or the trial ended; known only then.
    pub(super) preemption: u64,
    /// Over completed batches.
    pub(super) execution: u64,
    /// Number of the first batch that could have had it since it was admitted or left its last one.
    pub(super) eligible_from: u32,
    pub(super) restarts: u32,
    pub(super) pauses: u32,
    /// Number of the batch that produced each output token.
    pub(super) tokens: Vec<u32>,
}

impl RequestRow {
    pub(super) fn new(arrival: Nanos, prompt_tokens: u32, output_tokens: u32, ignored: bool) -> Self {
        Self {
            arrival: arrival.0,
            prompt_tokens,
            output_tokens,
            ignored,
            allocated: false,
            scheduled: NEVER,
            prefill_end: NEVER,
            completed: NEVER,
            preemption: 0,
            execution: 0,
            eligible_from: 0,
            restarts: 0,
            pauses: 0,
            tokens: Vec::new(),
        }
    }

    /// Nothing more will happen to it.
    pub(super) fn is_done(&self) -> bool {
        self.ignored || self.completed != NEVER
    }

    /// Batch number `batch` has it, or preempts it: it was left out of those since it could run.
    pub(super) fn count_pauses(&mut self, batch: u32) {
        self.pauses += batch - self.eligible_from;
    }

    /// What of the time from first scheduled to `until` was not spent in completed batches.
    pub(super) fn close(&mut self, until: u64) {
        self.preemption = until - self.scheduled - self.execution;
    }
}

/// A batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchRow {
    pub(super) id: u32,
    pub(super) scheduled: u64,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) sequences: u32,
    pub(super) prefill_tokens: u32,
    pub(super) decode_tokens: u32,
    pub(super) preemptions: u32,
}
