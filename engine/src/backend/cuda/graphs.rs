//! Steps of decoding as CUDA graphs: launched as one, where a launch each would take longer than the kernels. Knows no layer.
//!
//! Batches of a kind make the same calls with the same arguments: numbers that differ lie in memory, and lengths are rounded up. The first
//! batch of a kind runs as it is, for it may allocate; the second is recorded; from the third on the recording runs. Whatever is
//! allocated later ends all recordings, since addresses in them may be gone. Recordings take memory of the GPU, so that only so many are kept:
//! the kind that was not seen for longest is forgotten, and begins anew when it comes again. A trial's warm-up has kinds recorded beforehand.

use std::collections::{BTreeMap, BTreeSet};

use cudarc::driver::CudaGraph;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};

use super::card::Card;
use super::error::{CudaError, driver};

/// Rows, entries of a block table, and keys of the longest sequence, rounded up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    pub(super) rows: usize,
    pub(super) table_width: usize,
    pub(super) keys_max: usize,
}

/// Larger batches are no faster as graphs.
const ROWS_MAX: usize = 512;

/// The kind of a batch of `rows` decodes; `None` for one that is not worth a graph.
pub(super) fn kind(rows: usize, table_width: usize, keys_max: usize) -> Option<Kind> {
    let rows = if rows <= 8 { rows.next_power_of_two() } else { rows.next_multiple_of(8) };
    (rows <= ROWS_MAX).then(|| Kind {
        rows,
        table_width: table_width.next_power_of_two(),
        keys_max: keys_max.next_power_of_two(),
    })
}

/// Sizes of batches of at most so many decodes, one of each kind's rows, the largest first.
pub fn recorded_sizes(sequences: u32) -> Vec<u32> {
    let rows: BTreeSet<usize> =
        (1..=sequences as usize).filter_map(|size| kind(size, 1, 1)).map(|kind| kind.rows).collect();
    rows.into_iter().rev().map(|rows| sequences.min(rows as u32)).collect()
}

/// A kind of batches.
struct Known {
    /// `None`: a batch of this kind has run once.
    graph: Option<CudaGraph>,
    /// Which batch of all was the last of the kind.
    seen: u64,
}

/// Recordings of one rank.
pub(super) struct Graphs {
    known: BTreeMap<Kind, Known>,
    /// Kinds that are known at most.
    kinds_max: usize,
    /// Batches so far.
    batches: u64,
    /// Allocations when they were made.
    allocations: u64,
    /// Batches that ran as recordings.
    pub(super) replays: u64,
}

impl std::fmt::Debug for Graphs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graphs").field("replays", &self.replays).finish_non_exhaustive()
    }
}

/// What is to be done with a batch.
enum Turn {
    Run,
    Record,
    Replay,
}

impl Graphs {
    /// None yet, and never of more than `kinds_max` kinds, which is one at least.
    pub(super) fn new(kinds_max: usize) -> Self {
        Self { known: BTreeMap::new(), kinds_max: kinds_max.max(1), batches: 0, allocations: 0, replays: 0 }
    }

    /// Forgets recordings that addresses may be gone from.
    fn follow(&mut self, card: &Card) {
        if self.allocations != card.allocations() {
            self.known.clear();
            self.allocations = card.allocations();
        }
    }

    fn turn(&mut self, card: &Card, kind: Kind) -> Turn {
        self.follow(card);
        self.batches += 1;
        match self.known.get_mut(&kind) {
            None => Turn::Run,
            Some(known) => {
                known.seen = self.batches;
                if known.graph.is_some() { Turn::Replay } else { Turn::Record }
            }
        }
    }

    /// A batch of this kind has run; the kind that was not seen for longest makes room for it.
    fn get_to_know(&mut self, kind: Kind) {
        while self.known.len() >= self.kinds_max {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.seen);
            let Some(oldest) = oldest.map(|(kind, _)| *kind) else { break };
            self.known.remove(&oldest);
        }
        self.known.insert(kind, Known { graph: None, seen: self.batches });
    }

    /// Runs `work`, or what was recorded of a batch of the same kind.
    pub(super) fn run(
        &mut self,
        card: &Card,
        kind: Kind,
        work: impl FnOnce() -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        match self.turn(card, kind) {
            Turn::Run => {
                work()?;
                // What it allocated is there for the next one.
                self.follow(card);
                self.get_to_know(kind);
                return Ok(());
            }
            Turn::Record => {
                let graph = record(card, work)?;
                assert_eq!(self.allocations, card.allocations(), "a recorded batch allocates nothing");
                self.known.insert(kind, Known { graph: Some(graph), seen: self.batches });
            }
            Turn::Replay => self.replays += 1,
        }
        let graph = self.known.get(&kind).and_then(|known| known.graph.as_ref()).expect("it was recorded");
        graph.launch().map_err(driver("run a recorded step"))
    }
}

fn record(card: &Card, work: impl FnOnce() -> Result<(), CudaError>) -> Result<CudaGraph, CudaError> {
    let what = "record a step";
    let stream = &card.stream;
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    stream.begin_capture(mode).map_err(driver(what))?;
    let worked = work();
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags);
    worked?;
    let graph = graph.map_err(driver(what))?;
    Ok(graph.expect("a stage's layers make at least one call"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_round_up_and_end_where_launches_no_longer_matter() {
        let rows = |rows: usize| kind(rows, 1, 1).map(|kind| kind.rows);
        assert_eq!([1, 2, 3, 5, 8, 9, 30, 33].map(rows), [1, 2, 4, 8, 8, 16, 32, 40].map(Some));
        assert_eq!([rows(512), rows(513)], [Some(512), None]);
        assert_eq!(recorded_sizes(1), [1]);
        assert_eq!(recorded_sizes(21), [21, 16, 8, 4, 2, 1]);
        assert_eq!(recorded_sizes(600)[..2], [512, 504]);
        let kind = kind(1, 5, 300).unwrap();
        assert_eq!((kind.table_width, kind.keys_max), (8, 512));
    }
}
