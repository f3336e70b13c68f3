//! A straight line through times of messages. Pure.

use crate::sim::hardware::{Exchanged, Fitted};

/// Significant digits are enough that a file shows what was measured, and not more.
const DIGITS: i32 = 4;

/// `us = alpha_us + moved / gbps`, with an `alpha_us` of at least 0: the least squares of relative errors. `moved`: bytes of a point.
/// There is at least one point.
pub(super) fn line(points: Vec<Exchanged>, moved: impl Fn(&Exchanged) -> f64) -> Fitted {
    let samples: Vec<(f64, f64)> = points.iter().map(|point| (moved(point), point.us.max(1e-3))).collect();
    let (alpha, slope) = least_squares(&samples);
    // A microsecond a byte is a millionth of a terabyte a second.
    let (alpha_us, gbps) = (rounded(alpha), rounded(1e-3 / slope));
    let error = |(bytes, us): &(f64, f64)| ((alpha_us + bytes / (gbps * 1e3)) / us - 1.0).abs();
    let mut errors: Vec<f64> = samples.iter().map(error).collect();
    errors.sort_by(f64::total_cmp);
    let (error_median, error_max) = (rounded(errors[errors.len() / 2]), rounded(errors[errors.len() - 1]));
    Fitted { alpha_us, gbps, error_median, error_max, points }
}

/// Intercept and slope of `(x, y)`, each weighted by `1 / y^2`. Where they do not both come out positive, a line through zero.
fn least_squares(samples: &[(f64, f64)]) -> (f64, f64) {
    let sum = |term: fn(f64, f64) -> f64| samples.iter().map(|(x, y)| term(*x, *y) / (y * y)).sum::<f64>();
    let (n, sx, sy) = (sum(|_, _| 1.0), sum(|x, _| x), sum(|_, y| y));
    let (sxx, sxy) = (sum(|x, _| x * x), sum(|x, y| x * y));
    let determinant = n * sxx - sx * sx;
    let slope = (n * sxy - sx * sy) / determinant;
    let alpha = (sy - slope * sx) / n;
    match slope > 0.0 && alpha >= 0.0 && slope.is_finite() {
        true => (alpha, slope),
        false => (0.0, sxy / sxx),
    }
}

fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let shift = 10_f64.powi(DIGITS - 1 - value.abs().log10().floor() as i32);
    (value * shift).round() / shift
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(times: &[(u64, f64)]) -> Vec<Exchanged> {
        let point = |&(bytes, us)| Exchanged { ranks: vec![0, 1], bytes, us, repeats: 1 };
        times.iter().map(point).collect()
    }

    fn fitted(times: &[(u64, f64)]) -> Fitted {
        line(points(times), |point| point.bytes as f64)
    }

    #[test]
    fn a_line_is_found_again_in_its_units() {
        // 20 us and 100 GB/s: a megabyte (10^6) takes 10 us.
        let fit = fitted(&[(250_000, 22.5), (1_000_000, 30.0), (4_000_000, 60.0), (16_000_000, 180.0)]);
        assert_eq!((fit.alpha_us, fit.gbps), (20.0, 100.0));
        assert_eq!((fit.error_median, fit.error_max), (0.0, 0.0));
    }

    #[test]
    fn what_lies_off_the_line_is_told() {
        let fit = fitted(&[(1_000_000, 30.0), (2_000_000, 40.0), (4_000_000, 90.0), (8_000_000, 100.0)]);
        assert!(fit.error_max > 0.2, "{fit:?}");
        assert!(fit.error_median > 0.0 && fit.error_median <= fit.error_max, "{fit:?}");
    }

    #[test]
    fn a_line_that_would_begin_below_zero_goes_through_zero() {
        let fit = fitted(&[(1_000_000, 5.0), (2_000_000, 20.0), (4_000_000, 60.0)]);
        assert_eq!(fit.alpha_us, 0.0);
        assert!(fit.gbps > 60.0 && fit.gbps < 200.0, "{fit:?}");
        // Nor does it fall, or stand on one size alone.
        assert!(fitted(&[(1_000_000, 30.0), (4_000_000, 10.0)]).gbps > 0.0);
        assert_eq!(fitted(&[(1_000_000, 10.0)]).gbps, 100.0);
    }
}
