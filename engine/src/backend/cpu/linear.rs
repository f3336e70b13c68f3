//! Products with a weight: `y = x w^T`. The weight is packed once, at load.

use half::{bf16, f16};

use super::gemm::{PANEL, Product};
use super::lanes::Stored;
use super::pool::Parts;
use super::{Cpu, Dtype};

/// A weight `[rows, columns]`: `rows` outputs of `columns` inputs each, without a bias.
#[derive(Debug)]
pub struct Linear {
    rows: usize,
    columns: usize,
    panels: Panels,
}

/// For every 32 outputs, and every input: the outputs' weights, in the weight's own dtype.
#[derive(Debug)]
enum Panels {
    F32(Vec<[[f32; 16]; 2]>),
    F16(Vec<[[f16; 16]; 2]>),
    Bf16(Vec<[[bf16; 16]; 2]>),
}

/// Little-endian values of `dtype` as f32.
pub(super) fn widen(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        Dtype::F16 => bytes.as_chunks::<2>().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::Bf16 => bytes.as_chunks::<2>().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
    }
}

fn pack<W: Stored, const B: usize>(
    rows: usize,
    columns: usize,
    bytes: &[u8],
    zero: W,
    read: impl Fn([u8; B]) -> W,
) -> Vec<[[W; 16]; 2]> {
    let values = bytes.as_chunks::<B>().0;
    let mut panels = vec![[[zero; 16]; 2]; rows.div_ceil(PANEL) * columns];
    for (row, values) in values.chunks_exact(columns).enumerate() {
        let panel = &mut panels[row / PANEL * columns..][..columns];
        for (lanes, value) in panel.iter_mut().zip(values) {
            lanes.as_flattened_mut()[row % PANEL] = read(*value);
        }
    }
    panels
}

impl Linear {
    /// Packs a row-major weight of `rows * columns` little-endian values of `dtype`.
    pub fn pack(dtype: Dtype, rows: usize, columns: usize, bytes: &[u8]) -> Self {
        assert_eq!(
            bytes.len(),
            rows * columns * dtype.bytes(),
            "expected {rows} x {columns} values of {dtype:?}"
        );
        let panels = match dtype {
            Dtype::F32 => Panels::F32(pack(rows, columns, bytes, 0.0, f32::from_le_bytes)),
            Dtype::F16 => Panels::F16(pack(rows, columns, bytes, f16::ZERO, f16::from_le_bytes)),
            Dtype::Bf16 => Panels::Bf16(pack(rows, columns, bytes, bf16::ZERO, bf16::from_le_bytes)),
        };
        Self { rows, columns, panels }
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
        match self.panels {
            Panels::F32(_) => Dtype::F32,
            Panels::F16(_) => Dtype::F16,
            Panels::Bf16(_) => Dtype::Bf16,
        }
    }
}

impl Cpu {
    /// `y[m, rows] = x[m, columns] w^T`, for as many rows m as `x` has.
    ///
    /// A row's result is the same bit for bit beside any other rows, on any number of threads and any instruction set.
    pub fn linear(&self, w: &Linear, x: &[f32], y: &mut [f32]) {
        let m = x.len() / w.columns;
        assert_eq!(x.len(), m * w.columns, "expected x of whole rows of {}", w.columns);
        assert_eq!(y.len(), m * w.rows, "expected y [{m}, {}]", w.rows);
        match &w.panels {
            Panels::F32(panels) => self.product(w, panels, x, y),
            Panels::F16(panels) => self.product(w, panels, x, y),
            Panels::Bf16(panels) => self.product(w, panels, x, y),
        }
    }

    fn product<W: Stored>(&self, w: &Linear, panels: &[[[W; 16]; 2]], x: &[f32], y: &mut [f32]) {
        let Linear { rows, columns, .. } = *w;
        Product { panels, rows, columns, x, y: Parts::new(y) }.run(&self.pool, self.isa);
    }
}
