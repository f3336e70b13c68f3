//! Single operations: those of a layer on one rank, and the collectives of a stage. For people, who want to know where a stage's time goes.

use std::collections::BTreeMap;

use super::ProfileError;
use super::design::{self, Point};
use super::fit::digits;
use super::median::median;
use crate::model::LayerTimes;
use crate::runtime::{ExchangeKind, Loss, ProbePlan, RuntimeExecutor};
use crate::shape::ModelShape;
use crate::shard::{Division, Parallel};
use crate::sim::curve::Curve;
use crate::sim::measured::{Attention, Elementwise, Operations, Product};

/// Rows of products and elementwise operations, and tokens of collectives.
const ROWS: [u32; 4] = [1, 8, 64, 512];
/// Attention beside that of prompts of so many rows: sequences, tokens of each, context. All fit the cache, each in blocks of its own.
const ATTENDED: [[u32; 3]; 6] =
    [[1, 256, 1024], [1, 1, 512], [1, 1, 1536], [4, 1, 960], [16, 1, 224], [64, 1, 48]];
/// Collectives of one kind and size.
const COLLECTIVES: u32 = 30;

/// One of a layer's times.
type TimeOf = fn(&LayerTimes) -> u64;

/// What goes value by value, and where its time stands.
const ELEMENTWISE: [(&str, TimeOf); 3] = [
    ("norm", |times| times.norm_ns),
    ("rotary and store", |times| times.rotary_ns),
    ("activation", |times| times.activation_ns),
];

/// Operations of a layer and the head's product, and collectives.
pub(super) fn measure(
    executor: &mut RuntimeExecutor,
    shape: &ModelShape,
    parallel: Parallel,
    tokens_max: u32,
) -> Result<Operations, ProfileError> {
    let mut collectives = |kind, width| collectives(executor, kind, width, parallel, tokens_max);
    let all_reduces_us = collectives(ExchangeKind::AllReduce, shape.hidden_size)?;
    let all_gathers_us =
        collectives(ExchangeKind::AllGather, Division::new(shape, parallel)?.rank.vocab_rows)?;
    let prompts = ROWS.iter().map(|rows| [1, *rows, 0]);
    let batches =
        prompts.chain(ATTENDED).filter(|[sequences, tokens, _]| sequences * tokens <= tokens_max.max(1));
    let (mut products, mut attention) = (BTreeMap::<(u32, u32), Curve>::new(), Vec::new());
    let mut elementwise =
        ELEMENTWISE.map(|(name, _)| Elementwise { name: name.to_owned(), rows_us: Curve::default() });
    for [sequences, tokens, context] in batches {
        let plan = ProbePlan { first_block: 0, vocabulary: shape.vocab_size, times: 1, depth: 1 };
        let times = executor.time_layers(&batch(sequences, tokens, context), &plan)?;
        let us = middle(times.iter().map(|times| times.attention_ns));
        attention.push(Attention { sequences, tokens, context, us });
        if context == 0 {
            for (size, us) in products_us(&times, shape, parallel)? {
                products.entry(size).or_default().0.push([f64::from(tokens), us]);
            }
            for (operation, (_, ns)) in elementwise.iter_mut().zip(ELEMENTWISE) {
                operation.rows_us.0.push([f64::from(tokens), middle(times.iter().map(ns))]);
            }
        }
    }
    let products = products.into_iter().map(|((k, n), rows_us)| Product { k, n, rows_us }).collect();
    Ok(Operations { products, attention, elementwise: elementwise.into(), all_reduces_us, all_gathers_us })
}

fn batch(sequences: u32, tokens: u32, context: u32) -> Point {
    vec![design::chunk(context, tokens); sequences as usize]
}

