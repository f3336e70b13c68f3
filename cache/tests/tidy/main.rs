//! Holds the rules of the house that a machine can: walks the workspace and fails with file, line and reason.

#![allow(clippy::unwrap_used, reason = "a test may; clippy knows only functions marked as tests")]

mod rules;

use camino::{Utf8Path, Utf8PathBuf};
use rules::Source;

/// Directories that hold nothing of ours, or what tools wrote.
const SKIPPED: [&str; 5] = ["target", ".git", ".chariot", "out", "node_modules"];
/// Kinds of files that people write here.
const WRITTEN: [&str; 7] = ["rs", "toml", "md", "yaml", "yml", "sh", "cu"];

fn walk(dir: &Utf8Path, root: &Utf8Path, sources: &mut Vec<Source>) {
    for entry in dir.read_dir_utf8().unwrap() {
        let path = entry.unwrap().into_path();
        let name = path.file_name().unwrap();
        if path.is_dir() {
            if !SKIPPED.contains(&name) {
                walk(&path, root, sources);
            }
        } else if path.extension().is_some_and(|e| WRITTEN.contains(&e)) || path.ends_with(".ci/run") {
            let text = fs_err::read_to_string(&path).unwrap();
            sources.push(Source { path: path.strip_prefix(root).unwrap().to_string(), text });
        }
    }
}

fn workspace() -> Vec<Source> {
    let root = Utf8PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
    let mut sources = Vec::new();
    walk(&root, &root, &mut sources);
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(sources.iter().any(|s| s.path == "cache/src/lib.rs"), "the walk must see the workspace");
    sources
}

fn check(rule: impl Fn(&Source) -> Vec<String>) {
    let breaches: Vec<_> = workspace().iter().flat_map(rule).collect();
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

#[test]
fn no_banned_words() {
    check(rules::banned_words);
}

#[test]
fn files_are_short() {
    check(rules::length);
}

#[test]
fn files_are_named_for_what_they_hold() {
    check(rules::name);
}

#[test]
fn folders_import_only_what_they_may() {
    check(rules::imports);
}

#[test]
fn unsafe_is_where_it_is_allowed() {
    check(rules::unsafe_code);
}

#[test]
fn unsafe_blocks_of_the_cuda_backend_are_listed() {
    let breaches = rules::unsafe_table(&workspace());
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

#[test]
fn crates_depend_on_each_other_as_designed() {
    check(rules::dependencies);
}

#[test]
fn modules_form_no_cycle() {
    let breaches = rules::cycles(&workspace());
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}
