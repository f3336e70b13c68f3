//! What the searches of one `capacity.json` came to. Knows the planner's file; draws nothing.

use camino::Utf8Path;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::files::read_json;
use crate::quantile::quantile;
use crate::records::Provenance;

/// `capacity.json`, as far as results depend on it.
#[derive(Debug, Deserialize)]
struct CapacityFile {
    rate_unit: String,
    searches: Vec<SearchFile>,
}

#[derive(Debug, Deserialize)]
struct SearchFile {
    #[serde(default)]
    repeat: Map<String, Value>,
    outcome: Outcome,
    highest_pass: Option<f64>,
    lowest_fail: Option<f64>,
    #[serde(default)]
    probes: Vec<ProbeFile>,
}

#[derive(Debug, Deserialize)]
struct ProbeFile {
    verdict: VerdictFile,
}

#[derive(Debug, Deserialize)]
struct VerdictFile {
    provenance: Provenance,
    setting: Option<String>,
}

/// How a search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A highest rate that passes and a lowest that fails.
    Bracketed,
    /// No rate passes, down to the search's lower limit.
    BelowRange,
    /// The search's upper limit still passes.
    AboveRange,
}

/// One search, as shown beside a figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Search {
    /// Seed, band and whatever else tells it apart.
    pub repeat: Map<String, Value>,
    /// How it ended.
    pub outcome: Outcome,
    /// The highest rate that passed.
    pub highest_pass: Option<f64>,
    /// The lowest rate that failed.
    pub lowest_fail: Option<f64>,
}

/// A capacity over several searches. A search that found no passing rate counts as rate 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Capacity {
    /// Of the rates.
    pub unit: String,
    /// Median of the highest passing rates over the central searches.
    pub value: f64,
    /// Lowest over all searches.
    pub low: f64,
    /// Highest over all searches.
    pub high: f64,
    /// What the median stands for.
    pub outcome: Outcome,
    /// How many searches the median is over.
    pub central_searches: usize,
    /// Where the numbers come from.
    pub provenance: Provenance,
    /// Model and platform, where all probes agree on them.
    pub setting: Option<String>,
    /// All searches.
    pub searches: Vec<Search>,
}

impl Capacity {
    /// Reads `capacity.json`.
    pub fn read(path: &Utf8Path) -> Result<Self> {
        let file: CapacityFile = read_json(path)?;
        Self::of(file).map_err(|message| Error::file(path, message))
    }

    fn of(file: CapacityFile) -> std::result::Result<Self, String> {
        let mut provenances = file.searches.iter().flat_map(|s| &s.probes).map(|p| p.verdict.provenance);
        let provenance = provenances.next().ok_or("expected at least one probe, found none")?;
        if provenances.any(|other| other != provenance) {
            return Err("expected probes all simulated or all measured, found both".into());
        }
        let mut settings = file.searches.iter().flat_map(|s| &s.probes).map(|p| &p.verdict.setting);
        let first = settings.next().cloned().flatten();
        let setting = first.filter(|first| settings.all(|other| other.as_ref() == Some(first)));
        let mut central = Vec::new();
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for (index, search) in file.searches.iter().enumerate() {
            let rate = match (search.outcome, search.highest_pass) {
                (Outcome::BelowRange, None) => 0.0,
                (Outcome::Bracketed | Outcome::AboveRange, Some(rate)) if rate > 0.0 => rate,
                (outcome, pass) => {
                    return Err(format!(
                        "searches[{index}]: outcome {outcome:?} does not fit highest_pass {pass:?}"
                    ));
                }
            };
            (low, high) = (low.min(rate), high.max(rate));
            if search.repeat.get("band").is_none_or(|band| band == "central") {
                central.push((rate, search.outcome));
            }
        }
        let value = quantile(&mut central.iter().map(|(rate, _)| *rate).collect::<Vec<_>>(), 0.5)
            .ok_or("expected a search at the central costs, found none")?;
        let limit =
            central.iter().filter(|(_, o)| *o == Outcome::AboveRange).map(|(rate, _)| *rate).reduce(f64::min);
        let outcome = match limit {
            _ if value == 0.0 => Outcome::BelowRange,
            Some(limit) if value >= limit => Outcome::AboveRange,
            _ => Outcome::Bracketed,
        };
        let searches = file.searches.into_iter().map(|s| Search {
            repeat: s.repeat,
            outcome: s.outcome,
            highest_pass: s.highest_pass,
            lowest_fail: s.lowest_fail,
        });
        Ok(Self {
            unit: file.rate_unit,
            value,
            low,
            high,
            outcome,
            central_searches: central.len(),
            provenance,
            setting,
            searches: searches.collect(),
        })
    }
}
