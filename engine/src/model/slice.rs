//! Which rows and columns of the whole model's tensors a rank holds. Pure arithmetic; knows no file.
//!
//! A whole tensor has all rows in the rank's own order: `attention.qkv` is all queries, then all keys, then all values.

use std::ops::Range;

use super::{ModelError, StagePlan};
use crate::shape::ModelShape;
use crate::shard::{RankShape, ShardError};

/// A tensor's place in a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    Embedding,
    Head,
    FinalNorm(NormPart),
    Layer(u32, LayerSlot),
}

/// A tensor's place in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LayerSlot {
    Norm(u32, NormPart),
    Qkv,
    Dense,
    Gate,
    Up,
    Down,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NormPart {
    Weight,
    Bias,
}

impl Slot {
    /// From a name of [`crate::shard::Division::tensors`].
    pub(super) fn parse(name: &str) -> Result<Self, ModelError> {
        let unknown = || ModelError::UnknownTensor(name.to_owned());
        Self::parse_known(name).ok_or_else(unknown)
    }

    fn parse_known(name: &str) -> Option<Self> {
        match name {
            "embedding.weight" => return Some(Self::Embedding),
            "lm_head.weight" => return Some(Self::Head),
            _ => {}
        }
        if let Some(part) = name.strip_prefix("final_norm.") {
            return Some(Self::FinalNorm(NormPart::parse(part)?));
        }
        let (layer, rest) = name.strip_prefix("layers.")?.split_once('.')?;
        Some(Self::Layer(layer.parse().ok()?, LayerSlot::parse(rest)?))
    }
}

impl LayerSlot {
    fn parse(name: &str) -> Option<Self> {
        if let Some((norm, part)) = name.strip_prefix("norm").and_then(|rest| rest.split_once('.')) {
            return Some(Self::Norm(norm.parse().ok()?, NormPart::parse(part)?));
        }
        match name.strip_suffix(".weight")? {
            "attention.qkv" => Some(Self::Qkv),
            "attention.dense" => Some(Self::Dense),
            "mlp.gate" => Some(Self::Gate),
            "mlp.up" => Some(Self::Up),
            "mlp.down" => Some(Self::Down),
            _ => None,
        }
    }
}

impl NormPart {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "weight" => Some(Self::Weight),
            "bias" => Some(Self::Bias),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::Bias => "bias",
        }
    }
}

/// A rank's part of a whole tensor; a vector is one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slice {
    /// Ranges of rows, in the order in which the rank holds them.
    pub(super) rows: Vec<Range<u64>>,
    pub(super) columns: Range<u64>,
    /// Rows of zeros after them.
    pub(super) padding: u64,
}

/// All of a vector.
const ONE_ROW: Range<u64> = 0..1;

/// Cuts tensors for one rank.
#[derive(Debug, Clone)]
pub(super) struct Slicer {
    pub(super) shape: ModelShape,
    rank: RankShape,
    tp: u32,
    tp_rank: u32,
}

impl Slicer {
    pub(super) fn new(plan: &StagePlan) -> Result<Self, ShardError> {
        let rank = plan.division()?.rank;
        let shape = plan.config.shape.clone();
        Ok(Self { shape, rank, tp: plan.parallel.tp, tp_rank: plan.tp_rank })
    }

    pub(super) fn slice(&self, slot: Slot) -> Slice {
        let hidden = 0..u64::from(self.shape.hidden_size);
        match slot {
            Slot::Embedding | Slot::Head => self.vocabulary(hidden),
            Slot::FinalNorm(_) | Slot::Layer(_, LayerSlot::Norm(..)) => whole(vec![ONE_ROW], hidden),
            Slot::Layer(_, LayerSlot::Qkv) => whole(self.qkv(), hidden),
            Slot::Layer(_, LayerSlot::Dense) => {
                whole(vec![hidden], self.nth_share(u64::from(self.rank.query_heads) * self.head_dim()))
            }
            Slot::Layer(_, LayerSlot::Gate | LayerSlot::Up) => {
                whole(vec![self.nth_share(self.rank.ffn_size.into())], hidden)
            }
            Slot::Layer(_, LayerSlot::Down) => whole(vec![hidden], self.nth_share(self.rank.ffn_size.into())),
        }
    }

    pub(super) fn head_dim(&self) -> u64 {
        self.shape.head_dim.into()
    }

    /// The rank's rows of the embedding: those past the vocabulary are zeros.
    fn vocabulary(&self, hidden: Range<u64>) -> Slice {
        let vocab = u64::from(self.shape.vocab_size);
        let rows = self.nth_share(self.rank.vocab_rows.into());
        let held = rows.start.min(vocab)..rows.end.min(vocab);
        let padding = (rows.end - rows.start) - (held.end - held.start);
        Slice { rows: vec![held], columns: hidden, padding }
    }

    /// This rank's queries, keys and values. Where there are fewer KV heads than ranks, consecutive ranks share one.
    fn qkv(&self) -> Vec<Range<u64>> {
        let (shape, dim) = (&self.shape, self.head_dim());
        let heads = |before: u32, first: u32, count: u32| {
            let start = (u64::from(before) + u64::from(first)) * dim;
            start..start + u64::from(count) * dim
        };
        let RankShape { query_heads, kv_heads, .. } = self.rank;
        let first_kv = (u64::from(self.tp_rank) * u64::from(shape.kv_heads) / u64::from(self.tp)) as u32;
        vec![
            heads(0, self.tp_rank * query_heads, query_heads),
            heads(shape.query_heads, first_kv, kv_heads),
            heads(shape.query_heads + shape.kv_heads, first_kv, kv_heads),
        ]
    }

    fn nth_share(&self, length: u64) -> Range<u64> {
        let start = u64::from(self.tp_rank) * length;
        start..start + length
    }
}

fn whole(rows: Vec<Range<u64>>, columns: Range<u64>) -> Slice {
    Slice { rows, columns, padding: 0 }
}
