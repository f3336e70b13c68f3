//! The CUDA backend's parts: kernels, their compiler, and the libraries found at run time. No model calls them yet.
//! Builds and starts where no CUDA is installed.

pub mod compile;
pub mod library;
