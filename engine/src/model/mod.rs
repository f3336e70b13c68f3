//! Models: their configuration, where weights come from, and a stage that computes with them.
//! Knows one rank of one stage; no scheduler, request or process.

mod config;
mod dummy;
mod error;
mod forward;
mod hugging_face;
mod layer_times;
mod mmap;
pub mod rank_file;
mod safetensors_file;
pub mod sampler;
mod slice;
mod source;
mod stage;

use serde::{Deserialize, Serialize};

pub use config::ModelConfig;
pub use dummy::Dummy;
pub use error::ModelError;
pub use hugging_face::HuggingFace;
pub use layer_times::LayerTimes;
pub use safetensors_file::ShardFile;
pub use source::{PIECE, Take, TensorSource};
pub use stage::Stage;

pub use crate::backend::Part;
use crate::shard::{Division, Parallel, ShardError};

/// Which part of which model a rank computes.
#[derive(Debug, Clone, PartialEq)]
pub struct StagePlan {
    /// The whole model.
    pub config: ModelConfig,
    /// Over what it is divided.
    pub parallel: Parallel,
    /// Which stage.
    pub stage: u32,
    /// Which rank of the stage.
    pub tp_rank: u32,
    /// Tokens of the longest sequence.
    pub max_positions: u32,
    /// Tokens of the largest batch.
    pub batch_tokens: u32,
}

impl StagePlan {
    fn division(&self) -> Result<Division, ShardError> {
        Division::new(&self.config.shape, self.parallel)
    }
}

/// Room of a paged KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvSpec {
    /// Blocks in each layer.
    pub blocks: u32,
    /// Tokens of a block.
    pub block_size: u32,
}

#[cfg(test)]
mod tests;
