//! A figure from a specification: gathers every plotted number once, then writes SVG, PNG, CSV, JSON and a table from them.

use std::collections::BTreeMap;

use camino::Utf8Path;
use serde_json::{Value, json};

use crate::capacity::{Capacity, Outcome};
use crate::chart::{self, Bar, Chart, Mark, Panel};
use crate::csv::Csv;
use crate::error::{Error, Result, hint};
use crate::files::{FORMAT, publish, publish_json, read_json};
use crate::font::Font;
use crate::parity;
use crate::point::{self, Point};
use crate::records::Provenance;
use crate::report;
use crate::spec::{FigureSpec, Kind, MetricSpec, RowSpec, Source};
use crate::statistics::{STATISTICS, Statistics};
use crate::summary::Summary;

/// Everything a figure shows.
pub struct Figure {
    spec: FigureSpec,
    unit: String,
    /// By bar of a panel, then by panel.
    points: Vec<Vec<Point>>,
    panels: Vec<String>,
    setting: Option<String>,
    central_searches: usize,
}

/// Draws the figure of a specification and publishes its five files; gives the printed table.
pub fn figure(spec: &Utf8Path, out: &Utf8Path, name: &str) -> Result<String> {
    let figure = Figure::gather(FigureSpec::read(spec)?)?;
    let font = Font::load();
    let svg = match figure.spec.kind {
        Kind::GroupedBars => chart::draw(&figure.chart(), &font),
        Kind::Parity => parity::draw(&figure.chart(), &font),
    };
    let table = figure.table();
    publish(&out.join(format!("{name}.svg")), svg.as_bytes())?;
    publish(&out.join(format!("{name}.png")), &font.png(&svg))?;
    publish(&out.join(format!("{name}.csv")), figure.csv().to_text().as_bytes())?;
    publish(&out.join(format!("{name}.txt")), table.as_bytes())?;
    publish_json(&out.join(format!("{name}.json")), &figure.json())?;
    Ok(table)
}

impl Figure {
    /// Reads every file that the specification names.
    pub fn gather(spec: FigureSpec) -> Result<Self> {
        match spec.source {
            Source::Summary => Self::of_summaries(spec),
            Source::Capacity => Self::of_capacities(spec),
        }
    }

    fn of_summaries(spec: FigureSpec) -> Result<Self> {
        let mut units: Option<String> = None;
        let mut settings = Vec::new();
        let mut points = Vec::new();
        for row in &spec.rows {
            let summary: Summary = read_json(&row.file)?;
            settings.push(setting(&summary.trial));
            let mut of_row = Vec::new();
            for metric in spec.metrics.iter().chain(&spec.table) {
                let (unit, point) = summary_point(row, metric, &summary, spec.scale.unit.as_deref())?;
                if let Some(other) = units.replace(unit.clone()).filter(|other| *other != unit) {
                    return Err(Error::file(
                        &row.file,
                        format!("expected metrics of one unit, found {other} and {unit}"),
                    ));
                }
                of_row.push(point);
            }
            points.push(of_row);
        }
        let panels = spec
            .metrics
            .iter()
            .chain(&spec.table)
            .map(|m| m.label.clone().unwrap_or_else(|| key(m)))
            .collect();
        let setting = common(settings);
        if let Some(repeats) = &spec.repeats {
            points = point::join(points, [&spec.x, &spec.series], repeats);
        }
        Ok(Self { unit: units.unwrap_or_default(), points, panels, setting, central_searches: 0, spec })
    }

    fn of_capacities(spec: FigureSpec) -> Result<Self> {
        let mut points = Vec::new();
        let mut unit = None;
        let mut settings = Vec::new();
        let mut central_searches = 0;
        for row in &spec.rows {
            let capacity = Capacity::read(&row.file)?;
            central_searches = central_searches.max(capacity.central_searches);
            settings.push(capacity.setting);
            if let Some(other) = unit.replace(capacity.unit.clone()).filter(|other| *other != capacity.unit) {
                return Err(Error::file(
                    &row.file,
                    format!("expected rates in {other}, found {}", capacity.unit),
                ));
            }
            points.push(vec![Point {
                labels: labels(row),
                metric: "capacity".to_owned(),
                value: Some(capacity.value),
                low: Some(capacity.low),
                high: Some(capacity.high),
                provenance: capacity.provenance,
                repeats: BTreeMap::new(),
                outcome: Some(capacity.outcome),
                searches: capacity.searches,
            }]);
        }
        let panels = vec![String::new()];
        let (unit, setting) = (unit.unwrap_or_default(), common(settings));
        Ok(Self { unit, points, panels, setting, central_searches, spec })
    }

