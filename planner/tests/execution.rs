//! Actions through the library: what runs, what does not, what is published.

#![allow(clippy::unwrap_used, reason = "a test panics where it goes wrong")]

mod rig;

use std::time::Duration;

use chariot::session::Options;
use chariot::step::{Cutoff, Source, Step, Steps, Tool};
use chariot_cache::Digest;
use expect_test::{Expect, expect};
use rig::{PLAIN, Rig, action, made_by, steps};

/// a -> b -> c; `b` keeps the first letter of `a` only.
fn chain(rig: &Rig) -> Steps {
    steps(vec![
        rig.step(0, "a", "cat in > o", &[("in", Source::File("input.txt".into()))]),
        rig.step(1, "b", "head -c 1 in > o", &[("in", made_by(0))]),
        rig.step(2, "c", "(cat in; echo c) > o", &[("in", made_by(1))]),
    ])
}

fn check_executed(rig: &Rig, steps: &Steps, expected: &[&str]) {
    rig.forget_executions();
    let summary = rig.run(steps);
    assert_eq!(rig.executions(), expected);
    assert_eq!(summary.ran, expected.len());
    assert_eq!(summary.up_to_date, steps.steps.len() - expected.len());
}

#[test]
fn everything_runs_once_then_nothing() {
    let rig = Rig::new();
    rig.write("input.txt", "xyz");
    let chain = chain(&rig);
    check_executed(&rig, &chain, &["a", "b", "c"]);
    assert_eq!(rig.read("out/p/c/o"), "xc\n");
    check_executed(&rig, &chain, &[]);
    assert!(!rig.root.join(".chariot/work").read_dir_utf8().unwrap().any(|_| true));
}

#[test]
fn what_comes_out_as_it_was_runs_nothing_further() {
    let rig = Rig::new();
    rig.write("input.txt", "xyz");
    let chain = chain(&rig);
    check_executed(&rig, &chain, &["a", "b", "c"]);
    rig.write("input.txt", "xuv");
    check_executed(&rig, &chain, &["a", "b"]);
    rig.write("input.txt", "xyz");
    check_executed(&rig, &chain, &[]);
    assert_eq!(rig.read("out/p/a/o"), "xyz");
}

#[test]
fn outputs_are_read_only_and_restored() {
    let rig = Rig::new();
    rig.write("input.txt", "xyz");
    let chain = chain(&rig);
    rig.run(&chain);
    let path = rig.root.join("out/p/c/o");
    assert!(fs_err::metadata(&path).unwrap().permissions().readonly());
    fs_err::remove_file(&path).unwrap();
    check_executed(&rig, &chain, &[]);
    assert_eq!(rig.read("out/p/c/o"), "xc\n");
}

