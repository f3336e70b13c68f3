//! Collectives over a wire. Knows no transport.
//!
//! An all-reduce is a reduce-scatter and an all-gather. Small ones send every part directly to whoever sums it: two hops,
//! whatever the size of the group. Large ones pass parts round a ring, so that each rank talks to two others only. Every part is summed by one
//! rank in one order and then copied, so that all ranks hold the same bits.

use std::sync::{Arc, Mutex, MutexGuard};

use super::pace::Pace;
use super::wire::Wire;
use super::{CommError, Communicator};

/// Values of one piece of a collective: what a rank sends to one peer before it receives stays within what a wire takes.
const PIECE: usize = 1 << 14;
/// From this many values on, an all-reduce goes round the ring.
const RING_FROM: usize = 1 << 17;

/// Some ranks of a mesh.
pub(super) struct Group {
    wire: Arc<Mutex<dyn Wire>>,
    /// Ranks of the mesh, in the group's order.
    ranks: Vec<usize>,
    me: usize,
    pace: Option<Pace>,
    /// One peer's part.
    scratch: Vec<f32>,
}

impl Group {
    pub(super) fn new(wire: Arc<Mutex<dyn Wire>>, ranks: &[usize], pace: Option<Pace>) -> Self {
        let rank = locked(&wire).rank();
        let world = locked(&wire).world();
        assert!(ranks.iter().all(|rank| *rank < world), "expected ranks below {world}, found {ranks:?}");
        let me = ranks.iter().position(|other| *other == rank).expect("this rank is in its groups");
        Self { wire, ranks: ranks.to_vec(), me, pace, scratch: Vec::new() }
    }

    fn peers(&self) -> impl Iterator<Item = usize> + use<> {
        let (size, me) = (self.ranks.len(), self.me);
        // Each begins with its neighbour, so that not all talk to rank 0 at first.
        (1..size).map(move |step| (me + step) % size)
    }

    /// When the last rank of the group came here, by the time on its device.
    fn gather_entries(&mut self) -> Result<u64, CommError> {
        let Some(pace) = &self.pace else { return Ok(0) };
        let mine = pace.now_ns();
        let mut latest = mine;
        let mut wire = locked(&self.wire);
        for peer in self.peers() {
            wire.send(self.ranks[peer], &mine.to_le_bytes())?;
        }
        for peer in self.peers() {
            let mut theirs = [0; 8];
            wire.recv(self.ranks[peer], &mut theirs)?;
            latest = latest.max(u64::from_le_bytes(theirs));
        }
        Ok(latest)
    }

    /// Where part `index` of `length` values lies: the first parts take what is left over.
    fn part(&self, length: usize, index: usize) -> std::ops::Range<usize> {
        let (each, left) = (length / self.ranks.len(), length % self.ranks.len());
        let start = index * each + index.min(left);
        start..start + each + usize::from(index < left)
    }

    /// Every rank sums its part of a piece, in order of ranks, and gives it to all.
    fn direct(&mut self, data: &mut [f32]) -> Result<(), CommError> {
        let mine = self.part(data.len(), self.me);
        let mut wire = locked(&self.wire);
        for peer in self.peers() {
            wire.send(self.ranks[peer], bytemuck::cast_slice(&data[self.part(data.len(), peer)]))?;
        }
        self.scratch.clear();
        self.scratch.extend(&data[mine.clone()]);
        data[mine.clone()].fill(0.0);
        for rank in 0..self.ranks.len() {
            let sum = &mut data[mine.clone()];
            if rank == self.me {
                add(sum, &self.scratch[..mine.len()]);
                continue;
            }
            let start = mine.len();
            self.scratch.resize(2 * start, 0.0);
            wire.recv(self.ranks[rank], bytemuck::cast_slice_mut(&mut self.scratch[start..]))?;
            add(sum, &self.scratch[start..]);
        }
        for peer in self.peers() {
            wire.send(self.ranks[peer], bytemuck::cast_slice(&data[mine.clone()]))?;
        }
        for peer in self.peers() {
            let part = self.part(data.len(), peer);
            wire.recv(self.ranks[peer], bytemuck::cast_slice_mut(&mut data[part]))?;
        }
        Ok(())
    }

