//! The rules, each a function from sources to breaches. Knows nothing of the file system.

use std::collections::{BTreeMap, BTreeSet};

/// A file of the workspace.
pub(crate) struct Source {
    /// Relative to the workspace.
    pub(crate) path: String,
    pub(crate) text: String,
}

const LINES_MAX: usize = 600;
const BANNED_NAMES: [&str; 6] = ["utils", "util", "common", "helpers", "helper", "types"];

/// Word -> why not. Split, so that this file keeps its own rule.
const BANNED_WORDS: [(&str, &str); 8] = [
    (concat!("to", "do!"), "unfinished"),
    (concat!("unimple", "mented!"), "unfinished"),
    (concat!("FIX", "ME"), "unfinished"),
    (concat!("#[ig", "nore"), "a test that is not run proves nothing"),
    (concat!("#[should", "_panic"), "it passes for any panic"),
    (concat!("/ho", "me/"), "the path of one machine"),
    (concat!("/ro", "ot/"), "the path of one machine"),
    (concat!("/wo", "rk/"), "the path of one machine"),
];

/// Folder or file, what it must not name, why.
const FORBIDDEN: [(&str, &[&str], &str); 4] = [
    ("engine/src/sched", PURE, "the scheduler is pure"),
    ("planner/src/search", PURE, "the search is pure"),
    ("planner/src/plan.rs", PURE, "the plan is pure"),
    (
        "engine/src/sim",
        &["crate::backend", "crate::model", "crate::runtime", "crate::comm"],
        "the simulator runs no model",
    ),
];

const PURE: &[&str] = &[
    "std::fs",
    "fs_err",
    "std::time::Instant",
    "Instant::now",
    "SystemTime",
    "std::thread",
    "std::net",
    "std::env",
    "tracing",
    "rand",
    "rand_chacha",
    "println",
    "eprintln",
];

const UNSAFE_ALLOWED: [&str; 44] = [
    "engine/cuda-double/src/blas.rs",
    "engine/cuda-double/src/collective.rs",
    "engine/cuda-double/src/context.rs",
    "engine/cuda-double/src/copies.rs",
    "engine/cuda-double/src/cuda.rs",
    "engine/cuda-double/src/fiber.rs",
    "engine/cuda-double/src/gemm.rs",
    "engine/cuda-double/src/launch.rs",
    "engine/cuda-double/src/memory.rs",
    "engine/cuda-double/src/module.rs",
    "engine/cuda-double/src/nccl.rs",
    "engine/cuda-double/src/nvml.rs",
    "engine/cuda-double/src/nvrtc.rs",
    "engine/cuda-double/src/pinned.rs",
    "engine/cuda-double/src/status.rs",
    "engine/cuda-double/src/wrong.rs",
    "engine/cuda-double/tests/programs/blas.rs",
    "engine/cuda-double/tests/programs/compiler.rs",
    "engine/cuda-double/tests/programs/graphs.rs",
    "engine/cuda-double/tests/programs/kernels.rs",
    "engine/cuda-double/tests/programs/kernels/card.rs",
    "engine/cuda-double/tests/programs/main.rs",
    "engine/cuda-double/tests/programs/memory.rs",
    "engine/cuda-double/tests/programs/nccl.rs",
    "engine/cuda-double/tests/programs/ranks.rs",
    "engine/cuda-double/tests/programs/streams.rs",
    "engine/cuda-double/tests/programs/stuck.rs",
    "engine/src/backend/cpu/attention.rs",
    "engine/src/backend/cpu/gemm.rs",
    "engine/src/backend/cpu/lanes.rs",
    "engine/src/backend/cpu/pool.rs",
    "engine/src/backend/cuda/blas.rs",
    "engine/src/backend/cuda/hardware.rs",
    "engine/src/backend/cuda/launch.rs",
    "engine/src/backend/cuda/library.rs",
    "engine/src/backend/cuda/memory.rs",
    "engine/src/backend/cuda/nccl.rs",
    "engine/src/backend/cuda/nvml.rs",
    "engine/src/backend/cuda/nvrtc.rs",
    "engine/src/comm/mapping.rs",
    "engine/src/model/mmap.rs",
    "engine/tests/allocations.rs",
    "engine/tests/file_memory.rs",
    "engine/tests/worker_allocations.rs",
];

/// Crate's folder -> crates of ours it may depend on.
const DEPENDENCIES: [(&str, &[&str]); 6] = [
    ("cache", &[]),
    ("planner", &["chariot-cache"]),
    // In tests alone.
    ("engine", &["chariot-cuda-double"]),
    ("engine/cuda-double", &[]),
    ("engine/ptx", &[]),
    ("results", &[]),
];

