//! Tensor operations, and only those that the models call. A backend knows nothing of sequences, schedulers or other ranks.

pub mod cpu;
pub mod cuda;
