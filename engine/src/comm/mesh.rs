//! A rank's end of the connections to all others, and the groups made of them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use camino::Utf8Path;

use super::group::Group;
use super::links::{Lateness, Links};
use super::pace::Pace;
use super::secret::Secret;
use super::wire::Wire;
use super::{Algorithm, CommError, Communicator, shm, tcp};
use crate::clock::sleep_exactly;

/// One rank among all.
pub struct Mesh {
    /// Groups of one rank share its connections; its one thread uses them in turn, so that the lock is never waited for.
    wire: Arc<Mutex<dyn Wire>>,
    links: Option<Arc<Links>>,
    lateness: Arc<Mutex<Lateness>>,
}

impl Mesh {
    fn new(wire: impl Wire + 'static) -> Self {
        Self { wire: Arc::new(Mutex::new(wire)), links: None, lateness: Arc::default() }
    }

    /// Through the memory that [`shm::create`] made for `world` ranks. Calls fail when a peer has not answered within `timeout`.
    pub fn shared_memory(
        path: &Utf8Path,
        rank: usize,
        world: usize,
        timeout: Duration,
    ) -> std::io::Result<Self> {
        Ok(Self::new(shm::Shared::open(path, rank, world, timeout)?))
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

    /// From now on, new groups take the time that `links` says.
    pub fn emulate(&mut self, links: Links) {
        sleep_exactly();
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
            Pace::new(Arc::clone(links), class, ranks.len(), Arc::clone(&self.lateness))
        });
        Box::new(Group::new(Arc::clone(&self.wire), ranks, pace, algorithm))
    }

    /// How late messages of all groups were so far.
    pub fn lateness(&self) -> Lateness {
        *self.lateness.lock().expect("an addition does not panic")
    }
}
