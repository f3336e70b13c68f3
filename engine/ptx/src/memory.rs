//! Buffers of device memory and variables of shared memory. Every access is checked: within its region, aligned, of bytes that
//! somebody wrote, without a race. Knows no instructions.

use bytemuck::{AnyBitPattern, NoUninit};

use crate::error::Fault;
use crate::race::{Access, Conflict, Shadow};

/// Bits of an address below the number of its region.
const OFFSET_BITS: u32 = 40;
/// What a region's first byte has in those bits: an address before it then still tells the region.
const MIDDLE: u64 = 1 << (OFFSET_BITS - 1);
/// Number of the region that stands for shared memory in generic addresses.
const SHARED: u64 = 0xffff;

/// A buffer of device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer(u64);

impl Buffer {
    /// As kernels get it.
    pub(crate) fn address(self) -> u64 {
        (self.0 << OFFSET_BITS) + MIDDLE
    }
}

/// Device memory: all buffers of a test.
#[derive(Debug, Default)]
pub struct Memory {
    buffers: Vec<Region>,
}

impl Memory {
    /// A buffer with these values.
    pub fn put<T: NoUninit>(&mut self, values: &[T]) -> Buffer {
        let buffer = self.room(size_of_val(values));
        let region = self.buffers.last_mut().expect("just made");
        region.bytes.copy_from_slice(bytemuck::cast_slice(values));
        region.written.fill(true);
        buffer
    }

    /// A buffer of so many bytes that nobody has written.
    pub fn room(&mut self, bytes: usize) -> Buffer {
        // From 1: address 0 is null.
        let number = self.buffers.len() as u64 + 1;
        self.buffers.push(Region::new(format!("buffer {number}"), bytes));
        Buffer(number)
    }

    /// A buffer's values; an error names the first byte that nobody wrote.
    pub fn take<T: AnyBitPattern>(&self, buffer: Buffer) -> Result<Vec<T>, Fault> {
        let region = &self.buffers[buffer.0 as usize - 1];
        match region.written.iter().position(|written| !written) {
            Some(offset) => Err(region.unwritten(offset as i64)),
            None => Ok(region.bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()),
        }
    }

    /// Before a launch: what came earlier is over.
    pub(crate) fn forget_accesses(&mut self) {
        for region in &mut self.buffers {
            region.shadows.fill(Shadow::default());
        }
    }

    /// The region of a global address, and the offset in it.
    pub(crate) fn region(&mut self, address: u64) -> Result<(&mut Region, i64), Fault> {
        let number = (address >> OFFSET_BITS) as usize;
        let region = number.checked_sub(1).and_then(|index| self.buffers.get_mut(index));
        let offset = (address & ((1 << OFFSET_BITS) - 1)) as i64 - MIDDLE as i64;
        region.map(|region| (region, offset)).ok_or(Fault::NoMemory { address })
    }
}

/// The generic address of one in shared memory.
pub(crate) fn generic_of_shared(address: u64) -> u64 {
    (SHARED << OFFSET_BITS) + address
}

/// The address in shared memory of a generic one.
pub(crate) fn shared_of_generic(address: u64) -> Option<u64> {
    (address >> OFFSET_BITS == SHARED).then_some(address & ((1 << OFFSET_BITS) - 1))
}

/// A block's shared memory.
pub(crate) struct SharedMemory(Vec<(u64, Region)>);

impl SharedMemory {
    /// Of variables with name, address and bytes.
    pub(crate) fn new<'a>(variables: impl Iterator<Item = (&'a str, u64, usize)>) -> Self {
        let region = |(name, start, bytes): (&str, u64, usize)| (start, Region::new(name.to_owned(), bytes));
        Self(variables.map(region).collect())
    }

    /// The nearest variable below an address, or the first.
    pub(crate) fn region(&mut self, address: u64) -> Result<(&mut Region, i64), Fault> {
        let is_below = |(start, _): &&mut (u64, Region)| *start <= address;
        let (start, region) = self
            .0
            .iter_mut()
            .filter(is_below)
            .max_by_key(|(start, _)| *start)
            .ok_or(Fault::NoMemory { address })?;
        Ok((region, address.wrapping_sub(*start) as i64))
    }
}

/// Bytes side by side.
#[derive(Debug)]
pub(crate) struct Region {
    name: String,
    bytes: Vec<u8>,
    written: Vec<bool>,
    shadows: Vec<Shadow>,
}

impl Region {
    fn new(name: String, bytes: usize) -> Self {
        let shadows = vec![Shadow::default(); bytes];
        Self { name, bytes: vec![0; bytes], written: vec![false; bytes], shadows }
    }

    fn unwritten(&self, offset: i64) -> Fault {
        Fault::Unwritten { region: self.name.clone(), offset }
    }

    fn race(&self, offset: usize, (other, did): Conflict) -> Fault {
        let (thread, block) = (other.thread, other.block);
        Fault::Race { region: self.name.clone(), offset: offset as i64, thread, block, did }
    }

    /// Whether so many bytes are inside.
    pub(crate) fn check(&self, offset: i64, size: usize) -> Result<(), Fault> {
        let bytes = self.bytes.len();
        let is_inside = offset >= 0 && offset as usize + size <= bytes;
        match is_inside {
            true => Ok(()),
            false => Err(Fault::OutOfBounds { region: self.name.clone(), bytes, offset, size }),
        }
    }

    /// At most 8 bytes.
    pub(crate) fn load(&mut self, offset: i64, size: usize, by: Access) -> Result<u64, Fault> {
        self.check(offset, size)?;
        let mut value = [0; 8];
        for (to, at) in value[..size].iter_mut().zip(offset as usize..) {
            if let Err(conflict) = self.shadows[at].read(by) {
                return Err(self.race(at, conflict));
            }
            if !self.written[at] {
                return Err(self.unwritten(at as i64));
            }
            *to = self.bytes[at];
        }
        Ok(u64::from_le_bytes(value))
    }

    /// Adds to the number of at most 8 bytes there, undivided; what it was.
    pub(crate) fn add(&mut self, offset: i64, size: usize, value: u64, by: Access) -> Result<u64, Fault> {
        self.check(offset, size)?;
        let mut before = [0; 8];
        for (to, at) in before[..size].iter_mut().zip(offset as usize..) {
            if let Err(conflict) = self.shadows[at].add(by) {
                return Err(self.race(at, conflict));
            }
            if !self.written[at] {
                return Err(self.unwritten(at as i64));
            }
            *to = self.bytes[at];
        }
        let before = u64::from_le_bytes(before);
        let sum = before.wrapping_add(value).to_le_bytes();
        self.bytes[offset as usize..][..size].copy_from_slice(&sum[..size]);
        Ok(before)
    }

    /// Makes bytes unwritten, which counts as a write.
    pub(crate) fn clear(&mut self, offset: i64, size: usize, by: Access) -> Result<(), Fault> {
        self.check(offset, size)?;
        (offset..).take(size).try_for_each(|at| self.store(at, 1, 0, by))?;
        self.written[offset as usize..offset as usize + size].fill(false);
        Ok(())
    }

    /// At most 8 bytes, the lowest of `value`.
    pub(crate) fn store(&mut self, offset: i64, size: usize, value: u64, by: Access) -> Result<(), Fault> {
        self.check(offset, size)?;
        for (byte, at) in value.to_le_bytes()[..size].iter().zip(offset as usize..) {
            if let Err(conflict) = self.shadows[at].write(by) {
                return Err(self.race(at, conflict));
            }
            self.bytes[at] = *byte;
            self.written[at] = true;
        }
        Ok(())
    }
}
