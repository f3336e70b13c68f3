//! Host values into a backend's tensors and back, by nothing but the trait: rows of an embedding, and logits. Knows no case.

use std::borrow::Cow;

use super::sample::encoded;
use crate::backend::{Backend, Part, Span};
use crate::shard::Dtype;

/// A backend that computes in one type.
pub(super) struct Bed<'a, B> {
    pub(super) backend: &'a mut B,
    pub(super) dtype: Dtype,
}

impl<B: Backend> Bed<'_, B> {
    /// Values `[rows, width]`, in the type of the bed.
    pub(super) fn part(&self, values: &[f32], width: usize) -> Part<'static> {
        let shape = vec![(values.len() / width) as u32, width as u32];
        Part { dtype: self.dtype, shape, bytes: Cow::Owned(encoded(values, self.dtype)) }
    }

    /// A tensor of `values[rows, width]`. It ends the batch that was begun before.
    pub(super) fn upload(&mut self, values: &[f32], width: usize) -> Result<B::Tensor, B::Error> {
        let rows = values.len() / width;
        let head = self.backend.linear(&[self.part(values, width)])?;
        let tokens: Vec<u32> = (0..rows as u32).collect();
        let spans = [span(rows)];
        let batch = self.backend.begin(&spans, &tokens)?;
        let mut tensor = self.backend.tensor();
        self.backend.embed_head(&head, 0, &batch, &mut tensor)?;
        // Before `head` goes.
        self.backend.synchronize()?;
        Ok(tensor)
    }

    /// The values of a tensor `[rows, width]`.
    pub(super) fn download(
        &self,
        tensor: &B::Tensor,
        rows: usize,
        width: usize,
    ) -> Result<Vec<f32>, B::Error> {
        let mut values = Vec::new();
        self.backend.logits(tensor, 1, rows, width, width, &mut values)?;
        Ok(values)
    }
}

/// One sequence's first `tokens` tokens, which nobody attends to.
pub(super) fn span(tokens: usize) -> Span<'static> {
    Span { first_row: 0, tokens, context: 0, table: &[] }
}
