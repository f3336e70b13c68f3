//! A rank's file is written without ever holding a large tensor, whether its values are made up or cut from a folder: by its function, and
//! by the whole command.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(unsafe_code, reason = "an allocator that counts")]

mod ranks;

use std::alloc::{GlobalAlloc, Layout, System};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use camino::Utf8Path;
use chariot_engine::model::{Dummy, HuggingFace, ModelConfig, StagePlan, TensorSource, rank_file};
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

/// Its MLP's tensors are 25 MB each in f32, in all 80 MB.
const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 512, "num_hidden_layers": 1, "num_attention_heads": 8,
    "num_key_value_heads": 2, "intermediate_size": 12288, "vocab_size": 1000, "tie_word_embeddings": false}"#;

fn config() -> ModelConfig {
    ModelConfig::parse(CONFIG, "wide").unwrap()
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

fn succeeds(folder: &Utf8Path, args: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chariot-engine"));
    let output = command.args(args.split(' ')).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The whole command, in `folder`: its anonymous memory, which is all but the mapped pages of files, stays below a tensor's bytes.
fn expect_command_holds_less(folder: &Utf8Path, args: &str) {
    let largest = 512 * 12_288 * 4;
    let mut child = Command::new(env!("CARGO_BIN_EXE_chariot-engine"))
        .args(args.split(' '))
        .current_dir(folder)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let (mut looks, mut held_max) = (0, 0);
    while child.try_wait().unwrap().is_none() {
        if let Some(held) = anonymous_bytes(child.id()) {
            looks += 1;
            held_max = held.max(held_max);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(child.wait().unwrap().success(), "{args}");
    assert!(looks >= 5, "expected the command to be seen at work, found {looks} looks at it");
    assert!(
        held_max < largest,
        "{args}: expected less than {largest} bytes, those of the largest tensor, found {held_max}"
    );
}

/// Of a process; none once it has ended.
fn anonymous_bytes(process: u32) -> Option<usize> {
    let status = fs_err::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kilobytes: usize = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
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

    fs_err::write(folder.join("config.json"), CONFIG).unwrap();
    let platform = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines/platforms/cpu-2x4.yaml");
    succeeds(folder, &format!("cluster --platform {platform} --on cpu --out cluster.json"));
    for (number, more) in
        ["--weights . --tp 1 --pp 1", "--weights . --tp 2 --pp 1", "--dummy 1 --dtype f32 --tp 1 --pp 1"]
            .into_iter()
            .enumerate()
    {
        let out = format!("{number}");
        fs_err::create_dir(folder.join(&out)).unwrap();
        let shard =
            format!("shard --cluster cluster.json --model config.json --out {out}/weights.json {more}");
        expect_command_holds_less(folder, &shard);
        let written = fs_err::metadata(folder.join(out).join("rank-000.safetensors")).unwrap().len();
        assert!(written > 30_000_000, "{shard}: expected a rank's weights, found {written} bytes");
    }
}
