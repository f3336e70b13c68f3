//! `chariot-engine generate`: prompts in, tokens out, on workers that live as long as the command.

use std::io::Write;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use chariot_engine::backend::BackendName;
use chariot_engine::bring_up;
use chariot_engine::engine::{Completed, Engine};
use chariot_engine::model::sampler::Sampling;
use chariot_engine::model::{KvSpec, ModelConfig};
use chariot_engine::runtime::{self, Places, Prompt, RuntimeExecutor, Weights};
use chariot_engine::sched::{
    Admission, ChunkSchedule, Compat, NewSequence, Policy, Scheduler, SchedulerConfig,
};
use chariot_engine::shard::{Division, Parallel};
use chariot_engine::units::{Nanos, SeqId};
use serde::Serialize;

use super::choice::Choice;
use super::cores::Cores;
use super::files::{mistake, read, wrong};
use super::ranks::{self, STEP_BY};
use super::say;
use super::weights::type_of_matrices;

/// Tokens of a KV block.
const BLOCK_SIZE: u32 = 16;
/// How long workers may take to load their weights.
const READY_BY: Duration = Duration::from_secs(600);

/// Continue prompts with a model of a Hugging Face folder
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  chariot-engine generate --model falcon-7b --prompt-ids 1,2,3 --max-tokens 32\n  \
                  chariot-engine generate --model llama --prompt-ids 1,2,3 --prompt-ids 7,8 --max-tokens 8 --tp 2 --pp 2 --json\n  \
                  chariot-engine generate --model llama --prompt-ids 1,2,3 --temperature 0.8 --top-p 0.95 --seed 7"
)]
pub(super) struct Args {
    /// A folder with config.json and model.safetensors, or an index of several
    #[arg(long, value_name = "DIR")]
    model: Utf8PathBuf,
    /// Token ids of a prompt, separated by commas; give it several times for a batch
    #[arg(long, value_name = "IDS", required = true)]
    prompt_ids: Vec<String>,
    /// Output tokens at most
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// Tensor-parallel ranks of a stage
    #[arg(long, value_name = "N", default_value_t = 1)]
    tp: u32,
    /// Pipeline stages
    #[arg(long, value_name = "N", default_value_t = 1)]
    pp: u32,
    #[command(flatten)]
    backend: Choice,
    /// Compute threads of a rank (CPU)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    #[command(flatten)]
    cores: Cores,
    /// Prompt tokens of a batch
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    chunk: u32,
    /// KV blocks of 16 tokens; default: enough for all prompts at once
    #[arg(long, value_name = "N")]
    kv_blocks: Option<u32>,
    /// Ranks talk over TCP rather than shared memory
    #[arg(long)]
    tcp: bool,
    /// Divides the logits, up to 2; 0 takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true, value_parser = temperature)]
    temperature: f32,
    /// Draw among the fewest tokens that hold this much probability, above 0 and up to 1
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true, value_parser = top_p)]
    top_p: f32,
    /// Of the draws
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    /// Go on after the model's end-of-sequence token
    #[arg(long)]
    ignore_eos: bool,
    /// Print the logits that each token was drawn from, too (JSON only)
    #[arg(long, requires = "json")]
    logits: bool,
    /// Print JSON: token ids, timings in milliseconds, and how often a sequence lost its KV blocks to others and was recomputed (`preemptions`)
    #[arg(long)]
    json: bool,
}

/// As `serve` takes it.
fn temperature(text: &str) -> Result<f32, String> {
    let number = text.parse::<f32>().ok().filter(|number| (0.0..=2.0).contains(number));
    number.ok_or_else(|| format!("expected a number from 0 to 2, found {text}"))
}

fn top_p(text: &str) -> Result<f32, String> {
    let number = text.parse::<f32>().ok().filter(|number| *number > 0.0 && *number <= 1.0);
    number.ok_or_else(|| format!("expected a number above 0 and up to 1, found {text}"))
}

