//! Makes messages of one group take the time that emulated links would: waits for what is left of it, and notes what came too late.

use std::sync::{Arc, Mutex};

use super::links::{Lateness, LinkClass, Links};
use crate::clock::{monotonic_ns, sleep_until};

/// The links of one group.
#[derive(Debug)]
pub(super) struct Pace {
    links: Arc<Links>,
    class: LinkClass,
    /// When each link from this rank is free again.
    free_at_ns: Vec<u64>,
    /// Of the whole rank. Its one thread holds it for an addition; the driver's question comes from the same thread.
    lateness: Arc<Mutex<Lateness>>,
}

impl Pace {
    /// Paces a group of `size` ranks over links of `class`.
    pub(super) fn new(
        links: Arc<Links>,
        class: LinkClass,
        size: usize,
        lateness: Arc<Mutex<Lateness>>,
    ) -> Self {
        Self { links, class, free_at_ns: vec![0; size], lateness }
    }

    /// Ends an all-reduce of `values` over `k` ranks, the last of which began at `began_ns`.
    pub(super) fn end_all_reduce(&self, began_ns: u64, k: usize, values: usize) {
        self.end(began_ns, self.links.all_reduce_ns(&self.class, k, values));
    }

    /// Ends an all-gather whose result has `values`.
    pub(super) fn end_all_gather(&self, began_ns: u64, k: usize, values: usize) {
        self.end(began_ns, self.links.all_gather_ns(&self.class, k, values));
    }

    fn end(&self, began_ns: u64, planned_ns: u64) {
        let planned_end = began_ns + planned_ns;
        sleep_until(planned_end);
        self.note(planned_ns, monotonic_ns().saturating_sub(planned_end));
    }

    /// When a message of `values` sent now to `peer` will be there: it waits for those before it, occupies the link, and travels.
    pub(super) fn departs(&mut self, peer: usize, values: usize) -> u64 {
        let (occupied, travels) = self.links.send_ns(&self.class, values);
        let free = monotonic_ns().max(self.free_at_ns[peer]) + occupied;
        self.free_at_ns[peer] = free;
        free + travels
    }

    /// Ends the receipt of a message of `values` that is to be there at `due_ns`, asked for at `asked_ns`.
    pub(super) fn arrives(&self, due_ns: u64, asked_ns: u64, values: usize) {
        sleep_until(due_ns);
        let (occupied, travels) = self.links.send_ns(&self.class, values);
        // Nobody waits for a message before it is asked for.
        let wanted = due_ns.max(asked_ns);
        self.note(occupied + travels, monotonic_ns().saturating_sub(wanted));
    }

    fn note(&self, planned_ns: u64, late_ns: u64) {
        let mut lateness = self.lateness.lock().expect("an addition does not panic");
        lateness.add(planned_ns, late_ns);
    }
}
