//! A platform brought up: each device's node and each pair's link written out, as `cluster.json` holds them.
//! Knows nothing of models or files.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::platform::{Platform, PlatformError};

/// Version of `cluster.json`.
pub const FORMAT: u32 = 1;

/// The content of `cluster.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Version of this file.
    pub format: u32,
    /// Where numbers of this cluster come from.
    pub provenance: Provenance,
    /// Name of the platform.
    pub platform: String,
    /// Machines.
    pub nodes: u32,
    /// Devices of each.
    pub gpus_per_node: u32,
    /// Every device, in the order of ranks.
    pub devices: Vec<Device>,
    /// Link class between devices a and b: an index into `preset.links`; the diagonal is the nearest class.
    pub link_classes: Vec<Vec<u32>>,
    /// The preset, every coefficient with its band.
    pub preset: Platform,
}

/// One device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Its number; rank r runs on device r.
    pub device: u32,
    /// Its machine.
    pub node: u32,
    /// Its number there.
    pub gpu: u32,
}

/// Whether numbers were measured or simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provenance {
    /// From the discrete-event simulator.
    Simulated,
    /// From real execution.
    Measured,
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Simulated => "simulated",
            Self::Measured => "measured",
        })
    }
}

impl Cluster {
    /// Checks a preset and resolves devices and links. A simulated one must know what work costs.
    pub fn bring_up(preset: Platform, provenance: Provenance) -> Result<Self, PlatformError> {
        preset.validate()?;
        if provenance == Provenance::Simulated {
            preset.costs()?;
        }
        let per_node = preset.gpus_per_node;
        let device = |device| Device { device, node: device / per_node, gpu: device % per_node };
        let class = |a: u32, b: u32| {
            let link = preset.link(&[a, b]);
            preset.links.iter().position(|other| other == link).expect("link() answers one of links") as u32
        };
        let all = 0..preset.devices();
        Ok(Self {
            format: FORMAT,
            provenance,
            platform: preset.name.clone(),
            nodes: preset.nodes,
            gpus_per_node: per_node,
            devices: all.clone().map(device).collect(),
            link_classes: all.clone().map(|a| all.clone().map(|b| class(a, b)).collect()).collect(),
            preset,
        })
    }
}