/// What came of one prompt.
#[derive(Debug, Default, Serialize)]
struct Output {
    prompt_ids: Vec<u32>,
    token_ids: Vec<u32>,
    /// From the start to the first token.
    ttft_ms: f64,
    /// Between each token and the one before.
    tbt_ms: Vec<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logits: Vec<Vec<f32>>,
    #[serde(skip)]
    newest: Nanos,
}

/// What came of all prompts.
struct Served {
    outputs: Vec<Output>,
    graph_replays: u64,
    preemptions: u64,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    provenance: &'static str,
    model: &'a str,
    parallel: Parallel,
    threads: u32,
    /// Steps that ran as CUDA graphs, of all ranks.
    graph_replays: u64,
    /// How often a sequence's blocks were taken away, and its tokens computed again.
    preemptions: u64,
    outputs: &'a [Output],
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let path = args.model.join("config.json");
    let name = args.model.file_name().unwrap_or("model");
    let config = ModelConfig::parse(&read(&path)?, name).map_err(|error| mistake(&path, error))?;
    let prompts = prompts(args, config.shape.vocab_size)?;
    let parallel = Parallel { tp: args.tp, pp: args.pp };
    Division::new(&config.shape, parallel).map_err(wrong)?;
    let scheduler = scheduler(args, &prompts)?;
    let backend = args.backend.choose(parallel.ranks())?;
    let cores = args.cores.of_ranks(backend, parallel.ranks(), args.threads)?;
    if backend != BackendName::Cpu {
        type_of_matrices(backend, &args.model, &config, parallel)?;
    }
    let mut executor =
        launch(&args.model, backend, parallel, args.threads, cores, args.tcp, scheduler.config())?;
    if args.logits {
        executor = executor.keep_logits();
    }
    let Served { outputs, graph_replays, preemptions } =
        serve(args, Engine::new(scheduler, executor), &prompts, &config.eos)?;
    if args.json {
        let report = Report {
            provenance: "measured",
            model: name,
            parallel,
            threads: args.threads,
            graph_replays,
            preemptions,
            outputs: &outputs,
        };
        let mut out = std::io::stdout().lock();
        serde_json::to_writer(&mut out, &report)?;
        return Ok(writeln!(out)?);
    }
    for output in &outputs {
        let ids: Vec<String> = output.token_ids.iter().map(u32::to_string).collect();
        let tbt = output.tbt_ms.iter().sum::<f64>() / output.tbt_ms.len().max(1) as f64;
        say(format_args!(
            "{}  (first token after {:.1} ms, then {tbt:.1} ms each)",
            ids.join(","),
            output.ttft_ms
        ))?;
    }
    Ok(())
}

fn prompts(args: &Args, vocabulary: u32) -> anyhow::Result<Vec<Vec<u32>>> {
    let id = |text: &str| match text.trim().parse::<u32>() {
        Ok(id) if id < vocabulary => Ok(id),
        _ => Err(wrong(format_args!("--prompt-ids: expected token ids below {vocabulary}, found `{text}`"))),
    };
    args.prompt_ids.iter().map(|prompt| prompt.split(',').map(id).collect()).collect()
}

fn scheduler(args: &Args, prompts: &[Vec<u32>]) -> anyhow::Result<Scheduler> {
    let lengths = || prompts.iter().map(|prompt| prompt.len() as u32 + args.max_tokens);
    let all: u32 = lengths().map(|length| length.div_ceil(BLOCK_SIZE)).sum();
    let config = SchedulerConfig {
        policy: Policy::Sarathi { chunk: ChunkSchedule::Fixed(args.chunk) },
        batch_cap: prompts.len() as u32,
        max_model_len: lengths().max().unwrap_or(1),
        block_size: BLOCK_SIZE,
        blocks: args.kv_blocks.unwrap_or(all + 1),
        stages: args.pp,
        watermark: Some(0.0),
        compat: Compat::Honest,
    };
    Scheduler::new(config).map_err(wrong)
}

