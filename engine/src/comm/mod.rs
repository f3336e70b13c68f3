//! Messages between the ranks of one engine. Knows nothing of what the values mean.
//!
//! ```text
//! Mesh -> Group (collectives) -> {reduce (algorithms) -> Wire: shared memory | TCP, Boards (shared memory), Pace (emulated links) -> Device (its time)}
//! ```
//!
//! A `Mesh` is a rank's end of the connections to all others; a `Group` is some of them, in an order of its own. One thread uses a
//! rank's groups in turn.

mod activity;
mod alone;
mod board;
mod device;
mod group;
mod links;
mod mapping;
mod mesh;
mod pace;
mod patience;
mod reduce;
pub mod secret;
pub mod shm;
pub mod tcp;
#[cfg(test)]
mod tests;
mod wire;

use std::time::Duration;

use thiserror::Error;

pub use activity::{Activity, Doing, Seen};
pub use alone::Alone;
pub use links::{Lateness, LinkClass, Links};
pub use mesh::Mesh;
pub use patience::Patience;

/// How the values of an all-reduce move. The sum is the same bits whichever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Laid side by side in shared memory and summed in place.
    Flat,
    /// Every rank sums its part and gives it to all.
    Direct,
    /// Ranks exchange all they have, with one at half the distance each time.
    Doubling,
    /// Ranks halve what they sum each time, and then double what they know.
    Halving,
}

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

    /// Hands `data` to rank `to`, which calls `recv`; may return before it has arrived, or wait until it is received.
    fn send(&mut self, to: usize, data: &[f32]) -> Result<(), CommError>;

    /// Waits for as many values from rank `from` as `data` holds.
    fn recv(&mut self, from: usize, data: &mut [f32]) -> Result<(), CommError>;
}

/// Why a message did not get through. Ranks are those of the whole mesh.
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
    /// The operating system refused.
    #[error("rank {peer}: {source}")]
    Io {
        /// With whom.
        peer: usize,
        /// Its answer.
        source: std::io::Error,
    },
}

impl CommError {
    /// The rank to blame, where it is another.
    pub fn peer_at_fault(&self) -> Option<usize> {
        match self {
            Self::Closed { peer } | Self::Timeout { peer, .. } => Some(*peer),
            Self::Io { .. } => None,
        }
    }

    /// What went wrong on a connection to `peer` that waits for `timeout`.
    fn on_connection(peer: usize, timeout: Duration, source: std::io::Error) -> Self {
        use std::io::ErrorKind as Kind;
        match source.kind() {
            Kind::BrokenPipe
            | Kind::ConnectionAborted
            | Kind::ConnectionRefused
            | Kind::ConnectionReset
            | Kind::UnexpectedEof => Self::Closed { peer },
            Kind::TimedOut | Kind::WouldBlock => Self::Timeout { peer, seconds: timeout.as_secs_f64() },
            _ => Self::Io { peer, source },
        }
    }
}
