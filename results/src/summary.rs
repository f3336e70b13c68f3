//! A trial's summary: statistics of every metric, of the band's ends too, and the series. Knows nothing of figures.

use std::collections::BTreeMap;

use camino::Utf8Path;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Result;
use crate::files::{FORMAT, cause, read_json_value};
use crate::metric::{BATCH_METRICS, METRICS, Samples, Trial};
use crate::records::{Batches, Provenance, Records, TrialInfo};
use crate::series::{Series, series};
use crate::statistics::Statistics;

/// `summary.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// Version of this file's meaning.
    pub format: u64,
    /// Simulated or measured.
    pub provenance: Provenance,
    /// `trial.json` as it was.
    pub trial: Value,
    /// How many requests ended how.
    pub requests: RequestCounts,
    /// By metric name.
    pub metrics: BTreeMap<String, MetricSummary>,
    /// Running totals over time.
    pub series: BTreeMap<String, Series>,
}

/// What became of the requests of a trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestCounts {
    /// Rows of the records.
    pub total: u64,
    /// Refused as too long.
    pub ignored: u64,
    /// Planned for after the trial's end.
    pub not_arrived: u64,
    /// Arrived and never scheduled.
    pub never_scheduled: u64,
    /// Scheduled and not completed.
    pub unfinished: u64,
    /// Completed.
    pub completed: u64,
}

/// One metric of a summary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricSummary {
    /// Unit of the statistics.
    pub unit: String,
    /// Of the records themselves.
    pub central: Statistics,
    /// At the fast end of the uncertain costs, where that differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<Statistics>,
    /// At the slow end of the uncertain costs, where that differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<Statistics>,
}

impl MetricSummary {
    fn new(unit: &str, samples: Samples) -> Self {
        Self { unit: unit.to_owned(), central: Statistics::of(samples), low: None, high: None }
    }
}

/// Summarizes the trial in a directory. n log n in the number of tokens.
pub fn summarize(dir: &Utf8Path) -> Result<Summary> {
    let path = dir.join("trial.json");
    let info = TrialInfo::read(&path)?;
    let records = dir.join("records.parquet");
    let trial = load(&records, &info, info.end_ns)?;
    let batches = Batches::read(&dir.join("batches.parquet"))?;
    let mut metrics: BTreeMap<String, MetricSummary> = METRICS
        .iter()
        .map(|m| (m.name.to_owned(), MetricSummary::new(m.unit, (m.samples)(&trial))))
        .chain(
            BATCH_METRICS
                .iter()
                .map(|m| (m.name.to_owned(), MetricSummary::new(m.unit, (m.samples)(&batches)))),
        )
        .collect();
    for end in [BandEnd::Low, BandEnd::High] {
        add_band(&mut metrics, &records, &dir.join(end.file()), &info, end)?;
    }
    Ok(Summary {
        format: FORMAT,
        provenance: info.provenance,
        trial: read_json_value(&path)?,
        requests: count_requests(&trial),
        metrics,
        series: series(&trial, &batches),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BandEnd {
    Low,
    High,
}

impl BandEnd {
    fn file(self) -> &'static str {
        match self {
            Self::Low => "records-low.parquet",
            Self::High => "records-high.parquet",
        }
    }
}

fn add_band(
    metrics: &mut BTreeMap<String, MetricSummary>,
    central: &Utf8Path,
    path: &Utf8Path,
    info: &TrialInfo,
    end: BandEnd,
) -> Result<()> {
    if !path.exists() || same_bytes(central, path)? {
        return Ok(());
    }
    let mut trial = load(path, info, 0)?;
    trial.end = band_end(&trial, info);
    for metric in METRICS {
        let Some(summary) = metrics.get_mut(metric.name) else { continue };
        let statistics = Some(Statistics::of((metric.samples)(&trial)));
        match end {
            BandEnd::Low => summary.low = statistics,
            BandEnd::High => summary.high = statistics,
        }
    }
    Ok(())
}

/// When a band's trial ended: `trial.json` tells the central one's end alone. With every request done it is the last
/// completion; otherwise the time limit ended it.
fn band_end(trial: &Trial, info: &TrialInfo) -> i64 {
    let lives = &trial.lives;
    let done = (0..lives.arrival.len()).all(|i| lives.ignored[i] || lives.completed[i].is_some());
    let last = lives.last_token.iter().chain(&lives.completed).flatten().copied().max().unwrap_or(0);
    if done {
        last.max(lives.arrival.last().copied().unwrap_or(0))
    } else {
        info.time_limit_ns().unwrap_or(info.end_ns).max(last)
    }
}

fn same_bytes(a: &Utf8Path, b: &Utf8Path) -> Result<bool> {
    let read = |path: &Utf8Path| fs_err::read(path).map_err(|e| crate::error::Error::file(path, cause(&e)));
    Ok(fs_err::metadata(a)?.len() == fs_err::metadata(b)?.len() && read(a)? == read(b)?)
}

fn load(path: &Utf8Path, info: &TrialInfo, end: i64) -> Result<Trial> {
    let records = Records::open(path)?;
    let lives = records.lives()?;
    let works = records.works(&lives)?;
    let gaps = records.gaps(&lives)?;
    let decode_only = records.decode_only(&gaps)?;
    Ok(Trial { compat: info.compat, end, lives, works, gaps, decode_only })
}

fn count_requests(trial: &Trial) -> RequestCounts {
    let lives = &trial.lives;
    let mut counts = RequestCounts {
        total: 0,
        ignored: 0,
        not_arrived: 0,
        never_scheduled: 0,
        unfinished: 0,
        completed: 0,
    };
    for i in 0..lives.arrival.len() {
        counts.total += 1;
        let bin = match (lives.scheduled[i], lives.completed[i]) {
            _ if lives.ignored[i] => &mut counts.ignored,
            _ if !lives.counts(i, trial.end) => &mut counts.not_arrived,
            (_, Some(_)) => &mut counts.completed,
            (Some(_), None) => &mut counts.unfinished,
            (None, None) => &mut counts.never_scheduled,
        };
        *bin += 1;
    }
    counts
}
