//! Makes messages of one group take the time that emulated links would. Knows no wire.

use std::sync::{Arc, Mutex, MutexGuard};

use super::device::Device;
use super::links::{LinkClass, Links};

/// The links of one group.
#[derive(Debug)]
pub(super) struct Pace {
    links: Arc<Links>,
    class: LinkClass,
    /// When each link from this rank is free again.
    free_at_ns: Vec<u64>,
    /// Of the whole rank. Its one thread uses it in turn for all groups.
    device: Arc<Mutex<Device>>,
}

impl Pace {
    /// Paces a group of `size` ranks over links of `class`.
    pub(super) fn new(links: Arc<Links>, class: LinkClass, size: usize, device: Arc<Mutex<Device>>) -> Self {
        Self { links, class, free_at_ns: vec![0; size], device }
    }

    fn device(&self) -> MutexGuard<'_, Device> {
        self.device.lock().expect("the one thread of a rank has not panicked")
    }

    /// The time on this rank's device.
    pub(super) fn now_ns(&self) -> u64 {
        self.device().now_ns()
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
        self.device().message(began_ns + planned_ns, planned_ns);
    }

    /// When a message of `values` sent now to `peer` will be there: it waits for those before it, occupies the link, and travels.
    pub(super) fn departs(&mut self, peer: usize, values: usize) -> u64 {
        let (occupied, travels) = self.links.send_ns(&self.class, values);
        let free = self.now_ns().max(self.free_at_ns[peer]) + occupied;
        self.free_at_ns[peer] = free;
        free + travels
    }

    /// Ends the receipt of a message of `values` that is to be there at `due_ns`, asked for at `asked_ns`.
    pub(super) fn arrives(&self, due_ns: u64, asked_ns: u64, values: usize) {
        let (occupied, travels) = self.links.send_ns(&self.class, values);
        // Nobody waits for a message before it is asked for.
        self.device().message(due_ns.max(asked_ns), occupied + travels);
    }
}
