//! How times lie about their median, in bands of about equally long ones. Pure.

use super::fit::digits;
use super::median::median;
use crate::sim::curve::Curve;
use crate::sim::spread::{Spread, SpreadBand};

/// Quantiles that are kept. The rest of the tail is other processes' doing.
const QUANTILES: [f64; 9] = [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.995];
/// A batch with fewer times says nothing of their spread.
const TIMES_MIN: usize = 3;
/// Medians of a band are within this factor of its shortest, unless it has too few times.
const WIDTH: f64 = 3.0;
/// Times that a band has at least, if there are so many.
const BAND_MIN: usize = 60;

/// Of the times in microseconds of each stage and batch.
pub(super) fn spread(all: &[Vec<f64>]) -> Spread {
    let enough = all.iter().filter(|times| times.len() >= TIMES_MIN);
    let mut groups: Vec<(f64, &[f64])> = enough.map(|times| (median(times), &times[..])).collect();
    groups.sort_by(|a, b| a.0.total_cmp(&b.0));
    let bands = bands(&groups);
    Spread(bands.into_iter().map(band).collect())
}

/// Cuts groups in order of their medians.
fn bands<'a>(groups: &'a [(f64, &'a [f64])]) -> Vec<&'a [(f64, &'a [f64])]> {
    let count = |groups: &[(f64, &[f64])]| groups.iter().map(|(_, times)| times.len()).sum::<usize>();
    let (mut cuts, mut from) = (vec![0], 0);
    for (index, (middle, _)) in groups.iter().enumerate() {
        let is_full = *middle > WIDTH * groups[from].0 && count(&groups[from..index]) >= BAND_MIN;
        if is_full && count(&groups[index..]) >= BAND_MIN {
            cuts.push(index);
            from = index;
        }
    }
    cuts.push(groups.len());
    cuts.windows(2).map(|cut| &groups[cut[0]..cut[1]]).filter(|band| !band.is_empty()).collect()
}

/// Each time counts for as long as its batch takes, so that the spread says what a moment of a trial meets.
fn band(groups: &[(f64, &[f64])]) -> SpreadBand {
    let of_group = |&(middle, times): &(f64, &[f64])| {
        times.iter().map(move |time| (time / middle, middle)).collect::<Vec<_>>()
    };
    let longest = groups.iter().map(|(middle, _)| middle / 1e3).fold(0.0, f64::max);
    SpreadBand { up_to_ms: digits(longest), factors: quantiles(groups.iter().flat_map(of_group).collect()) }
}

/// Quantiles of values with weights.
fn quantiles(mut ratios: Vec<(f64, f64)>) -> Curve {
    ratios.sort_by(|a, b| a.0.total_cmp(&b.0));
    let all: f64 = ratios.iter().map(|(_, weight)| weight).sum();
    let mut below = 0.0;
    let middles = ratios.iter().map(|(ratio, weight)| {
        below += weight;
        [(below - 0.5 * weight) / all, *ratio]
    });
    let sorted = Curve(middles.collect());
    Curve(QUANTILES.iter().map(|share| [*share, digits(sorted.held_at(*share))]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_stages_have_spreads_of_their_own() {
        // A hundred short times, half of them delayed, beside long ones that never were.
        let short: Vec<f64> = (0..101).map(|index| if index % 2 == 0 { 1e3 } else { 3e3 }).collect();
        let long = vec![5e4; 100];
        let Spread(bands) = spread(&[long, short]);
        assert_eq!(bands.iter().map(|band| band.up_to_ms).collect::<Vec<_>>(), [1.0, 50.0]);
        assert_eq!((bands[0].factors.held_at(0.2), bands[0].factors.held_at(0.9)), (1.0, 3.0));
        assert_eq!((bands[1].factors.held_at(0.2), bands[1].factors.held_at(0.9)), (1.0, 1.0));
        let quantiles = &bands[0].factors.0;
        assert!(quantiles.windows(2).all(|pair| pair[0][0] < pair[1][0] && pair[0][1] <= pair[1][1]));
    }

    #[test]
    fn too_few_times_make_no_band_of_their_own() {
        let (short, long, lone) = (vec![1e3; 100], vec![5e4; 20], vec![9e5; 2]);
        let Spread(bands) = spread(&[short, long, lone.clone()]);
        assert_eq!(bands.iter().map(|band| band.up_to_ms).collect::<Vec<_>>(), [50.0]);
        assert_eq!(spread(&[]), Spread::default());
        assert_eq!(spread(&[lone]), Spread::default());
    }
}
