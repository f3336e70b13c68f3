//! `y = x w^T` over packed panels: every output is one chain of sums in the order of the inputs.
//!
//! So a result depends neither on the rows beside it nor on the threads. Knows no dtype but through [`Format`].
#![expect(unsafe_code, reason = "threads write disjoint columns of one output")]

use bytemuck::Zeroable as _;

use super::format::Format;
use super::lanes::{Isa, Kernel, Lanes};
use super::pool::{Parts, Pool};

/// Outputs of one panel: `[lines][32]`, zeros after the weight's last row.
pub(super) const PANEL: usize = 32;
/// Lines of one pass: a panel's pass (16 KiB), the next one and a tile's inputs stay in the nearest cache from tile to tile.
const PASS: usize = 128;
/// Rows of one task: a task's inputs stay in the second-level cache from panel to panel.
const BLOCK: usize = 144;
/// Lines between the one that is multiplied and the one that is asked for, where every line is used once: a page.
const AHEAD: usize = 32;
/// Rows from which on they are packed by all threads.
const PACK_TOGETHER: usize = 24;

/// Two vectors of weights.
pub(super) type Line<F> = [[<F as Format>::Stored; 16]; 2];

/// One call: shapes as in `Cpu::linear`.
pub(super) struct Product<'a, F: Format> {
    /// `[panels][lines]`.
    pub(super) panels: &'a [Line<F>],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) x: &'a [f32],
    pub(super) y: Parts<'a, f32>,
}

/// The rows of `x` in tiles, each `[lines][rows of the tile]`.
struct Packed<'a, F: Format> {
    inputs: &'a [F::Input],
    lines: usize,
}

/// Rows of the tile that begins at `row` of a block of `rows`: as few tiles as there can be and as even as they can be, so that time
/// does not fall when a row is added. Tiles do not cross what is packed together.
#[inline(always)]
fn tile_rows(row: usize, rows: usize, most: usize) -> usize {
    let left = (rows - row).min(PACK_TOGETHER - row % PACK_TOGETHER);
    left.div_ceil(left.div_ceil(most))
}

impl<F: Format> Product<'_, F> {
    /// `scratch` is room for the packed inputs; it grows as needed.
    pub(super) fn run(&self, pool: &Pool, isa: Isa, scratch: &mut Vec<f32>) {
        let (m, lines) = (self.x.len() / self.columns, self.columns.div_ceil(F::INPUTS));
        assert_eq!(self.y.len(), m * self.rows, "expected an output for each row and weight row");
        let values = m * lines * size_of::<F::Input>() / size_of::<f32>();
        if scratch.len() < values {
            scratch.resize(values, 0.0);
        }
        let inputs: &mut [F::Input] = bytemuck::cast_slice_mut(&mut scratch[..values]);
        let (blocks, panels) = (m.div_ceil(BLOCK), self.rows.div_ceil(PANEL));
        let packed = Parts::new(&mut *inputs);
        let pack = |block: usize, step: usize| {
            let rows = block * step..((block + 1) * step).min(m);
            // SAFETY: each task has its own rows.
            let inputs = unsafe { packed.part(rows.start * lines, rows.len() * lines) };
            self.pack(isa, rows, inputs);
        };
        if m < PACK_TOGETHER {
            pack(0, BLOCK);
        } else {
            // A block begins with a tile, so parts of it that are whole tiles can be packed on their own.
            let parts = m.div_ceil(PACK_TOGETHER);
            pool.run(parts, &|part| pack(part, PACK_TOGETHER));
        }
        let packed = Packed::<F> { inputs, lines };
        pool.run(panels * blocks, &|task| {
            let (block, panel) = (task / panels, task % panels);
            let rows = block * BLOCK..((block + 1) * BLOCK).min(m);
            isa.run(Task { product: self, packed: &packed, panel, rows, threads: pool.threads() });
        });
    }

    fn pack(&self, isa: Isa, rows: std::ops::Range<usize>, mut inputs: &mut [F::Input]) {
        let lines = self.columns.div_ceil(F::INPUTS);
        let mut row = rows.start;
        while row < rows.end {
            let count = tile_rows(row - rows.start, rows.len(), isa.tile_rows());
            let (tile, rest) = inputs.split_at_mut(count * lines);
            let x = &self.x[row * self.columns..][..count * self.columns];
            isa.run(Pack::<F> { x, columns: self.columns, tile });
            inputs = rest;
            row += count;
        }
    }
}

