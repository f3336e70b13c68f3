//! How a rank waits for another in shared memory: it looks, and then it sleeps. Knows no memory.

use std::time::Duration;

use crate::clock::monotonic_ns;

/// Looks before the clock is looked at, or the rank sleeps: some microseconds, in which ranks of one core do not keep each other waiting.
const LOOKS: u32 = 300;
/// With a core each. Falling asleep and being woken takes as long as a small all-reduce ten times over, and ranks of a stage come to one
/// within less than this of each other.
const AWAKE: Duration = Duration::from_micros(200);

/// How long a rank waits, and how.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    awake: Duration,
    /// A peer must have answered by then.
    pub(super) timeout: Duration,
}

impl Patience {
    /// For ranks that may have to share a core: each sleeps soon, and lets the others run.
    pub fn shared_cores(timeout: Duration) -> Self {
        Self { awake: Duration::ZERO, timeout }
    }

    /// For ranks with a core each, which nobody else wants.
    pub fn own_cores(timeout: Duration) -> Self {
        Self { awake: AWAKE, timeout }
    }

    /// Looks until something is there, or it is time to sleep.
    pub(super) fn look<T>(&self, mut there: impl FnMut() -> Option<T>) -> Option<T> {
        let mut looks = || {
            for _ in 0..LOOKS {
                if let Some(found) = there() {
                    return Some(found);
                }
                std::hint::spin_loop();
            }
            None
        };
        let end = monotonic_ns() + self.awake.as_nanos() as u64;
        loop {
            let found = looks();
            if found.is_some() || monotonic_ns() >= end {
                return found;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_found_at_once_and_what_is_not_is_looked_for_in_its_time() {
        let timeout = Duration::from_secs(1);
        for patience in [Patience::shared_cores(timeout), Patience::own_cores(timeout)] {
            let mut looks = 0;
            let mut after = |count: u32| {
                looks += 1;
                (looks == count).then_some(7)
            };
            assert_eq!(patience.look(|| after(250)), Some(7));
            assert_eq!(looks, 250);
        }
        let took = |patience: Patience| {
            let began = monotonic_ns();
            assert_eq!(patience.look(|| None::<()>), None);
            Duration::from_nanos(monotonic_ns() - began)
        };
        assert!(took(Patience::own_cores(timeout)) >= AWAKE);
        let quickest = (0..20).map(|_| took(Patience::shared_cores(timeout))).min();
        assert!(quickest < Some(AWAKE / 2), "{quickest:?}");
    }
}
