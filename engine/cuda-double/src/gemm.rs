//! Products of matrices in columns: sums in f32 in the order of k, rounded once. Knows no stream and no handle.
#![expect(unsafe_code, reason = "reads and writes raw device memory")]

use half::{bf16, f16};

use crate::copies::check;
use crate::memory::opened;
use crate::status::is_wrong;

/// Rows whose sums are kept together.
const TILE: usize = 64;

/// What a value is stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    F32,
    F16,
    Bf16,
}

impl Element {
    pub(crate) fn bytes(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }

    /// Reads value `index` of an array at `at`, which must be readable.
    unsafe fn get(self, at: usize, index: usize) -> f32 {
        // SAFETY: the caller's.
        unsafe {
            match self {
                Self::F32 => (at as *const f32).add(index).read_unaligned(),
                Self::F16 => f16::from_bits((at as *const u16).add(index).read_unaligned()).to_f32(),
                Self::Bf16 => bf16::from_bits((at as *const u16).add(index).read_unaligned()).to_f32(),
            }
        }
    }

    /// Writes value `index` of an array at `at`, which must be writable; rounds to nearest, ties to even.
    unsafe fn set(self, at: usize, index: usize, value: f32) {
        // SAFETY: the caller's.
        unsafe {
            match self {
                Self::F32 => (at as *mut f32).add(index).write_unaligned(value),
                Self::F16 => (at as *mut u16).add(index).write_unaligned(f16::from_f32(value).to_bits()),
                Self::Bf16 => (at as *mut u16).add(index).write_unaligned(bf16::from_f32(value).to_bits()),
            }
        }
    }
}

/// A matrix in device memory: `rows` x `columns` as it is stored, columns `leading` values apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix {
    pub(crate) at: usize,
    pub(crate) element: Element,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) leading: usize,
    /// Values from one matrix of a batch to the next.
    pub(crate) stride: usize,
    pub(crate) is_transposed: bool,
}

impl Matrix {
    fn bytes(&self) -> usize {
        match self.columns {
            0 => 0,
            columns => ((columns - 1) * self.leading + self.rows) * self.element.bytes(),
        }
    }

    fn of_batch(self, index: usize) -> Self {
        Self { at: self.at + index * self.stride * self.element.bytes(), ..self }
    }

    /// Value of row `i`, column `j` of the operand; the matrix must be readable.
    unsafe fn get(&self, i: usize, j: usize) -> f32 {
        let (row, column) = if self.is_transposed { (j, i) } else { (i, j) };
        // SAFETY: the caller's.
        unsafe { self.element.get(self.at, column * self.leading + row) }
    }
}

/// `c = alpha a b + beta c` for a batch of `m` x `n` results of `k` terms each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gemm {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) alpha: f32,
    pub(crate) beta: f32,
    pub(crate) a: Matrix,
    pub(crate) b: Matrix,
    pub(crate) c: Matrix,
    pub(crate) batch: usize,
}

impl Gemm {
    /// Computes it; an operand that is not within its allocation is named.
    pub(crate) fn run(&self) -> Result<(), u32> {
        for index in 0..self.batch {
            self.check(index)?;
        }
        opened(|| (0..self.batch).for_each(|index| self.multiply(index)));
        if is_wrong("gemm") && self.m * self.n * self.batch > 0 {
            let c = self.c;
            // SAFETY: `c` has a value, and was checked above.
            opened(|| unsafe { c.element.set(c.at, 0, c.element.get(c.at, 0) + 1.0) });
        }
        Ok(())
    }

    fn check(&self, index: usize) -> Result<(), u32> {
        let Self { m, n, k, .. } = self;
        for (name, matrix) in [("A", self.a), ("B", self.b), ("C", self.c)] {
            let (matrix, ld) = (matrix.of_batch(index), matrix.leading);
            let what = format!("gemm of m {m}, n {n}, k {k}: operand {name} (ld {ld}, batch {index})");
            check(&what, &[matrix.at], matrix.bytes())?;
        }
        Ok(())
    }

    fn multiply(&self, index: usize) {
        let (a, b, c) = (self.a.of_batch(index), self.b.of_batch(index), self.c.of_batch(index));
        // SAFETY: all three matrices lie in live allocations, which are open.
        let columns: Vec<f32> = (0..self.n)
            .flat_map(|j| (0..self.k).map(move |t| (t, j)))
            .map(|(t, j)| unsafe { b.get(t, j) })
            .collect();
        let mut panel = vec![[0.0; TILE]; self.k];
        for first in (0..self.m).step_by(TILE) {
            let rows = TILE.min(self.m - first);
            for (t, values) in panel.iter_mut().enumerate() {
                for (row, value) in values[..rows].iter_mut().enumerate() {
                    // SAFETY: as above.
                    *value = unsafe { a.get(first + row, t) };
                }
            }
            for j in 0..self.n {
                let sums = sums(&panel, &columns[j * self.k..(j + 1) * self.k]);
                (0..rows).for_each(|row| self.store(&c, first + row, j, sums[row]));
            }
        }
    }

    /// Without a beta, what was there is not read.
    fn store(&self, c: &Matrix, i: usize, j: usize, sum: f32) {
        let at = j * c.leading + i;
        // SAFETY: within `c`, which was checked and is open.
        unsafe {
            let old = if self.beta == 0.0 { 0.0 } else { self.beta * c.element.get(c.at, at) };
            c.element.set(c.at, at, self.alpha * sum + old);
        }
    }
}

/// Sums of TILE rows, each in the order of k.
fn sums(panel: &[[f32; TILE]], column: &[f32]) -> [f32; TILE] {
    let mut sums = [0.0; TILE];
    for (values, factor) in panel.iter().zip(column) {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += value * factor;
        }
    }
    sums
}
