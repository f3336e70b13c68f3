//! What the driver adds to a step, beyond what its ranks compute. Prints Markdown.
//!
//! - *added*: from a step's end in the busiest stage to the next step's beginning there, by that stage's own reports. With one stage that is
//!   all the time in which the ranks wait for the driver: a step's tokens going back, the next batch being formed, and its order going out.
//! - *tokens to next step sent*: of that, what the driver's thread does after it has heard of the tokens.
//! - *driver CPU*: processor time of the driver's process, all its threads.
//!
//! `cargo bench -p chariot-engine --bench driver`
#![expect(clippy::print_stdout, reason = "a benchmark reports on stdout")]

use std::path::Path;
use std::time::Duration;

use chariot_engine::backend::BackendName;
use chariot_engine::engine::Engine;
use chariot_engine::executor::StageStay;
use chariot_engine::model::KvSpec;
use chariot_engine::model::sampler::Sampling;
use chariot_engine::runtime::{Places, Plan, Prompt, RuntimeExecutor, Weights};
use chariot_engine::sched::{ChunkSchedule, Compat, NewSequence, Policy, Scheduler, SchedulerConfig};
use chariot_engine::shard::Parallel;
use chariot_engine::units::{Nanos, SeqId};
use rustix::time::{ClockId, clock_gettime};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/golden/falcon-new");
const PROMPT: u32 = 8;
const OUTPUT: u32 = 400;
const BLOCK_SIZE: u32 = 16;
/// Steps before the first one counted: prompts are through, memory is touched.
const WARM: usize = 60;
const STEPS: usize = 300;

/// Microseconds.
fn us(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

fn main() -> anyhow::Result<()> {
    println!(
        "| layout | sequences | a step in the busiest stage, us | added, us: median (p90) | tokens to next step sent, us: median (p90) | driver CPU a step, us | of a 10 ms step |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (tp, pp) in [(1, 1), (2, 1), (4, 2)] {
        for sequences in [32, 128] {
            measure(Parallel { tp, pp }, sequences)?;
        }
    }
    Ok(())
}

/// An engine that has `sequences` sequences in each of its batches.
fn start(parallel: Parallel, sequences: u32) -> anyhow::Result<Engine<RuntimeExecutor>> {
    let all = sequences * parallel.pp;
    let blocks = all * (PROMPT + OUTPUT).div_ceil(BLOCK_SIZE) + 1;
    let plan = Plan {
        backend: BackendName::Cpu,
        operations: false,
        parallel,
        threads: 1,
        weights: Weights::HuggingFace(MODEL.into()),
        kv: KvSpec { blocks, block_size: BLOCK_SIZE },
        blocks_touched: 0,
        max_model_len: PROMPT + OUTPUT,
        batch_tokens: 2048,
        places: Places::here(),
        shared_memory: true,
        cores: Vec::new(),
        links: None,
        ready_by: Duration::from_secs(60),
        step_by: Duration::from_secs(60),
    };
    let scheduler = Scheduler::new(SchedulerConfig {
        policy: Policy::Sarathi { chunk: ChunkSchedule::Fixed(2048) },
        batch_cap: sequences,
        max_model_len: PROMPT + OUTPUT,
        block_size: BLOCK_SIZE,
        blocks,
        stages: parallel.pp,
        watermark: Some(0.0),
        compat: Compat::Honest,
    })?;
    let executor = RuntimeExecutor::launch(Path::new(env!("CARGO_BIN_EXE_chariot-engine")), &plan)?;
    let mut engine = Engine::new(scheduler, executor.keep_stays());
    engine.executor_mut().start();
    for number in 0..all {
        let id = SeqId(number);
        let tokens = (1..=PROMPT).collect();
        let prompt = Prompt { tokens, sampling: Sampling::greedy(), output_max: OUTPUT, stop: Vec::new() };
        engine.executor_mut().insert(id, prompt);
        engine.add(NewSequence { id, arrival: Nanos::ZERO, prompt_tokens: PROMPT, output_tokens: OUTPUT });
    }
    Ok(engine)
}

fn measure(parallel: Parallel, sequences: u32) -> anyhow::Result<()> {
    let mut engine = start(parallel, sequences)?;
    let (mut gaps, mut produced, mut began) = (Vec::new(), 0, 0.0);
    let mut told = f64::NAN;
    for step in 0..WARM + STEPS {
        if step == WARM {
            began = us(ClockId::ProcessCPUTime);
            gaps.clear();
            produced = 0;
            engine.executor_mut().begin_stays();
        }
        while engine.submit()?.is_some() {}
        gaps.push(us(ClockId::Monotonic) - told);
        engine.wait(Nanos::MAX, |executor, _| {
            told = us(ClockId::Monotonic);
            produced += executor.produced().len();
        })?;
    }
    let cpu = (us(ClockId::ProcessCPUTime) - began) / STEPS as f64;
    let (stay, added) = busiest(&engine.executor_mut().take_stays(), parallel.pp);
    let [stay, _] = spread(stay);
    let [added, added_p90] = spread(added);
    let [median, p90] = spread(gaps);
    let (each, share) = (produced as f64 / STEPS as f64, cpu / 100.0);
    let Parallel { tp, pp } = parallel;
    println!(
        "| tp{tp} x pp{pp} | {each:.0} | {stay:.0} | {added:.0} ({added_p90:.0}) | {median:.0} ({p90:.0}) | {cpu:.0} | {share:.2} % |"
    );
    Ok(())
}

/// How long steps were in the stage where they were longest, and how long that stage stood between them.
fn busiest(stays: &[StageStay], stages: u32) -> (Vec<f64>, Vec<f64>) {
    let of = |stage: u32| {
        let own: Vec<&StageStay> = stays.iter().filter(|stay| stay.stage == stage).collect();
        let between = |from: Nanos, to: Nanos| (to.0 as f64 - from.0 as f64) / 1e3;
        let stay = own.iter().map(|stay| between(stay.start, stay.end)).collect::<Vec<f64>>();
        let added = own.windows(2).map(|pair| between(pair[0].end, pair[1].start)).collect();
        (stay, added)
    };
    let all = (0..stages).map(of);
    all.max_by(|one, other| spread(one.0.clone())[0].total_cmp(&spread(other.0.clone())[0]))
        .unwrap_or_default()
}

/// Median and 90th percentile.
fn spread(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    [values[values.len() / 2], values[values.len() * 9 / 10]]
}
