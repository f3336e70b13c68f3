//! A model's shape: the numbers that decide what its layers hold and cost. Knows nothing of weights' values, devices or time.

mod hugging_face;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Bytes of one float16 value, the type of all weights and KV entries here.
pub const F16_BYTES: u64 = 2;

/// A decoder-only transformer, reduced to its shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelShape {
    /// Names the model in every result.
    pub name: String,
    /// Which weights a layer has.
    pub family: Family,
    /// Width of the hidden state.
    pub hidden_size: u32,
    /// Transformer layers.
    pub layers: u32,
    /// Query heads.
    pub query_heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Width of a head.
    pub head_dim: u32,
    /// Width of the MLP.
    pub ffn_size: u32,
    /// Rows of the embedding, before padding.
    pub vocab_size: u32,
    /// Attention and MLP read the same input and share one all-reduce.
    pub parallel_attention: bool,
    /// Norms a layer has.
    pub norms_per_layer: u32,
    /// The output projection is the embedding's own weights.
    pub tied_embedding: bool,
}

/// Which weights a layer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Layer norms with bias, a plain MLP with GELU.
    Falcon,
    /// RMS norms, a gated MLP with SiLU; Mistral and Yi too.
    Llama,
}

impl Family {
    /// Matrices from the hidden state to the MLP: gate and up, or up alone.
    pub fn ffn_inputs(self) -> u32 {
        match self {
            Self::Falcon => 1,
            Self::Llama => 2,
        }
    }

    /// Vectors of a norm: weight and bias, or weight alone.
    pub fn norm_vectors(self) -> u32 {
        match self {
            Self::Falcon => 2,
            Self::Llama => 1,
        }
    }

    /// Kernels of a layer beside products, attention and all-reduces, as counted in the artifact's model code.
    pub fn elementwise_kernels(self) -> u32 {
        match self {
            Self::Falcon => 9,
            Self::Llama => 10,
        }
    }
}

/// What is wrong with a model's description.
#[derive(Debug, Error)]
pub enum ShapeError {
    /// Neither YAML nor JSON of the expected form.
    #[error("{0}")]
    Syntax(String),
    /// A Hugging Face model of another family.
    #[error("model_type: expected one of falcon, llama, mistral, found `{found}`")]
    UnsupportedModel {
        /// Its `model_type`.
        found: String,
    },
    /// A member that the shape cannot do without.
    #[error("{field}: expected {expected}, found none")]
    Missing {
        /// Member of `config.json`.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A feature that changes what a layer holds.
    #[error("{field}: expected {expected}, found {found}")]
    Unsupported {
        /// Member.
        field: &'static str,
        /// What is supported.
        expected: String,
        /// What it is.
        found: String,
    },
}

impl ModelShape {
    /// Reads a preset or a Hugging Face `config.json`, told apart by content: only the latter has `model_type` or `architectures`.
    /// `stem` names a `config.json`, which carries no name of its own.
    pub fn parse(text: &str, stem: &str) -> Result<Self, ShapeError> {
        let shape = match hugging_face::parse_if_so(text, stem)? {
            Some(shape) => shape,
            None => serde_saphyr::from_str(text).map_err(|error| ShapeError::Syntax(error.to_string()))?,
        };
        shape.validate()?;
        Ok(shape)
    }

    /// All-reduces of a layer: one where attention and MLP run in parallel.
    pub fn all_reduces_per_layer(&self) -> u32 {
        if self.parallel_attention { 1 } else { 2 }
    }

    /// Parameters of the whole model, unpadded.
    pub fn parameters(&self) -> u64 {
        let [hidden, ffn, dim] = [self.hidden_size, self.ffn_size, self.head_dim].map(u64::from);
        let qkv = hidden * u64::from(self.query_heads + 2 * self.kv_heads) * dim;
        let dense = u64::from(self.query_heads) * dim * hidden;
        let mlp = hidden * ffn * u64::from(self.family.ffn_inputs() + 1);
        let norm = hidden * u64::from(self.family.norm_vectors());
        let layer = qkv + dense + mlp + norm * u64::from(self.norms_per_layer);
        let embeddings = u64::from(self.vocab_size) * hidden * if self.tied_embedding { 1 } else { 2 };
        u64::from(self.layers) * layer + norm + embeddings
    }

    fn validate(&self) -> Result<(), ShapeError> {
        let counts = [
            ("hidden_size", self.hidden_size),
            ("layers", self.layers),
            ("query_heads", self.query_heads),
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("ffn_size", self.ffn_size),
            ("vocab_size", self.vocab_size),
        ];
        for (field, count) in counts {
            if !(1..=1 << 24).contains(&count) {
                let expected = "a count from 1 to 16777216".to_owned();
                return Err(ShapeError::Unsupported { field, expected, found: count.to_string() });
            }
        }
        if !self.query_heads.is_multiple_of(self.kv_heads) {
            let expected = format!("a divisor of the {} query heads", self.query_heads);
            return Err(ShapeError::Unsupported {
                field: "kv_heads",
                expected,
                found: self.kv_heads.to_string(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
