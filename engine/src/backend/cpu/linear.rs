//! Products with a weight: `y = x w^T`. The weight is packed once, at load.

use half::f16;

use super::format::{Bf16Dot, Bf16Pairs, F16, F32, Format};
use super::gemm::{Line, PANEL, Product};
use super::huge_pages::HugePages;
use super::pool::Parts;
use super::{Cpu, Dtype, Isa};

/// A weight `[rows, columns]`: `rows` outputs of `columns` inputs each, without a bias.
#[derive(Debug)]
pub struct Linear {
    rows: usize,
    columns: usize,
    panels: Panels,
}

/// For every 32 outputs, and every input or pair of inputs: the outputs' weights, in the weight's own dtype.
#[derive(Debug)]
enum Panels {
    F32(HugePages<Line<F32>>),
    F16(HugePages<Line<F16>>),
    Bf16(HugePages<Line<Bf16Pairs>>),
}

/// `B` is the bytes of a value; `read` makes one output's weights of a line from as many values as a line has inputs, or fewer.
fn pack<F: Format, const B: usize>(
    rows: usize,
    columns: usize,
    bytes: &[u8],
    read: impl Fn(&[[u8; B]]) -> F::Stored,
) -> HugePages<Line<F>> {
    let lines = columns.div_ceil(F::INPUTS);
    let mut panels = HugePages::<Line<F>>::zeroed(rows.div_ceil(PANEL) * lines);
    for (row, values) in bytes.as_chunks::<B>().0.chunks_exact(columns).enumerate() {
        let panel = &mut panels[row / PANEL * lines..][..lines];
        for (line, values) in panel.iter_mut().zip(values.chunks(F::INPUTS)) {
            line.as_flattened_mut()[row % PANEL] = read(values);
        }
    }
    panels
}

/// One output's weights, a value a line.
fn lane<F: Format>(panels: &[Line<F>], columns: usize, row: usize) -> impl Iterator<Item = F::Stored> {
    let lines = columns.div_ceil(F::INPUTS);
    panels[row / PANEL * lines..][..lines].iter().map(move |line| line.as_flattened()[row % PANEL])
}

fn pair(values: &[[u8; 2]]) -> u32 {
    let half = |index: usize| values.get(index).map_or(0, |&bytes| u32::from(u16::from_le_bytes(bytes)));
    half(0) | half(1) << 16
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
            Dtype::F32 => Panels::F32(pack::<F32, 4>(rows, columns, bytes, |v| f32::from_le_bytes(v[0]))),
            Dtype::F16 => Panels::F16(pack::<F16, 2>(rows, columns, bytes, |v| u16::from_le_bytes(v[0]))),
            Dtype::Bf16 => Panels::Bf16(pack::<Bf16Pairs, 2>(rows, columns, bytes, pair)),
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

    /// One output's weights, `[columns]`, as they were before they were packed.
    fn widen_row(&self, row: usize, out: &mut [f32]) {
        let Self { columns, .. } = *self;
        match &self.panels {
            Panels::F32(panels) => {
                let values = lane::<F32>(panels, columns, row);
                out.iter_mut().zip(values).for_each(|(out, value)| *out = value);
            }
            Panels::F16(panels) => {
                let values = lane::<F16>(panels, columns, row);
                out.iter_mut().zip(values).for_each(|(out, value)| *out = f16::from_bits(value).to_f32());
            }
            Panels::Bf16(panels) => {
                let pairs = lane::<Bf16Pairs>(panels, columns, row);
                for (out, pair) in out.chunks_mut(2).zip(pairs) {
                    let values = [pair << 16, pair & 0xffff_0000].map(f32::from_bits);
                    out.copy_from_slice(&values[..out.len()]);
                }
            }
        }
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
    /// A row's result is the same bit for bit beside any other rows and on any number of threads; and on any instruction set, but
    /// for bf16 weights where [`Isa::Avx512Bf16`] rounds the inputs to bf16.
    pub fn linear(&self, w: &Linear, x: &[f32], y: &mut [f32]) {
        let m = x.len() / w.columns;
        assert_eq!(x.len(), m * w.columns, "expected x of whole rows of {}", w.columns);
        assert_eq!(y.len(), m * w.rows, "expected y [{m}, {}]", w.rows);
        match &w.panels {
            Panels::F32(panels) => self.product::<F32>(w, panels, x, y),
            Panels::F16(panels) => self.product::<F16>(w, panels, x, y),
            Panels::Bf16(panels) if self.isa == Isa::Avx512Bf16 => self.product::<Bf16Dot>(w, panels, x, y),
            Panels::Bf16(panels) => self.product::<Bf16Pairs>(w, panels, x, y),
        }
    }

    /// `out[tokens, columns]`: each token's row of a weight whose first row is token `first`, and zeros where another rank has it. For a head
    /// that is the embedding, too: a row is read across its panel, which costs far less than the product that follows in the step.
    pub fn embed_packed(&self, table: &Linear, first: u32, tokens: &[u32], out: &mut [f32]) {
        assert_eq!(
            out.len(),
            tokens.len() * table.columns,
            "expected out [{}, {}]",
            tokens.len(),
            table.columns
        );
        for (&token, out) in tokens.iter().zip(out.chunks_exact_mut(table.columns)) {
            let row = token.checked_sub(first).map(|row| row as usize);
            match row.filter(|&row| row < table.rows) {
                Some(row) => table.widen_row(row, out),
                None => out.fill(0.0),
            }
        }
    }

    fn product<F: Format>(&self, w: &Linear, panels: &[Line<F>], x: &[f32], y: &mut [f32]) {
        let Linear { rows, columns, .. } = *w;
        let product = Product::<F> { panels, rows, columns, x, y: Parts::new(y) };
        product.run(&self.pool, self.isa, &mut self.scratch().inputs);
    }
}
