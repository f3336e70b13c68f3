//! Every subcommand and switch through the real binary, on a project of plain commands.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use camino::Utf8PathBuf;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Two numbers, their sum, and a step that wants GPUs.
const NUMBERS: &str = r#"chariot: 1
params: {seeds: [1, 2]}
targets:
  draw:
    recipe: command
    for: {seed: "${seeds}"}
    argv: [sh, -c, "echo drawing ${seed}; echo ${seed} > n.txt"]
    outputs: [n.txt]
  sum:
    recipe: command
    argv: [sh, -c, "cat draws/*/n.txt | paste -sd+ | sed 's/^/sum /' > sum.txt"]
    inputs: {draws: "draw:n.txt"}
    outputs: [sum.txt]
    show: [sum.txt]
  train:
    recipe: command
    argv: [sh, -c, "echo trained > model.txt"]
    outputs: [model.txt]
    resources: {gpu: 2}
"#;

/// One step that runs until it is told to stop, and does not listen at first.
const STUBBORN: &str = r#"chariot: 1
targets:
  sleep:
    recipe: command
    argv: [sh, -c, "trap '' INT TERM; echo $$ > ROOT/pid; sleep 60; echo x > o"]
    outputs: [o]
  other:
    recipe: command
    argv: [sh, -c, "echo other > o"]
    outputs: [o]
"#;

const FAILING: &str = r#"chariot: 1
targets:
  bad:
    recipe: command
    argv: [sh, -c, "echo what went wrong >&2; exit 7"]
    outputs: [o]
  needs-bad:
    recipe: command
    argv: [cp, in, o]
    inputs: {in: "bad:o"}
    outputs: [o]
  good:
    recipe: command
    argv: [sh, -c, "echo fine > o"]
    outputs: [o]
"#;

struct Project {
    _temp: tempfile::TempDir,
    root: Utf8PathBuf,
}

/// Exit code, stdout, stderr.
struct Said(Option<i32>, String, String);

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self(output.status.code(), text(output.stdout), text(output.stderr))
    }
}

