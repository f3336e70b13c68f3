//! Rotation, the paged cache and attention: prompts, chunks after a context, and runs of decodes, with shuffled blocks. Knows two
//! backends by their trait alone.

use super::bed::Bed;
use super::operations::Run;
use super::sample::{EPSILON, Sample, largest, made_up, narrowing, sums};
use crate::backend::{AttentionShape, Backend, Span};

/// Sizes of keys, and of queries: large against small, so that scores differ and roundings of keys hardly show.
const KEY_SCALE: f32 = 0.25;
const QUERY_SCALE: f32 = 2.0;
/// Of rotary angles.
const THETA: f64 = 1e4;

/// Operations by name. The long context is enough for two blocks of threads to share it.
pub(super) fn cases<B: Backend>() -> [(&'static str, Run<B>); 4] {
    [
        ("attend, a head a KV head", |bed| {
            Story { heads: [2, 2, 64], block_size: 4, prompts: true, first: &[5, 13, 2], then: &[1, 1, 3] }
                .run(bed)
        }),
        ("attend, 8 heads a KV head", |bed| {
            Story { heads: [8, 1, 128], block_size: 4, prompts: false, first: &[2, 9], then: &[2, 1] }
                .run(bed)
        }),
        ("attend, 71 heads a KV head", |bed| {
            Story { heads: [71, 1, 64], block_size: 4, prompts: false, first: &[3, 1], then: &[1, 2] }
                .run(bed)
        }),
        ("attend, a long context", |bed| {
            Story { heads: [2, 1, 64], block_size: 16, prompts: false, first: &[69], then: &[1] }.run(bed)
        }),
    ]
}

/// Sequences that come with some tokens each, and then go on with others.
struct Story {
    /// Query heads, KV heads, values of a head.
    heads: [usize; 3],
    block_size: usize,
    /// Whether the first step attends, too, and does not only store.
    prompts: bool,
    /// Tokens of each sequence in the first step.
    first: &'static [usize],
    /// In the second.
    then: &'static [usize],
}

/// One step of a story: its spans, of the cache's layer.
struct Step<'a> {
    name: &'static str,
    spans: &'a [Span<'a>],
    attends: bool,
}

impl Story {
    fn shape(&self) -> AttentionShape {
        let [query_heads, kv_heads, head_dim] = self.heads;
        AttentionShape { query_heads, kv_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt() }
    }

    /// Blocks of each sequence: all sequences' are mixed, in descending order.
    fn tables(&self) -> Vec<Vec<u32>> {
        let lengths = self.first.iter().zip(self.then).map(|(first, then)| first + then);
        let each = lengths.max().unwrap_or(0).div_ceil(self.block_size);
        let count = self.first.len();
        let block = |sequence: usize, place: usize| (count * each - 1 - (place * count + sequence)) as u32;
        (0..count).map(|sequence| (0..each).map(|place| block(sequence, place)).collect()).collect()
    }

    fn run<B: Backend>(&self, bed: &mut Bed<'_, B>) -> Result<Vec<Sample>, B::Error> {
        let tables = self.tables();
        let blocks = tables.iter().map(Vec::len).sum();
        let shape = self.shape();
        let mut kv = bed.backend.kv_cache(&shape, 2, blocks, self.block_size, bed.dtype, 0)?;
        let longest = blocks * self.block_size;
        let rotary = bed.backend.rotary(THETA, shape.head_dim, longest)?;
        let mut samples = Vec::new();
        let none = vec![0; self.first.len()];
        for (name, contexts, tokens) in
            [("prompts", &none[..], self.first), ("chunks and decodes", self.first, self.then)]
        {
            let spans = spans(contexts, tokens, &tables);
            let step = Step { name, spans: &spans, attends: self.prompts || contexts != none };
            self.step(bed, &mut kv, &rotary, &step, &mut samples)?;
        }
        Ok(samples)
    }

