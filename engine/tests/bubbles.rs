//! The numbers of docs/chunk-and-bubbles.md: what two micro-batches in two stages do to each other, read from the stays of every
//! batch in stage 0. All simulated, hence equal on every machine; a changed number here is a changed page.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::convert::Infallible;

use camino::Utf8Path;
use chariot_engine::engine::Trial;
use chariot_engine::executor::{Event, Executor, StageStay};
use chariot_engine::record::{Recorder, Watch};
use chariot_engine::sched::batch::Batch;
use chariot_engine::sched::{ChunkSchedule, Compat, Policy, Scheduler, SchedulerConfig};
use chariot_engine::shape::ModelShape;
use chariot_engine::shard::{Division, Parallel};
use chariot_engine::sim::SimExecutor;
use chariot_engine::sim::coefficient::Band;
use chariot_engine::sim::cost::CostModel;
use chariot_engine::units::Nanos;
use chariot_engine::workload::{Arrivals, Lengths, Workload};
use expect_test::expect;

const PIPELINES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines");
const LIMIT_S: f64 = 1800.0;

/// Notes how many prompt tokens each batch carries.
struct Noting {
    executor: SimExecutor,
    prompt_tokens: Vec<u32>,
}

impl Executor for Noting {
    type Error = Infallible;

    fn now(&self) -> Nanos {
        self.executor.now()
    }

    fn depth(&self) -> u32 {
        self.executor.depth()
    }

    fn submit(&mut self, batch: &Batch, scheduler: &Scheduler) -> Result<(), Infallible> {
        self.prompt_tokens.push(batch.prefill_tokens());
        self.executor.submit(batch, scheduler)
    }

    fn wait(&mut self, until: Nanos) -> Result<Event, Infallible> {
        self.executor.wait(until)
    }
}

/// A batch in stage 0.
#[derive(Clone, Copy)]
struct Stay {
    start_s: f64,
    end_s: f64,
    prompt_tokens: u32,
}

/// Falcon-180B on TP4 x PP2, chat requests at `qps`, Sarathi with `chunk`: the stays in stage 0 within the middle half of the trial.
fn stays(qps: f64, chunk: u32) -> Vec<Stay> {
    let read = |path: &str| fs_err::read_to_string(format!("{PIPELINES}/{path}.yaml")).unwrap();
    let platform = serde_saphyr::from_str(&read("platforms/azure-nc96ads-a100-v4-x2")).unwrap();
    let shape = ModelShape::parse(&read("models/falcon-180b"), "").unwrap();
    let division = Division::new(&shape, Parallel { tp: 4, pp: 2 }).unwrap();
    let lengths = Lengths::Quantiles { file: "openchat_sharegpt4.yaml".to_owned(), total_max: None };
    let workload = Workload { requests: 2048, arrivals: Arrivals::Poisson { qps }, lengths };
    let requests = workload.generate(&Utf8Path::new(PIPELINES).join("lengths"), 42, false).unwrap();
    let scheduler = SchedulerConfig {
        policy: Policy::Sarathi { chunk: ChunkSchedule::Fixed(chunk) },
        batch_cap: 128,
        max_model_len: 8192,
        block_size: 16,
        blocks: 78_636,
        stages: 2,
        watermark: None,
        compat: Compat::Honest,
    };
    let watch = Watch::new(Vec::new(), requests.iter().map(|request| request.output_tokens));
    let mut recorder = Recorder::new(std::io::sink(), None, watch).unwrap();
    let executor = SimExecutor::new(CostModel::new(&platform, &shape, &division, Band::Central)).keep_stays();
    let mut noting = Noting { executor, prompt_tokens: Vec::new() };
    let trial = Trial::new(&requests, Scheduler::new(scheduler).unwrap(), &mut noting, &mut recorder);
    trial.run(Nanos::from_secs_f64(LIMIT_S)).unwrap();
    let Noting { executor, prompt_tokens } = noting;
    let in_seconds = |stay: StageStay| Stay {
        start_s: stay.start.as_secs_f64(),
        end_s: stay.end.as_secs_f64(),
        prompt_tokens: prompt_tokens[stay.batch.0 as usize],
    };
    let middle = LIMIT_S / 4.0..LIMIT_S * 3.0 / 4.0;
    let stays = executor.into_stays().into_iter().filter(|stay| stay.stage == 0).map(in_seconds);
    stays.filter(|stay| middle.contains(&stay.start_s)).collect()
}

