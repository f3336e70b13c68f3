//! Which of CUDA's libraries this machine has, and their entry points. The driver is looked for before its first use, since cudarc panics
//! without it. The others are opened here: cudarc knows no `libnccl.so.2`, all that a runtime install has, and no names of CUDA 13.
#![expect(unsafe_code, reason = "loads and calls C libraries")]

use std::ffi::c_int;
use std::sync::OnceLock;

use camino::Utf8Path;
use cudarc::driver;

use super::wheels;

/// A library that the backend calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// Comes with the GPU's driver.
    Driver,
    /// Compiles the kernels.
    Nvrtc,
    /// Products of matrices.
    Cublas,
    /// Products with a choice of algorithm.
    CublasLt,
    /// Messages between GPUs.
    Nccl,
}

/// In the order in which they are needed.
pub const LIBRARIES: [Library; 5] =
    [Library::Driver, Library::Nvrtc, Library::Cublas, Library::CublasLt, Library::Nccl];

const NO_GPU: &str = "the driver is there, but it sees no GPU";

/// A library that is not there.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Missing(String);

impl Library {
    fn is_present(self) -> bool {
        match self {
            // SAFETY: loading runs the library's initialisers, which NVIDIA's are made for.
            Self::Driver => unsafe { driver::sys::is_culib_present() },
            Self::Nvrtc | Self::Cublas | Self::CublasLt | Self::Nccl => open(self).is_ok(),
        }
    }

    /// File names, in the order in which they are tried: drivers run what is as old as they or older.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Driver => &["libcuda.so.1", "libcuda.so"],
            Self::Nvrtc => &["libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.so"],
            Self::Cublas => &["libcublas.so.12", "libcublas.so.13", "libcublas.so"],
            Self::CublasLt => &["libcublasLt.so.12", "libcublasLt.so.13", "libcublasLt.so"],
            Self::Nccl => &["libnccl.so.2", "libnccl.so"],
        }
    }

    /// The Python wheel that has it, and its files, those first that others need. The driver comes with none.
    fn wheel(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Driver => ("driver", &[]),
            Self::Nvrtc => ("cuda_nvrtc", &["libnvrtc-builtins.so", "libnvrtc.so"]),
            Self::Cublas => ("cublas", &["libcublasLt.so", "libcublas.so"]),
            Self::CublasLt => ("cublas", &["libcublasLt.so"]),
            Self::Nccl => ("nccl", &["libnccl.so"]),
        }
    }

    /// It is there, but too old to have an entry point.
    fn without(self, entry: &str) -> Missing {
        Missing(format!("{self:?} is too old: it has no {entry}; install a newer one"))
    }

    /// What is missing without it, in a sentence.
    fn absence(self) -> &'static str {
        match self {
            Self::Driver => {
                "no NVIDIA driver: libcuda.so was not found, so no GPU can be used; install the driver"
            }
            Self::Nvrtc => {
                "no NVRTC: libnvrtc.so.12 was not found, nor .so.13, so kernels cannot be compiled; install the runtime of CUDA 12 or 13 or put its folder into LD_LIBRARY_PATH"
            }
            Self::Cublas => {
                "no cuBLAS: libcublas.so.12 was not found, nor .so.13, so matrices cannot be multiplied; install the runtime of CUDA 12 or 13 or put its folder into LD_LIBRARY_PATH"
            }
            Self::CublasLt => {
                "no cuBLASLt: libcublasLt.so.12 was not found, nor .so.13, which cuBLAS needs; install the runtime of CUDA 12 or 13 or put its folder into LD_LIBRARY_PATH"
            }
            Self::Nccl => {
                "no NCCL: libnccl.so.2 was not found, so GPUs cannot exchange values; install NCCL or put its folder into LD_LIBRARY_PATH"
            }
        }
    }
}

