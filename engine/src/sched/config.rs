//! What a scheduler is told once: policy, caps, memory. Validated before any request arrives.

use serde::{Deserialize, Serialize};

/// Order and budget rule of a scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Chunked prefill: one hybrid batch of all runnable decodes, the rest of the budget goes to prompts (arXiv 2403.02310).
    Sarathi {
        /// Tokens of a batch.
        chunk: ChunkSchedule,
    },
    /// Prefill first: a batch is whole prompts alone while any waiting one fits, else decodes alone.
    Vllm {
        /// Prompt tokens of a batch.
        max_batched_tokens: u32,
    },
    /// Iteration-level batching: whole prompts and decodes mixed; `max_model_len` of memory reserved per sequence.
    Orca,
    /// Request-level batching: admits only when nothing runs; `max_model_len` of memory reserved per sequence.
    FasterTransformer,
    /// Alternates prefill-only batches of `chunk` tokens and decode-only batches.
    SimpleChunking {
        /// Tokens of a prefill batch.
        chunk: u32,
    },
}

impl Policy {
    /// Whether admission reserves memory for `max_model_len` tokens, so that no sequence is ever preempted.
    pub(crate) fn reserves_max_len(self) -> bool {
        matches!(self, Self::Orca | Self::FasterTransformer)
    }
}

/// Tokens of a sarathi batch, as a function of how much of the prompt at hand is already processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkSchedule {
    /// The same for every batch.
    Fixed(u32),
    /// `stages` sizes evenly spaced from `high` down to `low`, rounded to 32 tokens; each holds for
    /// `max_tokens / stages` tokens of a prompt.
    Dynamic {
        /// Last and smallest size.
        low: u32,
        /// First and largest size.
        high: u32,
        /// How many sizes.
        stages: u32,
        /// Prompt length at which the last size ends; it stays in force beyond.
        max_tokens: u32,
    },
}

impl ChunkSchedule {
    /// The batch budget while `processed` tokens of the prompt are done.
    pub fn budget(self, processed: u32) -> u32 {
        match self {
            Self::Fixed(chunk) => chunk,
            Self::Dynamic { low, high, stages, max_tokens } => {
                let stage = (u64::from(processed) * u64::from(stages) / u64::from(max_tokens)) as u32;
                dynamic_size(low, high, stages, stage.min(stages - 1))
            }
        }
    }

    fn check(self) -> Result<(), ConfigError> {
        let (low, high, stages, max_tokens) = match self {
            Self::Fixed(chunk) => return at_least_one("chunk", chunk),
            Self::Dynamic { low, high, stages, max_tokens } => (low, high, stages, max_tokens),
        };
        at_least_one("chunk_schedule.low", low)?;
        at_least_one("chunk_schedule.stages", stages)?;
        at_least_one("chunk_schedule.max_tokens", max_tokens)?;
        if low > high {
            return Err(ConfigError::LowAboveHigh { low, high });
        }
        Ok(())
    }
}

/// Size number `stage` of `stages`, to the nearest multiple of 32 (of `low`, where that is smaller).
fn dynamic_size(low: u32, high: u32, stages: u32, stage: u32) -> u32 {
    let step = u64::from(low.min(32));
    let intervals = u64::from((stages - 1).max(1));
    let exact_times_intervals = u64::from(high) * intervals - u64::from(high - low) * u64::from(stage);
    let rounded = (2 * exact_times_intervals + step * intervals) / (2 * step * intervals) * step;
    rounded as u32
}

/// Which request life cycle to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compat {
    /// The batch that ends a prompt emits the first token: N output tokens take N - 1 decodes.
    Honest,
    /// The Sarathi-Serve artifact's: the batch that ends a prompt emits nothing and the first decode feeds the last
    /// prompt token again: N output tokens take N decodes.
    Sarathi,
}

/// Everything a scheduler is told.
#[derive(Debug, Clone, PartialEq)]
pub struct SchedulerConfig {
    /// Order and budget rule.
    pub policy: Policy,
    /// Running sequences of all micro-batches together.
    pub batch_cap: u32,
    /// Longest prompt plus output, in tokens.
    pub max_model_len: u32,
    /// Tokens of a block.
    pub block_size: u32,
    /// Blocks of the paged KV cache.
    pub blocks: u32,
    /// Pipeline stages: batches that may be in flight.
    pub stages: u32,
    /// Share of the blocks that stays free after an admission; None: the policy's (0.01; 0 where memory is reserved).
    pub watermark: Option<f64>,
    /// Request life cycle.
    pub compat: Compat,
}

