//! Exchanges of made-up values among any ranks, to be timed, and among all, to be checked. Knows neither what ranks compute nor what that is for.

use super::protocol::{Exchange, ExchangeKind};
use crate::backend::Backend;
use crate::clock::monotonic_ns;
use crate::comm::Mesh;
use crate::selftest::{self, Check, Place};
use crate::shard::Dtype;

/// One rank's groups for exchanges. All ranks of a group make it when it is first asked for.
pub(super) struct Exchanges<B: Backend> {
    rank: u32,
    /// Ranks -> their group. Few: a search through all is quick.
    groups: Vec<(Vec<u32>, Box<B::Group>)>,
}

impl<B: Backend> Exchanges<B> {
    pub(super) fn new(rank: u32) -> Self {
        Self { rank, groups: Vec::new() }
    }

    /// Nanoseconds of the rank's device of an exchange of each row, if this rank is the first; the first row, uncounted, brings the ranks together.
    pub(super) fn run(
        &mut self,
        backend: &mut B,
        mesh: &Mesh,
        exchange: &Exchange,
    ) -> Result<Option<Vec<u64>>, B::Error> {
        let Exchange { kind, ranks, values, in_a_row, times } = exchange;
        let Some(me) = ranks.iter().position(|rank| *rank == self.rank) else { return Ok(None) };
        let group = self.group(backend, mesh, ranks)?;
        let mut data = backend.tensor();
        let mut all = backend.tensor();
        backend.reshape(&mut data, 1, *values as usize)?;
        let mut row = || {
            for _ in 0..*in_a_row {
                match kind {
                    ExchangeKind::AllReduce => backend.all_reduce(group, &mut data)?,
                    ExchangeKind::AllGather => backend.all_gather(group, &data, &mut all)?,
                    ExchangeKind::SendRecv => {
                        there_and_back(backend, group, me, *values as usize, &mut data)?
                    }
                }
            }
            backend.synchronize()
        };
        mesh.begin_step(monotonic_ns());
        row()?;
        let ways = match kind {
            ExchangeKind::AllReduce | ExchangeKind::AllGather => 1,
            ExchangeKind::SendRecv => 2,
        };
        let mut ns = Vec::with_capacity(*times as usize);
        for _ in 0..*times {
            let start_ns = mesh.now_ns();
            row()?;
            ns.push((mesh.now_ns() - start_ns) / u64::from(ways * in_a_row));
        }
        Ok((me == 0).then_some(ns))
    }

    /// How far what this rank gets from all ranks is from what they are known to send; `dtype`: of the backend's weights.
    pub(super) fn check(
        &self,
        backend: &mut B,
        mesh: &Mesh,
        world: usize,
        dtype: Dtype,
    ) -> Result<Vec<Check>, B::Error> {
        let names: Vec<String> = (0..world).map(|rank| format!("rank {rank}")).collect();
        mesh.begin_step(monotonic_ns());
        selftest::exchanged(backend, dtype, &Place { mesh, rank: self.rank as usize, names: &names })
    }

    fn group(&mut self, backend: &mut B, mesh: &Mesh, ranks: &[u32]) -> Result<&mut B::Group, B::Error> {
        let known = self.groups.iter().position(|(known, _)| known == ranks);
        let index = match known {
            Some(index) => index,
            None => {
                let members: Vec<usize> = ranks.iter().map(|rank| *rank as usize).collect();
                self.groups.push((ranks.to_vec(), backend.group(mesh, &members)?));
                self.groups.len() - 1
            }
        };
        Ok(&mut self.groups[index].1)
    }
}

/// Two ranks: the first one sends, and gets it back.
fn there_and_back<B: Backend>(
    backend: &B,
    group: &mut B::Group,
    me: usize,
    values: usize,
    data: &mut B::Tensor,
) -> Result<(), B::Error> {
    if me == 0 {
        backend.send(group, 1, data)?;
        return backend.recv(group, 1, 1, values, data);
    }
    backend.recv(group, 0, 1, values, data)?;
    backend.send(group, 0, data)
}
