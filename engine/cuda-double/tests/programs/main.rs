//! Programs over cudarc on the double: each test runs itself again with the double first in LD_LIBRARY_PATH.
#![expect(unsafe_code, reason = "launches kernels")]
#![allow(clippy::unwrap_used, reason = "a test may; clippy knows only functions marked as tests")]

mod blas;
mod blocks;
mod compiler;
mod graphs;
mod kernels;
mod memory;
mod nccl;
mod ranks;
mod streams;
mod stuck;

use std::ffi::CString;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use chariot_cuda_double::{library, links};
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, DriverError, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::{Ptx, result, sys};
use tempfile::TempDir;

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
    let (_folder, mut command) = command(name, order, variables);
    ended(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

/// What a test wrote. One that does not end within a minute is killed, and then has failed.
fn ended(mut child: Child) -> Output {
    for _ in 0..6000 {
        if child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // It may have ended already.
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("running 1 test"), "expected a test of that name: {told}");
    output
}

/// The command that runs a test on the double, and the folder of the libraries.
fn command(name: &str, order: &str, variables: &[(&str, String)]) -> (TempDir, Command) {
    let folder = tempfile::tempdir().unwrap();
    links(&library().unwrap(), folder.path()).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).env("CHARIOT_DOUBLE_CHILD", "1");
    command.env("LD_LIBRARY_PATH", folder.path()).env("CHARIOT_DOUBLE_ORDER", order);
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    (folder, command)
}

/// As `passes` with further variables, in one order.
fn passes_with(name: &str, variables: &[(&str, &str)], body: fn()) {
    if std::env::var_os("CHARIOT_DOUBLE_CHILD").is_some() {
        return body();
    }
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    let output = child(name, "forward", &variables);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
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
