//! Device memory: its size, bounds, poison, and who may touch it.
#![expect(unsafe_code, reason = "launches kernels")]

use std::os::unix::process::ExitStatusExt as _;

use cudarc::driver::{CudaContext, DevicePtr, LaunchConfig, PushKernelArg, sys};

use crate::{load, on_double, passes, passes_with, ramp, reports, run};

#[test]
fn out_of_bounds_is_found() {
    reports(
        "memory::out_of_bounds_is_found",
        "thread 4: 16 bytes past the start of allocation 0 (16 bytes)",
        || {
            let source = r#"extern "C" __global__ void k(const float *in, float *out) {
            out[threadIdx.x] = in[threadIdx.x];
        }"#;
            let (stream, kernel) = load(source);
            let input = stream.clone_htod(&ramp(4)).unwrap();
            let mut output = stream.alloc_zeros::<f32>(8).unwrap();
            let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (8, 1, 1), shared_mem_bytes: 0 };
            // SAFETY: out of bounds on purpose, which the double finds.
            unsafe { stream.launch_builder(&kernel).arg(&input).arg(&mut output).launch(config).unwrap() };
            assert!(stream.synchronize().is_err());
        },
    );
}

#[test]
fn unwritten_memory_is_nan() {
    passes("memory::unwritten_memory_is_nan", || {
        let source = r#"extern "C" __global__ void k(const float *in, float *out) { out[0] = in[0]; }"#;
        let got = run(source, &[1.0], 2, 0).unwrap();
        assert!(got[0] == 1.0 && got[1].is_nan(), "{got:?}");
    });
}

#[test]
fn use_after_free_is_found() {
    reports("memory::use_after_free_is_found", "thread 0: use after free of allocation 0 (16 bytes)", || {
        let source = r#"extern "C" __global__ void k(float **at, float *out) { out[0] = at[0][0]; }"#;
        let (stream, kernel) = load(source);
        let freed = stream.clone_htod(&ramp(4)).unwrap();
        let address = freed.device_ptr(&stream).0;
        let held = stream.clone_htod(&[address]).unwrap();
        drop(freed);
        let mut out = stream.alloc_zeros::<f32>(4).unwrap();
        let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: after free on purpose, which the double finds.
        unsafe { stream.launch_builder(&kernel).arg(&held).arg(&mut out).launch(config).unwrap() };
        assert!(stream.synchronize().is_err());
    });
}

#[test]
fn host_access_is_a_fault_with_a_name() {
    let name = "memory::host_access_is_a_fault_with_a_name";
    let body = || {
        let stream = CudaContext::new(0).unwrap().default_stream();
        let data = stream.clone_htod(&ramp(4)).unwrap();
        stream.synchronize().unwrap();
        // SAFETY: the device's memory is closed to the host, which is what is tested.
        let value = unsafe { (data.device_ptr(&stream).0 as *const f32).read_volatile() };
        panic!("the host read {value}");
    };
    let Some(output) = on_double(name, "forward", body) else { return };
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(11), "{told}");
    assert!(told.contains("the host accessed memory that is not its own"), "{told}");
}

#[test]
fn the_device_is_as_large_as_it_is_told() {
    let bytes = [("CHARIOT_DOUBLE_MEMORY", "100000"), ("CHARIOT_DOUBLE_TAKEN", "20000")];
    passes_with("memory::the_device_is_as_large_as_it_is_told", &bytes, || {
        let context = CudaContext::new(0).unwrap();
        assert_eq!(context.mem_get_info().unwrap(), (80_000, 100_000));
        let stream = context.default_stream();
        let held = stream.alloc_zeros::<u8>(50_000).unwrap();
        let error = stream.alloc_zeros::<u8>(40_000).unwrap_err();
        assert_eq!(error.0, sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        drop(held);
        stream.alloc_zeros::<u8>(40_000).unwrap();
    });
}

#[test]
fn a_machine_without_devices() {
    passes_with("memory::a_machine_without_devices", &[("CHARIOT_DOUBLE_DEVICES", "0")], || {
        let error = CudaContext::new(0).unwrap_err();
        assert_eq!(error.0, sys::CUresult::CUDA_ERROR_NO_DEVICE);
    });
}

#[test]
fn a_wrong_kernel_on_purpose() {
    passes_with("memory::a_wrong_kernel_on_purpose", &[("CHARIOT_DOUBLE_WRONG", "k")], || {
        let source = r#"extern "C" __global__ void k(const float *in, float *out) {
            out[threadIdx.x] = in[threadIdx.x];
        }"#;
        assert_eq!(run(source, &ramp(3), 3, 0).unwrap(), [1.0, 1.0, 2.0]);
    });
}

#[test]
fn a_fault_of_the_host_beside_a_kernel_is_the_hosts() {
    let name = "memory::a_fault_of_the_host_beside_a_kernel_is_the_hosts";
    let body = || {
        let source = r#"extern "C" __global__ void k(float *out) {
            for (volatile long i = 0; i < 4000000000L; i++) {}
            out[0] = 1.0f;
        }"#;
        let (stream, kernel) = load(source);
        let mut out = stream.alloc_zeros::<f32>(1).unwrap();
        let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: within bounds.
        unsafe { stream.launch_builder(&kernel).arg(&mut out).launch(config).unwrap() };
        let done = stream.record_event(None).unwrap();
        assert!(!done.is_complete(), "the kernel starts in a thread of its own");
        std::thread::sleep(std::time::Duration::from_millis(200));
        // SAFETY: none: the fault is what is tested.
        let value = unsafe { std::ptr::without_provenance::<f32>(64).read_volatile() };
        panic!("the host read {value}");
    };
    let Some(output) = on_double(name, "forward", body) else { return };
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(11), "{told}");
    assert!(told.contains("the host accessed memory that is not its own"), "{told}");
    assert!(!told.contains("kernel k"), "{told}");
}
