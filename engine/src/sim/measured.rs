//! What stages took where they were measured: tables by layout, written by `chariot-engine profile`. Pure data and look-ups.
//!
//! A stage's time is a sum of four terms, all of them of the whole stage:
//! `rows(tokens) + chunks * chunk + sum over chunks of pairs * pair(chunk's tokens) + sampled(tokens drawn)`,
//! where a chunk of q tokens after a context of c has `q c + q (q + 1) / 2` query-key pairs: a decode is a chunk of one token.

use serde::{Deserialize, Serialize};

use super::curve::Curve;
use super::platform::CpuCosts;
use super::spread::Spread;
use crate::sched::batch::Batch;
use crate::shape::ModelShape;
use crate::shard::{Dtype, Parallel};

/// Seconds in a microsecond.
const US: f64 = 1e-6;

/// Layouts of models that were measured on a platform.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Type of the weights.
    pub dtype: Dtype,
    /// One for each model and way to divide it.
    pub layouts: Vec<Layout>,
}

/// A model divided one way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// The model.
    pub model: ModelShape,
    /// How it was divided.
    pub parallel: Parallel,
    /// What a batch costs beside its stages.
    pub cpu: CpuCosts,
    /// First stage first.
    pub stages: Vec<StageTable>,
    /// From each stage to the next: microseconds by tokens, until the next one has them.
    pub sends_us: Vec<Curve>,
    /// How a stage's times lie about their median. Nothing: always at it.
    #[serde(default, skip_serializing_if = "Spread::is_empty")]
    pub spread: Spread,
    /// How well the tables give the points back that they were made of.
    pub fit: Fit,
    /// Times of single operations, for people; a simulation does not read them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<Operations>,
}

/// What one stage takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageTable {
    /// Microseconds by tokens of the batch, without attention.
    pub rows_us: Curve,
    /// Microseconds of each chunk.
    pub chunk_us: f64,
    /// Microseconds of a query-key pair by tokens of the chunk.
    pub pair_us: Curve,
    /// Microseconds by tokens drawn; none but in the last stage.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub sampled_us: Curve,
    /// Factor of all that by tokens of the batch while every stage is busy; 1 where there is one stage.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub slowdown: Curve,
}

/// Relative errors of a fit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fit {
    /// Batches that were measured.
    pub points: u32,
    /// How often each was, at least.
    pub rounds: u32,
    /// Share of these times at which other processes used much of the machine.
    pub disturbed: f64,
    /// By rank, what a check of its core took in the median, microseconds; none on GPUs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub core_check_us: Vec<f64>,
    /// Median of |predicted / measured - 1| over points and stages.
    pub error_median: f64,
    /// The largest.
    pub error_max: f64,
}

/// Times of single operations.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operations {
    /// Matrix products of one rank while the others rest, each with the weights of one layer after the other.
    pub products: Vec<Product>,
    /// Attention of that rank in one layer. None: not measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attention: Vec<Attention>,
    /// What goes value by value, of that rank. None: not measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elementwise: Vec<Elementwise>,
    /// An all-reduce among the ranks of a stage, by stage: microseconds by values. None of a rank alone.
    pub all_reduces_us: Vec<Curve>,
    /// The same of an all-gather, by values of a rank. None of a rank alone, or: not measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub all_gathers_us: Vec<Curve>,
}

/// `y[m, n] = x[m, k] w[n, k]^T`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Product {
    /// Inputs.
    pub k: u32,
    /// Outputs.
    pub n: u32,
    /// Microseconds by m.
    pub rows_us: Curve,
}

/// An operation of a layer beside its products and attention.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Elementwise {
    /// Which.
    pub name: String,
    /// Microseconds by tokens.
    pub rows_us: Curve,
}

/// Attention of one batch in one layer, its keys and values stored.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attention {
    /// Sequences alike.
    pub sequences: u32,
    /// New tokens of each: 1 in a decode.
    pub tokens: u32,
    /// Tokens of each before them.
    pub context: u32,
    /// Microseconds.
    pub us: f64,
}

fn is_empty(curve: &Curve) -> bool {
    curve.0.is_empty()
}

