//! A pipeline file's outline: its parameters and its targets, each still a tree. Knows sweeps and recipes by their keys only.

use std::collections::BTreeMap;
use std::rc::Rc;

use schemars::JsonSchema;

use crate::diagnostic::{Mistake, SourceId, Span};
use crate::node::{Entry, Meaning, Node, Value};
use crate::recipe::{On, Recipe};

/// The language version this build reads.
pub const VERSION: i128 = 1;

/// A pipeline as the schema describes it; reading goes through [`Outline`], which keeps sweeps and `${}` open.
#[expect(dead_code, reason = "only its schema is used")]
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, title = "Chariot pipeline")]
pub struct PipelineFile {
    /// Version of the language: 1.
    #[schemars(range(min = 1, max = 1))]
    chariot: u32,
    /// What the experiment is about.
    about: Option<String>,
    /// The platform of its clusters: a preset of `platforms/`, or a path. `${platform}` refers to it.
    platform: Option<String>,
    /// Whether trials are simulated, or run on processes of this host or on GPUs, where a cluster does not say; `chariot run --on` changes it. Default: simulator.
    on: Option<On>,
    /// Named values, referred to by `${name}` and `${name.field}`, changed by `--set name=value`.
    #[schemars(default)]
    params: BTreeMap<String, serde_json::Value>,
    /// What can be asked for.
    targets: BTreeMap<String, Recipe>,
}

/// A pipeline file, its sweeps and `${}` still open.
#[derive(Debug)]
pub struct Outline {
    /// Parameters by name; the top-level `platform` and `on` are two.
    pub params: BTreeMap<Rc<str>, Entry>,
    /// Targets in the order written.
    pub targets: Vec<Target>,
}

/// A target, its sweep and `${}` still open.
#[derive(Debug)]
pub struct Target {
    /// Its name.
    pub name: Rc<str>,
    /// Where its name stands.
    pub span: Span,
    /// `for`.
    pub sweep: Option<Entry>,
    /// `exclude`.
    pub exclude: Option<Node>,
    /// `name`: the template of instances' names.
    pub instance_name: Option<Node>,
    /// All other keys.
    pub body: Node,
}

const TOP: [&str; 6] = ["chariot", "about", "platform", "on", "params", "targets"];

/// The top-level keys that are parameters too: they can be set and referred to, and need not be.
pub const TOP_PARAMS: [&str; 2] = ["platform", "on"];

/// The keys of a target that are not its recipe's.
pub const SWEEP_KEYS: [&str; 3] = ["for", "exclude", "name"];

impl Outline {
    /// Reads the outline; on failure, every mistake in it.
    pub fn read(root: &Node) -> Result<Self, Vec<Mistake>> {
        let Some(entries) = root.entries() else {
            let title = format!("expected a pipeline, found {}", root.describe());
            return Err(vec![Mistake::new(root.span, title).help("begin with `chariot: 1`")]);
        };
        let mut mistakes = Vec::new();
        for entry in entries.iter().filter(|e| !TOP.contains(&&*e.key)) {
            let unknown = Mistake::new(entry.key_span, format!("unknown key `{}`", entry.key));
            mistakes.push(unknown.suggest(&entry.key, "keys", TOP));
        }
        mistakes.extend(version(root).err());
        if let Some(about) = root.entry("about").filter(|e| e.value.text().is_none()) {
            mistakes.push(wrong(&about.value, "a string"));
        }
        let params = params(root, &mut mistakes);
        let targets = targets(root, &mut mistakes);
        if mistakes.is_empty() { Ok(Self { params, targets }) } else { Err(mistakes) }
    }

    /// Gives the parameter `name`, or a field of one, another value.
    pub fn set(&mut self, name: &str, value: Node, source: SourceId) -> Result<(), Mistake> {
        let at = Span { source, start: 0, end: name.len() as u32 };
        let mut parts = name.split('.');
        let first = parts.next().unwrap_or_default();
        let fields: Vec<&str> = parts.collect();
        let names = self.params.keys().map(|key| key.to_string()).collect::<Vec<_>>();
        if TOP_PARAMS.contains(&name) && !self.params.contains_key(name) {
            let key: Rc<str> = name.into();
            self.params.insert(Rc::clone(&key), Entry { key, key_span: at, value });
            return Ok(());
        }
        let Some(entry) = self.params.get_mut(first) else {
            let unknown = Mistake::new(at, format!("there is no parameter `{first}` to set"));
            return Err(unknown.suggest(first, "parameters", names.iter().map(String::as_str)));
        };
        entry.value = with_field(&entry.value, &fields, value, at)?;
        Ok(())
    }
}

