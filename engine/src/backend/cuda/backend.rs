//! A GPU as a model's backend: shapes of results, and which kernel makes them. Knows no launch and no library.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use camino::Utf8Path;

use super::attention::{Attention, Room};
use super::batch::Batch;
use super::blas::{Matrices, Output, Product, Right};
use super::card::{Card, Care};
use super::error::CudaError;
use super::graphs::Graphs;
use super::group::Group;
use super::launch::Argument;
use super::memory::Buffer;
use super::patience::PATIENCE;
use super::scratch::Upload;
use super::stays::Stay;
use super::tensor::{Embedding, KvCache, Layer, Linear, Norm, Rotary, Tensor};
use super::tokens::{Logits, Tokens};
use crate::backend::{AttentionShape, Backend, Draw, Part, Span, Stayed};
use crate::comm::Mesh;
use crate::shard::Dtype;

/// Threads of a block, where it does not matter much.
const THREADS: u32 = 256;

/// How a GPU computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Steps of decoding are recorded as CUDA graphs and replayed.
    pub graphs: bool,
    /// Chunks of heads that the flash kernels know are attended to without their scores in memory.
    pub flash: bool,
    /// Each call is timed, and nothing is replayed.
    pub timed: bool,
    /// Kinds of steps whose recordings are kept: a recording takes memory of the GPU.
    pub graphs_max: usize,
    /// Bytes of a weight that go through pinned memory at a time.
    pub piece_bytes: usize,
    /// How long the GPU may take for what it has all it needs for.
    pub patience: Duration,
    /// Steps that may be under way at once.
    pub under_way: usize,
}

impl Options {
    /// All that makes it fast.
    pub const FAST: Self = Self {
        graphs: true,
        flash: true,
        timed: false,
        graphs_max: 64,
        piece_bytes: 16 << 20,
        patience: PATIENCE,
        under_way: 1,
    };
}

/// One rank's GPU. One thread uses it.
#[derive(Debug)]
pub struct Cuda {
    card: Card,
    step: Upload,
    /// Rows that `take_rows` was asked for.
    rows: RefCell<Upload>,
    room: RefCell<Room>,
    tokens: RefCell<Tokens>,
    /// Whether chunks go to the flash kernel where there is one.
    flash: bool,
    /// Of steps of decoding; absent: every step is launched kernel by kernel.
    graphs: Option<RefCell<Graphs>>,
    /// A block beyond the cache's, for rows that nobody asked for.
    spare: Cell<Option<u32>>,
}

impl Cuda {
    /// Opens GPU `ordinal`; compiled kernels are kept in `kernels`.
    pub fn open(ordinal: usize, kernels: &Utf8Path, options: Options) -> Result<Self, CudaError> {
        let Options { graphs, flash, timed, graphs_max, piece_bytes, patience, under_way } = options;
        Ok(Self {
            card: Card::open(ordinal, kernels, Care { timed, piece_bytes, patience, under_way })?,
            step: Upload::default(),
            rows: RefCell::default(),
            room: RefCell::default(),
            tokens: RefCell::default(),
            flash,
            graphs: (graphs && !timed).then(|| RefCell::new(Graphs::new(graphs_max))),
            spare: Cell::new(None),
        })
    }

    /// One thread a value of `n`.
    fn each(&self, kernel: &'static str, n: usize, arguments: &[Argument]) -> Result<(), CudaError> {
        self.card.launch(kernel, [n.div_ceil(THREADS as usize), 1, 1], THREADS, arguments)
    }

    fn embed_rows(
        &self,
        table: &Buffer,
        [first, rows, hidden]: [usize; 3],
        batch: &Batch,
        out: &mut Tensor,
    ) -> Result<(), CudaError> {
        self.reshape(out, batch.rows, hidden)?;
        self.card.launch(
            "embed",
            [batch.rows, 1, 1],
            THREADS,
            &[
                Argument::Pointer(out.pointer()),
                Argument::Pointer(table.pointer),
                Argument::Pointer(batch.tokens),
                Argument::U32(first as u32),
                Argument::U32(rows as u32),
                Argument::I32(hidden as i32),
            ],
        )
    }

    /// `y` becomes the norm of `x`; with a residual, first `x += residual`.
    fn norm_rows(
        &self,
        norm: &Norm,
        x: &Tensor,
        residual: Option<&Tensor>,
        y: &mut Tensor,
    ) -> Result<(), CudaError> {
        self.reshape(y, x.rows, x.width)?;
        let mut arguments = vec![
            Argument::Pointer(y.pointer()),
            Argument::Pointer(x.pointer()),
            Argument::Pointer(residual.map_or(0, Tensor::pointer)),
            Argument::Pointer(norm.weight.pointer),
        ];
        arguments.extend(norm.bias.as_ref().map(|bias| Argument::Pointer(bias.pointer)));
        arguments.extend([Argument::F32(norm.epsilon), Argument::I32(x.width as i32)]);
        let kernel = if norm.bias.is_some() { "layer_norm" } else { "rms_norm" };
        self.card.launch(kernel, [x.rows, 1, 1], THREADS, &arguments)
    }
}

