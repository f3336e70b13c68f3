//! Ranks that hang on purpose, so that tests can see what becomes of their run. Builds that are optimized have none of it.
//!
//! `CHARIOT_HANG=spin:RANK:STEP` in a worker's environment makes that rank compute for ever in its STEP-th step, counted from 1, or while it loads: 0.
//! `block` lets it sleep for ever instead.

use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// This process's rank, and the steps it has begun.
static RANK: AtomicU32 = AtomicU32::new(0);
static STEPS: AtomicU32 = AtomicU32::new(0);

/// A rank loads.
pub(super) fn loading(rank: u32) {
    RANK.store(rank, Ordering::Relaxed);
    hang_if_wanted(rank, 0);
}

/// It begins a step.
pub(super) fn step() {
    let step = STEPS.fetch_add(1, Ordering::Relaxed) + 1;
    hang_if_wanted(RANK.load(Ordering::Relaxed), step);
}

fn hang_if_wanted(rank: u32, step: u32) {
    let Ok(wanted) = std::env::var("CHARIOT_HANG") else { return };
    let how = match wanted.split_once(':') {
        Some((how, place)) if place == format!("{rank}:{step}") => how,
        _ => return,
    };
    // Nobody is left to tell if stderr is closed.
    let _ = writeln!(std::io::stderr(), "hangs on purpose");
    loop {
        match how {
            "spin" => std::hint::spin_loop(),
            _ => std::thread::sleep(Duration::from_secs(1)),
        }
    }
}
