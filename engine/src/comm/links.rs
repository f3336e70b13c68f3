//! What emulated links cost, as formulas. Pure; the same formulas as the simulator's cost model.

use serde::{Deserialize, Serialize};

/// The links between the ranks of one host, as if they were another machine's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Links {
    /// From the nearest to the farthest: ranks `k span .. (k+1) span` reach one another over a class; the nearest one counts.
    pub classes: Vec<LinkClass>,
    /// Factor of all times.
    pub time_scale: f64,
    /// Bytes that a value counts for.
    pub bytes_per_value: f64,
    /// How many times slower than a core of this host a rank's device computes; absent: as fast as it happens to.
    pub compute_scale: Option<f64>,
}

/// One class of links.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkClass {
    /// Ranks of a block.
    pub span: u32,
    /// All-reduce of nothing, microseconds.
    pub ring_alpha_us: f64,
    /// Bandwidth of the ring, GB/s.
    pub ring_gbps: f64,
    /// Transfer of nothing between two ranks, microseconds.
    pub send_alpha_us: f64,
    /// Bandwidth between two ranks, GB/s.
    pub send_gbps: f64,
}

/// How late messages were against their plans.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lateness {
    /// Messages over emulated links.
    pub messages: u64,
    /// Time these should have taken, or steps where devices compute at their own speed.
    pub planned_ns: u64,
    /// Time by which they were late.
    pub late_ns: u64,
    /// The latest one.
    pub worst_ns: u64,
}

impl Lateness {
    /// What something should have taken, and how much longer it took.
    pub(super) fn add(&mut self, planned_ns: u64, late_ns: u64) {
        self.planned_ns += planned_ns;
        self.late_ns += late_ns;
        self.worst_ns = self.worst_ns.max(late_ns);
    }
}

impl Links {
    /// The class of a group: the nearest one with a block that holds them all. `None`: no class does.
    pub(super) fn class(&self, ranks: &[usize]) -> Option<LinkClass> {
        let within = |class: &&LinkClass| {
            let span = class.span.max(1) as usize;
            ranks.windows(2).all(|pair| pair[0] / span == pair[1] / span)
        };
        self.classes.iter().find(within).copied()
    }

    /// An all-reduce of `values` over `k` ranks: `alpha + 2 (k-1)/k bytes / ring`, in nanoseconds.
    pub(super) fn all_reduce_ns(&self, class: &LinkClass, k: usize, values: usize) -> u64 {
        self.ring_ns(class, k, values, 2.0)
    }

    /// An all-gather whose whole result is `values`: half the way round.
    pub(super) fn all_gather_ns(&self, class: &LinkClass, k: usize, values: usize) -> u64 {
        self.ring_ns(class, k, values, 1.0)
    }

    fn ring_ns(&self, class: &LinkClass, k: usize, values: usize, rounds: f64) -> u64 {
        let share = (k as f64 - 1.0) / k as f64;
        let bytes = values as f64 * self.bytes_per_value;
        self.scaled(class.ring_alpha_us * 1e3 + rounds * share * bytes / class.ring_gbps)
    }

    /// How long a message of `values` occupies a link, and how long its last byte then is on its way.
    pub(super) fn send_ns(&self, class: &LinkClass, values: usize) -> (u64, u64) {
        let bytes = values as f64 * self.bytes_per_value;
        (self.scaled(bytes / class.send_gbps), self.scaled(class.send_alpha_us * 1e3))
    }

    /// Bytes over GB/s are nanoseconds.
    fn scaled(&self, ns: f64) -> u64 {
        (self.time_scale * ns).round() as u64
    }
}
