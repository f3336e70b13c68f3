//! The bodies of answers, as OpenAI's clients read them. Knows no engine.

use serde_json::{Map, Value, json};

use super::choice::Delta;
use super::desk::Finish;

/// Which of the two endpoints answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `/v1/completions`.
    Completion,
    /// `/v1/chat/completions`.
    Chat,
}

/// What every body of one answer says.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) id: String,
    /// Seconds since 1970.
    pub(super) created: i64,
    pub(super) model: String,
    /// Tell token ids.
    pub(super) tells_tokens: bool,
    /// A stream whose chunks have a member `usage`.
    pub(super) tells_usage: bool,
}

/// Tokens of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) prompt: u32,
    pub(super) completion: u32,
}

impl Usage {
    fn json(self) -> Value {
        let Self { prompt, completion } = self;
        json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
    }
}

fn reason(finish: Option<Finish>) -> Value {
    finish.map_or(Value::Null, |finish| match finish {
        Finish::Stop => "stop".into(),
        Finish::Length => "length".into(),
    })
}

impl Frame {
    fn body(&self, object: &str, choices: &[Value]) -> Map<String, Value> {
        let body = json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices,
        });
        match body {
            Value::Object(map) => map,
            _ => unreachable!("it is an object"),
        }
    }

    /// A whole answer; one delta an output, each all of it.
    pub(super) fn whole(&self, outputs: &[Delta], usage: Usage) -> Value {
        let object = match self.kind {
            Kind::Completion => "text_completion",
            Kind::Chat => "chat.completion",
        };
        let choice = |(index, output): (usize, &Delta)| {
            let content = match self.kind {
                Kind::Completion => ("text", json!(output.text)),
                Kind::Chat => ("message", json!({"role": "assistant", "content": output.text})),
            };
            self.choice(index, content, output)
        };
        let choices: Vec<Value> = outputs.iter().enumerate().map(choice).collect();
        let mut body = self.body(object, &choices);
        body.insert("usage".to_owned(), usage.json());
        Value::Object(body)
    }

    /// A part of output `index` of a stream.
    pub(super) fn chunk(&self, index: usize, delta: &Delta) -> Value {
        let content = match self.kind {
            Kind::Completion => ("text", json!(delta.text)),
            Kind::Chat if delta.text.is_empty() => ("delta", json!({})),
            Kind::Chat => ("delta", json!({"content": delta.text})),
        };
        self.part(&[self.choice(index, content, delta)])
    }

    /// What begins output `index` of a chat's stream: who speaks.
    pub(super) fn opening(&self, index: usize) -> Value {
        let content = ("delta", json!({"role": "assistant", "content": ""}));
        self.part(&[self.choice(index, content, &Delta::default())])
    }

    /// What ends a stream whose client asked for it.
    pub(super) fn usage(&self, usage: Usage) -> Value {
        let mut body = self.part(&[]);
        body["usage"] = usage.json();
        body
    }

    fn part(&self, choices: &[Value]) -> Value {
        let object = match self.kind {
            Kind::Completion => "text_completion",
            Kind::Chat => "chat.completion.chunk",
        };
        let mut body = self.body(object, choices);
        if self.tells_usage {
            body.insert("usage".to_owned(), Value::Null);
        }
        Value::Object(body)
    }

    fn choice(&self, index: usize, (name, content): (&str, Value), delta: &Delta) -> Value {
        let mut choice = json!({"index": index, "logprobs": null, "finish_reason": reason(delta.finish)});
        choice[name] = content;
        if self.tells_tokens {
            choice["token_ids"] = json!(delta.tokens);
        }
        choice
    }
}
