//! Norms, activations and sums, row by row. Plain loops without branches, which the compiler makes vectors of; the same bits
//! on every instruction set and any number of threads.

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

use super::Cpu;
use super::lanes::{Kernel, Lanes};

/// Below it `exp` is 0: the smallest normal number's logarithm, rounded up.
const EXP_LEAST: f32 = -87.33;
/// From it on `exp` is infinite, a little before it has to be.
const EXP_MOST: f32 = 88.38;
/// Adding it rounds to a whole number, which then stands in the lowest bits.
const ROUNDER: f32 = 12_582_912.0;
/// ln 2 in two parts, the first of few bits, so that whole multiples of it are exact.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];

/// `e^x` within 2 units in the last place: 2^n times the Taylor polynomial of degree 7 at what is left, at most ln 2 / 2.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let clamped = if x < EXP_LEAST { EXP_LEAST } else { x };
    let clamped = if clamped > EXP_MOST { EXP_MOST } else { clamped };
    let rounded = clamped.mul_add(LOG2_E, ROUNDER);
    let n = rounded - ROUNDER;
    let r = n.mul_add(-LN_2[1], n.mul_add(-LN_2[0], clamped));
    let mut sum = 1.0 / 5040.0;
    for factor in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0_f32] {
        sum = r.mul_add(sum, factor);
    }
    // The lowest bits of `rounded` are n, those above them fall out.
    let power = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    if x < EXP_LEAST { 0.0 } else { sum * power }
}

/// `x Phi(x)` with the normal distribution's Phi by its upper tail, Abramowitz and Stegun 7.1.26: within 1e-6.
#[inline(always)]
pub(super) fn gelu(x: f32) -> f32 {
    let z = x.abs() * FRAC_1_SQRT_2;
    let t = 1.0 / z.mul_add(0.327_591_1, 1.0);
    let mut sum = 1.061_405_4;
    for factor in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6_f32] {
        sum = t.mul_add(sum, factor);
    }
    let tail = 0.5 * t * sum * exp(-z * z);
    let positive = if x > 0.0 { x } else { 0.0 };
    positive - x.abs() * tail
}

/// Sixteen sums side by side, then their sum: an order that vectors keep.
#[inline(always)]
fn sum(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let (whole, rest) = values.as_chunks::<16>();
    let mut sums = [0.0; 16];
    for values in whole {
        for (sum, &value) in sums.iter_mut().zip(values) {
            *sum += term(value);
        }
    }
    for (sum, &value) in sums.iter_mut().zip(rest) {
        *sum += term(value);
    }
    sums.iter().sum()
}

struct LayerNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
}

impl Kernel for LayerNorm<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { x, weight, bias, eps, y } = self;
        let width = weight.len();
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let mean = sum(x, |x| x) / width as f32;
            let variance = sum(x, |x| (x - mean) * (x - mean)) / width as f32;
            let scale = 1.0 / (variance + eps).sqrt();
            for ((y, x), (weight, bias)) in y.iter_mut().zip(x).zip(weight.iter().zip(bias)) {
                *y = (x - mean) * scale * weight + bias;
            }
        }
    }
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { x, weight, eps, y } = self;
        let width = weight.len();
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let square = sum(x, |x| x * x) / width as f32;
            let scale = 1.0 / (square + eps).sqrt();
            for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
                *y = x * scale * weight;
            }
        }
    }
}

struct SiluMul<'a> {
    gate_up: &'a [f32],
    f: usize,
    out: &'a mut [f32],
}

impl Kernel for SiluMul<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { gate_up, f, out } = self;
        for (gate_up, out) in gate_up.chunks_exact(2 * f).zip(out.chunks_exact_mut(f)) {
            let (gate, up) = gate_up.split_at(f);
            for (out, (gate, up)) in out.iter_mut().zip(gate.iter().zip(up)) {
                *out = gate / (1.0 + exp(-gate)) * up;
            }
        }
    }
}

struct Gelu<'a>(&'a mut [f32]);

impl Kernel for Gelu<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        for x in self.0 {
            *x = gelu(*x);
        }
    }
}

struct Add<'a> {
    x: &'a mut [f32],
    y: &'a [f32],
}

impl Kernel for Add<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        for (x, y) in self.x.iter_mut().zip(self.y) {
            *x += y;
        }
    }
}

impl Cpu {
    /// `y = (x - mean) / sqrt(variance + eps) * weight + bias` of each row; `weight` and `bias` have a row's width.
    pub fn layer_norm(&self, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
        let width = weight.len();
        self.pool.rows(y, width, &|first, y| {
            self.isa.run(LayerNorm { x: &x[first * width..], weight, bias, eps, y });
        });
    }

    /// `y = x / sqrt(mean of squares + eps) * weight` of each row.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
        let width = weight.len();
        self.pool.rows(y, width, &|first, y| {
            self.isa.run(RmsNorm { x: &x[first * width..], weight, eps, y });
        });
    }

    /// `x = x Phi(x)`, by the error function.
    pub fn gelu(&self, x: &mut [f32]) {
        self.pool.rows(x, 1, &|_, x| self.isa.run(Gelu(x)));
    }

    /// `out[m, f] = silu(gate) up`, where a row of `gate_up[m, 2 f]` is the gate's f values, then up's.
    pub fn silu_mul(&self, gate_up: &[f32], f: usize, out: &mut [f32]) {
        self.pool.rows(out, f, &|first, out| {
            self.isa.run(SiluMul { gate_up: &gate_up[first * 2 * f..], f, out });
        });
    }

    /// `x += y`.
    pub fn add(&self, x: &mut [f32], y: &[f32]) {
        assert_eq!(x.len(), y.len(), "expected equal lengths");
        self.pool.rows(x, 1, &|first, x| self.isa.run(Add { x, y: &y[first..] }));
    }
}
