//! Cost of the scheduler and of the recorder on the latency trial of the Sarathi-Serve experiment: 2048 chat requests,
//! two stages. Throughput is in chunks (scheduler) and in output tokens (recorder): 1 Gelem/s is 1 ns each.
//!
//! `cargo bench -p chariot-engine --bench scheduler`
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::collections::VecDeque;
use std::hint::black_box;

use camino::Utf8Path;
use chariot_engine::record::{Recorder, Watch};
use chariot_engine::sched::batch::Batch;
use chariot_engine::sched::{
    Admission, ChunkSchedule, Compat, NewSequence, Outcome, Policy, Scheduler, SchedulerConfig,
};
use chariot_engine::units::{Nanos, SeqId};
use chariot_engine::workload::{Arrivals, Lengths, Request, Workload};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const PRESETS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines/lengths");
const STAGES: u32 = 2;

/// What the recorder was told of.
enum Told {
    Arrived(NewSequence, bool),
    Scheduled(Batch, Nanos),
    Completed(Batch, Vec<Outcome>, Nanos, Nanos),
}

fn requests(count: u32, qps: f64) -> Vec<Request> {
    let lengths = Lengths::Quantiles { file: "openchat_sharegpt4.yaml".to_owned(), total_max: None };
    let workload = Workload { requests: count, arrivals: Arrivals::Poisson { qps }, lengths };
    workload.generate(Utf8Path::new(PRESETS), 42, false).expect("the preset is there")
}

fn config(policy: Policy) -> SchedulerConfig {
    SchedulerConfig {
        policy,
        batch_cap: 128,
        max_model_len: 8192,
        block_size: 16,
        blocks: 77_000,
        stages: STAGES,
        watermark: None,
        compat: Compat::Honest,
    }
}

/// Runs a whole trial on a fake pipeline; `tell` sees what a recorder would. Returns the chunks run.
fn trial(cfg: &SchedulerConfig, requests: &[Request], mut tell: impl FnMut(Told), told: bool) -> u64 {
    let mut scheduler = Scheduler::new(cfg.clone()).expect("a sound configuration");
    let mut arrivals = (0..).zip(requests).peekable();
    let mut in_flight: VecDeque<(Batch, Nanos, Nanos)> = VecDeque::new();
    let (mut now, mut first_free, mut last_end, mut chunks) = (Nanos::ZERO, Nanos::ZERO, Nanos::ZERO, 0);
    loop {
        while let Some((id, request)) = arrivals.next_if(|(_, request)| request.arrival <= now) {
            let Request { arrival, prompt_tokens, output_tokens } = *request;
            let new = NewSequence { id: SeqId(id), arrival, prompt_tokens, output_tokens };
            let ignored = scheduler.add(new) == Admission::Ignored;
            tell(Told::Arrived(new, ignored));
        }
        if let Some(batch) = scheduler.schedule() {
            chunks += batch.chunks.len() as u64;
            let first = &batch.chunks[0];
            let stage =
                Nanos(25_000_000 + 17 * u64::from(first.context) + 90_013 * batch.chunks.len() as u64);
            let start = now.max(first_free);
            first_free = start + stage;
            last_end = (first_free + stage).max(last_end + stage);
            if told {
                tell(Told::Scheduled(batch.clone(), now));
            }
            in_flight.push_back((batch, start, last_end));
        } else if let Some((batch, start, end)) = in_flight.pop_front() {
            now = now.max(end);
            let outcomes = scheduler.complete(&batch, &[]);
            if told {
                tell(Told::Completed(batch.clone(), outcomes.to_vec(), start, end));
            }
            scheduler.recycle(batch);
        } else if let Some((_, request)) = arrivals.peek() {
            now = request.arrival;
        } else {
            return chunks;
        }
    }
}

fn policies() -> [(&'static str, Policy); 5] {
    [
        ("sarathi", Policy::Sarathi { chunk: ChunkSchedule::Fixed(512) }),
        ("vllm", Policy::Vllm { max_batched_tokens: 8192 }),
        ("orca", Policy::Orca),
        ("faster_transformer", Policy::FasterTransformer),
        ("simple_chunking", Policy::SimpleChunking { chunk: 512 }),
    ]
}

fn scheduler(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scheduler");
    group.sample_size(10);
    let requests = requests(2048, 4.0);
    for (name, policy) in policies() {
        let cfg = config(policy);
        group.throughput(Throughput::Elements(trial(&cfg, &requests, |_| {}, false)));
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(trial(&cfg, &requests, |_| {}, false)));
        });
    }
    group.finish();
}

fn replay(told: &[Told]) -> usize {
    let watch = Watch::new(Vec::new(), std::iter::empty());
    let mut recorder = Recorder::new(Vec::new(), Some(Vec::new()), watch).expect("memory takes it");
    let mut last = Nanos::ZERO;
    for event in told {
        match event {
            Told::Arrived(new, ignored) => recorder.arrived(new, *ignored),
            Told::Scheduled(batch, now) => recorder.scheduled(batch, *now),
            Told::Completed(batch, outcomes, start, end) => {
                recorder.completed(batch, outcomes, *start, *end).expect("memory takes it");
                last = *end;
            }
        }
    }
    let (requests, batches) = recorder.finish(last).expect("memory takes it");
    requests.len() + batches.map_or(0, |batches| batches.len())
}

fn recorder(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("recorder");
    group.sample_size(10);
    let requests = requests(2048, 4.0);
    let tokens: u64 = requests.iter().map(|request| u64::from(request.output_tokens)).sum();
    group.throughput(Throughput::Elements(tokens));
    let mut told = Vec::new();
    trial(&config(policies()[0].1), &requests, |event| told.push(event), true);
    group.bench_function(format!("2048 requests, {tokens} tokens, {} bytes", replay(&told)), |bencher| {
        bencher.iter(|| black_box(replay(&told)));
    });
    group.finish();
}

criterion_group!(benches, scheduler, recorder);
criterion_main!(benches);