impl Source {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn is_test(&self) -> bool {
        let is_test_part = |part| matches!(part, "tests" | "tests.rs" | "benches" | "examples");
        self.path.split('/').any(is_test_part)
    }

    /// Lines outside of the test module and of comments, numbered from 1.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let tests = "#[cfg(test)]\nmod tests";
        let end = self.text.find(tests).unwrap_or(self.text.len());
        let lines = self.text[..end].lines().enumerate().map(|(i, line)| (i + 1, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    fn breach(&self, line: usize, what: impl std::fmt::Display) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

/// Whether `word` stands in `line` as a word of its own.
fn names(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        let opens = !word.starts_with(is_part) || !before.ends_with(is_part);
        opens && (!word.ends_with(is_part) || !after.starts_with(is_part))
    })
}

pub(crate) fn banned_words(source: &Source) -> Vec<String> {
    let mut breaches = Vec::new();
    for (number, line) in (1..).zip(source.text.lines()) {
        for (word, reason) in BANNED_WORDS {
            // Part of a longer path is not the path of a machine.
            let is_inside = |at: usize| {
                word.starts_with('/')
                    && line[..at].ends_with(|c: char| c.is_alphanumeric() || "_-.}<>*".contains(c))
            };
            if line.match_indices(word).any(|(at, _)| !is_inside(at)) {
                breaches.push(source.breach(number, format_args!("{word}: {reason}")));
            }
        }
        let attribute = line.split_once(concat!("#[ser", "de(")).map_or("", |(_, rest)| rest);
        let attribute = attribute.split(")]").next().unwrap_or("");
        if source.is_rust() && ["flatten", "untagged"].iter().any(|word| names(attribute, word)) {
            breaches.push(
                source
                    .breach(number, "serde's flatten and untagged lose the place and the name of a mistake"),
            );
        }
    }
    breaches
}

pub(crate) fn length(source: &Source) -> Vec<String> {
    if !source.is_rust() || source.is_test() {
        return Vec::new();
    }
    let tests = source.text.find("#[cfg(test)]\nmod tests {").unwrap_or(source.text.len());
    let lines = source.text[..tests].lines().count();
    let is_long = lines > LINES_MAX;
    is_long
        .then(|| source.breach(LINES_MAX, format_args!("expected at most {LINES_MAX} lines, found {lines}")))
        .into_iter()
        .collect()
}

pub(crate) fn name(source: &Source) -> Vec<String> {
    let stem = |part: &str| part.split('.').next().unwrap_or(part).to_owned();
    let banned = source
        .path
        .split('/')
        .map(stem)
        .find(|part| source.is_rust() && BANNED_NAMES.contains(&part.as_str()));
    banned
        .map(|part| source.breach(1, format_args!("{part} says nothing of what it holds")))
        .into_iter()
        .collect()
}

pub(crate) fn imports(source: &Source) -> Vec<String> {
    if !source.is_rust() || source.is_test() {
        return Vec::new();
    }
    let mut breaches = Vec::new();
    for (folder, words, reason) in FORBIDDEN.iter().filter(|(folder, ..)| source.path.starts_with(folder)) {
        for (number, line) in source.code() {
            for word in words.iter().filter(|word| names(line, word)) {
                breaches.push(source.breach(number, format_args!("{word} in {folder}: {reason}")));
            }
        }
    }
    breaches
}

pub(crate) fn unsafe_code(source: &Source) -> Vec<String> {
    if !source.is_rust() || UNSAFE_ALLOWED.contains(&source.path.as_str()) {
        return Vec::new();
    }
    let openings = [concat!("uns", "afe {"), concat!("uns", "afe fn"), concat!("uns", "afe impl")];
    let is_unsafe = |line: &str| openings.iter().any(|opening| names(line, opening));
    let lines = source.code().filter(|(_, line)| is_unsafe(line));
    lines.map(|(number, _)| source.breach(number, "unsafe outside of the files that may")).collect()
}

/// Where the blocks of the CUDA backend are listed.
const UNSAFE_TABLE: &str = "docs/cuda.md";

/// Each file's row has its blocks, an implementation of a trait among them, and the lines these take.
pub(crate) fn unsafe_table(sources: &[Source]) -> Vec<String> {
    let Some(table) = sources.iter().find(|source| source.path == UNSAFE_TABLE) else {
        return vec![format!("{UNSAFE_TABLE}: expected a table of the unsafe blocks, found no file")];
    };
    let mut breaches = Vec::new();
    for source in sources {
        let Some(file) = source.path.strip_prefix("engine/src/backend/cuda/") else { continue };
        let blocks = unsafe_blocks(source);
        let lines: usize = blocks.iter().map(|block| block.lines().count()).sum();
        let row = format!("| `{file}` | {} | {lines} | ", blocks.len());
        if !blocks.is_empty() && !table.text.contains(&row) {
            breaches.push(table.breach(1, format_args!("expected the row `{row}`, found none")));
        }
    }
    breaches
}

fn unsafe_blocks(source: &Source) -> Vec<String> {
    let code: String = source.code().map(|(_, line)| format!("{line}\n")).collect();
    let openings = [concat!("uns", "afe {"), concat!("uns", "afe impl")];
    let starts = openings.iter().flat_map(|opening| code.match_indices(opening));
    starts.map(|(start, _)| code[start..=start + closing(&code[start..])].to_owned()).collect()
}

/// Where the brace that opens first is closed.
fn closing(text: &str) -> usize {
    let mut depth = 0;
    for (at, character) in text.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 1 => return at,
            '}' => depth -= 1,
            _ => {}
        }
    }
    text.len() - 1
}

