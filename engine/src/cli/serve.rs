//! `chariot-engine serve`: a model behind HTTP, until it is told to stop.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::Context;
use camino::Utf8PathBuf;
use chariot_engine::backend::BackendName;
use chariot_engine::bring_up;
use chariot_engine::engine::Engine;
use chariot_engine::model::ModelConfig;
use chariot_engine::runtime::Bounds;
use chariot_engine::sched::{ChunkSchedule, Compat, Policy, Scheduler, SchedulerConfig};
use chariot_engine::serve::{Limits, ServedModel, serve};
use chariot_engine::shape::ModelShape;
use chariot_engine::shard::{Division, Dtype, Parallel};
use clap::ValueEnum;
use serde::Deserialize;

use super::choice::Choice;
use super::cores::Cores;
use super::files::{mistake, read, wrong};
use super::generate::{launch, local};
use super::say;
use super::weights::type_of_matrices;

/// Tokens of a KV block.
const BLOCK_SIZE: u32 = 16;
/// Longest sequence of a model whose config.json does not say.
const MODEL_LEN: u32 = 2048;
/// Prompt tokens of a batch, where nothing else is said.
const CHUNK: u32 = 512;
/// Memory of a rank on the CPU for keys and values, where nothing else is said.
const KV_MEMORY: u64 = 1 << 30;
/// Share of a GPU's free memory that weights, activations, keys and values may take, where nothing else is said.
const GPU_SHARE: f64 = 0.9;

/// Serve a model of a Hugging Face folder over HTTP, as OpenAI does
///
/// Answers /v1/completions, /v1/chat/completions, /v1/models, /health and /metrics; see docs/serve.md.
/// SIGINT and SIGTERM let running requests end within --grace; a second one cuts them off.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  chariot-engine serve --model falcon-7b --threads 4\n  \
                  chariot-engine serve --model llama --tp 2 --pp 2 --port 9000 --served-model-name llama-7b --kv-memory 2GiB\n  \
                  chariot-engine serve --model llama --port 0 --policy vllm --batch-cap 32 --queue 64 --max-model-len 1024\n\n\
                  curl http://127.0.0.1:8000/v1/completions -d '{\"model\": \"llama\", \"prompt\": [1, 2, 3], \"max_tokens\": 8}'")]
pub(super) struct Args {
    /// A folder with config.json and model.safetensors, or an index of several; tokenizer.json for text, a chat template for chats
    #[arg(long, value_name = "DIR")]
    model: Utf8PathBuf,
    /// What clients call the model; default: the folder's name
    #[arg(long, value_name = "NAME")]
    served_model_name: Option<String>,
    /// The address to listen on; there is no authentication, so only this machine reaches the default
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// The port to listen on; 0 takes a free one and prints it
    #[arg(long, value_name = "PORT", default_value_t = 8000)]
    port: u16,
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
    /// KV blocks of 16 tokens
    #[arg(long, value_name = "N", conflicts_with = "kv_memory", value_parser = clap::value_parser!(u32).range(1..))]
    kv_blocks: Option<u32>,
    /// Memory of a rank for KV blocks, e.g. 512MiB or 2GiB; no more is taken than the longest sequences of a full batch need; default: 1GiB,
    /// and on GPUs nine tenths of what is free there, less weights and activations
    #[arg(long, value_name = "SIZE", value_parser = size)]
    kv_memory: Option<u64>,
    /// Longest prompt plus output, in tokens; default: max_position_embeddings of config.json, or 2048
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(2..))]
    max_model_len: Option<u32>,
    /// Sequences that run at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    batch_cap: u32,
    /// Prompt tokens of a batch (sarathi, simple-chunking); default: 512
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    chunk: Option<u32>,
    /// How batches are formed
    #[arg(long, value_name = "NAME", default_value = "sarathi")]
    policy: PolicyName,
    /// Sequences that wait beside --batch-cap running ones; more are answered with 429
    #[arg(long, value_name = "N", default_value_t = 128)]
    queue: usize,
    /// Bytes of a request at most
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = size)]
    max_body: u64,
    /// How long a request's head may take to come, and then its body; an idle connection is closed after as long
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    read_timeout: u64,
    /// How long running requests may go on after a signal
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    grace: u64,
    /// Ranks talk over TCP rather than shared memory
    #[arg(long)]
    tcp: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PolicyName {
    /// Chunked prefill beside decodes
    Sarathi,
    /// Whole prompts first
    Vllm,
    /// Whole prompts beside decodes, memory reserved for the longest sequence
    Orca,
    /// A batch of requests at a time, memory reserved for the longest sequence
    FasterTransformer,
    /// Prefill and decode batches in turn
    SimpleChunking,
}