/// The library, or the sentence that says what is missing.
pub fn require(library: Library) -> Result<(), Missing> {
    if library.is_present() {
        return Ok(());
    }
    let (wheel, names) = library.wheel();
    for folder in [wheel, wheels::CUDA_13] {
        for file in wheels::files(folder, names) {
            // Whatever keeps it from being loaded, it is missing.
            let _ = load(&file);
        }
        if library.is_present() {
            return Ok(());
        }
    }
    Err(Missing(library.absence().to_owned()))
}

/// Opens a library, for as long as the process lives.
fn open(of: Library) -> Result<&'static libloading::Library, Missing> {
    static OPEN: [OnceLock<libloading::Library>; LIBRARIES.len()] =
        [const { OnceLock::new() }; LIBRARIES.len()];
    let place = &OPEN[of as usize];
    if let Some(library) = place.get() {
        return Ok(library);
    }
    // SAFETY: loading runs the library's initialisers, which NVIDIA's are made for.
    let open = |name: &&str| unsafe { libloading::Library::new(*name) }.ok();
    let found = of.names().iter().find_map(open).ok_or_else(|| Missing(of.absence().to_owned()))?;
    Ok(place.get_or_init(|| found))
}

/// An entry point of a library.
///
/// # Safety
/// `F` is the type of the entry point `name`.
pub(super) unsafe fn entry<F: Copy>(of: Library, name: &str) -> Result<F, Missing> {
    // SAFETY: the caller's promise.
    let found = unsafe { open(of)?.get::<F>(name.as_bytes()) };
    found.map(|entry| *entry).map_err(|_| of.without(name))
}

/// Loads a library from its file for as long as the process lives; later searches by its name find it.
pub fn load(path: &Utf8Path) -> Result<(), Missing> {
    // SAFETY: loading runs the library's initialisers; the caller names one of NVIDIA's.
    let library = unsafe { libloading::Library::new(path.as_str()) }
        .map_err(|error| Missing(format!("{path}: {error}")))?;
    std::mem::forget(library);
    Ok(())
}

/// NVRTC's version; the library must be there.
pub(super) fn nvrtc_version() -> (i32, i32) {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the entry point's type; two numbers are written to variables of their type. Without a version the numbers stay 0.
    unsafe {
        if let Ok(ask) =
            entry::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int>(Library::Nvrtc, "nvrtcVersion")
        {
            let _ = ask(&raw mut major, &raw mut minor);
        }
    }
    (major, minor)
}

/// As NCCL numbers it: 22304 is 2.23.4.
pub(super) fn nccl_version() -> Option<i32> {
    let mut version = 0;
    // SAFETY: the entry point's type, as in NCCL's header; a number is written to a variable of its type.
    let asked = unsafe {
        let ask = entry::<unsafe extern "C" fn(*mut i32) -> i32>(Library::Nccl, "ncclGetVersion").ok()?;
        ask(&raw mut version)
    };
    (asked == 0).then_some(version)
}

/// All that decides how GPU `ordinal` computes, beside our own code: itself and the versions of driver and libraries. For a digest.
pub fn identity(ordinal: usize) -> Result<String, Missing> {
    for library in [Library::Driver, Library::Nvrtc, Library::Cublas] {
        require(library)?;
    }
    let ask = || {
        driver::result::init()?;
        let device = driver::result::device::get(ordinal as i32)?;
        Ok((driver::result::device::get_name(device)?, driver::result::device::get_uuid(device)?.bytes))
    };
    let (name, uuid) =
        ask().map_err(|error: driver::DriverError| Missing(format!("GPU {ordinal}: {:?}", error.0)))?;
    let (cublas, nvrtc, nccl) = (cublas_version(), nvrtc_version(), nccl_version());
    Ok(format!(
        "{name} {uuid:?}, driver {}, cuBLAS {cublas:?}, NVRTC {nvrtc:?}, NCCL {nccl:?}",
        driver_version()
    ))
}

