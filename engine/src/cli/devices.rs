//! `chariot-engine devices`: the GPUs of this machine, what joins them, and what is missing to use them.

use std::collections::{BTreeMap, BTreeSet};

use chariot_engine::backend::cuda::{self, library};
use chariot_engine::sim::hardware::{Hardware, Peer, PeerLink};

use super::files::wrong;

/// List GPUs, their links and CUDA's libraries, and say what is missing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON, as `hardware` has it in cluster.json; without a GPU: exit code 2
    #[arg(long)]
    json: bool,
}

/// Prints; a machine without GPUs is no failure for those who read.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.json {
        let hardware = cuda::hardware().map_err(wrong)?;
        return super::say(format_args!("{}", serde_json::to_string(&hardware)?));
    }
    let mut lines = library::describe();
    // Why there is no GPU to ask has been said.
    if let Ok(hardware) = cuda::hardware() {
        let missing = cuda::no_nvml().filter(|_| !hardware.peers.is_empty());
        lines.extend(missing.map(|missing| missing.to_string()));
        lines.extend(links(&hardware));
    }
    lines.iter().try_for_each(|line| super::say(format_args!("{line}")))
}

/// How GPUs reach each other: a table where NVML tells, else what the driver tells of each two.
fn links(hardware: &Hardware) -> Vec<String> {
    let Hardware { gpus, peers, .. } = hardware;
    let mut lines = slots(hardware);
    if peers.iter().all(|peer| peer.link.is_none()) {
        lines.extend(peers.iter().map(by_driver));
        return lines;
    }
    let cell = |a: usize, b: usize| {
        let is_pair = |peer: &&Peer| peer.gpus.map(|gpu| gpu as usize) == [a.min(b), a.max(b)];
        let link = peers.iter().find(is_pair).and_then(|peer| peer.link);
        if a == b { "-".to_owned() } else { link.map_or("?".to_owned(), PeerLink::short) }
    };
    let count = gpus.len();
    let row = |head: String, cells: Vec<String>| {
        cells.iter().fold(format!("{head:>4}"), |row, cell| format!("{row} {cell:>5}"))
    };
    lines.push("links between GPUs:".to_owned());
    lines.push(row(String::new(), (0..count).map(|gpu| gpu.to_string()).collect()));
    lines.extend((0..count).map(|a| row(a.to_string(), (0..count).map(|b| cell(a, b)).collect())));
    let kinds: BTreeSet<PeerLink> = peers.iter().filter_map(|peer| peer.link).collect();
    let meanings = kinds.iter().map(|kind| format!("{}: {kind}", kind.short()));
    let unknown = peers.iter().any(|peer| peer.link.is_none()).then(|| "?: NVML does not tell".to_owned());
    lines.push(meanings.chain(unknown).collect::<Vec<_>>().join("; "));
    lines.extend(without_access(peers));
    lines
}

/// GPUs with equal slots in one line.
fn slots(hardware: &Hardware) -> Vec<String> {
    let mut by_slot: BTreeMap<[u32; 2], Vec<String>> = BTreeMap::new();
    for (number, gpu) in hardware.gpus.iter().enumerate() {
        if let Some(pcie) = gpu.pcie {
            by_slot.entry([pcie.generation, pcie.lanes]).or_default().push(number.to_string());
        }
    }
    let line = |([generation, lanes], gpus): (&[u32; 2], &Vec<String>)| {
        let gpus = gpus.join(", ");
        format!("PCIe of GPU {gpus}: generation {generation}, {lanes} lanes")
    };
    by_slot.iter().map(line).collect()
}

/// The driver's word alone: its rank of a path is lower for a faster one.
fn by_driver(peer: &Peer) -> String {
    let [a, b] = peer.gpus;
    let access = match (peer.direct, peer.performance_rank) {
        (None, _) => "unknown".to_owned(),
        (Some(false), _) => "no direct access".to_owned(),
        (Some(true), Some(rank)) => format!("direct access, performance rank {rank}"),
        (Some(true), None) => "direct access, performance rank unknown".to_owned(),
    };
    format!("GPU {a} - GPU {b}: {access}")
}

/// Pairs that cannot read each other's memory.
fn without_access(peers: &[Peer]) -> Option<String> {
    let without: Vec<String> = peers
        .iter()
        .filter(|peer| peer.direct == Some(false))
        .map(|Peer { gpus: [a, b], .. }| format!("{a}-{b}"))
        .collect();
    match without.len() {
        0 => None,
        count if count == peers.len() => Some("no direct access between GPUs".to_owned()),
        _ => Some(format!("no direct access between GPUs {}", without.join(", "))),
    }
}
