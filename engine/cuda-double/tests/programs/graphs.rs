//! Captures and replays.
#![expect(unsafe_code, reason = "launches kernels")]

use std::sync::Arc;

use cudarc::driver::sys::CUresult;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode, CUstreamCaptureStatus};
use cudarc::driver::{CudaContext, CudaStream, LaunchConfig, PushKernelArg};

use crate::{load, passes, ramp};

const LOCAL: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
const GLOBAL: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
const FLAGS: CUgraphInstantiate_flags = CUgraphInstantiate_flags(0);

fn stream() -> Arc<CudaStream> {
    let context = CudaContext::new(0).unwrap();
    // SAFETY: tests wait where they have to.
    unsafe { context.disable_event_tracking() };
    context.new_stream().unwrap()
}

#[test]
fn a_replay_has_the_values_of_the_capture() {
    passes("graphs::a_replay_has_the_values_of_the_capture", || {
        let source = r#"extern "C" __global__ void k(float *x, float add) { x[threadIdx.x] += add; }"#;
        let (_, kernel) = load(source);
        let stream = stream();
        let mut data = stream.clone_htod(&ramp(4)).unwrap();
        let mut copy = stream.alloc_zeros::<f32>(4).unwrap();
        stream.synchronize().unwrap();
        stream.begin_capture(LOCAL).unwrap();
        let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (4, 1, 1), shared_mem_bytes: 0 };
        let mut add = 10f32;
        // SAFETY: within bounds.
        unsafe { stream.launch_builder(&kernel).arg(&mut data).arg(&add).launch(config).unwrap() };
        stream.memcpy_dtod(&data, &mut copy).unwrap();
        stream.memset_zeros(&mut data).unwrap();
        let status = stream.capture_status().unwrap();
        assert_eq!(status, CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE);
        let graph = stream.end_capture(FLAGS).unwrap().unwrap();
        add = 20.0;
        assert_eq!(stream.clone_dtoh(&data).unwrap(), ramp(4), "a capture runs nothing, add is {add}");
        graph.upload().unwrap();
        graph.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&copy).unwrap(), [10.0, 11.0, 12.0, 13.0]);
        graph.launch().unwrap();
        graph.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&copy).unwrap(), [10.0; 4]);
        assert_eq!(stream.clone_dtoh(&data).unwrap(), [0.0; 4]);
    });
}

/// `call` is refused in a capture, and the capture is then invalid.
fn breaks(mode: CUstreamCaptureMode, call: impl FnOnce(&Arc<CudaStream>) -> CUresult) {
    let stream = stream();
    stream.begin_capture(mode).unwrap();
    assert_eq!(call(&stream), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    let status = stream.capture_status().unwrap();
    assert_eq!(status, CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_INVALIDATED);
    let Err(error) = stream.end_capture(FLAGS) else { panic!("the capture is invalid") };
    assert_eq!(error.0, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    stream.synchronize().unwrap();
}

#[test]
fn a_capture_refuses_what_waits() {
    passes("graphs::a_capture_refuses_what_waits", || {
        breaks(LOCAL, |stream| stream.synchronize().unwrap_err().0);
        breaks(LOCAL, |stream| stream.context().synchronize().unwrap_err().0);
        breaks(LOCAL, |stream| stream.alloc_zeros::<f32>(4).unwrap_err().0);
        let data = stream().alloc_zeros::<f32>(4).unwrap();
        breaks(LOCAL, |stream| stream.clone_dtoh(&data).unwrap_err().0);
        let mut data = data;
        breaks(LOCAL, |stream| stream.memcpy_htod(&[1.0; 4], &mut data).unwrap_err().0);
    });
}

#[test]
fn a_global_capture_refuses_other_threads() {
    passes("graphs::a_global_capture_refuses_other_threads", || {
        let elsewhere = |stream: &Arc<CudaStream>| {
            let context = stream.context().clone();
            std::thread::spawn(move || context.new_stream().unwrap().alloc_zeros::<u8>(4).err())
                .join()
                .unwrap()
        };
        breaks(GLOBAL, |stream| elsewhere(stream).unwrap().0);
        let stream = stream();
        stream.begin_capture(LOCAL).unwrap();
        assert_eq!(elsewhere(&stream), None);
        assert!(stream.end_capture(FLAGS).unwrap().is_some());
    });
}

#[test]
fn a_capture_does_not_wait_for_what_came_before_it() {
    passes("graphs::a_capture_does_not_wait_for_what_came_before_it", || {
        let (stream, other) = (stream(), stream());
        let before = other.record_event(None).unwrap();
        stream.begin_capture(LOCAL).unwrap();
        let error = stream.wait(&before).unwrap_err();
        assert_eq!(error.0, CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
        assert!(stream.end_capture(FLAGS).is_err());
    });
}
