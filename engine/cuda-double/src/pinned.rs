//! Pinned memory of the host. A freed range is never used again. Knows no stream and no device.
#![expect(unsafe_code, reason = "maps raw memory")]

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of each range, by where it starts, and whether it is live.
static RANGES: Mutex<BTreeMap<usize, (usize, bool)>> = Mutex::new(BTreeMap::new());

fn ranges() -> MutexGuard<'static, BTreeMap<usize, (usize, bool)>> {
    RANGES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an address of the host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pinned {
    Live,
    Freed,
    No,
}

/// Address of `bytes` zeroed bytes.
pub(crate) fn allocate(bytes: usize) -> Option<usize> {
    let (flags, mode) = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: a new private mapping touches no existing memory.
    let map = unsafe { libc::mmap(std::ptr::null_mut(), bytes, mode, flags, -1, 0) };
    if map == libc::MAP_FAILED {
        return None;
    }
    ranges().insert(map as usize, (bytes, true));
    Some(map as usize)
}

/// Closes a range for good; false if none starts there.
pub(crate) fn free(start: usize) -> bool {
    let mut ranges = ranges();
    let Some((bytes, is_live @ true)) = ranges.get_mut(&start) else { return false };
    *is_live = false;
    // SAFETY: the range is ours; its contents are given up, its addresses stay taken.
    unsafe {
        libc::madvise(start as *mut libc::c_void, *bytes, libc::MADV_DONTNEED);
        libc::mprotect(start as *mut libc::c_void, *bytes, libc::PROT_NONE) == 0
    }
}

/// Whether `bytes` from `start` are pinned.
pub(crate) fn find(start: usize, bytes: usize) -> Pinned {
    match ranges().range(..=start).next_back() {
        Some((from, (length, is_live))) if start + bytes <= from + length => {
            if *is_live {
                Pinned::Live
            } else {
                Pinned::Freed
            }
        }
        _ => Pinned::No,
    }
}