/// `node` with the field that `path` leads to replaced.
fn with_field(node: &Node, path: &[&str], value: Node, at: Span) -> Result<Node, Mistake> {
    let Some((field, rest)) = path.split_first() else { return Ok(value) };
    let Some(entries) = node.entries() else {
        return Err(Mistake::new(
            at,
            format!("there is no field `{field}` to set: found {}", node.describe()),
        )
        .also(node.span, "given here"));
    };
    let mut entries = entries.to_vec();
    let names: Vec<Rc<str>> = entries.iter().map(|e| Rc::clone(&e.key)).collect();
    let Some(entry) = entries.iter_mut().find(|e| &*e.key == *field) else {
        let unknown = Mistake::new(at, format!("there is no field `{field}` to set"));
        return Err(unknown.suggest(field, "fields", names.iter().map(|n| &**n)));
    };
    entry.value = with_field(&entry.value, rest, value, at)?;
    Ok(Node { origin: node.origin, ..Node::map(entries, node.span) })
}

fn version(root: &Node) -> Result<(), Mistake> {
    let Some(entry) = root.entry("chariot") else {
        return Err(Mistake::new(root.span, "the key `chariot` is missing").help("begin with `chariot: 1`"));
    };
    match &entry.value.value {
        Value::Scalar(scalar) if scalar.meaning() == Meaning::Integer(VERSION) => Ok(()),
        _ => Err(wrong(&entry.value, "the version of the language, `1`")),
    }
}

fn params(root: &Node, mistakes: &mut Vec<Mistake>) -> BTreeMap<Rc<str>, Entry> {
    let mut params = BTreeMap::new();
    if let Some(entry) = root.entry("params") {
        match entry.value.entries() {
            Some(entries) => params.extend(entries.iter().map(|e| (Rc::clone(&e.key), e.clone()))),
            None => mistakes.push(wrong(&entry.value, "a map of names and values")),
        }
    }
    for entry in TOP_PARAMS.iter().filter_map(|name| root.entry(name)) {
        if let Some(other) = params.insert(Rc::clone(&entry.key), entry.clone()) {
            let name = &entry.key;
            let title = format!("the parameter `{name}` is the pipeline's `{name}` already");
            let twice = Mistake::new(other.key_span, title);
            mistakes.push(twice.also(entry.key_span, "given here").help("remove one of the two"));
        }
    }
    let referable = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    for entry in params.values().filter(|e| e.key.is_empty() || !e.key.chars().all(referable)) {
        mistakes.push(bad_name(entry.key_span, "a parameter", &entry.key, "letters, digits, `_` and `-`"));
    }
    params
}

fn targets(root: &Node, mistakes: &mut Vec<Mistake>) -> Vec<Target> {
    let Some(entry) = root.entry("targets") else {
        mistakes.push(Mistake::new(root.span, "the key `targets` is missing"));
        return Vec::new();
    };
    let Some(entries) = entry.value.entries().filter(|entries| !entries.is_empty()) else {
        mistakes.push(wrong(&entry.value, "a map of targets"));
        return Vec::new();
    };
    entries.iter().filter_map(|entry| target(entry).map_err(|m| mistakes.push(m)).ok()).collect()
}

fn target(entry: &Entry) -> Result<Target, Mistake> {
    if !is_path_segment(&entry.key) {
        return Err(bad_name(entry.key_span, "a target", &entry.key, "letters, digits, `.`, `_` and `-`"));
    }
    let Some(entries) = entry.value.entries() else {
        return Err(wrong(&entry.value, "a target, a map with `recipe`"));
    };
    let body = entries.iter().filter(|e| !SWEEP_KEYS.contains(&&*e.key)).cloned().collect();
    Ok(Target {
        name: Rc::clone(&entry.key),
        span: entry.key_span,
        sweep: entry.value.entry("for").cloned(),
        exclude: entry.value.entry("exclude").map(|e| e.value.clone()),
        instance_name: entry.value.entry("name").map(|e| e.value.clone()),
        body: Node::map(body, entry.value.span),
    })
}

/// Can be one part of an address and of a path under `out/`.
pub fn is_path_segment(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() <= 200
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | '='))
}

fn bad_name(span: Span, what: &str, name: &str, of: &str) -> Mistake {
    Mistake::new(span, format!("expected a name for {what}, found `{name}`"))
        .help(format!("names are made of {of}"))
}

fn wrong(node: &Node, expected: &str) -> Mistake {
    Mistake::new(node.span, format!("expected {expected}, found {}", node.describe()))
}
