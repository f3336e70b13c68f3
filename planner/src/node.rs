//! The tree a pipeline is read into: scalars, lists and maps that remember where they were written. Knows no YAML syntax.

use std::rc::Rc;

use crate::diagnostic::Span;

/// A value and its place. Children are shared, so a clone is cheap however large the tree.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What it is.
    pub value: Value,
    /// Where it stands; for a value that came in by `${}`, where the `${}` stands.
    pub span: Span,
    /// Where a value that came in by `${}` was written.
    pub origin: Option<Span>,
    /// A `${` occurs in it or below it.
    pub open: bool,
}

/// The three kinds of node.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Text, with or without quotes.
    Scalar(Scalar),
    /// A list.
    List(Rc<[Node]>),
    /// A map, in the order written; keys are unique.
    Map(Rc<[Entry]>),
}

/// A scalar as written.
#[derive(Debug, Clone, PartialEq)]
pub struct Scalar {
    /// Its text, unquoted and unescaped.
    pub text: Rc<str>,
    /// Written without quotes: `8` is a number and `"8"` is not.
    pub plain: bool,
}

/// One key of a map.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: Rc<str>,
    /// Where the key stands.
    pub key_span: Span,
    /// The value.
    pub value: Node,
}

/// What a scalar means under the YAML 1.2 core schema.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Meaning<'a> {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i128),
    /// Any other number.
    Float(f64),
    /// Everything else, and everything in quotes.
    Text(&'a str),
}

impl Scalar {
    /// Its meaning under the core schema.
    pub fn meaning(&self) -> Meaning<'_> {
        if !self.plain {
            return Meaning::Text(&self.text);
        }
        match &*self.text {
            "" | "~" | "null" | "Null" | "NULL" => Meaning::Null,
            "true" | "True" | "TRUE" => Meaning::Bool(true),
            "false" | "False" | "FALSE" => Meaning::Bool(false),
            text => number(text).unwrap_or(Meaning::Text(text)),
        }
    }
}

/// The core schema's numbers; Rust's parsers take more (`1_0`, `infinity`, `+-1`), so the alphabet is checked first.
fn number(text: &str) -> Option<Meaning<'_>> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if let Some(hex) = text.strip_prefix("0x") {
        return all(hex, |c| c.is_ascii_hexdigit())
            .and_then(|h| i128::from_str_radix(h, 16).ok())
            .map(Meaning::Integer);
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return all(octal, |c| c.is_digit(8))
            .and_then(|o| i128::from_str_radix(o, 8).ok())
            .map(Meaning::Integer);
    }
    match unsigned {
        ".inf" | ".Inf" | ".INF" => {
            return Some(Meaning::Float(if text.starts_with('-') {
                f64::NEG_INFINITY
            } else {
                f64::INFINITY
            }));
        }
        ".nan" | ".NaN" | ".NAN" if unsigned == text => return Some(Meaning::Float(f64::NAN)),
        _ => {}
    }
    let first = unsigned.chars().next()?;
    if !(first.is_ascii_digit() || first == '.') {
        return None;
    }
    all(unsigned, |c| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-'))?;
    let integer = text.parse().ok().map(Meaning::Integer);
    integer.or_else(|| text.parse().ok().map(Meaning::Float))
}

fn all(text: &str, ok: impl Fn(char) -> bool) -> Option<&str> {
    (!text.is_empty() && text.chars().all(ok)).then_some(text)
}

impl Node {
    /// A scalar; `open` is found from the text.
    pub fn scalar(text: &str, plain: bool, span: Span) -> Self {
        let scalar = Scalar { text: text.into(), plain };
        Self { open: text.contains("${"), value: Value::Scalar(scalar), span, origin: None }
    }

    /// A list.
    pub fn list(items: Vec<Node>, span: Span) -> Self {
        Self { open: items.iter().any(|n| n.open), value: Value::List(items.into()), span, origin: None }
    }

    /// A map; the caller has made sure that keys are unique.
    pub fn map(entries: Vec<Entry>, span: Span) -> Self {
        Self {
            open: entries.iter().any(|e| e.value.open),
            value: Value::Map(entries.into()),
            span,
            origin: None,
        }
    }

    /// The entries of a map.
    pub fn entries(&self) -> Option<&[Entry]> {
        match &self.value {
            Value::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// The entry of a map under `key`.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries()?.iter().find(|e| &*e.key == key)
    }

    /// The text of a scalar, whatever it means.
    pub fn text(&self) -> Option<&Rc<str>> {
        match &self.value {
            Value::Scalar(scalar) => Some(&scalar.text),
            _ => None,
        }
    }

    /// What it is, for messages: "the string `x`", "a list".
    pub fn describe(&self) -> String {
        match &self.value {
            Value::List(items) if items.is_empty() => "an empty list".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Map(entries) if entries.is_empty() => "an empty map".to_owned(),
            Value::Map(_) => "a map".to_owned(),
            Value::Scalar(scalar) => match scalar.meaning() {
                Meaning::Null => "nothing".to_owned(),
                Meaning::Bool(value) => format!("`{value}`"),
                Meaning::Integer(_) => format!("the integer `{}`", scalar.text),
                Meaning::Float(_) => format!("the number `{}`", scalar.text),
                Meaning::Text(text) => format!("the string `{}`", shorten(text)),
            },
        }
    }
}

/// At most 60 characters of `text`, on one line.
fn shorten(text: &str) -> String {
    let line: String = text.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(60).is_some() { line + "..." } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Meaning<'_>) {
        assert_eq!(Scalar { text: text.into(), plain: true }.meaning(), expected, "{text}");
    }

    #[test]
    fn core_schema() {
        check("", Meaning::Null);
        check("~", Meaning::Null);
        check("True", Meaning::Bool(true));
        check("yes", Meaning::Text("yes"));
        check("no", Meaning::Text("no"));
        check("12", Meaning::Integer(12));
        check("-12", Meaning::Integer(-12));
        check("0x1F", Meaning::Integer(31));
        check("0o17", Meaning::Integer(15));
        check("017", Meaning::Integer(17));
        check("1_000", Meaning::Text("1_000"));
        check("1.5", Meaning::Float(1.5));
        check(".5", Meaning::Float(0.5));
        check("1e3", Meaning::Float(1000.0));
        check("-.inf", Meaning::Float(f64::NEG_INFINITY));
        check("inf", Meaning::Text("inf"));
        check("1800 s", Meaning::Text("1800 s"));
        check("1-2", Meaning::Text("1-2"));
        check("1:30", Meaning::Text("1:30"));
        check("+", Meaning::Text("+"));
    }

    #[test]
    fn quotes_make_text() {
        assert_eq!(Scalar { text: "8".into(), plain: false }.meaning(), Meaning::Text("8"));
    }
}
