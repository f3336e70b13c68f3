//! Time of one stage from the kernels its layers run. Knows nothing of other stages, the CPU or clocks.

use crate::sched::batch::Batch;
use crate::shape::{F16_BYTES, ModelShape};
use crate::shard::Division;

use super::coefficient::Band;
use super::platform::{Kernels, Ring};

/// Batches up to this many tokens find their token-wise cost in a table.
const TABLE_TOKENS: usize = 1 << 15;

/// A batch reduced to what the formulas need.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Work {
    /// Chunks: one per sequence.
    pub(super) sequences: u32,
    /// Prompt chunks.
    pub(super) prefill_chunks: u32,
    /// Prompt tokens.
    pub(super) prefill_tokens: u32,
    /// Decode tokens.
    pub(super) decode_tokens: u32,
    /// KV entries that decodes read: their contexts and themselves.
    pub(super) decode_reads: u64,
    /// Sum over prompt chunks of q (ctx + q/2), doubled to stay an integer: query-key pairs.
    pub(super) prefill_pairs_x2: u64,
}

impl Work {
    /// Sums a batch's chunks.
    pub(super) fn of(batch: &Batch) -> Self {
        let mut work = Self { sequences: batch.chunks.len() as u32, ..Self::default() };
        for chunk in &batch.chunks {
            let [context, tokens] = [chunk.context, chunk.tokens].map(u64::from);
            if chunk.is_prefill {
                work.prefill_chunks += 1;
                work.prefill_tokens += chunk.tokens;
                work.prefill_pairs_x2 += tokens * (2 * context + tokens);
            } else {
                work.decode_tokens += chunk.tokens;
                work.decode_reads += context + tokens;
            }
        }
        work
    }

    /// All tokens.
    pub(super) fn tokens(&self) -> u32 {
        self.prefill_tokens + self.decode_tokens
    }
}

/// Resolved coefficients of one stage, in seconds, and a table of what depends on the token count alone.
#[derive(Debug, Clone)]
pub(super) struct KernelTimes {
    token_wise: TokenWise,
    layers: f64,
    layer_floor: f64,
    decode_overhead: f64,
    decode_per_read: f64,
    prefill_overhead: f64,
    prefill_per_pair: f64,
    embedding: bool,
    lm_head: Option<LmHead>,
    /// Layer time by token count; NaN: not asked yet.
    table: Vec<f64>,
}

/// What the table is made of does not count: two stages that cost the same are equal.
impl PartialEq for KernelTimes {
    fn eq(&self, other: &Self) -> bool {
        let numbers = |t: &Self| {
            [
                t.layers,
                t.layer_floor,
                t.decode_overhead,
                t.decode_per_read,
                t.prefill_overhead,
                t.prefill_per_pair,
            ]
        };
        numbers(self) == numbers(other)
            && self.token_wise == other.token_wise
            && self.embedding == other.embedding
            && self.lm_head == other.lm_head
    }
}

impl KernelTimes {
    pub(super) fn new(
        kernels: &Kernels,
        ring: &Ring,
        shape: &ModelShape,
        division: &Division,
        stage: u32,
        band: Band,
    ) -> Self {
        let rank = division.rank;
        let head_dim = f64::from(shape.head_dim);
        let kv_bytes = 2.0 * F16_BYTES as f64 * f64::from(rank.kv_heads) * head_dim;
        let flops_per_pair = 4.0 * f64::from(rank.query_heads) * head_dim;
        let (decode, prefill) = (&kernels.attention_decode, &kernels.attention_prefill);
        let token_wise = TokenWise::new(kernels, ring, shape, division, band);
        let last = stage + 1 == division.parallel.pp;
        Self {
            lm_head: last.then(|| LmHead::new(&token_wise, shape, division)),
            token_wise,
            layers: f64::from(division.stage_layers[stage as usize]),
            layer_floor: kernels.launch_floor_ms_per_layer.at(band) * 1e-3,
            decode_overhead: decode.overhead_us.at(band) * 1e-6,
            decode_per_read: kv_bytes / (decode.kv_read_gbps.at(band) * 1e9),
            prefill_overhead: prefill.overhead_us.at(band) * 1e-6,
            prefill_per_pair: flops_per_pair / (prefill.causal_tflops.at(band) * 1e12),
            embedding: stage == 0,
            table: Vec::new(),
        }
    }

    /// Layers, plus the embedding in the first stage and the output projection in the last.
    pub(super) fn seconds(&mut self, work: &Work) -> f64 {
        let layer = self.layer_token_wise(work.tokens()) + self.attention(work);
        let mut seconds = self.layers * layer.max(self.layer_floor);
        if self.embedding {
            seconds += self.token_wise.embedding(f64::from(work.tokens()));
        }
        if let Some(lm_head) = &self.lm_head {
            seconds += lm_head.seconds(f64::from(work.sequences));
        }
        seconds
    }

    fn attention(&self, work: &Work) -> f64 {
        let prefill = f64::from(work.prefill_chunks) * self.prefill_overhead
            + work.prefill_pairs_x2 as f64 * 0.5 * self.prefill_per_pair;
        match work.decode_tokens {
            0 => prefill,
            _ => prefill + self.decode_overhead + work.decode_reads as f64 * self.decode_per_read,
        }
    }

