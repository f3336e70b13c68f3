//! Every kernel of the CUDA backend, as the real NVRTC compiles it, interpreted and held against plain loops in f64, in each dtype.
//! Needs NVRTC, from the packages of `.ci/requirements.txt`, and says so where it is absent.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

mod attention;
mod barriers;
mod card;
#[path = "../../../cuda-double/tests/programs/kernels/draw_rows.rs"]
mod draw_rows;
mod elementwise;
mod flash;
mod norms;
mod nvrtc;
mod rotary;
mod rows;
mod sampling;
mod tiles;
