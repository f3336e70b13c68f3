//! How long a batch may take, judged by those before it. Pure: times are handed in.

use std::time::Duration;

use super::step::Part;

/// A batch may take so many times as long as the longest one before it ...
const MULTIPLE: f64 = 8.0;
/// ... and is given this long in any case.
const FLOOR_NS: u64 = 4_000_000_000;

/// What a batch's time depends on, but for the model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Size {
    tokens: u64,
    /// Of a token and another that it attends to.
    pairs: u64,
}

impl Size {
    pub(super) fn of(parts: &[Part]) -> Self {
        let pairs = |part: &Part| u64::from(part.tokens) * u64::from(part.context + part.tokens);
        Self {
            tokens: parts.iter().map(|part| u64::from(part.tokens)).sum(),
            pairs: parts.iter().map(pairs).sum(),
        }
    }

    /// How many times as large it is as another, by what it has most of; at least 1.
    fn times(self, other: Self) -> f64 {
        let ratio = |own: u64, other: u64| own as f64 / other.max(1) as f64;
        ratio(self.tokens, other.tokens).max(ratio(self.pairs, other.pairs)).max(1.0)
    }
}

/// The limits of a run's batches.
#[derive(Debug)]
pub(super) struct StepLimit {
    /// No batch may take longer, and the first ones may take as long.
    most_ns: u64,
    /// Whether batches before it say how long one may take.
    learns: bool,
    longest_ns: u64,
    /// The most tokens, and the most pairs, of a batch so far.
    largest: Size,
}

impl StepLimit {
    /// `learns`: whether batches before it limit one further.
    pub(super) fn new(most: Duration, learns: bool) -> Self {
        Self { most_ns: most.as_nanos() as u64, learns, longest_ns: 0, largest: Size::default() }
    }

    /// A batch took so long.
    pub(super) fn took(&mut self, size: Size, ns: u64) {
        self.longest_ns = self.longest_ns.max(ns);
        let Size { tokens, pairs } = self.largest;
        self.largest = Size { tokens: tokens.max(size.tokens), pairs: pairs.max(size.pairs) };
    }

    /// How long a batch may take, nanoseconds.
    pub(super) fn of(&self, size: Size) -> u64 {
        if !self.learns || self.longest_ns == 0 {
            return self.most_ns;
        }
        let expected = self.longest_ns as f64 * size.times(self.largest);
        ((MULTIPLE * expected) as u64).max(FLOOR_NS).min(self.most_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const MOST: Duration = Duration::from_secs(120);

    fn size(parts: &[(u32, u32)]) -> Size {
        let part = |&(context, tokens): &(u32, u32)| Part {
            slot: 0,
            context,
            tokens,
            blocks_kept: 0,
            blocks_new: 0,
            sample: None,
        };
        Size::of(&parts.iter().map(part).collect::<Vec<_>>())
    }

    #[test]
    fn tokens_and_what_they_attend_to_are_counted() {
        assert_eq!(size(&[]), Size { tokens: 0, pairs: 0 });
        assert_eq!(size(&[(0, 10), (99, 1)]), Size { tokens: 11, pairs: 200 });
    }

    #[test]
    fn a_batch_may_take_eight_times_the_longest_within_bounds() {
        let mut limit = StepLimit::new(MOST, true);
        let chunk = size(&[(0, 100)]);
        assert_eq!(limit.of(chunk), 120_000 * MS, "nothing is known before the first");
        for (took_ms, expected_ms) in [(3, 4_000), (500, 4_000), (600, 4_800), (30, 4_800), (20_000, 120_000)]
        {
            limit.took(chunk, took_ms * MS);
            assert_eq!(limit.of(chunk), expected_ms * MS, "after {took_ms} ms");
            assert_eq!(limit.of(size(&[(50, 1)])), expected_ms * MS, "a smaller one has as long");
        }
    }

    #[test]
    fn a_larger_batch_may_take_as_much_longer() {
        let mut limit = StepLimit::new(MOST, true);
        limit.took(size(&[(0, 100)]), 1_000 * MS);
        assert_eq!(limit.of(size(&[(0, 100); 3])), 24_000 * MS, "three times the tokens");
        assert_eq!(limit.of(size(&[(400, 100)])), 40_000 * MS, "five times the pairs");
        assert_eq!(limit.of(size(&[(9_900, 100)])), 120_000 * MS);
        limit.took(size(&[(399, 1); 50]), 900 * MS);
        assert_eq!(limit.of(size(&[(400, 100)])), 20_000 * MS, "two fifths of those pairs were seen");
        assert_eq!(limit.of(size(&[(0, 200)])), 16_000 * MS, "half of these tokens were, and of their pairs");
        limit.took(size(&[(0, 1)]), MS);
        assert_eq!(limit.of(size(&[(400, 100)])), 20_000 * MS, "a small batch takes nothing back");
    }

    #[test]
    fn where_ranks_watch_themselves_only_the_most_counts() {
        let mut limit = StepLimit::new(MOST, false);
        limit.took(size(&[(0, 100)]), MS);
        assert_eq!(limit.of(size(&[(0, 1)])), 120_000 * MS);
    }
}
