//! Two summaries or two figures, number by number: what changed, relative to the baseline. Judges by one tolerance.

use std::collections::BTreeMap;

use camino::Utf8Path;
use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::files::read_json_value;
use crate::report;
use crate::statistics::STATISTICS;

/// Numbers by name, and the word that belongs beside them.
struct Numbers {
    provenance: String,
    of: BTreeMap<String, f64>,
}

/// A relative tolerance such as `5%` or `0.05`.
pub fn parse_tolerance(text: &str) -> std::result::Result<f64, String> {
    let (number, per) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
    let value: Option<f64> = number.trim().parse().ok().filter(|v: &f64| v.is_finite() && *v >= 0.0);
    value.map(|v| v / per).ok_or_else(|| format!("expected a tolerance such as 5% or 0.05, found `{text}`"))
}

/// The changes as a table, and whether all are within the tolerance.
pub fn compare(baseline: &Utf8Path, now: &Utf8Path, tolerance: f64) -> Result<(String, bool)> {
    let (before, after) = (read(baseline)?, read(now)?);
    let words = if before.provenance == after.provenance {
        before.provenance.clone()
    } else {
        format!("{} against {}", after.provenance, before.provenance)
    };
    let header = ["number", "baseline", "now", "change", ""].map(str::to_owned).to_vec();
    let mut rows = report::table(header, 1);
    let (mut same, mut beyond) = (0, 0);
    let names: std::collections::BTreeSet<&String> = before.of.keys().chain(after.of.keys()).collect();
    for name in names {
        let (a, b) = (before.of.get(name), after.of.get(name));
        let change = a.zip(b).map(|(a, b)| if a == b { 0.0 } else { (b - a) / a.abs() });
        if change == Some(0.0) {
            same += 1;
            continue;
        }
        let too_much = change.is_none_or(|change| change.abs() > tolerance);
        beyond += usize::from(too_much);
        let shown = |v: Option<&f64>| v.map_or_else(|| "-".to_owned(), |v| report::number(*v));
        let change = change.map_or_else(|| "-".to_owned(), |change| format!("{:+.2} %", change * 100.0));
        let mark = if too_much { "beyond tolerance" } else { "" };
        rows.add_row([name.clone(), shown(a), shown(b), change, mark.to_owned()]);
    }
    let table = if rows.is_empty() { String::new() } else { report::text(&rows) + "\n" };
    let tolerance = tolerance * 100.0;
    let text =
        format!("{table}({words}) {same} numbers equal, {beyond} changed by more than {tolerance} %\n");
    Ok((text, beyond == 0))
}

fn read(path: &Utf8Path) -> Result<Numbers> {
    let value = read_json_value(path)?;
    let provenance = value.get("provenance").and_then(Value::as_str);
    let provenance =
        provenance.ok_or_else(|| Error::file(path, "expected `provenance`, found none"))?.to_owned();
    let of = match (value.get("metrics"), value.get("points")) {
        (Some(metrics), _) => of_summary(metrics),
        (_, Some(points)) => of_figure(points).map_err(|error| Error::file(path, error))?,
        _ => {
            return Err(Error::file(
                path,
                "expected a summary or a figure, found neither `metrics` nor `points`",
            ));
        }
    };
    Ok(Numbers { provenance, of })
}

fn of_summary(metrics: &Value) -> BTreeMap<String, f64> {
    let mut numbers = BTreeMap::new();
    for (name, metric) in metrics.as_object().into_iter().flatten() {
        for end in ["central", "low", "high"] {
            for statistic in STATISTICS.iter().chain(&["count"]) {
                let value = metric.get(end).and_then(|s| s.get(statistic)).and_then(Value::as_f64);
                let place = if end == "central" { String::new() } else { format!(" ({end})") };
                numbers.extend(value.map(|value| (format!("{name} {statistic}{place}"), value)));
            }
        }
    }
    numbers
}

#[derive(Deserialize)]
struct Point {
    labels: BTreeMap<String, String>,
    metric: String,
    value: Option<f64>,
    low: Option<f64>,
    high: Option<f64>,
}

fn of_figure(points: &Value) -> std::result::Result<BTreeMap<String, f64>, serde_json::Error> {
    let mut numbers = BTreeMap::new();
    for point in Vec::<Point>::deserialize(points)? {
        let labels: Vec<&str> = point.labels.values().map(String::as_str).collect();
        for (end, value) in [("", point.value), (" (low)", point.low), (" (high)", point.high)] {
            numbers.extend(value.map(|value| (format!("{} {}{end}", labels.join(" "), point.metric), value)));
        }
    }
    Ok(numbers)
}