    fn all(&self) -> impl Iterator<Item = &Point> {
        self.points.iter().flatten()
    }

    /// "simulated", "measured", or that there are both.
    fn provenance(&self) -> &'static str {
        let has = |provenance| self.all().any(|point| point.provenance == provenance);
        match (has(Provenance::Simulated), has(Provenance::Measured)) {
            (true, true) => "simulated and measured",
            (false, true) => Provenance::Measured.word(),
            _ => Provenance::Simulated.word(),
        }
    }

    /// What the bars and error bars stand for.
    fn meaning(&self) -> String {
        let spread = self.all().any(|point| point.low != point.high);
        let most = self.all().map(|point| point.repeats.len()).max().unwrap_or(0);
        if most > 0 {
            return format!("Median of {most} trials. Error bars: lowest to highest.");
        }
        match (self.spec.source, spread) {
            (Source::Summary, true) => {
                "Error bars: from the fast to the slow end of the platform's uncertain costs; no error bar where they play no part.".into()
            }
            (Source::Summary, false) => String::new(),
            (Source::Capacity, spread) => {
                // What was measured has no uncertain costs.
                let (at, over) = match self.all().any(|point| point.provenance == Provenance::Simulated) {
                    true => (" at the central costs", "searches, seeds and both ends of the uncertain costs"),
                    false => ("", "searches and seeds"),
                };
                let bars = match self.central_searches {
                    1 => format!("Bars: one search{at}."),
                    n => format!("Bars: median of {n} searches{at}."),
                };
                let errors = format!(" Error bars: lowest to highest over all {over}.");
                format!("{bars}{}", if spread { &errors } else { "" })
            }
        }
    }

    /// The row for a bar, if the specification has one.
    fn row(&self, group: &str, series: &str) -> Option<&Vec<Point>> {
        let is =
            |point: &Point, label: &str, value: &str| point.labels.get(label).is_some_and(|l| l == value);
        self.points.iter().find(|row| {
            row.first().is_some_and(|p| is(p, &self.spec.x, group) && is(p, &self.spec.series, series))
        })
    }

    fn groups(&self) -> Vec<String> {
        self.spec.ordered(&self.spec.x, self.spec.x_order.as_ref())
    }

    fn series(&self) -> Vec<String> {
        self.spec.ordered(&self.spec.series, self.spec.series_order.as_ref())
    }

    fn names(&self, labels: &[String]) -> Vec<String> {
        labels.iter().map(|label| self.spec.name(label).to_owned()).collect()
    }

    /// What is drawn.
    pub fn chart(&self) -> Chart {
        let (groups, series) = (self.groups(), self.series());
        let drawn = self.spec.metrics.len().max(1);
        let panel = |index: usize, title: &String| Panel {
            title: title.clone(),
            bars: groups
                .iter()
                .map(|group| {
                    series.iter().map(|s| self.row(group, s).and_then(|row| bar(&row[index]))).collect()
                })
                .collect(),
        };
        let setting = self.setting.as_ref().map(|setting| format!(" · {setting}")).unwrap_or_default();
        Chart {
            title: self.spec.title.clone(),
            subtitle: format!("{}{setting}", self.provenance()),
            caption: self.meaning(),
            x_label: self.spec.x_label.clone(),
            y_label: format!("{} ({})", self.spec.y_label, self.unit),
            axis: self.spec.scale.axis,
            series: self.names(&series),
            groups: self.names(&groups),
            panels: self
                .panels
                .iter()
                .take(drawn)
                .enumerate()
                .map(|(index, title)| panel(index, title))
                .collect(),
        }
    }

    /// Every plotted number: series, x, further labels, then the numbers.
    pub fn csv(&self) -> Csv {
        let mut columns = vec![self.spec.series.clone(), self.spec.x.clone()];
        let further: std::collections::BTreeSet<&String> =
            self.spec.rows.iter().flat_map(|r| r.labels.keys()).collect();
        columns.extend(
            further
                .into_iter()
                .filter(|label| ![&self.spec.series, &self.spec.x].contains(label))
                .filter(|label| Some(*label) != self.spec.repeats.as_ref())
                .cloned(),
        );
        let capacity = self.spec.source == Source::Capacity;
        let unit = self.unit.replace('/', "_per_");
        let mut header = columns.clone();
        header.extend((!capacity).then(|| "metric".to_owned()));
        header.extend(
            [if capacity { "capacity" } else { "value" }, "low", "high"].map(|name| format!("{name}_{unit}")),
        );
        let mut rows = Vec::new();
        for (series, group) in
            self.series().iter().flat_map(|s| self.groups().into_iter().map(move |g| (s.clone(), g)))
        {
            for point in self.row(&group, &series).into_iter().flatten() {
                let mut row: Vec<String> = columns
                    .iter()
                    .map(|label| point.labels.get(label).cloned().unwrap_or_default())
                    .collect();
                row.extend((!capacity).then(|| point.metric.clone()));
                row.extend(
                    [point.value, point.low, point.high]
                        .map(|v| v.map(|v| v.to_string()).unwrap_or_default()),
                );
                rows.push(row);
            }
        }
        Csv { header, rows }
    }

    /// Every plotted number with where it comes from.
    pub fn json(&self) -> Value {
        json!({
            "format": FORMAT,
            "provenance": self.provenance(),
            "kind": "figure",
            "title": self.spec.title,
            "setting": self.setting,
            "x": self.spec.x,
            "series": self.spec.series,
            "unit": self.unit,
            "meaning": self.meaning(),
            "points": self.all().collect::<Vec<_>>(),
        })
    }

    /// The numbers as a table for people, with the ratio where there are two series.
    pub fn table(&self) -> String {
        let (groups, series) = (self.groups(), self.series());
        let names = self.names(&series);
        let mut header = vec![self.spec.x_label.clone()];
        header.extend((self.panels.len() > 1).then(|| self.spec.y_label.clone()));
        let left = header.len();
        header.extend(names.iter().map(|name| format!("{name} [{}]", self.unit)));
        if let [a, b] = names.as_slice() {
            header.push(format!("{a} / {b}"));
        }
        let mut rows = report::table(header, left);
        for (index, panel) in self.panels.iter().enumerate() {
            for group in &groups {
                let points: Vec<Option<&Point>> =
                    series.iter().map(|s| self.row(group, s).map(|row| &row[index])).collect();
                let mut row = vec![self.spec.name(group).to_owned()];
                row.extend((self.panels.len() > 1).then(|| panel.clone()));
                row.extend(points.iter().map(|point| point.map_or_else(|| "-".to_owned(), cell)));
                if let [a, b] = points.as_slice() {
                    row.push(ratio(*a, *b).map_or_else(|| "-".to_owned(), |r| format!("{r:.2}")));
                }
                rows.add_row(row);
            }
        }
        let mut text = format!("{} ({})\n\n{}", self.spec.title, self.provenance(), report::text(&rows));
        if !self.meaning().is_empty() {
            text.push_str(&format!("\n{}\n", self.meaning().replace("Error bars:", "In brackets:")));
        }
        text
    }
}

