//! `${}`: looks names up among a sweep's choices and the parameters, and fills them into a [`Node`]. Pure.
//!
//! A scalar that is one reference takes the value with its type; within text a value is written out, and a named value
//! of a sweep is written as its name. Values are looked up where they are used, so they may refer to one another.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::diagnostic::{Mistake, Span};
use crate::node::{Entry, Node, Value};

/// References and values that filling one instance may take.
const WORK_MAX: u32 = 500_000;
/// References within references.
const DEPTH_MAX: usize = 48;
/// Bytes that a filled text may have.
const TEXT_MAX: usize = 64 * 1024;

/// One value of a sweep's axis.
#[derive(Debug, Clone)]
pub struct Choice {
    /// Its name: the key in a map, the text in a list.
    pub name: Rc<str>,
    /// The value itself.
    pub node: Node,
}

/// The names that can be referred to, and which of them were.
#[derive(Debug)]
pub struct Scope<'a> {
    params: &'a BTreeMap<Rc<str>, Entry>,
    axes: &'a [(Rc<str>, Choice)],
    used: &'a RefCell<BTreeSet<Rc<str>>>,
    stack: RefCell<Vec<String>>,
    work: Cell<u32>,
}

/// Part of a text.
enum Piece<'t> {
    Text(&'t str),
    Reference { path: &'t str, start: usize, end: usize },
}

/// What a name stands for, not yet filled.
struct Found {
    node: Node,
    /// For a sweep's axis referred to as a whole: the chosen value's name.
    name: Option<Rc<str>>,
}

impl<'a> Scope<'a> {
    /// A scope in which `axes` hide `params` of the same name; names that are referred to go into `used`.
    pub fn new(
        params: &'a BTreeMap<Rc<str>, Entry>,
        axes: &'a [(Rc<str>, Choice)],
        used: &'a RefCell<BTreeSet<Rc<str>>>,
    ) -> Self {
        Self { params, axes, used, stack: RefCell::default(), work: Cell::new(WORK_MAX) }
    }

    /// `node` with every reference filled in. O(size of the open part of the result).
    pub fn fill(&self, node: &Node) -> Result<Node, Mistake> {
        self.spend(node.span)?;
        if !node.open {
            return Ok(node.clone());
        }
        let value = match &node.value {
            Value::Scalar(scalar) => return self.fill_scalar(node, &scalar.text),
            Value::List(items) => {
                Value::List(items.iter().map(|item| self.fill(item)).collect::<Result<Vec<_>, _>>()?.into())
            }
            Value::Map(entries) => Value::Map(
                entries
                    .iter()
                    .map(|entry| Ok(Entry { value: self.fill(&entry.value)?, ..entry.clone() }))
                    .collect::<Result<Vec<_>, Mistake>>()?
                    .into(),
            ),
        };
        Ok(Node { value, open: false, ..node.clone() })
    }

    /// `node`, or what it refers to if it is one reference; what is inside stays open.
    pub fn shallow(&self, node: &Node) -> Result<Node, Mistake> {
        let Value::Scalar(scalar) = &node.value else { return Ok(node.clone()) };
        match &pieces(&scalar.text).map_err(|e| malformed(node, &scalar.text, e))?[..] {
            [Piece::Reference { path, start, end }] => {
                let span = within(node, &scalar.text, *start, *end);
                self.enter(path, span, |found| self.shallow(&found.node))
            }
            _ => Ok(node.clone()),
        }
    }

    fn fill_scalar(&self, node: &Node, text: &str) -> Result<Node, Mistake> {
        let pieces = pieces(text).map_err(|e| malformed(node, text, e))?;
        if let [Piece::Reference { path, start, end }] = pieces[..] {
            let value = self.enter(path, within(node, text, start, end), |found| self.fill(&found.node))?;
            let origin = Some(value.origin.unwrap_or(value.span));
            return Ok(Node { value: value.value, span: node.span, origin, open: false });
        }
        Ok(Node { open: false, ..Node::scalar(&self.write(node, text)?, false, node.span) })
    }

    /// The text of a scalar with every reference written out, also where it is one reference.
    pub fn write(&self, node: &Node, text: &str) -> Result<String, Mistake> {
        let mut written = String::new();
        for piece in pieces(text).map_err(|e| malformed(node, text, e))? {
            match piece {
                Piece::Text(text) => written.push_str(text),
                Piece::Reference { path, start, end } => {
                    let span = within(node, text, start, end);
                    written.push_str(&self.enter(path, span, |found| self.written(found, path, span))?);
                }
            }
            if written.len() > TEXT_MAX {
                return Err(Mistake::new(node.span, format!("expected a text of at most {TEXT_MAX} bytes")));
            }
        }
        Ok(written)
    }

    /// How a value stands within text.
    fn written(&self, found: &Found, path: &str, span: Span) -> Result<Rc<str>, Mistake> {
        if let Some(name) = &found.name {
            return Ok(Rc::clone(name));
        }
        let node = self.fill(&found.node)?;
        node.text().cloned().ok_or_else(|| {
            let what = node.describe();
            let mistake = Mistake::new(span, format!("`{path}` is {what}, which cannot stand within text"));
            match node.entries() {
                Some(entries) => mistake.help(format!("take one of its fields: {}", fields(path, entries))),
                None => mistake,
            }
        })
    }

    /// Looks `path` up and hands what it stands for to `then`, watching for cycles and growth.
    fn enter<T>(
        &self,
        path: &str,
        span: Span,
        then: impl FnOnce(&Found) -> Result<T, Mistake>,
    ) -> Result<T, Mistake> {
        self.spend(span)?;
        if let Some(from) = self.stack.borrow().iter().position(|p| p == path) {
            let mut cycle = self.stack.borrow()[from..].to_vec();
            cycle.push(path.to_owned());
            return Err(Mistake::new(span, format!("`{path}` refers to itself: {}", cycle.join(" -> ")))
                .help("give one of them a value of its own"));
        }
        if self.stack.borrow().len() >= DEPTH_MAX {
            return Err(Mistake::new(
                span,
                format!("expected at most {DEPTH_MAX} references within references"),
            ));
        }
        self.stack.borrow_mut().push(path.to_owned());
        let result = self.find(path, span).and_then(|found| then(&found));
        self.stack.borrow_mut().pop();
        result
    }

    fn find(&self, path: &str, span: Span) -> Result<Found, Mistake> {
        let mut parts = path.split('.');
        let name = parts.next().unwrap_or_default();
        let mut found = self.base(name, span)?;
        let mut so_far = name.to_owned();
        for field in parts {
            let node = self.shallow(&found.node)?;
            let Some(entries) = node.entries() else {
                let title = format!("`{so_far}` has no fields: it is {}", node.describe());
                return Err(Mistake::new(span, title).also(node.span, "given here"));
            };
            let Some(entry) = entries.iter().find(|e| &*e.key == field) else {
                return Err(Mistake::new(span, format!("`{so_far}` has no field `{field}`"))
                    .also(node.origin.unwrap_or(node.span), "given here")
                    .suggest(field, "fields", entries.iter().map(|e| &*e.key)));
            };
            found = Found { node: entry.value.clone(), name: None };
            so_far = format!("{so_far}.{field}");
        }
        Ok(found)
    }

    fn base(&self, name: &str, span: Span) -> Result<Found, Mistake> {
        if let Some((axis, choice)) = self.axes.iter().find(|(axis, _)| &**axis == name) {
            self.mark_used(axis);
            return Ok(Found { node: choice.node.clone(), name: Some(Rc::clone(&choice.name)) });
        }
        if let Some((param, entry)) = self.params.get_key_value(name) {
            self.mark_used(param);
            return Ok(Found { node: entry.value.clone(), name: None });
        }
        let names = self.axes.iter().map(|(axis, _)| &**axis).chain(self.params.keys().map(|p| &**p));
        Err(Mistake::new(span, format!("unknown name `{name}` in `${{}}`")).suggest(name, "names", names))
    }

    fn mark_used(&self, name: &Rc<str>) {
        if !self.used.borrow().contains(name) {
            self.used.borrow_mut().insert(Rc::clone(name));
        }
    }

    fn spend(&self, span: Span) -> Result<(), Mistake> {
        let left = self.work.get().checked_sub(1);
        self.work.set(left.unwrap_or(0));
        left.map(|_| ()).ok_or_else(|| {
            Mistake::new(span, format!("expected at most {WORK_MAX} values once `${{}}` is written out"))
        })
    }
}

fn fields(path: &str, entries: &[Entry]) -> String {
    entries.iter().take(8).map(|e| format!("`${{{path}.{}}}`", e.key)).collect::<Vec<_>>().join(", ")
}

/// Splits a text at its references; `$${` stands for `${`. The error is where and what.
fn pieces(text: &str) -> Result<Vec<Piece<'_>>, (usize, &'static str)> {
    let mut pieces = Vec::new();
    let mut from = 0;
    while let Some(at) = text[from..].find("${").map(|at| from + at) {
        if text[..at].ends_with('$') {
            pieces.push(Piece::Text(&text[from..at - 1]));
            pieces.push(Piece::Text("${"));
            from = at + 2;
            continue;
        }
        let end = text[at..].find('}').map(|end| at + end + 1).ok_or((at, "`${` without its `}`"))?;
        let path = text[at + 2..end - 1].trim();
        let is_name = |part: &str| {
            !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-')
        };
        if !path.split('.').all(is_name) {
            return Err((at, "expected a name or `name.field` within `${}`"));
        }
        if at > from {
            pieces.push(Piece::Text(&text[from..at]));
        }
        pieces.push(Piece::Reference { path, start: at, end });
        from = end;
    }
    if from < text.len() || pieces.is_empty() {
        pieces.push(Piece::Text(&text[from..]));
    }
    Ok(pieces)
}

fn malformed(node: &Node, text: &str, (at, what): (usize, &'static str)) -> Mistake {
    Mistake::new(within(node, text, at, at + 2), what).help("a `${` that is meant as text is written `$${`")
}

/// The place of part of a scalar, where its text stands in the source as it is; else the place of the scalar.
fn within(node: &Node, text: &str, start: usize, end: usize) -> Span {
    let length = (node.span.end - node.span.start) as usize;
    let quote = match length.checked_sub(text.len()) {
        Some(0) => 0,
        Some(2) => 1,
        _ => return node.span,
    };
    let from = node.span.start + quote;
    Span { source: node.span.source, start: from + start as u32, end: from + end as u32 }
}
