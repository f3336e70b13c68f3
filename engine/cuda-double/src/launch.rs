//! The driver's modules and launches. Knows how arguments are passed, not how a kernel runs.
#![expect(unsafe_code, reason = "a C interface")]

use std::ffi::{CStr, c_char, c_int, c_void};

use crate::context::{Ptr, device, key};
use crate::fiber::THREADS_MAX;
use crate::module::{self, Kernel};
use crate::status::{INVALID_IMAGE, INVALID_VALUE, NOT_FOUND, put, trace};
use crate::stream::{self, Op};

/// Bytes of shared memory that a kernel has without asking, and at most.
const SHARED: u32 = 48 << 10;
const SHARED_MAX: c_int = 163 << 10;
const MAX_THREADS_ATTRIBUTE: u32 = 0;
const SHARED_ATTRIBUTE: u32 = 8;

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

fn kernel<'a>(function: Ptr) -> &'a Kernel {
    // SAFETY: a function of cuModuleGetFunction, never freed, by the C contract.
    unsafe { &*function.cast::<Kernel>() }
}

/// Takes the largest dynamic shared memory; other attributes change nothing here.
#[unsafe(no_mangle)]
extern "C" fn cuFuncSetAttribute(function: Ptr, attribute: u32, value: c_int) -> u32 {
    if attribute == SHARED_ATTRIBUTE {
        if !(0..=SHARED_MAX).contains(&value) {
            return INVALID_VALUE;
        }
        kernel(function).allow_shared(value as u32);
    }
    0
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncGetAttribute(out: *mut c_int, attribute: u32, function: Ptr) -> u32 {
    let value = match attribute {
        MAX_THREADS_ATTRIBUTE => THREADS_MAX as c_int,
        SHARED_ATTRIBUTE => kernel(function).shared_allowed().max(SHARED) as c_int,
        _ => 0,
    };
    put(out, value)
}

/// One: nothing here measures occupancy.
#[unsafe(no_mangle)]
extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    out: *mut c_int,
    _function: Ptr,
    _block: c_int,
    _shared: usize,
) -> u32 {
    put(out, 1)
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
    let kernel = kernel(function);
    let is_shared_allowed = shared <= kernel.shared_allowed().max(SHARED);
    let is_grid_allowed = !grid.contains(&0) && gy <= 65535 && gz <= 65535;
    if !is_grid_allowed || threads == 0 || threads > THREADS_MAX as u64 || !is_shared_allowed {
        return INVALID_VALUE;
    }
    let taken = kernel.sizes.iter().enumerate().map(|(i, bytes)| {
        let mut room = vec![0u128; bytes.div_ceil(16)];
        // SAFETY: one pointer an argument, each to as many bytes as the kernel takes, by the C contract.
        unsafe { std::ptr::copy_nonoverlapping(*arguments.add(i), room.as_mut_ptr().cast(), *bytes) };
        room
    });
    let taken: Vec<_> = taken.collect();
    trace(&kernel.name);
    let device = device();
    let work = move || module::launch(kernel, device, grid, dim, shared as usize, &mut taken.clone());
    stream::push(key(stream), Op::work(work))
}
