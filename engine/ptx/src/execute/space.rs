//! Loads, stores and addresses.

use super::{Block, Thread, elements};
use crate::error::Fault;
use crate::instruction::{Operand, Space, Type};
use crate::memory::{Region, generic_of_shared, shared_of_generic};

/// The address in `space` of a generic one.
pub(super) fn to_space(space: Space, address: u64) -> Result<u64, Fault> {
    match space {
        Space::Shared => shared_of_generic(address).ok_or(Fault::NoMemory { address }),
        _ => Ok(address),
    }
}

/// The generic address of one in `space`.
pub(super) fn to_generic(space: Space, address: u64) -> u64 {
    match space {
        Space::Shared => generic_of_shared(address),
        _ => address,
    }
}

impl Block<'_> {
    /// Where an address leads, which must be a multiple of `size`.
    pub(super) fn region(
        &mut self,
        space: Space,
        address: u64,
        size: usize,
    ) -> Result<(&mut Region, i64), Fault> {
        if !address.is_multiple_of(size as u64) {
            return Err(Fault::Misaligned { address, size });
        }
        match (space, shared_of_generic(address)) {
            (Space::Shared, _) => self.shared.region(address),
            (Space::Generic, Some(address)) => self.shared.region(address),
            _ => self.global.region(address),
        }
    }

    fn load_one(&mut self, thread: &Thread, space: Space, address: u64, size: usize) -> Result<u64, Fault> {
        if space == Space::Parameter {
            let mut value = [0; 8];
            let bytes =
                usize::try_from(address).ok().and_then(|start| self.parameters.get(start..start + size));
            value[..size].copy_from_slice(bytes.ok_or(Fault::NoMemory { address })?);
            return Ok(u64::from_le_bytes(value));
        }
        let by = self.access(thread);
        let (region, offset) = self.region(space, address, size)?;
        region.load(offset, size, by)
    }

    pub(super) fn load(
        &mut self,
        thread: &mut Thread,
        space: Space,
        ty: Type,
        count: usize,
        operands: &[Operand],
    ) -> Result<(), Fault> {
        let (address, size) = (self.read(thread, &operands[1])?, ty.bytes());
        if count > 1 && space != Space::Parameter {
            let (region, offset) = self.region(space, address, size * count)?;
            region.check(offset, size * count)?;
        }
        for (i, target) in (0..).zip(elements(&operands[0])) {
            let value = self.load_one(thread, space, address.wrapping_add(i * size as u64), size)?;
            // A longer register gets a signed value with its sign.
            thread.write(target, ty.extend(value) as u64, self.registers);
        }
        Ok(())
    }

    pub(super) fn store(
        &mut self,
        thread: &Thread,
        space: Space,
        ty: Type,
        count: usize,
        operands: &[Operand],
    ) -> Result<(), Fault> {
        let (address, size) = (self.read(thread, &operands[0])?, ty.bytes());
        let by = self.access(thread);
        let values = self.read_all(thread, &operands[1])?;
        let (region, offset) = self.region(space, address, size * count)?;
        region.check(offset, size * count)?;
        for (at, value) in (offset..).step_by(size).zip(values) {
            region.store(at, size, value, by)?;
        }
        Ok(())
    }

    pub(super) fn add(
        &mut self,
        thread: &mut Thread,
        space: Space,
        ty: Type,
        returns: bool,
        operands: &[Operand],
    ) -> Result<(), Fault> {
        let (places, size, by) = (&operands[usize::from(returns)..], ty.bytes(), self.access(thread));
        let (address, value) = (self.read(thread, &places[0])?, self.read(thread, &places[1])?);
        let (region, offset) = self.region(space, address, size)?;
        let before = region.add(offset, size, value, by)?;
        if returns {
            thread.write(&operands[0], before, self.registers);
        }
        Ok(())
    }
}