impl Measured {
    /// The layout of a model, if it was measured.
    pub fn layout(&self, shape: &ModelShape, parallel: Parallel) -> Option<&Layout> {
        self.layouts.iter().find(|layout| layout.model == *shape && layout.parallel == parallel)
    }

    /// What was measured, in words.
    pub(super) fn known(&self) -> String {
        let name = |Layout { model, parallel, .. }: &Layout| {
            format!("{} at tp{} x pp{}", model.name, parallel.tp, parallel.pp)
        };
        self.layouts.iter().map(name).collect::<Vec<_>>().join(", ")
    }

    /// The path of what is wrong, and what it should be.
    pub(super) fn check(&self) -> Result<(), (String, &'static str)> {
        self.layouts.iter().enumerate().try_for_each(|(index, layout)| {
            layout.check().map_err(|(field, expected)| (format!("layouts[{index}].{field}"), expected))
        })
    }
}

impl Layout {
    fn check(&self) -> Result<(), (String, &'static str)> {
        let pp = self.parallel.pp as usize;
        if pp == 0 || self.stages.len() != pp {
            return Err(("stages".to_owned(), "one for each stage of the layout"));
        }
        if self.sends_us.len() + 1 != pp {
            return Err(("sends_us".to_owned(), "one from each stage to the next"));
        }
        let named = |name: String| move |expected| (name, expected);
        self.spread.check().map_err(|(field, expected)| (format!("spread{field}"), expected))?;
        for (stage, sent) in self.sends_us.iter().enumerate() {
            sent.check().map_err(named(format!("sends_us[{stage}]")))?;
        }
        self.stages.iter().enumerate().try_for_each(|(stage, table)| {
            table.check().map_err(|(field, expected)| (format!("stages[{stage}].{field}"), expected))
        })
    }
}

impl StageTable {
    fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if self.rows_us.0.is_empty() {
            return Err(("rows_us", "at least one point"));
        }
        if !(self.chunk_us.is_finite() && self.chunk_us >= 0.0) {
            return Err(("chunk_us", "a time of 0 or more"));
        }
        let curves = [
            ("rows_us", &self.rows_us),
            ("pair_us", &self.pair_us),
            ("sampled_us", &self.sampled_us),
            ("slowdown", &self.slowdown),
        ];
        let wrong = |name: &'static str| move |expected| (name, expected);
        curves.into_iter().try_for_each(|(name, curve)| curve.check().map_err(wrong(name)))?;
        match self.slowdown.0.iter().all(|[_, factor]| *factor >= 1.0) {
            true => Ok(()),
            false => Err(("slowdown", "factors of at least 1")),
        }
    }

    /// The stage's time while no other stage is busy. O(chunks).
    pub fn seconds(&self, batch: &Batch) -> f64 {
        let (mut tokens, mut sampled, mut decode_pairs, mut attention_us) = (0_u32, 0_u32, 0_u64, 0.0);
        for chunk in &batch.chunks {
            tokens += chunk.tokens;
            sampled += u32::from(chunk.emits_token);
            match chunk.tokens {
                1 => decode_pairs += u64::from(chunk.context) + 1,
                q => attention_us += pairs(chunk.context, q) as f64 * self.pair_us.held_at(f64::from(q)),
            }
        }
        attention_us += decode_pairs as f64 * self.pair_us.held_at(1.0);
        let head_us = if sampled > 0 { self.sampled_us.at(f64::from(sampled)) } else { 0.0 };
        let chunks_us = batch.chunks.len() as f64 * self.chunk_us;
        (self.rows_us.at(f64::from(tokens)) + chunks_us + attention_us + head_us) * US
    }

    /// Factor of a batch's time while all stages are busy.
    pub(super) fn slowdown(&self, tokens: u32) -> f64 {
        if self.slowdown.0.is_empty() { 1.0 } else { self.slowdown.held_at(f64::from(tokens)) }
    }
}

/// Query-key pairs of a chunk of `tokens` after `context`.
pub fn pairs(context: u32, tokens: u32) -> u64 {
    let (context, tokens) = (u64::from(context), u64::from(tokens));
    tokens * context + tokens * (tokens + 1) / 2
}

#[cfg(test)]
mod tests;
