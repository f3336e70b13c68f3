//! What is kept of a request and of a batch until it is written.

use crate::units::Nanos;

/// No such time yet.
pub(super) const NEVER: u64 = u64::MAX;

/// Where a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Not admitted, or preempted: it holds no memory.
    Queue,
    /// It holds memory and is in no batch.
    Idle,
    /// In a batch in flight.
    InFlight,
}

/// A request.
#[derive(Debug, Clone)]
pub(super) struct RequestRow {
    pub(super) arrival: u64,
    pub(super) prompt_tokens: u32,
    pub(super) output_tokens: u32,
    pub(super) ignored: bool,
    /// Nothing more will happen to it.
    pub(super) done: bool,
    pub(super) place: Place,
    pub(super) scheduled: u64,
    pub(super) prefill_end: u64,
    pub(super) last_token: u64,
    pub(super) completed: u64,
    pub(super) execution: u64,
    pub(super) preemption: u64,
    /// When it was first scheduled or its newest completed batch ended.
    pub(super) idle_since: u64,
    /// In flight: its batch. Idle: the first batch that could have had it since.
    pub(super) batch: u32,
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
            done: ignored,
            place: Place::Queue,
            scheduled: NEVER,
            prefill_end: NEVER,
            last_token: NEVER,
            completed: NEVER,
            execution: 0,
            preemption: 0,
            idle_since: NEVER,
            batch: 0,
            restarts: 0,
            pauses: 0,
            tokens: Vec::new(),
        }
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
