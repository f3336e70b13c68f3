//! What a request asks for, read from its JSON and checked. Knows no tokenizer and no engine.

use serde_json::{Map, Value};

use super::error::{ApiError, Result};
use super::fields::{Fields, ids, shown};

/// Stop strings of a request at most.
const STOPS_MAX: usize = 4;
/// Output tokens of a completion that does not say.
pub(super) const COMPLETION_TOKENS: u32 = 16;

/// A prompt as it was sent.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Input {
    /// Still to be turned into tokens.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
}

/// How outputs are made and told.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Options {
    /// Output tokens at most, and the member that says so.
    pub(super) max_tokens: Option<(&'static str, u32)>,
    pub(super) temperature: f32,
    pub(super) top_p: f32,
    /// Absent: one that nobody knows.
    pub(super) seed: Option<u64>,
    /// Texts that end an output and are not part of it.
    pub(super) stop: Vec<String>,
    /// Tokens that end an output, beside the model's own.
    pub(super) stop_token_ids: Vec<u32>,
    /// The model's own end tokens do not end it.
    pub(super) ignore_eos: bool,
    pub(super) stream: bool,
    /// A stream ends with the usage.
    pub(super) include_usage: bool,
    /// Tell token ids though there is text.
    pub(super) return_token_ids: bool,
}

/// The body of `/v1/completions`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Completion {
    /// At least one.
    pub(super) inputs: Vec<Input>,
    pub(super) options: Options,
}

/// The body of `/v1/chat/completions`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chat {
    /// At least one, each with the strings `role` and `content`.
    pub(super) messages: Vec<Map<String, Value>>,
    pub(super) options: Options,
}

impl Completion {
    /// Reads a body meant for the model `served`.
    pub(super) fn parse(body: &[u8], served: &str) -> Result<Self> {
        let fields = Fields::parse(body)?;
        check_model(&fields, served)?;
        refuse(&fields, &ANYWHERE)?;
        refuse(&fields, &COMPLETIONS)?;
        let prompt = fields.need("prompt", PROMPT)?;
        let inputs = inputs(prompt).ok_or_else(|| ApiError::field("prompt", PROMPT, shown(prompt)))?;
        let max_tokens = fields.count("max_tokens")?.map(|count| ("max_tokens", count));
        Ok(Self { inputs, options: options(&fields, max_tokens)? })
    }
}

impl Chat {
    /// Reads a body meant for the model `served`.
    pub(super) fn parse(body: &[u8], served: &str) -> Result<Self> {
        let fields = Fields::parse(body)?;
        check_model(&fields, served)?;
        refuse(&fields, &ANYWHERE)?;
        refuse(&fields, &CHATS)?;
        let expected = "an array of at least one message";
        let messages = fields.need("messages", expected)?;
        let list = messages.as_array().filter(|list| !list.is_empty());
        let list = list.ok_or_else(|| ApiError::field("messages", expected, shown(messages)))?;
        let messages = list.iter().enumerate().map(|(i, each)| message(i, each)).collect::<Result<_>>()?;
        let newer = fields.count("max_completion_tokens")?.map(|count| ("max_completion_tokens", count));
        let max_tokens = newer.or(fields.count("max_tokens")?.map(|count| ("max_tokens", count)));
        Ok(Self { messages, options: options(&fields, max_tokens)? })
    }
}

const PROMPT: &str = "a string, an array of strings, an array of token ids or an array of those";

fn inputs(prompt: &Value) -> Option<Vec<Input>> {
    let one = |value: &Value| match value {
        Value::String(text) => Some(Input::Text(text.clone())),
        other => ids(other).map(Input::Tokens),
    };
    match prompt {
        Value::Array(items) if items.is_empty() => None,
        Value::Array(items) if !items[0].is_number() => items.iter().map(one).collect(),
        other => Some(vec![one(other)?]),
    }
}

/// A message whose content is one string, whatever parts it came in.
fn message(number: usize, value: &Value) -> Result<Map<String, Value>> {
    let name = format!("messages[{number}]");
    let wrong = |member: &str, expected: &str, found: Option<&Value>| {
        let found = found.map_or_else(|| "none".to_owned(), shown);
        ApiError::field(&format!("{name}{member}"), expected, found)
    };
    let map = value.as_object().ok_or_else(|| wrong("", "an object", Some(value)))?;
    let role = map.get("role");
    role.and_then(Value::as_str).ok_or_else(|| wrong(".role", "a string", role))?;
    let content = match map.get("content") {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => parts(other)
            .ok_or_else(|| wrong(".content", "a string or an array of text parts", Some(other)))?,
    };
    let mut map = map.clone();
    map.insert("content".to_owned(), Value::String(content));
    Ok(map)
}