/// Why a configuration cannot work.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A count is zero.
    #[error("expected {field} of at least 1, found 0")]
    Zero {
        /// Its name in the configuration.
        field: &'static str,
    },
    /// A dynamic chunk schedule goes upwards.
    #[error("expected chunk_schedule.low <= chunk_schedule.high, found low={low}, high={high}")]
    LowAboveHigh {
        /// Smallest size.
        low: u32,
        /// Largest size.
        high: u32,
    },
    /// A prompt could be longer than any prefill batch.
    #[error(
        "expected max_batched_tokens of at least max_model_len={max_model_len} (prompts run whole), found {found}"
    )]
    BatchedTokens {
        /// Longest sequence.
        max_model_len: u32,
        /// The budget given.
        found: u32,
    },
    /// A share outside [0, 1).
    #[error("expected a watermark of at least 0 and below 1, found {found}")]
    Watermark {
        /// The share given.
        found: f64,
    },
    /// The policy reserves `max_model_len` per sequence and not even one fits.
    #[error(
        "expected at least {needed} KV blocks of {block_size} tokens (this policy reserves max_model_len={max_model_len} \
         per sequence), found {found}"
    )]
    Blocks {
        /// Blocks of one reservation and the watermark.
        needed: u32,
        /// Tokens of a block.
        block_size: u32,
        /// Longest sequence.
        max_model_len: u32,
        /// Blocks there are.
        found: u32,
    },
}

fn at_least_one(field: &'static str, value: u32) -> Result<(), ConfigError> {
    if value == 0 { Err(ConfigError::Zero { field }) } else { Ok(()) }
}

impl SchedulerConfig {
    /// Tokens of the largest batch that is planned for, decodes of other sequences aside. `orca` and `faster_transformer` take as many whole prompts
    /// at once as wait and fit in the cache, of which one, the longest, is counted: all of them would leave no room for a cache.
    pub fn batch_tokens_max(&self) -> u32 {
        match self.policy {
            Policy::Sarathi { chunk: ChunkSchedule::Fixed(chunk) } | Policy::SimpleChunking { chunk } => {
                chunk
            }
            Policy::Sarathi { chunk: ChunkSchedule::Dynamic { high, .. } } => high,
            Policy::Vllm { max_batched_tokens } => max_batched_tokens,
            Policy::Orca | Policy::FasterTransformer => self.max_model_len,
        }
    }

    /// The same, but no more than all sequences that run together can have.
    pub fn batch_tokens_fitting(&self) -> u32 {
        self.batch_tokens_max().min(self.max_model_len.saturating_mul(self.batch_cap))
    }

    /// Blocks that requests of so many tokens in all, outputs included, have in use at once at most. Those with higher numbers are never used.
    pub fn blocks_in_use_max(&self, requests: impl Iterator<Item = u32>) -> u32 {
        let held = |tokens: u32| if self.policy.reserves_max_len() { self.max_model_len } else { tokens };
        let mut blocks: Vec<u32> = requests.map(|tokens| held(tokens).div_ceil(self.block_size)).collect();
        blocks.sort_unstable_by(|a, b| b.cmp(a));
        let longest = blocks.into_iter().take(self.batch_cap as usize);
        longest.fold(0, u32::saturating_add).min(self.blocks)
    }

    /// Blocks that must stay free after an admission.
    pub fn watermark_blocks(&self) -> u32 {
        let default = if self.policy.reserves_max_len() { 0.0 } else { 0.01 };
        (f64::from(self.blocks) * self.watermark.unwrap_or(default)) as u32
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        at_least_one("batch_cap", self.batch_cap)?;
        at_least_one("max_model_len", self.max_model_len)?;
        at_least_one("block_size", self.block_size)?;
        at_least_one("KV blocks", self.blocks)?;
        at_least_one("stages", self.stages)?;
        if let Some(found) = self.watermark.filter(|share| !(0.0..1.0).contains(share)) {
            return Err(ConfigError::Watermark { found });
        }
        self.check_policy()
    }

    fn check_policy(&self) -> Result<(), ConfigError> {
        let max_model_len = self.max_model_len;
        match self.policy {
            Policy::Sarathi { chunk } => chunk.check(),
            Policy::SimpleChunking { chunk } => at_least_one("chunk", chunk),
            Policy::Vllm { max_batched_tokens: found } if found < max_model_len => {
                Err(ConfigError::BatchedTokens { max_model_len, found })
            }
            Policy::Vllm { .. } => Ok(()),
            Policy::Orca | Policy::FasterTransformer => {
                let needed = max_model_len.div_ceil(self.block_size) + self.watermark_blocks();
                let (block_size, found) = (self.block_size, self.blocks);
                if needed <= found {
                    Ok(())
                } else {
                    Err(ConfigError::Blocks { needed, block_size, max_model_len, found })
                }
            }
        }
    }
}
