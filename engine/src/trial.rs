//! A trial's configuration and report: `config.json` and `trial.json`. Knows no file but by its content.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::manifest::{Manifest, Memory};
use crate::sched::{ChunkSchedule, Compat, ConfigError, Policy, SchedulerConfig};
use crate::shard::{Division, Dtype, Parallel};
use crate::sim::cluster::Provenance;
use crate::sim::coefficient::Band;
use crate::workload::Workload;

/// Version of `config.json` and `trial.json`.
pub const FORMAT: u32 = 1;

/// The content of `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrialConfig {
    /// Version of this file.
    pub format: u32,
    /// Policy and batch cap.
    pub scheduler: SchedulerSpec,
    /// What users send.
    pub workload: Workload,
    /// Longest prompt plus output, in tokens.
    pub max_model_len: u32,
    /// Tokens of a KV block.
    pub block_size: u32,
    /// Share of a device's memory that weights, activations and KV may take together.
    pub gpu_memory_utilization: f64,
    /// The trial ends here at the latest; absent: when all requests are done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_limit_s: Option<f64>,
    /// Of all random choices.
    pub seed: u64,
    /// Tells repeats of a measured trial apart; a simulated one gives the same for each.
    pub repetition: u32,
    /// Which end of the uncertain coefficients.
    pub band: BandChoice,
    /// Request life cycle and arrival gaps.
    pub compat: Compat,
}

/// Which end of the uncertain coefficients, or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BandChoice {
    /// The likeliest values.
    Central,
    /// The fast end.
    Low,
    /// The slow end.
    High,
    /// All three, a record each.
    All,
}

impl BandChoice {
    /// The end whose records are `records.parquet`.
    pub fn main(self) -> Band {
        match self {
            Self::Central | Self::All => Band::Central,
            Self::Low => Band::Low,
            Self::High => Band::High,
        }
    }
}

/// A scheduler as `config.json` says it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchedulerSpec {
    /// Order and budget rule.
    pub policy: PolicyName,
    /// Tokens of a batch: sarathi and simple_chunking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<u32>,
    /// Tokens of a batch as a prompt goes on: sarathi, in place of `chunk`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_schedule: Option<ChunkScheduleSpec>,
    /// Prompt tokens of a batch: vllm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_batched_tokens: Option<u32>,
    /// Running sequences of all micro-batches together.
    pub batch_cap: u32,
    /// Share of the blocks that stays free after an admission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<f64>,
}

/// Names of the policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyName {
    /// Chunked prefill.
    Sarathi,
    /// Prefill first.
    Vllm,
    /// Iteration-level batching.
    Orca,
    /// Request-level batching.
    FasterTransformer,
    /// Prefill and decode batches in turn.
    SimpleChunking,
}

/// See [`ChunkSchedule::Dynamic`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkScheduleSpec {
    /// Smallest size.
    pub low: u32,
    /// Largest size.
    pub high: u32,
    /// How many sizes.
    pub stages: u32,
    /// Prompt length at which the last size ends.
    pub max_tokens: u32,
}

/// What is wrong with a configuration.
#[derive(Debug, Error, PartialEq)]
pub enum TrialError {
    /// A file of another version.
    #[error("format: expected {FORMAT}, found {0}")]
    Format(u32),
    /// A member that does not go with the policy, or is missing.
    #[error("scheduler.{field}: expected {expected}")]
    Policy {
        /// Member.
        field: &'static str,
        /// What should be there.
        expected: &'static str,
    },
    /// A number out of range.
    #[error("{field}: expected {expected}, found {found}")]
    Range {
        /// Member.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: f64,
    },
    /// No memory left for the KV cache.
    #[error(
        "gpu_memory_utilization: expected room for a KV block, found {:.2} GB of {:.2} GB taken by {:.2} GB of weights and {:.2} GB of activations",
        gb(weights + activations), gb(*budget), gb(*weights), gb(*activations)
    )]
    Memory {
        /// Bytes that may be used.
        budget: u64,
        /// Bytes of weights.
        weights: u64,
        /// Bytes of activations.
        activations: u64,
    },
    /// The scheduler refuses it.
    #[error("scheduler: {0}")]
    Scheduler(#[from] ConfigError),
}

