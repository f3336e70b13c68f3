//! Running totals over time: arrivals, completions, prompt and output tokens. Knows records; knows no file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::metric::Trial;
use crate::records::Batches;

/// Intervals of the trial at whose ends a series' total is given.
const INTERVALS: i64 = 100;

/// A running total over a trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// What is counted.
    pub unit: String,
    /// The total at the end.
    pub total: f64,
    /// Time of the first event.
    pub first_s: Option<f64>,
    /// Time of the last event.
    pub last_s: Option<f64>,
    /// Smallest total, over the events.
    pub min: Option<f64>,
    /// Largest total, over the events.
    pub max: Option<f64>,
    /// Mean total, over the events.
    pub mean: Option<f64>,
    /// Time and total at the trial's start and at the end of each hundredth of it.
    pub points: Vec<(f64, f64)>,
}

/// The four series by name.
pub fn series(trial: &Trial, batches: &Batches) -> BTreeMap<String, Series> {
    let lives = &trial.lives;
    let requests = |times: &mut dyn Iterator<Item = i64>| times.map(|time| (time, 1.0)).collect();
    let tokens =
        |tokens: &[i32]| batches.end.iter().copied().zip(tokens.iter().map(|n| f64::from(*n))).collect();
    let counted = || (0..lives.arrival.len()).filter(|i| lives.counts(*i, trial.end));
    let arrivals = requests(&mut counted().map(|i| lives.arrival[i]));
    let completions = requests(&mut counted().filter_map(|i| lives.completed[i]));
    [
        ("request_arrival", "requests", arrivals),
        ("request_completion", "requests", completions),
        ("prefill_completion", "tokens", tokens(&batches.prefill_tokens)),
        ("decode_completion", "tokens", tokens(&batches.decode_tokens)),
    ]
    .into_iter()
    .map(|(name, unit, events)| (name.to_owned(), total_over_time(unit, events, trial.end)))
    .collect()
}

fn total_over_time(unit: &str, mut events: Vec<(i64, f64)>, end: i64) -> Series {
    events.retain(|(_, weight)| *weight > 0.0);
    events.sort_by_key(|(time, _)| *time);
    let mut total = 0.0;
    let mut sum_of_totals = 0.0;
    let mut points = Vec::with_capacity(INTERVALS as usize + 1);
    let mut rest = events.iter().peekable();
    for k in 0..=INTERVALS {
        let until = i64::try_from(i128::from(end) * i128::from(k) / i128::from(INTERVALS)).unwrap_or(end);
        let last = k == INTERVALS;
        while let Some((_, weight)) = rest.next_if(|(time, _)| *time <= until || last) {
            total += weight;
            sum_of_totals += total;
        }
        points.push((until as f64 / 1e9, total));
    }
    Series {
        unit: unit.to_owned(),
        total,
        first_s: events.first().map(|(time, _)| *time as f64 / 1e9),
        last_s: events.last().map(|(time, _)| *time as f64 / 1e9),
        min: events.first().map(|(_, weight)| *weight),
        max: (!events.is_empty()).then_some(total),
        mean: (!events.is_empty()).then(|| sum_of_totals / events.len() as f64),
        points,
    }
}
