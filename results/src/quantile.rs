//! Exact quantiles and moments of samples, as numpy's defaults define them. Knows nothing of what is sampled.

use std::cmp::Ordering;

/// A value that can be ordered and turned into a real number.
pub trait Sample: Copy {
    /// Total order.
    fn order(&self, other: &Self) -> Ordering;
    /// As a real number.
    fn real(self) -> f64;
}

impl Sample for i64 {
    fn order(&self, other: &Self) -> Ordering {
        self.cmp(other)
    }
    fn real(self) -> f64 {
        self as f64
    }
}

impl Sample for f64 {
    fn order(&self, other: &Self) -> Ordering {
        self.total_cmp(other)
    }
    fn real(self) -> f64 {
        self
    }
}

/// Where the quantile `q` of `n` values lies: the lower of its two neighbours, and how far towards the upper.
fn position(n: usize, q: f64) -> (usize, f64) {
    let at = q * (n - 1) as f64;
    let lower = (at.floor() as usize).min(n - 1);
    (lower, at - lower as f64)
}

/// Between `a` and `b` at `t`, from the nearer end, so that `t = 1` gives `b` exactly; `b` may be infinite where `t` is 0.
fn lerp(a: f64, b: f64, t: f64) -> f64 {
    if t == 0.0 {
        a
    } else if t < 0.5 {
        a + (b - a) * t
    } else {
        b - (b - a) * (1.0 - t)
    }
}

/// The quantile `q` in [0, 1] of unordered values by linear interpolation; `None` of nothing. Reorders the values; linear time.
pub fn quantile<T: Sample>(values: &mut [T], q: f64) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    let (lower, t) = position(values.len(), q);
    let (_, a, above) = values.select_nth_unstable_by(lower, T::order);
    let a = a.real();
    let b = above.iter().copied().min_by(T::order).map_or(a, T::real);
    Some(lerp(a, b, t))
}

/// The quantile `q` of values in ascending order.
pub fn quantile_sorted<T: Sample>(sorted: &[T], q: f64) -> Option<f64> {
    let last = sorted.last()?;
    let (lower, t) = position(sorted.len(), q);
    let above = sorted.get(lower + 1).unwrap_or(last);
    Some(lerp(sorted[lower].real(), above.real(), t))
}

/// Mean and population standard deviation; `None` of nothing. Two passes, in the order given.
pub fn moments<T: Sample>(values: &[T]) -> Option<(f64, f64)> {
    if values.is_empty() {
        return None;
    }
    let n = values.len() as f64;
    let mean = values.iter().map(|v| v.real()).sum::<f64>() / n;
    let variance = values.iter().map(|v| (v.real() - mean) * (v.real() - mean)).sum::<f64>() / n;
    Some((mean, variance.sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// numpy's formula on a sorted copy, written out independently.
    fn reference(values: &[i64], q: f64) -> f64 {
        let mut sorted = values.to_vec();
        sorted.sort();
        let at = q * (sorted.len() - 1) as f64;
        let (below, above) = (sorted[at.floor() as usize] as f64, sorted[at.ceil() as usize] as f64);
        below * (1.0 - at.fract()) + above * at.fract()
    }

    proptest! {
        #[test]
        fn agrees_with_sorting(values in prop::collection::vec(-1_000_000_000_000i64..1_000_000_000_000, 1..200), q in 0.0..=1.0f64) {
            let expected = reference(&values, q);
            let got = quantile(&mut values.clone(), q).unwrap();
            prop_assert!((got - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{got} {expected}");
            let mut sorted = values.clone();
            sorted.sort();
            prop_assert_eq!(quantile_sorted(&sorted, q).unwrap(), got);
            prop_assert!(got >= sorted[0] as f64 && got <= *sorted.last().unwrap() as f64);
        }

        #[test]
        fn grows_with_q(values in prop::collection::vec(-1e9..1e9f64, 1..50), a in 0.0..=1.0f64, b in 0.0..=1.0f64) {
            let (a, b) = (a.min(b), a.max(b));
            prop_assert!(quantile(&mut values.clone(), a).unwrap() <= quantile(&mut values.clone(), b).unwrap());
        }
    }

    #[test]
    fn closed_forms() {
        let mut ramp: Vec<i64> = (0..=1000).rev().collect();
        for (q, expected) in
            [(0.0, 0.0), (0.25, 250.0), (0.5, 500.0), (0.99, 990.0), (0.999, 999.0), (1.0, 1000.0)]
        {
            assert_eq!(quantile(&mut ramp, q), Some(expected));
        }
        assert_eq!(quantile(&mut [1.0, 2.0, 3.0, 4.0], 0.5), Some(2.5));
        assert_eq!(quantile(&mut [7i64], 0.99), Some(7.0));
        assert_eq!(quantile(&mut [1.0, f64::INFINITY, 3.0], 0.5), Some(3.0));
        assert_eq!(quantile::<f64>(&mut [], 0.5), None);
        assert_eq!(moments(&[2i64, 4, 4, 4, 5, 5, 7, 9]), Some((5.0, 2.0)));
        assert_eq!(moments::<f64>(&[]), None);
    }
}
