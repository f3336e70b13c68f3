//! A device with one source's kernels, its buffers, and how near results must be.

use chariot_ptx::{Argument, Buffer, LaunchError, Memory, Module, Shape, parse};
use half::{bf16, f16};

use crate::nvrtc::compiled;

/// Of sums in f32 of values near 1.
const TOLERANCE: f64 = 2e-6;

/// Of activations and weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    F32,
    Bf16,
    F16,
}

impl Element {
    pub(crate) const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];

    /// As the kernels name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "float",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// The nearest value of this dtype.
    pub(crate) fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::Bf16 => bf16::from_f32(value).to_f32(),
            Self::F16 => f16::from_f32(value).to_f32(),
        }
    }

    /// Largest relative error of one rounding: half of the last of bf16's 8 bits, or of f16's 11.
    pub(crate) fn rounding(self) -> f64 {
        match self {
            Self::F32 => 0.0,
            Self::Bf16 => f64::powi(2.0, -8),
            Self::F16 => f64::powi(2.0, -11),
        }
    }

    /// Values of this dtype from -1 to 1 that look random.
    pub(crate) fn noise(self, seed: u32, count: usize) -> Vec<f32> {
        let value = |i: u32| {
            let mixed = (i ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
            ((mixed ^ (mixed >> 13)).wrapping_mul(0xc2b2_ae35) >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count as u32).map(|i| self.round(value(i))).collect()
    }
}

pub(crate) struct Card {
    pub(crate) element: Element,
    pub(crate) memory: Memory,
    module: Module,
}

impl Card {
    /// None without NVRTC.
    pub(crate) fn new(source: &str, element: Element) -> Option<Self> {
        Some(Self::of(&compiled(source, element)?, element))
    }

    pub(crate) fn of(ptx: &str, element: Element) -> Self {
        Self { element, memory: Memory::default(), module: parse(ptx).unwrap() }
    }

    /// Values of the dtype; they must have no more digits than it has.
    pub(crate) fn put(&mut self, values: &[f32]) -> Buffer {
        let fits = |value: &&f32| value.is_nan() || self.element.round(**value) == **value;
        assert_eq!(values.iter().find(|value| !fits(value)), None);
        match self.element {
            Element::F32 => self.memory.put(values),
            Element::Bf16 => {
                let bits = values.iter().map(|value| bf16::from_f32(*value).to_bits());
                self.memory.put(&bits.collect::<Vec<u16>>())
            }
            Element::F16 => {
                let bits = values.iter().map(|value| f16::from_f32(*value).to_bits());
                self.memory.put(&bits.collect::<Vec<u16>>())
            }
        }
    }

    /// For so many values of the dtype.
    pub(crate) fn room(&mut self, count: usize) -> Buffer {
        self.memory.room(count * self.element.bytes())
    }

    /// All values of the dtype, which must have been written.
    pub(crate) fn take(&self, buffer: Buffer) -> Vec<f32> {
        match self.element {
            Element::F32 => self.memory.take(buffer).unwrap(),
            Element::Bf16 => {
                let bits: Vec<u16> = self.memory.take(buffer).unwrap();
                bits.iter().map(|bits| bf16::from_bits(*bits).to_f32()).collect()
            }
            Element::F16 => {
                let bits: Vec<u16> = self.memory.take(buffer).unwrap();
                bits.iter().map(|bits| f16::from_bits(*bits).to_f32()).collect()
            }
        }
    }

    pub(crate) fn try_run(
        &mut self,
        kernel: &str,
        blocks: [u32; 3],
        threads: u32,
        arguments: &[Argument],
    ) -> Result<(), LaunchError> {
        let shape = Shape { blocks, threads: [threads, 1, 1], shared_bytes: 0 };
        self.module.launch(kernel, shape, arguments, &mut self.memory)
    }

    pub(crate) fn run(&mut self, kernel: &str, blocks: [u32; 3], threads: u32, arguments: &[Argument]) {
        self.try_run(kernel, blocks, threads, arguments).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Holds values of the dtype, rounded to it once from sums in f32, against exact ones. `size` is that of a sum's terms.
    pub(crate) fn near(&self, buffer: Buffer, expected: &[f64], size: f64) {
        let found = self.take(buffer);
        assert_eq!(found.len(), expected.len());
        for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
            let allowed = TOLERANCE * expected.abs().max(size) + self.element.rounding() * expected.abs();
            if expected.is_nan() {
                assert!(found.is_nan(), "{index}: expected NaN, found {found}");
                continue;
            }
            let apart = (f64::from(found) - expected).abs();
            assert!(apart <= allowed, "{index}: expected {expected}, found {found}");
        }
    }
}

pub(crate) fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// A test in each dtype of a function of a card with one source's kernels.
macro_rules! in_each {
    ($source:ident, $($test:ident),+ $(,)?) => {
        mod in_f32 {$(
            #[test]
            fn $test() {
                let Some(card) = $crate::card::Card::new(super::$source, $crate::card::Element::F32) else { return };
                super::$test(card);
            }
        )+}
        mod in_bf16 {$(
            #[test]
            fn $test() {
                let Some(card) = $crate::card::Card::new(super::$source, $crate::card::Element::Bf16) else { return };
                super::$test(card);
            }
        )+}
        mod in_f16 {$(
            #[test]
            fn $test() {
                let Some(card) = $crate::card::Card::new(super::$source, $crate::card::Element::F16) else { return };
                super::$test(card);
            }
        )+}
    };
}
pub(crate) use in_each;
