//! After a warm-up, a step of a stage allocates nothing: not in its products, its attention or its threads, and not between two ranks.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(unsafe_code, reason = "an allocator that counts")]

mod ranks;

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chariot_engine::backend::cpu::{Activations, Cpu};
use chariot_engine::backend::{Backend, Draw, Span};
use chariot_engine::comm::secret::Secret;
use chariot_engine::comm::tcp::Listener;
use chariot_engine::comm::{Alone, Communicator, Mesh, Patience, shm};
use chariot_engine::model::{Dummy, KvSpec, ModelConfig, Stage, StagePlan};
use chariot_engine::shape::{Family, ModelShape};
use chariot_engine::shard::{Dtype, Parallel};
use ranks::whole;

/// Allocations so far, of all threads.
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: it hands everything to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract is the system's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn config(family: Family) -> ModelConfig {
    ModelConfig::of_shape(ModelShape {
        name: "small".to_owned(),
        family,
        hidden_size: 96,
        layers: 2,
        query_heads: 6,
        kv_heads: 2,
        head_dim: 16,
        ffn_size: 200,
        vocab_size: 131,
        parallel_attention: family == Family::Falcon,
        norms_per_layer: 2,
        tied_embedding: true,
    })
}

/// Embeds, runs the layers and the head for a chunk of one sequence and a token of each other.
fn step(
    cpu: &mut Cpu,
    stage: &mut Stage<Cpu>,
    group: &mut (dyn Communicator + 'static),
    spans: &[Span<'_>],
    buffers: &mut Buffers,
) {
    let Buffers { tokens, rows, hidden, logits, greedy, how, drawn } = buffers;
    let batch = cpu.begin(spans, tokens).unwrap();
    stage.embed(cpu, group, &batch, hidden).unwrap();
    stage.layers(cpu, group, &batch, hidden).unwrap();
    stage.logits(cpu, group, rows, hidden, logits).unwrap();
    stage.greedy(cpu, group, rows, hidden, greedy).unwrap();
    stage.draw(cpu, group, rows, hidden, how, drawn).unwrap();
}

struct Buffers {
    tokens: Vec<u32>,
    rows: Vec<usize>,
    hidden: Activations,
    logits: Vec<f32>,
    greedy: Vec<u32>,
    how: Vec<Draw>,
    drawn: Vec<u32>,
}

const KV: KvSpec = KvSpec { blocks: 32, block_size: 16 };
/// Tokens of the first sequence's chunk: enough that threads share every operation.
const CHUNK: usize = 80;
/// Steps before those that are counted, and those.
const WARM: usize = 2;
const STEPS: usize = 5;

/// Blocks of four sequences.
fn tables() -> Vec<Vec<u32>> {
    (0..4).map(|seq| (seq * 8..seq * 8 + 8).collect()).collect()
}

/// A chunk of the first sequence, and a token of each other.
fn spans(tables: &[Vec<u32>]) -> Vec<Span<'_>> {
    let mut spans = Vec::new();
    for (seq, table) in tables.iter().enumerate() {
        let (first_row, tokens) = if seq == 0 { (0, CHUNK) } else { (CHUNK + seq - 1, 1) };
        spans.push(Span { first_row, tokens, context: 20, table });
    }
    spans
}

/// Steps of one rank: some to warm up; then, between two calls of `count`, those that are counted.
fn run(
    plan: &StagePlan,
    dtype: Dtype,
    threads: usize,
    group: &mut (dyn Communicator + 'static),
    count: &dyn Fn(),
) {
    let source = Dummy::new(3, dtype, plan).unwrap();
    let mut cpu = Cpu::new(threads, None).unwrap();
    let mut stage = Stage::load(&cpu, plan, &source, KV).unwrap();
    let tables = tables();
    let spans = spans(&tables);
    let mut buffers = Buffers {
        tokens: (0..CHUNK as u32 + 3).collect(),
        rows: (CHUNK - 1..CHUNK + 3).collect(),
        hidden: cpu.tensor(),
        logits: Vec::new(),
        greedy: Vec::new(),
        how: vec![Draw::new(0.8, 0.9, 1 << 63); spans.len()],
        drawn: Vec::new(),
    };
    for _ in 0..WARM {
        step(&mut cpu, &mut stage, group, &spans, &mut buffers);
    }
    count();
    for _ in 0..STEPS {
        step(&mut cpu, &mut stage, group, &spans, &mut buffers);
    }
    count();
    assert!(buffers.logits.iter().all(|logit| logit.is_finite()));
}

/// A mesh of two ranks in this process, by rank.
fn meshes(shared_memory: bool) -> Vec<Mesh> {
    const PATIENCE: Duration = Duration::from_secs(60);
    if shared_memory {
        let memory = shm::create(2).unwrap();
        let open = |rank| Mesh::shared_memory(&memory.path(), rank, 2, Patience::shared_cores(PATIENCE));
        return (0..2).map(|rank| open(rank).unwrap()).collect();
    }
    let secret = Secret::random().unwrap();
    let listeners = [(); 2].map(|()| Listener::bind(IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap());
    let peers = listeners.each_ref().map(|listener| listener.address().unwrap());
    let join = |(rank, listener)| Mesh::tcp(listener, rank, &peers, &secret, PATIENCE).unwrap();
    std::thread::scope(|scope| {
        let ranks = listeners.into_iter().enumerate().map(|rank| scope.spawn(move || join(rank)));
        let ranks: Vec<_> = ranks.collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Allocations of all threads while two ranks run the counted steps.
fn of_two_ranks(plan: &StagePlan, shared_memory: bool) -> usize {
    let meshes = meshes(shared_memory);
    let barrier = Barrier::new(2);
    let counts = [const { AtomicUsize::new(0) }; 2];
    std::thread::scope(|scope| {
        for (rank, mesh) in meshes.into_iter().enumerate() {
            let (barrier, counts) = (&barrier, &counts);
            scope.spawn(move || {
                let calls = AtomicUsize::new(0);
                // No rank begins before the number is taken, and it is taken once none is at work.
                let count = || {
                    barrier.wait();
                    if rank == 0 {
                        let call = calls.fetch_add(1, Ordering::Relaxed);
                        counts[call].store(ALLOCATIONS.load(Ordering::Relaxed), Ordering::Relaxed);
                    }
                    barrier.wait();
                };
                let plan = StagePlan { tp_rank: rank as u32, ..plan.clone() };
                run(&plan, Dtype::Bfloat16, 1, &mut *mesh.group(&[0, 1]), &count);
            });
        }
    });
    let [before, after] = counts.map(AtomicUsize::into_inner);
    after - before
}

// One test alone: another would be counted as well.
#[test]
fn a_step_allocates_nothing_after_the_first() {
    for family in [Family::Falcon, Family::Llama] {
        for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
            let counts = std::cell::RefCell::new(Vec::with_capacity(2));
            let count = || counts.borrow_mut().push(ALLOCATIONS.load(Ordering::Relaxed));
            run(&whole(&config(family)), dtype, 3, &mut Alone, &count);
            assert_eq!(counts.borrow()[1] - counts.borrow()[0], 0, "{family:?} {dtype:?}");
        }
        let parallel = Parallel { tp: 2, pp: 1 };
        let plan = StagePlan { parallel, ..whole(&config(family)) };
        for shared_memory in [true, false] {
            let found = of_two_ranks(&plan, shared_memory);
            assert_eq!(found, 0, "{family:?}, two ranks, shared memory: {shared_memory}");
        }
    }
}