    fn step<B: Backend>(
        &self,
        bed: &mut Bed<'_, B>,
        kv: &mut B::KvCache,
        rotary: &B::Rotary,
        step: &Step<'_>,
        samples: &mut Vec<Sample>,
    ) -> Result<(), B::Error> {
        const LAYER: usize = 1;
        let shape = self.shape();
        let rows = step.spans.iter().map(|span| span.tokens).sum();
        let inputs = self.inputs(rows, step.spans);
        let width = inputs.len() / rows;
        let mut qkv = bed.upload(&inputs, width)?;
        // Attention reads queries that are not rotated, and so of equal bits on both backends.
        let queries = bed.upload(&inputs, width)?;
        let tokens = vec![0; rows];
        let batch = bed.backend.begin(step.spans, &tokens)?;
        bed.backend.rotate_and_store(rotary, kv, LAYER, &shape, &batch, &mut qkv)?;
        let [query_heads, kv_heads, head_dim] = self.heads;
        let told = format!("{}: {rows} tokens, {query_heads} / {kv_heads} heads of {head_dim}", step.name);
        let values = bed.download(&qkv, rows, width)?;
        let allowed = (8.0 * EPSILON + narrowing(bed.dtype)) * largest(&values);
        samples.push(Sample { operation: "rotate_and_store", shape: told.clone(), values, allowed });
        if step.attends {
            let mut out = bed.backend.tensor();
            bed.backend.attend(kv, LAYER, &shape, &batch, &queries, &mut out)?;
            let values = bed.download(&out, rows, query_heads * head_dim)?;
            let allowed = self.allowed(narrowing(bed.dtype), step.spans);
            samples.push(Sample { operation: "attend", shape: told, values, allowed });
        }
        Ok(())
    }

    /// `qkv[rows, (query_heads + 2 kv_heads) head_dim]`: values up to 1.
    fn inputs(&self, rows: usize, spans: &[Span<'_>]) -> Vec<f32> {
        let [query_heads, kv_heads, head_dim] = self.heads;
        let [queries, keys] = [query_heads, kv_heads].map(|heads| heads * head_dim);
        let seed = 20 + spans.first().map_or(0, |span| span.context as u64);
        let mut values = made_up(seed, rows * (queries + 2 * keys), 1.0);
        for row in values.chunks_exact_mut(queries + 2 * keys) {
            row[..queries].iter_mut().for_each(|value| *value *= QUERY_SCALE);
            row[queries..queries + keys].iter_mut().for_each(|value| *value *= KEY_SCALE);
        }
        values
    }

    /// Of values up to 1. A score is off by the rounding of its sum, and by that of its rotated key, which may go to the other
    /// neighbour; a share by twice as much, relative, and by that of the sum of shares. Shares and results are rounded to
    /// the type, and so may be two parts of the result.
    fn allowed(&self, narrowing: f32, spans: &[Span<'_>]) -> f32 {
        let shape = self.shape();
        let keys = spans.iter().map(|span| span.context + span.tokens).max().unwrap_or(0);
        // Norms of made-up rows: a mean square of a third of the largest; with 1.3 to be above all of them.
        let norms = 1.3 * shape.head_dim as f32 / 3.0 * QUERY_SCALE * KEY_SCALE;
        let score = shape.scale * norms;
        let off = sums(shape.head_dim + 8, score) + 2.0 * narrowing * score;
        2.0 * off + sums(keys + 8, 1.0) + 4.0 * narrowing
    }
}

/// Spans of those sequences that have tokens.
fn spans<'a>(contexts: &[usize], tokens: &[usize], tables: &'a [Vec<u32>]) -> Vec<Span<'a>> {
    let mut row = 0;
    let all = contexts.iter().zip(tokens).zip(tables);
    let some = all.filter(|((_, tokens), _)| **tokens > 0);
    some.map(|((&context, &tokens), table)| {
        row += tokens;
        Span { first_row: row - tokens, tokens, context, table }
    })
    .collect()
}