pub(crate) fn dependencies(source: &Source) -> Vec<String> {
    let allowed = DEPENDENCIES.iter().find(|(folder, _)| source.path == format!("{folder}/Cargo.toml"));
    let Some((folder, allowed)) = allowed else { return Vec::new() };
    let mut breaches = Vec::new();
    for (number, line) in (1..).zip(source.text.lines()) {
        let key = line.split(['=', '.', ' ']).next().unwrap_or("");
        let is_path = line.contains("path = \"..");
        if is_path || key.starts_with("chariot") && !allowed.contains(&key) {
            breaches.push(source.breach(
                number,
                format_args!("{folder} may depend on {allowed:?} of our crates, found {line}"),
            ));
        }
    }
    breaches
}

/// The top-level module of a source, and its crate.
fn module(path: &str) -> Option<(&str, &str)> {
    let (krate, rest) = path.split_once("/src/")?;
    let module = rest.split(['/', '.']).next()?;
    (!matches!(module, "lib" | "main" | "bin")).then_some((krate, module))
}

/// The modules that a line names after `crate::`, alone or in braces.
fn named_modules(line: &str) -> Vec<String> {
    let ident =
        |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    for (at, prefix) in line.match_indices("crate::") {
        let rest = &line[at + prefix.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.push(ident(rest));
            continue;
        };
        let mut depth = 0;
        let at_top = |c: char| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth == 0 && c == ','
        };
        found.extend(list.split(at_top).map(|item| ident(item.trim_start())));
    }
    found
}

type Edges<'a> = BTreeMap<&'a str, BTreeSet<String>>;

/// One message for each crate whose top-level modules import each other in a circle.
pub(crate) fn cycles(sources: &[Source]) -> Vec<String> {
    let mut crates: BTreeMap<&str, Edges<'_>> = BTreeMap::new();
    for source in sources.iter().filter(|s| s.is_rust() && !s.is_test()) {
        let Some((krate, module)) = module(&source.path) else { continue };
        // Joined, so that an import over several lines is one.
        let code: String = source.code().map(|(_, line)| line).collect();
        let targets = named_modules(&code).into_iter().filter(|target| target != module);
        crates.entry(krate).or_default().entry(module).or_default().extend(targets);
    }
    let found = crates
        .iter()
        .filter_map(|(krate, edges)| Some((krate, edges.keys().find_map(|from| cycle(edges, from))?)));
    found
        .map(|(krate, path)| format!("{krate}/src: modules import each other: {}", path.join(" -> ")))
        .collect()
}

/// A shortest way from a module back to itself.
fn cycle(edges: &Edges<'_>, start: &str) -> Option<Vec<String>> {
    let mut paths = std::collections::VecDeque::from([vec![start.to_owned()]]);
    let mut seen = BTreeSet::new();
    while let Some(path) = paths.pop_front() {
        for next in edges.get(path.last()?.as_str()).into_iter().flatten() {
            let longer: Vec<_> = path.iter().chain([next]).cloned().collect();
            if next == start {
                return Some(longer);
            }
            if seen.insert(next.clone()) {
                paths.push_back(longer);
            }
        }
    }
    None
}

/// Each rule fails where it should, and only there.
mod proofs {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    fn count(rule: fn(&Source) -> Vec<String>, path: &str, text: &str) -> usize {
        rule(&source(path, text)).len()
    }

