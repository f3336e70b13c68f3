//! How long a rank waits for its GPU before it gives up, and how that is counted. Knows nothing that could be waited for.

use std::time::Duration;

use crate::clock::monotonic_ns;

/// How long a GPU may take for what it has all it needs for, unless somebody says otherwise. With [`ABORT_PATIENCE`] and what the driver takes to hear of
/// it, a run is over within 10 s.
pub(super) const PATIENCE: Duration = Duration::from_secs(8);
/// How long the end of all groups may take where something has gone wrong.
pub(super) const ABORT_PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks there is never more time than this, unless the process was stopped.
const LOOK_NS_MAX: u64 = 200_000_000;

/// How long a GPU may take: `CHARIOT_GPU_PATIENCE` says how many seconds, where steps take longer than they should.
pub fn patience() -> Duration {
    let said = std::env::var("CHARIOT_GPU_PATIENCE").ok();
    let seconds = said.and_then(|seconds| seconds.parse().ok()).filter(|seconds| *seconds > 0.0);
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(PATIENCE)
}

/// How long somebody has waited, by looks: time in which nobody looks does not count, for the process was stopped then, and with it much
/// of what it waits for.
#[derive(Debug)]
pub(super) struct Waited {
    looked_ns: u64,
    waited_ns: u64,
}

impl Waited {
    pub(super) fn begin() -> Self {
        Self { looked_ns: monotonic_ns(), waited_ns: 0 }
    }

    /// Looks, and says how long it has been.
    pub(super) fn so_far(&mut self) -> Duration {
        self.look(monotonic_ns())
    }

    fn look(&mut self, now: u64) -> Duration {
        self.waited_ns += now.saturating_sub(self.looked_ns).min(LOOK_NS_MAX);
        self.looked_ns = now;
        Duration::from_nanos(self.waited_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_without_a_look_is_not_waited() {
        let ms = 1_000_000;
        let mut waited = Waited { looked_ns: 5, waited_ns: 0 };
        (1..=100).for_each(|look| assert_eq!(waited.look(5 + look * ms), Duration::from_millis(look)));
        assert_eq!(waited.look(3_600_000 * ms), Duration::from_millis(300));
        assert_eq!(waited.look(3_600_001 * ms), Duration::from_millis(301));
    }
}
