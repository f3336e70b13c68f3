//! Tensor operations, and only those that the models call: the `Backend` that a stage computes with, and those that there are.
//! A backend knows nothing of sequences, layers or schedulers; of other ranks it knows the groups that sum, gather and send.

pub mod cpu;
pub mod cuda;
pub mod draw;
mod operands;

pub use draw::Draw;
pub use operands::{AttentionShape, Part, Span};

use serde::{Deserialize, Serialize};

use crate::clock::monotonic_ns;
use crate::comm::Mesh;
use crate::shard::Dtype;

/// Which backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendName {
    /// Threads of this host.
    Cpu,
    /// An NVIDIA GPU a rank.
    Cuda {
        /// Whether steps of decoding are recorded as CUDA graphs and replayed.
        graphs: bool,
        /// Whether prompts' chunks go to the flash kernel, where there is one for their heads.
        flash: bool,
    },
}

/// When a stage was at work on a step, on the clock that its rank goes by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stayed {
    /// When it began: what it had to receive was there.
    pub start_ns: u64,
    /// When its results were there.
    pub end_ns: u64,
    /// What its calls took, where the backend was told to time them: kind, how many, nanoseconds.
    pub calls: Vec<(&'static str, u32, u64)>,
}

/// What a stage is loaded to and computed with, on one rank. One thread calls it.
///
/// A step's calls may return before their work is done, in the order in which they were made: [`Backend::synchronize`] waits, and
/// so do the calls whose results are on the host. Shapes are in brackets; a tensor that a call writes gets its shape
/// from the call, but for those that are changed in place.
pub trait Backend {
    /// Why a call did not work. One that another rank is to blame for has a [`crate::comm::CommError`] in its chain of sources, itself included.
    type Error: std::error::Error + Send + Sync + 'static;
    /// Activations `[rows, width]`, a buffer kept from batch to batch.
    type Tensor;
    /// A weight `[rows, columns]`: `rows` outputs of `columns` inputs each.
    type Linear;
    /// A rank's rows of the embedding `[vocabulary, hidden]`.
    type Embedding;
    /// Weight `[hidden]`, bias for a layer norm, epsilon.
    type Norm;
    /// Angles of every position.
    type Rotary;
    /// Keys and values of a stage's layers, in blocks.
    type KvCache;
    /// A step's spans as the backend wants them: made once, used by each layer.
    type Batch<'a>;
    /// Ranks that sum, gather and send together.
    type Group: ?Sized;
    /// A stage's stay with a step, which may be still to come.
    type Stay;

    /// Values of a head at most.
    const HEAD_DIM_MAX: usize;

    // --- at load

    /// Whether there may be room for `bytes` of keys and values: asked before any weight is read, so that what cannot fit fails early.
    /// A backend that says more when it makes the cache may answer that there is.
    fn has_room(&self, bytes: u64) -> bool;

    /// An empty tensor.
    fn tensor(&self) -> Self::Tensor;

