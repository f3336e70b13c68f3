//! Some ranks of a mesh, and the collectives among them: which algorithm for which size, and the time that emulated links take.

use std::sync::{Arc, Mutex, MutexGuard};

use super::pace::Pace;
use super::reduce::{Peers, others};
use super::wire::Wire;
use super::{Algorithm, CommError, Communicator};

/// Up to so many values few messages count for more than few bytes; measured, docs/communicators.md.
const DOUBLING_MAX: usize = 1 << 14;

/// Some ranks of a mesh.
pub(super) struct Group {
    wire: Arc<Mutex<dyn Wire>>,
    /// Ranks of the mesh, in the group's order.
    ranks: Vec<usize>,
    me: usize,
    pace: Option<Pace>,
    /// Used whatever the size, if the group can run it.
    algorithm: Option<Algorithm>,
    scratch: Vec<f32>,
}

impl Group {
    pub(super) fn new(
        wire: Arc<Mutex<dyn Wire>>,
        ranks: &[usize],
        pace: Option<Pace>,
        algorithm: Option<Algorithm>,
    ) -> Self {
        let rank = locked(&wire).rank();
        let world = locked(&wire).world();
        assert!(ranks.iter().all(|rank| *rank < world), "expected ranks below {world}, found {ranks:?}");
        let me = ranks.iter().position(|other| *other == rank).expect("this rank is in its groups");
        Self { wire, ranks: ranks.to_vec(), me, pace, algorithm, scratch: Vec::new() }
    }

    /// How an all-reduce of `values` goes. The same on every rank.
    fn choose(&self, wire: &mut dyn Wire, values: usize) -> Algorithm {
        let size = self.ranks.len();
        let has_board = wire.boards().is_some_and(|boards| boards.has(&self.ranks));
        let can = |algorithm: &Algorithm| match algorithm {
            Algorithm::Flat => has_board,
            Algorithm::Direct => true,
            Algorithm::Doubling | Algorithm::Halving => size.is_power_of_two(),
        };
        let best = match values {
            _ if has_board => Algorithm::Flat,
            _ if !size.is_power_of_two() => Algorithm::Direct,
            ..=DOUBLING_MAX => Algorithm::Doubling,
            _ => Algorithm::Halving,
        };
        self.algorithm.filter(can).unwrap_or(best)
    }

    /// The time on this rank's device, if links are emulated.
    fn entry_ns(&self) -> u64 {
        self.pace.as_ref().map_or(0, Pace::now_ns)
    }

    /// When the last rank of the group came here, by the time on its device.
    fn gather_entries(&self, wire: &mut dyn Wire) -> Result<u64, CommError> {
        if self.pace.is_none() {
            return Ok(0);
        }
        let mine = self.entry_ns();
        let mut latest = mine;
        for peer in others(self.ranks.len(), self.me) {
            wire.send(self.ranks[peer], &mine.to_le_bytes())?;
        }
        for peer in others(self.ranks.len(), self.me) {
            let mut theirs = [0; 8];
            wire.recv(self.ranks[peer], &mut theirs)?;
            latest = latest.max(u64::from_le_bytes(theirs));
        }
        Ok(latest)
    }

    /// Sums, and says when the last rank came, if anybody asks.
    fn reduce(&mut self, data: &mut [f32]) -> Result<u64, CommError> {
        let shared = Arc::clone(&self.wire);
        let wire = &mut *locked(&shared);
        let algorithm = self.choose(wire, data.len());
        if algorithm == Algorithm::Flat
            && let Some(boards) = wire.boards()
        {
            return boards.all_reduce(&self.ranks, self.entry_ns(), data);
        }
        let began = self.gather_entries(wire)?;
        let mut peers = Peers { wire, ranks: &self.ranks, me: self.me };
        match algorithm {
            Algorithm::Doubling => peers.doubling(data, &mut self.scratch)?,
            Algorithm::Halving => peers.halving(data, &mut self.scratch)?,
            Algorithm::Direct | Algorithm::Flat => peers.direct(data, &mut self.scratch)?,
        }
        Ok(began)
    }

    fn gather(&self, mine: &[f32], all: &mut [f32]) -> Result<u64, CommError> {
        let wire = &mut *locked(&self.wire);
        if let Some(boards) = wire.boards()
            && boards.has(&self.ranks)
        {
            return boards.all_gather(&self.ranks, self.entry_ns(), mine, all);
        }
        let began = self.gather_entries(wire)?;
        Peers { wire, ranks: &self.ranks, me: self.me }.gather(mine, all)?;
        Ok(began)
    }
}

/// A lock that nobody else waits for.
fn locked<'a>(wire: &'a Arc<Mutex<dyn Wire>>) -> MutexGuard<'a, dyn Wire + 'static> {
    wire.lock().expect("the one thread of a rank has not panicked")
}

impl Communicator for Group {
    fn rank(&self) -> usize {
        self.me
    }

    fn size(&self) -> usize {
        self.ranks.len()
    }

    fn all_reduce(&mut self, data: &mut [f32]) -> Result<(), CommError> {
        if self.ranks.len() == 1 || data.is_empty() {
            return Ok(());
        }
        let began = self.reduce(data)?;
        if let Some(pace) = &self.pace {
            pace.end_all_reduce(began, self.ranks.len(), data.len());
        }
        Ok(())
    }

    fn all_gather(&mut self, mine: &[f32], all: &mut [f32]) -> Result<(), CommError> {
        let size = self.ranks.len();
        assert_eq!(all.len(), mine.len() * size, "expected all [{size}, {}]", mine.len());
        if size == 1 || mine.is_empty() {
            all.copy_from_slice(mine);
            return Ok(());
        }
        let began = self.gather(mine, all)?;
        if let Some(pace) = &self.pace {
            pace.end_all_gather(began, size, all.len());
        }
        Ok(())
    }

    fn send(&mut self, to: usize, data: &[f32]) -> Result<(), CommError> {
        let mut wire = locked(&self.wire);
        if let Some(pace) = &mut self.pace {
            wire.send(self.ranks[to], &pace.departs(to, data.len()).to_le_bytes())?;
        }
        wire.send(self.ranks[to], bytemuck::cast_slice(data))
    }

    fn recv(&mut self, from: usize, data: &mut [f32]) -> Result<(), CommError> {
        let asked = self.pace.as_ref().map_or(0, Pace::now_ns);
        let mut wire = locked(&self.wire);
        let mut due = [0; 8];
        if self.pace.is_some() {
            wire.recv(self.ranks[from], &mut due)?;
        }
        wire.recv(self.ranks[from], bytemuck::cast_slice_mut(data))?;
        drop(wire);
        if let Some(pace) = &self.pace {
            pace.arrives(u64::from_le_bytes(due), asked, data.len());
        }
        Ok(())
    }
}
