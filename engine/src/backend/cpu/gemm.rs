//! `y = x w^T` over packed panels: every output is one chain of fused multiply-adds in the order of the inputs.
//!
//! So a result depends neither on the rows beside it, nor on the threads, nor on the instruction set. Knows no dtype but
//! through [`Stored`].
#![expect(unsafe_code, reason = "kernels of a detected instruction set; threads write disjoint columns")]

#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512};
use super::lanes::{Isa, Lanes, Stored};
use super::pool::{Parts, Pool};

/// Outputs of one panel: `[columns][32]`, zeros after the weight's last row.
pub(super) const PANEL: usize = 32;
/// Inputs of one pass: a panel's pass (64 KiB of f32) stays in the second-level cache, a tile's inputs in the first.
const PASS: usize = 512;

/// One call: shapes as in `Cpu::linear`.
pub(super) struct Product<'a, W> {
    pub(super) panels: &'a [[[W; 16]; 2]],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) x: &'a [f32],
    pub(super) y: Parts<'a, f32>,
}

impl<W: Stored> Product<'_, W> {
    pub(super) fn run(&self, pool: &Pool, isa: Isa) {
        let panels = self.rows.div_ceil(PANEL);
        pool.run(panels, &|panel| match isa {
            Isa::Portable => self.panel::<[f32; 16], 2>(panel),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::available` found AVX2, FMA and F16C.
            Isa::Avx2 => unsafe { avx2(self, panel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::available` found AVX-512F.
            Isa::Avx512 => unsafe { avx512(self, panel) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => unreachable!("only x86-64 has these"),
        });
    }

    #[inline(always)]
    fn panel<L: Lanes, const M: usize>(&self, panel: usize) {
        let m = self.x.len() / self.columns;
        let weights = &self.panels[panel * self.columns..][..self.columns];
        for start in (0..self.columns).step_by(PASS) {
            let weights = &weights[start..(start + PASS).min(self.columns)];
            let mut row = 0;
            while row + M <= m {
                self.tile::<L, M>(panel, row, start, weights);
                row += M;
            }
            while row + 4 <= m {
                self.tile::<L, 4>(panel, row, start, weights);
                row += 4;
            }
            while row < m {
                self.tile::<L, 1>(panel, row, start, weights);
                row += 1;
            }
        }
    }

    /// Adds inputs `start ..` of M rows to the panel's outputs.
    #[inline(always)]
    fn tile<L: Lanes, const M: usize>(
        &self,
        panel: usize,
        row: usize,
        start: usize,
        weights: &[[[W; 16]; 2]],
    ) {
        let x: [&[f32]; M] =
            std::array::from_fn(|i| &self.x[(row + i) * self.columns + start..][..weights.len()]);
        let mut sums = [[L::splat(0.0); 2]; M];
        let mut edge = [[[0.0; 16]; 2]; M];
        if start > 0 {
            self.outputs(panel, row, &mut edge, |edge, y| edge.copy_from_slice(y));
            sums = edge.map(|[low, high]| [L::load(&low), L::load(&high)]);
        }
        for (k, [low, high]) in weights.iter().enumerate() {
            let (low, high) = (W::lanes::<L>(low), W::lanes::<L>(high));
            for (sums, x) in sums.iter_mut().zip(&x) {
                let x = L::splat(x[k]);
                *sums = [sums[0].add_product(x, low), sums[1].add_product(x, high)];
            }
        }
        for (edge, sums) in edge.iter_mut().zip(sums) {
            sums[0].store(&mut edge[0]);
            sums[1].store(&mut edge[1]);
        }
        self.outputs(panel, row, &mut edge, |edge, y| y.copy_from_slice(edge));
    }

    #[inline(always)]
    fn outputs(
        &self,
        panel: usize,
        row: usize,
        edge: &mut [[[f32; 16]; 2]],
        copy: impl Fn(&mut [f32], &mut [f32]),
    ) {
        let first = panel * PANEL;
        let width = PANEL.min(self.rows - first);
        for (i, edge) in edge.iter_mut().enumerate() {
            // SAFETY: one task has this panel's columns, and it holds one part at a time.
            let y = unsafe { self.y.part((row + i) * self.rows + first, width) };
            copy(&mut edge.as_flattened_mut()[..width], y);
        }
    }
}

/// # Safety
/// The machine must have these features.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<W: Stored>(product: &Product<'_, W>, panel: usize) {
    product.panel::<Avx2, 3>(panel);
}

/// # Safety
/// The machine must have these features.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma,f16c")]
unsafe fn avx512<W: Stored>(product: &Product<'_, W>, panel: usize) {
    product.panel::<Avx512, 12>(panel);
}
