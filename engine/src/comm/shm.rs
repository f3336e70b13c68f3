//! Ranks of one host through shared memory: a ring buffer for each ordered pair, in one file that all map.
//!
//! ```text
//! pair (from, to) at (from * world + to) * PAIR:   written | read | reader waits | writer waits | RING bytes
//! boards of groups after the last pair
//! ```
//!
//! `written` and `read` count bytes modulo 2^32; each is moved by one side alone. A side that finds nothing to do looks for a
//! while and then sleeps on the other's word, so that ranks that share a core let each other run.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use nix::sys::memfd::{MFdFlags, memfd_create};
use rustix::thread::futex;
use rustix::time::Timespec;

use super::CommError;
use super::activity::Activity;
use super::board::{self, Boards};
use super::mapping::Mapping;
use super::patience::Patience;
use super::wire::Wire;
use crate::clock::monotonic_ns;

/// Bytes of a ring buffer, a power of two.
const RING: usize = 1 << 18;
/// A cache line, so that the two sides' words do not share one.
const LINE: usize = 64;
const PAIR: usize = 4 * LINE + RING;
/// A sleeper looks again after this long, whatever happens.
const NAP: Duration = Duration::from_millis(20);

/// Memory for `world` ranks to share. It is a file without a name, so that nothing is left of it once the last process that holds
/// it has ended, however that came about.
#[derive(Debug)]
pub struct SharedMemory(OwnedFd);

impl SharedMemory {
    /// Where processes of this user can open it, as long as this value lives.
    pub fn path(&self) -> Utf8PathBuf {
        Utf8PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()))
    }
}

/// Makes the memory through which `world` ranks talk.
pub fn create(world: usize) -> io::Result<SharedMemory> {
    let file = memfd_create(c"chariot", MFdFlags::MFD_CLOEXEC)?;
    nix::unistd::ftruncate(&file, bytes(world) as i64)?;
    Ok(SharedMemory(file))
}

fn bytes(world: usize) -> usize {
    world * world * PAIR + board::bytes(world)
}

/// One rank's view of all pairs.
#[derive(Debug)]
pub(super) struct Shared {
    map: Arc<Mapping>,
    boards: Boards,
    rank: usize,
    world: usize,
    patience: Patience,
    /// Where this rank says whom it waits for.
    activity: Arc<Activity>,
}

impl Shared {
    pub(super) fn open(path: &Utf8Path, rank: usize, world: usize, patience: Patience) -> io::Result<Self> {
        let map = Arc::new(Mapping::open(path)?);
        if map.len() != bytes(world) {
            let what =
                format!("{path}: expected {} bytes for {world} ranks, found {}", bytes(world), map.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let boards = Boards::new(Arc::clone(&map), world * world * PAIR, rank, world, patience);
        Ok(Self { map, boards, rank, world, patience, activity: Arc::default() })
    }

    fn ring(&self, from: usize, to: usize) -> Ring<'_> {
        Ring { map: &self.map, start: (from * self.world + to) * PAIR }
    }
}

impl Wire for Shared {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn tell(&mut self, activity: &Arc<Activity>) {
        self.boards.tell(activity);
        self.activity = Arc::clone(activity);
    }

    fn boards(&mut self) -> Option<&mut Boards> {
        Some(&mut self.boards)
    }

    fn send(&mut self, to: usize, mut bytes: &[u8]) -> Result<(), CommError> {
        let ring = self.ring(self.rank, to);
        while !bytes.is_empty() {
            let room = self.wait(to, &ring, Half::Writer)?;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            ring.put(now);
            bytes = later;
        }
        Ok(())
    }

