//! YAML text to a [`Node`]: anchors and aliases, `<<` merges, duplicate keys refused, growth bounded. Knows no pipeline.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError};

use crate::diagnostic::{Mistake, SourceId, Span};
use crate::node::{Entry, Node, Value};

/// Nodes a document may have once its aliases are written out.
pub const NODES_MAX: usize = 200_000;
/// Levels a document may have once its aliases are written out.
pub const DEPTH_MAX: usize = 64;

/// Reads one document; on failure, every mistake that could be found.
pub fn parse(source: SourceId, text: &str) -> Result<Node, Vec<Mistake>> {
    let mut builder = Builder::new(source, text);
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let step = match event {
            Ok((event, span)) => {
                let span = builder.lines.span(&span.start, &span.end);
                builder.event(event, span)
            }
            Err(error) => Err(builder.syntax(&error, text)),
        };
        if let Err(mistake) = step {
            builder.mistakes.push(mistake);
            return Err(builder.mistakes);
        }
    }
    match builder.root {
        _ if !builder.mistakes.is_empty() => Err(builder.mistakes),
        Some(built) => Ok(built.node),
        None => Err(vec![
            Mistake::new(Span { source, start: 0, end: 0 }, "the file is empty")
                .help("begin with `chariot: 1`"),
        ]),
    }
}

/// A finished node with what it costs to write it out.
#[derive(Clone)]
struct Built {
    node: Node,
    nodes: usize,
    height: usize,
}

/// A list or map whose end has not been seen.
struct Open {
    is_map: bool,
    anchor: usize,
    span: Span,
    children: Vec<Built>,
}

struct Builder {
    lines: Lines,
    stack: Vec<Open>,
    anchors: HashMap<usize, Built>,
    root: Option<Built>,
    nodes: usize,
    mistakes: Vec<Mistake>,
}

impl Builder {
    fn new(source: SourceId, text: &str) -> Self {
        let lines = Lines::new(source, text);
        Self { lines, stack: Vec::new(), anchors: HashMap::new(), root: None, nodes: 0, mistakes: Vec::new() }
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Mistake> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let tagged_str = tag.is_some_and(|tag| self.tag_is_str(&tag, span));
                let plain = style == ScalarStyle::Plain && !tagged_str;
                let node = Node::scalar(&text, plain, span);
                self.push(Built { node, nodes: 1, height: 1 }, anchor, span)
            }
            Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) if tag.is_some() => {
                let _ = tag.is_some_and(|tag| self.tag_is_str(&tag, span));
                let _ = anchor;
                Err(Mistake::new(span, "tags on lists and maps mean nothing here").help("remove the tag"))
            }
            Event::SequenceStart(anchor, _) => self.open(false, anchor, span),
            Event::MappingStart(anchor, _) => self.open(true, anchor, span),
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some(built) => self.push(built.clone(), 0, span),
                None => Err(Mistake::new(span, "an alias inside its own anchor would never end")),
            },
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(Mistake::new(span, "expected one document, found a second")
                    .help("split the file at `---`"))
            }
            _ => Ok(()),
        }
    }

    /// `!!str` is honoured; every other tag is a mistake.
    fn tag_is_str(&mut self, tag: &saphyr_parser::Tag, span: Span) -> bool {
        let is_str = tag.is_yaml_core_schema() && tag.suffix == "str";
        if !is_str {
            let mistake = Mistake::new(span, format!("the tag `{tag}` means nothing here"));
            self.mistakes.push(mistake.help("remove the tag"));
        }
        is_str
    }

    fn open(&mut self, is_map: bool, anchor: usize, span: Span) -> Result<(), Mistake> {
        if self.stack.len() >= DEPTH_MAX {
            return Err(too_deep(span));
        }
        self.stack.push(Open { is_map, anchor, span, children: Vec::new() });
        Ok(())
    }

    fn close(&mut self, end: Span) -> Result<(), Mistake> {
        let Some(Open { is_map, anchor, span, children }) = self.stack.pop() else { return Ok(()) };
        let nodes = 1 + children.iter().map(|c| c.nodes).sum::<usize>();
        let height = 1 + children.iter().map(|c| c.height).max().unwrap_or(0);
        let whole = self.lines.on_one_line(span, end).unwrap_or(span);
        let children: Vec<Node> = children.into_iter().map(|c| c.node).collect();
        let node = if is_map {
            let entries = self.entries(children);
            Node::map(entries, whole)
        } else {
            Node::list(children, whole)
        };
        self.push(Built { node, nodes, height }, anchor, span)
    }

    fn push(&mut self, built: Built, anchor: usize, span: Span) -> Result<(), Mistake> {
        self.nodes += built.nodes;
        if self.nodes > NODES_MAX * 2 || built.nodes > NODES_MAX {
            return Err(Mistake::new(
                span,
                format!("expected at most {NODES_MAX} values once aliases are written out"),
            ));
        }
        if self.stack.len() + built.height > DEPTH_MAX {
            return Err(too_deep(span));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, built.clone());
        }
        match self.stack.last_mut() {
            Some(open) => open.children.push(built),
            None => self.root = Some(built),
        }
        Ok(())
    }

    /// Keys and values in turn to entries: own keys first, then what `<<` brings in under keys not yet there.
    fn entries(&mut self, children: Vec<Node>) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::with_capacity(children.len() / 2);
        let mut seen: BTreeMap<Rc<str>, Span> = BTreeMap::new();
        let mut merges = Vec::new();
        let mut children = children.into_iter();
        while let (Some(key), Some(value)) = (children.next(), children.next()) {
            let Value::Scalar(scalar) = &key.value else {
                self.mistakes.push(Mistake::new(
                    key.span,
                    format!("expected a name as key, found {}", key.describe()),
                ));
                continue;
            };
            let text = Rc::clone(&scalar.text);
            if let Some(first) = seen.insert(Rc::clone(&text), key.span) {
                let title = format!("the key `{text}` is given twice");
                let mistake = Mistake::new(key.span, title).label("again").also(first, "first given here");
                self.mistakes.push(mistake.help("remove one of the two"));
            } else if scalar.plain && &*text == "<<" {
                merges.push(value);
            } else {
                entries.push(Entry { key: text, key_span: key.span, value });
            }
        }
        for merge in &merges {
            self.merge(merge, &mut entries, &mut seen);
        }
        entries
    }

    fn merge(&mut self, merge: &Node, entries: &mut Vec<Entry>, seen: &mut BTreeMap<Rc<str>, Span>) {
        match &merge.value {
            Value::Map(brought) => {
                for entry in
                    brought.iter().filter(|e| !seen.contains_key(&e.key)).cloned().collect::<Vec<_>>()
                {
                    seen.insert(Rc::clone(&entry.key), entry.key_span);
                    entries.push(entry);
                }
            }
            Value::List(maps) if maps.iter().all(|m| m.entries().is_some()) => {
                maps.iter().for_each(|map| self.merge(map, entries, seen));
            }
            _ => {
                let title = format!("expected a map to merge in, found {}", merge.describe());
                self.mistakes.push(Mistake::new(merge.span, title).help("write `<<: *anchor`"));
            }
        }
    }

    fn syntax(&mut self, error: &ScanError, text: &str) -> Mistake {
        let span = self.lines.span(error.marker(), error.marker());
        let mistake = Mistake::new(span, format!("not valid YAML: {}", error.info()));
        let line = text.lines().nth(error.marker().line().saturating_sub(1)).unwrap_or_default();
        if line.contains("${") && line.contains(['{', '[']) {
            return mistake.help("inside `{}` and `[]`, put `${...}` in quotes: `\"${...}\"`");
        }
        mistake
    }
}