impl Backend for Cuda {
    type Error = CudaError;
    type Tensor = Tensor;
    type Linear = Linear;
    type Embedding = Embedding;
    type Norm = Norm;
    type Rotary = Rotary;
    type KvCache = KvCache;
    type Batch<'a> = Batch;
    type Group = Group;
    type Stay = Stay;

    /// A lane holds eight values of a head.
    const HEAD_DIM_MAX: usize = 256;

    /// Making the cache says more.
    fn has_room(&self, _bytes: u64) -> bool {
        true
    }

    fn tensor(&self) -> Tensor {
        Tensor::default()
    }

    fn linear(&self, parts: &[Part<'_>]) -> Result<Linear, CudaError> {
        for part in parts {
            self.card.load(part.dtype)?;
        }
        let rows = parts.iter().map(|part| part.shape[0] as usize).sum();
        let columns = parts[0].shape[1] as usize;
        let bytes: Vec<&[u8]> = parts.iter().map(|part| &part.bytes[..]).collect();
        let buffer = self.card.upload(&bytes, "weights")?;
        Ok(Linear { rows, columns, dtype: parts[0].dtype, buffer })
    }

    fn linear_dtype(&self, w: &Linear) -> Dtype {
        w.dtype
    }

    fn embedding(&self, first: u32, part: &Part<'_>) -> Result<Embedding, CudaError> {
        self.card.load(part.dtype)?;
        let buffer = self.card.upload(&[&part.bytes], "the embedding")?;
        let [rows, hidden] = [part.shape[0], part.shape[1]].map(|length| length as usize);
        Ok(Embedding { first, rows, hidden, buffer })
    }

    fn norm(&self, weight: &[f32], bias: Option<&[f32]>, epsilon: f32) -> Result<Norm, CudaError> {
        let upload = |values: &[f32]| self.card.upload(&[bytemuck::cast_slice(values)], "weights of a norm");
        Ok(Norm { weight: upload(weight)?, bias: bias.map(upload).transpose()?, epsilon })
    }

    fn rotary(&self, theta: f64, head_dim: usize, positions: usize) -> Result<Rotary, CudaError> {
        let half = head_dim / 2;
        let angle = |index: usize| {
            let (position, i) = (index / half, index % half);
            position as f64 / theta.powf(2.0 * i as f64 / head_dim as f64)
        };
        let all = |turn: fn(f64) -> f64| -> Vec<f32> {
            (0..positions * half).map(|index| turn(angle(index)) as f32).collect()
        };
        let upload = |values: Vec<f32>| self.card.upload(&[bytemuck::cast_slice(&values)], "rotary angles");
        Ok(Rotary { cosines: upload(all(f64::cos))?, sines: upload(all(f64::sin))? })
    }

    fn kv_cache(
        &self,
        shape: &AttentionShape,
        layers: usize,
        blocks: usize,
        block_size: usize,
        dtype: Dtype,
        activations: u64,
    ) -> Result<KvCache, CudaError> {
        self.card.load(dtype)?;
        self.card.end_uploads()?;
        let what = "keys and values";
        self.spare.set(self.graphs.as_ref().map(|_| blocks as u32));
        let half = (blocks + 1) * block_size * shape.kv_heads * shape.head_dim * self.card.value_bytes();
        let bytes = 2 * layers * half;
        self.card.check_room(blocks, bytes, activations as usize)?;
        let layer = |_| {
            let [keys, values] = [self.card.allocate(half, what)?, self.card.allocate(half, what)?];
            Ok(Layer { keys, values })
        };
        let layers = (0..layers).map(layer).collect::<Result<_, CudaError>>()?;
        Ok(KvCache { layers, block_size, bytes: bytes as u64 })
    }

    fn kv_bytes(&self, kv: &KvCache) -> u64 {
        kv.bytes
    }

    fn free_bytes(&self) -> Result<Option<u64>, CudaError> {
        self.card.memory().map(|(free, _)| Some(free as u64))
    }

    fn group(&mut self, mesh: &Mesh, ranks: &[usize]) -> Result<Box<Group>, CudaError> {
        Ok(Box::new(Group::join(&self.card, mesh, ranks)?))
    }

    fn group_size(&self, group: &Group) -> usize {
        group.size()
    }

    fn begin<'a>(&mut self, spans: &'a [Span<'a>], tokens: &'a [u32]) -> Result<Batch, CudaError> {
        self.card.begin_step()?;
        let batch = Batch::new(&self.card, &mut self.step, spans, tokens, self.spare.get())?;
        self.card.begin_timing()?;
        Ok(batch)
    }

    fn rows(&self, batch: &Batch) -> usize {
        batch.rows
    }

    fn run(&self, batch: &Batch, work: impl FnOnce() -> Result<(), CudaError>) -> Result<(), CudaError> {
        match (&self.graphs, batch.kind) {
            (Some(graphs), Some(kind)) => graphs.borrow_mut().run(&self.card, kind, work),
            _ => work(),
        }
    }

    fn enter(&self, _now_ns: u64) -> Result<Stay, CudaError> {
        self.card.enter()
    }

    fn leave(&self, stay: &mut Stay, now_ns: u64, is_done: bool) -> Result<(), CudaError> {
        self.card.leave(stay, is_done.then_some(now_ns))
    }

    fn stayed(&self, stay: &mut Stay) -> Result<Option<Stayed>, CudaError> {
        self.card.stayed(stay)
    }

    fn time_each(
        &self,
        calls: usize,
        call: impl FnMut(usize) -> Result<(), CudaError>,
    ) -> Result<Vec<u64>, CudaError> {
        self.card.time_each(calls, call)
    }

    fn replays(&self) -> u64 {
        self.graphs.as_ref().map_or(0, |graphs| graphs.borrow().replays)
    }

    fn reshape(&self, x: &mut Tensor, rows: usize, width: usize) -> Result<(), CudaError> {
        x.reshape(&self.card, rows, width)
    }

    fn embed(&self, table: &Embedding, batch: &Batch, out: &mut Tensor) -> Result<(), CudaError> {
        self.embed_rows(&table.buffer, [table.first as usize, table.rows, table.hidden], batch, out)
    }

    fn embed_head(
        &self,
        head: &Linear,
        first: u32,
        batch: &Batch,
        out: &mut Tensor,
    ) -> Result<(), CudaError> {
        self.embed_rows(&head.buffer, [first as usize, head.rows, head.columns], batch, out)
    }

    fn apply_norm(&self, norm: &Norm, x: &Tensor, y: &mut Tensor) -> Result<(), CudaError> {
        self.norm_rows(norm, x, None, y)
    }

    fn add_norm(
        &self,
        norm: &Norm,
        x: &mut Tensor,
        summand: &Tensor,
        y: &mut Tensor,
    ) -> Result<(), CudaError> {
        assert_eq!((x.rows, x.width), (summand.rows, summand.width), "expected equal shapes");
        self.norm_rows(norm, x, Some(summand), y)
    }

    fn product(&self, w: &Linear, x: &Tensor, y: &mut Tensor) -> Result<(), CudaError> {
        assert_eq!(x.width, w.columns, "expected x of rows of {}", w.columns);
        self.reshape(y, x.rows, w.rows)?;
        let alone = |pointer, row| Matrices { pointer, row, next: 0 };
        self.card.product(&Product {
            what: "product with a weight",
            m: x.rows,
            n: w.rows,
            k: w.columns,
            batch: 1,
            a: alone(x.pointer(), x.width),
            b: alone(w.buffer.pointer, w.columns),
            right: Right::Transposed,
            out: alone(y.pointer(), w.rows),
            output: Output::Element,
        })
    }

    fn rotate_and_store(
        &self,
        rotary: &Rotary,
        kv: &mut KvCache,
        layer: usize,
        shape: &AttentionShape,
        batch: &Batch,
        qkv: &mut Tensor,
    ) -> Result<(), CudaError> {
        let AttentionShape { query_heads, kv_heads, head_dim, .. } = *shape;
        self.card.launch(
            "rotate_store",
            [batch.rows, 1, 1],
            THREADS,
            &[
                Argument::Pointer(qkv.pointer()),
                Argument::Pointer(kv.layers[layer].keys.pointer),
                Argument::Pointer(kv.layers[layer].values.pointer),
                Argument::Pointer(rotary.cosines.pointer),
                Argument::Pointer(rotary.sines.pointer),
                Argument::Pointer(batch.positions),
                Argument::Pointer(batch.seqs),
                Argument::Pointer(batch.tables),
                Argument::I32(batch.table_width as i32),
                Argument::I32(kv.block_size as i32),
                Argument::I32(query_heads as i32),
                Argument::I32(kv_heads as i32),
                Argument::I32(head_dim as i32),
            ],
        )
    }

    fn attend(
        &self,
        kv: &KvCache,
        layer: usize,
        shape: &AttentionShape,
        batch: &Batch,
        qkv: &Tensor,
        out: &mut Tensor,
    ) -> Result<(), CudaError> {
        self.reshape(out, batch.rows, shape.query_heads * shape.head_dim)?;
        let attention = Attention { card: &self.card, shape, kv, layer, batch, qkv, out, flash: self.flash };
        attention.run(&mut self.room.borrow_mut())
    }

    fn gelu(&self, x: &mut Tensor) -> Result<(), CudaError> {
        let n = x.values();
        self.each("gelu", n, &[Argument::Pointer(x.pointer()), Argument::I64(n as i64)])
    }

    fn silu_mul(&self, gate_up: &Tensor, f: usize, out: &mut Tensor) -> Result<(), CudaError> {
        self.reshape(out, gate_up.rows, f)?;
        let n = out.values();
        let arguments = [
            Argument::Pointer(out.pointer()),
            Argument::Pointer(gate_up.pointer()),
            Argument::I32(f as i32),
            Argument::I64(n as i64),
        ];
        self.each("silu_mul", n, &arguments)
    }

    fn add(&self, x: &mut Tensor, y: &Tensor) -> Result<(), CudaError> {
        assert_eq!((x.rows, x.width), (y.rows, y.width), "expected equal shapes");
        let n = x.values();
        let arguments =
            [Argument::Pointer(x.pointer()), Argument::Pointer(y.pointer()), Argument::I64(n as i64)];
        self.each("add", n, &arguments)
    }

    fn take_rows(&self, x: &Tensor, rows: &[usize], out: &mut Tensor) -> Result<(), CudaError> {
        self.reshape(out, rows.len(), x.width)?;
        let indices: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
        assert!(rows.iter().all(|&row| row < x.rows), "expected rows below {}", x.rows);
        let indices = self.rows.borrow_mut().send(&self.card, &[&indices])?;
        self.card.launch(
            "gather_rows",
            [rows.len(), 1, 1],
            THREADS,
            &[
                Argument::Pointer(out.pointer()),
                Argument::Pointer(x.pointer()),
                Argument::Pointer(indices),
                Argument::I32(x.width as i32),
            ],
        )
    }

    fn logits(
        &self,
        all: &Tensor,
        ranks: usize,
        rows: usize,
        held: usize,
        vocab: usize,
        out: &mut Vec<f32>,
    ) -> Result<(), CudaError> {
        self.tokens.borrow_mut().logits(&self.card, &Logits { all, ranks, rows, held, vocab }, out)
    }

    fn keep_largest(
        &self,
        parts: &mut Tensor,
        first: usize,
        ranks: usize,
        vocab: usize,
    ) -> Result<(), CudaError> {
        self.tokens.borrow_mut().keep_largest(&self.card, parts, [first, ranks, vocab])
    }

    fn greedy(
        &self,
        all: &Tensor,
        ranks: usize,
        rows: usize,
        held: usize,
        vocab: usize,
        tokens: &mut Vec<u32>,
    ) -> Result<(), CudaError> {
        self.tokens.borrow_mut().greedy(&self.card, &Logits { all, ranks, rows, held, vocab }, tokens)
    }

    fn draw(
        &self,
        all: &Tensor,
        ranks: usize,
        held: usize,
        vocab: usize,
        how: &[Draw],
        tokens: &mut Vec<u32>,
    ) -> Result<(), CudaError> {
        let logits = Logits { all, ranks, rows: how.len(), held, vocab };
        self.tokens.borrow_mut().draw(&self.card, &logits, how, tokens)
    }

    fn synchronize(&self) -> Result<(), CudaError> {
        self.card.wait("a step")
    }

    fn all_reduce(&self, group: &mut Group, x: &mut Tensor) -> Result<(), CudaError> {
        group.all_reduce(&self.card, x)
    }

    fn all_gather(&self, group: &mut Group, mine: &Tensor, all: &mut Tensor) -> Result<(), CudaError> {
        self.reshape(all, group.size() * mine.rows, mine.width)?;
        group.all_gather(&self.card, mine, all)
    }

    fn send(&self, group: &mut Group, to: usize, x: &Tensor) -> Result<(), CudaError> {
        group.send(&self.card, to, x)
    }

    fn recv(
        &self,
        group: &mut Group,
        from: usize,
        rows: usize,
        width: usize,
        x: &mut Tensor,
    ) -> Result<(), CudaError> {
        self.reshape(x, rows, width)?;
        group.recv(&self.card, from, x)
    }
}
