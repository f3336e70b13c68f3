//! A second backend behind a stage: it computes on the CPU, keeps a list of what it was asked for, and refuses what it is told to.

use std::cell::RefCell;

use thiserror::Error;

use crate::backend::cpu::{self, Activations, Cpu, Embedding, KvCache, Linear, Norm, RotaryTable};
use crate::backend::{AttentionShape, Backend, Draw, Part, Span, Stayed};
use crate::comm::{Alone, CommError, Mesh};
use crate::model::{Dummy, KvSpec, ModelConfig, ModelError, Stage, StagePlan};
use crate::shape::{Family, ModelShape};
use crate::shard::{Dtype, Parallel};

struct Recorder {
    cpu: Cpu,
    calls: RefCell<Vec<&'static str>>,
    refused: &'static str,
}

#[derive(Debug, Error)]
enum Refusal {
    #[error("{0}: refused")]
    Call(&'static str),
    #[error("talk to other ranks")]
    Comm(#[from] CommError),
}

type Done = Result<(), Refusal>;

impl Recorder {
    fn new(refused: &'static str) -> Self {
        Self { cpu: Cpu::new(1, None).unwrap(), calls: RefCell::default(), refused }
    }

    fn record(&self, call: &'static str) -> Result<&Cpu, Refusal> {
        self.calls.borrow_mut().push(call);
        if call == self.refused { Err(Refusal::Call(call)) } else { Ok(&self.cpu) }
    }

    fn count(&self, call: &str) -> usize {
        self.calls.borrow().iter().filter(|&&found| found == call).count()
    }
}

impl Backend for Recorder {
    type Error = Refusal;
    type Tensor = Activations;
    type Linear = Linear;
    type Embedding = Embedding;
    type Norm = Norm;
    type Rotary = RotaryTable;
    type KvCache = KvCache;
    type Batch<'a> = cpu::Batch<'a>;
    type Group = Alone;
    type Stay = Stayed;
    const HEAD_DIM_MAX: usize = 64;

    fn has_room(&self, _: u64) -> bool {
        true
    }

    fn tensor(&self) -> Activations {
        self.cpu.tensor()
    }

    fn linear(&self, parts: &[Part<'_>]) -> Result<Linear, Refusal> {
        Ok(Backend::linear(self.record("linear")?, parts)?)
    }

    fn linear_dtype(&self, w: &Linear) -> Dtype {
        self.cpu.linear_dtype(w)
    }

    fn embedding(&self, first: u32, part: &Part<'_>) -> Result<Embedding, Refusal> {
        Ok(self.record("embedding")?.embedding(first, part)?)
    }

    fn norm(&self, weight: &[f32], bias: Option<&[f32]>, epsilon: f32) -> Result<Norm, Refusal> {
        Ok(Backend::norm(self.record("norm")?, weight, bias, epsilon)?)
    }

    fn rotary(&self, theta: f64, head_dim: usize, positions: usize) -> Result<RotaryTable, Refusal> {
        Ok(self.record("rotary")?.rotary(theta, head_dim, positions)?)
    }

    fn kv_cache(
        &self,
        shape: &AttentionShape,
        layers: usize,
        blocks: usize,
        block_size: usize,
        dtype: Dtype,
        activations: u64,
    ) -> Result<KvCache, Refusal> {
        Ok(self.record("kv_cache")?.kv_cache(shape, layers, blocks, block_size, dtype, activations)?)
    }

    fn kv_bytes(&self, kv: &KvCache) -> u64 {
        self.cpu.kv_bytes(kv)
    }

    fn group(&mut self, _: &Mesh, _: &[usize]) -> Result<Box<Alone>, Refusal> {
        Ok(Box::new(Alone))
    }

    fn group_size(&self, _: &Alone) -> usize {
        1
    }

    fn begin<'a>(&mut self, spans: &'a [Span<'a>], tokens: &'a [u32]) -> Result<cpu::Batch<'a>, Refusal> {
        Ok(self.cpu.begin(spans, tokens)?)
    }

    fn rows(&self, batch: &Self::Batch<'_>) -> usize {
        self.cpu.rows(batch)
    }

    fn enter(&self, now_ns: u64) -> Result<Stayed, Refusal> {
        Ok(self.cpu.enter(now_ns)?)
    }

    fn leave(&self, stay: &mut Stayed, now_ns: u64, is_done: bool) -> Done {
        Ok(self.cpu.leave(stay, now_ns, is_done)?)
    }

    fn stayed(&self, stay: &mut Stayed) -> Result<Option<Stayed>, Refusal> {
        Ok(self.cpu.stayed(stay)?)
    }

    fn reshape(&self, x: &mut Activations, rows: usize, width: usize) -> Done {
        Ok(Backend::reshape(&self.cpu, x, rows, width)?)
    }

    fn embed(&self, table: &Embedding, batch: &cpu::Batch<'_>, out: &mut Activations) -> Done {
        Ok(Backend::embed(self.record("embed")?, table, batch, out)?)
    }

    fn embed_head(&self, head: &Linear, first: u32, batch: &cpu::Batch<'_>, out: &mut Activations) -> Done {
        Ok(self.record("embed_head")?.embed_head(head, first, batch, out)?)
    }

    fn apply_norm(&self, norm: &Norm, x: &Activations, y: &mut Activations) -> Done {
        Ok(self.record("apply_norm")?.apply_norm(norm, x, y)?)
    }

    fn product(&self, w: &Linear, x: &Activations, y: &mut Activations) -> Done {
        Ok(Backend::product(self.record("product")?, w, x, y)?)
    }

    fn rotate_and_store(
        &self,
        rotary: &RotaryTable,
        kv: &mut KvCache,
        layer: usize,
        shape: &AttentionShape,
        batch: &cpu::Batch<'_>,
        qkv: &mut Activations,
    ) -> Done {
        Ok(self.record("rotate_and_store")?.rotate_and_store(rotary, kv, layer, shape, batch, qkv)?)
    }

    fn attend(
        &self,
        kv: &KvCache,
        layer: usize,
        shape: &AttentionShape,
        batch: &cpu::Batch<'_>,
        qkv: &Activations,
        out: &mut Activations,
    ) -> Done {
        Ok(Backend::attend(self.record("attend")?, kv, layer, shape, batch, qkv, out)?)
    }

    fn gelu(&self, x: &mut Activations) -> Done {
        Ok(Backend::gelu(self.record("gelu")?, x)?)
    }

    fn silu_mul(&self, gate_up: &Activations, f: usize, out: &mut Activations) -> Done {
        Ok(Backend::silu_mul(self.record("silu_mul")?, gate_up, f, out)?)
    }

    fn add(&self, x: &mut Activations, y: &Activations) -> Done {
        Ok(Backend::add(self.record("add")?, x, y)?)
    }

    fn take_rows(&self, x: &Activations, rows: &[usize], out: &mut Activations) -> Done {
        Ok(self.record("take_rows")?.take_rows(x, rows, out)?)
    }

    fn logits(
        &self,
        all: &Activations,
        ranks: usize,
        rows: usize,
        held: usize,
        vocab: usize,
        out: &mut Vec<f32>,
    ) -> Done {
        Ok(self.record("logits")?.logits(all, ranks, rows, held, vocab, out)?)
    }

    fn greedy(
        &self,
        all: &Activations,
        ranks: usize,
        rows: usize,
        held: usize,
        vocab: usize,
        tokens: &mut Vec<u32>,
    ) -> Done {
        Ok(self.record("greedy")?.greedy(all, ranks, rows, held, vocab, tokens)?)
    }

    fn draw(
        &self,
        all: &Activations,
        ranks: usize,
        held: usize,
        vocab: usize,
        how: &[Draw],
        tokens: &mut Vec<u32>,
    ) -> Done {
        Ok(self.record("draw")?.draw(all, ranks, held, vocab, how, tokens)?)
    }

    fn synchronize(&self) -> Done {
        Ok(())
    }

    fn all_reduce(&self, group: &mut Alone, x: &mut Activations) -> Done {
        Ok(self.record("all_reduce")?.all_reduce(group, x)?)
    }

    fn all_gather(&self, group: &mut Alone, mine: &Activations, all: &mut Activations) -> Done {
        Ok(self.record("all_gather")?.all_gather(group, mine, all)?)
    }

    fn send(&self, group: &mut Alone, to: usize, x: &Activations) -> Done {
        Ok(self.cpu.send(group, to, x)?)
    }

    fn recv(&self, group: &mut Alone, from: usize, rows: usize, width: usize, x: &mut Activations) -> Done {
        Ok(self.cpu.recv(group, from, rows, width, x)?)
    }
}

const LAYERS: u32 = 3;

fn plan(family: Family, parallel_attention: bool) -> StagePlan {
    let shape = ModelShape {
        name: "tiny".to_owned(),
        family,
        hidden_size: 40,
        layers: LAYERS,
        query_heads: 4,
        kv_heads: 2,
        head_dim: 6,
        ffn_size: 56,
        vocab_size: 131,
        parallel_attention,
        norms_per_layer: 2,
        tied_embedding: family == Family::Llama,
    };
    StagePlan {
        config: ModelConfig::of_shape(shape),
        parallel: Parallel { tp: 1, pp: 1 },
        stage: 0,
        tp_rank: 0,
        max_positions: 32,
        batch_tokens: 32,
    }
}

fn load<B: Backend>(backend: &B, plan: &StagePlan) -> Result<Stage<B>, ModelError> {
    let source = Dummy::new(3, Dtype::Bfloat16, plan)?;
    Stage::load(backend, plan, &source, KvSpec { blocks: 4, block_size: 4 })
}

/// The logits after a prompt of four tokens.
fn prefill<B: Backend>(
    backend: &mut B,
    group: &mut B::Group,
    plan: &StagePlan,
) -> Result<Vec<f32>, B::Error> {
    let mut stage = load(backend, plan).unwrap();
    let spans = [Span { first_row: 0, tokens: 4, context: 0, table: &[2] }];
    let batch = backend.begin(&spans, &[7, 1, 130, 64])?;
    let (mut hidden, mut logits) = (backend.tensor(), Vec::new());
    stage.embed(backend, group, &batch, &mut hidden)?;
    stage.layers(backend, group, &batch, &mut hidden)?;
    stage.logits(backend, group, &[3], &hidden, &mut logits)?;
    Ok(logits)
}

/// What a device sums over its ranks is what costs: once a layer where attention and MLP run in parallel, else twice, and the embedding.
#[test]
fn layers_are_summed_once_or_twice_and_computed_alike() {
    for (family, parallel_attention, sums) in
        [(Family::Falcon, true, 1), (Family::Falcon, false, 2), (Family::Llama, false, 2)]
    {
        let plan = plan(family, parallel_attention);
        let mut recorder = Recorder::new("");
        let found = prefill(&mut recorder, &mut Alone, &plan).unwrap();
        let expected = prefill(&mut Cpu::new(1, None).unwrap(), &mut Alone, &plan).unwrap();
        assert_eq!(found, expected, "{family:?}");
        let layers = LAYERS as usize;
        assert_eq!(recorder.count("all_reduce"), 1 + sums * layers, "{family:?}");
        assert_eq!(recorder.count("product"), 4 * layers + 1, "{family:?}");
        for call in ["rotate_and_store", "attend"] {
            assert_eq!(recorder.count(call), layers, "{family:?} {call}");
        }
        for call in ["take_rows", "all_gather", "logits"] {
            assert_eq!(recorder.count(call), 1, "{family:?} {call}");
        }
    }
}

#[test]
fn what_a_backend_refuses_at_load_is_told_in_its_words() {
    let plan = plan(Family::Falcon, true);
    for call in ["linear", "embedding", "norm", "rotary", "kv_cache"] {
        let error = load(&Recorder::new(call), &plan).err().unwrap();
        assert!(matches!(error, ModelError::Backend(_)));
        assert_eq!(error.to_string(), format!("{call}: refused"));
    }
    let mut wide = plan;
    wide.config.shape.head_dim = 66;
    let error = load(&Recorder::new(""), &wide).err().unwrap();
    assert_eq!(error.to_string(), "expected heads of at most 64 values, found 66");
}

#[test]
fn what_a_backend_refuses_in_a_step_ends_it() {
    let calls = [
        "embed",
        "apply_norm",
        "product",
        "rotate_and_store",
        "attend",
        "gelu",
        "add",
        "all_reduce",
        "logits",
    ];
    for call in calls {
        let mut recorder = Recorder::new(call);
        let error = prefill(&mut recorder, &mut Alone, &plan(Family::Falcon, true)).unwrap_err();
        assert_eq!(error.to_string(), format!("{call}: refused"));
        assert_eq!(recorder.calls.borrow().last(), Some(&call), "nothing is asked for after it");
    }
}
