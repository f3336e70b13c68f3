//! A platform as YAML that people can read: what is short on one line, the rest in blocks.

use chariot_engine::sim::platform::Platform;
use serde_json::{Map, Value};

/// A value stays on one line up to this length.
const LINE: usize = 110;
/// The members of a platform, in the order of presets.
const ORDER: [&str; 8] =
    ["name", "nodes", "gpus_per_node", "gpu_memory_gb", "links", "runtime", "cpu", "stage"];
/// Words that YAML takes for something else than text.
const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];

/// The text of a platform.
pub(super) fn platform(platform: &Platform) -> serde_json::Result<String> {
    platform_with(platform, &[])
}

/// The same with a comment above each class of links; a class beyond the comments has none.
pub(super) fn platform_with(platform: &Platform, comments: &[String]) -> serde_json::Result<String> {
    let Value::Object(members) = serde_json::to_value(platform)? else {
        unreachable!("a struct becomes an object")
    };
    let mut text = String::new();
    for key in ORDER {
        match members.get(key) {
            Some(Value::Array(classes)) if key == "links" && !comments.is_empty() => {
                commented(key, classes, comments, &mut text);
            }
            Some(value) => member(key, value, 0, &mut text),
            None => {}
        }
    }
    Ok(text)
}

/// A list with a comment above each item.
fn commented(key: &str, items: &[Value], comments: &[String], text: &mut String) {
    text.push_str(&format!("{key}:\n"));
    for (index, item) in items.iter().enumerate() {
        if let Some(comment) = comments.get(index) {
            text.push_str(&format!("  # {comment}\n"));
        }
        self::item(item, 2, text);
    }
}

fn member(key: &str, value: &Value, indent: usize, text: &mut String) {
    text.push_str(&format!("{:indent$}{key}:", ""));
    match value {
        _ if fits(value) => text.push_str(&format!(" {}\n", flow(value))),
        Value::Array(items) => {
            text.push('\n');
            for item in items {
                self::item(item, indent + 2, text);
            }
        }
        Value::Object(members) => {
            text.push('\n');
            block(members, indent + 2, text);
        }
        _ => text.push_str(&format!(" {}\n", flow(value))),
    }
}

/// Its members, the name first.
fn named(members: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    let others = members.iter().filter(|(key, _)| *key != "name");
    members.get_key_value("name").into_iter().chain(others)
}

fn block(members: &Map<String, Value>, indent: usize, text: &mut String) {
    for (key, value) in named(members) {
        member(key, value, indent, text);
    }
}

fn item(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(members) if !fits(value) => {
            let start = text.len();
            block(members, indent + 2, text);
            // The first member stands beside the dash.
            text.replace_range(start + indent..start + indent + 1, "-");
        }
        _ => text.push_str(&format!("{:indent$}- {}\n", "", flow(value))),
    }
}

/// Curves stay on one line however long they are.
fn fits(value: &Value) -> bool {
    let is_numbers = |value: &Value| value.as_array().is_some_and(|items| items.iter().all(Value::is_number));
    let is_curve = value.as_array().is_some_and(|items| items.iter().all(is_numbers));
    is_curve || flow(value).len() <= LINE
}

fn flow(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(members) => {
            let member = |(key, value): (&String, &Value)| format!("{key}: {}", flow(value));
            format!("{{{}}}", named(members).map(member).collect::<Vec<_>>().join(", "))
        }
        Value::String(string) => plain(string),
        Value::Number(number) => {
            let number = number.to_string();
            number.strip_suffix(".0").map_or(number.clone(), str::to_owned)
        }
        Value::Bool(_) | Value::Null => value.to_string(),
    }
}

/// Quoted, unless it could be nothing but text.
fn plain(text: &str) -> String {
    let is_word = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
        && !WORDS.contains(&text.to_lowercase().as_str());
    if is_word { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preset(name: &str) -> Platform {
        let path = format!("{}/../pipelines/platforms/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
        serde_saphyr::from_str(&fs_err::read_to_string(path).unwrap()).unwrap()
    }

    #[test]
    fn every_preset_is_read_back_as_it_was() {
        for name in ["azure-nc96ads-a100-v4-x2", "a100-pcie-x8", "constant-x8", "cpu-2x4"] {
            let written = platform(&preset(name)).unwrap();
            assert_eq!(serde_saphyr::from_str::<Platform>(&written).unwrap(), preset(name), "{written}");
        }
    }

    #[test]
    fn a_comment_stands_above_its_class() {
        let preset = preset("constant-x8");
        let written = platform_with(&preset, &["where it comes from".to_owned()]).unwrap();
        assert!(written.contains("\nlinks:\n  # where it comes from\n  - name: instant\n"), "{written}");
        assert_eq!(serde_saphyr::from_str::<Platform>(&written).unwrap(), preset);
    }

    #[test]
    fn text_that_is_no_word_is_quoted() {
        for text in ["1", "yes", "a: b", "", "x#y", "-", "null", "1e5"] {
            assert_eq!(plain(text), format!("\"{text}\""));
        }
        assert_eq!(plain("falcon-60m"), "falcon-60m");
    }
}
