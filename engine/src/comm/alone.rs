//! The group of a rank that has no peers. Knows no wire.

use super::{CommError, Communicator};

/// A group of one: nothing to sum, gather or wait for, and nobody to send to.
#[derive(Debug, Clone, Copy)]
pub struct Alone;

impl Communicator for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_reduce(&mut self, _: &mut [f32]) -> Result<(), CommError> {
        Ok(())
    }

    fn all_gather(&mut self, mine: &[f32], all: &mut [f32]) -> Result<(), CommError> {
        all.copy_from_slice(mine);
        Ok(())
    }

    fn send(&mut self, to: usize, _: &[f32]) -> Result<(), CommError> {
        Err(CommError::Closed { peer: to })
    }

    fn recv(&mut self, from: usize, _: &mut [f32]) -> Result<(), CommError> {
        Err(CommError::Closed { peer: from })
    }
}
