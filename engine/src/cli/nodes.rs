//! Asks the hosts that a platform's ranks run on, by commands of this executable there. Knows no trial and no test of its own.

use std::io::Write as _;
use std::ops::Range;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::Context;
use chariot_engine::runtime::{Place, Places};
use chariot_engine::sim::hardware::{Hardware, Peer};
use chariot_engine::sim::place::NodePlace;
use chariot_engine::sim::platform::{Platform, Runtime};

use super::files::wrong;

/// A host of ranks.
pub(super) struct Node {
    number: u32,
    place: Place,
    ranks: Range<u32>,
}

/// Where a platform's ranks run.
pub(super) fn places_of(platform: &Platform) -> Places {
    let Some(Runtime { driver: Some(driver), places, .. }) = &platform.runtime else { return Places::here() };
    let place = |device: u32| {
        let NodePlace { address, launch, program } = &places[(device / platform.gpus_per_node) as usize];
        let program = program.as_ref().map(PathBuf::from);
        Place { address: *address, launch: launch.clone(), program }
    };
    Places { driver: *driver, ranks: (0..platform.devices()).map(place).collect() }
}

/// Hosts of the first `ranks` ranks, in order; none where all of them run on this one.
pub(super) fn nodes_of(platform: &Platform, ranks: u32) -> Vec<Node> {
    let (places, size) = (places_of(platform).ranks, platform.gpus_per_node as usize);
    let node = |(number, places): (u32, &[Place])| {
        let first = number * platform.gpus_per_node;
        let ranks = first..ranks.min(first + platform.gpus_per_node);
        Node { number, place: places[0].clone(), ranks }
    };
    (0..).zip(places.chunks(size)).map(node).filter(|node| !node.ranks.is_empty()).collect()
}

impl Node {
    /// Its GPUs, and what drives them.
    pub(super) fn hardware(&self) -> anyhow::Result<Hardware> {
        let (answer, _) = self.ask(&["devices", "--json"])?;
        serde_json::from_str(&answer).with_context(|| format!("{self}: read what its GPUs are"))
    }

    /// How the GPUs of its ranks reach one another, numbered by ranks.
    pub(super) fn peers(&self, hardware: &Hardware) -> Vec<Peer> {
        let rank = |gpu: u32| self.ranks.clone().find(|rank| gpu_of(*rank, hardware) == Some(gpu));
        let renumbered = |peer: &Peer| {
            let [a, b] = peer.gpus;
            Some(Peer { gpus: [rank(a)?, rank(b)?], ..peer.clone() })
        };
        hardware.peers.iter().filter_map(renumbered).collect()
    }

    /// Whether a rank runs on it.
    pub(super) fn has(&self, rank: u32) -> bool {
        self.ranks.contains(&rank)
    }

    /// Refuses to measure on GPUs of its ranks that compute wrongly. All that decides how they do, by rank, in a line each.
    pub(super) fn before_measuring(&self) -> anyhow::Result<Vec<String>> {
        let hardware = self.hardware()?;
        let own: Vec<u32> = self.ranks.clone().filter_map(|rank| gpu_of(rank, &hardware)).collect();
        let mut gpus = own.clone();
        gpus.sort_unstable();
        gpus.dedup();
        let numbers: Vec<String> = gpus.iter().map(u32::to_string).collect();
        let (answer, said) = self.ask(&["gpu-selftest", "--if-new", "--devices", &numbers.join(",")])?;
        for line in said.lines() {
            // Nobody is left to tell if stderr is closed.
            let _ = writeln!(std::io::stderr(), "{self}: {line}");
        }
        let identities: Vec<&str> = answer.lines().collect();
        if identities.len() != gpus.len() {
            let (expected, found) = (gpus.len(), identities.len());
            return Err(wrong(format_args!(
                "{self}: expected a line for each of {expected} GPUs from `gpu-selftest --if-new`, found {found}; \
                 install this version of chariot-engine there"
            )));
        }
        let place = |gpu: &u32| {
            let index = gpus.partition_point(|other| other < gpu);
            format!("{self} behind {:?}: {}", self.place.launch, identities[index])
        };
        Ok(own.iter().map(place).collect())
    }

    /// Runs this executable there; what it said, on stdout and on stderr. What it refuses to do is refused here.
    fn ask(&self, arguments: &[&str]) -> anyhow::Result<(String, String)> {
        let program = std::env::current_exe().context("find this executable")?;
        let mut command = self.place.command(&program);
        command.args(arguments).stdin(Stdio::null());
        let output =
            command.output().with_context(|| format!("{self}: start {}", command.get_program().display()))?;
        let [answer, said] =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let last = said.lines().last().map_or("it said nothing", |line| line.trim_start_matches("error: "));
        match output.status.code() {
            Some(0) => Ok((answer, said)),
            Some(2) => Err(wrong(format_args!("{self}: {last}"))),
            _ => anyhow::bail!("{self}: `{}` failed ({}): {last}", arguments.join(" "), output.status),
        }
    }
}

impl std::fmt::Display for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "node {} ({})", self.number, self.place.address)
    }
}

/// The GPU that a rank takes on its host, as workers do it.
fn gpu_of(rank: u32, hardware: &Hardware) -> Option<u32> {
    rank.checked_rem(hardware.gpus.len() as u32)
}
