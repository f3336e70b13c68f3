//! Divides a model over tensor-parallel ranks and pipeline stages, and lists what each rank holds.
//! Pure arithmetic on shapes: knows nothing of devices, files or time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::shape::{Family, ModelShape};

/// Rows of the embedding come in multiples of this, on every rank.
const VOCAB_MULTIPLE: u64 = 64;

/// Tensor-parallel ranks of a stage, and stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parallel {
    /// Ranks that share each layer.
    pub tp: u32,
    /// Stages that follow one another.
    pub pp: u32,
}

impl Parallel {
    /// Ranks in all.
    pub fn ranks(self) -> u32 {
        self.tp * self.pp
    }

    /// The ranks of a stage: consecutive, so that a TP group stays as near together as it can.
    pub fn stage_ranks(self, stage: u32) -> Vec<u32> {
        (stage * self.tp..(stage + 1) * self.tp).collect()
    }
}

/// A model that does not divide as asked.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ShardError {
    /// A count that TP does not divide.
    #[error("expected {count} {what} divisible by tp={tp}, found remainder {}", count % tp)]
    Indivisible {
        /// What is counted.
        what: &'static str,
        /// How many.
        count: u32,
        /// Tensor-parallel ranks.
        tp: u32,
    },
    /// KV heads that neither divide over TP nor repeat evenly.
    #[error("expected {kv_heads} kv heads divisible by tp={tp}, or tp by them")]
    KvHeads {
        /// KV heads.
        kv_heads: u32,
        /// Tensor-parallel ranks.
        tp: u32,
    },
    /// More stages than layers.
    #[error("expected pp of at most {layers}, the layers of the model, found {pp}")]
    TooManyStages {
        /// Layers.
        layers: u32,
        /// Stages.
        pp: u32,
    },
    /// Nothing to divide over.
    #[error("{0}: expected 1 or more, found 0")]
    Zero(&'static str),
}

/// What one rank of a TP group holds of each layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RankShape {
    /// Query heads.
    pub query_heads: u32,
    /// KV heads; a head is held by several ranks where there are fewer heads than ranks.
    pub kv_heads: u32,
    /// Width of the MLP.
    pub ffn_size: u32,
    /// Rows of the padded embedding.
    pub vocab_rows: u32,
}

/// A model divided: the same share on every rank of a stage, and the layers of each stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Division {
    /// Over what.
    pub parallel: Parallel,
    /// What each rank holds of a layer.
    pub rank: RankShape,
    /// Layers of each stage, first stage first.
    pub stage_layers: Vec<u32>,
}

impl Division {
    /// Divides heads, MLP and vocabulary over TP and layers over PP; the first stages take the layers left over.
    pub fn new(shape: &ModelShape, parallel: Parallel) -> Result<Self, ShardError> {
        let Parallel { tp, pp } = parallel;
        for (name, count) in [("tp", tp), ("pp", pp)] {
            if count == 0 {
                return Err(ShardError::Zero(name));
            }
        }
        if pp > shape.layers {
            return Err(ShardError::TooManyStages { layers: shape.layers, pp });
        }
        let rank = RankShape {
            query_heads: share("query heads", shape.query_heads, tp)?,
            kv_heads: kv_share(shape.kv_heads, tp)?,
            ffn_size: share("ffn columns", shape.ffn_size, tp)?,
            vocab_rows: padded_vocab(shape.vocab_size, tp) / tp,
        };
        let stage_layers =
            (0..pp).map(|stage| shape.layers / pp + u32::from(stage < shape.layers % pp)).collect();
        Ok(Self { parallel, rank, stage_layers })
    }

    /// KV bytes of one token on one rank of the stage with the most layers.
    pub fn kv_bytes_per_token(&self, shape: &ModelShape, dtype: Dtype) -> u64 {
        let layers = self.stage_layers.iter().max().copied().unwrap_or(0);
        2 * dtype.bytes() * u64::from(self.rank.kv_heads) * u64::from(shape.head_dim) * u64::from(layers)
    }

    /// Bytes of the weights of the rank that holds most, all of `dtype`.
    pub fn weight_bytes_max(&self, shape: &ModelShape, dtype: Dtype) -> u64 {
        let stage = |stage| self.tensors(shape, stage, dtype).iter().map(|tensor| tensor.bytes).sum();
        (0..self.parallel.pp).map(stage).max().unwrap_or(0)
    }

    /// Peak bytes of activations of `dtype` that one forward pass of `tokens` holds beside weights and KV: four hidden states
    /// (residual, norm's output, two outputs that are summed) and twice this rank's QKV and MLP columns (input and output of a kernel).
    pub fn activation_bytes(&self, shape: &ModelShape, tokens: u32, dtype: Dtype) -> u64 {
        let qkv = u64::from(self.rank.query_heads + 2 * self.rank.kv_heads) * u64::from(shape.head_dim);
        let mlp = u64::from(self.rank.ffn_size) * u64::from(shape.family.ffn_inputs());
        u64::from(tokens) * dtype.bytes() * (4 * u64::from(shape.hidden_size) + 2 * (qkv + mlp))
    }

