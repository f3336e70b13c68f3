//! Ranks whose GPUs sum, gather and send together: how they find each other, and the values they move. Knows no entry point.

use std::rc::Rc;

use super::card::Card;
use super::compile::Element;
use super::error::CudaError;
use super::nccl::{Comm, ID_BYTES, Values, unique_id};
use super::tensor::Tensor;
use crate::comm::Mesh;

/// Some ranks of a run; one alone has nobody to talk to.
#[derive(Debug)]
pub struct Group {
    comm: Option<Rc<Comm>>,
}

impl Group {
    /// Joins the others by a name that the first one makes up, and tells over the host's connections.
    pub(super) fn join(card: &Card, mesh: &Mesh, ranks: &[usize]) -> Result<Self, CudaError> {
        card.or_give_up(Self::meet(card, mesh, ranks))
    }

    fn meet(card: &Card, mesh: &Mesh, ranks: &[usize]) -> Result<Self, CudaError> {
        if ranks.len() == 1 {
            return Ok(Self { comm: None });
        }
        let mut host = mesh.group(ranks);
        let mut id = [0; ID_BYTES];
        if host.rank() == 0 {
            id = unique_id()?;
        }
        let mine = id.map(f32::from);
        let mut all = vec![0.0; ID_BYTES * ranks.len()];
        host.all_gather(&mine, &mut all)?;
        let id = std::array::from_fn(|index| all[index] as u8);
        let comm = Rc::new(Comm::begin(id, ranks.len(), host.rank(), card.care.patience)?);
        card.watch(&comm);
        comm.joined()?;
        Ok(Self { comm: Some(comm) })
    }

    /// Ranks.
    pub(super) fn size(&self) -> usize {
        self.comm.as_ref().map_or(1, |comm| comm.size)
    }

    /// `x` becomes the sum over all ranks.
    pub(super) fn all_reduce(&self, card: &Card, x: &Tensor) -> Result<(), CudaError> {
        match &self.comm {
            Some(comm) if x.values() > 0 => {
                let stream = card.stream.cu_stream().cast();
                card.or_give_up(comm.all_reduce(x.pointer(), x.values(), values(card), stream))?;
                card.mark("all-reduce")
            }
            _ => Ok(()),
        }
    }

    /// `all` becomes every rank's `mine`; both have their shapes.
    pub(super) fn all_gather(&self, card: &Card, mine: &Tensor, all: &Tensor) -> Result<(), CudaError> {
        match &self.comm {
            Some(comm) if mine.values() > 0 => {
                let stream = card.stream.cu_stream().cast();
                let (from, to) = (mine.pointer(), all.pointer());
                card.or_give_up(comm.all_gather(from, to, mine.values(), values(card), stream))?;
                card.mark("all-gather")
            }
            Some(_) => Ok(()),
            None => card.copy(mine.buffer.as_ref(), all.buffer.as_ref(), mine.values() * card.value_bytes()),
        }
    }

    pub(super) fn send(&self, card: &Card, to: usize, x: &Tensor) -> Result<(), CudaError> {
        let comm = self.comm.as_ref().expect("nobody sends to itself");
        let stream = card.stream.cu_stream().cast();
        card.or_give_up(comm.send(to, x.pointer(), x.values(), values(card), stream))?;
        card.mark("send")
    }

    pub(super) fn recv(&self, card: &Card, from: usize, x: &Tensor) -> Result<(), CudaError> {
        let comm = self.comm.as_ref().expect("nobody receives from itself");
        let stream = card.stream.cu_stream().cast();
        card.or_give_up(comm.recv(from, x.pointer(), x.values(), values(card), stream))?;
        // Waiting for the sender is the receiving's time, not that of the call after it.
        card.mark("recv")
    }
}

fn values(card: &Card) -> Values {
    match card.element() {
        Element::F32 => Values::ncclFloat32,
        Element::Bf16 => Values::ncclBfloat16,
        Element::F16 => Values::ncclFloat16,
    }
}
