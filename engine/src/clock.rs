//! The clock that all processes of one host share, and sleeping by it.

use std::num::NonZeroU64;

use rustix::thread::{clock_nanosleep_absolute, set_current_timer_slack};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Sleeping ends this much before the time wanted; the rest is spun away, since waking takes a while. Longer than most wakings ...
pub(crate) const SPUN_EXACTLY_NS: u64 = 80_000;
/// ... or than some of them, where others want the core.
pub(crate) const SPUN_BRIEFLY_NS: u64 = 30_000;

/// Nanoseconds of CLOCK_MONOTONIC.
pub(crate) fn monotonic_ns() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

/// Seconds since 1970, for those who label things with the time of day.
pub(crate) fn unix_seconds() -> i64 {
    clock_gettime(ClockId::Realtime).tv_sec
}

/// Nanoseconds that this process has computed, over all its threads.
pub(crate) fn cpu_ns() -> u64 {
    nanoseconds(ClockId::ProcessCPUTime)
}

/// Nanoseconds that this thread has computed.
pub(crate) fn thread_cpu_ns() -> u64 {
    nanoseconds(ClockId::ThreadCPUTime)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Lets this thread's sleeps end as soon as the kernel can: by default it may gather them within 50 us.
pub(crate) fn sleep_exactly() {
    // Where the kernel refuses, sleeps are less exact, and messages are recorded as late.
    let _ = set_current_timer_slack(NonZeroU64::new(1));
}

/// Waits for `until_ns`, leaving the core to others for all but the last `spun_ns`.
pub(crate) fn sleep_until(until_ns: u64, spun_ns: u64) {
    while monotonic_ns() + spun_ns < until_ns {
        let wake = until_ns - spun_ns;
        let wake = Timespec { tv_sec: (wake / 1_000_000_000) as i64, tv_nsec: (wake % 1_000_000_000) as i64 };
        // A signal may end it early; then it sleeps again.
        let _ = clock_nanosleep_absolute(ClockId::Monotonic, &wake);
    }
    while monotonic_ns() < until_ns {
        std::hint::spin_loop();
    }
}
