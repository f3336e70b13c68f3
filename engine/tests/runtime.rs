//! The real binary with real workers: the tokens of Transformers at every split and transport, and one clear error when a worker dies.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/golden");

fn golden(model: &str) -> Value {
    serde_json::from_str(&fs_err::read_to_string(format!("{GOLDEN}/{model}/golden.json")).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

fn generate(model: &str, prompts: &[Vec<u64>], more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chariot-engine"));
    command.args(["generate", "--json", "--ignore-eos", "--model", &format!("{GOLDEN}/{model}")]);
    for prompt in prompts {
        let text: Vec<String> = prompt.iter().map(u64::to_string).collect();
        command.args(["--prompt-ids", &text.join(",")]);
    }
    command.args(more).stdin(Stdio::null());
    command
}

#[test]
fn workers_produce_the_tokens_of_transformers_at_every_split() {
    let golden = golden("falcon-new");
    let prompts = golden["prompts"].as_array().unwrap();
    let tokens: Vec<Vec<u64>> = prompts.iter().map(|prompt| ids(&prompt["tokens"])).collect();
    for more in [
        &["--tp", "1", "--pp", "1"][..],
        &["--tp", "2", "--pp", "1", "--threads", "2"],
        &["--tp", "1", "--pp", "4", "--chunk", "7"],
        &["--tp", "4", "--pp", "2", "--chunk", "16"],
        &["--tp", "2", "--pp", "2", "--tcp"],
        // Room for about half of what the prompts and outputs need: sequences are preempted and recomputed.
        &["--tp", "2", "--pp", "2", "--chunk", "16", "--kv-blocks", "9"],
    ] {
        let output =
            generate("falcon-new", &tokens, &[&["--max-tokens", "32"], more].concat()).output().unwrap();
        assert!(output.status.success(), "{more:?}: {}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["provenance"], "measured");
        for (prompt, output) in prompts.iter().zip(report["outputs"].as_array().unwrap()) {
            assert_eq!(ids(&output["token_ids"]), ids(&prompt["greedy"]), "{more:?}");
        }
    }
}

#[test]
fn draws_are_the_same_at_every_split() {
    let prompt = vec![(1..40).collect::<Vec<u64>>()];
    let draw = |more: &[&str]| {
        let more =
            [&["--max-tokens", "24", "--temperature", "0.9", "--top-p", "0.9", "--seed", "5"], more].concat();
        let output = generate("llama-gqa", &prompt, &more).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        ids(&report["outputs"][0]["token_ids"])
    };
    let one = draw(&[]);
    assert_eq!(draw(&["--tp", "2"]), one);
    assert_eq!(draw(&["--pp", "2", "--chunk", "5"]), one);
}

#[test]
fn mistakes_end_with_code_2_and_say_what_is_wrong() {
    for (more, said) in [
        (&["--tp", "3"][..], "tp=3"),
        (&["--pp", "9"], "pp"),
        (&["--prompt-ids", "1,250"], "expected token ids below 250, found `250`"),
        (&["--kv-blocks", "1", "--max-tokens", "64"], "found 1 blocks"),
    ] {
        let output = generate("falcon-new", &[vec![1, 2, 3]], more).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{more:?}: {error}");
        assert!(error.contains(said), "{more:?}: expected `{said}` in: {error}");
    }
}

/// Processes whose parent is `parent`.
fn children(parent: u32) -> Vec<i32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let text = fs_err::read_to_string(path).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// Starts a run of four workers that lasts, and waits until all are there.
fn long_run() -> (Child, Vec<i32>) {
    let mut command =
        generate("falcon-new", &[vec![1; 16]], &["--max-tokens", "8000", "--tp", "2", "--pp", "2"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    for _ in 0..1000 {
        let workers = children(child.id());
        if workers.len() == 4 {
            return (child, workers);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("expected four workers");
}

fn is_alive(pid: i32) -> bool {
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[test]
fn a_killed_worker_is_named_and_nobody_is_left() {
    for victim in 0..4 {
        let (child, workers) = long_run();
        std::thread::sleep(Duration::from_millis(10 + 37 * victim as u64));
        kill_process(Pid::from_raw(workers[victim]).unwrap(), Signal::KILL).unwrap();
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(&format!("(process {}): was killed by signal 9", workers[victim])), "{error}");
        assert!(output.stdout.is_empty(), "no half result");
        assert!(workers.iter().all(|pid| !is_alive(*pid)), "no orphan");
    }
}

#[test]
fn a_stopped_worker_is_found_and_a_killed_driver_takes_its_workers_along() {
    let (child, workers) = long_run();
    // Into its work: while workers meet, one that hangs is found by a longer timeout only.
    std::thread::sleep(Duration::from_millis(500));
    kill_process(Pid::from_raw(workers[1]).unwrap(), Signal::STOP).unwrap();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains("hung") || error.contains("wait for each other") || error.contains("ready"),
        "{error}"
    );
    assert!(workers.iter().all(|pid| !is_alive(*pid)), "no orphan");

    let (mut child, workers) = long_run();
    child.kill().unwrap();
    child.wait().unwrap();
    for _ in 0..500 {
        if workers.iter().all(|pid| !is_alive(*pid)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("workers outlived their driver");
}
