//! `chariot-engine cluster`: a platform preset becomes `cluster.json`.

mod measured;

use std::io::Write as _;

use anyhow::Context;
use camino::Utf8PathBuf;
use chariot_engine::backend::cuda;
use chariot_engine::bring_up;
use chariot_engine::sim::cluster::{Cluster, Provenance};
use chariot_engine::sim::hardware::{Fitted, MeasuredLink};
use chariot_engine::sim::platform::{Backend, Platform};

use super::files::{Output, mistake, read, wrong};
use super::nodes::{Node, nodes_of};
use super::ranks::{bare, check_cores};
use super::{say, yaml};

/// Bring a platform up: check its preset, resolve devices and links
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  chariot-engine cluster --platform pipelines/platforms/azure-nc96ads-a100-v4-x2.yaml --out cluster.json"
)]
pub(super) struct Args {
    /// Platform preset, YAML
    #[arg(long, value_name = "FILE")]
    platform: Utf8PathBuf,
    /// Whether its numbers will be simulated, or measured on processes of this host or on GPUs; on GPUs links and free memory are measured now
    #[arg(long, value_enum, default_value_t = On::Simulator)]
    on: On,
    /// Where to write cluster.json
    #[arg(long, value_name = "FILE")]
    out: Utf8PathBuf,
    /// With `--on cuda`: where to write the platform with the links that were measured, YAML
    #[arg(long, value_name = "FILE")]
    platform_out: Option<Utf8PathBuf>,
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
    if args.platform_out.is_some() && !matches!(args.on, On::Cuda) {
        return Err(wrong(
            "--platform-out: expected --on cuda, which measures links; elsewhere they are the platform file's",
        ));
    }
    if matches!(args.on, On::Cuda) {
        preset.runtime.get_or_insert_default().backend = Backend::Cuda;
        // Ranks elsewhere are for their own hosts to judge.
        if preset.runtime.as_ref().is_some_and(|runtime| runtime.places.is_empty()) {
            cuda::check(preset.devices()).map_err(|missing| wrong(format_args!("--on cuda: {missing}")))?;
        }
    }
    let mut cluster =
        Cluster::bring_up(preset, provenance).map_err(|error| mistake(&args.platform, error))?;
    let out = Output::create(&args.out)?;
    let platform_out = args.platform_out.as_deref().map(Output::create).transpose()?;
    match args.on {
        On::Simulator => {}
        On::Cpu => warn(&bring_up::emulation_doubts(&cluster.preset)),
        On::Cuda => look_at_gpus(args, &mut cluster)?,
    }
    if let Some(mut output) = platform_out {
        cluster.preset.validate().context("a platform with measured links is valid")?;
        output.write_all(measured::text(&args.platform, &cluster)?.as_bytes())?;
        output.publish()?;
    }
    out.publish_json(&cluster)?;
    let Cluster { platform, nodes, gpus_per_node, .. } = &cluster;
    say(format_args!("{platform} ({provenance}): {nodes} x {gpus_per_node} devices"))
}

fn warn(doubts: &[String]) {
    for doubt in doubts {
        // Nobody is left to tell if stderr is closed.
        let _ = writeln!(std::io::stderr(), "warning: {doubt}");
    }
}

/// Writes down what GPUs there are, and measures their links and free memory.
fn look_at_gpus(args: &Args, cluster: &mut Cluster) -> anyhow::Result<()> {
    let runtime = cluster.preset.runtime.clone().unwrap_or_default();
    check_cores(&args.platform, "", &runtime)?;
    let (devices, classes) = (cluster.preset.devices(), cluster.preset.links.clone());
    let peers = if runtime.places.is_empty() {
        cluster.hardware = vec![cuda::hardware()?];
        cluster.hardware[0].peers.clone()
    } else {
        let nodes = nodes_of(&cluster.preset, devices);
        cluster.hardware = nodes.iter().map(Node::hardware).collect::<anyhow::Result<_>>()?;
        nodes.iter().zip(&cluster.hardware).flat_map(|(node, hardware)| node.peers(hardware)).collect()
    };
    warn(&bring_up::doubts(&cluster.preset, &peers));
    let plan = bare(&cluster.preset, devices);
    let program = std::env::current_exe().context("find this executable")?;
    let mut progress = |what: &str| {
        // Nobody is left to tell if stderr is closed.
        let _ = writeln!(std::io::stderr(), "{what}");
    };
    let found = bring_up::look(&program, plan, &classes, devices, &mut progress)?;
    cluster.take_links(found.links);
    if let Some(least) = cluster.take_memory(&found.free_bytes.unwrap_or_default()) {
        let (free, planned) = (least as f64 / 1e9, cluster.preset.gpu_memory_gb);
        say(format_args!(
            "  memory (measured): {free:.2} GB free on each GPU, {planned:.2} GB planned with"
        ))?;
    }
    cluster.measured_links.iter().try_for_each(say_link)
}

fn say_link(link: &MeasuredLink) -> anyhow::Result<()> {
    let kinds = [("all-reduce", &link.all_reduce), ("send/recv", &link.send_recv)];
    for (kind, fitted) in kinds {
        let Some(Fitted { alpha_us, gbps, error_median, error_max, .. }) = fitted else { continue };
        let (median, worst) = (error_median * 100.0, error_max * 100.0);
        say(format_args!(
            "  {} (measured): {kind} {alpha_us} us + bytes at {gbps} GB/s; off by {median:.1} % in the median, {worst:.1} % at worst",
            link.name
        ))?;
    }
    Ok(())
}
