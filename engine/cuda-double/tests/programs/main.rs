//! Programs over cudarc on the double: each test runs itself again with the double first in LD_LIBRARY_PATH.
#![expect(unsafe_code, reason = "launches kernels")]
#![allow(clippy::unwrap_used, reason = "a test may; clippy knows only functions marked as tests")]

mod kernels;

use std::ffi::CString;
use std::process::{Command, Output};
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction, CudaStream, DriverError, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::{Ptx, result, sys};

/// In the child runs `body`; in the parent gives the child's output.
fn on_double(name: &str, order: &str, body: fn()) -> Option<Output> {
    if std::env::var_os("CHARIOT_DOUBLE_CHILD").is_some() {
        body();
        return None;
    }
    Some(child(name, order, &[]))
}

/// One of these tests on the double, with further variables.
fn child(name: &str, order: &str, variables: &[(&str, String)]) -> Output {
    let test = std::env::current_exe().unwrap();
    let double = test.parent().unwrap().join("libchariot_cuda_double.so");
    let folder = tempfile::tempdir().unwrap();
    for library in ["libcuda.so.1", "libnvrtc.so.12"] {
        std::os::unix::fs::symlink(&double, folder.path().join(library)).unwrap();
    }
    let mut child = Command::new(&test);
    child.args(["--exact", name, "--nocapture"]).env("CHARIOT_DOUBLE_CHILD", "1");
    child.env("LD_LIBRARY_PATH", folder.path()).env("CHARIOT_DOUBLE_ORDER", order);
    child.envs(variables.iter().map(|(name, value)| (name, value)));
    let output = child.output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("running 1 test"), "expected a test called {name}: {told}");
    output
}

fn passes(name: &str, body: fn()) {
    for order in ["forward", "reverse", "random:7"] {
        let Some(output) = on_double(name, order, body) else { return };
        assert!(output.status.success(), "{order}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The child passes, and its stderr has `expected`.
fn reports(name: &str, expected: &str, body: fn()) {
    let Some(output) = on_double(name, "forward", body) else { return };
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains(expected), "{told}");
}

fn cubin(source: &str, options: &[String]) -> Result<Vec<u8>, String> {
    let program = result::create_program(&CString::new(source).unwrap(), None).unwrap();
    // SAFETY: a live program, and room as large as NVRTC says.
    unsafe {
        if result::compile_program(program, options).is_err() {
            let log = result::get_program_log(program).unwrap();
            return Err(std::ffi::CStr::from_ptr(log.as_ptr()).to_string_lossy().into_owned());
        }
        let mut bytes = 0;
        sys::nvrtcGetCUBINSize(program, &raw mut bytes).result().unwrap();
        let mut image = vec![0u8; bytes];
        sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast()).result().unwrap();
        Ok(image)
    }
}

fn load(source: &str) -> (Arc<CudaStream>, CudaFunction) {
    let context = CudaContext::new(0).unwrap();
    let module = context.load_module(Ptx::from_binary(cubin(source, &[]).unwrap())).unwrap();
    (context.default_stream(), module.load_function("k").unwrap())
}

/// `k(const float *in, float *out)` in one block of `input.len()` threads.
fn run(source: &str, input: &[f32], out: usize, shared: u32) -> Result<Vec<f32>, DriverError> {
    let (stream, kernel) = load(source);
    let input_there = stream.clone_htod(input)?;
    // SAFETY: poisoned, which is what some tests look for.
    let mut output = unsafe { stream.alloc::<f32>(out)? };
    let config =
        LaunchConfig { grid_dim: (1, 1, 1), block_dim: (input.len() as u32, 1, 1), shared_mem_bytes: shared };
    // SAFETY: the double finds what is out of bounds.
    unsafe { stream.launch_builder(&kernel).arg(&input_there).arg(&mut output).launch(config)? };
    stream.clone_dtoh(&output)
}

fn ramp(count: usize) -> Vec<f32> {
    (0..count).map(|i| i as f32).collect()
}

const REVERSE: &str = r#"extern "C" __global__ void __launch_bounds__(64) k(const float *in, float *out) {
    extern __shared__ float room[];
    __shared__ float twice[64];
    room[threadIdx.x] = in[threadIdx.x];
    twice[threadIdx.x] = 2.0f * in[threadIdx.x];
    __syncthreads();
    int other = blockDim.x - 1 - threadIdx.x;
    out[threadIdx.x] = room[other] + twice[other];
}"#;

