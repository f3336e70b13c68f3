//! The emulated device of a rank: what time it is there, and how far the rank is behind it.
//!
//! Without a scale of its own the device is the rank: its time is the host's, and only messages take longer. With one it computes
//! `scale` times slower than a core of the host, by the processor time that the rank has used; a host with fewer cores than ranks then
//! has the time to compute for all of them, and no rank's work makes another's messages late.

use super::links::Lateness;
use crate::clock::{monotonic_ns, sleep_until, thread_cpu_ns};

/// Times of one rank's device. One thread uses it.
#[derive(Debug, Default)]
pub(super) struct Device {
    compute_scale: Option<f64>,
    /// Where the device is: all that was to happen until then has happened. Only with a scale.
    time_ns: u64,
    /// Processor time of this thread at that moment.
    cpu_ns: u64,
    /// How far the rank was behind then.
    behind_ns: u64,
    lateness: Lateness,
}

impl Device {
    /// A device that computes `compute_scale` times slower than the host, or that is the host.
    pub(super) fn new(compute_scale: Option<f64>) -> Self {
        Self { compute_scale, ..Self::default() }
    }

    /// Something to do has come at `at_ns`; until then the device waited.
    pub(super) fn begin(&mut self, at_ns: u64) {
        self.time_ns = self.time_ns.max(at_ns);
        self.cpu_ns = thread_cpu_ns();
        // What the device waited for, the rank has caught up with.
        self.behind_ns = 0;
    }

    /// The time on the device, all that the rank has computed included.
    pub(super) fn now_ns(&mut self) -> u64 {
        let Some(scale) = self.compute_scale else { return monotonic_ns() };
        let cpu_ns = thread_cpu_ns();
        self.time_ns += ((cpu_ns - self.cpu_ns) as f64 * scale) as u64;
        self.cpu_ns = cpu_ns;
        self.time_ns
    }

    /// Waits until the device is at `end_ns`, of which `planned_ns` were for a message.
    pub(super) fn message(&mut self, end_ns: u64, planned_ns: u64) {
        sleep_until(end_ns);
        self.lateness.messages += 1;
        self.arrive(end_ns, planned_ns);
    }

    /// Waits until the device is done with what the rank has computed, and says when that was.
    pub(super) fn finish(&mut self) -> u64 {
        let end_ns = self.now_ns();
        if self.compute_scale.is_some() {
            sleep_until(end_ns);
            self.arrive(end_ns, 0);
        }
        end_ns
    }

    /// The device goes on from `end_ns`; what the rank does to get a message through is no computing.
    fn arrive(&mut self, end_ns: u64, planned_ns: u64) {
        let behind_ns = monotonic_ns().saturating_sub(end_ns);
        // Being behind is carried along until the device waits; it came late by what was added.
        let carried_ns = if self.compute_scale.is_some() { self.behind_ns } else { 0 };
        self.lateness.add(planned_ns, behind_ns.saturating_sub(carried_ns));
        self.behind_ns = behind_ns;
        self.time_ns = self.time_ns.max(end_ns);
        self.cpu_ns = thread_cpu_ns();
    }

    /// How late the rank was so far.
    pub(super) fn lateness(&self) -> Lateness {
        self.lateness
    }
}
