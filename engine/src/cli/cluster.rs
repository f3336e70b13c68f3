//! `chariot-engine cluster`: a platform preset becomes `cluster.json`.

use camino::Utf8PathBuf;
use chariot_engine::sim::cluster::{Cluster, Provenance};
use chariot_engine::sim::platform::Platform;

use super::files::{mistake, read, write_json};
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
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let text = read(&args.platform)?;
    let preset: Platform = serde_saphyr::from_str(&text).map_err(|error| mistake(&args.platform, error))?;
    let provenance = match args.on {
        On::Simulator => Provenance::Simulated,
        On::Cpu => Provenance::Measured,
    };
    let cluster = Cluster::bring_up(preset, provenance).map_err(|error| mistake(&args.platform, error))?;
    write_json(&args.out, &cluster)?;
    let Cluster { platform, nodes, gpus_per_node, .. } = &cluster;
    say(format_args!("{platform} ({provenance}): {nodes} x {gpus_per_node} devices"))
}
