//! Whether the GPUs of this machine compute and exchange values rightly: every operation of the [`crate::backend::Backend`] on `Cuda` against `Cpu`, with the
//! same inputs, and every message against what was sent. Knows no model and no scheduler.
//!
//! ```text
//! processes -> one -> {operations, attention, collectives} -> bed -> sample ; stamps
//! ```

mod attention;
mod bed;
mod collectives;
mod one;
mod operations;
mod processes;
mod sample;
pub mod stamps;

use serde::{Deserialize, Serialize};

use crate::shard::Dtype;

pub use collectives::{Place, exchanged};
pub use one::{Seat, end_with_parent, run_one};
pub use processes::{between, each};

/// Types of weights and activations that are tested: all that the kernels are compiled for.
pub const DTYPES: [Dtype; 3] = [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16];

/// One operation at one shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// As the backend's trait calls it.
    pub operation: String,
    /// Lengths, for people.
    pub shape: String,
    /// Of weights and activations.
    pub dtype: Dtype,
    /// The largest distance from what was expected; [`f32::MAX`] where there is no number.
    pub error: f32,
    /// The largest that rounding explains.
    pub allowed: f32,
}

impl Check {
    /// Whether rounding explains the distance.
    pub fn is_right(&self) -> bool {
        self.error <= self.allowed
    }
}

/// What one GPU's test found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tested {
    /// In the order in which they were made.
    pub checks: Vec<Check>,
    /// Why there are no more, in words, where an operation gave no result at all.
    pub failure: Option<String>,
}

impl Tested {
    /// Whether every operation gave a result, and the right one.
    pub fn is_right(&self) -> bool {
        self.failure.is_none() && !self.checks.is_empty() && self.checks.iter().all(Check::is_right)
    }
}

/// A type as the command line has it.
pub fn name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::Float32 => "f32",
        Dtype::Float16 => "f16",
        Dtype::Bfloat16 => "bf16",
    }
}
