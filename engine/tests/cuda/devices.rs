//! `chariot-engine devices` runs with any part of CUDA absent, and says which.

use std::process::Command;

/// Standard output's lines, with `folder` searched first for libraries.
fn devices(folder: &str) -> Vec<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chariot-engine"));
    let output = command.arg("devices").env("LD_LIBRARY_PATH", folder).output().unwrap();
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
        ("NCCL ", "no NCCL: libnccl.so was not found"),
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
