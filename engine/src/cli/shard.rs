//! `chariot-engine shard`: a model divided over a cluster becomes `weights.json`, and where it is to run for real rank files beside it.

mod rank_files;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use chariot_engine::manifest::{Manifest, Origin, Weights};
use chariot_engine::model::{ModelConfig, ModelError};
use chariot_engine::shape::ShapeError;
use chariot_engine::shard::{Dtype, Dtypes, Parallel};
use chariot_engine::sim::cluster::{self, Cluster, Provenance};
use chariot_engine::sim::platform::Backend;

use self::rank_files::{Done, Source};
use super::files::{check_format, mistake, read, read_json, write_json, wrong};
use super::say;
use super::weights::{blame, refuse_odd};

/// Divide a model over the ranks of a cluster
///
/// For a cluster that runs for real it also writes each rank's weights, rank-000.safetensors and so on, beside weights.json: those of
/// a Hugging Face folder, or ones made up from a seed (by default seed 0, bf16). Files that would not change are left alone.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  chariot-engine shard --cluster cluster.json --model pipelines/models/falcon-180b.yaml --tp 4 --pp 2 --out weights.json\n  chariot-engine shard --cluster cluster.json --model falcon/config.json --weights falcon --tp 2 --pp 1 --out shards/weights.json"
)]
pub(super) struct Args {
    /// cluster.json, as `chariot-engine cluster` wrote it
    #[arg(long, value_name = "FILE")]
    cluster: Utf8PathBuf,
    /// A model preset, or a Hugging Face config.json of the Falcon or Llama family
    #[arg(long, value_name = "FILE")]
    model: Utf8PathBuf,
    /// Tensor-parallel ranks of a stage
    #[arg(long, value_name = "N")]
    tp: u32,
    /// Pipeline stages
    #[arg(long, value_name = "N")]
    pp: u32,
    /// Where to write weights.json
    #[arg(long, value_name = "FILE")]
    out: Utf8PathBuf,
    /// Also write rank files, from a Hugging Face folder of safetensors
    #[arg(long, value_name = "DIR", conflicts_with = "dummy")]
    weights: Option<Utf8PathBuf>,
    /// Also write rank files, with values made up from this seed
    #[arg(long, value_name = "SEED")]
    dummy: Option<u64>,
    /// Type of the made-up values
    #[arg(long, value_enum, default_value = "bf16", conflicts_with = "weights")]
    dtype: DummyDtype,
    /// Write no rank files: each rank makes its values up when it starts. For models larger than the disk
    #[arg(long, conflicts_with = "weights")]
    in_memory: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum DummyDtype {
    Bf16,
    F16,
    F32,
}

impl From<DummyDtype> for Dtype {
    fn from(dtype: DummyDtype) -> Self {
        match dtype {
            DummyDtype::Bf16 => Self::Bfloat16,
            DummyDtype::F16 => Self::Float16,
            DummyDtype::F32 => Self::Float32,
        }
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let cluster: Cluster = read_json(&args.cluster)?;
    check_format(&args.cluster, cluster::FORMAT, cluster.format)?;
    let config = config(args)?;
    let parallel = Parallel { tp: args.tp, pp: args.pp };
    let source = source(args, cluster.provenance);
    // A simulated model has the type of the paper's.
    let dtypes = match &source {
        Some(source) => source.dtypes(&config, parallel).map_err(blame)?,
        None => Dtypes::uniform(Dtype::Float16),
    };
    if let (Some(Source::Folder(folder)), true) = (&source, on_gpus(&cluster)) {
        refuse_odd(folder, dtypes.main, dtypes.odd_matrix())?;
    }
    let mut manifest = Manifest::new(&cluster, config.shape.clone(), parallel, &dtypes).map_err(wrong)?;
    if let (Some(Source::Dummy { seed, dtype }), true) = (&source, args.in_memory) {
        let origin = Origin::Dummy { seed: *seed };
        let inputs = BTreeMap::new();
        manifest.weights = Some(Weights { config, dtype: *dtype, origin, inputs, in_memory: true });
    } else if let Some(source) = source {
        let (done, elapsed) =
            timed(|| rank_files::write(&args.out, &mut manifest, config, dtypes.main, &source));
        say_done(&done.map_err(blame_any)?, elapsed)?;
    }
    write_json(&args.out, &manifest)?;
    let Manifest { model, platform, total_bytes, memory, provenance, .. } = &manifest;
    say(format_args!(
        "{model} on {platform} ({provenance}), tp{} x pp{}: {:.1} GB of weights, at most {:.2} GB a device, {} B of KV a token there",
        args.tp,
        args.pp,
        *total_bytes as f64 / 1e9,
        memory.weight_bytes_max as f64 / 1e9,
        memory.kv_bytes_per_token,
    ))
}

/// Whether its ranks will compute on GPUs.
fn on_gpus(cluster: &Cluster) -> bool {
    let runtime = cluster.preset.runtime.as_ref();
    cluster.provenance == Provenance::Measured
        && runtime.is_some_and(|runtime| runtime.backend == Backend::Cuda)
}

/// What was asked for, or for a cluster that runs for real a dummy.
fn source(args: &Args, provenance: Provenance) -> Option<Source> {
    let seed = match (&args.weights, args.dummy, provenance) {
        (Some(folder), ..) => return Some(Source::Folder(folder.clone())),
        (None, Some(seed), _) => seed,
        (None, None, Provenance::Measured) => 0,
        (None, None, Provenance::Simulated) if args.in_memory => 0,
        (None, None, Provenance::Simulated) => return None,
    };
    Some(Source::Dummy { seed, dtype: args.dtype.into() })
}

/// The model's configuration. A folder of weights has its own, which must have the shape that was asked for.
fn config(args: &Args) -> anyhow::Result<ModelConfig> {
    let config = parse(&args.model)?;
    let Some(folder) = &args.weights else { return Ok(config) };
    let own = folder.join("config.json");
    let mut found = parse(&own)?;
    found.shape.name.clone_from(&config.shape.name);
    match found.shape == config.shape {
        true => Ok(found),
        false => Err(mistake(
            &own,
            format_args!("expected the shape of {}, {:?}, found {:?}", args.model, config.shape, found.shape),
        )),
    }
}

fn parse(path: &Utf8Path) -> anyhow::Result<ModelConfig> {
    let blame = |error: ShapeError| mistake(path, error);
    ModelConfig::parse(&read(path)?, name(path)).map_err(blame)
}

fn blame_any(error: anyhow::Error) -> anyhow::Error {
    error.downcast::<ModelError>().map_or_else(|other| other, blame)
}

#[expect(clippy::disallowed_methods, reason = "the speed of writing is for people, and decides nothing")]
fn timed<T>(action: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = action();
    (result, start.elapsed())
}

fn say_done(done: &Done, elapsed: Duration) -> anyhow::Result<()> {
    let Done { written, written_bytes, kept } = done;
    let (gigabytes, seconds) = (*written_bytes as f64 / 1e9, elapsed.as_secs_f64());
    match written {
        0 => say(format_args!("rank files: {kept} as they should be")),
        _ => say(format_args!(
            "rank files: {written} written, {kept} as they should be: {gigabytes:.2} GB in {seconds:.1} s, {:.2} GB/s",
            gigabytes / seconds,
        )),
    }
}

/// A `config.json` is called by its directory, as a downloaded model is.
fn name(path: &Utf8Path) -> &str {
    let stem = path.file_stem().unwrap_or("model");
    let directory = path.parent().and_then(|parent| parent.file_name());
    if stem == "config" { directory.unwrap_or(stem) } else { stem }
}