#[test]
fn shared_memory_and_barrier() {
    passes("shared_memory_and_barrier", || {
        let expected: Vec<f32> = (0..64).rev().map(|i| 3.0 * i as f32).collect();
        assert_eq!(run(REVERSE, &ramp(64), 64, 256).unwrap(), expected);
    });
}

#[test]
fn missing_barrier_shows() {
    reports("missing_barrier_shows", "", || {
        let wrong = run(&REVERSE.replace("__syncthreads();", ""), &ramp(64), 64, 256).unwrap();
        assert!(wrong[0].is_nan(), "thread 0 reads what thread 63 has not yet written: {wrong:?}");
    });
}

#[test]
fn shuffles() {
    passes("shuffles", || {
        let source = r#"extern "C" __global__ void k(const float *in, float *out) {
            float x = in[threadIdx.x], y = x;
            for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
            float down = __shfl_down_sync(0xffffffffu, y, 1);
            unsigned odd = __ballot_sync(0xffffffffu, threadIdx.x & 1);
            out[threadIdx.x] = odd == 0xaaaaaaaau ? 1000.0f * x + down : -1.0f;
        }"#;
        let got = run(source, &ramp(64), 64, 0).unwrap();
        let expected = |i: usize| {
            let (sum, down) = (if i < 32 { 496.0 } else { 1520.0 }, if i % 32 == 31 { i } else { i + 1 });
            1000.0 * sum + down as f32
        };
        assert_eq!(got, (0..64).map(expected).collect::<Vec<f32>>());
    });
}

#[test]
fn atomics() {
    passes("atomics", || {
        let source = r#"extern "C" __global__ void k(const float *in, float *out) {
            if (threadIdx.x == 0) out[0] = 0.0f;
            __syncthreads();
            atomicAdd(out, in[threadIdx.x]);
        }"#;
        assert_eq!(run(source, &ramp(100), 1, 0).unwrap(), [4950.0]);
    });
}

#[test]
fn divergent_barrier_is_found() {
    reports("divergent_barrier_is_found", "kernel k, block [0, 0, 0]: divergent barrier: thread 0", || {
        let source = r#"extern "C" __global__ void k(const float *in, float *out) {
            if (threadIdx.x < 3) __syncthreads();
            out[threadIdx.x] = in[threadIdx.x];
        }"#;
        assert!(run(source, &ramp(8), 8, 0).is_err());
    });
}

#[test]
fn out_of_bounds_is_found() {
    reports("out_of_bounds_is_found", "thread 4: 16 bytes past the start of allocation 0 (16 bytes)", || {
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
    });
}

#[test]
fn unwritten_memory_is_nan() {
    passes("unwritten_memory_is_nan", || {
        let source = r#"extern "C" __global__ void k(const float *in, float *out) { out[0] = in[0]; }"#;
        let got = run(source, &[1.0], 2, 0).unwrap();
        assert!(got[0] == 1.0 && got[1].is_nan(), "{got:?}");
    });
}

#[test]
fn a_stream_that_does_not_wait_reads_stale_data() {
    passes("a_stream_that_does_not_wait_reads_stale_data", || {
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

#[test]
fn errors_of_the_compiler_are_told() {
    passes("errors_of_the_compiler_are_told", || {
        let log = cubin(r#"extern "C" __global__ void k() { nothing_like_it(); }"#, &[]).unwrap_err();
        assert!(log.contains("kernel.cu:1") && log.contains("nothing_like_it"), "{log}");
    });
}
