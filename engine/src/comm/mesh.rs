//! A rank's end of the connections to all others, and the groups made of them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use camino::Utf8Path;

use super::activity::Activity;
use super::device::Device;
use super::group::Group;
use super::links::{Lateness, Links};
use super::pace::Pace;
use super::patience::Patience;
use super::secret::Secret;
use super::wire::Wire;
use super::{Algorithm, CommError, Communicator, shm, tcp};
use crate::clock::sleep_exactly;

/// One rank among all.
pub struct Mesh {
    /// Groups of one rank share its connections; its one thread uses them in turn, so that the lock is never waited for.
    wire: Arc<Mutex<dyn Wire>>,
    links: Option<Arc<Links>>,
    /// Groups of one rank share it, as they do the connections.
    device: Arc<Mutex<Device>>,
    /// Where this rank says what it waits for.
    activity: Arc<Activity>,
}

impl Mesh {
    fn new(wire: impl Wire + 'static) -> Self {
        let (device, activity) = (Arc::default(), Arc::default());
        Self { wire: Arc::new(Mutex::new(wire)), links: None, device, activity }
    }

    /// Through the memory that [`shm::create`] made for `world` ranks. Calls fail when a peer has not answered in time.
    pub fn shared_memory(
        path: &Utf8Path,
        rank: usize,
        world: usize,
        patience: Patience,
    ) -> std::io::Result<Self> {
        Ok(Self::new(shm::Shared::open(path, rank, world, patience)?))
    }

    /// Over TCP, with the addresses of all ranks in order.
    pub fn tcp(
        listener: tcp::Listener,
        rank: usize,
        peers: &[SocketAddr],
        secret: &Secret,
        timeout: Duration,
    ) -> Result<Self, CommError> {
        Ok(Self::new(listener.join(rank, peers, secret, timeout)?))
    }

    /// From now on, this rank says there what it waits for.
    pub fn tell(&mut self, activity: &Arc<Activity>) {
        self.wire.lock().expect("the one thread of a rank has not panicked").tell(activity);
        self.device().tell(activity);
        self.activity = Arc::clone(activity);
    }

    /// From now on, new groups take the time that `links` says.
    pub fn emulate(&mut self, links: Links) {
        sleep_exactly();
        self.device = Arc::new(Mutex::new(Device::new(links.compute_scale, Arc::clone(&self.activity))));
        self.links = Some(Arc::new(links));
    }

    /// A group of these ranks, in this order; this rank is among them.
    pub fn group(&self, ranks: &[usize]) -> Box<dyn Communicator> {
        self.group_by(ranks, None)
    }

    /// A group that sums by one algorithm rather than by the one that is fastest for the size; for measurements and tests. One that the
    /// group cannot run gives way to [`Algorithm::Direct`].
    pub fn group_by(&self, ranks: &[usize], algorithm: Option<Algorithm>) -> Box<dyn Communicator> {
        let pace = self.links.as_ref().filter(|_| ranks.len() > 1).map(|links| {
            let class = links.class(ranks).expect("the last class of links spans all ranks");
            Pace::new(Arc::clone(links), class, ranks.len(), Arc::clone(&self.device))
        });
        Box::new(Group::new(Arc::clone(&self.wire), ranks, pace, algorithm))
    }

    /// How late messages of all groups were so far.
    pub fn lateness(&self) -> Lateness {
        self.device().lateness()
    }

    /// A step begins that was asked for at `at_ns` of the host's clock.
    pub fn begin_step(&self, at_ns: u64) {
        self.device().begin(at_ns);
    }

    /// The time on this rank's device, which is the host's unless links are emulated with a `compute_scale`.
    pub fn now_ns(&self) -> u64 {
        self.device().now_ns()
    }

    /// Waits until the emulated device has done what this rank has, and says when that was.
    pub fn end_step(&self) -> u64 {
        self.device().finish()
    }

    fn device(&self) -> MutexGuard<'_, Device> {
        self.device.lock().expect("the one thread of a rank has not panicked")
    }
}
