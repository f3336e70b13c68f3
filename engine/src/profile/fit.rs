//! From measured batches to a stage's tables: least squares of relative errors, with no term below zero. Pure.

use super::design::{CHUNKS, DRAWN, Point, ROWS, tokens};
use crate::sim::curve::Curve;
use crate::sim::measured::{StageTable, pairs};

/// Rounds of the descent; each is some hundred additions, and the fit moves no more long before.
const SWEEPS: usize = 20_000;
/// The descent ends when no term has moved by more than this share of the largest.
const STILL: f64 = 1e-9;

/// A batch's time in one stage.
pub(super) struct Observation<'a> {
    pub(super) point: &'a Point,
    /// Microseconds, above zero.
    pub(super) us: f64,
}

/// The terms of [`StageTable`], in a row: pieces of `rows`, `chunk`, knots of `pair`, pieces of `sampled`.
///
/// `rows` and `sampled` are sums of pieces that rise from 0 to 1 between two knots and stay there, so that terms of at least 0
/// make a curve that never falls.
struct Terms {
    rows: Vec<f64>,
    chunks: Vec<f64>,
    drawn: Vec<f64>,
}

/// The table whose sums are nearest to what was observed.
pub(super) fn stage(observations: &[Observation<'_>], is_last: bool) -> StageTable {
    let terms = Terms::up_to(observations, is_last);
    let rows: Vec<Vec<f64>> = observations
        .iter()
        .map(|seen| terms.of(seen.point).into_iter().map(|term| term / seen.us).collect())
        .collect();
    terms.table(&non_negative(&rows, &vec![1.0; rows.len()]))
}

/// A curve that never falls, through values at numbers of rows.
pub(super) fn rising(samples: &[(u32, f64)]) -> Curve {
    let mut knots: Vec<f64> = samples.iter().map(|(x, _)| f64::from(*x)).collect();
    knots.dedup();
    let pieces: Vec<Vec<f64>> = samples.iter().map(|(x, _)| steps(&knots, f64::from(*x))).collect();
    let values: Vec<f64> = samples.iter().map(|(_, y)| *y).collect();
    summed(&knots, &non_negative(&pieces, &values))
}

impl Terms {
    fn up_to(observations: &[Observation<'_>], is_last: bool) -> Self {
        let most = |of: fn(&Point) -> u32| observations.iter().map(|seen| of(seen.point)).max().unwrap_or(1);
        let knots = |all: &[u32], most: u32| -> Vec<f64> {
            all.iter().filter(|knot| **knot <= most).map(|knot| f64::from(*knot)).collect()
        };
        let longest = |point: &Point| point.iter().map(|part| part.tokens).max().unwrap_or(1);
        Self {
            rows: knots(&ROWS, most(tokens)),
            chunks: knots(&CHUNKS, most(longest)),
            drawn: if is_last { knots(&DRAWN, most(drawn)) } else { Vec::new() },
        }
    }

    /// How often each term counts for a batch.
    fn of(&self, point: &Point) -> Vec<f64> {
        let mut terms = steps(&self.rows, f64::from(tokens(point)));
        terms.push(point.len() as f64);
        let mut attention = vec![0.0; self.chunks.len()];
        for part in point {
            let count = pairs(part.context, part.tokens) as f64;
            for (sum, share) in attention.iter_mut().zip(shares(&self.chunks, f64::from(part.tokens))) {
                *sum += count * share;
            }
        }
        terms.extend(attention);
        terms.extend(steps(&self.drawn, f64::from(drawn(point))));
        terms
    }

    fn table(&self, values: &[f64]) -> StageTable {
        let (rows, values) = values.split_at(self.rows.len());
        let (chunk, values) = values.split_at(1);
        let (knots, sampled) = values.split_at(self.chunks.len());
        StageTable {
            rows_us: summed(&self.rows, rows),
            chunk_us: digits(chunk[0]),
            pair_us: Curve(self.chunks.iter().zip(knots).map(|(x, y)| [*x, digits(*y)]).collect()),
            sampled_us: summed(&self.drawn, sampled),
            slowdown: Curve::default(),
        }
    }
}

fn drawn(point: &Point) -> u32 {
    point.iter().filter(|part| part.samples).count() as u32
}

/// How far `x` is along each piece: from 0 to the first knot all of the first piece, except that nothing is none of it; beyond the
/// last knot more than all of the last piece.
fn steps(knots: &[f64], x: f64) -> Vec<f64> {
    let last = knots.len().saturating_sub(1);
    let piece = |index: usize| match index {
        0 => f64::from(u8::from(x > 0.0)),
        _ => {
            let along = (x - knots[index - 1]) / (knots[index] - knots[index - 1]);
            if index == last { along.max(0.0) } else { along.clamp(0.0, 1.0) }
        }
    };
    (0..knots.len()).map(piece).collect()
}

/// The curve whose pieces rise so much.
fn summed(knots: &[f64], rises: &[f64]) -> Curve {
    let mut sum = 0.0;
    let point = |(x, rise): (&f64, &f64)| {
        sum += rise;
        [*x, digits(sum)]
    };
    Curve(knots.iter().zip(rises).map(point).collect())
}

/// What each knot counts for at `x`, where the curve is held outside and straight between.
fn shares(knots: &[f64], x: f64) -> Vec<f64> {
    let share = |index: usize| {
        let mut unit = Curve(knots.iter().map(|knot| [*knot, 0.0]).collect());
        unit.0[index][1] = 1.0;
        unit.held_at(x)
    };
    (0..knots.len()).map(share).collect()
}

/// Four digits say more than a measurement knows.
pub(super) fn digits(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let scale = 10_f64.powi(3 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

/// The x >= 0 with the least |a x - b|: coordinate descent on the normal equations.
fn non_negative(a: &[Vec<f64>], b: &[f64]) -> Vec<f64> {
    let width = a.first().map_or(0, Vec::len);
    let product = |i: usize, j: usize| a.iter().map(|row| row[i] * row[j]).sum::<f64>();
    let normal: Vec<Vec<f64>> = (0..width).map(|i| (0..width).map(|j| product(i, j)).collect()).collect();
    let right: Vec<f64> = (0..width).map(|i| a.iter().zip(b).map(|(row, b)| row[i] * b).sum()).collect();
    let mut x = vec![0.0_f64; width];
    for _ in 0..SWEEPS {
        let mut moved = 0.0_f64;
        for i in (0..width).filter(|i| normal[*i][*i] > 0.0) {
            let gradient: f64 = normal[i].iter().zip(&x).map(|(n, x)| n * x).sum::<f64>() - right[i];
            let next = (x[i] - gradient / normal[i][i]).max(0.0);
            // In units of what the term explains.
            moved = moved.max((next - x[i]).abs() * normal[i][i].sqrt());
            x[i] = next;
        }
        if moved < STILL {
            break;
        }
    }
    x
}

#[cfg(test)]
mod tests {
    use super::super::design::points;
    use super::super::samples::batch;
    use super::*;

    fn truth() -> StageTable {
        let line = |knots: &[u32], fixed: f64, slope: f64| {
            Curve(knots.iter().map(|x| [f64::from(*x), fixed + slope * f64::from(*x)]).collect())
        };
        StageTable {
            rows_us: line(&ROWS[..24], 400.0, 30.0),
            chunk_us: 7.0,
            pair_us: Curve(vec![[1.0, 0.5], [16.0, 0.2], [64.0, 0.1], [256.0, 0.08]]),
            sampled_us: line(&DRAWN, 50.0, 20.0),
            slowdown: Curve::default(),
        }
    }

    #[test]
    fn exact_observations_give_the_table_back() {
        let points = points(512);
        let truth = truth();
        let seen: Vec<_> = points
            .iter()
            .map(|point| Observation { point, us: truth.seconds(&batch(point)) * 1e6 })
            .collect();
        let fitted = stage(&seen, true);
        for point in &points {
            let (expected, found) = (truth.seconds(&batch(point)), fitted.seconds(&batch(point)));
            assert!((found / expected - 1.0).abs() < 0.002, "{point:?}: expected {expected}, found {found}");
        }
        // And says as much of a batch that was not among them.
        let other =
            [vec![super::super::design::chunk(300, 100)], super::super::design::decodes(11, 333, true)];
        let other = batch(&other.concat());
        assert!((fitted.seconds(&other) / truth.seconds(&other) - 1.0).abs() < 0.02);
    }

    #[test]
    fn noise_makes_no_curve_fall_and_no_term_negative() {
        let points = points(512);
        let truth = truth();
        let noise = |index: usize| 1.0 + 0.2 * (((index * 7919) % 13) as f64 / 6.0 - 1.0);
        let seen: Vec<_> = points
            .iter()
            .enumerate()
            .map(|(index, point)| Observation {
                point,
                us: truth.seconds(&batch(point)) * 1e6 * noise(index),
            })
            .collect();
        let fitted = stage(&seen, true);
        for curve in [&fitted.rows_us, &fitted.sampled_us] {
            assert!(curve.0.windows(2).all(|pair| pair[0][1] <= pair[1][1]), "{curve:?}");
        }
        assert!(fitted.pair_us.0.iter().all(|[_, y]| *y >= 0.0) && fitted.chunk_us >= 0.0);
    }

    #[test]
    fn a_stage_that_draws_nothing_has_no_table_of_it() {
        let points = points(64);
        let seen: Vec<_> = points.iter().map(|point| Observation { point, us: 100.0 }).collect();
        let fitted = stage(&seen, false);
        assert!(fitted.sampled_us.0.is_empty());
        assert_eq!(fitted.rows_us.0.last().unwrap()[0], 64.0);
    }

    #[test]
    fn a_rising_curve_goes_through_rising_samples() {
        let samples = [(1, 10.0), (64, 20.0), (512, 90.0)];
        for (x, y) in samples {
            assert!((rising(&samples).at(f64::from(x)) - y).abs() < 0.01, "{x}");
        }
        let level = rising(&[(1, 10.0), (2, 8.0)]);
        assert!((level.at(1.0) - 9.0).abs() < 0.01 && (level.at(2.0) - 9.0).abs() < 0.01, "{level:?}");
    }

    #[test]
    fn four_digits_stay() {
        assert_eq!((digits(1234.56), digits(0.000123456), digits(0.0)), (1235.0, 0.0001235, 0.0));
    }
}
