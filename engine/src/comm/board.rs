//! Memory in which the ranks of a group lay their values side by side, so that each reads those of all others in place.
//!
//! ```text
//! board:  claimed, members | arrived | generation, sleepers | a line a rank: at, two entry times | a rank: two slots
//! ```
//!
//! A group's board is found by its members: the first to come claims a free one. A rank writes its values to its slot; a barrier; it
//! reads those of the others. Small sums every rank makes by itself; of large ones it makes a part, lays that into its slot, and after
//! another barrier reads the others' parts. The slots are used in turn, so that who is ahead does not write what another still reads:
//! it passes the barrier of the next piece only after all have read this one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::thread::futex;
use rustix::time::Timespec;

use super::CommError;
use super::activity::Activity;
use super::mapping::Mapping;
use super::patience::Patience;
use super::reduce::{part, sum_rows};
use crate::clock::monotonic_ns;

/// A cache line, so that words of different writers do not share one.
const LINE: usize = 64;
/// Bytes of one slot.
const SLOT: usize = 1 << 18;
/// Values of one slot.
const SLOT_VALUES: usize = SLOT / size_of::<f32>();
/// Up to so many values of all ranks together, every rank makes the whole sum.
const ONCE_MAX: usize = 1 << 14;
/// Values summed at a time: those of all ranks stay in the first cache.
const BLOCK: usize = 512;
/// A sleeper looks again after this long, whatever happens.
const NAP: Duration = Duration::from_millis(20);
/// More ranks than a board's members can be written down for.
const WORLD_MAX: usize = 64;

/// Bytes that the boards of `world` ranks take; most of them are never touched.
pub(super) fn bytes(world: usize) -> usize {
    if world > WORLD_MAX { 0 } else { count(world) * board_bytes(world) }
}

/// Groups that collectives run in are few: the ranks of each stage, and all.
fn count(world: usize) -> usize {
    2 * world
}

fn board_bytes(world: usize) -> usize {
    // Slots begin at a page.
    ((3 + world) * LINE).next_multiple_of(4096) + world * 2 * SLOT
}

/// One rank's view of all boards.
#[derive(Debug)]
pub(super) struct Boards {
    map: Arc<Mapping>,
    /// Where the first one begins.
    start: usize,
    rank: usize,
    world: usize,
    patience: Patience,
    /// By members, one bit each; the boards this rank has used.
    known: BTreeMap<u64, Option<Board>>,
    rows: Vec<f32>,
    /// Where this rank says whom it waits for.
    activity: Arc<Activity>,
}

/// One group's board, and how far this rank has come on it.
#[derive(Debug, Clone, Copy)]
struct Board {
    start: usize,
    /// Barriers passed, modulo 2^32.
    passed: u32,
    /// Collectives and pieces of them begun so far.
    turns: usize,
    pieces: usize,
}

/// A collective under way.
struct Turn<'a> {
    boards: &'a Boards,
    board: Board,
    /// Ranks of the mesh, in the group's order.
    ranks: &'a [usize],
    me: usize,
}

impl Boards {
    pub(super) fn new(
        map: Arc<Mapping>,
        start: usize,
        rank: usize,
        world: usize,
        patience: Patience,
    ) -> Self {
        let (known, rows, activity) = (BTreeMap::new(), Vec::new(), Arc::default());
        Self { map, start, rank, world, patience, known, rows, activity }
    }

    /// From now on, this rank says there whom it waits for.
    pub(super) fn tell(&mut self, activity: &Arc<Activity>) {
        self.activity = Arc::clone(activity);
    }

    /// Whether this group has a board; every member finds the same answer.
    pub(super) fn has(&mut self, ranks: &[usize]) -> bool {
        if self.world > WORLD_MAX {
            return false;
        }
        let members = members(ranks);
        if let Some(known) = self.known.get(&members) {
            return known.is_some();
        }
        let start = (0..count(self.world)).map(|i| self.start + i * board_bytes(self.world));
        let found = start.into_iter().find(|start| self.claim(*start, members));
        self.known.insert(members, found.map(|start| Board { start, passed: 0, turns: 0, pieces: 0 }));
        found.is_some()
    }

