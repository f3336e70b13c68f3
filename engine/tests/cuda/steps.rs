//! What a step waits for, by what the double is asked for: its tokens alone, and other ranks for as long as they take.

use std::time::{Duration, Instant};

use crate::double::Double;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/golden/falcon-new");
const TOKENS: usize = 8;

/// Generates over two stages.
fn generate(double: &Double, more: &[&str]) {
    let tokens = TOKENS.to_string();
    let arguments = ["generate", "--backend", "cuda", "--ignore-eos", "--pp", "2", "--prompt-ids", "1,2,3"];
    let model = ["--model", MODEL, "--max-tokens", &tokens];
    let output = double.run(&[&arguments[..], &model, more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// How often a process went from one call to the next of another kind, and how often it waited on these ways.
fn ways(calls: &[String], from: &str, to: &str) -> (usize, usize) {
    let (mut ways, mut waits, mut waited) = (0, 0, None);
    for call in calls {
        match (call.as_str(), &mut waited) {
            ("wait", Some(so_far)) => *so_far += 1,
            (call, Some(so_far)) if call == to => {
                (ways, waits) = (ways + 1, waits + *so_far);
                waited = None;
            }
            (call, None) if call == from => waited = Some(0),
            _ => {}
        }
    }
    (ways, waits)
}

/// Steps of a run, and waits within them, of the first stage and of the last, which ends with this kernel.
fn steps_and_waits(kernel: &str, more: &[&str]) -> [(usize, usize); 2] {
    let folder = tempfile::tempdir().unwrap();
    let double = Double::new().with("CHARIOT_DOUBLE_TRACE", folder.path().to_str().unwrap());
    generate(&double, &[&["--no-graphs"], more].concat());
    let read = |path: std::path::PathBuf| -> Vec<String> {
        fs_err::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
    };
    let traces = fs_err::read_dir(folder.path()).unwrap().map(|entry| read(entry.unwrap().path()));
    let (mut first, mut last) = ((0, 0), (0, 0));
    for calls in traces {
        let add = |sum: (usize, usize), more: (usize, usize)| (sum.0 + more.0, sum.1 + more.1);
        first = add(first, ways(&calls, "embed", "send"));
        last = add(last, ways(&calls, "recv", kernel));
        // That it would be seen: the tokens are waited for.
        let (ways, waits) = ways(&calls, kernel, "recv");
        assert!(waits >= ways, "{waits} waits in {ways} steps");
    }
    [first, last]
}

#[test]
fn nothing_in_a_step_is_waited_for_but_its_tokens() {
    assert_eq!(steps_and_waits("argmax", &[]), [(TOKENS, 0); 2]);
    assert_eq!(steps_and_waits("draw", &["--temperature", "0.8", "--top-p", "0.9"]), [(TOKENS, 0); 2]);
}

/// Each stage takes less than a rank's patience for one of the steps, both together more.
#[test]
#[expect(clippy::disallowed_methods, reason = "a test tells how long a run took")]
fn a_stage_waits_longer_for_another_than_for_its_own_gpu() {
    let began = Instant::now();
    generate(&Double::new().with("CHARIOT_DOUBLE_SLOW", "gelu:5000").impatient(), &[]);
    assert!(began.elapsed() > Duration::from_secs(10), "expected two slow stages");
}
