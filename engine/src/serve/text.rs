//! Text to tokens and back, token by token. Knows no request and no engine.

use std::sync::Arc;

use camino::Utf8Path;
use tokenizers::Tokenizer;

/// A character that stands for bytes which are no UTF-8, or not yet.
const BROKEN: char = '\u{FFFD}';
/// Tokens that may be held back for a character to become whole; no character takes as many.
const HELD_MAX: usize = 32;

/// A model's `tokenizer.json`.
#[derive(Debug, Clone)]
pub(super) struct Vocabulary(Arc<Tokenizer>);

impl Vocabulary {
    /// Reads the file.
    pub(super) fn read(path: &Utf8Path) -> Result<Self, String> {
        let text = fs_err::read(path).map_err(|error| error.to_string())?;
        Self::parse(&text).map_err(|error| format!("{path}: {error}"))
    }

    /// Reads the file's content. What it says of padding and truncation is not for prompts that run one by one.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let mut tokenizer = Tokenizer::from_bytes(text).map_err(|error| error.to_string())?;
        tokenizer.with_truncation(None).map_err(|error| error.to_string())?;
        tokenizer.with_padding(None);
        Ok(Self(Arc::new(tokenizer)))
    }

    /// A prompt's tokens; `special`: with those that the tokenizer puts around a text.
    pub(super) fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, String> {
        let encoding = self.0.encode_fast(text, special).map_err(|error| error.to_string())?;
        Ok(encoding.get_ids().to_vec())
    }

    /// For an output that begins.
    pub(super) fn decoder(&self) -> Decoder {
        Decoder { vocabulary: self.clone(), window: Vec::new(), shown: 0 }
    }

    fn decode(&self, ids: &[u32]) -> String {
        // An id beyond the vocabulary has no text.
        self.0.decode(ids, true).unwrap_or_default()
    }
}

/// Turns an output's tokens into text as they come; never hands out a part of a character.
#[derive(Debug)]
pub(super) struct Decoder {
    vocabulary: Vocabulary,
    /// The tokens that were told last, which decide how the next begin, and those not told yet.
    window: Vec<u32>,
    /// How many of them were told.
    shown: usize,
}

impl Decoder {
    /// Takes a token; hands out what text is sure now.
    pub(super) fn push(&mut self, token: u32) -> String {
        self.window.push(token);
        let held = self.window.len() - self.shown;
        self.take(|text| !text.ends_with(BROKEN) || held >= HELD_MAX)
    }

    /// Hands out the rest, whole or not.
    pub(super) fn finish(&mut self) -> String {
        self.take(|_| true)
    }

    fn take(&mut self, is_sure: impl Fn(&str) -> bool) -> String {
        let before = self.vocabulary.decode(&self.window[..self.shown]);
        let text = self.vocabulary.decode(&self.window);
        // Shorter text happens where a decoder cleans up; then there is nothing new to tell yet.
        let new = text.get(before.len()..).unwrap_or_default();
        if new.is_empty() || !is_sure(new) {
            return String::new();
        }
        let new = new.to_owned();
        self.window.drain(..self.shown);
        self.shown = self.window.len();
        new
    }
}

/// Looks for the texts that end an output, over the borders of tokens.
#[derive(Debug)]
pub(super) struct StopStrings {
    stops: Vec<String>,
    /// Text that may turn out to begin one of them.
    held: String,
}

/// Text that is part of an output.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Passed {
    /// To be told.
    pub(super) text: String,
    /// One of the stops came after it.
    pub(super) stopped: bool,
}

impl StopStrings {
    /// None of `stops` is empty.
    pub(super) fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new() }
    }

    /// Takes more text; lets through what begins no stop.
    pub(super) fn push(&mut self, text: &str) -> Passed {
        self.held.push_str(text);
        let found = self.stops.iter().filter_map(|stop| self.held.find(stop)).min();
        if let Some(place) = found {
            let text = self.held[..place].to_owned();
            self.held.clear();
            return Passed { text, stopped: true };
        }
        let kept = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - kept);
        Passed { text: std::mem::replace(&mut self.held, rest), stopped: false }
    }

    /// The output is over: what was held begins no stop after all.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes of the longest proper beginning of `stop` that `text` ends with.
fn overlap(text: &str, stop: &str) -> usize {
    let starts = stop.char_indices().map(|(at, _)| at).rev();
    starts.into_iter().find(|&length| text.ends_with(&stop[..length])).unwrap_or(0)
}

#[cfg(test)]
mod tests;
