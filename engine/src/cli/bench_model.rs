//! `chariot-engine bench-model`: how fast one rank computes a model, without workers, scheduler or messages.

use std::time::{Duration, Instant};

use anyhow::Context;
use camino::Utf8PathBuf;
use chariot_engine::backend::cpu::Cpu;
use chariot_engine::backend::{Backend, Span};
use chariot_engine::comm::Alone;
use chariot_engine::model::{HuggingFace, KvSpec, ModelConfig, Stage, StagePlan};
use chariot_engine::shard::{Dtype, Parallel};
use serde::Serialize;

use super::files::{mistake, read, wrong};
use super::say;

/// Tokens of a KV block.
const BLOCK_SIZE: u32 = 16;
/// Passes that count, at least.
const PASSES_MIN: usize = 2;
/// Decode steps of the pass that does not count, at most.
const WARM_STEPS: u32 = 4;

/// Measure prefill and decode of a model on one rank
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  chariot-engine bench-model --model llama --dtype bf16 --prompt 512 --batch 1 --new 0 --threads 2\n  \
                  chariot-engine bench-model --model falcon-7b --dtype f32 --prompt 64 --batch 8 --new 32 --threads 2 --cores 0,1"
)]
pub(super) struct Args {
    /// A folder with config.json and model.safetensors, or an index of several
    #[arg(long, value_name = "DIR")]
    model: Utf8PathBuf,
    /// Type that the weights are stored in, and computed in
    #[arg(long, value_enum)]
    dtype: DtypeName,
    /// Tokens of each prompt
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    prompt: u32,
    /// Prompts at once
    #[arg(long, value_name = "B", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Decode steps after the prompts' first tokens
    #[arg(long, value_name = "N", default_value_t = 0)]
    new: u32,
    /// Compute threads
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// Core of each thread, separated by commas; default: wherever the kernel runs them
    #[arg(long, value_name = "CORES", value_delimiter = ',')]
    cores: Option<Vec<usize>>,
    /// Passes go on until they took this long
    #[arg(long, value_name = "S", default_value_t = 1.5)]
    seconds: f64,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum DtypeName {
    F32,
    F16,
    Bf16,
}

impl From<DtypeName> for Dtype {
    fn from(name: DtypeName) -> Self {
        match name {
            DtypeName::F32 => Self::Float32,
            DtypeName::F16 => Self::Float16,
            DtypeName::Bf16 => Self::Bfloat16,
        }
    }
}

/// The last line of stdout: medians over the passes.
#[derive(Debug, Serialize)]
struct Report {
    prefill_tokens_per_s: f64,
    /// Nothing where no token was decoded.
    decode_tokens_per_s: Option<f64>,
}

/// What one pass took.
struct Pass {
    prefill: Duration,
    decode: Duration,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let threads = args.threads as usize;
    if args.cores.as_ref().is_some_and(|cores| cores.len() != threads) {
        return Err(wrong(format_args!("--cores: expected {threads} cores, one a thread")));
    }
    let cpu = Cpu::new(threads, args.cores.as_deref()).context("start compute threads")?;
    measure(args, Bench::load(args, cpu, Box::new(Alone))?)
}

fn measure<B: Backend>(args: &Args, mut bench: Bench<B>) -> anyhow::Result<()> {
    bench.pass(args.new.min(WARM_STEPS))?;
    let (mut passes, start) = (Vec::new(), now());
    while passes.len() < PASSES_MIN || start.elapsed().as_secs_f64() < args.seconds {
        passes.push(bench.pass(args.new)?);
    }
    let prefill = median(passes.iter().map(|pass| pass.prefill));
    let decode = median(passes.iter().map(|pass| pass.decode));
    let report = Report {
        prefill_tokens_per_s: f64::from(args.batch * args.prompt) / prefill,
        decode_tokens_per_s: (args.new > 0).then(|| f64::from(args.batch * args.new) / decode),
    };
    say(format_args!(
        "{} passes on {} threads; prefill {:.2} ms for {} x {} tokens, {:.1} tokens/s",
        passes.len(),
        args.threads,
        prefill * 1e3,
        args.batch,
        args.prompt,
        report.prefill_tokens_per_s
    ))?;
    if let Some(tokens_per_s) = report.decode_tokens_per_s {
        let step_ms = decode * 1e3 / f64::from(args.new);
        say(format_args!(
            "decode {step_ms:.3} ms a step of {} tokens, {tokens_per_s:.1} tokens/s",
            args.batch
        ))?;
    }
    say(format_args!("{}", serde_json::to_string(&report)?))
}

/// A model on one rank's backend, and its sequences.
struct Bench<B: Backend> {
    backend: B,
    /// Of this rank alone.
    group: Box<B::Group>,
    stage: Stage<B>,
    prompt: usize,
    /// The sequences' blocks, in the order of their tokens.
    tables: Vec<Vec<u32>>,
    prompts: Vec<u32>,
    /// Of all sequences, newest.
    tokens: Vec<u32>,
    hidden: B::Tensor,
}

impl<B: Backend> Bench<B> {
    fn load(args: &Args, backend: B, group: Box<B::Group>) -> anyhow::Result<Self> {
        let path = args.model.join("config.json");
        let name = args.model.file_name().unwrap_or("model");
        let config = ModelConfig::parse(&read(&path)?, name).map_err(|error| mistake(&path, error))?;
        let blocks = (args.prompt + args.new).div_ceil(BLOCK_SIZE);
        let plan = StagePlan {
            config,
            parallel: Parallel { tp: 1, pp: 1 },
            stage: 0,
            tp_rank: 0,
            max_positions: blocks * BLOCK_SIZE,
            batch_tokens: args.batch * args.prompt.max(1),
        };
        let source = HuggingFace::open(&args.model, &plan).map_err(wrong)?;
        let (expected, found) = (Dtype::from(args.dtype), source.dtype().map_err(wrong)?);
        if expected != found {
            return Err(wrong(format_args!("--dtype: expected {found:?}, as stored, found {expected:?}")));
        }
        let vocabulary = plan.config.shape.vocab_size;
        let token = |index: u32| (index.wrapping_mul(2_654_435_761) >> 8) % vocabulary;
        let kv = KvSpec { blocks: args.batch * blocks, block_size: BLOCK_SIZE };
        Ok(Self {
            stage: Stage::load(&backend, &plan, &source, kv).map_err(wrong)?,
            hidden: backend.tensor(),
            backend,
            group,
            prompt: args.prompt as usize,
            tables: (0..args.batch).map(|seq| (seq * blocks..(seq + 1) * blocks).collect()).collect(),
            prompts: (0..args.batch * args.prompt).map(token).collect(),
            tokens: Vec::new(),
        })
    }

