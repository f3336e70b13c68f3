//! The CPU as a model's backend: shapes of results, and groups that sum values where they lie. Work is done when a call returns.

use super::{Activations, Cpu, Embedding, HEAD_DIM_MAX, KvCache, Linear, Norm, RotaryTable};
use crate::backend::draw::{self, Draw};
use crate::backend::{AttentionShape, Backend, Part, Span, Stayed};
use crate::comm::{CommError, Communicator, Mesh};
use crate::shard::Dtype;

/// A step's spans and tokens, as they come.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    spans: &'a [Span<'a>],
    tokens: &'a [u32],
}

/// Without a lifetime of its own.
type Group = dyn Communicator;

impl Backend for Cpu {
    type Error = CommError;
    type Tensor = Activations;
    type Linear = Linear;
    type Embedding = Embedding;
    type Norm = Norm;
    type Rotary = RotaryTable;
    type KvCache = KvCache;
    type Batch<'a> = Batch<'a>;
    type Group = Group;
    type Stay = Stayed;

    const HEAD_DIM_MAX: usize = HEAD_DIM_MAX;

    /// Asks for the memory and gives it back: what a system refuses it had better refuse in words.
    fn has_room(&self, bytes: u64) -> bool {
        Vec::<u8>::new().try_reserve_exact(bytes as usize).is_ok()
    }

    fn tensor(&self) -> Activations {
        Activations::default()
    }

    fn linear(&self, parts: &[Part<'_>]) -> Result<Linear, CommError> {
        Ok(pack(parts))
    }

    fn linear_dtype(&self, w: &Linear) -> Dtype {
        w.dtype().into()
    }

    fn embedding(&self, first: u32, part: &Part<'_>) -> Result<Embedding, CommError> {
        Ok(Embedding::new(part.dtype.into(), first, part.shape[1] as usize, &part.bytes))
    }

    fn norm(&self, weight: &[f32], bias: Option<&[f32]>, epsilon: f32) -> Result<Norm, CommError> {
        Ok(Norm::new(weight, bias, epsilon))
    }

    fn rotary(&self, theta: f64, head_dim: usize, positions: usize) -> Result<RotaryTable, CommError> {
        Ok(RotaryTable::new(theta, head_dim, positions))
    }

    fn kv_cache(
        &self,
        shape: &AttentionShape,
        layers: usize,
        blocks: usize,
        block_size: usize,
        dtype: Dtype,
        _activations: u64,
    ) -> Result<KvCache, CommError> {
        Ok(KvCache::new(shape, layers, blocks, block_size, dtype.into()))
    }

    fn touch(&self, kv: &mut KvCache, blocks: usize, all: usize) {
        kv.touch(blocks, all);
    }

    fn kv_bytes(&self, kv: &KvCache) -> u64 {
        kv.bytes()
    }

    fn group(&mut self, mesh: &Mesh, ranks: &[usize]) -> Result<Box<Group>, CommError> {
        Ok(mesh.group(ranks))
    }

    fn group_size(&self, group: &Group) -> usize {
        group.size()
    }

    fn begin<'a>(&mut self, spans: &'a [Span<'a>], tokens: &'a [u32]) -> Result<Batch<'a>, CommError> {
        Ok(Batch { spans, tokens })
    }

    fn rows(&self, batch: &Batch<'_>) -> usize {
        batch.tokens.len()
    }

    fn enter(&self, now_ns: u64) -> Result<Stayed, CommError> {
        Ok(Stayed { start_ns: now_ns, ..Stayed::default() })
    }

    fn leave(&self, stay: &mut Stayed, now_ns: u64, _is_done: bool) -> Result<(), CommError> {
        stay.end_ns = now_ns;
        Ok(())
    }

    fn stayed(&self, stay: &mut Stayed) -> Result<Option<Stayed>, CommError> {
        Ok(Some(std::mem::take(stay)))
    }

    fn reshape(&self, x: &mut Activations, rows: usize, width: usize) -> Result<(), CommError> {
        x.reshape(rows, width);
        Ok(())
    }

    fn embed(&self, table: &Embedding, batch: &Batch<'_>, out: &mut Activations) -> Result<(), CommError> {
        out.reshape(batch.tokens.len(), table.hidden());
        self.embed(table, batch.tokens, out);
        Ok(())
    }

    fn embed_head(
        &self,
        head: &Linear,
        first: u32,
        batch: &Batch<'_>,
        out: &mut Activations,
    ) -> Result<(), CommError> {
        out.reshape(batch.tokens.len(), head.columns());
        self.embed_packed(head, first, batch.tokens, out);
        Ok(())
    }

    fn apply_norm(&self, norm: &Norm, x: &Activations, y: &mut Activations) -> Result<(), CommError> {
        y.reshape(x.rows(), x.width());
        self.norm(norm, x, y);
        Ok(())
    }

    fn product(&self, w: &Linear, x: &Activations, y: &mut Activations) -> Result<(), CommError> {
        y.reshape(x.rows(), w.rows());
        self.linear(w, x, y);
        Ok(())
    }

