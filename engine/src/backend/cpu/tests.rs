//! The fast kernels against plain loops, on every instruction set of this machine.

mod attention;
mod backend;
mod elementwise;
mod huge_pages;
mod linear;
mod pool;

use half::{bf16, f16};

use super::{Cpu, Dtype, Isa};

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

/// A fixed sequence in -1 .. 1.
fn noise(seed: u32, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// The nearest value of `dtype`.
fn rounded(dtype: Dtype, value: f32) -> f32 {
    match dtype {
        Dtype::F32 => value,
        Dtype::F16 => f16::from_f32(value).to_f32(),
        Dtype::Bf16 => bf16::from_f32(value).to_f32(),
    }
}

/// A backend of every instruction set.
fn all(threads: usize) -> impl Iterator<Item = (Isa, Cpu)> {
    Isa::available().into_iter().map(move |isa| (isa, Cpu::with_isa(threads, None, isa).unwrap()))
}
