//! The model that is served: turns a request's words into the engine's prompts. Knows no HTTP and no engine.

use camino::Utf8Path;

use super::error::{ApiError, Result};
use super::request::{COMPLETION_TOKENS, Chat, Completion, Input, Options};
use super::template::Template;
use super::text::{Decoder, Vocabulary};
use crate::model::sampler::Sampling;
use crate::runtime::Prompt;

/// What requests are checked against and turned into tokens with.
#[derive(Debug)]
pub struct ServedModel {
    /// What clients call it.
    pub(super) name: String,
    /// Token ids are below.
    vocabulary_size: u32,
    /// Longest prompt and output together, in tokens.
    pub(super) max_model_len: u32,
    /// Tokens that end an output.
    eos: Vec<u32>,
    vocabulary: Option<Vocabulary>,
    template: Option<Template>,
}

impl ServedModel {
    /// Reads `tokenizer.json` and the chat template of a model's folder, as far as it has them; says what is wrong with them.
    pub fn read(
        folder: &Utf8Path,
        name: String,
        vocabulary_size: u32,
        max_model_len: u32,
        eos: Vec<u32>,
    ) -> std::result::Result<Self, String> {
        let file = folder.join("tokenizer.json");
        let vocabulary = file.exists().then(|| Vocabulary::read(&file)).transpose()?;
        let template = Template::read(folder)?;
        Ok(Self { name, vocabulary_size, max_model_len, eos, vocabulary, template })
    }

    /// Whether answers have text.
    pub(super) fn has_text(&self) -> bool {
        self.vocabulary.is_some()
    }

    /// For an output that begins.
    pub(super) fn decoder(&self) -> Option<Decoder> {
        self.vocabulary.as_ref().map(Vocabulary::decoder)
    }

    /// A completion's prompts; `seed`: where it names none.
    pub(super) fn completion(&self, request: &Completion, seed: u64) -> Result<Vec<Prompt>> {
        let Completion { inputs, options } = request;
        self.check(options)?;
        let tokens = |input: &Input| match (input, &self.vocabulary) {
            (Input::Tokens(tokens), _) => Ok(tokens.clone()),
            (Input::Text(text), Some(vocabulary)) => self.encode(vocabulary, "prompt", text, true),
            (Input::Text(_), None) => {
                let expected = "token ids, for this model has no tokenizer.json";
                Err(ApiError::field("prompt", expected, "text"))
            }
        };
        let prompt = |input| self.prompt("prompt", tokens(input)?, options, Some(COMPLETION_TOKENS), seed);
        inputs.iter().map(prompt).collect()
    }

    /// A chat's prompt; `seed`: where it names none.
    pub(super) fn chat(&self, request: &Chat, seed: u64) -> Result<Vec<Prompt>> {
        let Chat { messages, options } = request;
        self.check(options)?;
        let missing = |what: &str| {
            ApiError::malformed(format_args!(
                "chat: expected a model with {what}, found one without; use /v1/completions"
            ))
        };
        let vocabulary = self.vocabulary.as_ref().ok_or_else(|| missing("a tokenizer.json"))?;
        let template =
            self.template.as_ref().ok_or_else(|| missing("a chat template in tokenizer_config.json"))?;
        let text = template.render(messages).map_err(|error| {
            ApiError::field("messages", "what the chat template takes", format_args!("its error: {error}"))
        })?;
        // The template writes the special tokens itself.
        let tokens = self.encode(vocabulary, "messages", &text, false)?;
        Ok(vec![self.prompt("messages", tokens, options, None, seed)?])
    }

    fn check(&self, options: &Options) -> Result<()> {
        if let Some(id) = options.stop_token_ids.iter().find(|id| **id >= self.vocabulary_size) {
            let expected = format!("token ids below {}", self.vocabulary_size);
            return Err(ApiError::field("stop_token_ids", expected, id));
        }
        if self.vocabulary.is_none() && !options.stop.is_empty() {
            let expected = "none, for this model has no tokenizer.json (use stop_token_ids)";
            return Err(ApiError::field("stop", expected, "text"));
        }
        Ok(())
    }

    fn encode(&self, vocabulary: &Vocabulary, field: &str, text: &str, special: bool) -> Result<Vec<u32>> {
        vocabulary.encode(text, special).map_err(|error| {
            ApiError::field(field, "text that the tokenizer takes", format_args!("its error: {error}"))
        })
    }

    fn prompt(
        &self,
        field: &str,
        tokens: Vec<u32>,
        options: &Options,
        default: Option<u32>,
        seed: u64,
    ) -> Result<Prompt> {
        if tokens.is_empty() {
            return Err(ApiError::field(field, "at least one token", "none"));
        }
        if let Some(id) = tokens.iter().find(|id| **id >= self.vocabulary_size) {
            return Err(ApiError::field(field, format_args!("token ids below {}", self.vocabulary_size), id));
        }
        let length = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        let room = self.max_model_len.saturating_sub(length);
        if room == 0 {
            let expected = format!("fewer than {} tokens (the model's limit)", self.max_model_len);
            return Err(ApiError::too_long(field, expected, format_args!("{length}")));
        }
        let output_max = match options.max_tokens {
            Some((member, count)) if count > room => {
                let limit = self.max_model_len;
                let expected = format!(
                    "at most {room} after a prompt of {length} tokens (the model's limit is {limit})"
                );
                return Err(ApiError::too_long(member, expected, count));
            }
            Some((_, count)) => count,
            None => default.unwrap_or(room).min(room),
        };
        let mut stop = if options.ignore_eos { Vec::new() } else { self.eos.clone() };
        stop.extend(&options.stop_token_ids);
        let Options { temperature, top_p, .. } = *options;
        let sampling = Sampling { temperature, top_p, seed: options.seed.unwrap_or(seed) };
        Ok(Prompt { tokens, sampling, output_max, stop })
    }
}
