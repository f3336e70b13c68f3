//! Asynchronous copies from global to shared memory. They read when they are issued and write when they are waited for: in between
//! the bytes count as unwritten, so that whoever does not wait is found.

use std::collections::VecDeque;

use super::{Block, Thread};
use crate::error::Fault;
use crate::instruction::{Operand, Space};

/// Bytes on their way to an address in shared memory.
struct Copy {
    to: u64,
    bytes: Vec<u8>,
}

/// A thread's copies that it has not waited for.
#[derive(Default)]
pub(crate) struct Copies {
    open: Vec<Copy>,
    /// Oldest first.
    groups: VecDeque<Vec<Copy>>,
}

impl Copies {
    pub(super) fn commit(&mut self) {
        self.groups.push_back(std::mem::take(&mut self.open));
    }
}

impl Block<'_> {
    /// Target, source, bytes, and how many of them to read, the rest being 0; all if that is absent.
    pub(super) fn copy(&mut self, thread: &mut Thread, operands: &[Operand]) -> Result<(), Fault> {
        let [to, from] = [self.read(thread, &operands[0])?, self.read(thread, &operands[1])?];
        let size = self.read(thread, &operands[2])? as usize;
        let read = operands.get(3).map_or(Ok(size as u64), |operand| self.read(thread, operand))? as u32;
        let (by, mut bytes) = (self.access(thread), vec![0; size]);
        let read = size.min(read as usize);
        if read > 0 {
            let (source, offset) = self.region(Space::Global, from, size)?;
            source.check(offset, read)?;
            for (byte, at) in bytes[..read].iter_mut().zip(offset..) {
                *byte = source.load(at, 1, by)? as u8;
            }
        }
        let (target, offset) = self.region(Space::Shared, to, size)?;
        target.clear(offset, size, by)?;
        thread.copies.open.push(Copy { to, bytes });
        Ok(())
    }

    /// Until at most so many of the latest groups are on their way; None: no copy, in a group or not.
    pub(super) fn wait_for_copies(&mut self, thread: &mut Thread, left: Option<usize>) -> Result<(), Fault> {
        if left.is_none() {
            thread.copies.commit();
        }
        let by = self.access(thread);
        while thread.copies.groups.len() > left.unwrap_or(0) {
            for copy in thread.copies.groups.pop_front().into_iter().flatten() {
                let (target, offset) = self.region(Space::Shared, copy.to, copy.bytes.len())?;
                for (byte, at) in copy.bytes.iter().zip(offset..) {
                    target.store(at, 1, u64::from(*byte), by)?;
                }
            }
        }
        Ok(())
    }
}