    /// Whether the board at `start` is, or now becomes, that of `members`.
    fn claim(&self, start: usize, members: u64) -> bool {
        const FREE: u32 = 0;
        const BEING_CLAIMED: u32 = 1;
        const CLAIMED: u32 = 2;
        let [state, low, high] = [0, 4, 8].map(|offset| self.map.word(start + offset));
        let is_free = state.compare_exchange(FREE, BEING_CLAIMED, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if is_free {
            low.store(members as u32, Ordering::SeqCst);
            high.store((members >> 32) as u32, Ordering::SeqCst);
            state.store(CLAIMED, Ordering::SeqCst);
            return true;
        }
        // Two stores away; should their writer be killed between them, the whole run ends.
        while state.load(Ordering::SeqCst) != CLAIMED {
            std::thread::yield_now();
        }
        low.load(Ordering::SeqCst) == members as u32 && high.load(Ordering::SeqCst) == (members >> 32) as u32
    }

    /// Sums `data` over a group that has a board; which this rank enters at `entry_ns`; returns when its last member did.
    pub(super) fn all_reduce(
        &mut self,
        ranks: &[usize],
        entry_ns: u64,
        data: &mut [f32],
    ) -> Result<u64, CommError> {
        let mut rows = std::mem::take(&mut self.rows);
        let last = self.turn(ranks, |turn| {
            turn.enter(entry_ns);
            let mut last = None;
            for piece in data.chunks_mut(SLOT_VALUES) {
                turn.lay(0, bytemuck::cast_slice(piece));
                turn.barrier()?;
                last.get_or_insert_with(|| turn.last_entry());
                turn.sum(piece, &mut rows)?;
                turn.board.pieces += 1;
            }
            Ok(last.unwrap_or_default())
        });
        self.rows = rows;
        last
    }

    /// Every rank's `mine`, in the group's order; like [`Self::all_reduce`], returns when the last member entered.
    pub(super) fn all_gather(
        &mut self,
        ranks: &[usize],
        entry_ns: u64,
        mine: &[f32],
        all: &mut [f32],
    ) -> Result<u64, CommError> {
        let length = mine.len();
        self.turn(ranks, |turn| {
            turn.enter(entry_ns);
            let mut last = None;
            for (number, piece) in mine.chunks(SLOT_VALUES).enumerate() {
                turn.lay(0, bytemuck::cast_slice(piece));
                turn.barrier()?;
                last.get_or_insert_with(|| turn.last_entry());
                for (peer, rank) in turn.ranks.iter().enumerate() {
                    let values = &mut all[peer * length + number * SLOT_VALUES..][..piece.len()];
                    turn.boards.map.read(turn.slot(*rank), bytemuck::cast_slice_mut(values));
                }
                turn.board.pieces += 1;
            }
            Ok(last.unwrap_or_default())
        })
    }

    /// Runs a collective and remembers how far it came.
    fn turn<T>(
        &mut self,
        ranks: &[usize],
        work: impl FnOnce(&mut Turn<'_>) -> Result<T, CommError>,
    ) -> Result<T, CommError> {
        let members = members(ranks);
        let board = self.known[&members].expect("has() found the group's board");
        let me = ranks.iter().position(|rank| *rank == self.rank).expect("this rank is in its groups");
        let mut turn = Turn { boards: self, board, ranks, me };
        let result = work(&mut turn);
        let board = Board { turns: turn.board.turns + 1, ..turn.board };
        self.known.insert(members, Some(board));
        result
    }
}

fn members(ranks: &[usize]) -> u64 {
    ranks.iter().fold(0, |members, rank| members | 1 << rank)
}

impl Turn<'_> {
    fn word(&self, line: usize, word: usize) -> &AtomicU32 {
        self.boards.map.word(self.board.start + line * LINE + word * 4)
    }

    fn at(&self, rank: usize) -> &AtomicU32 {
        self.word(3 + rank, 0)
    }

    /// Where the slot of a rank begins that this piece uses.
    fn slot(&self, rank: usize) -> usize {
        let first = self.board.start + board_bytes(self.boards.world) - self.boards.world * 2 * SLOT;
        first + (2 * rank + self.board.pieces % 2) * SLOT
    }

    /// Notes when this rank came.
    fn enter(&self, now: u64) {
        let [low, high] = self.entry(self.boards.rank);
        low.store(now as u32, Ordering::Relaxed);
        high.store((now >> 32) as u32, Ordering::Relaxed);
    }

    /// Where a rank's time of entry stands; in turns, for one that is ahead enters the next collective while others read this one's.
    fn entry(&self, rank: usize) -> [&AtomicU32; 2] {
        let first = 1 + 2 * (self.board.turns % 2);
        [first, first + 1].map(|word| self.word(3 + rank, word))
    }

    /// When the last member came; after the first barrier.
    fn last_entry(&self) -> u64 {
        let entry = |rank: &usize| {
            let [low, high] = self.entry(*rank).map(|word| word.load(Ordering::Relaxed));
            u64::from(low) | u64::from(high) << 32
        };
        self.ranks.iter().map(entry).max().unwrap_or_default()
    }

    /// Lays bytes into this rank's slot, from value `at` on.
    fn lay(&self, at: usize, bytes: &[u8]) {
        self.boards.map.write(self.slot(self.boards.rank) + at * size_of::<f32>(), bytes);
    }

    /// Turns `piece`, which lies in all slots, into the sum.
    fn sum(&mut self, piece: &mut [f32], rows: &mut Vec<f32>) -> Result<(), CommError> {
        let size = self.ranks.len();
        if piece.len() * size <= ONCE_MAX {
            self.add_up(0, piece, rows);
            return Ok(());
        }
        let length = piece.len();
        let mine = part(length, size, self.me);
        self.add_up(mine.start, &mut piece[mine.clone()], rows);
        self.lay(mine.start, bytemuck::cast_slice(&piece[mine]));
        self.barrier()?;
        for (peer, rank) in self.ranks.iter().enumerate().filter(|(peer, _)| *peer != self.me) {
            let range = part(length, size, peer);
            let from = self.slot(*rank) + range.start * size_of::<f32>();
            self.boards.map.read(from, bytemuck::cast_slice_mut(&mut piece[range]));
        }
        Ok(())
    }

    /// `sum` becomes the sum of what lies in all slots from value `at` on.
    fn add_up(&self, at: usize, sum: &mut [f32], rows: &mut Vec<f32>) {
        let half = self.ranks.len().div_ceil(2);
        for (number, sum) in sum.chunks_mut(BLOCK).enumerate() {
            let offset = (at + number * BLOCK) * size_of::<f32>();
            rows.resize(half * sum.len(), 0.0);
            // The first round of sum_rows(), while reading.
            for (row, rank) in rows.chunks_exact_mut(sum.len()).zip(self.ranks) {
                self.boards.map.read(self.slot(*rank) + offset, bytemuck::cast_slice_mut(row));
            }
            for (row, rank) in rows.chunks_exact_mut(sum.len()).zip(&self.ranks[half..]) {
                self.boards.map.add(self.slot(*rank) + offset, row);
            }
            sum_rows(rows, sum.len());
            sum.copy_from_slice(&rows[..sum.len()]);
        }
    }

    /// Waits until all members are here.
    fn barrier(&mut self) -> Result<(), CommError> {
        self.board.passed = self.board.passed.wrapping_add(1);
        let passed = self.board.passed;
        self.at(self.boards.rank).store(passed, Ordering::SeqCst);
        let (arrived, generation, sleepers) = (self.word(1, 0), self.word(2, 0), self.word(2, 1));
        let here = arrived.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
        if here == passed.wrapping_mul(self.ranks.len() as u32) {
            generation.store(passed, Ordering::SeqCst);
            if sleepers.load(Ordering::SeqCst) != 0 {
                // Nobody to wake is no error.
                let _ = futex::wake(generation, futex::Flags::empty(), i32::MAX as u32);
            }
            return Ok(());
        }
        let all_here = || (generation.load(Ordering::SeqCst) == passed).then_some(());
        match self.boards.patience.look(all_here) {
            Some(()) => Ok(()),
            None => self.sleep(passed),
        }
    }

    /// A member that has not come to the barrier; this rank, should all have.
    fn missing(&self, passed: u32) -> usize {
        let missing = self.ranks.iter().find(|rank| self.at(**rank).load(Ordering::SeqCst) != passed);
        missing.copied().unwrap_or(self.boards.rank)
    }

    fn sleep(&self, passed: u32) -> Result<(), CommError> {
        let (generation, sleepers) = (self.word(2, 0), self.word(2, 1));
        let began = monotonic_ns();
        let nap = Timespec { tv_sec: 0, tv_nsec: i64::from(NAP.subsec_nanos()) };
        let pause = self.boards.activity.waits_for(self.missing(passed));
        loop {
            sleepers.fetch_add(1, Ordering::SeqCst);
            if generation.load(Ordering::SeqCst) != passed {
                // Woken, timed out or changed before it slept: it looks again in any case.
                let _ = futex::wait(generation, futex::Flags::empty(), passed.wrapping_sub(1), Some(&nap));
            }
            sleepers.fetch_sub(1, Ordering::SeqCst);
            if generation.load(Ordering::SeqCst) == passed {
                return Ok(());
            }
            let peer = self.missing(passed);
            pause.now_waits_for(peer);
            if monotonic_ns() - began > self.boards.patience.timeout.as_nanos() as u64 {
                return Err(CommError::Timeout { peer, seconds: self.boards.patience.timeout.as_secs_f64() });
            }
        }
    }
}