    fn recv(&mut self, from: usize, mut bytes: &mut [u8]) -> Result<(), CommError> {
        let ring = self.ring(from, self.rank);
        while !bytes.is_empty() {
            let there = self.wait(from, &ring, Half::Reader)?;
            let (now, later) = bytes.split_at_mut(there.min(bytes.len()));
            ring.take(now);
            bytes = later;
        }
        Ok(())
    }
}

impl Shared {
    /// Waits until this half of the ring can move bytes; how many.
    fn wait(&self, peer: usize, ring: &Ring<'_>, half: Half) -> Result<usize, CommError> {
        if let Some(bytes) = self.patience.look(|| ring.ready(half)) {
            return Ok(bytes);
        }
        let began = monotonic_ns();
        let _pause = self.activity.waits_for(peer);
        loop {
            if let Some(bytes) = ring.sleep(half) {
                return Ok(bytes);
            }
            if monotonic_ns() - began > self.patience.timeout.as_nanos() as u64 {
                return Err(CommError::Timeout { peer, seconds: self.patience.timeout.as_secs_f64() });
            }
        }
    }
}

/// Who moves which end of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Reader,
    Writer,
}

struct Ring<'a> {
    map: &'a Mapping,
    start: usize,
}

impl Ring<'_> {
    fn written(&self) -> &AtomicU32 {
        self.map.word(self.start)
    }

    fn read(&self) -> &AtomicU32 {
        self.map.word(self.start + LINE)
    }

    /// Set while a half sleeps.
    fn asleep(&self, half: Half) -> &AtomicU32 {
        self.map.word(self.start + if half == Half::Reader { 2 * LINE } else { 3 * LINE })
    }

    /// Bytes that `half` can move now, if any.
    fn ready(&self, half: Half) -> Option<usize> {
        let there =
            self.written().load(Ordering::SeqCst).wrapping_sub(self.read().load(Ordering::SeqCst)) as usize;
        let bytes = if half == Half::Reader { there } else { RING - there };
        (bytes > 0).then_some(bytes)
    }

    /// Sleeps until the other half has moved, or for a nap; what is ready then.
    fn sleep(&self, half: Half) -> Option<usize> {
        let other = if half == Half::Reader { self.written() } else { self.read() };
        let seen = other.load(Ordering::SeqCst);
        let asleep = self.asleep(half);
        asleep.store(1, Ordering::SeqCst);
        if self.ready(half).is_none() {
            let nap = Timespec { tv_sec: 0, tv_nsec: i64::from(NAP.subsec_nanos()) };
            // Woken, timed out or changed before it slept: it looks again in any case.
            let _ = futex::wait(other, futex::Flags::empty(), seen, Some(&nap));
        }
        asleep.store(0, Ordering::SeqCst);
        self.ready(half)
    }

    /// Writes bytes for which there is room.
    fn put(&self, bytes: &[u8]) {
        let written = self.written().load(Ordering::SeqCst);
        let (first, second) = self.places(written, bytes.len());
        self.map.write(first.start, &bytes[..first.len()]);
        self.map.write(second.start, &bytes[first.len()..]);
        self.written().store(written.wrapping_add(bytes.len() as u32), Ordering::SeqCst);
        self.wake(Half::Reader, self.written());
    }

    /// Reads bytes that are there.
    fn take(&self, bytes: &mut [u8]) {
        let read = self.read().load(Ordering::SeqCst);
        let (first, second) = self.places(read, bytes.len());
        let (head, tail) = bytes.split_at_mut(first.len());
        self.map.read(first.start, head);
        self.map.read(second.start, tail);
        self.read().store(read.wrapping_add(bytes.len() as u32), Ordering::SeqCst);
        self.wake(Half::Writer, self.read());
    }

    fn wake(&self, sleeper: Half, word: &AtomicU32) {
        if self.asleep(sleeper).load(Ordering::SeqCst) != 0 {
            // Nobody to wake is no error.
            let _ = futex::wake(word, futex::Flags::empty(), 1);
        }
    }

    /// Where `length` bytes from count `at` on lie: up to the end of the buffer, and from its beginning.
    fn places(&self, at: u32, length: usize) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let buffer = self.start + 4 * LINE;
        let offset = at as usize % RING;
        let first = length.min(RING - offset);
        (buffer + offset..buffer + offset + first, buffer..buffer + length - first)
    }
}
