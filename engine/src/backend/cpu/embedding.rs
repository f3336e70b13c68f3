//! A rank's rows of the vocabulary.

use half::{bf16, f16};

use super::{Cpu, Dtype};

/// Rows `first .. first + rows` of the embedding `[vocabulary, hidden]`.
#[derive(Debug)]
pub struct Embedding {
    first: u32,
    hidden: usize,
    dtype: Dtype,
    bytes: Vec<u8>,
}

/// Little-endian values of `dtype` as f32.
pub(super) fn widen(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        Dtype::F32 => widen_each(bytes, out, f32::from_le_bytes),
        Dtype::F16 => widen_each(bytes, out, |bytes| f16::from_le_bytes(bytes).to_f32()),
        Dtype::Bf16 => widen_each(bytes, out, |bytes| bf16::from_le_bytes(bytes).to_f32()),
    }
}

fn widen_each<const B: usize>(bytes: &[u8], out: &mut [f32], one: impl Fn([u8; B]) -> f32) {
    for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = one(bytes);
    }
}

impl Embedding {
    /// From row-major little-endian values of `dtype`, `hidden` a row; the first row is token `first`.
    pub fn new(dtype: Dtype, first: u32, hidden: usize, bytes: &[u8]) -> Self {
        assert_eq!(bytes.len() % (hidden * dtype.bytes()), 0, "expected whole rows of {hidden} values");
        Self { first, hidden, dtype, bytes: bytes.to_vec() }
    }

    /// Values of a row.
    pub fn hidden(&self) -> usize {
        self.hidden
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
        let row_bytes = table.hidden * table.dtype.bytes();
        for (&token, out) in tokens.iter().zip(out.chunks_exact_mut(table.hidden)) {
            let row = token.checked_sub(table.first).map(|row| row as usize * row_bytes);
            match row.and_then(|row| table.bytes.get(row..row + row_bytes)) {
                Some(row) => widen(table.dtype, row, out),
                None => out.fill(0.0),
            }
        }
    }
}