fn gb(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

impl TrialConfig {
    /// Refuses what no trial can be.
    pub fn validate(&self) -> Result<(), TrialError> {
        if self.format != FORMAT {
            return Err(TrialError::Format(self.format));
        }
        let found = self.gpu_memory_utilization;
        if !(found > 0.0 && found <= 1.0) {
            let field = "gpu_memory_utilization";
            return Err(TrialError::Range { field, expected: "a share above 0 and at most 1", found });
        }
        match self.time_limit_s {
            Some(found) if !(found > 0.0 && found < 1e9) => Err(TrialError::Range {
                field: "time_limit_s",
                expected: "a time above 0 and below 1e9",
                found,
            }),
            _ => Ok(()),
        }
    }

    /// KV blocks that fit beside the weights and the activations of one prompt of `max_model_len`, on the fullest device.
    pub fn kv_blocks(&self, weights: &Manifest, division: &Division) -> Result<u32, TrialError> {
        let Memory { gpu_bytes, weight_bytes_max, kv_bytes_per_token } = weights.memory;
        let budget = (gpu_bytes as f64 * self.gpu_memory_utilization) as u64;
        let activations = division.activation_bytes(&weights.shape, self.max_model_len, Dtype::Float16);
        let free = budget.saturating_sub(weight_bytes_max + activations);
        let block_bytes = kv_bytes_per_token * u64::from(self.block_size.max(1));
        match u32::try_from(free / block_bytes).unwrap_or(u32::MAX) {
            0 => Err(TrialError::Memory { budget, weights: weight_bytes_max, activations }),
            blocks => Ok(blocks),
        }
    }

    /// What the scheduler is told.
    pub fn scheduler(&self, stages: u32, blocks: u32) -> Result<SchedulerConfig, TrialError> {
        Ok(SchedulerConfig {
            policy: self.scheduler.policy(self.max_model_len)?,
            batch_cap: self.scheduler.batch_cap,
            max_model_len: self.max_model_len,
            block_size: self.block_size,
            blocks,
            stages,
            watermark: self.scheduler.watermark,
            compat: self.compat,
        })
    }
}

impl SchedulerSpec {
    fn policy(&self, max_model_len: u32) -> Result<Policy, TrialError> {
        self.refuse_strangers()?;
        Ok(match self.policy {
            PolicyName::Sarathi => Policy::Sarathi { chunk: self.sarathi_chunk()? },
            PolicyName::Vllm => {
                Policy::Vllm { max_batched_tokens: self.max_batched_tokens.unwrap_or(max_model_len) }
            }
            PolicyName::Orca => Policy::Orca,
            PolicyName::FasterTransformer => Policy::FasterTransformer,
            PolicyName::SimpleChunking => {
                let missing =
                    TrialError::Policy { field: "chunk", expected: "a number of tokens, found none" };
                Policy::SimpleChunking { chunk: self.chunk.ok_or(missing)? }
            }
        })
    }

    fn sarathi_chunk(&self) -> Result<ChunkSchedule, TrialError> {
        let one_of = |expected| TrialError::Policy { field: "chunk", expected };
        match (self.chunk, self.chunk_schedule) {
            (Some(chunk), None) => Ok(ChunkSchedule::Fixed(chunk)),
            (None, Some(ChunkScheduleSpec { low, high, stages, max_tokens })) => {
                Ok(ChunkSchedule::Dynamic { low, high, stages, max_tokens })
            }
            (None, None) => Err(one_of("it or chunk_schedule for sarathi, found neither")),
            (Some(_), Some(_)) => Err(one_of("it or chunk_schedule for sarathi, found both")),
        }
    }

    /// A member that the policy does not read would promise what does not happen.
    fn refuse_strangers(&self) -> Result<(), TrialError> {
        use PolicyName::{Sarathi, SimpleChunking, Vllm};
        let only = [
            (
                "chunk",
                self.chunk.is_some(),
                &[Sarathi, SimpleChunking][..],
                "none, but for sarathi and simple_chunking",
            ),
            ("chunk_schedule", self.chunk_schedule.is_some(), &[Sarathi][..], "none, but for sarathi"),
            ("max_batched_tokens", self.max_batched_tokens.is_some(), &[Vllm][..], "none, but for vllm"),
        ];
        for (field, given, readers, expected) in only {
            if given && !readers.contains(&self.policy) {
                return Err(TrialError::Policy { field, expected });
            }
        }
        Ok(())
    }
}

/// The content of `trial.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrialReport {
    /// Version of this file.
    pub format: u32,
    /// Where the trial's numbers come from.
    pub provenance: Provenance,
    /// The predicate that ended it early, if one did.
    pub stopped: Option<String>,
    /// When it ended.
    pub end_ns: u64,
    /// Name of the platform.
    pub platform: String,
    /// Name of the model.
    pub model: String,
    /// How it was divided.
    pub parallel: Parallel,
    /// Of all random choices.
    pub seed: u64,
    /// Tells repeats apart.
    pub repetition: u32,
    /// Which end of the uncertain coefficients.
    pub band: BandChoice,
    /// Requests of the workload.
    pub requests: u32,
    /// Life cycle followed.
    pub compat: Compat,
    /// KV blocks of the fullest device.
    pub kv_blocks: u32,
    /// The configuration as run.
    pub config: TrialConfig,
}