fn labels(row: &RowSpec) -> BTreeMap<String, String> {
    row.labels.iter().map(|(name, value)| (name.clone(), value.0.clone())).collect()
}

fn key(metric: &MetricSpec) -> String {
    format!("{}_{}", metric.metric, metric.quantile)
}

/// What all rows have in common, if they do.
fn common(mut settings: Vec<Option<String>>) -> Option<String> {
    settings.dedup();
    if settings.len() == 1 { settings.remove(0) } else { None }
}

/// "falcon-180b on two-nodes", as far as the trial says.
fn setting(trial: &Value) -> Option<String> {
    let text = |name: &str| trial.get(name).and_then(Value::as_str);
    Some(format!("{} on {}", text("model")?, text("platform")?))
}

fn summary_point(
    row: &RowSpec,
    wanted: &MetricSpec,
    summary: &Summary,
    unit: Option<&str>,
) -> Result<(String, Point)> {
    let metric = summary.metrics.get(&wanted.metric).ok_or_else(|| {
        let near = hint(&wanted.metric, summary.metrics.keys().map(String::as_str));
        Error::file(&row.file, format!("expected a metric `{}`, found none{near}", wanted.metric))
    })?;
    let (unit, factor) = scale(&metric.unit, unit).ok_or_else(|| {
        Error::Input(format!(
            "expected a unit of {} for `{}`, found `{}`",
            metric.unit,
            wanted.metric,
            unit.unwrap_or("")
        ))
    })?;
    let pick = |statistics: &Statistics| -> Result<Option<f64>> {
        let value = statistics.get(&wanted.quantile).ok_or_else(|| {
            let near = hint(&wanted.quantile, STATISTICS);
            Error::Input(format!(
                "expected a quantile of {}, found `{}`{near}",
                STATISTICS.join(", "),
                wanted.quantile
            ))
        })?;
        Ok(value.map(|value| tidy(value * factor)))
    };
    let value = pick(&metric.central)?;
    let mut ends = vec![value];
    for end in [&metric.low, &metric.high].into_iter().flatten() {
        ends.push(pick(end)?);
    }
    let ends: Vec<f64> = ends.into_iter().flatten().collect();
    let point = Point {
        labels: labels(row),
        metric: key(wanted),
        value,
        low: ends.iter().copied().reduce(f64::min),
        high: ends.iter().copied().reduce(f64::max),
        provenance: summary.provenance,
        repeats: BTreeMap::new(),
        outcome: None,
        searches: Vec::new(),
    };
    Ok((unit, point))
}