/// Ranks on this host, without emulated links, on whatever cores the system gives; weights and caches are the smallest there are.
pub(super) fn local(backend: BackendName, parallel: Parallel, threads: u32, tcp: bool) -> runtime::Plan {
    runtime::Plan {
        backend,
        operations: false,
        parallel,
        threads: threads as usize,
        weights: bring_up::weights(parallel.ranks()),
        kv: KvSpec { blocks: 1, block_size: 1 },
        blocks_touched: 0,
        max_model_len: 1,
        batch_tokens: 1,
        places: Places::here(),
        shared_memory: !tcp,
        cores: Vec::new(),
        links: None,
        ready_by: READY_BY,
        step_by: STEP_BY,
    }
}

/// Starts workers for a model's folder. `cores`: each rank's, or none.
pub(super) fn launch(
    model: &Utf8Path,
    backend: BackendName,
    parallel: Parallel,
    threads: u32,
    cores: Vec<Vec<usize>>,
    tcp: bool,
    scheduler: &SchedulerConfig,
) -> anyhow::Result<RuntimeExecutor> {
    let plan = runtime::Plan {
        weights: Weights::HuggingFace(model.to_owned()),
        kv: KvSpec { blocks: scheduler.blocks, block_size: scheduler.block_size },
        max_model_len: scheduler.max_model_len,
        batch_tokens: scheduler.batch_tokens_fitting(),
        cores,
        ..local(backend, parallel, threads, tcp)
    };
    ranks::start(&plan)
}

fn serve(
    args: &Args,
    mut engine: Engine<RuntimeExecutor>,
    prompts: &[Vec<u32>],
    eos: &[u32],
) -> anyhow::Result<Served> {
    let sampling = Sampling { temperature: args.temperature, top_p: args.top_p, seed: args.seed };
    let stop = if args.ignore_eos { Vec::new() } else { eos.to_vec() };
    let mut outputs = Vec::new();
    engine.executor_mut().start();
    for (number, tokens) in prompts.iter().enumerate() {
        let id = SeqId(number as u32);
        let prompt =
            Prompt { tokens: tokens.clone(), sampling, output_max: args.max_tokens, stop: stop.clone() };
        engine.executor_mut().insert(id, prompt);
        let (prompt_tokens, output_tokens) = (tokens.len() as u32, args.max_tokens);
        if engine.add(NewSequence { id, arrival: Nanos::ZERO, prompt_tokens, output_tokens })
            == Admission::Ignored
        {
            let blocks = engine.scheduler().config().blocks;
            return Err(wrong(format_args!(
                "--kv-blocks: expected room for prompt {number} and its output, found {blocks} blocks"
            )));
        }
        outputs.push(Output { prompt_ids: tokens.clone(), ..Output::default() });
    }
    let mut preemptions = 0;
    while engine.scheduler().unfinished() > 0 {
        while let Some((batch, ..)) = engine.submit()? {
            preemptions += batch.preempted.len() as u64;
        }
        engine.wait(Nanos::MAX, |executor, completed| note(executor, &completed, &mut outputs))?;
    }
    let graph_replays = engine.into_executor().finish()?.replays;
    Ok(Served { outputs, graph_replays, preemptions })
}

/// Adds what a batch produced to its prompts' outputs.
fn note(executor: &RuntimeExecutor, completed: &Completed<'_>, outputs: &mut [Output]) {
    let produced = executor.produced();
    let width = executor.logits().map_or(0, |logits| logits.len() / produced.len().max(1));
    for (row, (seq, token)) in produced.iter().enumerate() {
        let output = &mut outputs[seq.0 as usize];
        let ms = |time: Nanos| time.as_secs_f64() * 1e3;
        match output.token_ids.is_empty() {
            true => output.ttft_ms = ms(completed.end),
            false => output.tbt_ms.push(ms(completed.end - output.newest)),
        }
        output.newest = completed.end;
        output.token_ids.push(*token);
        if let Some(logits) = executor.logits() {
            output.logits.push(logits[row * width..][..width].to_vec());
        }
    }
}
