//! `chariot-engine shard`: a model divided over a cluster becomes `weights.json`.

use camino::Utf8PathBuf;
use chariot_engine::manifest::Manifest;
use chariot_engine::shape::ModelShape;
use chariot_engine::shard::Parallel;
use chariot_engine::sim::cluster::{self, Cluster};

use super::files::{check_format, mistake, read, read_json, write_json, wrong};
use super::say;

/// Divide a model over the ranks of a cluster
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  chariot-engine shard --cluster cluster.json --model pipelines/models/falcon-180b.yaml --tp 4 --pp 2 --out weights.json"
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
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let cluster: Cluster = read_json(&args.cluster)?;
    check_format(&args.cluster, cluster::FORMAT, cluster.format)?;
    let text = read(&args.model)?;
    let shape = ModelShape::parse(&text, name(args)).map_err(|error| mistake(&args.model, error))?;
    let parallel = Parallel { tp: args.tp, pp: args.pp };
    let manifest = Manifest::new(&cluster, shape, parallel).map_err(wrong)?;
    write_json(&args.out, &manifest)?;
    let Manifest { model, platform, total_bytes, memory, .. } = &manifest;
    say(format_args!(
        "{model} on {platform} (simulated), tp{} x pp{}: {:.1} GB of weights, at most {:.2} GB a device, {} B of KV a token there",
        args.tp,
        args.pp,
        *total_bytes as f64 / 1e9,
        memory.weight_bytes_max as f64 / 1e9,
        memory.kv_bytes_per_token,
    ))
}

/// A `config.json` is called by its directory, as a downloaded model is.
fn name(args: &Args) -> &str {
    let stem = args.model.file_stem().unwrap_or("model");
    let directory = args.model.parent().and_then(|parent| parent.file_name());
    if stem == "config" { directory.unwrap_or(stem) } else { stem }
}
