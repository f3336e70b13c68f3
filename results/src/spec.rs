//! `figure.json`: what to draw, checked as it is read. Knows no summary.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::error::{Error, Result, hint};
use crate::files::read_json;

/// A label's value as text; numbers and truth values are taken as they are written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Label(pub String);

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self(text)),
            other @ (Value::Number(_) | Value::Bool(_)) => Ok(Self(other.to_string())),
            other => Err(D::Error::custom(format!("expected a label, a string or number, found {other}"))),
        }
    }
}

/// Labels by name.
pub type Labels = BTreeMap<String, Label>;

/// `figure.json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FigureSpec {
    /// Version; checked when the file is read.
    pub format: u64,
    /// How to draw.
    pub kind: Kind,
    /// What the files are.
    #[serde(default)]
    pub source: Source,
    /// Above the figure.
    pub title: String,
    /// The label that makes the groups.
    pub x: String,
    /// The label that makes the bars of a group.
    pub series: String,
    /// The label in which rows of one bar differ: repeats of a trial.
    pub repeats: Option<String>,
    /// Under the axis.
    pub x_label: String,
    /// Beside the axis; the unit is appended.
    pub y_label: String,
    /// Groups in order.
    pub x_order: Option<Vec<Label>>,
    /// Series in order.
    pub series_order: Option<Vec<Label>>,
    /// How label values are written for people.
    #[serde(default)]
    pub names: BTreeMap<String, String>,
    /// One panel each.
    #[serde(default)]
    pub metrics: Vec<MetricSpec>,
    /// Further numbers for the table, the CSV and the JSON, not drawn.
    #[serde(default)]
    pub table: Vec<MetricSpec>,
    /// Unit and axis.
    #[serde(default)]
    pub scale: Scale,
    /// One file for each pair of group and series, and repeat.
    pub rows: Vec<RowSpec>,
}

/// A kind of figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Groups of bars side by side.
    GroupedBars,
    /// One point a group: the first of two series over the second.
    Parity,
}

/// What a figure's files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// `summary.json` of trials.
    #[default]
    Summary,
    /// `capacity.json` of searches.
    Capacity,
}

/// What a panel shows.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricSpec {
    /// Name in the summaries.
    pub metric: String,
    /// `p50`, `mean`, ...
    pub quantile: String,
    /// The panel's title.
    pub label: Option<String>,
}

/// How values become heights.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// Unit to show; the metric's own if absent.
    pub unit: Option<String>,
    /// Linear or logarithmic.
    #[serde(default)]
    pub axis: Axis,
}

/// The y axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    /// From zero.
    #[default]
    Linear,
    /// Decades.
    Log,
}

/// One file and what it stands for.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowSpec {
    /// Must name the figure's `x`, `series` and `repeats`.
    pub labels: Labels,
    /// Relative to the working directory.
    pub file: Utf8PathBuf,
}

impl FigureSpec {
    /// Reads and checks the specification.
    pub fn read(path: &Utf8Path) -> Result<Self> {
        let spec: Self = read_json(path)?;
        spec.check().map_err(|message| Error::file(path, message))?;
        Ok(spec)
    }

    fn check(&self) -> std::result::Result<(), String> {
        if self.source == Source::Capacity && !self.table.is_empty() {
            return Err("expected no `table` with `source: capacity`".into());
        }
        if self.source == Source::Capacity && self.repeats.is_some() {
            return Err("expected no `repeats` with `source: capacity`".into());
        }
        match (self.source, self.metrics.is_empty()) {
            (Source::Summary, true) => {
                return Err("expected `metrics` with at least one metric, found none".into());
            }
            (Source::Capacity, false) => return Err("expected no `metrics` with `source: capacity`".into()),
            _ => {}
        }
        let series = self.ordered(&self.series, self.series_order.as_ref()).len();
        if self.kind == Kind::Parity && series != 2 {
            return Err(format!("expected two series with `kind: parity`, found {series}"));
        }
        if self.rows.is_empty() {
            return Err("expected at least one row, found none".into());
        }
        let mut seen = BTreeMap::new();
        for (index, row) in self.rows.iter().enumerate() {
            for wanted in [&self.series, &self.x].into_iter().chain(&self.repeats) {
                if !row.labels.contains_key(wanted) {
                    let near = hint(wanted, row.labels.keys().map(String::as_str));
                    return Err(format!("rows[{index}]: expected a label `{wanted}`, found none{near}"));
                }
            }
            let repeat = self.repeats.as_ref().map(|repeats| row.labels.get(repeats));
            let place = (row.labels.get(&self.series), row.labels.get(&self.x), repeat);
            if let Some(first) = seen.insert(place, index) {
                return Err(format!(
                    "rows[{index}]: expected one row a bar, found another for the bar of rows[{first}]"
                ));
            }
        }
        Ok(())
    }

    /// How a label's value is written for people.
    pub fn name<'a>(&'a self, label: &'a str) -> &'a str {
        self.names.get(label).map_or(label, String::as_str)
    }

    /// Values of `label` in the order asked for, or of the rows; values without a row are left out, values not in the order come last.
    pub fn ordered(&self, label: &str, order: Option<&Vec<Label>>) -> Vec<String> {
        let present = || self.rows.iter().filter_map(|row| row.labels.get(label));
        let asked = order.into_iter().flatten().filter(|value| present().any(|p| p == *value));
        let mut values: Vec<String> = Vec::new();
        for Label(value) in asked.chain(present()) {
            if !values.contains(value) {
                values.push(value.clone());
            }
        }
        values
    }
}
