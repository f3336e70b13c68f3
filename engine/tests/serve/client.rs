//! The official Python client of OpenAI against the real server.

use std::process::Command;

use serde_json::json;

use super::folder::Folder;
use super::server::{NAME, Server, golden};

/// An interpreter that has the packages of .ci/requirements.txt; `None`, said aloud, where nobody named one.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn python() -> Option<String> {
    let named = std::env::var("CHARIOT_PYTHON").ok();
    if named.is_none() {
        let what =
            "SKIPPED: CHARIOT_PYTHON names no Python with the packages of .ci/requirements.txt; .ci/run does";
        eprintln!("{what}");
    }
    named
}

fn passes(server: &Server, what: &str, more: &str) {
    let Some(python) = python() else { return };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/serve/client.py");
    let url = format!("http://{}/v1", server.address);
    let output = Command::new(python).args([script, what, &url, NAME, more]).output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success() && out.trim() == format!("{what}: passed"), "{out}{err}");
}

#[test]
fn openais_client_reads_tokens() {
    let server = Server::start(
        "falcon-new",
        &["--tp", "2", "--batch-cap", "1", "--queue", "1", "--max-model-len", "9000"],
    );
    let (prompt, greedy) = golden("falcon-new").swap_remove(0);
    passes(&server, "tokens", &json!({"prompt": prompt, "greedy": greedy}).to_string());
}

#[test]
fn openais_client_reads_text_and_chats() {
    let folder = Folder::with_text(&json!({}));
    let server = Server::start(folder.path().as_str(), &[]);
    passes(&server, "text", &json!({"prompt": golden(super::folder::MODEL)[0].0}).to_string());
}
