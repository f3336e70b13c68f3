//! What a store costs: looking up 10,000 actions (a rerun with nothing to do), publishing one action of a simulated
//! trial's size, and the same bytes without any fsync for comparison.
//!
//! `cargo bench -p chariot-cache`

use std::hint::black_box;

use camino::{Utf8Path, Utf8PathBuf};
use chariot_cache::{Digest, Lookup, Manifest, Run, Store};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

const ACTIONS: u32 = 10_000;

fn scratch() -> (tempfile::TempDir, Utf8PathBuf) {
    // Beside the target directory rather than in /tmp, which may be memory.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target directory can be written");
    let root = Utf8PathBuf::from_path_buf(dir.path().to_owned()).expect("the target directory is UTF-8");
    (dir, root)
}

fn manifest(number: u32) -> Manifest {
    let mut manifest = Manifest::new();
    manifest.list("argv", ["chariot-engine", "simulate", "--cluster", "cluster.json", "--out", "."]);
    manifest.field("tool", "chariot-engine", Digest::of(b"tool"));
    for input in ["cluster.json", "weights.json", "config.json", "lengths.yaml"] {
        manifest.field("input", input, Digest::of(format!("{input} {number}").as_bytes()));
    }
    manifest
}

/// Files of the sizes a trial leaves: records, batches, a description, a log.
fn outputs(dir: &Utf8Path, number: u32, records_bytes: usize) -> Vec<(Utf8PathBuf, Utf8PathBuf)> {
    let sizes =
        [("records", records_bytes), ("batches", records_bytes / 10), ("trial.json", 1500), ("log", 200)];
    let write = |(name, size): (&str, usize)| {
        let path = dir.join(name);
        let mut content = vec![7; size.max(8)];
        content[..4].copy_from_slice(&number.to_le_bytes());
        fs_err::write(&path, content).expect("the scratch directory can be written");
        (name.into(), path)
    };
    sizes.map(write).into()
}

fn run() -> Run {
    let (finished_at, host) = ("2026-01-02T03:04:05Z".into(), "here".into());
    Run { tool: "chariot-engine".into(), exit_code: 0, wall_ns: 60_000_000, finished_at, host }
}

fn lookups(c: &mut Criterion) {
    let (_dir, root) = scratch();
    let store = Store::open(&root.join("store")).expect("a new store");
    for number in 0..ACTIONS {
        store.publish(&manifest(number), &outputs(&root, number, 100), &[], &run()).expect("published");
    }
    store.save().expect("saved");
    let keys: Vec<_> = (0..ACTIONS).map(|number| manifest(number).digest()).collect();
    c.bench_function("open a store and look up 10000 actions of 4 outputs", |b| {
        b.iter(|| {
            let store = Store::open(&root.join("store")).expect("opened");
            for key in &keys {
                let found = store.lookup(black_box(key)).expect("looked up");
                assert!(matches!(found, Lookup::Hit(_)));
            }
        });
    });
    c.bench_function("key of an action", |b| b.iter(|| black_box(manifest(7)).digest()));
}

fn publishes(c: &mut Criterion) {
    let (_dir, root) = scratch();
    let store = Store::open(&root.join("store")).expect("a new store");
    let mut number = 0;
    c.bench_function("publish an action of 1.5 MB in 4 files", |b| {
        b.iter_batched(
            || {
                number += 1;
                (manifest(number), outputs(&root, number, 1_500_000))
            },
            |(manifest, outputs)| store.publish(&manifest, &outputs, &[], &run()).expect("published"),
            BatchSize::PerIteration,
        );
    });
    let mut number = 0;
    c.bench_function("the same bytes copied without fsync", |b| {
        b.iter_batched(
            || {
                number += 1;
                outputs(&root, number, 1_500_000)
            },
            |outputs| outputs.iter().for_each(|(_, path)| drop(fs_err::copy(path, root.join("copy")))),
            BatchSize::PerIteration,
        );
    });
    let blob = store.cas().put_bytes(&vec![1; 1_500_000]).expect("stored");
    c.bench_function("materialise 1.5 MB", |b| {
        b.iter(|| store.materialise(&blob.digest, &root.join("dest")).expect("materialised"));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = publishes, lookups
}
criterion_main!(benches);
