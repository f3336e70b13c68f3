//! Stands in for libcuda and libnvrtc in tests: kernels run on the CPU. docs/cuda-double.md says what it checks.

mod cuda;
mod fiber;
mod memory;
mod module;
mod nvrtc;
mod stream;
