//! Searches, killed runs and two planners at once: the outcome is that of one undisturbed run.
#![allow(clippy::unwrap_used, reason = "a test panics where it goes wrong")]

mod rig;

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use chariot::history::History;
use chariot::session::Options;
use chariot::step::{RateTemplate, Rates, Repeat, SearchTemplate, Source, StepId, Steps, Work};
use rig::{PLAIN, Rig, action, steps};
use serde_json::json;

/// Tells the child process of a test which project to run.
const ROOT: &str = "CHARIOT_TEST_ROOT";

/// Two searches with a threshold each and a step that reads both results.
fn searches(root: &Utf8Path) -> Steps {
    let rig = Rig::at(root);
    let read = |index: u32| Source::Output { step: StepId(index), path: "capacity.json".into() };
    let mut table = rig.step(2, "table", "cat one two > o", &[("one", read(0)), ("two", read(1))]);
    table.show = vec!["o".into()];
    let mut first = rig.step(0, "one", "", &[]);
    first.work = Work::Search(search(&rig, "one", 1.7));
    let mut second = rig.step(1, "two", "", &[]);
    second.work = Work::Search(search(&rig, "two", 0.4));
    steps(vec![first, second, table])
}

fn search(rig: &Rig, name: &str, capacity: f64) -> SearchTemplate {
    let repeat = |seed: u32| {
        let note = format!(
            r#"q=$(sed 's/.*qps":\([0-9.]*\).*/\1/' config.json); echo p/{name}/seed={seed}/${{q%.0}}qps >> {}/executions"#,
            rig.root
        );
        let mut trial = rig.step(0, "trial", "", &[]);
        action(&mut trial).args[1] = format!("{note}; sleep 0.02; echo $q > o");
        let mut judge = rig.step(0, "judge", "", &[]);
        let limit = capacity + f64::from(seed) / 10.0;
        action(&mut judge).args[1] = format!(
            r#"awk '{{ print "{{\"pass\": " ($1 <= {limit} ? "true" : "false") ", \"value_s\": " $1 "}}" }}' o > verdict.json"#
        );
        action(&mut judge).outputs = vec!["verdict.json".into()];
        Repeat {
            labels: BTreeMap::from([("seed".to_owned(), json!(seed))]),
            trial: RateTemplate {
                action: action(&mut trial).clone(),
                config_path: "config.json".into(),
                config: json!({"seed": seed}),
                rate_pointer: "/qps".to_owned(),
            },
            judge: action(&mut judge).clone(),
            judge_inputs: BTreeMap::from([(Utf8PathBuf::from("o"), Utf8PathBuf::from("o"))]),
        }
    };
    SearchTemplate {
        labels: BTreeMap::from([("system".to_owned(), name.to_owned())]),
        rates: Rates { start: 1.0, granularity: 0.1, min: 0.1, max: 10.0 },
        repeats: (1..=3).map(repeat).collect(),
        slo: vec!["p99(tbt) <= 1".to_owned()],
    }
}

/// Contents of `out/` by path relative to the project.
fn results(rig: &Rig) -> BTreeMap<String, Vec<u8>> {
    rig.out()
        .into_iter()
        .map(|(path, bytes)| (path.strip_prefix(&rig.root).unwrap().to_string(), bytes))
        .collect()
}

fn undisturbed(jobs: u32) -> BTreeMap<String, Vec<u8>> {
    let rig = Rig::new();
    let summary = rig.try_run(&searches(&rig.root), &["p"], Options { jobs, ..PLAIN }).unwrap();
    assert_eq!(summary.failures, []);
    let again = rig.run(&searches(&rig.root));
    assert_eq!((again.ran, again.laid.written), (0, 0));
    results(&rig)
}

#[test]
fn searches_come_out_the_same_on_one_slot_and_on_many() {
    let one = undisturbed(1);
    assert_eq!(one.len(), 3);
    assert_eq!(undisturbed(2), one);
    assert_eq!(undisturbed(8), one);
}

/// Not a test of its own: the process that the tests below start, kill and interrupt.
#[test]
fn child() {
    let Ok(root) = std::env::var(ROOT) else { return };
    let rig = Rig::at(Utf8Path::new(&root));
    let summary = rig.try_run(&searches(&rig.root), &["p"], Options { jobs: 2, ..PLAIN }).unwrap();
    std::process::exit(if summary.interrupted { 130 } else { 0 });
}

