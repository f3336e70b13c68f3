//! Stands in for CUDA's libraries in tests: kernels run on the CPU. docs/cuda-double.md says what it checks.

mod blas;
mod collective;
mod context;
mod copies;
mod cuda;
mod fiber;
mod gemm;
mod group;
mod launch;
mod memory;
mod module;
mod nccl;
mod nvml;
mod nvrtc;
mod peers;
mod pinned;
mod reduce;
mod status;
mod stream;
mod wrong;

use std::io;
use std::path::{Path, PathBuf};

/// Names under which programs look for the libraries that the double stands for.
pub const LINKS: [&str; 6] =
    ["libcuda.so.1", "libnvrtc.so.12", "libcublas.so.12", "libnccl.so.2", "libnccl.so", "libnvidia-ml.so.1"];

/// Where cargo puts the double's shared library: beside the tests of every crate that depends on it.
///
/// # Errors
/// The running program's own path is not known, or the library is not there.
pub fn library() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folder = program.parent().unwrap_or(Path::new("."));
    fs_err::canonicalize(folder.join("libchariot_cuda_double.so"))
}

/// Links all of `LINKS` to `library` in `folder`, which LD_LIBRARY_PATH then names first. A test of what a
/// missing library does removes a link.
///
/// # Errors
/// A link cannot be made.
pub fn links(library: &Path, folder: &Path) -> io::Result<()> {
    LINKS.iter().try_for_each(|name| fs_err::os::unix::fs::symlink(library, folder.join(name)))
}
