//! Products with a weight: `y = x w^T`. The weight is packed once, at load.

use half::{bf16, f16};

use super::{Cpu, Dtype};

/// A weight `[rows, columns]`: `rows` outputs of `columns` inputs each, without a bias.
#[derive(Debug)]
pub struct Linear {
    rows: usize,
    columns: usize,
    dtype: Dtype,
    values: Vec<f32>,
}

/// Little-endian values of `dtype` as f32.
pub(super) fn widen(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        Dtype::F16 => bytes.as_chunks::<2>().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::Bf16 => bytes.as_chunks::<2>().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
    }
}

impl Linear {
    /// Packs a row-major weight of `rows * columns` little-endian values of `dtype`.
    pub fn pack(dtype: Dtype, rows: usize, columns: usize, bytes: &[u8]) -> Self {
        assert_eq!(
            bytes.len(),
            rows * columns * dtype.bytes(),
            "expected {rows} x {columns} values of {dtype:?}"
        );
        Self { rows, columns, dtype, values: widen(dtype, bytes) }
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Type of the stored values.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }
}

impl Cpu {
    /// `y[m, rows] = x[m, columns] w^T`, for as many rows m as `x` has.
    pub fn linear(&self, w: &Linear, x: &[f32], y: &mut [f32]) {
        let m = x.len() / w.columns;
        assert_eq!(x.len(), m * w.columns, "expected x of whole rows of {}", w.columns);
        assert_eq!(y.len(), m * w.rows, "expected y [{m}, {}]", w.rows);
        for (x, y) in x.chunks_exact(w.columns).zip(y.chunks_exact_mut(w.rows)) {
            for (row, y) in w.values.chunks_exact(w.columns).zip(y) {
                *y = row.iter().zip(x).map(|(w, x)| w * x).sum();
            }
        }
    }
}