    fn layer_token_wise(&mut self, tokens: u32) -> f64 {
        let index = tokens as usize;
        if index >= TABLE_TOKENS {
            return self.token_wise.layer(f64::from(tokens));
        }
        if index >= self.table.len() {
            self.table.resize(index + 1, f64::NAN);
        }
        if self.table[index].is_nan() {
            self.table[index] = self.token_wise.layer(f64::from(tokens));
        }
        self.table[index]
    }
}

/// Costs of a layer that depend on the number of tokens alone.
#[derive(Debug, Clone, PartialEq)]
struct TokenWise {
    gemm: GemmTimes,
    /// K x N of each product of a layer.
    products: [(f64, f64); 4],
    kernel: f64,
    kernels: f64,
    /// Reading and writing one token's hidden state.
    kernel_per_token: f64,
    all_reduces: f64,
    group: Group,
    hidden_bytes: f64,
}

impl TokenWise {
    fn new(kernels: &Kernels, ring: &Ring, shape: &ModelShape, division: &Division, band: Band) -> Self {
        let rank = division.rank;
        let hidden = f64::from(shape.hidden_size);
        let qkv = f64::from(rank.query_heads + 2 * rank.kv_heads) * f64::from(shape.head_dim);
        let heads = f64::from(rank.query_heads) * f64::from(shape.head_dim);
        let ffn = f64::from(rank.ffn_size);
        let inputs = f64::from(shape.family.ffn_inputs());
        let hidden_bytes = hidden * F16_BYTES as f64;
        Self {
            gemm: GemmTimes {
                fixed: kernels.gemm.t0_us.at(band) * 1e-6,
                flops: kernels.gemm.peak_tflops.at(band) * 1e12,
                bandwidth: kernels.gemm.hbm_gbps.at(band) * 1e9,
            },
            products: [(hidden, qkv), (heads, hidden), (hidden, ffn * inputs), (ffn, hidden)],
            kernel: kernels.elementwise.per_kernel_us.at(band) * 1e-6,
            kernels: f64::from(shape.family.elementwise_kernels()),
            kernel_per_token: 2.0 * hidden_bytes / (kernels.elementwise.gbps.at(band) * 1e9),
            all_reduces: f64::from(shape.all_reduces_per_layer()),
            group: Group {
                ranks: f64::from(division.parallel.tp),
                alpha: ring.alpha_us.at(band) * 1e-6,
                bandwidth: ring.ring_gbps.at(band) * 1e9,
            }
            .alone_costs_nothing(),
            hidden_bytes,
        }
    }

    fn layer(&self, tokens: f64) -> f64 {
        let products: f64 = self.products.iter().map(|&(k, n)| self.gemm.seconds(tokens, k, n)).sum();
        products
            + self.kernels * self.elementwise(tokens)
            + self.all_reduces * self.group.all_reduce(tokens * self.hidden_bytes)
    }

    /// A gather of rows, then the sum over ranks that each hold a part of the vocabulary.
    fn embedding(&self, tokens: f64) -> f64 {
        self.elementwise(tokens) + self.group.all_reduce(tokens * self.hidden_bytes)
    }

    fn elementwise(&self, tokens: f64) -> f64 {
        self.kernel + tokens * self.kernel_per_token
    }
}

/// `t0 + sqrt(compute^2 + memory^2)` of an M x K by K x N product.
#[derive(Debug, Clone, Copy, PartialEq)]
struct GemmTimes {
    fixed: f64,
    flops: f64,
    bandwidth: f64,
}

impl GemmTimes {
    /// Above 64 rows the product works in tiles of 64.
    fn seconds(&self, m: f64, k: f64, n: f64) -> f64 {
        let rows = if m <= 64.0 { m } else { (m / 64.0).ceil() * 64.0 };
        let compute = 2.0 * rows * k * n / self.flops;
        let memory = F16_BYTES as f64 * (k * n + m * k + m * n) / self.bandwidth;
        self.fixed + (compute * compute + memory * memory).sqrt()
    }
}

/// Collectives of a TP group.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Group {
    ranks: f64,
    alpha: f64,
    bandwidth: f64,
}

impl Group {
    /// A group of one never communicates, so no link coefficient can touch it.
    fn alone_costs_nothing(self) -> Self {
        if self.ranks > 1.0 { self } else { Self { ranks: 1.0, alpha: 0.0, bandwidth: 1.0 } }
    }

    fn all_reduce(&self, bytes: f64) -> f64 {
        self.alpha + 2.0 * (self.ranks - 1.0) / self.ranks * bytes / self.bandwidth
    }

    /// Half an all-reduce: each rank's part goes round once.
    fn all_gather(&self, bytes: f64) -> f64 {
        self.alpha + (self.ranks - 1.0) / self.ranks * bytes / self.bandwidth
    }
}

/// The output projection: one row of logits a sequence.
#[derive(Debug, Clone, PartialEq)]
struct LmHead {
    gemm: GemmTimes,
    group: Group,
    hidden: f64,
    vocab_rows: f64,
}

impl LmHead {
    fn new(token_wise: &TokenWise, shape: &ModelShape, division: &Division) -> Self {
        Self {
            gemm: token_wise.gemm,
            group: token_wise.group,
            hidden: f64::from(shape.hidden_size),
            vocab_rows: f64::from(division.rank.vocab_rows),
        }
    }

    fn seconds(&self, sequences: f64) -> f64 {
        let logits_bytes = sequences * self.vocab_rows * self.group.ranks * F16_BYTES as f64;
        self.gemm.seconds(sequences, self.hidden, self.vocab_rows) + self.group.all_gather(logits_bytes)
    }
}

#[cfg(test)]
mod tests;