fn start(rig: &Rig) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--test-threads=1"])
        .env(ROOT, &rig.root)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Trials whose results were published, by address.
fn published(rig: &Rig) -> BTreeSet<String> {
    let history = History::read(rig.project().store.root()).unwrap();
    let succeeded = history.all().filter(|latest| latest.entry.failure.is_none());
    succeeded.map(|latest| latest.entry.address.clone()).collect()
}

/// Waits up to `after`; whether the child ended by itself.
fn ends_within(child: &mut std::process::Child, after: Duration) -> bool {
    for _ in 0..after.as_millis() {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

#[test]
fn killed_at_any_instant_it_goes_on_without_repeating_what_was_finished() {
    let expected = undisturbed(2);
    let rig = Rig::new();
    let mut kills = 0;
    for round in 0..60u64 {
        let finished = published(&rig);
        rig.forget_executions();
        let mut child = start(&rig);
        let ended = ends_within(&mut child, Duration::from_millis(5 + round * 37 % 120));
        if !ended {
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
        }
        for execution in rig.executions() {
            assert!(
                !finished.contains(&execution),
                "{execution} was finished and ran again in round {round}"
            );
        }
    }
    assert!(kills > 5, "only {kills} rounds were long enough to be killed");
    rig.try_run(&searches(&rig.root), &["p"], Options { jobs: 2, ..PLAIN }).unwrap();
    assert_eq!(results(&rig), expected);
    assert!(!rig.root.join(".chariot/work").read_dir_utf8().unwrap().any(|_| true));
}

#[test]
fn interrupted_it_stops_and_goes_on() {
    let rig = Rig::new();
    let mut child = start(&rig);
    while rig.executions().is_empty() {
        assert!(!ends_within(&mut child, Duration::from_millis(1)));
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!rig.root.join(".chariot/work").read_dir_utf8().unwrap().any(|_| true));
    rig.run(&searches(&rig.root));
    assert_eq!(results(&rig), undisturbed(1));
    let published = published(&rig);
    assert!(
        rig.executions().iter().any(|execution| published.contains(execution)),
        "addresses are noted as published"
    );
}

#[test]
fn interrupted_at_any_instant_it_leaves_nothing_behind_and_calls_nothing_failed() {
    let expected = undisturbed(2);
    let rig = Rig::new();
    let mut interrupts = 0;
    for round in 0..60u64 {
        let before = rig.executions().len();
        let mut child = start(&rig);
        // Every other run is at work then, however long this machine takes to start one.
        let ended = match round % 2 {
            0 => loop {
                if ends_within(&mut child, Duration::from_millis(1)) {
                    break true;
                }
                if rig.executions().len() > before {
                    break false;
                }
            },
            _ => ends_within(&mut child, Duration::from_millis(5 + round * 37 % 120)),
        };
        if !ended {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
            let code = child.wait().unwrap().code();
            interrupts += u32::from(code == Some(130));
        }
        let work = rig.root.join(".chariot/work");
        let left: Vec<_> = work.read_dir_utf8().into_iter().flatten().map(Result::unwrap).collect();
        assert!(left.is_empty(), "round {round}: {left:?}");
        let history = History::read(rig.project().store.root()).unwrap();
        let failures: Vec<_> = history.all().filter_map(|latest| latest.entry.failure.clone()).collect();
        assert!(failures.is_empty(), "round {round}: {failures:?}");
    }
    assert!(interrupts > 5, "only {interrupts} rounds were long enough to be interrupted");
    rig.try_run(&searches(&rig.root), &["p"], Options { jobs: 2, ..PLAIN }).unwrap();
    assert_eq!(results(&rig), expected);
}

#[test]
fn two_at_once_do_the_work_once() {
    let rig = Rig::new();
    let (mut one, mut two) = (start(&rig), start(&rig));
    assert!(one.wait().unwrap().success() && two.wait().unwrap().success());
    let executions = rig.executions();
    let distinct: BTreeSet<&String> = executions.iter().collect();
    assert_eq!(distinct.len(), executions.len());
    assert_eq!(results(&rig), undisturbed(2));
}
