//! Buffers that are kept from step to step and only grow, so that after the first large step nothing is allocated. Knows no kernel.

use std::collections::VecDeque;

use cudarc::driver::CudaEvent;

use super::card::Card;
use super::error::{CudaError, driver};
use super::memory::{Buffer, Pinned};
use super::stays::has_come;

/// One buffer for values that do not outlive a call.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) buffer: Option<Buffer>,
}

impl Scratch {
    /// The address of room for `bytes` bytes.
    pub(super) fn room(&mut self, card: &Card, bytes: usize) -> Result<u64, CudaError> {
        grow(&mut self.buffer, card, bytes, "values between two kernels")
    }
}

/// Makes a buffer at least as large as `bytes`; its values are lost when it grows.
pub(super) fn grow(
    buffer: &mut Option<Buffer>,
    card: &Card,
    bytes: usize,
    what: &'static str,
) -> Result<u64, CudaError> {
    if buffer.as_ref().is_none_or(|buffer| buffer.bytes() < bytes) {
        // The old one goes first, so that both need not fit.
        *buffer = None;
        *buffer = Some(card.allocate(bytes, what)?);
    }
    Ok(buffer.as_ref().map_or(0, |buffer| buffer.pointer))
}

/// Numbers that the host tells the device once a step, by way of pinned memory.
#[derive(Debug, Default)]
pub(super) struct Upload {
    /// Pinned memory that the device is past.
    free: Vec<Pinned>,
    /// Pinned memory of steps under way, in the order of its use, and the point at which the device has read it.
    sent: VecDeque<(Pinned, CudaEvent)>,
    buffer: Option<Buffer>,
}

impl Upload {
    /// Queues a copy of these numbers, one list after the other; the first one's address. The host does not wait: steps that were asked for and
    /// are still to come have read theirs from pinned memory of their own, and kernels theirs before the device writes the next.
    pub(super) fn send(&mut self, card: &Card, lists: &[&[u32]]) -> Result<u64, CudaError> {
        let bytes = 4 * lists.iter().map(|list| list.len()).sum::<usize>();
        let mut pinned = self.pinned(card, bytes)?;
        let to = grow(&mut self.buffer, card, bytes.next_power_of_two(), "the description of a step")?;
        let Some(buffer) = &self.buffer else { return Ok(to) };
        let mut rest = &mut pinned.as_mut_slice()[..bytes];
        for list in lists {
            let (own, after) = rest.split_at_mut(4 * list.len());
            own.copy_from_slice(bytemuck::cast_slice(list));
            rest = after;
        }
        pinned.send(&card.stream, buffer, 0, bytes)?;
        let read = card.stream.record_event(None).map_err(driver("tell the GPU of a step"))?;
        self.sent.push_back((pinned, read));
        Ok(to)
    }

    /// Pinned memory that the device is past. Where there is none that is large enough, it is made for all steps that may be under way, and for one
    /// that a rank without tokens has not heard the end of, so that none is made later, when they are.
    fn pinned(&mut self, card: &Card, bytes: usize) -> Result<Pinned, CudaError> {
        while let Some((_, read)) = self.sent.front()
            && has_come(read, "tell the GPU of a step")?
        {
            self.free.extend(self.sent.pop_front().map(|(pinned, _)| pinned));
        }
        self.free.retain(|pinned| pinned.bytes() >= bytes);
        if let Some(pinned) = self.free.pop() {
            return Ok(pinned);
        }
        let bytes = bytes.next_power_of_two();
        for _ in self.sent.len()..card.care.under_way {
            self.free.push(card.pinned(bytes)?);
        }
        card.pinned(bytes)
    }
}
