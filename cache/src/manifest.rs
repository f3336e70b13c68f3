//! What an action's key is made of: one list of named fields that is both hashed and explained, so that the
//! explanation of a key can never drift from the key.
//!
//! The encoding is versioned and unambiguous: under a BLAKE3 context of its own (no file's digest can equal a key),
//! the number of fields, then for each in order of (section, name) the three texts, each with its length before it.
//! A field's order of arrival does not matter; its section, name and value do, byte for byte.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Changes with the meaning of the encoding, and with it every key.
const CONTEXT: &str = "chariot action manifest v1";

/// The named fields that make up an action's key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Manifest {
    /// Section -> name -> value; e.g. `input` -> `config.json` -> its digest.
    sections: BTreeMap<String, BTreeMap<String, String>>,
}

/// How one field differs between two manifests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The field's section, e.g. `env`.
    pub section: String,
    /// The field's name within the section.
    pub name: String,
    /// Its value before; `None`: it was not there.
    pub old: Option<String>,
    /// Its value now; `None`: it is gone.
    pub new: Option<String>,
}

impl Manifest {
    /// Without fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a field. A second value for the same field is our bug.
    pub fn field(&mut self, section: &str, name: &str, value: impl fmt::Display) {
        let fields = self.sections.entry(section.to_owned()).or_default();
        let before = fields.insert(name.to_owned(), value.to_string());
        assert!(before.is_none(), "expected one value for {section} {name}, found two");
    }

    /// Adds a list: one field per value, named by its position.
    pub fn list<V: fmt::Display>(&mut self, section: &str, values: impl IntoIterator<Item = V>) {
        for (position, value) in values.into_iter().enumerate() {
            // Padded so that the order of names is the order of positions.
            self.field(section, &format!("{position:04}"), value);
        }
    }

    /// The value of a field.
    pub fn get(&self, section: &str, name: &str) -> Option<&str> {
        Some(self.sections.get(section)?.get(name)?.as_str())
    }

    /// All fields as (section, name, value), in order of section and name.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.sections.iter().flat_map(|(section, fields)| {
            fields.iter().map(move |(n, v)| (section.as_str(), n.as_str(), v.as_str()))
        })
    }

    /// The key: equal for equal fields, and for nothing else.
    pub fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(&(self.fields().count() as u64).to_le_bytes());
        for (section, name, value) in self.fields() {
            for text in [section, name, value] {
                hasher.update(&(text.len() as u64).to_le_bytes());
                hasher.update(text.as_bytes());
            }
        }
        hasher.finalize().into()
    }

    /// What changed since `old`, in order of section and name; empty exactly when the digests are equal.
    pub fn changes_since(&self, old: &Self) -> Vec<Change> {
        let before: BTreeMap<_, _> = old.fields().map(|(s, n, v)| ((s, n), v)).collect();
        let now: BTreeMap<_, _> = self.fields().map(|(s, n, v)| ((s, n), v)).collect();
        let names: std::collections::BTreeSet<_> = before.keys().chain(now.keys()).copied().collect();
        let change = |(section, name)| Change {
            section: String::from(section),
            name: String::from(name),
            old: before.get(&(section, name)).map(|&v| v.to_owned()),
            new: now.get(&(section, name)).map(|&v| v.to_owned()),
        };
        names.into_iter().map(change).filter(|c| c.old != c.new).collect()
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { section, name, old, new } = self;
        match (old, new) {
            (Some(old), Some(new)) => write!(f, "{section} {name}: {old} -> {new}"),
            (None, Some(new)) => write!(f, "{section} {name}: added {new}"),
            (Some(old), None) => write!(f, "{section} {name}: removed {old}"),
            (None, None) => write!(f, "{section} {name}: unchanged"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use proptest::prelude::*;

    fn manifest(fields: &[(&str, &str, &str)]) -> Manifest {
        let mut manifest = Manifest::new();
        for (section, name, value) in fields {
            manifest.field(section, name, value);
        }
        manifest
    }

    #[test]
    fn a_change_names_the_field_and_both_values() {
        let old =
            manifest(&[("env", "HOME", "/a"), ("input", "config.json", "11"), ("tool", "path", "engine")]);
        let new =
            manifest(&[("env", "HOME", "/b"), ("input", "trace.csv", "22"), ("tool", "path", "engine")]);
        let lines: Vec<_> = new.changes_since(&old).iter().map(Change::to_string).collect();
        expect![[r#"
            env HOME: /a -> /b
            input config.json: removed 11
            input trace.csv: added 22"#]]
        .assert_eq(&lines.join("\n"));
    }

    #[test]
    fn the_key_of_known_fields_stays_what_it_was() {
        let mut known = manifest(&[("env", "A", "1")]);
        known.list("argv", ["engine", "simulate"]);
        expect!["693a45964f3213163f0e2d95ab6dfb20e91ec6c8118edfe8409fbcc503dfad01"]
            .assert_eq(&known.digest().to_string());
        expect![[r#"{"argv":{"0000":"engine","0001":"simulate"},"env":{"A":"1"}}"#]]
            .assert_eq(&serde_json::to_string(&known).unwrap());
    }

    #[test]
    fn borders_between_texts_count() {
        let keys = [
            manifest(&[("a", "bc", "d")]),
            manifest(&[("ab", "c", "d")]),
            manifest(&[("a", "b", "cd")]),
            manifest(&[("a", "b", "c"), ("d", "", "")]),
            manifest(&[]),
        ]
        .map(|m| m.digest());
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }

    #[test]
    fn two_values_for_one_field_are_our_bug() {
        let panic =
            std::panic::catch_unwind(|| manifest(&[("env", "A", "1"), ("env", "A", "2")])).unwrap_err();
        assert_eq!(panic.downcast_ref::<String>().unwrap(), "expected one value for env A, found two");
    }

    type Fields = BTreeMap<(String, String), String>;

    fn built(fields: &Fields, reversed: bool) -> Manifest {
        let mut listed: Vec<_> = fields.iter().collect();
        if reversed {
            listed.reverse();
        }
        let mut manifest = Manifest::new();
        for ((section, name), value) in listed {
            manifest.field(section, name, value);
        }
        manifest
    }

    proptest! {
        #[test]
        fn the_key_is_equal_exactly_when_nothing_changed(
            a in prop::collection::btree_map(("[ab]{0,2}", "[ab]{0,2}"), "[ab]{0,2}", 0..4),
            b in prop::collection::btree_map(("[ab]{0,2}", "[ab]{0,2}"), "[ab]{0,2}", 0..4),
        ) {
            let (x, y) = (built(&a, false), built(&b, false));
            prop_assert_eq!(x.digest() == y.digest(), a == b);
            prop_assert_eq!(y.changes_since(&x).is_empty(), a == b);
        }

        #[test]
        fn order_of_arrival_and_json_do_not_matter(
            a in prop::collection::btree_map((".{0,4}", ".{0,4}"), ".{0,4}", 0..6),
        ) {
            let forward = built(&a, false);
            prop_assert_eq!(&built(&a, true), &forward);
            let json = serde_json::to_string(&forward).unwrap();
            let back: Manifest = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(back.digest(), forward.digest());
        }
    }
}
