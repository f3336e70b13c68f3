//! Mistakes in a pipeline and how they are shown: place, source lines, caret, the fix. Knows nothing of what a pipeline means.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use camino::{Utf8Path, Utf8PathBuf};

/// A range of bytes in one of the [`Sources`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// Which text.
    pub source: SourceId,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// Index of a text in [`Sources`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u32);

/// The texts that spans point into: the pipeline file, then one for each `--set`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources(Vec<(Utf8PathBuf, String)>);

impl Sources {
    /// Adds a text under the name that messages give it.
    pub fn add(&mut self, name: &Utf8Path, text: String) -> SourceId {
        self.0.push((name.to_owned(), text));
        SourceId(self.0.len() as u32 - 1)
    }

    /// The text.
    pub fn text(&self, source: SourceId) -> &str {
        &self.0[source.0 as usize].1
    }

    /// The name given to the text.
    pub fn name(&self, source: SourceId) -> &Utf8Path {
        &self.0[source.0 as usize].0
    }

    /// Line and column, from 1, in characters.
    pub fn line_column(&self, span: Span) -> (u32, u32) {
        let text = self.text(span.source);
        let range = clamp(text, span);
        let before = &text[..range.start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.bytes().filter(|b| *b == b'\n').count() as u32 + 1;
        (line, before[line_start..].chars().count() as u32 + 1)
    }
}

/// The span as a range that `text` can be sliced by, whatever the span holds.
fn clamp(text: &str, span: Span) -> Range<usize> {
    let start = text.floor_char_boundary((span.start as usize).min(text.len()));
    let end = text.floor_char_boundary((span.end as usize).min(text.len()));
    start..end.max(start)
}

/// One mistake: what was found where, what was expected, how to put it right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where.
    pub span: Span,
    /// What is wrong, in one line.
    pub title: String,
    /// Said at the caret; may be empty.
    pub label: String,
    /// A second place that matters, and what is there.
    pub also: Option<Box<(Span, String)>>,
    /// Where in the document, or for which instance.
    pub note: Option<String>,
    /// The fix.
    pub help: Option<String>,
}

impl Mistake {
    /// A mistake at `span`.
    pub fn new(span: Span, title: impl Into<String>) -> Self {
        Self { span, title: title.into(), label: String::new(), also: None, note: None, help: None }
    }

    /// With words at the caret.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// With a fix.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// With the nearest of `names` as the fix, or all of them where none is near.
    pub fn suggest<'a>(self, wrong: &str, what: &str, names: impl IntoIterator<Item = &'a str>) -> Self {
        let names: Vec<&str> = names.into_iter().collect();
        match nearest(wrong, names.iter().copied()) {
            Some(name) => self.help(format!("did you mean `{name}`?")),
            None if names.is_empty() => self.help(format!("there is no {what} here")),
            None => self.help(format!("{what}: {}", listed(&names))),
        }
    }

    /// With a note.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// With a second place.
    pub fn also(mut self, span: Span, label: impl Into<String>) -> Self {
        self.also = Some(Box::new((span, label.into())));
        self
    }
}

/// Names in backquotes, at most twelve.
fn listed(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(12).map(|n| format!("`{n}`")).collect();
    let more = if names.len() > 12 { format!(" and {} more", names.len() - 12) } else { String::new() };
    shown.join(", ") + &more
}

/// The name most like `wrong`, if one is like it at all; the first of equals.
pub fn nearest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let score = |name: &str| {
        let (a, b) = (wrong.to_lowercase(), name.to_lowercase());
        strsim::jaro_winkler(&a, &b).max(strsim::normalized_damerau_levenshtein(&a, &b))
    };
    let mut best: Option<(&str, f64)> = None;
    for name in names {
        let s = score(name);
        if s > 0.75 && best.is_none_or(|(_, top)| s > top) {
            best = Some((name, s));
        }
    }
    best.map(|(name, _)| name)
}

/// Every mistake found in a pipeline, with the texts they point into. `Display` shows them without colour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineErrors {
    sources: Sources,
    mistakes: Vec<Mistake>,
}

impl PipelineErrors {
    /// `mistakes` in the order of their places, one a place: the others are of further instances.
    pub fn new(sources: Sources, mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort_by_key(|m| m.span);
        mistakes.dedup_by_key(|m| m.span);
        Self { sources, mistakes }
    }

    /// One mistake that is in no text, such as a pipeline that does not exist.
    pub fn outside(title: impl Into<String>, help: Option<String>) -> Self {
        let mut sources = Sources::default();
        let source = sources.add(Utf8Path::new(""), String::new());
        let mut mistake = Mistake::new(Span { source, start: 0, end: 0 }, title);
        mistake.help = help;
        Self { sources, mistakes: vec![mistake] }
    }

    /// The mistakes, in the order of their places.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }

    /// The whole message, with ANSI colours or without.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let shown: Vec<String> = self.mistakes.iter().map(|m| self.render_one(&renderer, m)).collect();
        shown.join("\n\n")
    }

    fn render_one(&self, renderer: &Renderer, mistake: &Mistake) -> String {
        let mut group = Level::ERROR.primary_title(&mistake.title).elements(self.snippets(mistake));
        if let Some(note) = &mistake.note {
            group = group.element(Level::NOTE.message(note));
        }
        if let Some(help) = &mistake.help {
            group = group.element(Level::HELP.message(help));
        }
        renderer.render(&[group])
    }

    fn snippets<'a>(&'a self, mistake: &'a Mistake) -> Vec<Snippet<'a, annotate_snippets::Annotation<'a>>> {
        let text = self.sources.text(mistake.span.source);
        if self.sources.name(mistake.span.source) == "" {
            return Vec::new();
        }
        let primary =
            AnnotationKind::Primary.span(clamp(text, mistake.span)).label(non_empty(&mistake.label));
        let mut first = self.snippet(mistake.span.source).annotation(primary);
        let mut rest = Vec::new();
        if let Some((span, label)) = mistake.also.as_deref() {
            let context =
                AnnotationKind::Context.span(clamp(self.sources.text(span.source), *span)).label(label);
            if span.source == mistake.span.source {
                first = first.annotation(context);
            } else {
                rest.push(self.snippet(span.source).annotation(context));
            }
        }
        std::iter::once(first).chain(rest).collect()
    }

    fn snippet(&self, source: SourceId) -> Snippet<'_, annotate_snippets::Annotation<'_>> {
        Snippet::source(self.sources.text(source)).path(self.sources.name(source).as_str())
    }
}

fn non_empty(label: &str) -> Option<&str> {
    (!label.is_empty()).then_some(label)
}

impl fmt::Display for PipelineErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for PipelineErrors {}