/// What the page's table says of one trial.
struct Row {
    full_ms: f64,
    decode_ms: f64,
    both_full: f64,
    alternating: f64,
    idle: f64,
    prompt_tokens_per_s: f64,
}

impl Row {
    fn new(stays: &[Stay], chunk: u32) -> Self {
        let is_full = |stay: &Stay| stay.prompt_tokens >= chunk / 2;
        let is_decode = |stay: &Stay| stay.prompt_tokens == 0;
        let mean_ms = |kind: &dyn Fn(&Stay) -> bool| {
            let times: Vec<f64> = stays.iter().filter(|s| kind(s)).map(|s| s.end_s - s.start_s).collect();
            times.iter().sum::<f64>() / times.len() as f64 * 1e3
        };
        let pairs = |kind: &dyn Fn(&Stay, &Stay) -> bool| {
            let count = stays.windows(2).filter(|pair| kind(&pair[0], &pair[1])).count();
            count as f64 / (stays.len() - 1) as f64
        };
        let window = stays.last().unwrap().end_s - stays[0].start_s;
        Self {
            full_ms: mean_ms(&is_full),
            decode_ms: mean_ms(&is_decode),
            both_full: pairs(&|a, b| is_full(a) && is_full(b)),
            alternating: pairs(&|a, b| is_full(a) && is_decode(b) || is_decode(a) && is_full(b)),
            idle: 1.0 - stays.iter().map(|stay| stay.end_s - stay.start_s).sum::<f64>() / window,
            prompt_tokens_per_s: stays.iter().map(|stay| f64::from(stay.prompt_tokens)).sum::<f64>() / window,
        }
    }
}

#[test]
fn the_table_of_the_page() {
    let mut table = String::from(
        "| QPS | chunk | full batch | decode batch | both full | alternating | stage 0 idle | prompt tokens/s |\n|---|---|---|---|---|---|---|---|\n",
    );
    for (qps, chunk) in [(0.7, 512), (0.7, 2048), (0.9, 512), (0.9, 2048)] {
        let Row { full_ms, decode_ms, both_full, alternating, idle, prompt_tokens_per_s } =
            Row::new(&stays(qps, chunk), chunk);
        let [both_full, alternating, idle] = [both_full, alternating, idle].map(|share| share * 100.0);
        table += &format!(
            "| {qps} | {chunk} | {full_ms:.0} ms | {decode_ms:.0} ms | {both_full:.0} % | {alternating:.0} % | {idle:.0} % | {prompt_tokens_per_s:.0} |\n"
        );
    }
    expect![[r#"
        | QPS | chunk | full batch | decode batch | both full | alternating | stage 0 idle | prompt tokens/s |
        |---|---|---|---|---|---|---|---|
        | 0.7 | 512 | 173 ms | 40 ms | 27 % | 19 % | 19 % | 1621 |
        | 0.7 | 2048 | 612 ms | 45 ms | 7 % | 15 % | 31 % | 1533 |
        | 0.9 | 512 | 174 ms | 48 ms | 57 % | 20 % | 15 % | 1955 |
        | 0.9 | 2048 | 603 ms | 50 ms | 4 % | 23 % | 37 % | 1421 |
    "#]]
    .assert_eq(&table);
    let page =
        fs_err::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/chunk-and-bubbles.md")).unwrap();
    assert!(page.contains(&table), "expected docs/chunk-and-bubbles.md to hold this table:\n{table}");
}
