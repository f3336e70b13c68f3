//! The `workload` part of a trial's configuration.

use serde::{Deserialize, Serialize};

/// How many requests, when, and how long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Requests of the trial.
    pub requests: u32,
    /// When they arrive.
    pub arrivals: Arrivals,
    /// How long they are.
    pub lengths: Lengths,
}

/// When requests arrive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Arrivals {
    /// Exponential gaps.
    Poisson {
        /// Mean rate, requests per second.
        qps: f64,
    },
    /// Gamma gaps.
    Gamma {
        /// Mean rate, requests per second.
        qps: f64,
        /// Coefficient of variation of the gaps; 1 is Poisson.
        cv: f64,
    },
    /// Equal gaps.
    Static {
        /// Rate, requests per second.
        qps: f64,
    },
    /// Arrival times of a CSV.
    Trace {
        /// CSV with the column `arrival_s`, in order.
        file: String,
        /// Times are multiplied by it; 1 if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scale: Option<f64>,
    },
}

/// How long requests are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Lengths {
    /// Prompt and output drawn independently from quantile tables.
    Quantiles {
        /// A table as in `pipelines/lengths`.
        file: String,
        /// Prompt plus output stay within it; the table's own if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        total_max: Option<u32>,
    },
    /// Lengths of a CSV, from its first row on.
    Trace {
        /// CSV with the columns `num_prefill_tokens` and `num_decode_tokens`.
        file: String,
    },
    /// All alike.
    Fixed {
        /// Prompt tokens.
        prompt: u32,
        /// Output tokens.
        output: u32,
    },
    /// Prompt plus output uniform between two bounds.
    Uniform {
        /// Least total.
        total_min: u32,
        /// Greatest total.
        total_max: u32,
        /// Prompt tokens per output token.
        prompt_to_output: f64,
    },
    /// Prompt plus output with probability proportional to 1 / rank^theta, the least total being rank 1.
    Zipf {
        /// Least total.
        total_min: u32,
        /// Greatest total.
        total_max: u32,
        /// Skew; 0 is uniform.
        theta: f64,
        /// Prompt tokens per output token.
        prompt_to_output: f64,
    },
}
