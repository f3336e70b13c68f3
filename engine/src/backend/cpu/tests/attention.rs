//! Attention over pages against plain softmax in f64, and that a row's bits do not depend on what it is computed with.

use proptest::prelude::*;

use super::super::{AttentionShape, Cpu, Dtype, KvCache, Span};
use super::{DTYPES, all, noise, rounded};

/// A sequence: tokens that a batch adds, after some that are in the cache already.
#[derive(Debug, Clone, Copy)]
struct Seq {
    context: usize,
    tokens: usize,
}

/// Everything that one call is made with.
struct Case {
    shape: AttentionShape,
    dtype: Dtype,
    block_size: usize,
    seqs: Vec<Seq>,
    /// Of each sequence, far from one another and not in order.
    tables: Vec<Vec<u32>>,
    /// Of each sequence: `[context + tokens, (query_heads + 2 kv_heads) head_dim]`.
    texts: Vec<Vec<f32>>,
}

impl Case {
    fn new(shape: AttentionShape, dtype: Dtype, block_size: usize, seqs: Vec<Seq>) -> Self {
        let width = (shape.query_heads + 2 * shape.kv_heads) * shape.head_dim;
        let blocks = |seq: &Seq| (seq.context + seq.tokens).div_ceil(block_size) as u32;
        let most = seqs.iter().map(blocks).max().unwrap();
        let count = seqs.len() as u32;
        let table = |seq| (0..most).rev().map(|block| block * count + seq).collect();
        let text = |(number, seq): (u32, &Seq)| {
            noise(number, (seq.context + seq.tokens) * width).iter().map(|x| 2.0 * x).collect()
        };
        let texts = (1..).zip(&seqs).map(text).collect();
        Self { shape, dtype, block_size, tables: (0..count).map(table).collect(), texts, seqs }
    }

    fn width(&self) -> usize {
        (self.shape.query_heads + 2 * self.shape.kv_heads) * self.shape.head_dim
    }

    fn cache(&self) -> KvCache {
        let blocks = self.tables.iter().map(Vec::len).sum();
        KvCache::new(&self.shape, 2, blocks, self.block_size, self.dtype)
    }

    /// Stores and attends for `tokens` of each sequence from its `start` on, in one batch.
    fn step(&self, cpu: &Cpu, cache: &mut KvCache, parts: &[Seq]) -> Vec<f32> {
        let (mut qkv, mut spans) = (Vec::new(), Vec::new());
        for ((part, text), table) in parts.iter().zip(&self.texts).zip(&self.tables) {
            let first_row = qkv.len() / self.width();
            spans.push(Span { first_row, tokens: part.tokens, context: part.context, table });
            qkv.extend_from_slice(&text[part.context * self.width()..][..part.tokens * self.width()]);
        }
        let row = self.shape.query_heads * self.shape.head_dim;
        let mut out = vec![f32::NAN; qkv.len() / self.width() * row];
        cpu.store_kv(cache, 1, &self.shape, &qkv, &spans);
        cpu.attend(cache, 1, &self.shape, &qkv, &spans, &mut out);
        out
    }

    /// The batch, after what is in the cache.
    fn run(&self, cpu: &Cpu) -> Vec<f32> {
        let mut cache = self.cache();
        let contexts: Vec<Seq> =
            self.seqs.iter().map(|seq| Seq { context: 0, tokens: seq.context }).collect();
        self.step(cpu, &mut cache, &contexts);
        self.step(cpu, &mut cache, &self.seqs)
    }

