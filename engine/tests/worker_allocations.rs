//! The thread of a worker that computes allocates nothing in a step, from the driver's order to its report.
//!
//! This program is both: a test, and the worker that the test starts, which counts.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::print_stdout, reason = "whoever runs tests asks which there are")]
#![allow(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use chariot_engine::backend::BackendName;
use chariot_engine::model::KvSpec;
use chariot_engine::runtime::{
    Place, Places, Plan, ProbePart, ProbePlan, RuntimeExecutor, Weights, run_worker,
};
use chariot_engine::shard::Parallel;

const TEST: &str = "a_workers_step_allocates_nothing";
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/golden/falcon-new");
/// Where a worker writes how often its first thread has allocated.
const FOLDER: &str = "CHARIOT_TEST_FOLDER";
const PARALLEL: Parallel = Parallel { tp: 2, pp: 2 };

thread_local! {
    /// Allocations of this thread so far.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

fn count() {
    // A thread that ends may allocate when its variables are gone.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: it hands everything to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's contract is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's contract is the system's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| words.iter().any(|given| given == word);
    let filters = || words.iter().filter(|word| !word.starts_with('-'));
    match &words[..] {
        [command, _, rank] if command == "worker" => worker(rank.parse().unwrap()),
        _ if has("--list") && !has("--ignored") => println!("{TEST}: test"),
        _ if has("--list") || has("--ignored") => {}
        _ if filters().next().is_none() || filters().any(|filter| TEST.contains(filter.as_str())) => test(),
        _ => {}
    }
}

/// One rank of a run, to its end.
fn worker(rank: u32) {
    let code = run_worker(rank, std::io::stdin()).unwrap();
    let count = ALLOCATIONS.get();
    let folder = std::env::var(FOLDER).unwrap();
    fs_err::write(format!("{folder}/{rank}"), count.to_string()).unwrap();
    std::process::exit(i32::from(code));
}

/// Allocations of each worker's first thread in a run of so many steps of two sequences.
fn run(steps: u32, shared_memory: bool) -> Vec<usize> {
    let folder = tempfile::tempdir().unwrap();
    let launch = vec!["env".to_owned(), format!("{FOLDER}={}", folder.path().display())];
    let places = Places::here();
    let place = Place { address: places.driver, launch, program: None };
    let plan = Plan {
        backend: BackendName::Cpu,
        operations: false,
        parallel: PARALLEL,
        threads: 1,
        weights: Weights::HuggingFace(MODEL.into()),
        kv: KvSpec { blocks: 16, block_size: 16 },
        blocks_touched: 0,
        max_model_len: 64,
        batch_tokens: 64,
        places: Places { ranks: vec![place; PARALLEL.ranks() as usize], ..places },
        shared_memory,
        cores: Vec::new(),
        links: None,
        ready_by: Duration::from_secs(60),
        step_by: Duration::from_secs(60),
    };
    let mut executor = RuntimeExecutor::launch(&std::env::current_exe().unwrap(), &plan).unwrap();
    let part = |tokens| ProbePart { context: 16, tokens, samples: true };
    let probe = ProbePlan { first_block: 0, vocabulary: 200, times: steps, depth: 1 };
    executor.probe(&[part(20), part(1)], &probe).unwrap();
    executor.finish().unwrap();
    let count =
        |rank| fs_err::read_to_string(folder.path().join(format!("{rank}"))).unwrap().parse().unwrap();
    (0..PARALLEL.ranks()).map(count).collect()
}

fn test() {
    for shared_memory in [true, false] {
        let (few, many) = (run(10, shared_memory), run(40, shared_memory));
        // Over TCP the others greet whoever comes when it comes, which takes them more or less; the last one calls all.
        let first = if shared_memory { 0 } else { few.len() - 1 };
        for (rank, (few, many)) in few.iter().zip(&many).enumerate().skip(first) {
            assert_eq!(many, few, "rank {rank}, shared memory: {shared_memory}");
        }
    }
}