impl Project {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::from_path_buf(temp.path().canonicalize().unwrap()).unwrap();
        fs_err::create_dir(root.join("pipelines")).unwrap();
        for (name, text) in [("numbers", NUMBERS), ("stubborn", STUBBORN), ("failing", FAILING)] {
            let text = text.replace("ROOT", root.as_str());
            fs_err::write(root.join(format!("pipelines/{name}.yaml")), text).unwrap();
        }
        Self { _temp: temp, root }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chariot"));
        command.args(args).current_dir(&self.root).stdin(Stdio::null()).env("NO_COLOR", "1");
        command
    }

    fn chariot(&self, args: &[&str]) -> Said {
        self.command(args).output().unwrap().into()
    }

    /// Runs and expects success; returns stdout.
    fn ok(&self, args: &[&str]) -> String {
        let Said(code, out, err) = self.chariot(args);
        assert_eq!(code, Some(0), "chariot {args:?}\n{out}\n{err}");
        out
    }

    fn exists(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    fn blobs(&self) -> Vec<Utf8PathBuf> {
        let mut found = Vec::new();
        for folder in self.root.join(".chariot/cas").read_dir_utf8().unwrap() {
            let folder = folder.unwrap().into_path();
            found.extend(folder.read_dir_utf8().unwrap().map(|entry| entry.unwrap().into_path()));
        }
        found
    }

    /// Starts the stubborn step and returns when it runs.
    fn start_stubborn(&self) -> Child {
        let mut child = self
            .command(&["run", "stubborn/sleep"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        while fs_err::read_to_string(self.root.join("pid")).map_or(0, |text| text.len()) == 0 {
            assert!(child.try_wait().unwrap().is_none(), "the run ended before its step began");
            std::thread::sleep(Duration::from_millis(2));
        }
        child
    }

    /// Whether the stubborn step still runs; a zombie does not.
    fn stubborn_runs(&self) -> bool {
        let text = fs_err::read_to_string(self.root.join("pid")).unwrap();
        chariot::process::identity(text.trim().parse().unwrap()).is_some()
    }
}

#[test]
fn plan_and_dry_run_tell_and_do_nothing() {
    let project = Project::new();
    for args in [&["plan", "numbers"][..], &["run", "-n", "numbers"]] {
        let told = project.ok(args);
        assert!(told.contains("numbers/draw/1"), "{told}");
        assert!(told.contains("never run"), "{told}");
        assert!(told.contains("3 to run, 1 known once"), "{told}");
    }
    assert!(!project.exists("out"));
    project.ok(&["run", "numbers/sum"]);
    assert!(project.ok(&["plan", "numbers/sum"]).contains("nothing to do"));
    assert!(project.ok(&["plan"]).contains("failing: "), "without targets it looks at every pipeline");
}

#[test]
fn run_lays_results_out_and_prints_what_is_shown() {
    let project = Project::new();
    let told = project.ok(&["run", "numbers/sum"]);
    assert!(told.contains("sum 1+2"), "{told}");
    assert_eq!(fs_err::read_to_string(project.root.join("out/numbers/sum/sum.txt")).unwrap(), "sum 1+2\n");
    assert!(!project.exists("out/numbers/train/model.txt"), "only what was named and what it needs");
    assert!(project.ok(&["run", "numbers/sum"]).contains("nothing to do"));
    let told = project.ok(&["run", "numbers/sum", "--set", "seeds=[1, 2, 3]"]);
    assert!(told.contains("sum 1+2+3") && told.contains("2 actions run"), "{told}");
    let told = project.ok(&["run", "--force", "numbers/draw/1"]);
    assert!(told.contains("1 action"), "{told}");
}

#[test]
fn explain_and_status_name_what_changed() {
    let project = Project::new();
    project.ok(&["run", "numbers/sum"]);
    let path = project.root.join("pipelines/numbers.yaml");
    fs_err::write(&path, NUMBERS.replace("sed 's/^/sum /'", "sed 's/^/total /'")).unwrap();
    let why = project.ok(&["explain", "numbers/sum"]);
    assert!(why.contains("sum /") && why.contains("total /"), "old and new are told: {why}");
    let why = project.ok(&["explain", "numbers/draw/1"]);
    assert!(why.contains("will not run: done"), "{why}");
    let status = project.ok(&["status", "numbers"]);
    let state = |name: &str| status.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned();
    assert!(state("numbers/draw/1").contains("done"), "{status}");
    assert!(state("numbers/sum").contains("stale"), "{status}");
    assert!(state("numbers/train").contains("never"), "{status}");
}

#[test]
fn graph_draws_every_edge_in_both_formats() {
    let project = Project::new();
    let dot = project.ok(&["graph", "numbers"]);
    assert!(dot.starts_with("digraph") && dot.trim_end().ends_with('}'), "{dot}");
    let mermaid = project.ok(&["graph", "numbers", "--format", "mermaid"]);
    assert!(mermaid.starts_with("flowchart") || mermaid.starts_with("graph"), "{mermaid}");
    let edges = |text: &str, arrow: &str| text.lines().filter(|line| line.contains(arrow)).count();
    assert_eq!((edges(&dot, "->"), edges(&mermaid, "-->")), (2, 2), "{dot}\n{mermaid}");
}

#[test]
fn log_prints_the_newest_log_and_names_what_is_near() {
    let project = Project::new();
    project.ok(&["run", "numbers/sum"]);
    assert_eq!(project.ok(&["log", "numbers/draw/1"]), "drawing 1\n");
    let Said(code, _, err) = project.chariot(&["log", "numbers/draw"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("several actions") && err.contains("numbers/draw/2"), "{err}");
    let Said(code, _, err) = project.chariot(&["log", "numbers/sun"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("did you mean `numbers/sum`"), "{err}");
    assert_eq!(project.chariot(&["run", "failing/bad"]).0, Some(1));
    assert_eq!(project.ok(&["log", "failing/bad"]), "what went wrong\n");
}

#[test]
fn a_failure_stops_the_run_or_is_gone_around() {
    let project = Project::new();
    let Said(code, _, err) = project.chariot(&["run", "-k", "failing"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("failing/bad") && err.contains("what went wrong"), "{err}");
    assert!(project.exists("out/failing/good/o") && !project.exists("out/failing/bad/o"));
    let status = project.ok(&["status", "failing"]);
    assert!(status.lines().any(|line| line.contains("failing/bad") && line.contains("failed")), "{status}");
}

#[test]
fn list_and_schema_say_what_there_is() {
    let project = Project::new();
    let list = project.ok(&["list"]);
    for name in ["numbers", "failing", "stubborn", "train"] {
        assert!(list.contains(name), "{list}");
    }
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines/schema.json");
    assert_eq!(project.ok(&["schema"]), fs_err::read_to_string(committed).unwrap());
}

#[test]
fn clean_takes_out_away_and_keeps_results() {
    let project = Project::new();
    project.ok(&["run", "numbers/sum"]);
    let mine = project.root.join("out/numbers/notes.txt");
    fs_err::write(&mine, "mine").unwrap();
    let told = project.ok(&["clean"]);
    assert!(told.starts_with("removed 3 files"), "{told}");
    assert!(!project.exists("out/numbers/sum/sum.txt"));
    assert!(mine.exists(), "a file of the user's is not ours to remove");
    let told = project.ok(&["run", "numbers/sum"]);
    assert!(told.contains("0 actions run") || told.contains("nothing to do"), "{told}");
    assert!(project.exists("out/numbers/sum/sum.txt"));
}

#[test]
fn gc_removes_what_no_pipeline_needs_and_only_that() {
    let project = Project::new();
    project.ok(&["run", "numbers/sum"]);
    project.ok(&["run", "numbers/sum", "--set", "seeds=[7]"]);
    let before = project.blobs().len();
    let told = project.ok(&["gc"]);
    assert!(told.starts_with("removed 0 results"), "what is young stays: {told}");
    let told = project.ok(&["gc", "-n", "--keep-days", "0"]);
    assert!(told.starts_with("would remove 2 results"), "{told}");
    assert_eq!(project.blobs().len(), before);
    let told = project.ok(&["gc", "--keep-days", "0"]);
    assert!(told.starts_with("removed 2 results"), "{told}");
    assert!(project.blobs().len() < before);
    assert!(
        project.ok(&["plan", "numbers/sum"]).contains("nothing to do"),
        "what the pipeline needs is there"
    );
}

#[test]
fn gc_verify_finds_damage_and_the_next_run_mends_it() {
    let project = Project::new();
    project.ok(&["run", "numbers/sum"]);
    assert!(project.ok(&["gc", "--verify"]).contains("0 were damaged"));
    let sum = |blob: &&Utf8PathBuf| fs_err::read(blob).unwrap() == b"sum 1+2\n";
    let blob = project.blobs().iter().find(sum).unwrap().clone();
    let mut permissions = fs_err::metadata(&blob).unwrap().permissions();
    #[allow(clippy::permissions_set_readonly_false, reason = "the damage that the test does")]
    permissions.set_readonly(false);
    fs_err::set_permissions(&blob, permissions).unwrap();
    fs_err::write(&blob, "sum 1+3\n").unwrap();
    let Said(code, out, err) = project.chariot(&["gc", "--verify"]);
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(out.contains("1 were damaged") && err.contains("moved aside"), "{out}{err}");
    let told = project.ok(&["run", "numbers/sum"]);
    assert!(told.contains("sum 1+2"), "{told}");
}

#[test]
fn gpus_are_counted() {
    let project = Project::new();
    let Said(code, _, err) = project.chariot(&["run", "--gpus", "1", "numbers/train"]);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("2 GPUs") || err.contains("gpu"), "{err}");
    project.ok(&["run", "--gpus", "2", "numbers/train"]);
}

#[test]
fn another_chariot_is_waited_for_or_told_of() {
    let project = Project::new();
    let mut first = project.start_stubborn();
    for args in [&["run", "--no-wait", "stubborn/other"][..], &["clean", "--no-wait"], &["gc", "--no-wait"]] {
        let Said(code, _, err) = project.chariot(args);
        assert_eq!(code, Some(1), "{err}");
        assert!(err.contains("chariot"), "{err}");
    }
    project.ok(&["status", "stubborn"]);
    let mut second = project.command(&["run", "stubborn/other"]).stderr(Stdio::null()).spawn().unwrap();
    assert!(second.try_wait().unwrap().is_none(), "it waits");
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(second.wait().unwrap().success());
    assert!(!project.stubborn_runs(), "what the killed run left was ended by the next");
}

#[test]
fn a_second_interrupt_ends_what_ignores_the_first() {
    let project = Project::new();
    let mut child = project.start_stubborn();
    let run = Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(run, Signal::SIGINT).unwrap();
    // Signals of one kind do not queue: the second is sent until the run has ended.
    for _ in 0..500 {
        std::thread::sleep(Duration::from_millis(10));
        if child.try_wait().unwrap().is_some() {
            break;
        }
        kill(run, Signal::SIGINT).unwrap();
    }
    let said = Said::from(child.wait_with_output().unwrap());
    assert_eq!(said.0, Some(130), "{}", said.2);
    assert!(!project.stubborn_runs(), "no orphan");
    assert!(project.ok(&["status", "stubborn"]).contains("stubborn/sleep"));
}

#[test]
fn mistakes_on_the_command_line_are_named_with_a_way_out() {
    let project = Project::new();
    for (args, said) in [
        (&["run", "numbrs"][..], "did you mean `numbers`?"),
        (
            &["run", "pipelines/numbers.yaml"],
            "found the path `pipelines/numbers.yaml`\n  help: say `numbers`",
        ),
        (&["plan", "elsewhere/other.yaml"], "and say `other`"),
        (&["run", "numbers/drow"], "did you mean `numbers/draw`"),
        (&["run", "numbers", "--set", "sedes=[1]"], "did you mean `seeds`"),
        (&["run", "numbers", "--set", "seeds"], "expected NAME=VALUE"),
        (&["run", "numbers/draw/9*"], "numbers/draw/9*"),
        (&["run"], "TARGET"),
        (&["-C", "nowhere", "list"], "nowhere"),
    ] {
        let Said(code, out, err) = project.chariot(args);
        assert_eq!(code, Some(2), "{args:?}: {out}{err}");
        assert!(err.contains(said), "{args:?}: expected `{said}` in:\n{err}");
    }
}
