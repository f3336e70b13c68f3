//! What users send: when requests arrive and how long they are. Seeded; knows no engine.
//!
//! Common random numbers: gaps, prompts and outputs come from three streams of one seed, so the same seed gives the same
//! lengths, and the same gaps up to their scale, at every rate and for every system.

mod arrivals;
mod config;
mod csv;
mod lengths;
mod stream;
#[cfg(test)]
mod tests;

use camino::Utf8Path;

pub use config::{Arrivals, Lengths, Workload};
pub use lengths::QuantileTable;

use crate::units::Nanos;

/// One request, before it is numbered: its place in the list is its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// When it is planned to arrive.
    pub arrival: Nanos,
    /// Tokens of its prompt, at least 1.
    pub prompt_tokens: u32,
    /// Output tokens to produce, at least 1.
    pub output_tokens: u32,
}

/// Why a workload cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] std::io::Error),
    /// A file's content is wrong.
    #[error("{file}:{line}: {message}")]
    File {
        /// As named in the configuration.
        file: String,
        /// Counted from 1.
        line: u64,
        /// Expected and found.
        message: String,
    },
    /// A value of the configuration is out of range.
    #[error("workload.{field}: {message}")]
    Field {
        /// Its path below `workload`.
        field: &'static str,
        /// Expected and found.
        message: String,
    },
}

impl Workload {
    /// The requests in arrival order. Files are looked up in `dir`. `clip_gaps`: Poisson gaps are clipped at 3 / qps, as
    /// the Sarathi-Serve artifact does.
    pub fn generate(
        &self,
        dir: &Utf8Path,
        seed: u64,
        clip_gaps: bool,
    ) -> Result<Vec<Request>, WorkloadError> {
        if self.requests == 0 {
            return Err(WorkloadError::field("requests", "expected at least 1, found 0"));
        }
        let count = self.requests as usize;
        let arrivals = arrivals::generate(&self.arrivals, count, dir, seed, clip_gaps)?;
        let lengths = lengths::generate(&self.lengths, count, dir, seed)?;
        let request =
            |(arrival, (prompt_tokens, output_tokens))| Request { arrival, prompt_tokens, output_tokens };
        Ok(arrivals.into_iter().zip(lengths).map(request).collect())
    }
}

/// The token ids of request `number`'s prompt, uniform over the vocabulary; for models whose answers nobody reads.
pub fn prompt_tokens(seed: u64, number: u32, count: u32, vocabulary: u32) -> Vec<u32> {
    let mut stream = stream::Stream::of_one(seed, stream::Purpose::Tokens, number);
    (0..count).map(|_| stream.below(vocabulary)).collect()
}

impl WorkloadError {
    pub(crate) fn field(field: &'static str, message: impl Into<String>) -> Self {
        Self::Field { field, message: message.into() }
    }
}
