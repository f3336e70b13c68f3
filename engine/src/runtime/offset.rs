//! How far a worker's clock is from the driver's, found by asking it the time. Pure: times are handed in.

/// A worker's CLOCK_MONOTONIC, seen from the driver's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Offset {
    /// To be taken from the worker's times.
    ns: i64,
    /// The true offset is not farther from it than this.
    pub(super) uncertainty_ns: u64,
}

/// One question: when it was asked, what the worker's clock said, and when the driver knew.
#[derive(Debug, Clone, Copy)]
pub(super) struct Round {
    pub(super) asked_ns: u64,
    pub(super) theirs_ns: u64,
    pub(super) heard_ns: u64,
}

impl Offset {
    /// By the quickest of several rounds: the worker looked at its clock somewhere between question and answer, so that half of that time is
    /// the most it can be wrong by. A clock that may as well be the driver's own is taken for it.
    pub(super) fn from_rounds(rounds: &[Round]) -> Option<Self> {
        let took = |round: &Round| round.heard_ns.saturating_sub(round.asked_ns);
        let quickest = rounds.iter().min_by_key(|round| took(round))?;
        let uncertainty_ns = took(quickest).div_ceil(2);
        let middle = quickest.asked_ns + took(quickest) / 2;
        let ns = quickest.theirs_ns.wrapping_sub(middle).cast_signed();
        let ns = if ns.unsigned_abs() <= uncertainty_ns { 0 } else { ns };
        Some(Self { ns, uncertainty_ns })
    }

    /// A time of the worker's clock, by the driver's.
    pub(super) fn of_driver(self, theirs_ns: u64) -> u64 {
        theirs_ns.saturating_add_signed(self.ns.saturating_neg())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(asked_ns: u64, theirs_ns: u64, heard_ns: u64) -> Round {
        Round { asked_ns, theirs_ns, heard_ns }
    }

    #[test]
    fn a_clock_that_may_be_ones_own_is() {
        for theirs in [1000, 1040, 1100] {
            let offset = Offset::from_rounds(&[round(1000, theirs, 1100), round(0, 9000, 9500)]).unwrap();
            assert_eq!(offset, Offset { ns: 0, uncertainty_ns: 50 });
            assert_eq!(offset.of_driver(777), 777);
        }
    }

    #[test]
    fn the_quickest_round_tells_and_errs_by_half_of_it_at_most() {
        const HOUR: u64 = 3_600_000_000_000;
        for late in [0, 30, 60] {
            // Another host, up an hour longer or shorter; the driver hears of an event there `late` of 60 ns after asking.
            let rounds = [round(10, 10 + HOUR + 900, 2000), round(5000, 5000 + HOUR + late, 5060)];
            let offset = Offset::from_rounds(&rounds).unwrap();
            assert_eq!(offset.uncertainty_ns, 30);
            assert!(offset.of_driver(HOUR + 7000).abs_diff(7000) <= 30);
            let younger = [round(HOUR + 5000, 5000 + late, HOUR + 5060)];
            let offset = Offset::from_rounds(&younger).unwrap();
            assert!(offset.of_driver(7000).abs_diff(HOUR + 7000) <= 30);
        }
        assert_eq!(Offset::from_rounds(&[]), None);
    }
}
