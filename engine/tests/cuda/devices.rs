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
    let no_nvrtc = "no NVRTC: libnvrtc.so.12 was not found, nor .so.13, so kernels cannot be compiled; \
                    install the runtime of CUDA 12 or 13 or put its folder into LD_LIBRARY_PATH";
    check_missing(&Double::new().without("libnvrtc"), &[], no_nvrtc);
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

/// What `devices` says after its list of GPUs, of 4 of them that are joined so.
fn links(double: Double) -> Vec<String> {
    let output = double.with("CHARIOT_DOUBLE_DEVICES", "4").run(&["devices"]);
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{output:?}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let is_other =
        |line: &&str| ["GPU 0: ", "GPU 1: ", "GPU 2: ", "GPU 3: "].iter().all(|gpu| !line.starts_with(gpu));
    // Libraries are listed in between.
    let libraries = ["driver ", "NVRTC ", "Cublas", "NCCL ", "no cuBLASLt"];
    let others = lines.lines().filter(is_other);
    others.filter(|line| libraries.iter().all(|name| !line.starts_with(name))).map(str::to_owned).collect()
}

const SLOTS: &str = "PCIe of GPU 0, 1, 2, 3: generation 4, 16 lanes";
const NO_ACCESS: &str = "no direct access between GPUs";

/// The table of links, with its rows as cells.
fn check_links(double: Double, rows: [&str; 4], meanings: &str) {
    let lines = links(double);
    assert_eq!(lines[..2], [SLOTS, "links between GPUs:"], "{lines:#?}");
    let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(cells(&lines[2]), ["0", "1", "2", "3"], "{lines:#?}");
    let found: Vec<_> = lines[3..7].iter().map(|line| cells(line)).collect();
    assert_eq!(found, rows.map(cells), "{lines:#?}");
    assert_eq!(lines[7..], [meanings, NO_ACCESS], "{lines:#?}");
}

#[test]
fn nvlink_and_pcie_are_told_apart() {
    check_links(
        Double::new().with("CHARIOT_DOUBLE_LINKS", "pairs"),
        ["0 - NV4 NODE NODE", "1 NV4 - NODE NODE", "2 NODE NODE - NV4", "3 NODE NODE NV4 -"],
        "NV4: 4 NVLinks; NODE: PCIe through host bridges of one NUMA node",
    );
    check_links(
        Double::new().with("CHARIOT_DOUBLE_LINKS", "hidden"),
        ["0 - NV NODE NODE", "1 NV - NODE NODE", "2 NODE NODE - NV", "3 NODE NODE NV -"],
        "NV: NVLink; NODE: PCIe through host bridges of one NUMA node",
    );
    check_links(
        Double::new().with("CHARIOT_DOUBLE_LINKS", "switch"),
        ["0 - NS12 NS12 NS12", "1 NS12 - NS12 NS12", "2 NS12 NS12 - NS12", "3 NS12 NS12 NS12 -"],
        "NS12: 12 NVLinks through NVSwitch",
    );
    check_links(
        Double::new(),
        ["0 - PIX NODE NODE", "1 PIX - NODE NODE", "2 NODE NODE - PIX", "3 NODE NODE PIX -"],
        "PIX: PCIe through one switch; NODE: PCIe through host bridges of one NUMA node",
    );
}

#[test]
fn links_are_those_of_the_gpus_as_cuda_numbers_them() {
    let double = Double::new().with("CHARIOT_DOUBLE_LINKS", "pairs").with("CUDA_VISIBLE_DEVICES", "0,2,1,3");
    check_links(
        double,
        ["0 - NODE NV4 NODE", "1 NODE - NODE NV4", "2 NV4 NODE - NODE", "3 NODE NV4 NODE -"],
        "NV4: 4 NVLinks; NODE: PCIe through host bridges of one NUMA node",
    );
    // A slot of fewer lanes, on the other side of the machine.
    let double = Double::new().with("CUDA_VISIBLE_DEVICES", "7,0").with("CHARIOT_DOUBLE_DEVICES", "8");
    let output = double.run(&["devices"]);
    let lines = String::from_utf8(output.stdout).unwrap();
    for line in [
        "PCIe of GPU 0: generation 4, 8 lanes",
        "PCIe of GPU 1: generation 4, 16 lanes",
        "SYS: PCIe across NUMA nodes",
    ] {
        assert!(lines.lines().any(|found| found == line), "expected {line:?} in {lines}");
    }
}

#[test]
fn without_nvml_the_driver_is_asked() {
    let pairs = ["0 - GPU 1", "0 - GPU 2", "0 - GPU 3", "1 - GPU 2", "1 - GPU 3", "2 - GPU 3"];
    let pairs = pairs.map(|pair| format!("GPU {pair}: no direct access"));
    let check =
        |double: Double, why: &str| assert_eq!(links(double), [&[why.to_owned()], &pairs[..]].concat());
    check(
        Double::new().without("libnvidia-ml"),
        "no NVML: libnvidia-ml.so.1, a part of the driver, was not found, so NVLink and PCIe cannot be told apart",
    );
    check(
        Double::new().with("CHARIOT_DOUBLE_LINKS", "none"),
        "NVML does not start (its error 9), so NVLink and PCIe cannot be told apart",
    );
    // It answers nothing about any GPU.
    assert_eq!(links(Double::new().with("CHARIOT_DOUBLE_LINKS", "broken")), pairs);
}

#[test]
fn one_gpu_has_no_links() {
    let double = Double::new().with("CHARIOT_DOUBLE_DEVICES", "1").without("libnvidia-ml");
    let lines = String::from_utf8(double.run(&["devices"]).stdout).unwrap();
    assert!(!lines.contains("links") && !lines.contains("NVML"), "{lines}");
}

#[test]
fn libraries_of_cuda_13_do_as_well() {
    let double = Double::new().of_cuda_13();
    let (code, said) = generate(&double, &["--backend", "cuda", "--tp", "2"]);
    assert_eq!(code, Some(0), "{said}");
    let lines = String::from_utf8(double.run(&["devices"]).stdout).unwrap();
    assert!(
        lines.contains("NVRTC 12.") && lines.contains("Cublas found"),
        "the double keeps its version: {lines}"
    );
    let no_blas = "no cuBLAS: libcublas.so.12 was not found, nor .so.13, so matrices cannot be multiplied; \
                   install the runtime of CUDA 12 or 13 or put its folder into LD_LIBRARY_PATH";
    check_missing(&Double::new().without("libcublas"), &[], no_blas);
}