    /// Every tensor of a rank of `stage`, with values of `dtype`.
    pub fn tensors(&self, shape: &ModelShape, stage: u32, dtype: Dtype) -> Vec<Tensor> {
        let mut tensors = Tensors { dtype, all: Vec::new() };
        let last = stage + 1 == self.parallel.pp;
        let embedding = [self.rank.vocab_rows, shape.hidden_size];
        if stage == 0 {
            tensors.push("embedding.weight".to_owned(), &embedding);
        }
        for layer in self.layer_range(stage) {
            self.push_layer(shape, layer, &mut tensors);
        }
        if last {
            push_norm(shape, "final_norm", &mut tensors);
        }
        // A tied projection is stored again where the embedding lies on another rank.
        if last && (!shape.tied_embedding || stage != 0) {
            tensors.push("lm_head.weight".to_owned(), &embedding);
        }
        tensors.all
    }

    /// The layers of a stage.
    pub fn layer_range(&self, stage: u32) -> std::ops::Range<u32> {
        let stage = stage as usize;
        let first: u32 = self.stage_layers[..stage].iter().sum();
        first..first + self.stage_layers[stage]
    }

    fn push_layer(&self, shape: &ModelShape, layer: u32, tensors: &mut Tensors) {
        let RankShape { query_heads, kv_heads, ffn_size, .. } = self.rank;
        let (hidden, dim) = (shape.hidden_size, shape.head_dim);
        for norm in 0..shape.norms_per_layer {
            push_norm(shape, &format!("layers.{layer}.norm{norm}"), tensors);
        }
        let mut push = |name: &str, rows, columns| {
            tensors.push(format!("layers.{layer}.{name}.weight"), &[rows, columns]);
        };
        push("attention.qkv", (query_heads + 2 * kv_heads) * dim, hidden);
        push("attention.dense", hidden, query_heads * dim);
        if shape.family == Family::Llama {
            push("mlp.gate", ffn_size, hidden);
        }
        push("mlp.up", ffn_size, hidden);
        push("mlp.down", hidden, ffn_size);
    }
}

/// Whether a tensor is a norm's, by its name: all others are matrices.
fn is_of_norm(name: &str) -> bool {
    name.split('.').any(|part| part.starts_with("norm") || part == "final_norm")
}

fn push_norm(shape: &ModelShape, prefix: &str, tensors: &mut Tensors) {
    for part in ["weight", "bias"].iter().take(shape.family.norm_vectors() as usize) {
        tensors.push(format!("{prefix}.{part}"), &[shape.hidden_size]);
    }
}

fn share(what: &'static str, count: u32, tp: u32) -> Result<u32, ShardError> {
    match count.is_multiple_of(tp) {
        true => Ok(count / tp),
        false => Err(ShardError::Indivisible { what, count, tp }),
    }
}

/// Fewer KV heads than ranks: each is repeated on tp / kv_heads ranks.
fn kv_share(kv_heads: u32, tp: u32) -> Result<u32, ShardError> {
    match (kv_heads.is_multiple_of(tp), tp.is_multiple_of(kv_heads)) {
        (true, _) => Ok(kv_heads / tp),
        (false, true) => Ok(1),
        (false, false) => Err(ShardError::KvHeads { kv_heads, tp }),
    }
}

/// The vocabulary rounded up so that each rank's rows are a multiple of 64.
fn padded_vocab(vocab_size: u32, tp: u32) -> u32 {
    let multiple = VOCAB_MULTIPLE * u64::from(tp);
    (u64::from(vocab_size).div_ceil(multiple) * multiple) as u32
}

/// Tensors of one rank, as they are listed.
struct Tensors {
    dtype: Dtype,
    all: Vec<Tensor>,
}

impl Tensors {
    fn push(&mut self, name: String, shape: &[u32]) {
        let bytes = shape.iter().map(|&length| u64::from(length)).product::<u64>() * self.dtype.bytes();
        self.all.push(Tensor { name, shape: shape.to_vec(), dtype: self.dtype, bytes, digest: None });
    }
}

/// One tensor of one rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tensor {
    /// `layers.0.attention.qkv.weight`, ...
    pub name: String,
    /// Rows and columns: this rank's part.
    pub shape: Vec<u32>,
    /// Type of its values.
    pub dtype: Dtype,
    /// Its size.
    pub bytes: u64,
    /// BLAKE3 of its values, where they were written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

impl Tensor {
    /// The same tensor with values of another type.
    pub fn of_dtype(self, dtype: Dtype) -> Self {
        Self { bytes: self.bytes / self.dtype.bytes() * dtype.bytes(), dtype, ..self }
    }
}

/// Types of a model's tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dtypes {
    /// Of the layers' projections, hence of the KV cache, and of all others as a rule.
    pub main: Dtype,
    /// Name -> type of those that have another.
    pub others: BTreeMap<String, Dtype>,
}

impl Dtypes {
    /// The same for all.
    pub fn uniform(dtype: Dtype) -> Self {
        Self { main: dtype, others: BTreeMap::new() }
    }

    /// Of one tensor.
    pub fn of(&self, name: &str) -> Dtype {
        self.others.get(name).copied().unwrap_or(self.main)
    }

    /// A matrix that is not of the main type, and which it is of.
    pub fn odd_matrix(&self) -> Option<(&str, Dtype)> {
        let odd = self.others.iter().find(|(name, _)| !is_of_norm(name));
        odd.map(|(name, dtype)| (name.as_str(), *dtype))
    }
}

/// Type of a tensor's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// IEEE half precision, two bytes.
    Float16,
    /// The upper half of a `Float32`.
    Bfloat16,
    /// Single precision, four bytes.
    Float32,
}

impl Dtype {
    /// Bytes of one value.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Float16 | Self::Bfloat16 => 2,
            Self::Float32 => 4,
        }
    }
}

#[cfg(test)]
mod tests;
