//! A stage's weights, KV cache and scratch on one rank. Knows no batch; `forward.rs` runs it.

use std::cell::Cell;

use super::{KvSpec, ModelConfig, ModelError, StagePlan, TensorSource};
use crate::backend::{AttentionShape, Backend, Part};
use crate::shape::Family;
use crate::shard::{Division, Dtype, RankShape, Tensor};

/// One rank's share of a stage, ready to run.
pub struct Stage<B: Backend> {
    pub(super) config: ModelConfig,
    pub(super) rank: RankShape,
    pub(super) tp: usize,
    pub(super) tp_rank: usize,
    pub(super) attention: AttentionShape,
    pub(super) rotary: B::Rotary,
    /// On the first stage.
    pub(super) embedding: Option<Table<B>>,
    pub(super) layers: Vec<Layer<B>>,
    /// On the last stage.
    pub(super) head: Option<Head<B>>,
    pub(super) kv: B::KvCache,
    pub(super) scratch: Scratch<B>,
    weight_bytes: u64,
    kv_bytes: u64,
}

/// Where a token's first hidden state stands.
pub(super) enum Table<B: Backend> {
    Own(B::Embedding),
    /// In the head of the same rank, to which it is tied; the rank's first row is token `first`.
    Head {
        first: u32,
    },
}

/// One layer's weights.
pub(super) struct Layer<B: Backend> {
    /// Before attention, and where there are two before the MLP.
    pub(super) norms: Vec<B::Norm>,
    /// `[(query_heads + 2 kv_heads) head_dim, hidden]`: queries, keys, values.
    pub(super) qkv: B::Linear,
    /// `[hidden, query_heads head_dim]`.
    pub(super) dense: B::Linear,
    /// `[ffn, hidden]`, or gate and up in one `[2 ffn, hidden]`.
    pub(super) up: B::Linear,
    /// `[hidden, ffn]`.
    pub(super) down: B::Linear,
}

/// From hidden states to logits.
pub(super) struct Head<B: Backend> {
    pub(super) norm: B::Norm,
    /// `[vocab_rows, hidden]`.
    pub(super) projection: B::Linear,
}

/// Buffers kept from batch to batch.
pub(super) struct Scratch<B: Backend> {
    /// `[tokens, hidden]`: a norm's output.
    pub(super) normed: B::Tensor,
    /// `[tokens, (query_heads + 2 kv_heads) head_dim]`.
    pub(super) qkv: B::Tensor,
    /// `[tokens, query_heads head_dim]`.
    pub(super) attended: B::Tensor,
    /// `[tokens, hidden]`: this rank's summand.
    pub(super) sum: B::Tensor,
    /// `[tokens, hidden]`: the MLP's summand, where it runs beside attention.
    pub(super) mlp: B::Tensor,
    /// `[tokens, ffn]`, or `[tokens, 2 ffn]`.
    pub(super) up: B::Tensor,
    /// `[tokens, ffn]`: the gated product.
    pub(super) gated: B::Tensor,
    /// `[ranks, rows, vocab_rows]`, or as much of them as greedy decoding needs.
    pub(super) logits: B::Tensor,
}

impl<B: Backend> Scratch<B> {
    fn new(backend: &B) -> Self {
        let empty = || backend.tensor();
        Self {
            normed: empty(),
            qkv: empty(),
            attended: empty(),
            sum: empty(),
            mlp: empty(),
            up: empty(),
            gated: empty(),
            logits: empty(),
        }
    }
}

impl<B: Backend> Stage<B> {
    /// Reads the weights of `plan`'s rank and hands them to the backend. Keys and values are stored in the weights' own type.
    pub fn load(
        backend: &B,
        plan: &StagePlan,
        source: &dyn TensorSource,
        kv: KvSpec,
    ) -> Result<Self, ModelError> {
        let division = check(plan, B::HEAD_DIM_MAX)?;
        let tensors = division.tensors(&plan.config.shape, plan.stage, Dtype::Float32);
        let loader = Loader { backend, plan, source, tensors, read_bytes: Cell::new(0) };
        let shape = &plan.config.shape;
        let rank = division.rank;
        let attention = AttentionShape {
            query_heads: rank.query_heads as usize,
            kv_heads: rank.kv_heads as usize,
            head_dim: shape.head_dim as usize,
            scale: 1.0 / (shape.head_dim as f32).sqrt(),
        };
        let range = division.layer_range(plan.stage);
        let layers: Vec<Layer<B>> = range.map(|layer| loader.layer(layer)).collect::<Result<_, _>>()?;
        let positions = plan.max_positions as usize;
        let rotary = backend.rotary(plan.config.rope_theta, attention.head_dim, positions);
        let rotary = rotary.map_err(refused)?;
        let is_last = plan.stage + 1 == plan.parallel.pp;
        let embedding = (plan.stage == 0).then(|| loader.embedding(rank)).transpose()?;
        let head = is_last.then(|| loader.head()).transpose()?;
        // Last, when what is free is what keys and values may take.
        let kv_dtype = backend.linear_dtype(&layers[0].qkv);
        let (blocks, block_size) = (kv.blocks as usize, kv.block_size as usize);
        let activations = division.activation_bytes(shape, plan.batch_tokens, kv_dtype);
        let kv = backend.kv_cache(&attention, layers.len(), blocks, block_size, kv_dtype, activations);
        let kv = kv.map_err(refused)?;
        Ok(Self {
            rotary,
            embedding,
            head,
            kv_bytes: backend.kv_bytes(&kv),
            kv,
            scratch: Scratch::new(backend),
            weight_bytes: loader.read_bytes.get(),
            layers,
            config: plan.config.clone(),
            tp: plan.parallel.tp as usize,
            tp_rank: plan.tp_rank as usize,
            attention,
            rank,
        })
    }

