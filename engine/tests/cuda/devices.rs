//! `chariot-engine devices` runs with any part of CUDA absent, and says which.

use std::process::Command;

use crate::double::Double;

/// Standard output's lines, with `folder` searched first for libraries.
fn devices(folder: &str) -> Vec<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chariot-engine"));
    let output = command
        .arg("devices")
        .env("LD_LIBRARY_PATH", folder)
        .env_remove("VIRTUAL_ENV")
        .env_remove("CONDA_PREFIX")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn every_library_is_listed_or_missed() {
    let lines = devices("");
    for (found, missing) in [
        ("driver for CUDA ", "no NVIDIA driver: libcuda.so was not found"),
        ("NVRTC ", "no NVRTC: libnvrtc.so.12 was not found"),
        ("Cublas found", "no cuBLAS: libcublas.so.12 was not found"),
        ("CublasLt found", "no cuBLASLt: libcublasLt.so.12 was not found"),
        ("NCCL ", "no NCCL: libnccl.so.2 was not found"),
    ] {
        let count = lines.iter().filter(|line| line.starts_with(found) || line.starts_with(missing)).count();
        assert_eq!(count, 1, "expected one line {found:?} or {missing:?}, found {lines:#?}");
    }
}

#[test]
fn a_library_that_is_there_is_named_with_its_version() {
    let Some(folder) = crate::nvrtc_folder() else { return };
    let lines = devices(&folder);
    assert!(lines.contains(&"NVRTC 12.9".to_owned()), "{lines:#?}");
}

#[test]
fn the_wheels_of_an_active_environment_are_found() {
    let Some(folder) = crate::nvrtc_folder() else { return };
    let environment = folder.split("/lib/python3").next().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_chariot-engine"));
    let output =
        command.arg("devices").env("LD_LIBRARY_PATH", "").env("VIRTUAL_ENV", environment).output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    assert!(lines.contains("NVRTC 12.9\n"), "{lines}");
}

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/golden/falcon-new");

/// `generate` on a machine like `double`: its exit code and what it says on stderr.
fn generate(double: &Double, more: &[&str]) -> (Option<i32>, String) {
    let arguments =
        [&["generate", "--model", MODEL, "--prompt-ids", "1,2,3", "--max-tokens", "2"], more].concat();
    let output = double.run(&arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!said.contains("panicked"), "{said}");
    (output.status.code(), said)
}

/// Left to itself the engine computes on the CPU, with a sentence why; asked for CUDA it ends with the same sentence and code 2.
fn check_missing(double: &Double, more: &[&str], sentence: &str) {
    let (code, said) = generate(double, more);
    assert_eq!((code, &said), (Some(0), &format!("computing on the CPU: {sentence}\n")));
    let (code, said) = generate(double, &[more, &["--backend", "cuda"]].concat());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains(&format!("--backend cuda: {sentence}")), "expected {sentence:?} in: {said}");
}

#[test]
fn what_keeps_a_machine_from_computing_on_gpus_is_said_in_a_sentence() {
    let no_driver = "no NVIDIA driver: libcuda.so was not found, so no GPU can be used; install the driver";
    check_missing(&Double::new().without("libcuda"), &[], no_driver);
    let no_gpu = "the driver is there, but it sees no GPU: CUDA_ERROR_NO_DEVICE";
    check_missing(&Double::new().with("CHARIOT_DOUBLE_DEVICES", "0"), &[], no_gpu);
    let no_nccl = "no NCCL: libnccl.so.2 was not found, so GPUs cannot exchange values; install NCCL or put its folder into LD_LIBRARY_PATH";
    check_missing(&Double::new().without("libnccl"), &["--tp", "2"], no_nccl);
    let few = "expected a GPU for each of 2 ranks, found 1";
    check_missing(&Double::new().with("CHARIOT_DOUBLE_DEVICES", "1"), &["--tp", "2"], few);
}

#[test]
fn one_gpu_needs_no_nccl_and_is_taken_without_being_asked_for() {
    let (code, said) = generate(&Double::new().without("libnccl"), &[]);
    assert_eq!((code, said.as_str()), (Some(0), ""));
}
