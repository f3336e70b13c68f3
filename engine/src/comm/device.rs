//! The emulated device of a rank: what time it is there, and how far the rank is behind it.
//!
//! Without a scale of its own the device is the rank: its time is the host's, and only messages take longer. With one it computes
//! `scale` times slower than a core of the host, by the processor time that the rank has used; a host with fewer cores than ranks then
//! has the time to compute for all of them, and no rank's work makes another's messages late.

use std::sync::Arc;

use super::activity::{Activity, Doing};
use super::links::Lateness;
use crate::clock::{SPUN_BRIEFLY_NS, SPUN_EXACTLY_NS, monotonic_ns, sleep_until, thread_cpu_ns};

/// Times of one rank's device. One thread uses it.
#[derive(Debug, Default)]
pub(super) struct Device {
    compute_scale: Option<f64>,
    /// Where the device is: all that was to happen until then has happened. Only with a scale.
    time_ns: u64,
    /// Processor time of this thread at that moment.
    cpu_ns: u64,
    /// When the step under way began on the device.
    began_ns: u64,
    lateness: Lateness,
    activity: Arc<Activity>,
}

impl Device {
    /// A device that computes `compute_scale` times slower than the host, or that is the host.
    pub(super) fn new(compute_scale: Option<f64>, activity: Arc<Activity>) -> Self {
        Self { compute_scale, activity, ..Self::default() }
    }

    /// From now on, the rank says there when it waits for its device.
    pub(super) fn tell(&mut self, activity: &Arc<Activity>) {
        self.activity = Arc::clone(activity);
    }

    /// A step was sent at `sent_ns`; until then the device waited.
    pub(super) fn begin(&mut self, sent_ns: u64) {
        self.time_ns = self.time_ns.max(sent_ns);
        self.began_ns = self.time_ns;
        self.cpu_ns = thread_cpu_ns();
    }

    /// The time on the device, all that the rank has computed included.
    pub(super) fn now_ns(&mut self) -> u64 {
        let Some(scale) = self.compute_scale else { return monotonic_ns() };
        let cpu_ns = thread_cpu_ns();
        self.time_ns += ((cpu_ns - self.cpu_ns) as f64 * scale) as u64;
        self.cpu_ns = cpu_ns;
        self.time_ns
    }

    /// Waits until the device is at `end_ns`, when a message of `planned_ns` is through.
    ///
    /// With a scale of its own it is not held against the rank that it comes late here: the device's time goes on from `end_ns`, not from
    /// now, and the rank has the rest of the step to catch up.
    pub(super) fn message(&mut self, end_ns: u64, planned_ns: u64) {
        let is_host = self.compute_scale.is_none();
        let _pause = self.activity.pause(Doing::Pacing);
        sleep_until(end_ns, if is_host { SPUN_EXACTLY_NS } else { SPUN_BRIEFLY_NS });
        self.lateness.messages += 1;
        if is_host {
            self.lateness.add(planned_ns, monotonic_ns() - end_ns);
        }
        self.time_ns = self.time_ns.max(end_ns);
        // What the rank does to get a message through is no computing.
        self.cpu_ns = thread_cpu_ns();
    }

    /// Waits until the device is done with the step, and says when that was. From here on being late shows, for the driver hears of it.
    pub(super) fn finish(&mut self) -> u64 {
        let end_ns = self.now_ns();
        if self.compute_scale.is_some() {
            let _pause = self.activity.pause(Doing::Pacing);
            sleep_until(end_ns, SPUN_BRIEFLY_NS);
            self.lateness.add(end_ns - self.began_ns, monotonic_ns() - end_ns);
        }
        end_ns
    }

    /// How late the rank was so far.
    pub(super) fn lateness(&self) -> Lateness {
        self.lateness
    }
}
