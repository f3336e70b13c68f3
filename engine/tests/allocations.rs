//! After a warm-up, a step of a stage allocates nothing: not in its products, its attention or its threads.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(unsafe_code, reason = "an allocator that counts")]

mod ranks;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use chariot_engine::backend::cpu::{Activations, Cpu};
use chariot_engine::backend::{Backend, Span};
use chariot_engine::comm::Alone;
use chariot_engine::model::{Dummy, KvSpec, ModelConfig, Stage};
use chariot_engine::shape::{Family, ModelShape};
use chariot_engine::shard::Dtype;
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
fn step(cpu: &mut Cpu, stage: &mut Stage<Cpu>, spans: &[Span<'_>], buffers: &mut Buffers) {
    let Buffers { tokens, rows, hidden, logits, greedy } = buffers;
    let batch = cpu.begin(spans, tokens).unwrap();
    stage.embed(cpu, &mut Alone, &batch, hidden).unwrap();
    stage.layers(cpu, &mut Alone, &batch, hidden).unwrap();
    stage.logits(cpu, &mut Alone, rows, hidden, logits).unwrap();
    stage.greedy(cpu, &mut Alone, rows, hidden, greedy).unwrap();
}

struct Buffers {
    tokens: Vec<u32>,
    rows: Vec<usize>,
    hidden: Activations,
    logits: Vec<f32>,
    greedy: Vec<u32>,
}

// One test alone: another would be counted as well.
#[test]
fn a_step_allocates_nothing_after_the_first() {
    for family in [Family::Falcon, Family::Llama] {
        for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
            let plan = whole(&config(family));
            let source = Dummy::new(3, dtype, &plan).unwrap();
            let kv = KvSpec { blocks: 32, block_size: 16 };
            let mut cpu = Cpu::new(3, None).unwrap();
            let mut stage = Stage::load(&cpu, &plan, &source, kv).unwrap();
            let tables: Vec<Vec<u32>> = (0..4).map(|seq| (seq * 8..seq * 8 + 8).collect()).collect();
            // Enough rows that threads share every operation.
            let chunk = 80;
            let span = |(seq, table): (usize, &'_ Vec<u32>)| match seq {
                0 => (0, chunk, table.clone()),
                _ => (chunk + seq - 1, 1, table.clone()),
            };
            let parts: Vec<_> = tables.iter().enumerate().map(span).collect();
            let spans: Vec<Span<'_>> = parts
                .iter()
                .map(|(first_row, tokens, table)| Span {
                    first_row: *first_row,
                    tokens: *tokens,
                    context: 20,
                    table,
                })
                .collect();
            let mut buffers = Buffers {
                tokens: (0..chunk as u32 + 3).collect(),
                rows: (chunk - 1..chunk + 3).collect(),
                hidden: cpu.tensor(),
                logits: Vec::new(),
                greedy: Vec::new(),
            };
            step(&mut cpu, &mut stage, &spans, &mut buffers);
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            for _ in 0..5 {
                step(&mut cpu, &mut stage, &spans, &mut buffers);
            }
            let allocated = ALLOCATIONS.load(Ordering::Relaxed) - before;
            assert_eq!(allocated, 0, "{family:?} {dtype:?}");
            assert!(buffers.logits.iter().all(|logit| logit.is_finite()));
        }
    }
}