    #[test]
    fn banned_words_are_seen_in_every_kind_of_file() {
        for (word, reason) in BANNED_WORDS {
            let found = banned_words(&source("README.md", &format!("first\nthen {word}x")));
            assert_eq!(found, [format!("README.md:2: {word}: {reason}")]);
        }
        let loose = concat!("#[ser", "de(default, flat", "ten)]");
        assert_eq!(count(banned_words, "a/src/b.rs", loose), 1);
        assert_eq!(count(banned_words, "a/src/b.rs", "#[serde(default)] iter.flatten()"), 0);
        assert_eq!(count(banned_words, "a.md", concat!(".chariot/wo", "rk/x and {root}/wo", "rk/y")), 0);
    }

    #[test]
    fn long_files_are_seen_without_their_tests() {
        let body = "x\n".repeat(LINES_MAX);
        assert_eq!(count(length, "a/src/b.rs", &body), 0);
        assert_eq!(count(length, "a/src/b.rs", &format!("{body}x")), 1);
        assert_eq!(count(length, "a/src/b.rs", &format!("{body}#[cfg(test)]\nmod tests {{\n{body}}}")), 0);
        assert_eq!(count(length, "a/tests/b.rs", &format!("{body}x")), 0);
    }

    #[test]
    fn empty_names_are_seen() {
        assert_eq!(count(name, "a/src/utils.rs", ""), 1);
        assert_eq!(count(name, "a/src/common/mod.rs", ""), 1);
        assert_eq!(count(name, "a/src/commons.rs", ""), 0);
    }

    #[test]
    fn forbidden_imports_are_seen_in_their_folder_only() {
        for word in PURE {
            assert!(count(imports, "engine/src/sched/policy.rs", &format!("use {word};")) > 0, "{word}");
        }
        assert_eq!(count(imports, "engine/src/workload/mod.rs", "use rand::Rng;"), 0);
        assert_eq!(count(imports, "engine/src/sched/a.rs", "let operand = random_looking;\n// tracing"), 0);
        assert_eq!(count(imports, "engine/src/sched/a.rs", "#[cfg(test)]\nmod tests { use rand; }"), 0);
        assert_eq!(count(imports, "engine/src/sim/cost.rs", "use crate::model::Falcon;"), 1);
        assert_eq!(count(imports, "engine/src/sim/cost.rs", "use crate::model_shape::Shape;"), 0);
    }

    #[test]
    fn unsafe_code_is_seen() {
        let code = concat!("let x = uns", "afe { *p };");
        assert_eq!(count(unsafe_code, "engine/src/lib.rs", code), 1);
        assert_eq!(count(unsafe_code, UNSAFE_ALLOWED[0], code), 0);
        assert_eq!(count(unsafe_code, "engine/src/lib.rs", "#![deny(unsafe_code)]"), 0);
    }

    #[test]
    fn a_wrong_count_of_unsafe_blocks_is_seen() {
        let code =
            concat!("uns", "afe {\n    f(|| {});\n}\n// uns", "afe {\nuns", "afe impl Send for A {}\n");
        let breaches = |row: &str| {
            unsafe_table(&[source("engine/src/backend/cuda/a.rs", code), source(UNSAFE_TABLE, row)]).len()
        };
        assert_eq!(["| `a.rs` | 2 | 4 | all |", "| `a.rs` | 2 | 3 | all |", ""].map(breaches), [0, 1, 1]);
    }

    #[test]
    fn wrong_dependencies_are_seen() {
        assert_eq!(count(dependencies, "planner/Cargo.toml", "chariot-engine.workspace = true"), 1);
        assert_eq!(count(dependencies, "planner/Cargo.toml", "engine = { path = \"../engine\" }"), 1);
        assert_eq!(
            count(dependencies, "planner/Cargo.toml", "chariot-cache.workspace = true\nserde = \"1\""),
            0
        );
        assert_eq!(count(dependencies, "engine/Cargo.toml", "chariot-cache.workspace = true"), 1);
    }

    #[test]
    fn circles_of_modules_are_seen() {
        let ring = |last: &str| {
            cycles(&[
                source("x/src/a.rs", "use crate::{b::{C, D}, e};"),
                source("x/src/b/mod.rs", "use crate::a_longer;\nuse crate::c::C;"),
                source("x/src/c.rs", last),
                source("x/src/lib.rs", "use crate::a;"),
            ])
        };
        assert_eq!(ring("use crate::a::A;"), ["x/src: modules import each other: a -> b -> c -> a"]);
        assert_eq!(ring("use crate::e::A; // crate::c"), Vec::<String>::new());
        assert_eq!(ring("#[cfg(test)]\nmod tests {\nuse crate::a;}"), Vec::<String>::new());
        assert_eq!(named_modules("use crate::{b::{C, D}, e}; crate::f()"), ["b", "e", "f"]);
    }
}