    /// A weight of parts `[rows, columns]` with the same columns, one below the other.
    fn linear(&self, parts: &[Part<'_>]) -> Result<Self::Linear, Self::Error>;

    /// Type of a weight's stored values.
    fn linear_dtype(&self, w: &Self::Linear) -> Dtype;

    /// The embedding's rows `part[rows, hidden]`, the first of which is token `first`.
    fn embedding(&self, first: u32, part: &Part<'_>) -> Result<Self::Embedding, Self::Error>;

    /// A layer norm, or without a bias an RMS norm. Vectors are `[hidden]`; `epsilon` is added to the variance or mean square.
    fn norm(&self, weight: &[f32], bias: Option<&[f32]>, epsilon: f32) -> Result<Self::Norm, Self::Error>;

    /// Angles `position / theta^(2 i / head_dim)`, i below `head_dim / 2`, of positions below `positions`.
    fn rotary(&self, theta: f64, head_dim: usize, positions: usize) -> Result<Self::Rotary, Self::Error>;

    /// Room for `blocks` blocks of `block_size` tokens in each of `layers` layers, made after all weights. A backend that knows how much of its
    /// memory is free refuses what would not leave `activations` bytes for a step.
    fn kv_cache(
        &self,
        shape: &AttentionShape,
        layers: usize,
        blocks: usize,
        block_size: usize,
        dtype: Dtype,
        activations: u64,
    ) -> Result<Self::KvCache, Self::Error>;

    /// Has memory found for the first `blocks` blocks of `all` now, where that would else be when they are first written.
    fn touch(&self, _kv: &mut Self::KvCache, _blocks: usize, _all: usize) {}

    /// Bytes of all keys and values.
    fn kv_bytes(&self, kv: &Self::KvCache) -> u64;

    /// Bytes that are free now in memory of the backend's own, when all that was asked for is done; `None`: it has none.
    fn free_bytes(&self) -> Result<Option<u64>, Self::Error> {
        Ok(None)
    }

    /// A group of these ranks of the mesh, in this order; this rank is among them. Each of them makes it, and its groups in one order.
    fn group(&mut self, mesh: &Mesh, ranks: &[usize]) -> Result<Box<Self::Group>, Self::Error>;

    /// Ranks of a group.
    fn group_size(&self, group: &Self::Group) -> usize;

    // --- in a step

    /// Begins a step over `spans`, with the ids of their `tokens[rows]`.
    fn begin<'a>(&mut self, spans: &'a [Span<'a>], tokens: &'a [u32])
    -> Result<Self::Batch<'a>, Self::Error>;

    /// Rows that activations of a batch have: its tokens, and as much padding as the backend likes, behind them.
    fn rows(&self, batch: &Self::Batch<'_>) -> usize;

    /// Runs `work`, whose calls depend on the batch alone: the backend may remember them, and make those of a batch like it instead. Tensors
    /// that `work` leaves for later have their shapes before.
    fn run(
        &self,
        _batch: &Self::Batch<'_>,
        work: impl FnOnce() -> Result<(), Self::Error>,
    ) -> Result<(), Self::Error> {
        work()
    }

    /// A stage's own calls of a step follow; what they work on was asked for before, if it comes from another rank. `now_ns`: the time, for a backend
    /// whose calls are done when they return.
    fn enter(&self, now_ns: u64) -> Result<Self::Stay, Self::Error>;

    /// They have been made. `is_done`: their results have been waited for, so that the stay ends at `now_ns` on any backend.
    fn leave(&self, stay: &mut Self::Stay, now_ns: u64, is_done: bool) -> Result<(), Self::Error>;

    /// When a stay was that has been left; `None`: it is not over. Does not wait, but fails where the stay takes too long. Stays are looked at in order.
    fn stayed(&self, stay: &mut Self::Stay) -> Result<Option<Stayed>, Self::Error>;

    /// Makes so many calls, handing each its number, and waits for them: nanoseconds of each on what computes, from the end of the call before it.
    /// The first one's hold what beginning takes, too.
    fn time_each(
        &self,
        calls: usize,
        mut call: impl FnMut(usize) -> Result<(), Self::Error>,
    ) -> Result<Vec<u64>, Self::Error> {
        self.synchronize()?;
        let timed = |number| {
            let start_ns = monotonic_ns();
            call(number)?;
            self.synchronize()?;
            Ok::<_, Self::Error>(monotonic_ns() - start_ns)
        };
        (0..calls).map(timed).collect()
    }

    /// Batches whose calls were remembered.
    fn replays(&self) -> u64 {
        0
    }

    /// `x` becomes `[rows, width]`; its values mean nothing.
    fn reshape(&self, x: &mut Self::Tensor, rows: usize, width: usize) -> Result<(), Self::Error>;

    /// `out[tokens, hidden]`: each token's row, and zeros where another rank has it.
    fn embed(
        &self,
        table: &Self::Embedding,
        batch: &Self::Batch<'_>,
        out: &mut Self::Tensor,
    ) -> Result<(), Self::Error>;

    /// The same from a head that is the embedding, too, and whose first row is token `first`.
    fn embed_head(
        &self,
        head: &Self::Linear,
        first: u32,
        batch: &Self::Batch<'_>,
        out: &mut Self::Tensor,
    ) -> Result<(), Self::Error>;

    /// `y[rows, hidden]`: the norm of each row of `x[rows, hidden]`.
    fn apply_norm(
        &self,
        norm: &Self::Norm,
        x: &Self::Tensor,
        y: &mut Self::Tensor,
    ) -> Result<(), Self::Error>;

    /// `x += summand`, and `y[rows, hidden]` becomes the norm of each row of the new `x[rows, hidden]`: what the two calls one after the other
    /// give, to the bit.
    fn add_norm(
        &self,
        norm: &Self::Norm,
        x: &mut Self::Tensor,
        summand: &Self::Tensor,
        y: &mut Self::Tensor,
    ) -> Result<(), Self::Error> {
        self.add(x, summand)?;
        self.apply_norm(norm, x, y)
    }

    /// `y[m, rows] = x[m, columns] w^T`.
    fn product(&self, w: &Self::Linear, x: &Self::Tensor, y: &mut Self::Tensor) -> Result<(), Self::Error>;

    /// Turns the query and key heads of `qkv[tokens, (query_heads + 2 kv_heads) head_dim]` by their tokens' positions, in place, and
    /// stores keys and values.
    fn rotate_and_store(
        &self,
        rotary: &Self::Rotary,
        kv: &mut Self::KvCache,
        layer: usize,
        shape: &AttentionShape,
        batch: &Self::Batch<'_>,
        qkv: &mut Self::Tensor,
    ) -> Result<(), Self::Error>;

    /// `out[tokens, query_heads head_dim]`: each token attends to its sequence up to itself; the batch's keys and values are stored.
    fn attend(
        &self,
        kv: &Self::KvCache,
        layer: usize,
        shape: &AttentionShape,
        batch: &Self::Batch<'_>,
        qkv: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<(), Self::Error>;

    /// `x = x Phi(x)`, by the error function.
    fn gelu(&self, x: &mut Self::Tensor) -> Result<(), Self::Error>;

    /// `out[rows, f] = silu(gate) up`, where a row of `gate_up[rows, 2 f]` is the gate's f values, then up's.
    fn silu_mul(&self, gate_up: &Self::Tensor, f: usize, out: &mut Self::Tensor) -> Result<(), Self::Error>;

    /// `x += y`.
    fn add(&self, x: &mut Self::Tensor, y: &Self::Tensor) -> Result<(), Self::Error>;

    /// `out[rows.len(), width]`: some rows of `x[_, width]`, in the order asked for.
    fn take_rows(&self, x: &Self::Tensor, rows: &[usize], out: &mut Self::Tensor) -> Result<(), Self::Error>;

    /// `out[rows, vocab]` on the host, of `all[ranks, rows, held]`: the ranks' parts of each row side by side, without the padding at the
    /// end of the vocabulary.
    fn logits(
        &self,
        all: &Self::Tensor,
        ranks: usize,
        rows: usize,
        held: usize,
        vocab: usize,
        out: &mut Vec<f32>,
    ) -> Result<(), Self::Error>;

    /// Prepares logits for [`Backend::greedy`], before ranks gather them: `parts[ranks, rows, held]`, of the ranks from `first` on, may
    /// become fewer values, which say as much of the largest. Without it all logits are gathered.
    fn keep_largest(
        &self,
        _parts: &mut Self::Tensor,
        _first: usize,
        _ranks: usize,
        _vocab: usize,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    /// `tokens[rows]` on the host: the token of the largest logit of each row, of equal logits the first. `all` is every rank's part
    /// `[rows, held]` as [`Backend::keep_largest`] left it, in order of ranks.
    fn greedy(
        &self,
        all: &Self::Tensor,
        ranks: usize,
        rows: usize,
        held: usize,
        vocab: usize,
        tokens: &mut Vec<u32>,
    ) -> Result<(), Self::Error>;

    /// `tokens[rows]` on the host: of each row one drawn from its logits as `how[rows]` says ([`draw::draw`]: to the bit the same on every
    /// backend). `all` is every rank's part `[rows, held]`, in order of ranks.
    fn draw(
        &self,
        all: &Self::Tensor,
        ranks: usize,
        held: usize,
        vocab: usize,
        how: &[Draw],
        tokens: &mut Vec<u32>,
    ) -> Result<(), Self::Error>;

    /// Waits until all that was asked for is done.
    fn synchronize(&self) -> Result<(), Self::Error>;

    // --- between ranks

    /// `x` becomes the sum over all ranks, bit-identical on each.
    fn all_reduce(&self, group: &mut Self::Group, x: &mut Self::Tensor) -> Result<(), Self::Error>;

    /// `all[ranks rows, width]`: every rank's `mine[rows, width]`, in order of ranks.
    fn all_gather(
        &self,
        group: &mut Self::Group,
        mine: &Self::Tensor,
        all: &mut Self::Tensor,
    ) -> Result<(), Self::Error>;

    /// Hands `x` to rank `to` of the group, which calls `recv`.
    fn send(&self, group: &mut Self::Group, to: usize, x: &Self::Tensor) -> Result<(), Self::Error>;

    /// `x[rows, width]` becomes what rank `from` of the group sends.
    fn recv(
        &self,
        group: &mut Self::Group,
        from: usize,
        rows: usize,
        width: usize,
        x: &mut Self::Tensor,
    ) -> Result<(), Self::Error>;
}
