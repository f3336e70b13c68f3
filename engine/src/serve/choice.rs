//! One output on its way to the client: tokens in, text out, and the end of it. Knows neither JSON nor the engine.

use super::desk::Finish;
use super::text::{Decoder, Passed, StopStrings};

/// An output so far.
#[derive(Debug)]
pub(super) struct Choice {
    /// Absent where the model has no tokenizer.
    decoder: Option<Decoder>,
    stops: StopStrings,
    /// Output tokens so far.
    pub(super) tokens: u32,
    /// Not told yet.
    untold: Vec<u32>,
    /// Why there is no more, once there is none.
    pub(super) finish: Option<Finish>,
}

/// What became sure of an output.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Delta {
    pub(super) text: String,
    /// The tokens since the last delta, whose text this is.
    pub(super) tokens: Vec<u32>,
    /// This is the last one.
    pub(super) finish: Option<Finish>,
    /// A stop string ended it: the engine does not know yet.
    pub(super) cut: bool,
}

impl Choice {
    /// Nothing yet.
    pub(super) fn new(decoder: Option<Decoder>, stop: Vec<String>) -> Self {
        Self { decoder, stops: StopStrings::new(stop), tokens: 0, untold: Vec::new(), finish: None }
    }

    /// Takes the next token. `None`: nothing is sure yet. Tokens after the end are ignored: the engine was ahead.
    pub(super) fn push(&mut self, token: u32, finish: Option<Finish>) -> Option<Delta> {
        if self.finish.is_some() {
            return None;
        }
        self.tokens += 1;
        self.untold.push(token);
        let (text, cut) = self.text(token, finish);
        self.finish = if cut { Some(Finish::Stop) } else { finish };
        let is_sure = self.decoder.is_none() || !text.is_empty() || self.finish.is_some();
        is_sure.then(|| Delta {
            text,
            tokens: std::mem::take(&mut self.untold),
            finish: self.finish,
            cut: cut && finish.is_none(),
        })
    }

    /// What text is sure with `token`, and whether a stop string came after it.
    fn text(&mut self, token: u32, finish: Option<Finish>) -> (String, bool) {
        let Some(decoder) = &mut self.decoder else { return (String::new(), false) };
        let mut new = match finish {
            // The stop token is no part of the text.
            Some(Finish::Stop) => String::new(),
            Some(Finish::Length) | None => decoder.push(token),
        };
        if finish.is_some() {
            new.push_str(&decoder.finish());
        }
        let Passed { mut text, stopped } = self.stops.push(&new);
        if finish.is_some() && !stopped {
            text.push_str(&self.stops.finish());
        }
        (text, stopped)
    }
}

#[cfg(test)]
mod tests;
