//! Where a rank's tensors come from.

use std::borrow::Cow;

use super::ModelError;
use crate::shard::{Dtype, Tensor};

/// A rank's weights, by the names of [`crate::shard::Division::tensors`].
pub trait TensorSource {
    /// This rank's part of a tensor. `wanted` says its name and shape; its dtype is the source's to say.
    fn tensor(&self, wanted: &Tensor) -> Result<Part<'_>, ModelError>;
}

/// A rank's part of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Part<'a> {
    /// Type of its values.
    pub dtype: Dtype,
    /// Rows and columns.
    pub shape: Vec<u32>,
    /// Row-major, little-endian.
    pub bytes: Cow<'a, [u8]>,
}
