//! The numbers a summary gives of each metric, and their names. Knows samples; knows no trial.

use serde::{Deserialize, Serialize};

use crate::metric::Samples;
use crate::quantile::{Sample, moments, quantile_sorted};

/// Statistics of one metric; all but `count` are absent where there is no sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statistics {
    /// Number of samples.
    pub count: u64,
    /// Arithmetic mean.
    pub mean: Option<f64>,
    /// Population standard deviation.
    pub std: Option<f64>,
    /// Smallest sample.
    pub min: Option<f64>,
    /// 25th percentile, and so on.
    pub p25: Option<f64>,
    /// Median.
    pub p50: Option<f64>,
    /// 75th percentile.
    pub p75: Option<f64>,
    /// 90th percentile.
    pub p90: Option<f64>,
    /// 95th percentile.
    pub p95: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
    /// 99.9th percentile.
    #[serde(rename = "p99.9")]
    pub p99_9: Option<f64>,
    /// Largest sample.
    pub max: Option<f64>,
}

/// Names of the statistics, in the order of [`Statistics::values`].
pub const STATISTICS: [&str; 11] =
    ["mean", "std", "min", "p25", "p50", "p75", "p90", "p95", "p99", "p99.9", "max"];

impl Statistics {
    /// Of samples; times come out in seconds. Sorts: n log n.
    pub fn of(samples: Samples) -> Self {
        match samples {
            Samples::Nanos(values) => Self::of_values(values, 1e9),
            Samples::Real(values) => Self::of_values(values, 1.0),
        }
    }

    fn of_values<T: Sample>(mut values: Vec<T>, per_unit: f64) -> Self {
        let moments = moments(&values);
        values.sort_unstable_by(T::order);
        let at = |q: f64| quantile_sorted(&values, q).map(|value| value / per_unit);
        Self {
            count: values.len() as u64,
            mean: moments.map(|(mean, _)| mean / per_unit),
            std: moments.map(|(_, std)| std / per_unit),
            min: at(0.0),
            p25: at(0.25),
            p50: at(0.5),
            p75: at(0.75),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            p99_9: at(0.999),
            max: at(1.0),
        }
    }

    /// All but the count, in the order of [`STATISTICS`].
    pub fn values(&self) -> [Option<f64>; 11] {
        [
            self.mean, self.std, self.min, self.p25, self.p50, self.p75, self.p90, self.p95, self.p99,
            self.p99_9, self.max,
        ]
    }

    /// The statistic of this name; the outer `None` says that there is no such statistic.
    pub fn get(&self, name: &str) -> Option<Option<f64>> {
        let index = STATISTICS.iter().position(|statistic| *statistic == name)?;
        Some(self.values()[index])
    }
}
