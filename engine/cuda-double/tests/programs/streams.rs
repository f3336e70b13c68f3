//! Streams, events and pinned memory.
#![expect(unsafe_code, reason = "calls the driver")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cudarc::driver::{CudaContext, CudaStream, DevicePtr, result, sys};

use crate::{passes, passes_with, ramp, reports};

#[test]
fn a_stream_that_does_not_wait_reads_stale_data() {
    passes("streams::a_stream_that_does_not_wait_reads_stale_data", || {
        let context = CudaContext::new(0).unwrap();
        let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        // SAFETY: one thread; the missing wait is what is tested.
        unsafe { context.disable_event_tracking() };
        let mut data = first.alloc_zeros::<f32>(4).unwrap();
        first.synchronize().unwrap();
        first.memcpy_htod(&ramp(4), &mut data).unwrap();
        assert_eq!(second.clone_dtoh(&data).unwrap(), [0.0; 4], "no wait: still the old data");
        second.join(&first).unwrap();
        assert_eq!(second.clone_dtoh(&data).unwrap(), ramp(4));
    });
}

/// Two streams that wait for nothing by themselves.
fn two() -> (Arc<CudaStream>, Arc<CudaStream>) {
    let context = CudaContext::new(0).unwrap();
    // SAFETY: tests wait where they have to.
    unsafe { context.disable_event_tracking() };
    (context.new_stream().unwrap(), context.new_stream().unwrap())
}

/// Until `is_done`, at most ten seconds.
pub(crate) fn wait_until(what: &str, mut is_done: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if is_done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{what} did not come within ten seconds");
}

#[test]
fn an_event_that_is_asked_for_comes() {
    passes("streams::an_event_that_is_asked_for_comes", || {
        let (first, second) = two();
        let mut data = first.alloc_zeros::<f32>(4).unwrap();
        let before = first.record_event(None).unwrap();
        first.memcpy_htod(&ramp(4), &mut data).unwrap();
        let after = first.record_event(None).unwrap();
        assert!(!after.is_complete(), "nothing has run yet");
        wait_until("the event", || after.is_complete());
        assert!(before.is_complete());
        assert_eq!(second.clone_dtoh(&data).unwrap(), ramp(4), "asking for the event was a wait");
    });
}

#[test]
fn time_passes_between_events() {
    passes("streams::time_passes_between_events", || {
        let (stream, _) = two();
        let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let before = stream.record_event(timed).unwrap();
        stream.synchronize().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let after = stream.record_event(timed).unwrap();
        stream.synchronize().unwrap();
        let elapsed = before.elapsed_ms(&after).unwrap();
        assert!((20.0..20_000.0).contains(&elapsed), "{elapsed} ms");
    });
}

/// Adds one to a counter.
unsafe extern "C" fn count(last: *mut std::ffi::c_void) {
    // SAFETY: the test passes a counter that lives as long as the process.
    let last = unsafe { &*last.cast::<AtomicU32>() };
    last.fetch_add(1, Ordering::SeqCst);
}

#[test]
fn host_functions_run_without_a_wait() {
    passes("streams::host_functions_run_without_a_wait", || {
        static CALLS: AtomicU32 = AtomicU32::new(0);
        let (stream, _) = two();
        for _ in 0..3 {
            let at = (&raw const CALLS).cast_mut().cast();
            // SAFETY: a live stream, and the counter that `count` expects.
            unsafe { result::stream::launch_host_function(stream.cu_stream(), count, at).unwrap() };
        }
        wait_until("the third call", || CALLS.load(Ordering::SeqCst) == 3);
    });
}

/// Pinned floats, and where they are.
fn pinned(count: usize) -> &'static mut [f32] {
    // SAFETY: zeroed bytes that nobody frees.
    unsafe {
        let at = result::malloc_host(4 * count, 0).unwrap().cast::<f32>();
        std::slice::from_raw_parts_mut(at, count)
    }
}

#[test]
fn pinned_memory_is_read_when_the_stream_gets_there() {
    passes("streams::pinned_memory_is_read_when_the_stream_gets_there", || {
        let (stream, _) = two();
        let data = stream.alloc_zeros::<f32>(2).unwrap();
        let (at, _) = data.device_ptr(&stream);
        let values = pinned(2);
        values.fill(1.0);
        // SAFETY: the range is live; that it changes too early is what is tested.
        unsafe { result::memcpy_htod_async(at, values, stream.cu_stream()).unwrap() };
        values.fill(2.0);
        assert_eq!(stream.clone_dtoh(&data).unwrap(), [2.0; 2], "overwritten too early");
        let back = pinned(2);
        // SAFETY: both ranges are live.
        unsafe { result::memcpy_dtoh_async(back, at, stream.cu_stream()).unwrap() };
        assert_eq!(*back, [0.0; 2], "the copy does not wait");
        stream.synchronize().unwrap();
        assert_eq!(*back, [2.0; 2]);
    });
}

#[test]
fn pinned_memory_freed_too_early_is_found() {
    reports(
        "streams::pinned_memory_freed_too_early_is_found",
        "was freed before the stream got there",
        || {
            let (stream, _) = two();
            let data = stream.alloc_zeros::<f32>(2).unwrap();
            let values = pinned(2);
            // SAFETY: freed too early on purpose, which the double finds; nothing reads the range after.
            unsafe {
                result::memcpy_htod_async(data.device_ptr(&stream).0, values, stream.cu_stream()).unwrap();
                result::free_host(values.as_mut_ptr().cast()).unwrap();
            }
            assert!(stream.synchronize().is_err());
        },
    );
}

#[test]
fn default_streams_of_devices_are_apart() {
    let devices = [("CHARIOT_DOUBLE_DEVICES", "2")];
    passes_with("streams::default_streams_of_devices_are_apart", &devices, || {
        assert_eq!(CudaContext::device_count().unwrap(), 2);
        let (first, second) = (CudaContext::new(0).unwrap(), CudaContext::new(1).unwrap());
        let mut data = first.default_stream().alloc_zeros::<f32>(2).unwrap();
        first.default_stream().synchronize().unwrap();
        first.default_stream().memcpy_htod(&[1.0; 2], &mut data).unwrap();
        let mut found = [9f32; 2];
        second.bind_to_thread().unwrap();
        let (at, _) = data.device_ptr(&second.default_stream());
        // SAFETY: a live range; the other device's stream does not wait, which is what is tested.
        unsafe { result::memcpy_dtoh_async(&mut found, at, std::ptr::null_mut()).unwrap() };
        assert_eq!(found, [0.0; 2]);
    });
}
