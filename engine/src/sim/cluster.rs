//! A platform brought up: each device's node and each pair's link written out, as `cluster.json` holds them.
//! Knows nothing of models or files.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::coefficient::Coefficient;
use super::hardware::{Fitted, Hardware, LinkCosts, MeasuredLink};
use super::platform::{Platform, PlatformError, Ring, Transfer};

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
    /// Whose numbers the preset's links have.
    #[serde(default, skip_serializing_if = "LinkCosts::is_preset")]
    pub link_costs: LinkCosts,
    /// What links took, nearest class first; none where nobody measured them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measured_links: Vec<MeasuredLink>,
    /// GPUs of each node, where there are some; of this host alone, if all ranks run on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hardware: Vec<Hardware>,
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

/// A line as coefficients of the cost model.
fn coefficients(fitted: &Fitted) -> (Coefficient, Coefficient) {
    (Coefficient::certain(fitted.alpha_us), Coefficient::certain(fitted.gbps))
}

impl Cluster {
    /// Puts what links took in the place of what the platform file says; a class that was not measured keeps that.
    pub fn take_links(&mut self, measured: Vec<MeasuredLink>) {
        for link in &mut self.preset.links {
            let Some(own) = measured.iter().find(|own| own.name == link.name) else { continue };
            if let Some((alpha_us, ring_gbps)) = own.all_reduce.as_ref().map(coefficients) {
                link.all_reduce = Ring { alpha_us, ring_gbps };
            }
            if let Some((alpha_us, gbps)) = own.send_recv.as_ref().map(coefficients) {
                link.send_recv = Transfer { alpha_us, gbps };
            }
        }
        if !measured.is_empty() {
            self.link_costs = LinkCosts::Measured;
        }
        self.measured_links = measured;
    }

    /// Plans with no more of a device's memory than is free of it, by rank, and writes that down beside the GPUs. The
    /// smallest; `None`: nobody asked.
    pub fn take_memory(&mut self, free_bytes: &[u64]) -> Option<u64> {
        let least = *free_bytes.iter().min()?;
        self.preset.gpu_memory_gb = self.preset.gpu_memory_gb.min(least as f64 / 1e9);
        let per_node = if self.hardware.len() > 1 { self.gpus_per_node as usize } else { usize::MAX };
        for (rank, free) in free_bytes.iter().enumerate() {
            let gpus = self.hardware.get_mut(rank / per_node).map(|hardware| &mut hardware.gpus);
            // Ranks take the GPUs of their host by their own number.
            if let Some(gpus) = gpus.filter(|gpus| !gpus.is_empty()) {
                let gpu = rank % gpus.len();
                gpus[gpu].free_bytes = Some(*free);
            }
        }
        Some(least)
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
            link_costs: LinkCosts::Preset,
            measured_links: Vec::new(),
            hardware: Vec::new(),
        })
    }
}
