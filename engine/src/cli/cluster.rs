//! `chariot-engine cluster`: a platform preset becomes `cluster.json`.

use camino::Utf8PathBuf;
use chariot_engine::backend::cuda;
use chariot_engine::sim::cluster::{Cluster, Provenance};
use chariot_engine::sim::platform::{Backend, Platform};

use super::files::{mistake, read, write_json, wrong};
use super::say;

/// Bring a platform up: check its preset, resolve devices and links
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  chariot-engine cluster --platform pipelines/platforms/azure-nc96ads-a100-v4-x2.yaml --out cluster.json"
)]
pub(super) struct Args {
    /// Platform preset, YAML
    #[arg(long, value_name = "FILE")]
    platform: Utf8PathBuf,
    /// Whether its numbers will be simulated, or measured on processes of this host
    #[arg(long, value_enum, default_value_t = On::Simulator)]
    on: On,
    /// Where to write cluster.json
    #[arg(long, value_name = "FILE")]
    out: Utf8PathBuf,
}

/// What executes.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum On {
    /// The discrete-event simulator
    Simulator,
    /// One CPU process a rank, on this host
    Cpu,
    /// One process and NVIDIA GPU a rank
    Cuda,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let text = read(&args.platform)?;
    let mut preset: Platform =
        serde_saphyr::from_str(&text).map_err(|error| mistake(&args.platform, error))?;
    let provenance = match args.on {
        On::Simulator => Provenance::Simulated,
        On::Cpu | On::Cuda => Provenance::Measured,
    };
    if matches!(args.on, On::Cuda) {
        preset.runtime.get_or_insert_default().backend = Backend::Cuda;
        // Ranks elsewhere are for their own hosts to judge.
        if preset.runtime.as_ref().is_some_and(|runtime| runtime.places.is_empty()) {
            cuda::check(preset.devices()).map_err(|missing| wrong(format_args!("--on cuda: {missing}")))?;
        }
    }
    let cluster = Cluster::bring_up(preset, provenance).map_err(|error| mistake(&args.platform, error))?;
    write_json(&args.out, &cluster)?;
    let Cluster { platform, nodes, gpus_per_node, .. } = &cluster;
    say(format_args!("{platform} ({provenance}): {nodes} x {gpus_per_node} devices"))
}
