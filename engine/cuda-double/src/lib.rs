//! Stands in for CUDA's libraries in tests: kernels run on the CPU. docs/cuda-double.md says what it checks.

mod blas;
mod context;
mod copies;
mod cuda;
mod fiber;
mod gemm;
mod launch;
mod memory;
mod module;
mod nvrtc;
mod pinned;
mod status;
mod stream;
mod wrong;
