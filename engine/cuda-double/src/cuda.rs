//! The driver's C interface. Errors are CUDA's codes; everything on a stream is queued.
#![expect(unsafe_code, reason = "a C interface")]

use std::ffi::{CStr, c_char, c_int, c_void};

use crate::fiber::{THREADS_MAX, handle_faults};
use crate::memory::{memory, opened};
use crate::module::{self, Kernel};
use crate::stream::{Op, streams};

const INVALID_VALUE: u32 = 1;
const OUT_OF_MEMORY: u32 = 2;
const NO_DEVICE: u32 = 100;
const INVALID_DEVICE: u32 = 101;
const INVALID_IMAGE: u32 = 200;
const NOT_FOUND: u32 = 500;
const MEMORY_BYTES: usize = 1 << 30;

type Ptr = *mut c_void;

fn put<V>(at: *mut V, value: V) -> u32 {
    if at.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's C contract: a pointer to a writable value.
    unsafe { at.write(value) };
    0
}

fn devices() -> c_int {
    std::env::var("CHARIOT_DOUBLE_DEVICES").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
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
    let name = b"Chariot CUDA double\0";
    if (room as usize) < name.len() {
        return INVALID_VALUE;
    }
    // SAFETY: there is room, checked above.
    unsafe { std::ptr::copy_nonoverlapping(name.as_ptr(), out.cast(), name.len()) };
    0
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceTotalMem_v2(out: *mut usize, _device: c_int) -> u32 {
    put(out, MEMORY_BYTES)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> u32 {
    put(free, MEMORY_BYTES.saturating_sub(memory().used())) | put(total, MEMORY_BYTES)
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRetain(out: *mut Ptr, device: c_int) -> u32 {
    put(out, (device as usize + 1) as Ptr)
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease_v2(_device: c_int) -> u32 {
    0
}

std::thread_local! {
    static CONTEXT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCurrent(context: Ptr) -> u32 {
    CONTEXT.set(context as usize);
    0
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetCurrent(out: *mut Ptr) -> u32 {
    put(out, CONTEXT.get() as Ptr)
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSynchronize() -> u32 {
    streams().run_all()
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorName(_code: u32, out: *mut *const c_char) -> u32 {
    put(out, c"an error of the CUDA double".as_ptr())
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorString(code: u32, out: *mut *const c_char) -> u32 {
    cuGetErrorName(code, out)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAlloc_v2(out: *mut usize, bytes: usize) -> u32 {
    let mut memory = memory();
    if bytes == 0 {
        return INVALID_VALUE;
    }
    if memory.used() + bytes > MEMORY_BYTES {
        return OUT_OF_MEMORY;
    }
    memory.allocate(bytes).map_or(OUT_OF_MEMORY, |start| put(out, start))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(start: usize) -> u32 {
    // As the real one does.
    let error = streams().run_all();
    if memory().free(start) { error } else { INVALID_VALUE }
}

/// Copies when the stream gets there; device ranges are checked.
fn copy(to: usize, from: usize, bytes: usize, device: &[usize]) -> Result<(), u32> {
    if device.iter().any(|at| !memory().holds(*at, bytes)) {
        return Err(INVALID_VALUE);
    }
    // SAFETY: device ranges were checked; host ranges are valid by the C contract.
    opened(|| unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) });
    Ok(())
}

/// Pageable memory: taken at the call, as the real driver stages it.
#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoDAsync_v2(to: usize, from: *const u8, bytes: usize, stream: Ptr) -> u32 {
    // SAFETY: `bytes` readable bytes, by the C contract.
    let staged = unsafe { std::slice::from_raw_parts(from, bytes) }.to_vec();
    streams()
        .push(stream as usize, Op::Work(Box::new(move || copy(to, staged.as_ptr() as usize, bytes, &[to]))))
}

/// Pageable memory: waits for the stream, as the real driver does.
#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoHAsync_v2(to: usize, from: usize, bytes: usize, stream: Ptr) -> u32 {
    let mut streams = streams();
    streams.push(stream as usize, Op::Work(Box::new(move || copy(to, from, bytes, &[from]))));
    streams.run(stream as usize)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoDAsync_v2(to: usize, from: usize, bytes: usize, stream: Ptr) -> u32 {
    streams().push(stream as usize, Op::Work(Box::new(move || copy(to, from, bytes, &[to, from]))))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8Async(to: usize, value: u8, bytes: usize, stream: Ptr) -> u32 {
    let work = move || {
        let filled = vec![value; bytes];
        copy(to, filled.as_ptr() as usize, bytes, &[to])
    };
    streams().push(stream as usize, Op::Work(Box::new(work)))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreate(out: *mut Ptr, _flags: u32) -> u32 {
    put(out, Box::into_raw(Box::new(0u64)).cast())
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy_v2(stream: Ptr) -> u32 {
    streams().run(stream as usize)
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamSynchronize(stream: Ptr) -> u32 {
    streams().run(stream as usize)
}

/// A stream and how much of it came before.
type Event = (usize, u64);

#[unsafe(no_mangle)]
extern "C" fn cuEventCreate(out: *mut Ptr, _flags: u32) -> u32 {
    put(out, Box::into_raw(Box::new(Event::default())).cast())
}

#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(event: Ptr) -> u32 {
    // SAFETY: made by cuEventCreate, destroyed once, by the C contract.
    drop(unsafe { Box::from_raw(event.cast::<Event>()) });
    0
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(event: Ptr, stream: Ptr) -> u32 {
    let end = streams().end(stream as usize);
    put(event.cast::<Event>(), (stream as usize, end))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(event: Ptr) -> u32 {
    // SAFETY: a live event, by the C contract.
    let (stream, end) = unsafe { *event.cast::<Event>() };
    streams().run_until(stream, end)
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamWaitEvent(stream: Ptr, event: Ptr, _flags: u32) -> u32 {
    // SAFETY: a live event, by the C contract.
    let (other, end) = unsafe { *event.cast::<Event>() };
    streams().push(stream as usize, Op::Wait(other, end))
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleLoadData(out: *mut Ptr, image: *const c_void) -> u32 {
    let module = module::image_bytes(image).and_then(module::load);
    module.map_or(INVALID_IMAGE, |module| put(out, module as Ptr))
}

/// Objects stay: a kernel of one may still be queued.
#[unsafe(no_mangle)]
extern "C" fn cuModuleUnload(_module: Ptr) -> u32 {
    0
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleGetFunction(out: *mut Ptr, module: Ptr, name: *const c_char) -> u32 {
    // SAFETY: a C string, by the C contract.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    let kernel = module::kernel(module as usize, &name);
    kernel.map_or(NOT_FOUND, |kernel| put(out, Box::into_raw(Box::new(kernel)).cast()))
}

#[unsafe(no_mangle)]
extern "C" fn cuLaunchKernel(
    function: Ptr,
    gx: u32,
    gy: u32,
    gz: u32,
    bx: u32,
    by: u32,
    bz: u32,
    shared: u32,
    stream: Ptr,
    arguments: *mut *mut u8,
    _extra: *mut Ptr,
) -> u32 {
    let (grid, dim) = ([gx, gy, gz], [bx, by, bz]);
    let threads: u64 = dim.iter().map(|d| u64::from(*d)).product();
    if grid.contains(&0) || threads == 0 || threads > THREADS_MAX as u64 {
        return INVALID_VALUE;
    }
    // SAFETY: a function of cuModuleGetFunction, never freed.
    let kernel = unsafe { &*function.cast::<Kernel>() };
    let taken = kernel.sizes.iter().enumerate().map(|(i, bytes)| {
        let mut room = vec![0u128; bytes.div_ceil(16)];
        // SAFETY: one pointer an argument, each to as many bytes as the kernel takes, by the C contract.
        unsafe { std::ptr::copy_nonoverlapping(*arguments.add(i), room.as_mut_ptr().cast(), *bytes) };
        room
    });
    let mut taken: Vec<_> = taken.collect();
    let work = move || module::launch(kernel, grid, dim, shared as usize, &mut taken);
    streams().push(stream as usize, Op::Work(Box::new(work)))
}