fn check_reason(change: impl FnOnce(&Rig, &mut Vec<Step>), expected: Expect) {
    let rig = Rig::new();
    rig.write("input.txt", "xyz");
    rig.write("tool", "#!/bin/sh\necho one > o\n");
    make_executable(&rig, "tool");
    let mut first = rig.step(0, "a", "cat in > o", &[("in", Source::File("input.txt".into()))]);
    action(&mut first).args = vec!["-c".to_owned(), "cat in > o".to_owned()];
    action(&mut first).inputs.insert("config.json".into(), Source::Inline(br#"{"chunk":512}"#.to_vec()));
    let mut second = rig.step(1, "b", "", &[]);
    action(&mut second).tool = Tool::User("./tool".to_owned());
    action(&mut second).args.clear();
    let mut made = vec![first, second];
    rig.run(&steps(made.clone()));
    assert_eq!(rig.why(&steps(made.clone())), []);
    change(&rig, &mut made);
    let whys: Vec<String> =
        rig.why(&steps(made)).into_iter().map(|(address, why)| format!("{address}: {why}")).collect();
    expected.assert_eq(&whys.join("\n"));
}

fn make_executable(rig: &Rig, path: &str) {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o755);
    fs_err::set_permissions(rig.root.join(path), mode).unwrap();
}

#[test]
fn a_changed_environment_is_named() {
    check_reason(
        |_, made| drop(action(&mut made[0]).env.insert("MODE".to_owned(), "fast".to_owned())),
        expect![[r#"
            p/a: environment variable MODE changed
              environment variable MODE: added fast"#]],
    );
}

#[test]
fn a_changed_argument_is_named() {
    check_reason(
        |_, made| action(&mut made[0]).args[1] = "cat in in > o".to_owned(),
        expect![[r#"
            p/a: argument 2 changed
              argument 2: cat in > o -> cat in in > o"#]],
    );
}

#[test]
fn a_changed_input_is_named() {
    check_reason(
        |rig, _| rig.write("input.txt", "new"),
        expect![[r#"
            p/a: input in changed
              input in: f006b5ee4890 -> b20ab0a020a4"#]],
    );
}

#[test]
fn a_changed_configuration_is_named_by_its_member() {
    check_reason(
        |_, made| {
            let config = Source::Inline(br#"{"chunk":2048}"#.to_vec());
            action(&mut made[0]).inputs.insert("config.json".into(), config);
        },
        expect![[r#"
            p/a: input config.json changed
              input config.json: 9e45710cedd6 -> ddc9ad0518e8
                /chunk: 512 -> 2048"#]],
    );
}

#[test]
fn a_changed_tool_is_named() {
    check_reason(
        |rig, _| {
            rig.write("tool", "#!/bin/sh\necho two > o\n");
        },
        expect![[r#"
            p/b: the executable of ./tool changed
              the executable of ./tool: 268cdecdc557 -> c476fc28ed69"#]],
    );
}

#[test]
fn a_new_fact_is_named() {
    check_reason(
        |_, made| action(&mut made[0]).facts.push("os".to_owned()),
        expect![[r#"
            p/a: fact os of the host changed
              fact os of the host: added linux"#]],
    );
}

fn failing(rig: &Rig) -> Steps {
    steps(vec![
        rig.step(0, "bad", "echo half > o; echo what went wrong; exit 7", &[]),
        rig.step(1, "after", "cat in > o", &[("in", made_by(0))]),
        rig.step(2, "other", "echo other > o", &[]),
        rig.step(3, "last", "cat in > o", &[("in", made_by(2))]),
    ])
}

#[test]
fn a_failure_stops_the_run_and_publishes_nothing() {
    let rig = Rig::new();
    let summary = rig.run(&failing(&rig));
    assert_eq!(summary.failures.len(), 1);
    assert_eq!(summary.failures[0].0, "p/bad");
    let text = &summary.failures[0].1;
    assert!(text.starts_with("exited with code 7 after "), "{text}");
    assert!(text.ends_with("\n    | what went wrong"), "{text}");
    assert!(!rig.root.join("out/p/bad").exists());
    assert_eq!(rig.why(&failing(&rig))[0].1, "failed last time: exited with code 7");
    rig.forget_executions();
    rig.run(&failing(&rig));
    assert_eq!(rig.executions()[0], "bad");
}

#[test]
fn keep_going_does_what_does_not_need_the_failed() {
    let rig = Rig::new();
    let summary = rig.try_run(&failing(&rig), &["p"], Options { keep_going: true, ..PLAIN }).unwrap();
    assert_eq!((summary.failures.len(), summary.not_done, summary.ran), (1, 2, 2));
    assert_eq!(rig.read("out/p/last/o"), "other\n");
}

#[test]
fn force_runs_the_named_and_not_what_they_need() {
    let rig = Rig::new();
    rig.write("input.txt", "xyz");
    let chain = chain(&rig);
    rig.run(&chain);
    rig.forget_executions();
    let summary = rig.try_run(&chain, &["p/b"], Options { force: true, ..PLAIN }).unwrap();
    assert_eq!(rig.executions(), ["b"]);
    assert_eq!((summary.ran, summary.up_to_date), (1, 1));
}

#[test]
fn a_failure_is_retried_as_often_as_declared() {
    let rig = Rig::new();
    let script = format!("test $(wc -l < {}/executions) -ge 3 && echo ok > o", rig.root);
    let mut flaky = rig.step(0, "flaky", &script, &[]);
    action(&mut flaky).retries = 1;
    assert_eq!(rig.run(&steps(vec![flaky.clone()])).failures.len(), 1);
    assert_eq!(rig.executions().len(), 2);
    assert_eq!(rig.run(&steps(vec![flaky])).failures.len(), 0);
    assert_eq!(rig.executions().len(), 3);
}

#[test]
fn what_one_of_our_tools_calls_a_mistake_is_not_tried_again() {
    let rig = Rig::new();
    let mut step = rig.step(0, "bad", "exit 2", &[]);
    action(&mut step).retries = 2;
    assert_eq!(rig.run(&steps(vec![step.clone()])).failures.len(), 1);
    assert_eq!(rig.executions().len(), 3, "a user's command may mean anything by 2");
    rig.forget_executions();
    action(&mut step).tool = Tool::Own("/bin/sh");
    assert_eq!(rig.run(&steps(vec![step])).failures.len(), 1);
    assert_eq!(rig.executions().len(), 1);
}

#[test]
fn a_timeout_ends_the_whole_group() {
    let rig = Rig::new();
    let mut slow = rig.step(0, "slow", "sleep 60 & echo $! > ../../../../pid; wait", &[]);
    action(&mut slow).timeout = Some(Duration::from_millis(200));
    let summary = rig.run(&steps(vec![slow]));
    assert!(
        summary.failures[0].1.starts_with("was killed by its timeout after 0.2"),
        "{:?}",
        summary.failures
    );
    let pid: u32 = rig.read("pid").trim().parse().unwrap();
    assert_eq!(chariot::process::identity(pid), None);
}

#[test]
fn a_missing_output_is_a_failure_that_names_it() {
    let rig = Rig::new();
    let summary = rig.run(&steps(vec![rig.step(0, "a", "echo x > other", &[])]));
    assert!(summary.failures[0].1.starts_with("exited with code 0 but did not write o after"));
}

#[test]
fn a_damaged_blob_is_made_again_and_never_served() {
    let rig = Rig::new();
    rig.write("input.txt", "xyz");
    let chain = chain(&rig);
    rig.run(&chain);
    let hex = Digest::of(b"x").to_string();
    let blob = rig.root.join(".chariot/cas").join(&hex[..2]).join(&hex[2..]);
    let writable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs_err::set_permissions(&blob, writable).unwrap();
    fs_err::write(&blob, "y").unwrap();
    fs_err::remove_dir_all(rig.root.join("out")).unwrap();
    check_executed(&rig, &chain, &["b"]);
    assert_eq!((rig.read("out/p/b/o").as_str(), rig.read("out/p/c/o").as_str()), ("x", "xc\n"));
}

#[test]
fn equal_actions_run_once() {
    let rig = Rig::new();
    let mut twin = rig.step(1, "b", "", &[]);
    let first = rig.step(0, "a", "echo x > o", &[]);
    twin.work = first.work.clone();
    let summary = rig.try_run(&steps(vec![first, twin]), &["p"], Options { jobs: 2, ..PLAIN }).unwrap();
    assert_eq!((rig.executions().len(), summary.ran), (1, 1));
    assert_eq!(rig.read("out/p/b/o"), "x\n");
}

fn cut(rig: &Rig, stopped: &str, with: Option<&str>) -> Steps {
    let mut trial = rig.step(0, "trial", &format!(r#"echo '{{"stopped": {stopped}}}' > o"#), &[]);
    action(&mut trial).cutoff = with.map(|arg| Cutoff { args: vec![arg.to_owned()], marker: "o".into() });
    steps(vec![trial])
}

#[test]
fn a_run_that_did_not_end_early_answers_for_the_whole_one_and_the_reverse() {
    let rig = Rig::new();
    check_executed(&rig, &cut(&rig, "null", Some("--stop-at-1")), &["trial"]);
    check_executed(&rig, &cut(&rig, "null", None), &[]);
    check_executed(&rig, &cut(&rig, "null", Some("--stop-at-2")), &[]);
}

#[test]
fn a_run_that_ended_early_answers_for_itself_alone() {
    let rig = Rig::new();
    check_executed(&rig, &cut(&rig, "\"p99\"", Some("--stop-at-1")), &["trial"]);
    check_executed(&rig, &cut(&rig, "\"p99\"", Some("--stop-at-1")), &[]);
    check_executed(&rig, &cut(&rig, "\"p99\"", Some("--stop-at-2")), &["trial"]);
    check_executed(&rig, &cut(&rig, "\"p99\"", None), &["trial"]);
}

fn check_mistake(change: impl FnOnce(&mut Step), expected: Expect) {
    let rig = Rig::new();
    let mut step = rig.step(0, "a", "echo x > o", &[]);
    change(&mut step);
    let error = rig.try_run(&steps(vec![step]), &["p"], PLAIN).unwrap_err();
    assert!(error.is_users());
    expected.assert_eq(&error.to_string().replace(rig.root.as_str(), "ROOT"));
}

#[test]
fn mistakes_are_named_with_their_place() {
    check_mistake(
        |step| drop(action(step).inputs.insert("in".into(), Source::File("none.txt".into()))),
        expect![[r#"
            pipelines/p.yaml:1:3: `p/a` needs file none.txt, which cannot be read: there is no such file in the project
              help: the path is relative to the project's root"#]],
    );
    check_mistake(
        |step| action(step).tool = Tool::User("no-such-tool".to_owned()),
        expect![[r#"
        pipelines/p.yaml:1:3: `p/a` needs the tool `no-such-tool`, which was not found in PATH
          help: install it, or give its path relative to the project, with a slash"#]],
    );
    check_mistake(
        |step| action(step).facts.push("hostnam".to_owned()),
        expect![[r#"
        pipelines/p.yaml:1:3: `p/a`: unknown fact `hostnam`; expected one of arch, cores, cpu, gpu, hostname, kernel, memory, os
          help: did you mean `hostname`?"#]],
    );
    check_mistake(
        |step| action(step).resources.gpu = 2,
        expect![[r#"
        `p/a`: expected at most 0 GPUs, found an action that needs 2
          help: say how many there are with --gpus"#]],
    );
}
