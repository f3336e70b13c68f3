//! Ranks on GPUs that die, stop or hang while others wait for them in a collective: one clear error, soon, and nobody left behind.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::double::Double;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/golden/falcon-new");
/// A run is over at the latest this long after a rank was struck.
const SECONDS_MAX: u64 = 10;
/// A run is over within this, by the ranks' own watch or the driver's, after the double has said that a call is stuck: driver, ranks and all.
const WATCHDOG_SECONDS_MAX: f64 = 10.0;

/// Workers of a run, in the order of ranks.
fn workers(run: &Child) -> Vec<Pid> {
    let id = run.id();
    let children = fs_err::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    let mut found: Vec<(String, i32)> = children
        .split_whitespace()
        .filter_map(|child| {
            let words = fs_err::read_to_string(format!("/proc/{child}/cmdline")).ok()?;
            let rank = words.split('\0').skip_while(|word| *word != "--rank").nth(1)?;
            Some((rank.to_owned(), child.parse().unwrap()))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, pid)| Pid::from_raw(pid).unwrap()).collect()
}

#[expect(clippy::disallowed_methods, reason = "a test waits for a process, but not forever")]
fn wait_for<T>(what: &str, seconds: u64, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(seconds), "expected {what} within {seconds} s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Where a call on a rank's GPU never completes, all processes being alive: what the run of two ranks says, and what that rank asked its GPU for.
#[expect(clippy::disallowed_methods, reason = "a test tells how long a run took to end")]
fn hang(call: &str, rank: usize, split: &str) -> (String, String) {
    let folder = tempfile::tempdir().unwrap();
    let double = Double::new().with("CHARIOT_DOUBLE_STUCK", &format!("{call}:{rank}"));
    let double = double.with("CHARIOT_DOUBLE_TRACE", folder.path().to_str().unwrap()).impatient();
    let arguments =
        ["generate", "--backend", "cuda", "--ignore-eos", "--max-tokens", "40", "--prompt-ids", "1,2,3"];
    let mut command = double.command(&[&arguments[..], &[split, "2", "--model", MODEL]].concat());
    let mut run = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let ranks = wait_for("two workers", 30, || Some(workers(&run)).filter(|ranks| ranks.len() == 2));
    let mut lines = BufReader::new(run.stderr.take().unwrap()).lines().map(Result::unwrap);
    let stuck = format!("rank {rank}: cuda-double: {call} on device {rank} is stuck");
    let mut said: Vec<String> = lines.by_ref().take_while(|line| *line != stuck).collect();
    let began = Instant::now();
    said.extend(lines);
    let said = said.join("\n");
    let status = wait_for("the end of the run", 2, || run.try_wait().unwrap());
    assert_eq!(status.code(), Some(1), "{said}");
    wait_for("the end of all workers", 2, || {
        ranks.iter().all(|rank| test_kill_process(*rank).is_err()).then_some(())
    });
    let seconds = began.elapsed().as_secs_f64();
    // Patience began with what the GPU was asked for before.
    assert!((6.0..WATCHDOG_SECONDS_MAX).contains(&seconds), "after {seconds} s: {said}");
    let trace = folder.path().join(ranks[rank].as_raw_nonzero().to_string());
    (said, fs_err::read_to_string(trace).unwrap())
}

/// Strikes rank 1 of four while they generate, and says what the run said.
fn strike(signal: Signal) -> String {
    let double = Double::new();
    let arguments =
        ["generate", "--backend", "cuda", "--ignore-eos", "--max-tokens", "400", "--prompt-ids", "1,2,3"];
    let more = ["--tp", "2", "--pp", "2", "--model", MODEL];
    let mut command = double.command(&[&arguments[..], &more].concat());
    let mut run = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let ranks = wait_for("four workers", 30, || Some(workers(&run)).filter(|ranks| ranks.len() == 4));
    // A rank that has computed for a while is among its steps, where it waits in collectives most of the time.
    wait_for("steps", 60, || {
        let stat = fs_err::read_to_string(format!("/proc/{}/stat", ranks[3].as_raw_nonzero())).ok()?;
        let ticks: u64 = stat.rsplit(')').next()?.split_whitespace().nth(11)?.parse().ok()?;
        (ticks > 100).then_some(())
    });
    kill_process(ranks[1], signal).unwrap();
    let status = wait_for("the end of the run", SECONDS_MAX, || run.try_wait().unwrap());
    let output = run.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(output.stdout.is_empty(), "no half result");
    wait_for("the end of all workers", 2, || {
        ranks.iter().all(|rank| test_kill_process(*rank).is_err()).then_some(())
    });
    said
}

#[test]
fn a_rank_that_is_killed_ends_the_run_with_its_name() {
    let said = strike(Signal::KILL);
    assert!(said.contains("error: rank 1 (process"), "{said}");
    assert!(said.contains("SIGKILL"), "{said}");
}

#[test]
fn a_rank_that_is_stopped_ends_the_run_with_its_name() {
    let said = strike(Signal::STOP);
    assert!(said.contains("error: rank 1 (process"), "{said}");
}

/// Ranks of one stage both wait for their tokens, and whichever gives up first is named: neither knows more than that its GPU is not done.
fn check_hang(call: &str) {
    let (said, _) = hang(call, 1, "--tp");
    let expected = "): tokens: expected it within 8 s, found the GPU still at work: it hangs, or a rank";
    assert!(error(&said).contains(expected), "{said}");
}

fn error(said: &str) -> &str {
    said.lines().find(|line| line.starts_with("error: rank ")).unwrap_or_else(|| panic!("{said}"))
}

#[test]
fn a_collective_that_never_completes_ends_the_run_by_the_ranks_own_watch() {
    check_hang("nccl");
}

#[test]
fn a_kernel_that_never_completes_ends_the_run_by_the_ranks_own_watch() {
    check_hang("gelu");
}

/// The first stage waits for nothing in a step, and the second not for what the first one's GPU does.
#[test]
fn a_stage_that_never_completes_is_named_though_others_wait_for_it() {
    let (said, _) = hang("gelu", 0, "--pp");
    assert!(error(&said).starts_with("error: rank 0 ("), "{said}");
    let expected = "): a stage's part of a step: expected it within 8 s, found the GPU still at work";
    assert!(error(&said).contains(expected), "{said}");
}

/// Each of its ends takes the other for being at work.
#[test]
fn a_message_between_stages_that_never_comes_ends_the_run_by_the_driver_s_watch() {
    let (said, _) = hang("nccl", 1, "--pp");
    assert!(error(&said).starts_with("error: rank 1 ("), "{said}");
    assert!(
        error(&said).contains("expected stage 1 done with it, found no stage done with any batch for 9."),
        "{said}"
    );
}

/// The first call between two ranks may take its time to be queued, but not for ever.
#[test]
fn a_collective_that_is_never_queued_ends_all_groups_of_its_rank() {
    let (said, asked) = hang("queue", 1, "--tp");
    // The other rank waits for it as long, and may be the first to say so.
    assert!(error(&said).contains(": expected it within 8 s, found the GPU still at work"), "{said}");
    assert!(asked.lines().any(|call| call == "abort"), "{asked}");
}
