//! A rank's file is written without ever holding a large tensor, whether its values are made up or cut from a folder.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(unsafe_code, reason = "an allocator that counts")]

mod ranks;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use camino::Utf8Path;
use chariot_engine::model::{Dummy, HuggingFace, ModelConfig, StagePlan, TensorSource, rank_file};
use chariot_engine::shape::{Family, ModelShape};
use chariot_engine::shard::{Division, Dtype, Parallel};
use ranks::whole;

/// Bytes that are allocated now, of all threads.
static HELD: AtomicUsize = AtomicUsize::new(0);
/// The most that were since this was set.
static HELD_MAX: AtomicUsize = AtomicUsize::new(0);

struct Counting;

fn note(freed: usize, taken: usize) {
    let held = HELD.fetch_add(taken, Ordering::Relaxed) + taken;
    HELD_MAX.fetch_max(held, Ordering::Relaxed);
    HELD.fetch_sub(freed, Ordering::Relaxed);
}

// SAFETY: it hands everything to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(0, layout.size());
        // SAFETY: the caller's contract is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(layout.size(), 0);
        // SAFETY: the caller's contract is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn config() -> ModelConfig {
    ModelConfig::of_shape(ModelShape {
        name: "wide".to_owned(),
        family: Family::Llama,
        hidden_size: 512,
        layers: 1,
        query_heads: 8,
        kv_heads: 2,
        head_dim: 64,
        ffn_size: 12_288,
        vocab_size: 1000,
        parallel_attention: false,
        norms_per_layer: 2,
        tied_embedding: false,
    })
}

/// Writes the file of `plan`'s rank to nowhere.
fn expect_less_than_a_tensor(plan: &StagePlan, source: &dyn TensorSource) {
    let division = Division::new(&plan.config.shape, plan.parallel).unwrap();
    let mut tensors = division.tensors(&plan.config.shape, plan.stage, Dtype::Float32);
    let largest = tensors.iter().map(|tensor| tensor.bytes).max().unwrap() as usize;
    let before = HELD.load(Ordering::Relaxed);
    HELD_MAX.store(before, Ordering::Relaxed);
    rank_file::write(&mut std::io::sink(), "key", source, &mut tensors).unwrap();
    let held = HELD_MAX.load(Ordering::Relaxed) - before;
    assert!(tensors.iter().all(|tensor| tensor.digest.is_some()));
    assert!(held < largest, "expected less than {largest} bytes, those of the largest tensor, found {held}");
}

// One test alone: what another holds would be counted as well.
#[test]
fn no_large_tensor_is_held_while_a_file_is_written() {
    let plan = whole(&config());
    expect_less_than_a_tensor(&plan, &Dummy::new(1, Dtype::Float32, &plan).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let folder = Utf8Path::from_path(folder.path()).unwrap();
    ranks::folder::write_random(folder, &config());
    for parallel in [Parallel { tp: 1, pp: 1 }, Parallel { tp: 2, pp: 1 }] {
        let plan = StagePlan { parallel, ..plan.clone() };
        expect_less_than_a_tensor(&plan, &HuggingFace::open(folder, &plan).unwrap());
    }
}
