//! The driver's allocations, copies and fills. Pinned memory is read and written when its stream gets there.
#![expect(unsafe_code, reason = "a C interface that copies raw memory")]

use std::ffi::c_uint;

use crate::context::{Ptr, key};
use crate::cuda::code;
use crate::memory::{memory, opened};
use crate::pinned::{self, Pinned};
use crate::status::{ILLEGAL_ADDRESS, INVALID_VALUE, OUT_OF_MEMORY, failed, put, trace};
use crate::stream::{self, Op};

#[unsafe(no_mangle)]
extern "C" fn cuMemAlloc_v2(out: *mut usize, bytes: usize) -> u32 {
    trace("allocate");
    if let Err(error) = stream::refuse_beside_captures() {
        return error;
    }
    let mut memory = memory();
    if bytes == 0 {
        return INVALID_VALUE;
    }
    if bytes > memory.free_bytes() {
        return OUT_OF_MEMORY;
    }
    memory.allocate(bytes).map_or(OUT_OF_MEMORY, |start| put(out, start))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(start: usize) -> u32 {
    if start == 0 {
        return 0;
    }
    // It waits for everything, as the real one does.
    let error = stream::refuse_beside_captures().map(|()| stream::run_all());
    code(error.and_then(|error| if memory().free(start) { Ok(error) } else { Err(INVALID_VALUE) }))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostAlloc(out: *mut usize, bytes: usize, _flags: c_uint) -> u32 {
    trace("allocate pinned");
    if let Err(error) = stream::refuse_beside_captures() {
        return error;
    }
    if bytes == 0 {
        return INVALID_VALUE;
    }
    pinned::allocate(bytes).map_or(OUT_OF_MEMORY, |start| put(out, start))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAllocHost_v2(out: *mut usize, bytes: usize) -> u32 {
    cuMemHostAlloc(out, bytes, 0)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeHost(start: usize) -> u32 {
    let refused = stream::refuse_beside_captures();
    code(refused.and_then(|()| if pinned::free(start) { Ok(0) } else { Err(INVALID_VALUE) }))
}

/// Errors if a range of the device is not within one live allocation.
pub(crate) fn check(what: &str, ranges: &[usize], bytes: usize) -> Result<(), u32> {
    for at in ranges {
        if bytes > 0 && !memory().holds(*at, bytes) {
            let end = memory().describe_range(*at, bytes);
            return Err(failed(&format!("{what} of {bytes} bytes: {end}"), ILLEGAL_ADDRESS));
        }
    }
    Ok(())
}

/// Copies when the stream gets there; device ranges are checked.
fn copy(what: &str, to: usize, from: usize, bytes: usize, device: &[usize]) -> Result<(), u32> {
    check(what, device, bytes)?;
    // SAFETY: device ranges were checked; host ranges are valid by the C contract.
    opened(|| unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) });
    Ok(())
}

fn pinned_range(what: &str, at: usize, bytes: usize) -> Result<(), u32> {
    match pinned::find(at, bytes) {
        Pinned::Live => Ok(()),
        _ => Err(failed(
            &format!("{what}: its pinned memory was freed before the stream got there"),
            ILLEGAL_ADDRESS,
        )),
    }
}

/// Pinned memory is read when the stream gets there; pageable memory at the call, as the real driver stages it.
#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoDAsync_v2(to: usize, from: usize, bytes: usize, stream: Ptr) -> u32 {
    const WHAT: &str = "copy to the device";
    let stream = key(stream);
    match pinned::find(from, bytes) {
        Pinned::Live => stream::push(
            stream,
            Op::work(move || {
                pinned_range(WHAT, from, bytes)?;
                copy(WHAT, to, from, bytes, &[to])
            }),
        ),
        Pinned::Freed => INVALID_VALUE,
        Pinned::No => code(stream::refuse_in_capture(stream).map(|()| {
            // SAFETY: `bytes` readable bytes, by the C contract.
            let staged = unsafe { std::slice::from_raw_parts(from as *const u8, bytes) }.to_vec();
            let work = move || copy(WHAT, to, staged.as_ptr() as usize, bytes, &[to]);
            stream::push(stream, Op::work(work))
        })),
    }
}

/// Into pinned memory when the stream gets there; into pageable memory now, as the real driver waits.
#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoHAsync_v2(to: usize, from: usize, bytes: usize, stream: Ptr) -> u32 {
    const WHAT: &str = "copy from the device";
    let stream = key(stream);
    match pinned::find(to, bytes) {
        Pinned::Live => stream::push(
            stream,
            Op::work(move || {
                pinned_range(WHAT, to, bytes)?;
                copy(WHAT, to, from, bytes, &[from])
            }),
        ),
        Pinned::Freed => INVALID_VALUE,
        Pinned::No => code(stream::refuse_in_capture(stream).map(|()| {
            stream::push(stream, Op::work(move || copy(WHAT, to, from, bytes, &[from])));
            stream::run(stream)
        })),
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoDAsync_v2(to: usize, from: usize, bytes: usize, stream: Ptr) -> u32 {
    let work = move || copy("copy on the device", to, from, bytes, &[to, from]);
    stream::push(key(stream), Op::work(work))
}

fn fill(to: usize, value: &[u8], bytes: usize) -> Result<(), u32> {
    let filled: Vec<u8> = value.iter().copied().cycle().take(bytes).collect();
    copy("fill", to, filled.as_ptr() as usize, bytes, &[to])
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8Async(to: usize, value: u8, bytes: usize, stream: Ptr) -> u32 {
    stream::push(key(stream), Op::work(move || fill(to, &[value], bytes)))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD32Async(to: usize, value: u32, count: usize, stream: Ptr) -> u32 {
    stream::push(key(stream), Op::work(move || fill(to, &value.to_ne_bytes(), 4 * count)))
}

/// A call that waits: on the default stream, to its end.
fn now(call: impl FnOnce(Ptr) -> u32) -> u32 {
    code(stream::refuse_beside_captures().map(|()| {
        let stream = std::ptr::null_mut();
        let error = call(stream);
        error.max(stream::run(key(stream)))
    }))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoD_v2(to: usize, from: usize, bytes: usize) -> u32 {
    now(|stream| cuMemcpyHtoDAsync_v2(to, from, bytes, stream))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoH_v2(to: usize, from: usize, bytes: usize) -> u32 {
    now(|stream| cuMemcpyDtoHAsync_v2(to, from, bytes, stream))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoD_v2(to: usize, from: usize, bytes: usize) -> u32 {
    now(|stream| cuMemcpyDtoDAsync_v2(to, from, bytes, stream))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8_v2(to: usize, value: u8, bytes: usize) -> u32 {
    now(|stream| cuMemsetD8Async(to, value, bytes, stream))
}
