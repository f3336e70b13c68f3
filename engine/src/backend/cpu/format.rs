//! How values are stored, and how a product goes over them. Knows no shape.

use bytemuck::Pod;
use half::{bf16, f16};

use super::lanes::Lanes;

/// A type of stored values.
pub(super) trait Values: Send + Sync + 'static {
    /// Its bits.
    type Stored: Pod + Send + Sync;

    /// The nearest value, ties to even.
    fn round(value: f32) -> Self::Stored;
    fn wide<L: Lanes>(values: &[Self::Stored; 16]) -> L;
}

/// Weights as a product reads them: a line holds [`Format::INPUTS`] inputs' weights of 32 outputs.
pub(super) trait Format: Send + Sync + 'static {
    /// One output's weights of a line.
    type Stored: Pod + Send + Sync;
    /// One row's inputs of a line.
    type Input: Pod + Send + Sync;
    /// Sixteen outputs' weights of a line, ready to be multiplied.
    type Wide<L: Lanes>: Copy;
    const INPUTS: usize;

    /// From at most [`Format::INPUTS`] values; those that lack are zeros.
    fn input(values: &[f32]) -> Self::Input;
    fn wide<L: Lanes>(weights: &[Self::Stored; 16]) -> Self::Wide<L>;
    /// By reference, so that inputs are broadcast from memory.
    fn add<L: Lanes>(sum: L, input: &Self::Input, weights: Self::Wide<L>) -> L;
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct Bf16;
/// bf16 weights in pairs, widened: f32 arithmetic.
pub(super) struct Bf16Pairs;
/// bf16 weights in pairs, multiplied with inputs rounded to bf16: two products and two roundings of the sum a step.
pub(super) struct Bf16Dot;

impl Values for F32 {
    type Stored = f32;

    #[inline(always)]
    fn round(value: f32) -> f32 {
        value
    }
    #[inline(always)]
    fn wide<L: Lanes>(values: &[f32; 16]) -> L {
        L::load(values)
    }
}

impl Values for F16 {
    type Stored = u16;

    #[inline(always)]
    fn round(value: f32) -> u16 {
        f16::from_f32(value).to_bits()
    }
    #[inline(always)]
    fn wide<L: Lanes>(values: &[u16; 16]) -> L {
        L::load_f16(values)
    }
}

impl Values for Bf16 {
    type Stored = u16;

    #[inline(always)]
    fn round(value: f32) -> u16 {
        (round_bf16(value) >> 16) as u16
    }
    #[inline(always)]
    fn wide<L: Lanes>(values: &[u16; 16]) -> L {
        L::load_bf16(values)
    }
}

/// The nearest bf16, ties to even, in the upper half; without a branch, so that loops of it vectorise.
#[inline(always)]
fn round_bf16(value: f32) -> u32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    if value.is_nan() { u32::from(bf16::NAN.to_bits()) << 16 } else { rounded }
}

macro_rules! one_input {
    ($format:ty) => {
        impl Format for $format {
            type Stored = <Self as Values>::Stored;
            type Input = f32;
            type Wide<L: Lanes> = L;
            const INPUTS: usize = 1;

            #[inline(always)]
            fn input(values: &[f32]) -> f32 {
                values[0]
            }
            #[inline(always)]
            fn wide<L: Lanes>(weights: &[Self::Stored; 16]) -> L {
                <Self as Values>::wide(weights)
            }
            #[inline(always)]
            fn add<L: Lanes>(sum: L, input: &f32, weights: L) -> L {
                sum.add_product(L::splat(*input), weights)
            }
        }
    };
}
one_input!(F32);
one_input!(F16);

#[inline(always)]
fn pair(values: &[f32]) -> [f32; 2] {
    [values[0], values.get(1).copied().unwrap_or(0.0)]
}

impl Format for Bf16Pairs {
    type Stored = u32;
    type Input = [f32; 2];
    type Wide<L: Lanes> = [L; 2];
    const INPUTS: usize = 2;

    #[inline(always)]
    fn input(values: &[f32]) -> [f32; 2] {
        pair(values)
    }
    #[inline(always)]
    fn wide<L: Lanes>(weights: &[u32; 16]) -> [L; 2] {
        L::load_bf16_pairs(weights)
    }
    #[inline(always)]
    fn add<L: Lanes>(sum: L, input: &[f32; 2], weights: [L; 2]) -> L {
        let sum = sum.add_product(L::splat(input[0]), weights[0]);
        sum.add_product(L::splat(input[1]), weights[1])
    }
}

impl Format for Bf16Dot {
    type Stored = u32;
    type Input = u32;
    type Wide<L: Lanes> = L;
    const INPUTS: usize = 2;

    #[inline(always)]
    fn input(values: &[f32]) -> u32 {
        let [low, high] = pair(values).map(round_bf16);
        low >> 16 | high
    }
    #[inline(always)]
    fn wide<L: Lanes>(weights: &[u32; 16]) -> L {
        L::load_bits(weights)
    }
    #[inline(always)]
    fn add<L: Lanes>(sum: L, input: &u32, weights: L) -> L {
        sum.add_dot(*input, weights)
    }
}
