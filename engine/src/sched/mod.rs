//! The scheduler: which chunks run in the next batch. Pure: no file, clock, thread, log or random.
//!
//! ```text
//! add(NewSequence) -> Admission         a request has arrived
//! schedule() -> Option<Batch>           at most `stages` batches in flight; None: nothing can run now
//! complete(&Batch, &ended) -> Vec<Outcome>   a batch left the last stage, in the order scheduled
//! ```
pub mod batch;
