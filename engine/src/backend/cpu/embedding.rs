//! A rank's rows of the vocabulary.

use super::linear::widen;
use super::{Cpu, Dtype};

/// Rows `first .. first + rows` of the embedding `[vocabulary, hidden]`.
#[derive(Debug)]
pub struct Embedding {
    first: u32,
    hidden: usize,
    values: Vec<f32>,
}

impl Embedding {
    /// From row-major little-endian values of `dtype`, `hidden` a row; the first row is token `first`.
    pub fn new(dtype: Dtype, first: u32, hidden: usize, bytes: &[u8]) -> Self {
        assert_eq!(bytes.len() % (hidden * dtype.bytes()), 0, "expected whole rows of {hidden} values");
        Self { first, hidden, values: widen(dtype, bytes) }
    }
}

impl Cpu {
    /// `out[tokens, hidden]`: each token's row, and zeros where another rank has it.
    pub fn embed(&self, table: &Embedding, tokens: &[u32], out: &mut [f32]) {
        assert_eq!(
            out.len(),
            tokens.len() * table.hidden,
            "expected out [{}, {}]",
            tokens.len(),
            table.hidden
        );
        for (&token, out) in tokens.iter().zip(out.chunks_exact_mut(table.hidden)) {
            let row = token.checked_sub(table.first).map(|row| row as usize * table.hidden);
            match row.and_then(|row| table.values.get(row..row + table.hidden)) {
                Some(row) => out.copy_from_slice(row),
                None => out.fill(0.0),
            }
        }
    }
}