    fn plain(&self) -> Vec<f64> {
        let AttentionShape { query_heads, kv_heads, head_dim, scale } = self.shape;
        let mut out = Vec::new();
        for (seq, text) in self.seqs.iter().zip(&self.texts) {
            let rows: Vec<&[f32]> = text.chunks_exact(self.width()).collect();
            for token in seq.context..seq.context + seq.tokens {
                for head in 0..query_heads {
                    let query = &rows[token][head * head_dim..][..head_dim];
                    let kv_head = head / (query_heads / kv_heads);
                    let kv = |part: usize, key: usize, i: usize| {
                        let first = (query_heads + part * kv_heads + kv_head) * head_dim;
                        f64::from(rounded(self.dtype, rows[key][first + i]))
                    };
                    let score = |key: usize| -> f64 {
                        let products = query.iter().enumerate().map(|(i, q)| f64::from(*q) * kv(0, key, i));
                        f64::from(scale) * products.sum::<f64>()
                    };
                    let scores: Vec<f64> = (0..=token).map(score).collect();
                    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let shares: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
                    let sum: f64 = shares.iter().sum();
                    let value =
                        |i| shares.iter().enumerate().map(|(key, share)| share / sum * kv(1, key, i)).sum();
                    out.extend((0..head_dim).map(value).collect::<Vec<f64>>());
                }
            }
        }
        out
    }
}

fn check(case: &Case, threads: usize) {
    let expected = case.plain();
    for (isa, cpu) in all(threads) {
        let found = case.run(&cpu);
        for (found, expected) in found.iter().zip(&expected) {
            let error = (f64::from(*found) - expected).abs();
            assert!(error < 1e-5, "{isa:?} {:?} {:?}: {found} for {expected}", case.shape, case.seqs);
        }
    }
}

fn shape(kv_heads: usize, heads_each: usize, head_dim: usize) -> AttentionShape {
    let scale = 1.0 / (head_dim as f32).sqrt();
    AttentionShape { query_heads: kv_heads * heads_each, kv_heads, head_dim, scale }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn attention_is_plain_softmax(
        dtype in prop::sample::select(DTYPES.to_vec()),
        threads in 1..4_usize,
        heads in (1..4_usize, prop::sample::select(vec![1_usize, 2, 3, 5, 13, 29])),
        head_dim in prop::sample::select(vec![2_usize, 6, 16, 20, 32, 48, 64]),
        block_size in prop::sample::select(vec![1_usize, 4, 16, 24, 32]),
        seqs in prop::collection::vec((0..70_usize, 1..20_usize), 1..5),
    ) {
        let seqs = seqs.into_iter().map(|(context, tokens)| Seq { context, tokens }).collect();
        check(&Case::new(shape(heads.0, heads.1, head_dim), dtype, block_size, seqs), threads);
    }
}

#[test]
fn long_contexts_and_large_heads_are_plain_softmax() {
    let seqs = vec![Seq { context: 300, tokens: 1 }, Seq { context: 0, tokens: 150 }];
    check(&Case::new(shape(2, 3, 128), Dtype::F32, 16, seqs.clone()), 2);
    check(&Case::new(shape(1, 2, 256), Dtype::Bf16, 32, seqs), 2);
}

/// A prompt at once, in chunks, and token by token beside another sequence: the same bits.
#[test]
fn a_row_does_not_depend_on_what_it_is_computed_with() {
    for dtype in DTYPES {
        for (heads, block_size) in [(shape(2, 3, 64), 16), (shape(1, 1, 20), 4), (shape(1, 29, 6), 16)] {
            let seqs = vec![Seq { context: 0, tokens: 100 }, Seq { context: 0, tokens: 100 }];
            let case = Case::new(heads, dtype, block_size, seqs);
            let row = heads.query_heads * heads.head_dim;
            for (isa, cpu) in all(2) {
                let expected = case.run(&cpu);
                for chunk in [1, 7, 33] {
                    let mut cache = case.cache();
                    for context in (0..100).step_by(chunk) {
                        let tokens = chunk.min(100 - context);
                        // The other sequence lags behind.
                        let other = Seq { context: context / 2, tokens: 1 };
                        let found = case.step(&cpu, &mut cache, &[Seq { context, tokens }, other]);
                        let expected = &expected[context * row..][..tokens * row];
                        assert_eq!(&found[..tokens * row], expected, "{isa:?} {dtype:?} chunks of {chunk}");
                    }
                }
            }
        }
    }
}