/// Rows `x` to one tile.
struct Pack<'a, F: Format> {
    x: &'a [f32],
    columns: usize,
    tile: &'a mut [F::Input],
}

impl<F: Format> Kernel for Pack<'_, F> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { x, columns, tile } = self;
        let rows = x.len() / columns;
        for (i, x) in x.chunks_exact(columns).enumerate() {
            // Some lines at a time are made by vectors, then laid where they belong.
            let mut inputs = [F::Input::zeroed(); 64];
            for (block, x) in x.chunks(64 * F::INPUTS).enumerate() {
                let (whole, rest) = x.split_at(x.len() / F::INPUTS * F::INPUTS);
                for (input, x) in inputs.iter_mut().zip(whole.chunks_exact(F::INPUTS)) {
                    *input = F::input(x);
                }
                if !rest.is_empty() {
                    inputs[whole.len() / F::INPUTS] = F::input(rest);
                }
                let out = tile[block * 64 * rows + i..].iter_mut().step_by(rows);
                for (out, input) in out.zip(&inputs[..x.len().div_ceil(F::INPUTS)]) {
                    *out = *input;
                }
            }
        }
    }
}

/// One panel's outputs of some rows.
struct Task<'a, F: Format> {
    product: &'a Product<'a, F>,
    packed: &'a Packed<'a, F>,
    panel: usize,
    rows: std::ops::Range<usize>,
    threads: usize,
}

/// Lines that are multiplied, and meanwhile asked for: one after `every` lines.
struct Pass<'a, F: Format> {
    weights: &'a [Line<F>],
    ahead: &'a [Line<F>],
    every: usize,
}

impl<F: Format> Kernel for Task<'_, F> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let panels = self.product.panels.chunks_exact(self.packed.lines);
        let mut own_and_later = panels.skip(self.panel).step_by(self.threads);
        let weights = own_and_later.next().unwrap_or_default();
        // Threads take panels in turn, so this one is likely to have that.
        let later = own_and_later.next().unwrap_or_default();
        if self.rows.len() <= L::TILE_ROWS {
            self.once::<L>(weights, later);
        } else {
            self.passes::<L>(weights, later);
        }
    }
}

impl<F: Format> Task<'_, F> {
    /// One tile, which uses nothing of a panel twice: what it will need is asked for a little before.
    #[inline(always)]
    fn once<L: Lanes>(&self, weights: &[Line<F>], later: &[Line<F>]) {
        let (most, end) = weights.split_at(weights.len().saturating_sub(AHEAD));
        let ahead = &weights[AHEAD.min(weights.len())..];
        let rows = self.rows.start;
        self.tile_of::<L>(self.rows.len(), rows, 0, Pass { weights: most, ahead, every: 1 });
        let ahead = &later[..AHEAD.min(later.len())];
        self.tile_of::<L>(self.rows.len(), rows, most.len(), Pass { weights: end, ahead, every: 1 });
    }

    /// Several tiles, each of which asks for its share of what they will use next.
    #[inline(always)]
    fn passes<L: Lanes>(&self, weights: &[Line<F>], later: &[Line<F>]) {
        let tiles = self.rows.len().div_ceil(L::TILE_ROWS);
        for start in (0..weights.len()).step_by(PASS) {
            let (weights, rest) = weights[start..].split_at(PASS.min(weights.len() - start));
            let ahead = if rest.is_empty() { later } else { rest };
            let mut shares = ahead[..ahead.len().min(PASS)].chunks(PASS.div_ceil(tiles));
            let mut row = self.rows.start;
            while row < self.rows.end {
                let rows = tile_rows(row - self.rows.start, self.rows.len(), L::TILE_ROWS);
                let ahead = shares.next().unwrap_or_default();
                self.tile_of::<L>(rows, row, start, Pass { weights, ahead, every: tiles });
                row += rows;
            }
        }
    }
}

