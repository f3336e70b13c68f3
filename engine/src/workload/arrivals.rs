//! When requests arrive: unit gaps from one stream, scaled to the rate.

use camino::Utf8Path;

use super::WorkloadError;
use super::config::Arrivals;
use super::csv::Table;
use super::stream::{Purpose, Stream};
use crate::units::Nanos;

/// The artifact clips Poisson gaps here, in mean gaps.
const CLIPPED_GAP: f64 = 3.0;

pub(super) fn generate(
    arrivals: &Arrivals,
    count: usize,
    dir: &Utf8Path,
    seed: u64,
    clip_gaps: bool,
) -> Result<Vec<Nanos>, WorkloadError> {
    let mut stream = Stream::new(seed, Purpose::Gaps);
    match arrivals {
        Arrivals::Poisson { qps } => {
            let longest = if clip_gaps { CLIPPED_GAP } else { f64::INFINITY };
            scaled(count, *qps, || stream.exponential().min(longest))
        }
        Arrivals::Gamma { qps, cv } => {
            positive("arrivals.cv", *cv)?;
            scaled(count, *qps, || stream.gamma(*cv))
        }
        Arrivals::Static { qps } => scaled(count, *qps, || 1.0),
        Arrivals::Trace { file, scale } => trace(dir, file, scale.unwrap_or(1.0), count),
    }
}

/// Arrivals whose gaps are `unit_gap() / qps`; the first comes after the first gap.
fn scaled(count: usize, qps: f64, mut unit_gap: impl FnMut() -> f64) -> Result<Vec<Nanos>, WorkloadError> {
    positive("arrivals.qps", qps)?;
    let mut units = 0.0;
    let arrival = |_| {
        units += unit_gap();
        nanos("arrivals.qps", units / qps)
    };
    (0..count).map(arrival).collect()
}

fn trace(dir: &Utf8Path, file: &str, scale: f64, count: usize) -> Result<Vec<Nanos>, WorkloadError> {
    positive("arrivals.scale", scale)?;
    let table = Table::read(dir, file, &["arrival_s"])?;
    let mut arrivals = Vec::with_capacity(count);
    for row in table.rows(count)? {
        let arrival = nanos("arrivals.scale", row.seconds(0)? * scale)?;
        if arrivals.last().is_some_and(|last| *last > arrival) {
            return Err(
                row.error("expected arrival_s in ascending order, found one earlier than the row before")
            );
        }
        arrivals.push(arrival);
    }
    Ok(arrivals)
}

fn positive(field: &'static str, value: f64) -> Result<(), WorkloadError> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(WorkloadError::field(field, format!("expected a number above 0, found {value}")))
}

/// Seconds as a time, if it fits: 2^63 ns are 292 years.
fn nanos(field: &'static str, secs: f64) -> Result<Nanos, WorkloadError> {
    if secs < 9e9 {
        return Ok(Nanos::from_secs_f64(secs));
    }
    Err(WorkloadError::field(field, format!("expected arrivals within 9e9 s, found one at {secs:e} s")))
}