fn too_deep(span: Span) -> Mistake {
    Mistake::new(span, format!("expected at most {DEPTH_MAX} levels"))
}

/// Line and column to bytes. The parser's own running index is not used: it loses count after non-ASCII comments.
struct Lines {
    source: SourceId,
    /// Byte at which each line starts, and whether the line is all ASCII.
    starts: Vec<(usize, bool)>,
    text: String,
    /// The last answer: most questions are about a place further on in the same line.
    last: (usize, usize, usize),
}

impl Lines {
    fn new(source: SourceId, text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut starts = vec![(0, true)];
        for (at, byte) in bytes.iter().enumerate() {
            let lone_cr = *byte == b'\r' && bytes.get(at + 1) != Some(&b'\n');
            match (byte, starts.last_mut()) {
                (b'\n', _) => starts.push((at + 1, true)),
                _ if lone_cr => starts.push((at + 1, true)),
                (128.., Some(line)) => line.1 = false,
                _ => {}
            }
        }
        Self { source, starts, text: text.to_owned(), last: (0, 0, 0) }
    }

    fn byte(&mut self, mark: &Marker) -> usize {
        let line = mark.line().saturating_sub(1).min(self.starts.len() - 1);
        let (start, ascii) = self.starts[line];
        let end = self.starts.get(line + 1).map_or(self.text.len(), |next| next.0);
        if ascii {
            return (start + mark.col()).min(end);
        }
        let (from_col, from_byte) = match self.last {
            (last_line, col, byte) if last_line == line && col <= mark.col() => (col, byte),
            _ => (0, start),
        };
        let rest = &self.text[from_byte.max(start)..end];
        let byte =
            rest.char_indices().nth(mark.col() - from_col).map_or(end, |(at, _)| from_byte.max(start) + at);
        self.last = (line, mark.col(), byte);
        byte
    }

    fn span(&mut self, start: &Marker, end: &Marker) -> Span {
        let (start, end) = (self.byte(start), self.byte(end));
        Span { source: self.source, start: start as u32, end: end.max(start) as u32 }
    }

    /// From the start of one to the end of the other, if no line ends between them.
    fn on_one_line(&self, start: Span, end: Span) -> Option<Span> {
        let line = |at: u32| self.starts.partition_point(|s| s.0 <= at as usize);
        (end.end > start.start && line(start.start) == line(end.end)).then_some(Span {
            source: self.source,
            start: start.start,
            end: end.end,
        })
    }
}
