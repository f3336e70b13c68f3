//! Where a rank's tensors come from.

use std::borrow::Cow;

use super::ModelError;
use crate::backend::Part;
use crate::shard::{Dtype, Tensor};

/// A rank's weights, by the names of [`crate::shard::Division::tensors`].
pub trait TensorSource {
    /// This rank's part of a tensor. `wanted` says its name and shape; its dtype is the source's to say.
    fn tensor(&self, wanted: &Tensor) -> Result<Part<'_>, ModelError>;

    /// Hands the bytes of [`TensorSource::tensor`] to `take`, in order, and says their dtype. A source that must make them makes
    /// [`PIECE`] bytes at a time, so that a tensor need not fit into memory.
    fn stream<'a>(&'a self, wanted: &Tensor, take: &mut Take<'a, '_>) -> Result<Dtype, ModelError> {
        let part = self.tensor(wanted)?;
        take(part.bytes)?;
        Ok(part.dtype)
    }
}

/// Takes the next bytes of a tensor.
pub type Take<'a, 't> = dyn FnMut(Cow<'a, [u8]>) -> Result<(), ModelError> + 't;

/// Bytes that are made at a time: few enough to stay in the second-level cache until they are hashed and written.
pub const PIECE: usize = 1 << 20;