    /// Parts travel round the ring twice: once to be summed, once to be known. In each round a rank sends one part and receives another.
    fn ring(&mut self, data: &mut [f32]) -> Result<(), CommError> {
        let size = self.ranks.len();
        for round in 0..2 * (size - 1) {
            let sums = round < size - 1;
            let sent = self.part(data.len(), (self.me + 2 * size - round) % size);
            let received = self.part(data.len(), (self.me + 2 * size - round - 1) % size);
            self.shift(data, sent, received, sums)?;
        }
        Ok(())
    }

    /// Sends one part on and takes another in, piece by piece, so that no wire has to hold more.
    fn shift(
        &mut self,
        data: &mut [f32],
        sent: std::ops::Range<usize>,
        received: std::ops::Range<usize>,
        sums: bool,
    ) -> Result<(), CommError> {
        let size = self.ranks.len();
        let (next, previous) = (self.ranks[(self.me + 1) % size], self.ranks[(self.me + size - 1) % size]);
        let mut wire = locked(&self.wire);
        for at in (0..sent.len().max(received.len())).step_by(PIECE) {
            let within = |part: &std::ops::Range<usize>| {
                let start = (part.start + at).min(part.end);
                start..(start + PIECE).min(part.end)
            };
            wire.send(next, bytemuck::cast_slice(&data[within(&sent)]))?;
            let piece = within(&received);
            if sums {
                self.scratch.resize(piece.len(), 0.0);
                wire.recv(previous, bytemuck::cast_slice_mut(&mut self.scratch))?;
                add(&mut data[piece], &self.scratch);
            } else {
                wire.recv(previous, bytemuck::cast_slice_mut(&mut data[piece]))?;
            }
        }
        Ok(())
    }
}

/// A lock that nobody else waits for.
fn locked<'a>(wire: &'a Arc<Mutex<dyn Wire>>) -> MutexGuard<'a, dyn Wire + 'static> {
    wire.lock().expect("the one thread of a rank has not panicked")
}

fn add(sum: &mut [f32], values: &[f32]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += value;
    }
}

impl Communicator for Group {
    fn rank(&self) -> usize {
        self.me
    }

    fn size(&self) -> usize {
        self.ranks.len()
    }

    fn all_reduce(&mut self, data: &mut [f32]) -> Result<(), CommError> {
        if self.ranks.len() == 1 {
            return Ok(());
        }
        let began = self.gather_entries()?;
        if data.len() >= RING_FROM && self.ranks.len() > 2 {
            self.ring(data)?;
        } else {
            for piece in data.chunks_mut(PIECE) {
                self.direct(piece)?;
            }
        }
        if let Some(pace) = &self.pace {
            pace.end_all_reduce(began, self.ranks.len(), data.len());
        }
        Ok(())
    }

    fn all_gather(&mut self, mine: &[f32], all: &mut [f32]) -> Result<(), CommError> {
        assert_eq!(
            all.len(),
            mine.len() * self.ranks.len(),
            "expected all [{}, {}]",
            self.ranks.len(),
            mine.len()
        );
        let began = self.gather_entries()?;
        let length = mine.len();
        all[self.me * length..][..length].copy_from_slice(mine);
        let mut wire = locked(&self.wire);
        for at in (0..length).step_by(PIECE) {
            let piece = at..(at + PIECE).min(length);
            for peer in self.peers() {
                wire.send(self.ranks[peer], bytemuck::cast_slice(&mine[piece.clone()]))?;
            }
            for peer in self.peers() {
                let part = &mut all[peer * length..][piece.clone()];
                wire.recv(self.ranks[peer], bytemuck::cast_slice_mut(part))?;
            }
        }
        drop(wire);
        if let Some(pace) = &self.pace {
            pace.end_all_gather(began, self.ranks.len(), all.len());
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