    /// Has memory found for the first `blocks` blocks of the KV cache, which has `all`.
    pub fn touch(&mut self, backend: &B, blocks: u32, all: u32) {
        backend.touch(&mut self.kv, blocks as usize, all as usize);
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

fn refused(error: impl std::error::Error + Send + Sync + 'static) -> ModelError {
    ModelError::Backend(Box::new(error))
}

fn check(plan: &StagePlan, head_dim_max: usize) -> Result<Division, ModelError> {
    let division = plan.division()?;
    for (what, count, found) in
        [("stage", plan.parallel.pp, plan.stage), ("tp_rank", plan.parallel.tp, plan.tp_rank)]
    {
        if found >= count {
            return Err(ModelError::OutOfRange { what, count, found });
        }
    }
    let found = plan.config.shape.head_dim;
    if found as usize > head_dim_max {
        return Err(ModelError::HeadDim { most: head_dim_max, found });
    }
    match plan.config.attention_window {
        Some(window) if plan.max_positions > window => {
            Err(ModelError::Window { window, positions: plan.max_positions })
        }
        _ => Ok(division),
    }
}

/// Reads the tensors of one rank.
struct Loader<'a, B> {
    backend: &'a B,
    plan: &'a StagePlan,
    source: &'a dyn TensorSource,
    /// All that the rank holds; their dtype is the source's to say.
    tensors: Vec<Tensor>,
    /// Of all that was read so far.
    read_bytes: Cell<u64>,
}

impl<B: Backend> Loader<'_, B> {
    fn part(&self, name: &str) -> Result<Part<'_>, ModelError> {
        let unknown = || ModelError::UnknownTensor(name.to_owned());
        let wanted = self.tensors.iter().find(|tensor| tensor.name == name).ok_or_else(unknown)?;
        let part = self.source.tensor(wanted)?;
        assert_eq!(part.shape, wanted.shape, "{name}: a source answers with the shape that it is asked for");
        self.read_bytes.set(self.read_bytes.get() + part.bytes.len() as u64);
        Ok(part)
    }

    /// A weight of tensors, one below the other.
    fn linear(&self, names: &[String]) -> Result<B::Linear, ModelError> {
        let parts = names.iter().map(|name| self.part(&format!("{name}.weight")));
        self.backend.linear(&parts.collect::<Result<Vec<_>, _>>()?).map_err(refused)
    }

    fn embedding(&self, rank: RankShape) -> Result<Table<B>, ModelError> {
        let first = self.plan.tp_rank * rank.vocab_rows;
        if self.has_embedding_in_head() {
            return Ok(Table::Head { first });
        }
        let part = self.part("embedding.weight")?;
        Ok(Table::Own(self.backend.embedding(first, &part).map_err(refused)?))
    }

    /// Whether the head is the embedding, and both are on this rank.
    fn has_embedding_in_head(&self) -> bool {
        self.plan.config.shape.tied_embedding && self.plan.parallel.pp == 1
    }

    fn layer(&self, layer: u32) -> Result<Layer<B>, ModelError> {
        let name = |part: &str| format!("layers.{layer}.{part}");
        let linear = |parts: &[&str]| self.linear(&parts.iter().map(|part| name(part)).collect::<Vec<_>>());
        let norms = 0..self.plan.config.shape.norms_per_layer;
        Ok(Layer {
            norms: norms.map(|norm| self.norm(&name(&format!("norm{norm}")))).collect::<Result<_, _>>()?,
            qkv: linear(&["attention.qkv"])?,
            dense: linear(&["attention.dense"])?,
            up: match self.plan.config.shape.family {
                Family::Falcon => linear(&["mlp.up"])?,
                Family::Llama => linear(&["mlp.gate", "mlp.up"])?,
            },
            down: linear(&["mlp.down"])?,
        })
    }

    fn norm(&self, name: &str) -> Result<B::Norm, ModelError> {
        let vector = |part: &str| Ok::<_, ModelError>(self.part(&format!("{name}.{part}"))?.widen());
        let config = &self.plan.config;
        let has_bias = config.shape.family.norm_vectors() == 2;
        let (weight, bias) = (vector("weight")?, has_bias.then(|| vector("bias")).transpose()?);
        self.backend.norm(&weight, bias.as_deref(), config.norm_epsilon).map_err(refused)
    }

    fn head(&self) -> Result<Head<B>, ModelError> {
        let name = if self.has_embedding_in_head() { "embedding" } else { "lm_head" };
        Ok(Head { norm: self.norm("final_norm")?, projection: self.linear(&[name.to_owned()])? })
    }
}