    fn rotate_and_store(
        &self,
        rotary: &RotaryTable,
        kv: &mut KvCache,
        layer: usize,
        shape: &AttentionShape,
        batch: &Batch<'_>,
        qkv: &mut Activations,
    ) -> Result<(), CommError> {
        self.rotate(rotary, shape, qkv, batch.spans);
        self.store_kv(kv, layer, shape, qkv, batch.spans);
        Ok(())
    }

    fn attend(
        &self,
        kv: &KvCache,
        layer: usize,
        shape: &AttentionShape,
        batch: &Batch<'_>,
        qkv: &Activations,
        out: &mut Activations,
    ) -> Result<(), CommError> {
        out.reshape(qkv.rows(), shape.query_heads * shape.head_dim);
        self.attend(kv, layer, shape, qkv, batch.spans, out);
        Ok(())
    }

    fn gelu(&self, x: &mut Activations) -> Result<(), CommError> {
        self.gelu(x);
        Ok(())
    }

    fn silu_mul(&self, gate_up: &Activations, f: usize, out: &mut Activations) -> Result<(), CommError> {
        out.reshape(gate_up.rows(), f);
        self.silu_mul(gate_up, f, out);
        Ok(())
    }

    fn add(&self, x: &mut Activations, y: &Activations) -> Result<(), CommError> {
        self.add(x, y);
        Ok(())
    }

    fn take_rows(&self, x: &Activations, rows: &[usize], out: &mut Activations) -> Result<(), CommError> {
        let width = x.width();
        out.reshape(rows.len(), width);
        for (&row, out) in rows.iter().zip(out.chunks_exact_mut(width)) {
            out.copy_from_slice(&x[row * width..(row + 1) * width]);
        }
        Ok(())
    }

    fn logits(
        &self,
        all: &Activations,
        ranks: usize,
        rows: usize,
        held: usize,
        vocab: usize,
        out: &mut Vec<f32>,
    ) -> Result<(), CommError> {
        assert_eq!(all.len(), ranks * rows * held, "expected logits of {ranks} ranks");
        out.clear();
        for row in 0..rows {
            row_parts(all, rows, row, held, vocab).for_each(|part| out.extend_from_slice(part));
        }
        Ok(())
    }

    fn greedy(
        &self,
        all: &Activations,
        ranks: usize,
        rows: usize,
        held: usize,
        vocab: usize,
        tokens: &mut Vec<u32>,
    ) -> Result<(), CommError> {
        assert_eq!(all.len(), ranks * rows * held, "expected logits of {ranks} ranks");
        tokens.clear();
        tokens.extend((0..rows).map(|row| draw::likeliest(row_parts(all, rows, row, held, vocab))));
        Ok(())
    }

    fn draw(
        &self,
        all: &Activations,
        ranks: usize,
        held: usize,
        vocab: usize,
        how: &[Draw],
        tokens: &mut Vec<u32>,
    ) -> Result<(), CommError> {
        let rows = how.len();
        assert_eq!(all.len(), ranks * rows * held, "expected logits of {ranks} ranks");
        let mut scratch = self.scratch();
        let token =
            |(row, how)| draw::draw(row_parts(all, rows, row, held, vocab), how, &mut scratch.weights);
        tokens.clear();
        tokens.extend(how.iter().enumerate().map(token));
        Ok(())
    }

    fn synchronize(&self) -> Result<(), CommError> {
        Ok(())
    }

    fn all_reduce(&self, group: &mut Group, x: &mut Activations) -> Result<(), CommError> {
        group.all_reduce(x)
    }

    fn all_gather(
        &self,
        group: &mut Group,
        mine: &Activations,
        all: &mut Activations,
    ) -> Result<(), CommError> {
        all.reshape(group.size() * mine.rows(), mine.width());
        group.all_gather(mine, all)
    }

    fn send(&self, group: &mut Group, to: usize, x: &Activations) -> Result<(), CommError> {
        group.send(to, x)
    }

    fn recv(
        &self,
        group: &mut Group,
        from: usize,
        rows: usize,
        width: usize,
        x: &mut Activations,
    ) -> Result<(), CommError> {
        x.reshape(rows, width);
        group.recv(from, x)
    }
}

/// Packs parts, one below the other; parts of several types as f32, which has the values of all.
fn pack(parts: &[Part<'_>]) -> Linear {
    let dtype = parts[0].dtype;
    let rows = parts.iter().map(|part| part.shape[0] as usize).sum();
    let columns = parts[0].shape[1] as usize;
    if let [part] = parts {
        return Linear::pack(dtype.into(), rows, columns, &part.bytes);
    }
    if parts.iter().all(|part| part.dtype == dtype) {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.bytes.iter().copied()).collect();
        return Linear::pack(dtype.into(), rows, columns, &bytes);
    }
    let bytes: Vec<u8> = parts.iter().flat_map(Part::widen).flat_map(f32::to_le_bytes).collect();
    Linear::pack(super::Dtype::F32, rows, columns, &bytes)
}

/// Each rank's part of one row of `all[ranks, rows, held]`, without the padding at the end of the vocabulary.
fn row_parts(
    all: &[f32],
    rows: usize,
    row: usize,
    held: usize,
    vocab: usize,
) -> impl Iterator<Item = &[f32]> + Clone {
    let ranks = all.chunks_exact(rows * held).enumerate();
    ranks.map(move |(rank, part)| &part[row * held..][..held.min(vocab.saturating_sub(rank * held))])
}
