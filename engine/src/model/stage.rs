//! A stage's weights, KV cache and scratch on one rank. Knows no batch; `forward.rs` runs it.

use std::cell::Cell;

use super::source::Part;
use super::{KvSpec, ModelConfig, ModelError, StagePlan, TensorSource};
use crate::backend::cpu::{self, Activations, AttentionShape, Embedding, KvCache, Linear, RotaryTable};
use crate::shape::Family;
use crate::shard::{Division, Dtype, RankShape, Tensor};

/// One rank's share of a stage, ready to run.
#[derive(Debug)]
pub struct Stage {
    pub(super) config: ModelConfig,
    pub(super) rank: RankShape,
    pub(super) tp: usize,
    pub(super) attention: AttentionShape,
    pub(super) rotary: RotaryTable,
    /// On the first stage.
    pub(super) embedding: Option<Table>,
    pub(super) layers: Vec<Layer>,
    /// On the last stage.
    pub(super) head: Option<Head>,
    pub(super) kv: KvCache,
    pub(super) scratch: Scratch,
    weight_bytes: u64,
    kv_bytes: u64,
}

/// Where a token's first hidden state stands.
#[derive(Debug)]
pub(super) enum Table {
    Own(Embedding),
    /// In the head of the same rank, to which it is tied; the rank's first row is token `first`.
    Head {
        first: u32,
    },
}

/// One layer's weights.
#[derive(Debug)]
pub(super) struct Layer {
    /// Before attention, and where there are two before the MLP.
    pub(super) norms: Vec<Norm>,
    /// `[(query_heads + 2 kv_heads) head_dim, hidden]`: queries, keys, values.
    pub(super) qkv: Linear,
    /// `[hidden, query_heads head_dim]`.
    pub(super) dense: Linear,
    /// `[ffn, hidden]`, or gate and up in one `[2 ffn, hidden]`.
    pub(super) up: Linear,
    /// `[hidden, ffn]`.
    pub(super) down: Linear,
}

/// From hidden states to logits.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) norm: Norm,
    /// `[vocab_rows, hidden]`.
    pub(super) projection: Linear,
}

/// A norm's vectors `[hidden]`; a layer norm has a bias.
#[derive(Debug)]
pub(super) struct Norm {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Option<Vec<f32>>,
}

/// Buffers kept from batch to batch.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// `[tokens, hidden]`: a norm's output.
    pub(super) normed: Activations,
    /// `[tokens, (query_heads + 2 kv_heads) head_dim]`.
    pub(super) qkv: Activations,
    /// `[tokens, query_heads head_dim]`.
    pub(super) attended: Activations,
    /// `[tokens, hidden]`: this rank's summand.
    pub(super) sum: Activations,
    /// `[tokens, hidden]`: the MLP's summand, where it runs beside attention.
    pub(super) mlp: Activations,
    /// `[tokens, ffn]`, or `[tokens, 2 ffn]`.
    pub(super) up: Activations,
    /// `[tokens, ffn]`: the gated product.
    pub(super) gated: Activations,
    /// `[ranks, rows, vocab_rows]`.
    pub(super) logits: Activations,
}

impl Stage {
    /// Reads and packs the weights of `plan`'s rank. Keys and values are stored in the weights' own type.
    pub fn load(plan: &StagePlan, source: &dyn TensorSource, kv: KvSpec) -> Result<Self, ModelError> {
        let division = check(plan)?;
        let tensors = division.tensors(&plan.config.shape, plan.stage, Dtype::Float32);
        let loader = Loader { plan, source, tensors, read_bytes: Cell::new(0) };
        let shape = &plan.config.shape;
        let rank = division.rank;
        let attention = AttentionShape {
            query_heads: rank.query_heads as usize,
            kv_heads: rank.kv_heads as usize,
            head_dim: shape.head_dim as usize,
            scale: 1.0 / (shape.head_dim as f32).sqrt(),
        };
        let range = division.layer_range(plan.stage);
        let layers: Vec<Layer> = range.map(|layer| loader.layer(layer)).collect::<Result<_, _>>()?;
        let kv_dtype = layers[0].qkv.dtype();
        let (blocks, block_size) = (kv.blocks as usize, kv.block_size as usize);
        let kv = KvCache::new(&attention, layers.len(), blocks, block_size, kv_dtype);
        let is_last = plan.stage + 1 == plan.parallel.pp;
        Ok(Self {
            rotary: RotaryTable::new(plan.config.rope_theta, attention.head_dim, plan.max_positions as usize),
            embedding: (plan.stage == 0).then(|| loader.embedding(rank)).transpose()?,
            head: is_last.then(|| loader.head()).transpose()?,
            kv_bytes: kv.bytes(),
            kv,
            scratch: Scratch::default(),
            weight_bytes: loader.read_bytes.get(),
            layers,
            config: plan.config.clone(),
            tp: plan.parallel.tp as usize,
            attention,
            rank,
        })
    }

    /// Bytes of this rank's weights, in their own type: what the manifest says, for nothing is held twice.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// Bytes of this rank's KV cache.
    pub fn kv_bytes(&self) -> u64 {
        self.kv_bytes
    }
}