impl<F: Format> Task<'_, F> {
    /// A tile of so many rows; none is larger than the instruction set's largest.
    #[inline(always)]
    fn tile_of<L: Lanes>(&self, rows: usize, row: usize, start: usize, pass: Pass<'_, F>) {
        match rows {
            12 if L::TILE_ROWS >= 12 => self.tile::<L, 12>(row, start, pass),
            11 if L::TILE_ROWS >= 11 => self.tile::<L, 11>(row, start, pass),
            10 if L::TILE_ROWS >= 10 => self.tile::<L, 10>(row, start, pass),
            9 if L::TILE_ROWS >= 9 => self.tile::<L, 9>(row, start, pass),
            8 if L::TILE_ROWS >= 8 => self.tile::<L, 8>(row, start, pass),
            7 if L::TILE_ROWS >= 7 => self.tile::<L, 7>(row, start, pass),
            6 if L::TILE_ROWS >= 6 => self.tile::<L, 6>(row, start, pass),
            5 if L::TILE_ROWS >= 5 => self.tile::<L, 5>(row, start, pass),
            4 if L::TILE_ROWS >= 4 => self.tile::<L, 4>(row, start, pass),
            3 if L::TILE_ROWS >= 3 => self.tile::<L, 3>(row, start, pass),
            2 => self.tile::<L, 2>(row, start, pass),
            _ => self.tile::<L, 1>(row, start, pass),
        }
    }

    /// Adds lines `start ..` of M rows to the panel's outputs.
    #[inline(always)]
    fn tile<L: Lanes, const M: usize>(&self, row: usize, start: usize, pass: Pass<'_, F>) {
        let inputs = &self.packed.inputs[row * self.packed.lines..][start * M..];
        let inputs = inputs.as_chunks::<M>().0;
        let mut sums = if start > 0 { self.load::<L, M>(row) } else { [[L::splat(0.0); 2]; M] };
        let mut ahead = pass.ahead.iter();
        for (weights, inputs) in pass.weights.chunks(pass.every).zip(inputs.chunks(pass.every)) {
            if let Some([low, high]) = ahead.next() {
                L::prefetch(low);
                L::prefetch(high);
            }
            for ([low, high], inputs) in weights.iter().zip(inputs) {
                let (low, high) = (F::wide::<L>(low), F::wide::<L>(high));
                for (sums, input) in sums.iter_mut().zip(inputs) {
                    *sums = [F::add(sums[0], input, low), F::add(sums[1], input, high)];
                }
            }
        }
        self.store(row, sums);
    }

    #[inline(always)]
    fn load<L: Lanes, const M: usize>(&self, row: usize) -> [[L; 2]; M] {
        let mut sums = [[L::splat(0.0); 2]; M];
        // Loops, not closures: a closure has no instruction set, and is not inlined for sure. The first one is short enough to be
        // unrolled, so that sums never leave their registers.
        if self.is_whole() {
            for (i, sums) in sums.iter_mut().enumerate() {
                let [low, high] = self.whole_outputs(row + i);
                *sums = [L::load(low), L::load(high)];
            }
        } else {
            for (i, sums) in sums.iter_mut().enumerate() {
                let mut edge = [[0.0; 16]; 2];
                let y = self.outputs(row + i);
                edge.as_flattened_mut()[..y.len()].copy_from_slice(y);
                *sums = [L::load(&edge[0]), L::load(&edge[1])];
            }
        }
        sums
    }

    #[inline(always)]
    fn store<L: Lanes, const M: usize>(&self, row: usize, sums: [[L; 2]; M]) {
        if self.is_whole() {
            for (i, sums) in sums.into_iter().enumerate() {
                let [low, high] = self.whole_outputs(row + i);
                sums[0].store(low);
                sums[1].store(high);
            }
        } else {
            for (i, sums) in sums.into_iter().enumerate() {
                let mut edge = [[0.0; 16]; 2];
                sums[0].store(&mut edge[0]);
                sums[1].store(&mut edge[1]);
                let y = self.outputs(row + i);
                let width = y.len();
                y.copy_from_slice(&edge.as_flattened()[..width]);
            }
        }
    }

    /// Whether all of the panel's outputs are the weight's.
    #[inline(always)]
    fn is_whole(&self) -> bool {
        (self.panel + 1) * PANEL <= self.product.rows
    }

    /// A whole panel's outputs of one row.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "a task has these columns and rows to itself")]
    fn whole_outputs(&self, row: usize) -> &mut [[f32; 16]; 2] {
        // SAFETY: as in `outputs`; `Product::run` has seen that there are outputs for all rows, and `is_whole` that they are 32.
        unsafe { self.product.y.array(row * self.product.rows + self.panel * PANEL) }
    }

    /// The panel's outputs of one row.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "a task has these columns and rows to itself")]
    fn outputs(&self, row: usize) -> &mut [f32] {
        let first = self.panel * PANEL;
        let width = PANEL.min(self.product.rows - first);
        // SAFETY: one task has this panel's columns of this row, and it holds one part at a time.
        unsafe { self.product.y.part(row * self.product.rows + first, width) }
    }
}