/// Bytes: a whole number with an optional unit of 1024s.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err("expected a number of bytes, KiB, MiB or GiB, like 512MiB".to_owned()),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| "expected a size above 0, like 512MiB".to_owned())
}

/// What only a server asks config.json.
#[derive(Debug, Deserialize)]
struct Members {
    max_position_embeddings: Option<u32>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let path = args.model.join("config.json");
    let folder = args.model.file_name().unwrap_or("model");
    let text = read(&path)?;
    let config = ModelConfig::parse(&text, folder).map_err(|error| mistake(&path, error))?;
    let members: Members = serde_json::from_str(&text).map_err(|error| mistake(&path, error))?;
    let parallel = Parallel { tp: args.tp, pp: args.pp };
    let division = Division::new(&config.shape, parallel).map_err(wrong)?;
    let backend = args.backend.choose(parallel.ranks())?;
    let cores = args.cores.of_ranks(backend, parallel.ranks(), args.threads)?;
    // Keys and values are stored in the weights' type, whatever the configuration says.
    let dtype = type_of_matrices(backend, &args.model, &config, parallel)?;
    let scheduler = scheduler(args, &config, &members, &division, dtype, backend)?;
    let max_model_len = scheduler.config().max_model_len;
    let name = args.served_model_name.clone().unwrap_or_else(|| folder.to_owned());
    let vocabulary = config.shape.vocab_size;
    let model =
        ServedModel::read(&args.model, name.clone(), vocabulary, max_model_len, config.eos).map_err(wrong)?;
    let address = SocketAddr::new(args.host, args.port);
    // Taken before the weights are loaded: an address that is in use is known at once.
    let listener = TcpListener::bind(address)
        .map_err(|error| wrong(format_args!("--host, --port: listen on {address}: {error}")))?;
    let address = listener.local_addr()?;
    let mut executor =
        launch(&args.model, backend, parallel, args.threads, cores, args.tcp, scheduler.config())?;
    let (blocks, batch_tokens) = (scheduler.config().blocks, scheduler.config().batch_tokens_fitting());
    executor.warm_up(&Bounds { batch_tokens, sequences: args.batch_cap, max_model_len, decodes: None })?;
    executor.start();
    let limits = Limits {
        queue: args.queue,
        body_bytes: usize::try_from(args.max_body).unwrap_or(usize::MAX),
        read_by: Duration::from_secs(args.read_timeout),
        grace: Duration::from_secs(args.grace),
    };
    let ready = || {
        let Parallel { tp, pp } = parallel;
        // A server whose stdout nobody reads serves all the same.
        let _ = say(format_args!(
            "{name} (tp{tp} x pp{pp}, {blocks} KV blocks, up to {max_model_len} tokens) listens on http://{address}"
        ));
    };
    Ok(serve(listener, model, Engine::new(scheduler, executor), &limits, ready)?)
}

