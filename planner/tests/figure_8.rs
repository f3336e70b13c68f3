//! Figure 8 from end to end through the real binaries: what a newcomer types, and what the README promises of it.
//!
//! The engine and the results tool must have been built beside `chariot` (`.ci/run` builds the workspace first).

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod project;

use std::collections::BTreeMap;
use std::process::Stdio;

use project::Project;

/// Fewer requests than the experiment's, so that unoptimised binaries finish in seconds.
const SMALL: &[&str] = &["--set", "requests=128"];

/// What this file does with a project.
trait FigureEight {
    fn run_small(&self, more: &[&str]) -> String;
    fn edit(&self, from: &str, to: &str);
}

impl FigureEight for Project {
    fn run_small(&self, more: &[&str]) -> String {
        self.ok(&[&["run", "figure-8"], SMALL, more].concat())
    }

    fn edit(&self, from: &str, to: &str) {
        let path = self.dir.path().join("pipelines/figure-8.yaml");
        let text = fs_err::read_to_string(&path).unwrap();
        assert!(text.contains(from), "expected `{from}` in figure-8.yaml");
        fs_err::write(&path, text.replace(from, to)).unwrap();
    }
}

#[track_caller]
fn assert_same(left: &BTreeMap<String, Vec<u8>>, right: &BTreeMap<String, Vec<u8>>) {
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(left), names(right));
    for (name, bytes) in left {
        assert!(bytes == &right[name], "{name} differs");
    }
}

#[test]
fn a_rerun_has_nothing_to_do_and_the_files_are_where_the_readme_says() {
    let project = Project::new();
    let first = project.run_small(&[]);
    assert!(first.contains("(simulated)"), "{first}");
    assert!(first.contains("Published claims and what came out (simulated)"), "{first}");
    assert!(
        first.contains("direction only") || first.contains("not reproduced"),
        "short, and exit 0: {first}"
    );
    let files = project.out();
    for figure in ["figure-8a", "figure-8b"] {
        for kind in ["svg", "png", "csv", "json"] {
            let name = format!("figure-8/{figure}.{kind}");
            assert!(files.contains_key(&name), "expected {name} among {:?}", files.keys());
        }
        let svg = String::from_utf8_lossy(&files[&format!("figure-8/{figure}.svg")]).into_owned();
        assert!(svg.contains("simulated"), "{figure}.svg does not say simulated");
    }
    let header = |name: &str| String::from_utf8_lossy(&files[name]).lines().next().unwrap().to_owned();
    assert_eq!(header("figure-8/figure-8a.csv"), "parallel,batch,metric,value_ms,low_ms,high_ms");
    assert_eq!(header("figure-8/figure-8b.csv"), "system,slo,capacity_qps,low_qps,high_qps");

    let again = project.run_small(&[]);
    assert!(again.contains("nothing to do"), "{again}");
    assert_same(&files, &project.out());
}

#[test]
fn outputs_are_the_same_bytes_at_every_j_and_after_kills() {
    let undisturbed = Project::new();
    undisturbed.run_small(&["-j1"]);
    let expected = undisturbed.out();

    let parallel = Project::new();
    parallel.run_small(&["-j2"]);
    assert_same(&expected, &parallel.out());

    let killed = Project::new();
    let mut kills = 0;
    for round in 1..=8_u64 {
        let mut child = killed
            .command(&[&["run", "figure-8", "-j2"], SMALL].concat())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(120 + 97 * round));
        kills += u32::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(kills > 0, "expected at least one run to be killed before its end");
    killed.run_small(&[]);
    assert_same(&expected, &killed.out());
}

/// The addresses that `chariot plan` says will run for certain.
fn planned(project: &Project, more: &[&str]) -> Vec<String> {
    let plan = project.ok(&[&["plan", "figure-8"], SMALL, more].concat());
    let runs = plan.lines().filter_map(|line| line.strip_prefix("run "));
    runs.map(|line| line.trim().split(':').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn an_edit_reruns_what_depends_on_it_and_no_more() {
    let project = Project::new();
    project.run_small(&[]);
    assert_eq!(planned(&project, &[]), [""; 0]);

    let batch_256 = planned(&project, &["--set", "batches=[8,16,32,64,128,256]"]);
    assert_eq!(batch_256, ["figure-8/latency/tp8-b256", "figure-8/latency/tp4-pp2-b256"]);

    let chunk_256 = planned(&project, &["--set", "chunk=256"]);
    let (trials, others): (Vec<_>, Vec<_>) = chunk_256.iter().partition(|a| a.contains("/latency/"));
    assert_eq!((trials.len(), others), (10, vec![&"figure-8/capacity/Sarathi-hybrid-strict".to_owned()]));

    project.edit("p50(scheduling_delay) <= 2 s", "p50(scheduling_delay) <= 3 s");
    let slo = planned(&project, &[]);
    assert!(!slo.is_empty() && slo.iter().all(|a| a.starts_with("figure-8/capacity/")), "{slo:?}");
    project.edit("p50(scheduling_delay) <= 3 s", "p50(scheduling_delay) <= 2 s");

    project.edit("metrics: [p50(tbt_decode_only), p99(tbt_decode_only)]", "metrics: [p50(tbt_decode_only)]");
    assert_eq!(planned(&project, &[]), ["figure-8/figure-8a"]);
}
