//! The scheduler: which chunks run in the next batch. Pure: no file, clock, thread, log or random.
//!
//! ```text
//! add(NewSequence) -> Admission               a request has arrived
//! schedule() -> Option<Batch>                 at most `stages` batches in flight; None: nothing can run now
//! complete(&Batch, &ended) -> &[Outcome]      a batch left the last stage, in the order scheduled
//! abort(SeqId) -> bool                        nobody wants it any more; at once, or with the batch it is in
//! recycle(Batch)                              hands the batch's buffers back
//! ```
//!
//! A sequence is waiting (in the queue, no blocks), runnable (has blocks, not in a batch in flight) or in flight.
//! The queue and the runnable lists are kept in arrival order, so that priority is position.

pub mod batch;
mod block_manager;
mod config;
mod policy;
mod scheduler;
mod sequence;
mod state;
#[cfg(test)]
mod tests;

pub use block_manager::BlockManager;
pub use config::{ChunkSchedule, Compat, ConfigError, Policy, SchedulerConfig};
pub use scheduler::{Admission, Outcome, Scheduler};
pub use sequence::NewSequence;
