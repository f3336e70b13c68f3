//! Why an action runs or not: what its key was made of last time against now. Knows nothing of what runs it.

use std::fmt::Write;

use camino::Utf8Path;
use chariot_cache::{Change, Digest, Found, Manifest, Store};
use serde_json::Value;

use crate::action::{Action, Origin};
use crate::history::History;

/// Longer values are cut in messages.
const VALUE_MAX: usize = 120;
/// How many differences within one file are shown.
const DIFFERENCES_MAX: usize = 12;

/// Why an action has to run.
#[derive(Debug)]
pub enum Reason {
    /// It never ended well under this address.
    New,
    /// The user asked for it.
    Forced,
    /// It failed last time, and nothing has changed since.
    Failed(String),
    /// Its key differs from last time's; how.
    Changed(Vec<Change>),
    /// It ran before, and its results are no longer in the store.
    Gone,
}

/// Compares an action that is not in the store with what is known of its address.
pub fn reason(action: &Action, history: &History, store: &Store) -> chariot_cache::Result<Reason> {
    let Some(latest) = history.latest(&action.address) else { return Ok(Reason::New) };
    if let (Some(failure), true) = (&latest.entry.failure, latest.entry.key == action.key.digest) {
        return Ok(Reason::Failed(failure.clone()));
    }
    let Some(before) = latest.succeeded else { return Ok(Reason::New) };
    if action.keys().any(|key| key.digest == before) {
        return Ok(Reason::Gone);
    }
    Ok(match store.actions().get(&before)? {
        Found::Record(record) => Reason::Changed(changes(&record.manifest, action)),
        Found::Nothing | Found::Unreadable(_) => Reason::Gone,
    })
}

/// The changes to whichever of the action's keys is nearer to what was.
fn changes(before: &Manifest, action: &Action) -> Vec<Change> {
    let all = action.keys().map(|key| key.manifest.changes_since(before));
    all.min_by_key(Vec::len).unwrap_or_default()
}

impl Reason {
    /// In one line.
    pub fn brief(&self) -> String {
        match self {
            Self::New => "never run".to_owned(),
            Self::Forced => "asked for with --force".to_owned(),
            Self::Failed(failure) => format!("failed last time: {failure}"),
            Self::Gone => "its results are no longer in the store".to_owned(),
            Self::Changed(changes) => match changes.as_slice() {
                [] => "changed".to_owned(),
                [one] => format!("{} changed", what(one)),
                [one, others @ ..] => format!("{} and {} more changed", what(one), others.len()),
            },
        }
    }

    /// With every old and new value, a line each.
    pub fn full(&self, action: &Action, store: &Store) -> String {
        let mut text = self.brief();
        if let Self::Changed(changes) = self {
            for change in changes {
                let _ = write!(text, "\n  {}: {}", what(change), old_and_new(change));
                for line in inside(change, action, store) {
                    let _ = write!(text, "\n    {line}");
                }
            }
        }
        text
    }
}

/// The changed thing in words.
fn what(change: &Change) -> String {
    let name = &change.name;
    match change.section.as_str() {
        "tool" => format!("the executable of {name}"),
        "argv" => format!("argument {}", name.parse::<usize>().map_or(0, |index| index + 1)),
        "env" => format!("environment variable {name}"),
        "input" => format!("input {name}"),
        "fact" => format!("fact {name} of the host"),
        "output" => "the list of outputs".to_owned(),
        section => format!("{section} {name}"),
    }
}

fn old_and_new(change: &Change) -> String {
    let is_digest = matches!(change.section.as_str(), "tool" | "input");
    let shown = |value: &String| match is_digest {
        true => value.parse::<Digest>().map_or_else(|_| value.clone(), |digest| digest.short()),
        false => cut(value),
    };
    match (&change.old, &change.new) {
        (Some(old), Some(new)) => format!("{} -> {}", shown(old), shown(new)),
        (None, Some(new)) => format!("added {}", shown(new)),
        (Some(old), None) => format!("removed {}", shown(old)),
        (None, None) => "unchanged".to_owned(),
    }
}

fn cut(value: &str) -> String {
    match value.char_indices().nth(VALUE_MAX) {
        Some((at, _)) => format!("{}...", &value[..at]),
        None => value.to_owned(),
    }
}

/// What changed within an input, where both versions are at hand and are JSON.
fn inside(change: &Change, action: &Action, store: &Store) -> Vec<String> {
    if change.section != "input" {
        return Vec::new();
    }
    match (before(change, store), now(change, action, store)) {
        (Some(old), Some(new)) => {
            let mut lines = Vec::new();
            differences("", &old, &new, &mut lines);
            if lines.len() > DIFFERENCES_MAX {
                let more = lines.len() - DIFFERENCES_MAX;
                lines.truncate(DIFFERENCES_MAX);
                lines.push(format!("and {more} more"));
            }
            lines
        }
        _ => Vec::new(),
    }
}

fn before(change: &Change, store: &Store) -> Option<Value> {
    serde_json::from_slice(&store.cas().get(&change.old.as_ref()?.parse().ok()?).ok()?).ok()
}

/// The input as it is now, which the store need not have yet.
fn now(change: &Change, action: &Action, store: &Store) -> Option<Value> {
    let input = action.inputs.get(Utf8Path::new(&change.name))?;
    match &input.origin {
        Origin::Bytes(bytes) => serde_json::from_slice(bytes).ok(),
        Origin::File(path) => serde_json::from_slice(&fs_err::read(path).ok()?).ok(),
        Origin::Store => serde_json::from_slice(&store.cas().get(&input.digest).ok()?).ok(),
    }
}

/// The members that differ: `/scheduler/chunk: 512 -> 2048`.
fn differences(at: &str, old: &Value, new: &Value, lines: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(before), Value::Object(after)) => {
            for (name, value) in before {
                let other = after.get(name).unwrap_or(&Value::Null);
                differences(&format!("{at}/{name}"), value, other, lines);
            }
            for (name, value) in after.iter().filter(|(name, _)| !before.contains_key(*name)) {
                differences(&format!("{at}/{name}"), &Value::Null, value, lines);
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, (value, other)) in before.iter().zip(after).enumerate() {
                differences(&format!("{at}/{index}"), value, other, lines);
            }
        }
        _ if old == new => {}
        _ => lines.push(format!("{at}: {} -> {}", cut(&old.to_string()), cut(&new.to_string()))),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_name_the_member() {
        let mut lines = Vec::new();
        let old = json!({"scheduler": {"chunk": 512, "cap": 8}, "seed": 42, "list": [1, 2]});
        let new = json!({"scheduler": {"chunk": 2048, "cap": 8}, "list": [1, 3], "band": "low"});
        differences("", &old, &new, &mut lines);
        expect![[r#"
            /list/1: 2 -> 3
            /scheduler/chunk: 512 -> 2048
            /seed: 42 -> null
            /band: null -> "low""#]]
        .assert_eq(&lines.join("\n"));
    }
}