fn scheduler(
    args: &Args,
    config: &ModelConfig,
    members: &Members,
    division: &Division,
    dtype: Dtype,
    backend: BackendName,
) -> anyhow::Result<Scheduler> {
    let max_model_len = args.max_model_len.or(members.max_position_embeddings).unwrap_or(MODEL_LEN);
    if let Some(window) = config.attention_window.filter(|window| *window < max_model_len) {
        let expected = format!("at most {window}, the model's attention window");
        return Err(wrong(format_args!("--max-model-len: expected {expected}, found {max_model_len}")));
    }
    let shape = &config.shape;
    let mut config = SchedulerConfig {
        policy: policy(args, max_model_len)?,
        batch_cap: args.batch_cap,
        max_model_len,
        block_size: BLOCK_SIZE,
        // Known when all else is.
        blocks: args.kv_blocks.unwrap_or(1),
        stages: args.pp,
        watermark: None,
        compat: Compat::Honest,
    };
    if args.kv_blocks.is_none() {
        let bytes = match (args.kv_memory, backend) {
            (Some(bytes), _) => bytes,
            (None, BackendName::Cpu) => KV_MEMORY,
            (None, BackendName::Cuda { .. }) => {
                free_for_kv(args, backend, division, shape, dtype, config.batch_tokens_max())?
            }
        };
        let block_bytes = division.kv_bytes_per_token(shape, dtype) * u64::from(BLOCK_SIZE);
        config.blocks = blocks(bytes, block_bytes, args.batch_cap, max_model_len)?;
    }
    Scheduler::new(config).map_err(wrong)
}

fn policy(args: &Args, max_model_len: u32) -> anyhow::Result<Policy> {
    let chunk = args.chunk.unwrap_or(CHUNK);
    let policy = match args.policy {
        PolicyName::Sarathi => return Ok(Policy::Sarathi { chunk: ChunkSchedule::Fixed(chunk) }),
        PolicyName::SimpleChunking => return Ok(Policy::SimpleChunking { chunk }),
        PolicyName::Vllm => Policy::Vllm { max_batched_tokens: max_model_len },
        PolicyName::Orca => Policy::Orca,
        PolicyName::FasterTransformer => Policy::FasterTransformer,
    };
    match args.chunk {
        None => Ok(policy),
        Some(found) => Err(wrong(format_args!(
            "--chunk: expected none, but for the policies sarathi and simple-chunking, found {found}"
        ))),
    }
}

/// What keys and values may take of the fullest GPU: a share of what is free there, without weights and the largest batch's activations.
fn free_for_kv(
    args: &Args,
    backend: BackendName,
    division: &Division,
    shape: &ModelShape,
    dtype: Dtype,
    batch_tokens: u32,
) -> anyhow::Result<u64> {
    let program = std::env::current_exe().context("find this executable")?;
    let plan = local(backend, division.parallel, args.threads, args.tcp);
    let devices = division.parallel.ranks();
    let found = bring_up::look(&program, plan, &[], devices, &mut |_| {})?;
    let free = found.free_bytes.and_then(|bytes| bytes.into_iter().min()).unwrap_or(0);
    let weights = division.weight_bytes_max(shape, dtype);
    let activations = division.activation_bytes(shape, batch_tokens, dtype);
    let left = (free as f64 * GPU_SHARE) as u64;
    match left.checked_sub(weights + activations) {
        Some(bytes) => Ok(bytes),
        None => Err(wrong(format_args!(
            "expected GPUs with room for {:.2} GB of weights and {:.2} GB of activations, found {:.2} GB free on one: take more ranks with --tp or --pp",
            weights as f64 / 1e9,
            activations as f64 / 1e9,
            free as f64 / 1e9
        ))),
    }
}

/// As many blocks as so many bytes hold, but no more than could ever be used.
fn blocks(bytes: u64, block_bytes: u64, batch_cap: u32, max_model_len: u32) -> anyhow::Result<u32> {
    let held = bytes / block_bytes;
    if held == 0 {
        return Err(wrong(format_args!(
            "--kv-memory: expected at least a block, {block_bytes} bytes, found {bytes}"
        )));
    }
    // With one sequence's more, for the watermark.
    let used = u64::from(batch_cap + 1) * u64::from(max_model_len.div_ceil(BLOCK_SIZE) + 1);
    Ok(u32::try_from(held.min(used)).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_1024s() {
        assert_eq!(size("512"), Ok(512));
        assert_eq!(size("3KiB"), Ok(3072));
        assert_eq!(size("2GiB"), Ok(2 << 30));
        for wrong in ["", "GiB", "0", "1GB", "-1MiB", "99999999999GiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
