//! The command for a machine with GPUs: on CUDA's double, on a machine without a driver, and with stubs of an engine and of NVIDIA's
//! tools that fail.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::double::Double;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// What the script says, and how it ends. `double`: whose libraries it finds.
fn script(double: &Double, out: &Path, bin: &Path, more: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new("bash");
    command
        .arg(format!("{ROOT}/pipelines/examples/gpu-machine.sh"))
        .arg("--out")
        .arg(out)
        .env_remove("CUDA_VISIBLE_DEVICES");
    command.arg("--bin").arg(bin).args(more);
    let variables: Vec<_> = double
        .command(&[])
        .get_envs()
        .map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned)))
        .collect();
    command.envs(variables.into_iter().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

/// The report's line of a step begins so.
fn check_line(report: &str, state: &str, step: &str, rest: &str) {
    let line = report.lines().find(|line| line.split_whitespace().take(2).eq([state, step]));
    assert!(line.is_some_and(|line| line.contains(rest)), "expected `{state} {step} {rest}` in: {report}");
}

fn engine_folder() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_chariot-engine")).parent().unwrap()
}

#[test]
fn four_gpus_compute_and_exchange_values_rightly() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("machine");
    let double = Double::new().with("CHARIOT_DOUBLE_DEVICES", "4");
    let (code, said) = script(&double, &out, engine_folder(), &["--only", "selftest,parity"]);
    assert_eq!(code, Some(0), "{said}");
    let report = fs_err::read_to_string(out.join("report.txt")).unwrap();
    check_line(&report, "chosen", "falcon-100m", "4 GPUs, 4 used, 1024 MiB");
    check_line(&report, "ok", "selftest", "");
    let tested = fs_err::read_to_string(out.join("selftest.log")).unwrap();
    let (_, answer) = tested.split_once('\n').unwrap();
    let answer: serde_json::Value = serde_json::from_str(answer).unwrap();
    let gpus: BTreeSet<_> =
        answer["checks"].as_array().unwrap().iter().map(|check| check["gpu"].as_u64()).collect();
    assert_eq!((&answer["right"], gpus), (&true.into(), [0, 1, 2, 3].map(Some).into()), "{tested}");
    let divisions = ["falcon-new-1x1", "falcon-new-2x1", "falcon-new-1x2", "falcon-new-2x2"];
    for division in divisions.into_iter().chain(["falcon-old-1x1", "llama-tied-1x1", "mistral-1x1"]) {
        check_line(&report, "ok", &format!("parity-{division}"), "");
        // Three prompts of each backend were compared, not nothing with nothing.
        let log = fs_err::read_to_string(out.join(format!("parity-{division}.log"))).unwrap();
        assert_eq!(log.matches("\"token_ids\":[").count(), 6, "{log}");
    }
    assert!(!report.contains("SKIPPED"), "{report}");
}

#[test]
fn what_is_absent_is_skipped_and_links_are_measured_once() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("machine");
    let double = Double::new().with("CHARIOT_DOUBLE_DEVICES", "1");
    let (code, said) = script(&double, &out, engine_folder(), &["--only", "inventory,links,nsys", "--nsys"]);
    assert_eq!(code, Some(0), "{said}");
    let report = fs_err::read_to_string(out.join("report.txt")).unwrap();
    check_line(&report, "ok", "devices", "");
    check_line(&report, "chosen", "falcon-100m", "1 GPUs, 1 used, 1024 MiB");
    assert!(folder.path().join("machine.tar.gz").exists(), "{said}");
    // The platform as it was found goes back, and is not measured twice.
    check_line(&report, "ok", "links", "");
    let measured = fs_err::read_to_string(out.join("measured.yaml")).unwrap();
    assert!(
        measured.contains("platform.yaml with no links to measure, on 1 GPU Chariot CUDA double"),
        "{measured}"
    );
    let (_, said) = script(&double, &out, engine_folder(), &["--only", "links"]);
    check_line(&said, "SKIPPED", "links", "those of an earlier run are in ");
    // Other GPUs, or the same in another order, are.
    let double = double.with("CUDA_VISIBLE_DEVICES", "0");
    let (_, said) = script(&double, &out, engine_folder(), &["--only", "links"]);
    check_line(&said, "ok", "links", "");
}

#[test]
fn a_machine_without_a_driver_is_told_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let double = Double::new().without("libcuda");
    let (code, said) =
        script(&double, &folder.path().join("machine"), engine_folder(), &["--only", "parity"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no NVIDIA driver: libcuda.so was not found"), "{said}");
    assert!(said.contains("no GPU can be used, so nothing was measured"), "{said}");
}

/// An executable that runs these lines.
fn stub(folder: &Path, name: &str, lines: &str) {
    let path = folder.join(name);
    fs_err::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
    fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_step_that_fails_is_told_and_ends_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let gpus = "GPU 0: A card, compute capability 8.0, 81251 MiB\\nGPU 1: A card, compute capability 8.0, 81251 MiB\\n";
    let engine = format!(
        "case $1 in devices) printf '{gpus}' ;; gpu-selftest) exit 0 ;; *) echo broken >&2; exit 7 ;; esac"
    );
    stub(folder.path(), "chariot-engine", &engine);
    // Two of its tools find something; none would in another's processes that it was not told to look at.
    let sanitizer =
        "[ \"$1 $2 $3\" = '--target-processes all --tool' ] || exit 8; [ $4 = memcheck ] || exit 9";
    stub(folder.path(), "compute-sanitizer", sanitizer);
    stub(folder.path(), "nsys", "exit 0");
    stub(folder.path(), "nvidia-smi", "exit 0");
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let double = Double::new().with("PATH", &path);
    let out = folder.path().join("machine");
    let (code, said) = script(&double, &out, folder.path(), &["--sanitizer", "--nsys"]);
    assert_eq!(code, Some(1), "{said}");
    for (state, step, rest) in [
        ("ok", "topology", ""),
        ("chosen", "yi-34b", "2 GPUs, 2 used, 81251 MiB"),
        ("ok", "selftest", ""),
        ("ok", "sanitizer-memcheck", ""),
        ("FAILED", "sanitizer-racecheck", "exit code 9"),
        ("FAILED", "sanitizer-synccheck", "exit code 9"),
        ("FAILED", "parity-falcon-new-2x1", "exit code 1"),
        ("SKIPPED", "parity-falcon-new-2x2", "it needs 4 GPUs, there are 2"),
        ("FAILED", "parity-mistral-1x1", "exit code 1"),
        ("FAILED", "links", "exit code 7"),
        ("SKIPPED", "figure-8", "expected chariot and chariot-results in"),
        ("ok", "nsys", ""),
    ] {
        check_line(&said, state, step, rest);
    }
    let platform = fs_err::read_to_string(out.join("platform.yaml")).unwrap();
    assert!(platform.contains("gpus_per_node: 2\ngpu_memory_gb: 85.1978\n"), "{platform}");
    assert!(folder.path().join("machine.tar.gz").exists(), "{said}");
}
