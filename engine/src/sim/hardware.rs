//! What a cluster of GPUs turned out to consist of, and what its links took when it was brought up, as `cluster.json` holds them.
//! Plain data: knows nobody who measures.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whose numbers the links of `preset` have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkCosts {
    /// The platform file's.
    #[default]
    Preset,
    /// Those of `measured_links`, wherever a class has them; the platform file's elsewhere.
    Measured,
}

impl LinkCosts {
    /// Whether nothing needs to be said.
    pub(super) fn is_preset(&self) -> bool {
        *self == Self::Preset
    }
}

/// GPUs of a host, and what drives them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hardware {
    /// Version of CUDA that the driver is for, such as `12.4`.
    pub cuda: String,
    /// What the driver's kernel module says of itself, where it can be seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Version of NCCL, where it is installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nccl: Option<String>,
    /// By number; rank r has GPU r modulo their number.
    pub gpus: Vec<Gpu>,
    /// How each two of them reach one another, as the driver tells.
    pub peers: Vec<Peer>,
}

/// One GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// Model, such as `NVIDIA A100-SXM4-80GB`.
    pub name: String,
    /// Names this very card; 32 hexadecimal digits.
    pub uuid: String,
    /// Compute capability, such as `8.0`.
    pub compute_capability: String,
    /// All of its memory.
    pub memory_bytes: u64,
    /// What stays free of it while ranks run without weights, keys and values; absent: no rank runs on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
    /// Its slot; absent: NVML did not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pcie: Option<Pcie>,
}

/// The best that a GPU and its slot can do together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pcie {
    /// 4 has 16 GT/s a lane, 5 twice as much.
    pub generation: u32,
    /// Such as 16.
    pub lanes: u32,
}

/// Two GPUs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Their numbers.
    pub gpus: [u32; 2],
    /// Whether one can read the other's memory; absent: the driver did not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct: Option<bool>,
    /// The driver's rank of the path: lower is faster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub performance_rank: Option<i32>,
    /// What joins them; absent: NVML did not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<PeerLink>,
}

/// What joins two GPUs of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum PeerLink {
    /// NVLinks from the one to the other.
    Nvlink {
        /// How many are active; absent: their other ends are hidden.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        links: Option<u32>,
    },
    /// NVLinks of each to switches.
    Nvswitch {
        /// Active ones of the GPU that has fewer.
        links: u32,
    },
    /// PCIe alone.
    Pcie {
        /// What both hang on.
        nearest: Ancestor,
    },
}

/// The nearest thing on the PCI bus that two GPUs hang on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ancestor {
    /// One board with both.
    Board,
    /// One PCIe switch.
    Switch,
    /// Several PCIe switches.
    Switches,
    /// A host bridge of the processor.
    HostBridge,
    /// Several host bridges of one NUMA node.
    NumaNode,
    /// The link between NUMA nodes.
    System,
}

impl PeerLink {
    /// Whether it is faster than PCIe.
    pub fn is_nvlink(self) -> bool {
        matches!(self, Self::Nvlink { .. } | Self::Nvswitch { .. })
    }

    /// In a few letters; those of PCIe are `nvidia-smi`'s.
    pub fn short(self) -> String {
        match self {
            Self::Nvlink { links: Some(links) } => format!("NV{links}"),
            Self::Nvlink { links: None } => "NV".to_owned(),
            Self::Nvswitch { links } => format!("NS{links}"),
            Self::Pcie { nearest } => match nearest {
                Ancestor::Board => "PSB",
                Ancestor::Switch => "PIX",
                Ancestor::Switches => "PXB",
                Ancestor::HostBridge => "PHB",
                Ancestor::NumaNode => "NODE",
                Ancestor::System => "SYS",
            }
            .to_owned(),
        }
    }
}

impl fmt::Display for PeerLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nvlink { links: Some(1) } => f.write_str("1 NVLink"),
            Self::Nvlink { links: Some(links) } => write!(f, "{links} NVLinks"),
            Self::Nvlink { links: None } => f.write_str("NVLink"),
            Self::Nvswitch { links } => write!(f, "{links} NVLinks through NVSwitch"),
            Self::Pcie { nearest } => f.write_str(match nearest {
                Ancestor::Board => "PCIe on one board",
                Ancestor::Switch => "PCIe through one switch",
                Ancestor::Switches => "PCIe through several switches",
                Ancestor::HostBridge => "PCIe through a host bridge",
                Ancestor::NumaNode => "PCIe through host bridges of one NUMA node",
                Ancestor::System => "PCIe across NUMA nodes",
            }),
        }
    }
}

/// What a link class took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasuredLink {
    /// The class.
    pub name: String,
    /// All-reduce among whole blocks of the class: `alpha + 2 (k-1)/k * bytes / gbps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_reduce: Option<Fitted>,
    /// One way between two devices that no nearer class joins: `alpha + bytes / gbps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_recv: Option<Fitted>,
}

/// A line through measured times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fitted {
    /// Time of an empty message, microseconds.
    pub alpha_us: f64,
    /// Slope, GB/s.
    pub gbps: f64,
    /// Median of |line / measured - 1| over the points.
    pub error_median: f64,
    /// The largest.
    pub error_max: f64,
    /// What the line lies through.
    pub points: Vec<Exchanged>,
}

/// One size of message in one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchanged {
    /// The ranks, numbered as devices.
    pub ranks: Vec<u32>,
    /// What each has, or sends.
    pub bytes: u64,
    /// Median, microseconds.
    pub us: f64,
    /// Of so many times.
    pub repeats: u32,
}
