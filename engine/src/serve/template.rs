//! A model's chat template: messages to the text of a prompt. Knows no token.

use camino::Utf8Path;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, context};
use serde_json::{Map, Value};

const NAME: &str = "chat";

/// A template as Transformers would render it.
#[derive(Debug)]
pub(super) struct Template {
    environment: Environment<'static>,
    /// `bos_token` and the like, as strings.
    tokens: Map<String, Value>,
}

impl Template {
    /// The template of a model's folder, if it has one: `chat_template.jinja`, or a member of `tokenizer_config.json`.
    pub(super) fn read(folder: &Utf8Path) -> Result<Option<Self>, String> {
        let config = folder.join("tokenizer_config.json");
        let config: Map<String, Value> = match config.exists() {
            false => Map::new(),
            true => {
                let text = fs_err::read_to_string(&config).map_err(|error| error.to_string())?;
                serde_json::from_str(&text).map_err(|error| format!("{config}: {error}"))?
            }
        };
        let file = folder.join("chat_template.jinja");
        let source = match file.exists() {
            true => Some(fs_err::read_to_string(&file).map_err(|error| error.to_string())?),
            false => member(&config),
        };
        let parse =
            |source| Self::new(source, &config).map_err(|error| format!("{folder}: chat template: {error}"));
        source.map(parse).transpose()
    }

    /// `config`: the content of `tokenizer_config.json`.
    pub(super) fn new(source: String, config: &Map<String, Value>) -> Result<Self, String> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| format!("{error:#}"))?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_template_owned(NAME, source).map_err(|error| format!("{error:#}"))?;
        let token = |(name, value): (&String, &Value)| {
            let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
            name.ends_with("_token").then(|| (name.clone(), Value::from(text)))
        };
        Ok(Self { environment, tokens: config.iter().filter_map(token).collect() })
    }

    /// The prompt after which the assistant speaks.
    pub(super) fn render(&self, messages: &[Map<String, Value>]) -> Result<String, String> {
        let template = self.environment.get_template(NAME).map_err(|error| format!("{error:#}"))?;
        let tokens = minijinja::Value::from(Serde(&self.tokens));
        let messages = minijinja::Value::from(Serde(messages));
        template
            .render(context! { messages, add_generation_prompt => true, ..tokens })
            .map_err(|error| format!("{error:#}"))
    }
}

/// `chat_template`: a string, or named ones, of which `default` is taken.
fn member(config: &Map<String, Value>) -> Option<String> {
    match config.get("chat_template")? {
        Value::String(source) => Some(source.clone()),
        Value::Array(named) => {
            let default = named.iter().find(|each| each.get("name").is_some_and(|name| name == "default"))?;
            default.get("template")?.as_str().map(str::to_owned)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
