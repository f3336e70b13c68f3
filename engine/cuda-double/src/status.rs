//! Codes of the driver's errors, and the line on stderr that says more than a code. Knows no call.
#![expect(unsafe_code, reason = "writes to a C caller's variables")]

use std::ffi::CStr;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

pub(crate) const INVALID_VALUE: u32 = 1;
pub(crate) const OUT_OF_MEMORY: u32 = 2;
pub(crate) const NO_DEVICE: u32 = 100;
pub(crate) const INVALID_DEVICE: u32 = 101;
pub(crate) const INVALID_IMAGE: u32 = 200;
pub(crate) const INVALID_HANDLE: u32 = 400;
pub(crate) const NOT_FOUND: u32 = 500;
pub(crate) const NOT_READY: u32 = 600;
pub(crate) const ILLEGAL_ADDRESS: u32 = 700;
pub(crate) const LAUNCH_FAILED: u32 = 719;
pub(crate) const NOT_SUPPORTED: u32 = 801;
pub(crate) const CAPTURE_UNSUPPORTED: u32 = 900;
pub(crate) const CAPTURE_INVALIDATED: u32 = 901;
pub(crate) const CAPTURE_UNMATCHED: u32 = 903;
pub(crate) const CAPTURE_ISOLATION: u32 = 905;

/// CUDA's name of a code.
pub(crate) fn name(code: u32) -> &'static CStr {
    match code {
        0 => c"CUDA_SUCCESS",
        INVALID_VALUE => c"CUDA_ERROR_INVALID_VALUE",
        OUT_OF_MEMORY => c"CUDA_ERROR_OUT_OF_MEMORY",
        NO_DEVICE => c"CUDA_ERROR_NO_DEVICE",
        INVALID_DEVICE => c"CUDA_ERROR_INVALID_DEVICE",
        INVALID_IMAGE => c"CUDA_ERROR_INVALID_IMAGE",
        INVALID_HANDLE => c"CUDA_ERROR_INVALID_HANDLE",
        NOT_FOUND => c"CUDA_ERROR_NOT_FOUND",
        NOT_READY => c"CUDA_ERROR_NOT_READY",
        ILLEGAL_ADDRESS => c"CUDA_ERROR_ILLEGAL_ADDRESS",
        LAUNCH_FAILED => c"CUDA_ERROR_LAUNCH_FAILED",
        NOT_SUPPORTED => c"CUDA_ERROR_NOT_SUPPORTED",
        CAPTURE_UNSUPPORTED => c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
        CAPTURE_INVALIDATED => c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
        CAPTURE_UNMATCHED => c"CUDA_ERROR_STREAM_CAPTURE_UNMATCHED",
        CAPTURE_ISOLATION => c"CUDA_ERROR_STREAM_CAPTURE_ISOLATION",
        _ => c"an error of the CUDA double",
    }
}

/// Writes a result for the caller; without a place for it, the caller's mistake.
pub(crate) fn put<V>(at: *mut V, value: V) -> u32 {
    if at.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's C contract: a pointer to a writable value.
    unsafe { at.write(value) };
    0
}

/// Says why on stderr; gives `code`.
pub(crate) fn failed(why: &str, code: u32) -> u32 {
    // Nobody reads a closed stderr.
    let _ = writeln!(std::io::stderr(), "cuda-double: {why}");
    code
}

/// What CHARIOT_DOUBLE_WRONG names computes wrongly: `gemm`, `nccl` or a kernel.
pub(crate) fn is_wrong(what: &str) -> bool {
    std::env::var("CHARIOT_DOUBLE_WRONG").is_ok_and(|wrong| wrong == what)
}

/// Calls of an operation that complete as they should, before one that never does, or is slow.
const CALLS_BEFORE_STUCK: u32 = 9;

/// Whether this call never completes: CHARIOT_DOUBLE_STUCK names an operation, `nccl`, `queue` or a kernel, and after a colon the device where its
/// tenth call and all later ones are stuck.
pub(crate) fn is_stuck(what: &str, device: usize) -> bool {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let named = std::env::var("CHARIOT_DOUBLE_STUCK").is_ok_and(|stuck| stuck == format!("{what}:{device}"));
    let calls = if named { CALLS.fetch_add(1, Ordering::Relaxed) } else { 0 };
    if calls == CALLS_BEFORE_STUCK {
        failed(&format!("{what} on device {device} is stuck"), 0);
    }
    calls >= CALLS_BEFORE_STUCK
}

/// How much longer this call of a kernel takes than it has to: CHARIOT_DOUBLE_SLOW names the kernel, and after a colon the milliseconds of its
/// tenth call.
pub(crate) fn delay(kernel: &str) -> Option<Duration> {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let slow = std::env::var("CHARIOT_DOUBLE_SLOW").ok()?;
    let (named, ms) = slow.split_once(':')?;
    let is_it = named == kernel && CALLS.fetch_add(1, Ordering::Relaxed) == CALLS_BEFORE_STUCK;
    is_it.then(|| ms.parse().ok().map(Duration::from_millis)).flatten()
}

/// Notes what the program has asked for, in order: CHARIOT_DOUBLE_TRACE is a folder, in which each process writes a file of its number, a call a
/// line.
pub(crate) fn trace(call: &str) {
    static FILE: OnceLock<Option<Mutex<fs_err::File>>> = OnceLock::new();
    let open = || {
        let folder = std::env::var_os("CHARIOT_DOUBLE_TRACE")?;
        let path = Path::new(&folder).join(std::process::id().to_string());
        fs_err::File::create(path).ok().map(Mutex::new)
    };
    if let Some(file) = FILE.get_or_init(open) {
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        // A test then misses the line.
        let _ = writeln!(file, "{call}");
    }
}
