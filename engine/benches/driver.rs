//! What the driver adds to a step: from the tokens of one batch to the next batch on its way to all ranks, with eight ranks of a tiny
//! model. Prints Markdown. CPU time is that of the driver's process, its listening threads included.
//!
//! `cargo bench -p chariot-engine --bench driver`
#![expect(clippy::print_stdout, reason = "a benchmark reports on stdout")]

use std::path::Path;
use std::time::Duration;

use chariot_engine::engine::Engine;
use chariot_engine::model::KvSpec;
use chariot_engine::model::sampler::Sampling;
use chariot_engine::runtime::{Plan, Prompt, RuntimeExecutor, Weights};
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
        "| sequences of a step | steps | tokens to next step sent, us, median (p90) | driver CPU a step, us | of a 10 ms step |"
    );
    println!("|---|---|---|---|---|");
    for sequences in [32, 128] {
        // Two batches are in flight.
        measure(2 * sequences)?;
    }
    Ok(())
}

fn start(sequences: u32) -> anyhow::Result<Engine<RuntimeExecutor>> {
    let blocks = sequences * (PROMPT + OUTPUT).div_ceil(BLOCK_SIZE) + 1;
    let plan = Plan {
        parallel: Parallel { tp: 4, pp: 2 },
        threads: 1,
        weights: Weights::HuggingFace(MODEL.into()),
        kv: KvSpec { blocks, block_size: BLOCK_SIZE },
        max_model_len: PROMPT + OUTPUT,
        shared_memory: true,
        cores: Vec::new(),
        links: None,
        ready_by: Duration::from_secs(60),
        step_by: Duration::from_secs(60),
    };
    let scheduler = Scheduler::new(SchedulerConfig {
        policy: Policy::Sarathi { chunk: ChunkSchedule::Fixed(2048) },
        batch_cap: sequences / 2,
        max_model_len: PROMPT + OUTPUT,
        block_size: BLOCK_SIZE,
        blocks,
        stages: 2,
        watermark: Some(0.0),
        compat: Compat::Honest,
    })?;
    let executor = RuntimeExecutor::launch(Path::new(env!("CARGO_BIN_EXE_chariot-engine")), &plan)?;
    let mut engine = Engine::new(scheduler, executor);
    engine.executor_mut().start();
    for number in 0..sequences {
        let id = SeqId(number);
        let tokens = (1..=PROMPT).collect();
        let prompt = Prompt { tokens, sampling: Sampling::greedy(), output_max: OUTPUT, stop: Vec::new() };
        engine.executor_mut().insert(id, prompt);
        engine.add(NewSequence { id, arrival: Nanos::ZERO, prompt_tokens: PROMPT, output_tokens: OUTPUT });
    }
    Ok(engine)
}

fn measure(sequences: u32) -> anyhow::Result<()> {
    let mut engine = start(sequences)?;
    let (mut gaps, mut produced, mut began) = (Vec::new(), 0, 0.0);
    let mut told = f64::NAN;
    for step in 0..WARM + STEPS {
        if step == WARM {
            began = us(ClockId::ProcessCPUTime);
            gaps.clear();
            produced = 0;
        }
        while engine.submit()?.is_some() {}
        gaps.push(us(ClockId::Monotonic) - told);
        engine.wait(Nanos::MAX, |executor, _| {
            told = us(ClockId::Monotonic);
            produced += executor.produced().len();
        })?;
    }
    let cpu = (us(ClockId::ProcessCPUTime) - began) / STEPS as f64;
    gaps.sort_by(f64::total_cmp);
    let [median, p90] = [gaps[STEPS / 2], gaps[STEPS * 9 / 10]];
    let each = produced as f64 / STEPS as f64;
    println!("| {each:.0} | {STEPS} | {median:.0} ({p90:.0}) | {cpu:.0} | {:.2} % |", cpu / 100.0);
    Ok(())
}
