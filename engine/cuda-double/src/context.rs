//! The driver's devices and contexts: a device has one context, the primary one. Knows no stream's work.
#![expect(unsafe_code, reason = "a C interface")]

use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_void};

use crate::fiber::{THREADS_MAX, handle_faults};
use crate::memory::{memory, total_bytes};
use crate::status::{self, INVALID_DEVICE, INVALID_VALUE, NO_DEVICE, put};

/// An opaque handle.
pub(crate) type Ptr = *mut c_void;

/// A device's context is (device + 1) times this: the small numbers between are CUDA's names of default streams.
const CONTEXT: usize = 16;

std::thread_local! {
    /// This thread's contexts, the current one last.
    static CONTEXTS: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

fn current() -> usize {
    CONTEXTS.with_borrow(|contexts| contexts.last().copied().unwrap_or(0))
}

/// Device of the current context.
pub(crate) fn device() -> usize {
    (current() / CONTEXT).saturating_sub(1)
}

/// Makes the context of `device` this thread's.
pub(crate) fn select(device: usize) {
    CONTEXTS.with_borrow_mut(|contexts| {
        contexts.pop();
        contexts.push((device + 1) * CONTEXT);
    });
}

/// A stream's name in the queues; each context has a default stream of its own.
pub(crate) fn key(stream: Ptr) -> usize {
    if (stream as usize) < CONTEXT { current() + stream as usize } else { stream as usize }
}

fn devices() -> c_int {
    cards().len() as c_int
}

/// The card behind each device: all, or those that CUDA_VISIBLE_DEVICES lists, up to the first that is none.
fn cards() -> Vec<u32> {
    let count = std::env::var("CHARIOT_DOUBLE_DEVICES").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let Ok(visible) = std::env::var("CUDA_VISIBLE_DEVICES") else { return (0..count).collect() };
    let card = |text: &str| text.trim().parse().ok().filter(|card| *card < count);
    visible.split(',').map_while(card).collect()
}

/// Of a device; devices that are none have their own number.
fn card(device: c_int) -> u32 {
    cards().get(device as usize).copied().unwrap_or(device as u32)
}

#[unsafe(no_mangle)]
extern "C" fn cuInit(_flags: u32) -> u32 {
    handle_faults();
    if devices() == 0 { NO_DEVICE } else { 0 }
}

#[unsafe(no_mangle)]
extern "C" fn cuDriverGetVersion(out: *mut c_int) -> u32 {
    put(out, 12080)
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetCount(out: *mut c_int) -> u32 {
    put(out, devices())
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGet(out: *mut c_int, ordinal: c_int) -> u32 {
    if (0..devices()).contains(&ordinal) { put(out, ordinal) } else { INVALID_DEVICE }
}

/// As an A100's; no memory pools, so that allocation is synchronous.
#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetAttribute(out: *mut c_int, attribute: c_int, _device: c_int) -> u32 {
    let value = match attribute {
        1..=3 => THREADS_MAX as c_int,
        4 => 64,
        5..=7 => c_int::from(u16::MAX),
        8 => 48 << 10,
        10 => 32,
        16 => 108,
        39 => 2048,
        75 => 8,
        97 => 163 << 10,
        _ => 0,
    };
    put(out, value)
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetName(out: *mut c_char, room: c_int, _device: c_int) -> u32 {
    text(out, room, "Chariot CUDA double")
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetPCIBusId(out: *mut c_char, room: c_int, device: c_int) -> u32 {
    text(out, room, &format!("0000:{:02x}:00.0", card(device)))
}

fn text(out: *mut c_char, room: c_int, text: &str) -> u32 {
    if out.is_null() || (room as usize) <= text.len() {
        return INVALID_VALUE;
    }
    // SAFETY: there is room for the text and its end, checked above.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), out.cast(), text.len());
        out.add(text.len()).write(0);
    }
    0
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetUuid(out: *mut [u8; 16], device: c_int) -> u32 {
    let mut uuid = *b"chariot double  ";
    uuid[15] = card(device) as u8;
    put(out, uuid)
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetUuid_v2(out: *mut [u8; 16], device: c_int) -> u32 {
    cuDeviceGetUuid(out, device)
}

/// No device reaches another's memory: they have only NCCL.
#[unsafe(no_mangle)]
extern "C" fn cuDeviceCanAccessPeer(out: *mut c_int, _device: c_int, _peer: c_int) -> u32 {
    put(out, 0)
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetP2PAttribute(out: *mut c_int, _attribute: c_int, _from: c_int, _to: c_int) -> u32 {
    put(out, 0)
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceTotalMem_v2(out: *mut usize, _device: c_int) -> u32 {
    put(out, total_bytes())
}

#[unsafe(no_mangle)]
extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> u32 {
    put(free, memory().free_bytes()) | put(total, total_bytes())
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRetain(out: *mut Ptr, device: c_int) -> u32 {
    put(out, ((device as usize + 1) * CONTEXT) as Ptr)
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease_v2(_device: c_int) -> u32 {
    0
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCurrent(context: Ptr) -> u32 {
    CONTEXTS.with_borrow_mut(|contexts| {
        contexts.pop();
        contexts.push(context as usize);
    });
    0
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetCurrent(out: *mut Ptr) -> u32 {
    put(out, current() as Ptr)
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxPushCurrent_v2(context: Ptr) -> u32 {
    CONTEXTS.with_borrow_mut(|contexts| contexts.push(context as usize));
    0
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxPopCurrent_v2(out: *mut Ptr) -> u32 {
    let popped = CONTEXTS.with_borrow_mut(Vec::pop).unwrap_or(0);
    put(out, popped as Ptr)
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetDevice(out: *mut c_int) -> u32 {
    put(out, device() as c_int)
}

/// How the host waits: it makes no difference here.
#[unsafe(no_mangle)]
extern "C" fn cuCtxSetFlags(_flags: u32) -> u32 {
    0
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorName(code: u32, out: *mut *const c_char) -> u32 {
    put(out, status::name(code).as_ptr())
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorString(code: u32, out: *mut *const c_char) -> u32 {
    cuGetErrorName(code, out)
}
