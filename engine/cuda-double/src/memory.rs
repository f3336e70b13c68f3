//! Device memory: every allocation between guard pages, closed to the host outside of launches and copies. Knows no stream.
#![expect(unsafe_code, reason = "maps and copies raw memory")]

use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};

const PAGE: usize = 4096;
const TOTAL_BYTES: usize = 1 << 30;
/// Of every new or freed byte: four of them are a NaN, and so are two as bf16 or f16.
pub(crate) const POISON: u8 = 0xff;

#[derive(Debug)]
struct Allocation {
    map: usize,
    pages: usize,
    start: usize,
    bytes: usize,
    live: bool,
}

/// All allocations ever made; a freed range is never used again.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    allocations: Vec<Allocation>,
    /// Who has it open now.
    openers: usize,
}

static MEMORY: Mutex<Memory> = Mutex::new(Memory { allocations: Vec::new(), openers: 0 });

/// The device's memory, locked: several threads may allocate.
pub(crate) fn memory() -> MutexGuard<'static, Memory> {
    MEMORY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The device's size: CHARIOT_DOUBLE_MEMORY, else 1 GiB.
pub(crate) fn total_bytes() -> usize {
    std::env::var("CHARIOT_DOUBLE_MEMORY").ok().and_then(|n| n.parse().ok()).unwrap_or(TOTAL_BYTES)
}

/// What other processes hold of it: CHARIOT_DOUBLE_TAKEN, else nothing.
fn taken_bytes() -> usize {
    std::env::var("CHARIOT_DOUBLE_TAKEN").ok().and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn protect(from: usize, bytes: usize, mode: i32) {
    // SAFETY: only pages that `allocate` mapped and still owns are named.
    let done = unsafe { libc::mprotect(from as *mut libc::c_void, bytes, mode) };
    assert_eq!(done, 0, "the pages are ours");
}

impl Memory {
    /// Address of `bytes` poisoned bytes, aligned to 16; by turns the range ends or begins at a guard page.
    pub(crate) fn allocate(&mut self, bytes: usize) -> Option<usize> {
        let pages = bytes.div_ceil(PAGE).max(1);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let length = (pages + 2) * PAGE;
        // SAFETY: a new private mapping touches no existing memory.
        let map = unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_NONE, flags, -1, 0) };
        if map == libc::MAP_FAILED {
            return None;
        }
        let (map, data) = (map as usize, map as usize + PAGE);
        protect(data, pages * PAGE, libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: these pages were just mapped writable.
        unsafe { std::ptr::write_bytes(data as *mut u8, POISON, pages * PAGE) };
        if self.openers == 0 {
            protect(data, pages * PAGE, libc::PROT_NONE);
        }
        let at_end = self.allocations.len().is_multiple_of(2);
        let start = if at_end { data + (pages * PAGE - bytes) / 16 * 16 } else { data };
        self.allocations.push(Allocation { map, pages, start, bytes, live: true });
        Some(start)
    }

    /// Closes an allocation for good; false if there is none that starts at `start`.
    pub(crate) fn free(&mut self, start: usize) -> bool {
        let Some(found) = self.allocations.iter_mut().find(|a| a.live && a.start == start) else {
            return false;
        };
        found.live = false;
        protect(found.map + PAGE, found.pages * PAGE, libc::PROT_NONE);
        // SAFETY: the pages are ours; their contents are given up, the addresses stay taken.
        unsafe {
            libc::madvise((found.map + PAGE) as *mut libc::c_void, found.pages * PAGE, libc::MADV_DONTNEED)
        };
        true
    }

    /// Whether `bytes` from `start` lie within one live allocation.
    pub(crate) fn holds(&self, start: usize, bytes: usize) -> bool {
        let inside = |a: &Allocation| a.start <= start && start + bytes <= a.start + a.bytes;
        self.allocations.iter().any(|a| a.live && inside(a))
    }

    /// Bytes of live allocations.
    fn used(&self) -> usize {
        self.allocations.iter().filter(|a| a.live).map(|a| a.bytes).sum()
    }

    /// Bytes that an allocation may still take.
    pub(crate) fn free_bytes(&self) -> usize {
        total_bytes().saturating_sub(taken_bytes() + self.used())
    }

    /// Lets everything live be read and written until everybody who opened it has closed it.
    fn set_open(&mut self, is_open: bool) {
        let before = self.openers;
        self.openers = if is_open { before + 1 } else { before - 1 };
        if (before == 0) == (self.openers == 0) {
            return;
        }
        let mode = if is_open { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_NONE };
        self.allocations.iter().filter(|a| a.live).for_each(|a| protect(a.map + PAGE, a.pages * PAGE, mode));
    }

    /// Why `bytes` from `start` are not within a live allocation.
    pub(crate) fn describe_range(&self, start: usize, bytes: usize) -> String {
        let here = |a: &&Allocation| a.live && (a.start..a.start + a.bytes).contains(&start);
        match self.allocations.iter().position(|a| here(&a)) {
            Some(number) => {
                let a = &self.allocations[number];
                let past = start + bytes - a.start - a.bytes;
                format!("ends {past} bytes past the end of allocation {number} ({} bytes)", a.bytes)
            }
            None => self.describe(start),
        }
    }

    /// Bytes from `start` to the end of its live allocation.
    pub(crate) fn rest(&self, start: usize) -> Option<usize> {
        let here = |a: &&Allocation| a.live && (a.start..a.start + a.bytes).contains(&start);
        self.allocations.iter().find(here).map(|a| a.start + a.bytes - start)
    }

    /// What lies at an address that could not be accessed.
    pub(crate) fn describe(&self, address: usize) -> String {
        let mapped = |a: &Allocation| (a.map..a.map + (a.pages + 2) * PAGE).contains(&address);
        let Some((number, a)) = self.allocations.iter().enumerate().find(|(_, a)| mapped(a)) else {
            return format!("address {address:#x} is in no allocation");
        };
        let of = format!("of allocation {number} ({} bytes)", a.bytes);
        match (a.live, address < a.start) {
            (false, _) => format!("use after free {of}"),
            (true, true) => format!("{} bytes before the start {of}", a.start - address),
            (true, false) => format!("{} bytes past the start {of}", address - a.start),
        }
    }
}

std::thread_local! {
    /// How many `together` this thread is in, and whether one of them has opened the memory.
    static TOGETHER: Cell<(usize, bool)> = const { Cell::new((0, false)) };
}

/// Runs `work` with device memory open.
pub(crate) fn opened<R>(work: impl FnOnce() -> R) -> R {
    let (depth, is_open) = TOGETHER.get();
    if !is_open {
        memory().set_open(true);
        TOGETHER.set((depth, depth > 0));
    }
    let result = work();
    if depth == 0 {
        memory().set_open(false);
    }
    result
}

/// Runs `work`; device memory that it opens stays open until its end, since to open and close costs a call of the
/// system for every allocation.
pub(crate) fn together<R>(work: impl FnOnce() -> R) -> R {
    let (depth, is_open) = TOGETHER.get();
    TOGETHER.set((depth + 1, is_open));
    let result = work();
    let (_, is_open) = TOGETHER.get();
    if depth == 0 && is_open {
        memory().set_open(false);
    }
    TOGETHER.set((depth, depth > 0 && is_open));
    result
}
