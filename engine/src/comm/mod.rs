//! Messages between the ranks of one engine. Knows nothing of what the values mean.

use thiserror::Error;

/// A group of ranks that sum, gather and send together. Every rank of the group makes the same calls in the same order.
pub trait Communicator: Send {
    /// This rank's place in the group.
    fn rank(&self) -> usize;

    /// Ranks of the group.
    fn size(&self) -> usize;

    /// `data` becomes the sum over all ranks, bit-identical on each.
    fn all_reduce(&mut self, data: &mut [f32]) -> Result<(), CommError>;

    /// `all[size, mine.len()]` becomes every rank's part, in order of ranks.
    fn all_gather(&mut self, mine: &[f32], all: &mut [f32]) -> Result<(), CommError>;

    /// Hands `data` to rank `to`, which calls `recv`; may return before it has arrived.
    fn send(&mut self, to: usize, data: &[f32]) -> Result<(), CommError>;

    /// Waits for as many values from rank `from` as `data` holds.
    fn recv(&mut self, from: usize, data: &mut [f32]) -> Result<(), CommError>;
}

/// Why a message did not get through.
#[derive(Debug, Error)]
pub enum CommError {
    /// The peer is gone.
    #[error("rank {peer}: closed its connection")]
    Closed {
        /// Who.
        peer: usize,
    },
    /// The peer did not answer in time.
    #[error("rank {peer}: expected a message within {seconds:.1} s, found none")]
    Timeout {
        /// Who.
        peer: usize,
        /// How long this rank waited.
        seconds: f64,
    },
    /// A message of another size: the ranks disagree on what comes next.
    #[error("rank {peer}: expected {expected} bytes, found {found}")]
    Size {
        /// Who.
        peer: usize,
        /// Bytes asked for.
        expected: u64,
        /// Bytes sent.
        found: u64,
    },
    /// The operating system refused.
    #[error("rank {peer}: {source}")]
    Io {
        /// With whom.
        peer: usize,
        /// Its answer.
        source: std::io::Error,
    },
}
