//! Why a call to the card did not work, in words. Knows no kernel.

use cudarc::driver::DriverError;
use cudarc::nccl::result::NcclError;

use super::compile::CompileError;
use super::library::Missing;
use crate::comm::CommError;
use crate::shard::Dtype;

/// What went wrong between this rank and its GPU.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// A library is not installed.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// A kernel was not compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// There is a driver, but it has no such device.
    #[error("expected GPU {ordinal}, found {count}: ranks take GPUs in order, one each")]
    Device {
        /// Asked for.
        ordinal: usize,
        /// There are.
        count: usize,
    },
    /// The driver refused.
    #[error("{what}: CUDA says {code:?}")]
    Driver {
        /// What was asked of it.
        what: &'static str,
        /// Its answer.
        code: cudarc::driver::sys::CUresult,
    },
    /// The card is full.
    #[error("expected {:.2} GB of device memory for {what}, found {:.2} GB free", gb(*bytes), gb(*free))]
    Memory {
        /// For which purpose.
        what: &'static str,
        /// Asked for.
        bytes: usize,
        /// There were.
        free: usize,
    },
    /// Keys and values that were planned do not fit beside what is on the card.
    #[error(
        "GPU {gpu} has {:.2} of its {:.2} GB free after weights and communicators; {blocks} KV blocks need {:.2} GB, and a step's activations {:.2} GB: \
         lower gpu_memory_utilization, or the platform's gpu_memory_gb (serve and generate: --kv-blocks), or end what else uses the GPU",
        gb(*free), gb(*total), gb(*bytes), gb(*activations)
    )]
    NoRoom {
        /// Which GPU.
        gpu: usize,
        /// Bytes that nobody has taken.
        free: usize,
        /// Its memory, in bytes.
        total: usize,
        /// Planned.
        blocks: usize,
        /// They take.
        bytes: usize,
        /// The largest step takes beside them, in bytes.
        activations: usize,
    },
    /// A product failed.
    #[error("{what}: cuBLAS says {status}")]
    Blas {
        /// Which product.
        what: &'static str,
        /// Its answer.
        status: &'static str,
    },
    /// A message between GPUs failed.
    #[error("{what}: NCCL says {code:?}; a rank of the group is gone or its GPU failed")]
    Nccl {
        /// Which call.
        what: &'static str,
        /// Its answer.
        code: cudarc::nccl::sys::ncclResult_t,
    },
    /// Nothing happened for too long.
    #[error(
        "{what}: expected it within {seconds:.0} s, found the GPU still at work: it hangs, or a rank that it exchanges values with is gone or stuck"
    )]
    Stuck {
        /// What was waited for.
        what: &'static str,
        /// How long.
        seconds: f64,
    },
    /// Matrices of several types.
    #[error("expected matrices of one type on CUDA, {expected} as the first, found {found:?}")]
    Mixed {
        /// As the kernels name it.
        expected: &'static str,
        /// Of another weight.
        found: Dtype,
    },
    /// The ranks did not find each other.
    #[error("bring GPUs together")]
    Comm(#[from] CommError),
}

impl CudaError {
    /// Whether another rank of a group has ended or given up.
    pub(super) fn is_of_a_peer(&self) -> bool {
        matches!(self, Self::Nccl { code: cudarc::nccl::sys::ncclResult_t::ncclRemoteError, .. })
    }
}

fn gb(bytes: usize) -> f64 {
    bytes as f64 / 1e9
}

/// Says what was asked of the driver.
pub(super) fn driver(what: &'static str) -> impl FnOnce(DriverError) -> CudaError {
    move |error| CudaError::Driver { what, code: error.0 }
}

/// Says which call it was.
pub(super) fn nccl(what: &'static str) -> impl FnOnce(NcclError) -> CudaError {
    move |error| CudaError::Nccl { what, code: error.0 }
}
