//! A measured layout as a table for people.

use std::fmt::{Display, Formatter, Result};

use chariot_engine::shard::Division;
use chariot_engine::sim::curve::Curve;
use chariot_engine::sim::measured::{Attention, Elementwise, Layout, Operations, StageTable, pairs};

/// Rows of each table.
const ROWS: [u32; 4] = [1, 8, 64, 512];

/// What was measured, in several lines without the last line's end.
pub(super) struct Shown<'a> {
    pub(super) layout: &'a Layout,
    /// Of a value that ranks exchange.
    pub(super) value_bytes: u64,
    /// Of a value of keys and values.
    pub(super) kv_bytes: u64,
}

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Layout { model, parallel, cpu, stages, fit, operations, .. } = self.layout;
        let (tp, pp) = (parallel.tp, parallel.pp);
        writeln!(f, "{} at tp{tp} x pp{pp} (measured)", model.name)?;
        writeln!(f, "  {:<28}{:>11}{:>11}{:>11}{:>11}", "tokens", ROWS[0], ROWS[1], ROWS[2], ROWS[3])?;
        for (number, stage) in stages.iter().enumerate() {
            stage_rows(f, number, stage)?;
        }
        if let Some(operations) = operations {
            operation_rows(f, operations, self.value_bytes as f64)?;
            self.attention_rows(f, &operations.attention)?;
        }
        let (trip, fixed, each) = (cpu.driver_round_trip_ms, cpu.schedule.ms, cpu.schedule.per_sequence_ms);
        writeln!(f, "  each batch: messages {trip} ms, driver {fixed} ms and {each} ms a sequence")?;
        write!(
            f,
            "  {} batches in {} rounds, {:.0} % disturbed by others; the tables give them back to {:.1} % in the median, {:.1} % at worst",
            fit.points,
            fit.rounds,
            fit.disturbed * 100.0,
            fit.error_median * 100.0,
            fit.error_max * 100.0
        )
    }
}

impl Shown<'_> {
    /// What it took, with the rate of arithmetic of chunks, and of decodes that at which keys and values are read.
    fn attention_rows(&self, f: &mut Formatter<'_>, attention: &[Attention]) -> Result {
        let Layout { model, parallel, .. } = self.layout;
        let Ok(Division { rank, .. }) = Division::new(model, *parallel) else { return Ok(()) };
        let head_dim = f64::from(model.head_dim);
        for Attention { sequences, tokens, context, us } in attention {
            let all = f64::from(*sequences);
            let rate = if *tokens > 1 {
                let operations = 4.0 * f64::from(rank.query_heads) * head_dim;
                let gflops = all * operations * pairs(*context, *tokens) as f64 / us / 1e3;
                format!("{gflops:.2} GFLOP/s")
            } else {
                let bytes = 2.0 * f64::from(rank.kv_heads) * head_dim * self.kv_bytes as f64;
                format!("{:.2} GB/s", all * bytes * f64::from(context + tokens) / us / 1e3)
            };
            let name = format!("attention, {sequences} x {tokens} @ {context}");
            writeln!(f, "  {name:<28}{us:>11} us, {rate}")?;
        }
        Ok(())
    }
}

fn stage_rows(f: &mut Formatter<'_>, number: usize, stage: &StageTable) -> Result {
    let name = |what: &str| format!("stage {number}, {what}");
    // Beyond the last point nothing was measured.
    let within = |curve: &Curve, rows: f64| curve.0.last().is_some_and(|last| rows <= last[0]);
    row(f, &name("rows, ms"), |rows| within(&stage.rows_us, rows).then(|| stage.rows_us.at(rows) / 1e3))?;
    row(f, &name("pair of a chunk, ns"), |rows| Some(stage.pair_us.held_at(rows) * 1e3))?;
    if !stage.sampled_us.0.is_empty() {
        row(f, &name("drawing, ms"), |rows| {
            within(&stage.sampled_us, rows).then(|| stage.sampled_us.at(rows) / 1e3)
        })?;
    }
    if !stage.slowdown.0.is_empty() {
        row(f, &name("factor, all busy"), |rows| Some(stage.slowdown.held_at(rows)))?;
    }
    Ok(())
}

fn operation_rows(f: &mut Formatter<'_>, operations: &Operations, value_bytes: f64) -> Result {
    for product in &operations.products {
        let (k, n) = (f64::from(product.k), f64::from(product.n));
        row(f, &format!("{k} x {n}, GFLOP/s"), |rows| {
            known(&product.rows_us, rows).map(|us| 2.0 * rows * k * n / us / 1e3)
        })?;
    }
    for Elementwise { name, rows_us } in &operations.elementwise {
        row(f, &format!("{name}, us"), |rows| known(rows_us, rows))?;
    }
    for (name, curves) in
        [("all-reduce", &operations.all_reduces_us), ("all-gather", &operations.all_gathers_us)]
    {
        for (stage, curve) in curves.iter().enumerate() {
            collective_row(f, &format!("stage {stage}, {name}"), curve, value_bytes)?;
        }
    }
    Ok(())
}

fn collective_row(f: &mut Formatter<'_>, name: &str, curve: &Curve, value_bytes: f64) -> Result {
    let ([Some(first), Some(last)], true) = ([curve.0.first(), curve.0.last()], curve.0.len() > 1) else {
        return Ok(());
    };
    // Microseconds a value.
    let slope = (last[1] - first[1]) / (last[0] - first[0]);
    let rate =
        if slope > 0.0 { format!("{:.2} GB/s", value_bytes / slope / 1e3) } else { "no rate".to_owned() };
    writeln!(f, "  {name}: {} us for {} values, {rate}", first[1], first[0])
}

fn row(f: &mut Formatter<'_>, name: &str, value: impl Fn(f64) -> Option<f64>) -> Result {
    write!(f, "  {name:<28}")?;
    for rows in ROWS {
        match value(f64::from(rows)) {
            Some(value) => write!(f, "{value:>11.2}")?,
            None => write!(f, "{:>11}", "-")?,
        }
    }
    writeln!(f)
}

/// The value of a point, where there is one.
fn known(curve: &Curve, x: f64) -> Option<f64> {
    curve.0.iter().find(|point| point[0] == x).map(|point| point[1]).filter(|us| *us > 0.0)
}
