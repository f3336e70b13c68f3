//! Several processes at one store, some of them killed: the test binary runs itself as the child.

#![allow(clippy::unwrap_used, reason = "a test may; clippy knows only functions marked as tests")]

mod scratch;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use camino::Utf8Path;
use chariot_cache::{Found, Lookup, Roots, Store};
use scratch::{Rng, Scratch, assert_whole, files_below, is_hit, manifest, number_of, publish};

const ROOT: &str = "CHARIOT_TEST_ROOT";
const FIRST: &str = "CHARIOT_TEST_FIRST";
const LAST: &str = "CHARIOT_TEST_LAST";

/// Publishes actions one after the other and says so after each; the parent decides how long.
#[test]
fn child() {
    let Ok(root) = std::env::var(ROOT) else { return };
    let number = |name| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let root = Utf8Path::new(&root);
    let store = Store::open(&root.join("store")).unwrap();
    let work = root.join(format!("work-{}", std::process::id()));
    for action in number(FIRST)..number(LAST) {
        publish(&store, action, &work);
        println!("\npublished {action}");
        if action % 5 == 0 {
            store.save().unwrap();
        }
    }
}

fn spawn(root: &Utf8Path, first: u64, last: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .envs([(ROOT, root.to_string()), (FIRST, first.to_string()), (LAST, last.to_string())])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn published(line: &str) -> Option<u64> {
    line.strip_prefix("published ")?.parse().ok()
}

#[test]
fn killed_at_any_instant_it_leaves_whole_records_only() {
    let scratch = Scratch::new();
    let mut rng = Rng(7);
    let mut next = 0;
    for round in 0..60 {
        let mut child = spawn(&scratch.root, next, u64::MAX);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
        let seen = (0..rng.below(5)).filter_map(|_| lines.by_ref().find_map(|l| published(&l))).last();
        // Not a wait for something to be done: the instant of death, at random within the publishing of an action.
        std::thread::sleep(Duration::from_micros(rng.below(9000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let promised = lines.filter_map(|l| published(&l)).last().or(seen).map_or(next, |n| n + 1);

        let store = scratch.store();
        for number in 0..promised {
            assert!(is_hit(&store, number), "round {round}: {number} was published and is no hit");
        }
        for action in store.actions().list().unwrap() {
            let Found::Record(record) = store.actions().get(&action).unwrap() else {
                panic!("round {round}: half a record {action}")
            };
            assert!(
                matches!(store.lookup(&action).unwrap(), Lookup::Hit(_)),
                "round {round}: a blob is missing"
            );
            assert_whole(&store, &record);
            assert!(number_of(&record) <= promised);
        }
        next = promised;
    }
    assert!(next > 50, "the children must get somewhere to prove anything, they got to {next}");
    check_nothing_is_left(&scratch, next);
}

fn check_nothing_is_left(scratch: &Scratch, published: u64) {
    let store = scratch.store();
    let lock = store.lock().unwrap();
    let verified = store.verify(&lock).unwrap();
    assert!(verified.quarantined.is_empty() && verified.incomplete.is_empty(), "{verified:?}");
    let actions = (0..published).map(|n| manifest(n).digest()).collect();
    store.collect(&lock, &Roots { actions, blobs: Default::default(), keep_since: None }, false).unwrap();
    assert!((0..published).all(|number| is_hit(&store, number)));
    assert!(files_below(&scratch.root.join("store/tmp")).is_empty());
}

#[test]
fn processes_may_publish_the_same_actions_at_once() {
    let scratch = Scratch::new();
    let children: Vec<_> = (0..3).map(|_| spawn(&scratch.root, 0, 30)).collect();
    for mut child in children {
        let output = BufReader::new(child.stdout.take().unwrap());
        assert_eq!(output.lines().filter_map(|l| published(&l.unwrap())).count(), 30);
        assert!(child.wait().unwrap().success());
    }
    let store = scratch.store();
    assert!((0..30).all(|number| is_hit(&store, number)));
    assert!(files_below(&scratch.root.join("store/quarantine")).is_empty());
    assert!(files_below(&scratch.root.join("store/tmp")).is_empty());
}

#[test]
fn the_lock_goes_with_the_process_that_held_it() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let held = store.lock().unwrap();
    let error = store.lock().unwrap_err().to_string();
    assert_eq!(error, format!("{}/lock is held by process {}", store.root(), std::process::id()));
    drop(held);
    store.lock().unwrap();
}