/// Inputs and outputs of each product of a rank, each size once, and its microseconds.
fn products_us(
    times: &[LayerTimes],
    shape: &ModelShape,
    parallel: Parallel,
) -> Result<BTreeMap<(u32, u32), f64>, ProfileError> {
    let rank = Division::new(shape, parallel)?.rank;
    let (hidden, heads) = (shape.hidden_size, rank.query_heads * shape.head_dim);
    let qkv = heads + 2 * rank.kv_heads * shape.head_dim;
    let mut ns = BTreeMap::<(u32, u32), Vec<u64>>::new();
    for times in times {
        for (size, own) in [
            ((hidden, qkv), times.qkv_ns),
            ((heads, hidden), times.dense_ns),
            ((hidden, rank.ffn_size * shape.family.ffn_inputs()), times.up_ns),
            ((rank.ffn_size, hidden), times.down_ns),
            ((hidden, rank.vocab_rows), times.head_ns),
        ] {
            ns.entry(size).or_default().push(own);
        }
    }
    Ok(ns.into_iter().map(|(size, ns)| (size, middle(ns.into_iter()))).collect())
}

/// The median in microseconds.
fn middle(ns: impl Iterator<Item = u64>) -> f64 {
    digits(median(&ns.map(|ns| ns as f64 / 1e3).collect::<Vec<_>>()))
}

/// By stage, exchanges of `width` values for each of so many tokens: hidden states are summed, logits gathered.
fn collectives(
    executor: &mut RuntimeExecutor,
    kind: ExchangeKind,
    width: u32,
    parallel: Parallel,
    tokens_max: u32,
) -> Result<Vec<Curve>, Loss> {
    if parallel.tp == 1 {
        return Ok(Vec::new());
    }
    let mut curves = vec![Curve::default(); parallel.pp as usize];
    for rows in ROWS.into_iter().filter(|rows| *rows <= tokens_max.max(1)) {
        let values = rows * width;
        let stages = executor.exchange_in_stages(kind, values, COLLECTIVES)?;
        for (curve, times) in curves.iter_mut().zip(stages) {
            curve.0.push([f64::from(values), middle(times.into_iter())]);
        }
    }
    Ok(curves)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_fit_the_cache_and_its_longest_sequence() {
        for [sequences, tokens, context] in ATTENDED {
            let parts = batch(sequences, tokens, context);
            assert!(crate::runtime::probe_blocks(&parts, super::super::BLOCK_SIZE) <= super::super::BLOCKS);
            assert!(tokens + context <= design::longest(), "{tokens} @ {context}");
        }
    }

    #[test]
    fn products_of_one_size_are_one() {
        let shape = "name: small\nfamily: llama\nhidden_size: 64\nlayers: 2\nquery_heads: 4\nkv_heads: 2\nhead_dim: 16\nffn_size: 96\n\
                     vocab_size: 256\nparallel_attention: false\nnorms_per_layer: 2\ntied_embedding: false\n";
        let mut shape = ModelShape::parse(shape, "").unwrap();
        let layer = |dense_ns, head_ns| LayerTimes {
            norm_ns: 10,
            rotary_ns: 20,
            activation_ns: 30,
            qkv_ns: 1_000,
            attention_ns: 2_000,
            dense_ns,
            up_ns: 3_000,
            down_ns: 4_000,
            head_ns,
        };
        let times = [layer(5_000, 6_000), layer(7_000, 8_000), layer(9_000, 60_000)];
        let found = products_us(&times, &shape, Parallel { tp: 1, pp: 1 }).unwrap();
        let expected =
            [((64, 64), 7.0), ((64, 128), 1.0), ((64, 192), 3.0), ((64, 256), 8.0), ((96, 64), 4.0)];
        assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
        let found = products_us(&times, &shape, Parallel { tp: 2, pp: 1 }).unwrap();
        let sizes: Vec<(u32, u32)> = found.into_keys().collect();
        assert_eq!(sizes, [(32, 64), (48, 64), (64, 64), (64, 96), (64, 128)]);
        // A head as large as gate and up: 3, 3, 3, 6, 8 and 60 us.
        shape.vocab_size = 192;
        let found = products_us(&times, &shape, Parallel { tp: 1, pp: 1 }).unwrap();
        assert_eq!((found.len(), found[&(64, 192)]), (4, 4.5));
    }
}