/// The unit to show and what to multiply by; only times have other units than their own.
fn scale(own: &str, wanted: Option<&str>) -> Option<(String, f64)> {
    let wanted = wanted.unwrap_or(own);
    if wanted == own {
        return Some((own.to_owned(), 1.0));
    }
    let (base, per) =
        own.split_once('/').map_or((own, String::new()), |(base, per)| (base, format!("/{per}")));
    let factor = match (base, wanted.strip_suffix(&per).unwrap_or(wanted)) {
        ("s", "ms") => 1e3,
        ("s", "us") => 1e6,
        ("s", "ns") => 1e9,
        _ => return None,
    };
    Some((format!("{}{per}", wanted.strip_suffix(&per).unwrap_or(wanted)), factor))
}

/// To twelve significant digits: what a change of unit adds beyond is noise.
fn tidy(value: f64) -> f64 {
    format!("{value:.11e}").parse().unwrap_or(value)
}

fn bar(point: &Point) -> Option<Bar> {
    let value = point.value?;
    let mark = match point.outcome {
        Some(Outcome::BelowRange) => Mark::None,
        Some(Outcome::AboveRange) => Mark::AtLeast,
        _ => Mark::Value,
    };
    Some(Bar { value, low: point.low.unwrap_or(value), high: point.high.unwrap_or(value), mark })
}

fn cell(point: &Point) -> String {
    let Some(value) = point.value else { return "-".to_owned() };
    let value = match point.outcome {
        Some(Outcome::BelowRange) => "none".to_owned(),
        Some(Outcome::AboveRange) => format!(">= {}", report::number(value)),
        _ => report::number(value),
    };
    match (point.low, point.high) {
        (Some(low), Some(high)) if low < high => {
            format!("{value} [{}..{}]", report::number(low), report::number(high))
        }
        _ => value,
    }
}

fn ratio(a: Option<&Point>, b: Option<&Point>) -> Option<f64> {
    let (a, b) = (a?.value?, b?.value?);
    (b != 0.0).then(|| a / b)
}
