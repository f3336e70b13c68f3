//! The CUDA backend: kernels and their compiler, libraries found at run time, and a GPU as a model's backend over them.
//! Builds and starts where no CUDA is installed.
//!
//! ```text
//! backend -> {attention, graphs, group, tokens} -> {batch, tensor -> scratch} -> card
//! card -> {launch -> compile, blas, nccl, uploads -> memory, stays -> timer} -> {library, patience, error}
//! hardware -> {library, peer_links -> nvml}
//! ```

mod attention;
mod backend;
mod batch;
mod blas;
mod card;
pub mod compile;
mod error;
mod graphs;
mod group;
mod hardware;
mod launch;
pub mod library;
mod memory;
mod nccl;
mod nvml;
mod nvrtc;
mod patience;
mod peer_links;
mod scratch;
mod stays;
mod tensor;
mod timer;
mod tokens;
mod uploads;
mod wheels;

pub use backend::{Cuda, Options};
pub use compile::kernel_folder;
pub use error::CudaError;
pub use graphs::recorded_sizes;
pub use hardware::hardware;
pub use library::{check, device_count};
pub use nvml::NoNvml;
pub use patience::patience;
pub use peer_links::no_nvml;