    /// The prompts up to their first tokens, then `new` steps of all sequences.
    fn pass(&mut self, new: u32) -> anyhow::Result<Pass> {
        let start = now();
        self.tokens.clone_from(&self.prompts);
        self.step(0, self.prompt)?;
        let prefill = start.elapsed();
        let start = now();
        for step in 0..new as usize {
            self.step(self.prompt + step, 1)?;
        }
        Ok(Pass { prefill, decode: start.elapsed() })
    }

    /// `tokens`, each sequence's `count` after its `context`, become the token that follows each sequence.
    fn step(&mut self, context: usize, count: usize) -> anyhow::Result<()> {
        let span = |(seq, table)| {
            let table: &Vec<u32> = table;
            Span { first_row: seq * count, tokens: count, context, table }
        };
        let spans: Vec<Span<'_>> = self.tables.iter().enumerate().map(span).collect();
        let rows: Vec<usize> = (1..=spans.len()).map(|seq| seq * count - 1).collect();
        let Self { backend, group, stage, hidden, tokens, .. } = self;
        let batch = backend.begin(&spans, tokens)?;
        stage.embed(backend, group, &batch, hidden)?;
        stage.layers(backend, group, &batch, hidden)?;
        // It may borrow the tokens until it is gone.
        drop(batch);
        stage.greedy(backend, group, &rows, hidden, tokens)?;
        Ok(())
    }
}

fn median(times: impl Iterator<Item = Duration>) -> f64 {
    let mut seconds: Vec<f64> = times.map(|time| time.as_secs_f64()).collect();
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn now() -> Instant {
    Instant::now()
}
