//! What a trial leaves behind: one row a request, one value a token gap, one row a batch. Raw events, stored once.
//!
//! The recorder is told of arrivals, scheduled and completed batches, and writes `records.parquet` and
//! `batches.parquet` as docs/formats.md describes them. It knows no clock and no scheduler policy.

mod columns;
mod gaps;
mod hopeless;
mod recorder;
mod rows;
#[cfg(test)]
mod tests;

pub use hopeless::{Metric, Predicate, PredicateError, Watch};
pub use recorder::{RecordError, Recorder};
