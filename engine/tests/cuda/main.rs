//! The CUDA backend without a GPU: the real NVRTC compiles every kernel. Needs the packages of `.ci/requirements.txt`, and says so
//! where they are absent.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::print_stderr, clippy::print_stdout, reason = "a skipped test says so; distances are told")]

mod bench;
mod cache;
mod cluster;
mod devices;
mod double;
mod ends;
mod figure_8;
mod inside;
mod machine;
mod matrices;
mod models;
mod parity;
mod registers;
mod room;
mod selftest;
mod steps;
mod tensor_cores;
mod trial;
mod warm_up;

use std::process::Command;

/// Compute capabilities of the cards that kernels are compiled for.
const CARDS: [u32; 4] = [80, 86, 89, 90];

/// NVRTC's folder in the packages of `CHARIOT_PYTHON`; without one the test is skipped, and says so.
fn nvrtc_folder() -> Option<String> {
    let Ok(python) = std::env::var("CHARIOT_PYTHON") else {
        eprintln!("SKIPPED: no CHARIOT_PYTHON, so no NVRTC");
        return None;
    };
    let find = "import nvidia.cuda_nvrtc as n; print(list(n.__path__)[0])";
    let output = Command::new(python).args(["-c", find]).output().unwrap();
    if !output.status.success() {
        eprintln!("SKIPPED: CHARIOT_PYTHON lacks nvidia-cuda-nvrtc-cu12");
        return None;
    }
    let folder = String::from_utf8(output.stdout).unwrap();
    Some(format!("{}/lib", folder.trim()))
}

/// Loads NVRTC, if it is there.
fn nvrtc() -> bool {
    let Some(folder) = nvrtc_folder() else { return false };
    for file in ["libnvrtc-builtins.so.12.9", "libnvrtc.so.12"] {
        let path = format!("{folder}/{file}");
        chariot_engine::backend::cuda::library::load(path.as_str().into()).unwrap();
    }
    true
}