fn check(plan: &StagePlan) -> Result<Division, ModelError> {
    let division = plan.division()?;
    for (what, count, found) in
        [("stage", plan.parallel.pp, plan.stage), ("tp_rank", plan.parallel.tp, plan.tp_rank)]
    {
        if found >= count {
            return Err(ModelError::OutOfRange { what, count, found });
        }
    }
    let found = plan.config.shape.head_dim;
    if found as usize > cpu::HEAD_DIM_MAX {
        return Err(ModelError::HeadDim { most: cpu::HEAD_DIM_MAX, found });
    }
    match plan.config.attention_window {
        Some(window) if plan.max_positions > window => {
            Err(ModelError::Window { window, positions: plan.max_positions })
        }
        _ => Ok(division),
    }
}

/// Reads the tensors of one rank.
struct Loader<'a> {
    plan: &'a StagePlan,
    source: &'a dyn TensorSource,
    /// All that the rank holds; their dtype is the source's to say.
    tensors: Vec<Tensor>,
    /// Of all that was read so far.
    read_bytes: Cell<u64>,
}

impl Loader<'_> {
    fn part(&self, name: &str) -> Result<Part<'_>, ModelError> {
        let unknown = || ModelError::UnknownTensor(name.to_owned());
        let wanted = self.tensors.iter().find(|tensor| tensor.name == name).ok_or_else(unknown)?;
        let part = self.source.tensor(wanted)?;
        assert_eq!(part.shape, wanted.shape, "{name}: a source answers with the shape that it is asked for");
        self.read_bytes.set(self.read_bytes.get() + part.bytes.len() as u64);
        Ok(part)
    }

    fn linear(&self, name: &str) -> Result<Linear, ModelError> {
        Ok(pack(&[self.part(&format!("{name}.weight"))?]))
    }

    fn embedding(&self, rank: RankShape) -> Result<Table, ModelError> {
        let first = self.plan.tp_rank * rank.vocab_rows;
        if self.has_embedding_in_head() {
            return Ok(Table::Head { first });
        }
        let part = self.part("embedding.weight")?;
        let hidden = self.plan.config.shape.hidden_size as usize;
        Ok(Table::Own(Embedding::new(part.dtype.into(), first, hidden, &part.bytes)))
    }

    /// Whether the head is the embedding, and both are on this rank.
    fn has_embedding_in_head(&self) -> bool {
        self.plan.config.shape.tied_embedding && self.plan.parallel.pp == 1
    }

    fn layer(&self, layer: u32) -> Result<Layer, ModelError> {
        let name = |part: &str| format!("layers.{layer}.{part}");
        let norms = 0..self.plan.config.shape.norms_per_layer;
        Ok(Layer {
            norms: norms.map(|norm| self.norm(&name(&format!("norm{norm}")))).collect::<Result<_, _>>()?,
            qkv: self.linear(&name("attention.qkv"))?,
            dense: self.linear(&name("attention.dense"))?,
            up: match self.plan.config.shape.family {
                Family::Falcon => self.linear(&name("mlp.up"))?,
                Family::Llama => {
                    pack(&[self.part(&name("mlp.gate.weight"))?, self.part(&name("mlp.up.weight"))?])
                }
            },
            down: self.linear(&name("mlp.down"))?,
        })
    }

    fn norm(&self, name: &str) -> Result<Norm, ModelError> {
        let vector = |part: &str| Ok::<_, ModelError>(widen(&self.part(&format!("{name}.{part}"))?));
        let has_bias = self.plan.config.shape.family.norm_vectors() == 2;
        Ok(Norm { weight: vector("weight")?, bias: has_bias.then(|| vector("bias")).transpose()? })
    }

    fn head(&self) -> Result<Head, ModelError> {
        let name = if self.has_embedding_in_head() { "embedding" } else { "lm_head" };
        Ok(Head { norm: self.norm("final_norm")?, projection: self.linear(name)? })
    }
}

/// Packs parts, one below the other.
fn pack(parts: &[Part<'_>]) -> Linear {
    let [rows, columns] = [0, 1].map(|axis| parts[0].shape[axis] as usize);
    let dtype = parts[0].dtype;
    if let [part] = parts {
        return Linear::pack(dtype.into(), rows, columns, &part.bytes);
    }
    let rows = parts.len() * rows;
    if parts.iter().all(|part| part.dtype == dtype) {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.bytes.iter().copied()).collect();
        return Linear::pack(dtype.into(), rows, columns, &bytes);
    }
    let bytes: Vec<u8> = parts.iter().flat_map(widen).flat_map(f32::to_le_bytes).collect();
    Linear::pack(cpu::Dtype::F32, rows, columns, &bytes)
}

fn widen(part: &Part<'_>) -> Vec<f32> {
    let bytes = &part.bytes[..];
    match part.dtype {
        Dtype::Float32 => bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        Dtype::Float16 => bytes.as_chunks().0.iter().map(|&b| half::f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::Bfloat16 => {
            bytes.as_chunks().0.iter().map(|&b| half::bf16::from_le_bytes(b).to_f32()).collect()
        }
    }
}