fn parts(content: &Value) -> Option<String> {
    let part = |value: &Value| match value.get("type")?.as_str()? {
        "text" => value.get("text")?.as_str().map(str::to_owned),
        _ => None,
    };
    let texts: Option<Vec<String>> = content.as_array()?.iter().map(part).collect();
    Some(texts?.join("\n"))
}

fn check_model(fields: &Fields, served: &str) -> Result<()> {
    let found = fields.need("model", "a string")?;
    match found.as_str() {
        Some(name) if name == served => Ok(()),
        Some(name) => Err(ApiError::no_model(served, name)),
        None => Err(ApiError::field("model", "a string", shown(found))),
    }
}

fn options(fields: &Fields, max_tokens: Option<(&'static str, u32)>) -> Result<Options> {
    let stream = fields.flag("stream")?;
    Ok(Options {
        max_tokens,
        temperature: fields.number("temperature", 0.0..=2.0)?.unwrap_or(1.0) as f32,
        // A share of nothing would leave no token; the likeliest one is always kept.
        top_p: fields.number("top_p", 0.0..=1.0)?.unwrap_or(1.0) as f32,
        seed: fields.bits("seed")?,
        stop: fields.strings("stop", STOPS_MAX)?,
        stop_token_ids: fields.ids("stop_token_ids")?.unwrap_or_default(),
        ignore_eos: fields.flag("ignore_eos")?,
        stream,
        include_usage: include_usage(fields, stream)?,
        return_token_ids: fields.flag("return_token_ids")?,
    })
}

fn include_usage(fields: &Fields, stream: bool) -> Result<bool> {
    let Some(value) = fields.get("stream_options") else { return Ok(false) };
    if !stream {
        return Err(ApiError::field("stream_options", "none without `stream: true`", shown(value)));
    }
    match value.get("include_usage") {
        None | Some(Value::Null) if value.is_object() => Ok(false),
        Some(Value::Bool(wanted)) => Ok(*wanted),
        _ => Err(ApiError::field(
            "stream_options",
            "an object with include_usage: true or false",
            shown(value),
        )),
    }
}

/// A known member without effect here, what it must be, and whether it is that.
type Refused = (&'static str, &'static str, fn(&Value) -> bool);

fn refuse(fields: &Fields, members: &[Refused]) -> Result<()> {
    members.iter().try_for_each(|(name, expected, is_nothing)| fields.refuse(name, expected, is_nothing))
}

fn is_zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
}

fn is_one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

fn is_false(value: &Value) -> bool {
    value == &Value::Bool(false)
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
}

fn is_all(value: &Value) -> bool {
    value.as_i64().is_some_and(|top| top <= 0)
}

fn is_text(value: &Value) -> bool {
    value.get("type").and_then(Value::as_str) == Some("text")
}

fn is_text_alone(value: &Value) -> bool {
    value.as_array().is_some_and(|list| list.iter().all(|item| item == "text"))
}

fn is_none(value: &Value) -> bool {
    value == "none"
}

const ANYWHERE: [Refused; 12] = [
    ("n", "1 (one output a prompt)", is_one),
    ("presence_penalty", "0 (penalties are not supported)", is_zero),
    ("frequency_penalty", "0 (penalties are not supported)", is_zero),
    ("repetition_penalty", "1 (penalties are not supported)", is_one),
    ("logit_bias", "none (it is not supported)", is_empty),
    ("top_k", "-1 or 0 (it is not supported)", is_all),
    ("min_p", "0 (it is not supported)", is_zero),
    ("min_tokens", "0 (it is not supported)", is_zero),
    ("use_beam_search", "false (it is not supported)", is_false),
    ("prompt_logprobs", "none (log probabilities are not supported)", |_| false),
    ("response_format", "the type text (others are not supported)", is_text),
    ("top_logprobs", "none (log probabilities are not supported)", |_| false),
];

const COMPLETIONS: [Refused; 4] = [
    ("logprobs", "none (log probabilities are not supported)", |_| false),
    ("echo", "false (prompts are not sent back)", is_false),
    ("suffix", "none (it is not supported)", |value| value == ""),
    ("best_of", "1 (one output a prompt)", is_one),
];

const CHATS: [Refused; 9] = [
    ("logprobs", "false (log probabilities are not supported)", is_false),
    ("tools", "none (tools are not supported)", is_empty),
    ("tool_choice", "none (tools are not supported)", is_none),
    ("functions", "none (tools are not supported)", is_empty),
    ("function_call", "none (tools are not supported)", is_none),
    ("modalities", "text alone", is_text_alone),
    ("audio", "none (text alone is supported)", |_| false),
    ("prediction", "none (it is not supported)", |_| false),
    ("web_search_options", "none (it is not supported)", |_| false),
];

#[cfg(test)]
mod tests;
