//! The simulator against closed forms: queueing theory, pipeline algebra and conservation. Everything goes through the library
//! as a trial does, and is read back from the records.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::BTreeMap;

use chariot_engine::engine::{Ending, Trial};
use chariot_engine::record::{Recorder, Watch};
use chariot_engine::sched::{ChunkSchedule, Compat, Policy, Scheduler, SchedulerConfig};
use chariot_engine::shape::ModelShape;
use chariot_engine::shard::{Division, Parallel};
use chariot_engine::sim::SimExecutor;
use chariot_engine::sim::coefficient::{Band, Coefficient};
use chariot_engine::sim::cost::CostModel;
use chariot_engine::sim::platform::Platform;
use chariot_engine::timeline::Timeline;
use chariot_engine::units::Nanos;
use chariot_engine::workload::{Arrivals, Lengths, Request, Workload};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

const MS: f64 = 1e-3;

fn preset(path: &str) -> String {
    fs_err::read_to_string(format!("{}/../pipelines/{path}.yaml", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn platform(name: &str) -> Platform {
    serde_saphyr::from_str(&preset(&format!("platforms/{name}"))).unwrap()
}

/// Stages of 10 ms and nothing else.
fn constant() -> Platform {
    platform("constant-x8")
}

/// One setting of the whole simulator.
struct Setting {
    platform: Platform,
    model: &'static str,
    parallel: Parallel,
    policy: Policy,
    batch_cap: u32,
    blocks: u32,
    compat: Compat,
    time_limit: Nanos,
}

impl Setting {
    fn new(platform: Platform, tp: u32, pp: u32) -> Self {
        Self {
            platform,
            model: "falcon-180b",
            parallel: Parallel { tp, pp },
            policy: Policy::Sarathi { chunk: ChunkSchedule::Fixed(512) },
            batch_cap: 128,
            blocks: 1 << 20,
            compat: Compat::Honest,
            time_limit: Nanos::MAX,
        }
    }

    fn costs(&self) -> CostModel {
        let shape = ModelShape::parse(&preset(&format!("models/{}", self.model)), "").unwrap();
        CostModel::new(&self.platform, &shape, &Division::new(&shape, self.parallel).unwrap(), Band::Central)
    }

    fn run(&self, requests: &[Request]) -> Run {
        let scheduler = SchedulerConfig {
            policy: self.policy,
            batch_cap: self.batch_cap,
            max_model_len: 8192,
            block_size: 16,
            blocks: self.blocks,
            stages: self.parallel.pp,
            watermark: None,
            compat: self.compat,
        };
        let watch = Watch::new(Vec::new(), requests.iter().map(|request| request.output_tokens));
        let mut recorder = Recorder::new(Vec::new(), Some(Vec::new()), watch).unwrap();
        let mut executor = SimExecutor::new(self.costs());
        let mut timeline = Timeline::default();
        let trial = Trial::new(requests, Scheduler::new(scheduler).unwrap(), &mut executor, &mut recorder)
            .with_timeline(Some(&mut timeline));
        let ending = trial.run(self.time_limit).unwrap();
        let (records, batches) = recorder.finish(ending.end).unwrap();
        let mut trace = Vec::new();
        timeline.write("test", &[], &mut trace).unwrap();
        Run { records, batches: batches.unwrap(), trace, ending }
    }
}

struct Run {
    records: Vec<u8>,
    batches: Vec<u8>,
    trace: Vec<u8>,
    ending: Ending,
}

type Row = BTreeMap<String, Field>;

/// Rows of a Parquet file.
fn rows(bytes: &[u8]) -> Vec<Row> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs_err::write(file.path(), bytes).unwrap();
    let reader = SerializedFileReader::new(file.reopen().unwrap()).unwrap();
    reader.get_row_iter(None).unwrap().map(|row| row.unwrap().into_columns().into_iter().collect()).collect()
}

fn int(row: &Row, column: &str) -> i64 {
    match &row[column] {
        Field::Int(value) => i64::from(*value),
        Field::Long(value) => *value,
        other => panic!("expected a number in {column}, found {other}"),
    }
}

fn sum(rows: &[Row], column: &str) -> i64 {
    rows.iter().map(|row| int(row, column)).sum()
}

fn poisson(count: u32, qps: f64, lengths: Lengths, seed: u64) -> Vec<Request> {
    Workload { requests: count, arrivals: Arrivals::Poisson { qps }, lengths }
        .generate("".into(), seed, false)
        .unwrap()
}

fn at_once(count: usize, prompt_tokens: u32, output_tokens: u32) -> Vec<Request> {
    vec![Request { arrival: Nanos::ZERO, prompt_tokens, output_tokens }; count]
}

/// Micro-batches of 8 sequences with prompts of 8 tokens: a batch of 64 tokens holds no more.
fn eights() -> Policy {
    Policy::Sarathi { chunk: ChunkSchedule::Fixed(64) }
}

/// Requests like a chat's: 64 to 2048 tokens.
fn chat(count: u32, qps: f64) -> Vec<Request> {
    let lengths = Lengths::Uniform { total_min: 64, total_max: 2048, prompt_to_output: 4.0 };
    poisson(count, qps, lengths, 7)
}

fn close(found: f64, expected: f64, tolerance: f64, what: &str) {
    let error = (found / expected - 1.0).abs();
    assert!(
        error <= tolerance,
        "{what}: expected {expected} within {tolerance}, found {found} ({error:.4} off)"
    );
}

#[test]
fn m_d_1_waits_as_pollaczek_and_khinchine_say() {
    // One stage, one sequence a batch, one batch a request: service is 10 ms, always.
    let setting = Setting { batch_cap: 1, ..Setting::new(constant(), 1, 1) };
    for (utilisation, count) in [(0.3, 100_000), (0.5, 100_000), (0.7, 200_000)] {
        let lengths = Lengths::Fixed { prompt: 1, output: 1 };
        let run = setting.run(&poisson(count, utilisation / (10.0 * MS), lengths, 11));
        let waits = rows(&run.records)
            .iter()
            .map(|row| int(row, "scheduled_ns") - int(row, "arrival_ns"))
            .sum::<i64>();
        let mean = waits as f64 / 1e9 / f64::from(count);
        let expected = utilisation * 10.0 * MS / (2.0 * (1.0 - utilisation));
        close(mean, expected, 0.02, &format!("mean wait at utilisation {utilisation}"));
    }
}

/// Integral over time of the sequences in the system, from the trace, in request-nanoseconds.
fn integrated_population(run: &Run) -> i128 {
    let trace: serde_json::Value = serde_json::from_slice(&run.trace).unwrap();
    let nanos = |event: &serde_json::Value| (event["ts"].as_f64().unwrap() * 1e3).round() as i128;
    let mut changes = BTreeMap::<i128, i128>::new();
    for event in trace["traceEvents"].as_array().unwrap().iter().filter(|event| event["cat"] == "sequence") {
        *changes.entry(nanos(event)).or_default() += if event["ph"] == "b" { 1 } else { -1 };
    }
    let (mut population, mut before, mut integral) = (0, 0, 0);
    for (at, change) in changes {
        integral += population * (at - before);
        (population, before) = (population + change, at);
    }
    assert_eq!(population, 0, "everyone leaves");
    integral
}

#[test]
fn littles_law_holds_on_every_trial() {
    let policies = [
        Policy::Sarathi { chunk: ChunkSchedule::Fixed(512) },
        Policy::Vllm { max_batched_tokens: 8192 },
        Policy::Orca,
        Policy::FasterTransformer,
        Policy::SimpleChunking { chunk: 512 },
    ];
    for policy in policies {
        for (tp, pp) in [(8, 1), (4, 2), (2, 4)] {
            let azure = platform("azure-nc96ads-a100-v4-x2");
            let run = Setting { policy, ..Setting::new(azure, tp, pp) }.run(&chat(60, 0.5));
            let stay = |row: &Row| i128::from(int(row, "completed_ns") - int(row, "arrival_ns"));
            // L = lambda W, both sides times the length of the trial: exact in integers.
            let stays: i128 = rows(&run.records).iter().map(stay).sum();
            assert_eq!(integrated_population(&run), stays, "{policy:?} at tp={tp} pp={pp}");
        }
    }
}

#[test]
fn two_stages_without_bubbles_reach_the_analytic_throughput() {
    // Two micro-batches of 8 decodes: a batch leaves every 10 ms.
    let setting = Setting { policy: eights(), batch_cap: 16, ..Setting::new(constant(), 1, 2) };
    let run = setting.run(&at_once(16, 8, 2000));
    let tokens = 16.0 * 2000.0;
    assert!(rows(&run.batches).iter().all(|row| int(row, "sequences") == 8));
    close(tokens / run.ending.end.as_secs_f64(), 8.0 / (10.0 * MS), 0.01, "decode tokens a second");
    // More stages, more micro-batches, the same rate.
    let setting = Setting { policy: eights(), batch_cap: 32, ..Setting::new(constant(), 1, 4) };
    let run = setting.run(&at_once(32, 8, 2000));
    close(32.0 * 2000.0 / run.ending.end.as_secs_f64(), 8.0 / (10.0 * MS), 0.01, "over four stages");
}

#[test]
fn what_lies_between_the_stages_leaves_bubbles_of_its_length() {
    // With two batches in flight a micro-batch comes round once in stages + sends + driver, and nothing fills that.
    let mut platform = constant();
    platform.links[0].send_recv.alpha_us = Coefficient::certain(2000.0);
    platform.cpu.as_mut().unwrap().driver_round_trip_ms = Coefficient::certain(4.0);
    let setting = Setting { policy: eights(), batch_cap: 16, ..Setting::new(platform, 1, 2) };
    let run = setting.run(&at_once(16, 8, 2000));
    let round = (10.0 + 2.0 + 10.0 + 4.0) * MS;
    close(16.0 * 2000.0 / run.ending.end.as_secs_f64(), 2.0 * 8.0 / round, 0.01, "decode tokens a second");
}

#[test]
fn steady_decode_on_kernels_takes_the_sum_of_its_parts() {
    // Falcon-180B, TP4 x PP2: the prompts are short, so that nearly all batches are decodes of 8 sequences.
    let mut platform = platform("azure-nc96ads-a100-v4-x2");
    platform.cpu.as_mut().unwrap().driver_round_trip_ms = Coefficient::certain(0.0);
    let setting = Setting { policy: eights(), batch_cap: 16, ..Setting::new(platform, 4, 2) };
    let run = setting.run(&at_once(16, 8, 3000));
    let batches = rows(&run.batches);
    let steady = &batches[1000..5000];
    assert!(steady.iter().all(|row| int(row, "sequences") == 8));
    let span = int(&steady[steady.len() - 1], "end_ns") - int(&steady[0], "end_ns");
    let round = |row: &Row| int(row, "end_ns") - int(row, "scheduled_ns");
    let mean_round = steady.iter().map(round).sum::<i64>() as f64 / steady.len() as f64;
    let between = span as f64 / (steady.len() - 1) as f64;
    close(between, mean_round / 2.0, 0.01, "time between batches, two in flight");
}

#[test]
fn tokens_are_conserved() {
    for compat in [Compat::Honest, Compat::Sarathi] {
        let requests = chat(300, 2.0);
        let setting = Setting { compat, ..Setting::new(platform("azure-nc96ads-a100-v4-x2"), 4, 2) };
        let run = setting.run(&requests);
        let (records, batches) = (rows(&run.records), rows(&run.batches));
        let asked = |tokens: fn(&Request) -> u32| {
            requests.iter().map(|request| i64::from(tokens(request))).sum::<i64>()
        };
        assert_eq!(sum(&records, "restarts"), 0);
        assert_eq!(sum(&batches, "prefill_tokens"), asked(|request| request.prompt_tokens));
        assert_eq!(sum(&records, "tokens_out"), asked(|request| request.output_tokens));
        // Honest: the batch that ends a prompt gives the first token, so each request decodes once less.
        let by_prefill = if compat == Compat::Honest { records.len() as i64 } else { 0 };
        assert_eq!(sum(&batches, "decode_tokens") + by_prefill, asked(|request| request.output_tokens));
    }
}

#[test]
fn memory_pressure_recomputes_but_loses_nothing() {
    let requests = chat(200, 20.0);
    let setting = Setting { blocks: 600, ..Setting::new(platform("azure-nc96ads-a100-v4-x2"), 4, 2) };
    let run = setting.run(&requests);
    let records = rows(&run.records);
    assert!(sum(&records, "restarts") > 0, "600 blocks are too few for 128 sequences");
    assert_eq!(run.ending.completed, 200);
    assert_eq!(sum(&records, "tokens_out"), requests.iter().map(|r| i64::from(r.output_tokens)).sum::<i64>());
}

#[test]
fn no_first_token_comes_before_its_prompt_could_be_processed() {
    // A request alone: schedule, half a round trip, the stages, half back, process; TTFT is never less than its share of that.
    let setting = Setting::new(platform("azure-nc96ads-a100-v4-x2"), 4, 2);
    for (prompt, decimals) in [(1, 1), (512, 2), (4000, 3)] {
        let alone = setting.run(&at_once(1, prompt, 1));
        let least = int(&rows(&alone.records)[0], "first_token_ns");
        let crowd = setting.run(&poisson(100, 3.0, Lengths::Fixed { prompt, output: 1 + decimals }, 3));
        for row in rows(&crowd.records) {
            assert!(int(&row, "first_token_ns") - int(&row, "arrival_ns") >= least, "prompt {prompt}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let setting = Setting::new(platform("azure-nc96ads-a100-v4-x2"), 8, 1);
    let [a, b] = [(); 2].map(|()| setting.run(&chat(100, 1.0)));
    assert!(a.records == b.records && a.batches == b.batches && a.trace == b.trace);
    let other = setting.run(&poisson(100, 1.0, Lengths::Fixed { prompt: 64, output: 8 }, 8));
    assert!(a.records != other.records);
}

#[test]
fn the_limit_ends_a_trial_and_leaves_the_rest_waiting() {
    let limit = Nanos::from_secs_f64(30.0);
    let setting = Setting { time_limit: limit, ..Setting::new(platform("azure-nc96ads-a100-v4-x2"), 8, 1) };
    let run = setting.run(&chat(500, 2.0));
    let unfinished = rows(&run.records).iter().filter(|row| row["completed_ns"] == Field::Null).count();
    // The driver may be taking in a batch when the limit passes.
    assert!(run.ending.end >= limit && run.ending.end < limit + Nanos::from_secs_f64(0.01));
    assert_eq!(unfinished + run.ending.completed as usize, rows(&run.records).len());
    assert!(unfinished > 0);
}
