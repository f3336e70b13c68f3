//! Simulated batches per second of the latency trial at batch cap 128 (2048 chat requests, 0.75 QPS, 1800 s), with the
//! records encoded.
//!
//! `cargo bench -p chariot-engine --bench simulator`
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::hint::black_box;

use camino::Utf8Path;
use chariot_engine::engine::Trial;
use chariot_engine::record::{Recorder, Watch};
use chariot_engine::sched::{ChunkSchedule, Compat, Policy, Scheduler, SchedulerConfig};
use chariot_engine::shape::ModelShape;
use chariot_engine::shard::{Division, Parallel};
use chariot_engine::sim::SimExecutor;
use chariot_engine::sim::coefficient::Band;
use chariot_engine::sim::cost::CostModel;
use chariot_engine::units::Nanos;
use chariot_engine::workload::{Arrivals, Lengths, Request, Workload};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const PIPELINES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines");

fn costs(tp: u32, pp: u32) -> CostModel {
    let read =
        |path: &str| fs_err::read_to_string(format!("{PIPELINES}/{path}.yaml")).expect("the preset is there");
    let platform =
        serde_saphyr::from_str(&read("platforms/azure-nc96ads-a100-v4-x2")).expect("the preset is valid");
    let shape = ModelShape::parse(&read("models/falcon-180b"), "").expect("the preset is valid");
    let division = Division::new(&shape, Parallel { tp, pp }).expect("both layouts divide it");
    CostModel::new(&platform, &shape, &division, Band::Central)
}

fn requests() -> Vec<Request> {
    let lengths = Lengths::Quantiles { file: "openchat_sharegpt4.yaml".to_owned(), total_max: None };
    let workload = Workload { requests: 2048, arrivals: Arrivals::Poisson { qps: 0.75 }, lengths };
    workload.generate(&Utf8Path::new(PIPELINES).join("lengths"), 42, false).expect("the preset is there")
}

/// Runs the trial; the number of batches.
fn trial(costs: CostModel, requests: &[Request]) -> u32 {
    let config = SchedulerConfig {
        policy: Policy::Sarathi { chunk: ChunkSchedule::Fixed(512) },
        batch_cap: 128,
        max_model_len: 8192,
        block_size: 16,
        blocks: 78_636,
        stages: costs.depth(),
        watermark: None,
        compat: Compat::Honest,
    };
    let watch = Watch::new(Vec::new(), requests.iter().map(|request| request.output_tokens));
    let mut recorder =
        Recorder::new(std::io::sink(), Some(std::io::sink()), watch).expect("a sink takes all");
    let mut executor = SimExecutor::new(costs);
    let scheduler = Scheduler::new(config).expect("the configuration is valid");
    let limit = Nanos::from_secs_f64(1800.0);
    let ending =
        Trial::new(requests, scheduler, &mut executor, &mut recorder).run(limit).expect("a sink takes all");
    recorder.finish(ending.end).expect("a sink takes all");
    ending.batches
}

fn simulator(c: &mut Criterion) {
    let requests = requests();
    let mut group = c.benchmark_group("simulator");
    group.sample_size(20);
    for (name, tp, pp) in [("tp8", 8, 1), ("tp4-pp2", 4, 2)] {
        let batches = trial(costs(tp, pp), &requests);
        group.throughput(Throughput::Elements(u64::from(batches)));
        group.bench_function(name, |b| b.iter(|| trial(costs(tp, pp), black_box(&requests))));
    }
    group.finish();
}

criterion_group!(benches, simulator);
criterion_main!(benches);