/// As CUDA numbers it: 12080 is 12.8.
fn driver_version() -> i32 {
    let mut version = 0;
    // SAFETY: a number is written to a variable of its type. Without a version it stays 0.
    let _ = unsafe { driver::sys::cuDriverGetVersion(&raw mut version) };
    version
}

/// Major, minor and patch; the library must be there.
fn cublas_version() -> [i32; 3] {
    type Ask = unsafe extern "C" fn(c_int, *mut c_int) -> c_int;
    // As the header numbers them.
    [0, 1, 2].map(|property| {
        let mut number = 0;
        // SAFETY: the entry point's type; a number is written to a variable of its type. Without one it stays 0.
        unsafe {
            if let Ok(ask) = entry::<Ask>(Library::Cublas, "cublasGetProperty") {
                let _ = ask(property, &raw mut number);
            }
        }
        number
    })
}

/// GPUs that the driver shows this process; at least one.
pub fn device_count() -> Result<usize, Missing> {
    require(Library::Driver)?;
    let count = driver::result::init().and_then(|()| driver::result::device::get_count());
    match count {
        Ok(count @ 1..) => Ok(count as usize),
        Ok(_) => Err(Missing(NO_GPU.to_owned())),
        Err(error) => Err(Missing(format!("{NO_GPU}: {:?}", error.0))),
    }
}

/// Whether `ranks` ranks can compute on GPUs of this host, or a sentence that says what is missing.
pub fn check(ranks: u32) -> Result<(), Missing> {
    let count = device_count()?;
    for library in [Library::Nvrtc, Library::Cublas] {
        require(library)?;
    }
    if ranks > 1 {
        require(Library::Nccl)?;
    }
    match ranks as usize <= count {
        true => Ok(()),
        false => Err(Missing(format!("expected a GPU for each of {ranks} ranks, found {count}"))),
    }
}

/// What there is, and what is missing, a line each.
pub fn describe() -> Vec<String> {
    let mut lines = Vec::new();
    match require(Library::Driver) {
        Ok(()) => lines.extend(devices()),
        Err(missing) => lines.push(missing.to_string()),
    }
    for library in &LIBRARIES[1..] {
        match require(*library) {
            Ok(()) => lines.push(version(*library)),
            Err(missing) => lines.push(missing.to_string()),
        }
    }
    lines
}

fn version(library: Library) -> String {
    match library {
        Library::Nvrtc => {
            let (major, minor) = nvrtc_version();
            format!("NVRTC {major}.{minor}")
        }
        Library::Nccl => {
            let version = nccl_version().unwrap_or_default();
            format!("NCCL {}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
        }
        Library::Driver | Library::Cublas | Library::CublasLt => format!("{library:?} found"),
    }
}

/// The driver's version and its GPUs; the driver must be there.
fn devices() -> Vec<String> {
    let version = driver_version();
    let mut lines = vec![format!("driver for CUDA {}.{}", version / 1000, version % 1000 / 10)];
    let count = driver::result::init().and_then(|()| driver::result::device::get_count());
    match count {
        Ok(0) => lines.push(NO_GPU.to_owned()),
        Err(error) => lines.push(format!("{NO_GPU}: {:?}", error.0)),
        Ok(count) => {
            for ordinal in 0..count {
                lines.push(device(ordinal).unwrap_or_else(|error| format!("GPU {ordinal}: {:?}", error.0)));
            }
        }
    }
    lines
}

fn device(ordinal: i32) -> Result<String, driver::DriverError> {
    use driver::sys::CUdevice_attribute as Attribute;
    let device = driver::result::device::get(ordinal)?;
    let name = driver::result::device::get_name(device)?;
    // SAFETY: the device is one that the driver gave.
    let (major, minor, bytes) = unsafe {
        (
            driver::result::device::get_attribute(
                device,
                Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            )?,
            driver::result::device::get_attribute(
                device,
                Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )?,
            driver::result::device::total_mem(device)?,
        )
    };
    Ok(format!("GPU {ordinal}: {name}, compute capability {major}.{minor}, {} MiB", bytes >> 20))
}
