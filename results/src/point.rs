//! The numbers of a figure, and repeats of a trial as one of them. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::capacity::{Outcome, Search};
use crate::records::Provenance;

/// One plotted number.
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    /// What it is for.
    pub labels: BTreeMap<String, String>,
    /// Which number, as in the CSV: `tbt_p50`, `capacity`.
    pub metric: String,
    /// In the figure's unit; absent where the trial has no sample.
    pub value: Option<f64>,
    /// Lower end.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// Simulated or measured.
    pub provenance: Provenance,
    /// The repeats that it is the median of, where there are such, and their numbers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub repeats: BTreeMap<String, Option<f64>>,
    /// Of a capacity: how its searches ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Of a capacity: every search.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub searches: Vec<Search>,
}

/// Rows that agree in the labels `bar` make one, in order of their first; the label `repeats`, in which they differ, goes.
pub(crate) fn join(rows: Vec<Vec<Point>>, bar: [&String; 2], repeats: &str) -> Vec<Vec<Point>> {
    let place =
        |row: &[Point]| bar.map(|label| row.first().and_then(|point| point.labels.get(label)).cloned());
    let mut bars: Vec<Vec<Vec<Point>>> = Vec::new();
    for row in rows {
        match bars.iter_mut().find(|bar| place(&bar[0]) == place(&row)) {
            Some(bar) => bar.push(row),
            None => bars.push(vec![row]),
        }
    }
    bars.into_iter().map(|bar| together(bar, repeats)).collect()
}

/// Panel by panel.
fn together(rows: Vec<Vec<Point>>, repeats: &str) -> Vec<Point> {
    let panels = rows.first().map_or(0, Vec::len);
    let of_panel = |index: usize| {
        let points: Vec<&Point> = rows.iter().map(|row| &row[index]).collect();
        let mut joined = points[0].clone();
        joined.labels.remove(repeats);
        let named = |point: &&Point| Some((point.labels.get(repeats)?.clone(), point.value));
        joined.repeats = points.iter().filter_map(named).collect();
        joined.value = median(points.iter().filter_map(|point| point.value).collect());
        joined.low = points.iter().filter_map(|point| point.low).reduce(f64::min);
        joined.high = points.iter().filter_map(|point| point.high).reduce(f64::max);
        joined
    };
    (0..panels).map(of_panel).collect()
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    Some((values[last / 2] + values[last.div_ceil(2)]) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(x: &str, repeat: &str, value: Option<f64>) -> Point {
        let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Point {
            labels: [label("x", x), label("way", "a"), label("repeat", repeat)].into(),
            metric: "tbt_p50".to_owned(),
            value,
            low: value.map(|value| value - 0.5),
            high: value.map(|value| value + 0.5),
            provenance: Provenance::Measured,
            repeats: BTreeMap::new(),
            outcome: None,
            searches: Vec::new(),
        }
    }

    #[test]
    fn rows_of_one_bar_are_their_median_between_the_lowest_and_the_highest() {
        let rows = [("1", "0", 4.0), ("2", "0", 7.0), ("1", "1", 1.0), ("1", "2", 2.0), ("2", "1", 8.0)];
        let rows = rows.map(|(x, repeat, value)| vec![point(x, repeat, Some(value)), point(x, repeat, None)]);
        let joined = join(rows.into(), [&"x".to_owned(), &"way".to_owned()], "repeat");
        let numbers: Vec<_> =
            joined.iter().map(|row| (row[0].value, row[0].low, row[0].high, row[0].repeats.len())).collect();
        assert_eq!(numbers, [(Some(2.0), Some(0.5), Some(4.5), 3), (Some(7.5), Some(6.5), Some(8.5), 2)]);
        let each = [("0", 4.0), ("1", 1.0), ("2", 2.0)].map(|(name, value)| (name.to_owned(), Some(value)));
        assert_eq!(joined[0][0].repeats, each.into());
        assert!(joined.iter().flatten().all(|point| !point.labels.contains_key("repeat")));
        assert_eq!((joined[0][1].value, joined[0][1].low), (None, None));
    }
}
