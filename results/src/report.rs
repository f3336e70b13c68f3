//! Tables for people: a trial's statistics. Knows summaries; writes no file.

use comfy_table::{CellAlignment, Table, presets};

use crate::metric;
use crate::statistics::{STATISTICS, Statistics};
use crate::summary::Summary;

/// A number with four significant digits, plain where that is short.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        "0".to_owned()
    } else if !(1e-3..1e7).contains(&size) {
        format!("{value:.3e}")
    } else if value.fract() == 0.0 || size >= 1000.0 {
        format!("{value:.0}")
    } else if size >= 100.0 {
        format!("{value:.1}")
    } else if size >= 10.0 {
        format!("{value:.2}")
    } else if size >= 1.0 {
        format!("{value:.3}")
    } else {
        format!("{value:.4}")
    }
}

/// An empty table in the house style: columns set apart by spaces, the first `left` of them aligned to the left.
pub fn table(header: Vec<String>, left: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        column.set_cell_alignment(if index < left { CellAlignment::Left } else { CellAlignment::Right });
    }
    table
}

/// A table as text, no line with spaces at its end, one newline at its end.
pub fn text(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// A trial's statistics as printed at its end.
pub fn trial_table(summary: &Summary) -> String {
    let word = summary.provenance.word();
    let r = &summary.requests;
    let counts = format!(
        "{word}: {} requests, of these {} completed, {} unfinished, {} never scheduled, {} not arrived, {} ignored",
        r.total, r.completed, r.unfinished, r.never_scheduled, r.not_arrived, r.ignored
    );
    let mut header = vec![format!("metric ({word})"), "unit".to_owned(), "count".to_owned()];
    header.extend(STATISTICS.iter().map(|s| (*s).to_owned()));
    let mut statistics = table(header, 2);
    for name in metric::names() {
        let Some(metric) = summary.metrics.get(name) else { continue };
        statistics.add_row(row(name, &metric.unit, &metric.central));
        for (end, of) in [("low", &metric.low), ("high", &metric.high)] {
            if let Some(of) = of {
                statistics.add_row(row(&format!("  {end} end of the costs"), &metric.unit, of));
            }
        }
    }
    format!("{counts}\n\n{}\n{}", text(&statistics), series_table(summary))
}

fn row(name: &str, unit: &str, statistics: &Statistics) -> Vec<String> {
    let mut row = vec![name.to_owned(), unit.to_owned(), statistics.count.to_string()];
    row.extend(statistics.values().into_iter().map(optional));
    row
}

fn optional(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), number)
}

fn series_table(summary: &Summary) -> String {
    let header = ["unit", "total", "first [s]", "last [s]", "min", "max", "mean"];
    let first = format!("running total ({})", summary.provenance.word());
    let mut rows = table(std::iter::once(first).chain(header.map(str::to_owned)).collect(), 2);
    for (name, s) in &summary.series {
        let mut row = vec![name.clone(), s.unit.clone(), number(s.total)];
        row.extend([s.first_s, s.last_s, s.min, s.max, s.mean].map(optional));
        rows.add_row(row);
    }
    text(&rows)
}
