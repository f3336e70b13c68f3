//! What a cluster of GPUs turned out to consist of, and what its links took when it was brought up, as `cluster.json` holds them.
//! Plain data: knows nobody who measures.

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

/// GPUs of the host that brought the cluster up, and what drives them.
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
    /// By number; rank r of this host has GPU r.
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
