//! A card with one source's kernels in one dtype, its buffers, and how near results must be.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaModule, CudaSlice, CudaStream, DeviceRepr};
use cudarc::nvrtc::Ptx;
use half::{bf16, f16};

use crate::cubin;

pub(super) const PRELUDE: &str = include_str!("../../../../src/backend/cuda/kernels/prelude.cu");

/// Of sums in f32 of values near 1.
const TOLERANCE: f64 = 2e-6;

pub(super) const BARRIER: &str = "__syncthreads();";
/// Names the barrier, counted from 0 through prelude and source, that a child's kernels lack.
pub(super) const WITHOUT: &str = "CHARIOT_DOUBLE_WITHOUT";

/// Of activations and weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    Bf16,
    F16,
}

impl Element {
    pub(super) const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];

    /// As the kernels name it.
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "float",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// Largest relative error of one rounding.
    pub(super) fn rounding(self) -> f64 {
        match self {
            Self::F32 => 0.0,
            Self::Bf16 => f64::powi(2.0, -8),
            Self::F16 => f64::powi(2.0, -11),
        }
    }

    fn to_bytes(self, value: f32) -> Vec<u8> {
        match self {
            Self::F32 => value.to_le_bytes().to_vec(),
            Self::Bf16 => bf16::from_f32(value).to_le_bytes().to_vec(),
            Self::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
        }
    }

    fn of_bytes(self, bytes: &[u8]) -> f32 {
        match self {
            Self::F32 => f32::from_le_bytes(bytes.try_into().unwrap()),
            Self::Bf16 => bf16::from_le_bytes(bytes.try_into().unwrap()).to_f32(),
            Self::F16 => f16::from_le_bytes(bytes.try_into().unwrap()).to_f32(),
        }
    }

    fn bytes(self) -> usize {
        self.to_bytes(0.0).len()
    }

    /// The nearest value of this dtype.
    pub(super) fn round(self, value: f32) -> f32 {
        self.of_bytes(&self.to_bytes(value))
    }

    /// Values of this dtype from -1 to 1 that look random.
    pub(super) fn noise(self, seed: u32, count: usize) -> Vec<f32> {
        noise(seed, count).into_iter().map(|value| self.round(value)).collect()
    }
}

/// Values from -1 to 1 that look random.
pub(super) fn noise(seed: u32, count: usize) -> Vec<f32> {
    let value = |i: u32| {
        let mixed = (i ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
        ((mixed ^ (mixed >> 13)).wrapping_mul(0xc2b2_ae35) >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count as u32).map(value).collect()
}

pub(super) fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// Values of a card's dtype.
pub(super) type Values = CudaSlice<u8>;

pub(super) struct Card {
    pub(super) element: Element,
    pub(super) stream: Arc<CudaStream>,
    pub(super) module: Arc<CudaModule>,
}

impl Card {
    pub(super) fn new(source: &str, element: Element) -> Self {
        let context = CudaContext::new(0).unwrap();
        let text = without_a_barrier(&format!("{PRELUDE}\n{source}"));
        let image = cubin(&text, &[format!("-DELEMENT={}", element.name())]).unwrap();
        let module = context.load_module(Ptx::from_binary(image)).unwrap();
        Self { element, module, stream: context.default_stream() }
    }

    pub(super) fn noise(&self, seed: u32, count: usize) -> Vec<f32> {
        self.element.noise(seed, count)
    }

    /// Values of the dtype; they must have no more digits than it has.
    pub(super) fn put(&self, values: &[f32]) -> Values {
        let fits = |value: &&f32| value.is_nan() || self.element.round(**value) == **value;
        assert_eq!(values.iter().find(|value| !fits(value)), None);
        self.put_plain(&values.iter().flat_map(|value| self.element.to_bytes(*value)).collect::<Vec<u8>>())
    }

    /// For so many values of the dtype. Poisoned.
    pub(super) fn room(&self, count: usize) -> Values {
        self.room_plain(count * self.element.bytes())
    }

    pub(super) fn take(&self, values: &Values) -> Vec<f32> {
        let one = |bytes| self.element.of_bytes(bytes);
        self.take_plain(values).chunks(self.element.bytes()).map(one).collect()
    }

    pub(super) fn put_plain<V: DeviceRepr>(&self, values: &[V]) -> CudaSlice<V> {
        self.stream.clone_htod(values).unwrap()
    }

    /// Poisoned.
    pub(super) fn room_plain<V: DeviceRepr>(&self, length: usize) -> CudaSlice<V> {
        // SAFETY: kernels write before anybody reads, or a test fails.
        unsafe { self.stream.alloc(length).unwrap() }
    }

    pub(super) fn take_plain<V: DeviceRepr + Clone + Default>(&self, values: &CudaSlice<V>) -> Vec<V> {
        self.stream.clone_dtoh(values).unwrap()
    }

    /// Holds values of the dtype, rounded to it once from sums in f32, against exact ones.
    pub(super) fn near(&self, found: &Values, expected: &[f64]) {
        let found = self.take(found);
        assert_eq!(found.len(), expected.len());
        for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
            let allowed = TOLERANCE * expected.abs().max(1.0) + self.element.rounding() * expected.abs();
            let apart = (f64::from(found) - expected).abs();
            assert!(apart <= allowed, "{:?}, {index}: expected {expected}, found {found}", self.element);
        }
    }
}

fn without_a_barrier(text: &str) -> String {
    let Ok(lacking) = std::env::var(WITHOUT) else { return text.to_owned() };
    let lacking: usize = lacking.parse().unwrap();
    let (at, _) = text.match_indices(BARRIER).nth(lacking).unwrap();
    format!("{}{}", &text[..at], &text[at + BARRIER.len()..])
}

/// Launches a kernel of a card: grid, threads of a block, arguments.
macro_rules! run {
    ($card:expr, $kernel:expr, $grid:expr, $threads:expr, $($argument:expr),+ $(,)?) => {
        let kernel = $card.module.load_function($kernel).unwrap();
        let config = cudarc::driver::LaunchConfig {
            grid_dim: $grid,
            block_dim: ($threads, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the double finds what is out of bounds.
        unsafe { $card.stream.launch_builder(&kernel)$(.arg($argument))+.launch(config).unwrap() };
    };
}
pub(super) use run;

/// Runs a function of a card with one source's kernels in each dtype, in every order of threads.
macro_rules! in_all {
    ($name:literal, text $source:expr, $body:expr) => {
        $crate::passes($name, || {
            for element in $crate::kernels::card::Element::ALL {
                let body: fn($crate::kernels::card::Card) = $body;
                body($crate::kernels::card::Card::new($source, element));
            }
        })
    };
    ($name:literal, $source:literal, $body:expr) => {
        $crate::kernels::card::in_all!($name, text include_str!(concat!("../../../src/backend/cuda/kernels/", $source)), $body)
    };
}
pub(super) use in_all;
