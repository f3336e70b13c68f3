//! How the driver waits for a batch: asleep, but awake around the time at which it should come back, where a core has nothing else to do.
//! Waking a thread on an idle core takes as long as forming a batch. Pure: times are handed in.

use std::time::Duration;

/// Awake from this part of the last batch's time on ...
const FROM: f64 = 0.9;
/// ... to this one, and never longer than `AWAKE_NS_MAX`.
const TO: f64 = 1.15;
const AWAKE_NS_MAX: u64 = 2_000_000;

/// What the driver expects of the batch under way.
#[derive(Debug)]
pub(super) struct Lookout {
    has_spare_core: bool,
    /// What the last batch took, from its order to its tokens.
    last_ns: u64,
}

impl Lookout {
    /// Nothing expected yet. Without a core that no rank uses, the driver always sleeps.
    pub(super) fn new(has_spare_core: bool) -> Self {
        Self { has_spare_core, last_ns: 0 }
    }

    /// A batch took so long.
    pub(super) fn took(&mut self, ns: u64) {
        self.last_ns = ns;
    }

    /// How long to sleep at most, so long after the batch was sent; zero: look again at once.
    pub(super) fn patience(&self, since_ns: u64, most: Duration) -> Duration {
        let part = |share: f64| (self.last_ns as f64 * share) as u64;
        let from = part(FROM);
        let awake = from..part(TO).min(from + AWAKE_NS_MAX);
        match () {
            () if !self.has_spare_core || since_ns >= awake.end => most,
            () if since_ns < awake.start => most.min(Duration::from_nanos(awake.start - since_ns)),
            () => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_millis(100);

    fn patience_ns(has_spare_core: bool, last_ns: u64, since_ns: u64) -> u128 {
        let mut lookout = Lookout::new(has_spare_core);
        lookout.took(last_ns);
        lookout.patience(since_ns, MOST).as_nanos()
    }

    #[test]
    fn it_sleeps_until_the_batch_may_come_and_not_for_ever_awake() {
        let cases =
            [(0, 9_000_000), (8_999_000, 1000), (9_000_000, 0), (10_900_000, 0), (11_000_001, 100_000_000)];
        for (since_ns, expected) in cases {
            assert_eq!(patience_ns(true, 10_000_000, since_ns), expected, "{since_ns}");
        }
        assert_eq!(
            patience_ns(true, 2_000_000, 2_300_000),
            MOST.as_nanos(),
            "15 % over is not waited for awake"
        );
        assert_eq!(patience_ns(true, 400_000_000, 0), MOST.as_nanos());
        assert_eq!(patience_ns(true, 400_000_000, 362_000_001), MOST.as_nanos(), "2 ms are");
    }

    #[test]
    fn it_always_sleeps_before_the_first_batch_and_where_ranks_have_all_cores() {
        for since_ns in [0, 1, 9_500_000] {
            assert_eq!(patience_ns(true, 0, since_ns), MOST.as_nanos());
            assert_eq!(patience_ns(false, 10_000_000, since_ns), MOST.as_nanos());
        }
    }
}
