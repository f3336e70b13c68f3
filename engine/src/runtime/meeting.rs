//! How a rank meets its peers, over shared memory or TCP, and the groups it then talks in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::protocol::Setup;
use crate::backend::Backend;
use crate::comm::secret::Secret;
use crate::comm::tcp::Listener;
use crate::comm::{Activity, Mesh, Patience};
use crate::shard::Parallel;

/// A rank that waits for its peers' addresses.
pub(super) struct Meeting<'a> {
    setup: &'a Setup,
    secret: &'a Secret,
    /// Absent with shared memory.
    listener: Option<Listener>,
}

/// Gets ready to be met.
pub(super) fn open<'a>(setup: &'a Setup, secret: &'a Secret) -> anyhow::Result<Meeting<'a>> {
    let listener = match setup.shared_memory {
        Some(_) => None,
        None => Some(
            Listener::bind(setup.address)
                .with_context(|| format!("listen for peers at {}", setup.address))?,
        ),
    };
    Ok(Meeting { setup, secret, listener })
}

impl Meeting<'_> {
    /// Where peers reach this rank.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.listener.as_ref().and_then(|listener| listener.address().ok())
    }

    /// Meets all peers, and says meanwhile and later for whom it waits.
    pub(super) fn join(self, peers: &[SocketAddr], activity: &Arc<Activity>) -> anyhow::Result<Mesh> {
        let Setup { seat, parallel, .. } = self.setup;
        let (rank, world) = (seat.rank as usize, parallel.ranks() as usize);
        let timeout = Duration::from_secs_f64(self.setup.peer_timeout_s);
        let mut mesh = match (self.listener, &self.setup.shared_memory) {
            (Some(mut listener), _) => {
                listener.tell(activity);
                Mesh::tcp(listener, rank, peers, self.secret, timeout).context("meet the other ranks")?
            }
            (None, Some(path)) => {
                let patience = match self.setup.own_cores {
                    true => Patience::own_cores(timeout),
                    false => Patience::shared_cores(timeout),
                };
                Mesh::shared_memory(path, rank, world, patience).context("map the ranks' shared memory")?
            }
            (None, None) => anyhow::bail!("expected a transport"),
        };
        mesh.tell(activity);
        if let Some(links) = &self.setup.links {
            mesh.emulate(links.clone());
        }
        Ok(mesh)
    }
}

/// The groups of one rank.
pub(super) struct Groups<B: Backend> {
    /// Ranks of its stage.
    pub(super) stage: Box<B::Group>,
    /// Its neighbour in the stage before, and itself.
    pub(super) previous: Option<Box<B::Group>>,
    /// Itself, and its neighbour in the stage after.
    pub(super) next: Option<Box<B::Group>>,
    /// Which stage.
    pub(super) number: u32,
    /// Its place in the stage; the first one speaks for it.
    pub(super) tp_rank: u32,
}

impl<B: Backend> Groups<B> {
    /// In an order in which no rank waits in a circle, should making a group mean waiting for its ranks: each stage among itself, then
    /// from the first stage to the last.
    pub(super) fn new(backend: &mut B, mesh: &Mesh, rank: u32, parallel: Parallel) -> Result<Self, B::Error> {
        let Parallel { tp, pp } = parallel;
        let number = rank / tp;
        let ranks: Vec<usize> = parallel.stage_ranks(number).into_iter().map(|rank| rank as usize).collect();
        let stage = backend.group(mesh, &ranks)?;
        let mut pair = |first: u32| backend.group(mesh, &[first as usize, (first + tp) as usize]);
        let previous = (number > 0).then(|| pair(rank - tp)).transpose()?;
        let next = (number + 1 < pp).then(|| pair(rank)).transpose()?;
        Ok(Self { stage, previous, next, number, tp_rank: rank % tp })
    }
}
