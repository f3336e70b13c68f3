//! What a model computes beyond its shape: epsilon, rotary base, attention window, end tokens. Reads no weights.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::shape::{Family, ModelShape, ShapeError};

/// Base of the rotary angles where a model says nothing (Su et al. 2021).
const ROPE_THETA: f64 = 1e4;
/// Sliding window of a Mistral configuration that says nothing, Transformers' own default.
const MISTRAL_WINDOW: u32 = 4096;

/// A model, but for its weights. The family decides the rest: Falcon has layer norms and GELU by the error function, Llama RMS
/// norms and SiLU; scores are scaled by `1 / sqrt(head_dim)`; heads are rotated by halves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Its shape.
    pub shape: ModelShape,
    /// Added to the variance in a norm.
    pub norm_epsilon: f32,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// Tokens that a token attends to, itself among them; absent: all before it.
    pub attention_window: Option<u32>,
    /// Tokens that end an output.
    pub eos: Vec<u32>,
}

/// The members that decide what is computed, beside those of the shape.
#[derive(Debug, Deserialize)]
struct Members {
    model_type: Option<String>,
    architectures: Option<Vec<String>>,
    #[serde(alias = "layer_norm_epsilon")]
    rms_norm_eps: Option<f32>,
    rope_theta: Option<f64>,
    rope_parameters: Option<Rope>,
    rope_scaling: Option<Rope>,
    alibi: Option<bool>,
    #[serde(alias = "activation")]
    hidden_act: Option<String>,
    sliding_window: Option<Value>,
    eos_token_id: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Rope {
    rope_theta: Option<f64>,
    #[serde(alias = "type")]
    rope_type: Option<String>,
    partial_rotary_factor: Option<f64>,
}

impl ModelConfig {
    /// Reads a preset, which gets the defaults of [`ModelConfig::of_shape`], or a Hugging Face `config.json`, which `stem` names.
    pub fn parse(text: &str, stem: &str) -> Result<Self, ShapeError> {
        let shape = ModelShape::parse(text, stem)?;
        // A member said to be null is there, and means something else than one left out.
        let json: Value = match serde_json::from_str(text) {
            Ok(json) => json,
            Err(_) => return Ok(Self::of_shape(shape)),
        };
        let says_no_window = json.get("sliding_window").is_some_and(Value::is_null);
        let members: Members =
            serde_json::from_value(json).map_err(|error| ShapeError::Syntax(error.to_string()))?;
        match members.model_type() {
            Some(model_type) => members.config(shape, &model_type, says_no_window),
            None => Ok(Self::of_shape(shape)),
        }
    }

    /// The defaults for weights that nobody trained: epsilon 1e-5, rotary base 1e4, attention to all tokens, no end token.
    pub fn of_shape(shape: ModelShape) -> Self {
        Self { shape, norm_epsilon: 1e-5, rope_theta: ROPE_THETA, attention_window: None, eos: Vec::new() }
    }

    /// Whether attention and MLP read the hidden state through a norm each, though they run in parallel.
    pub(super) fn has_norm_for_mlp(&self) -> bool {
        self.shape.norms_per_layer == 2
    }
}

impl Members {
    fn model_type(&self) -> Option<String> {
        let first =
            || Some(self.architectures.as_ref()?.first()?.trim_end_matches("ForCausalLM").to_lowercase());
        self.model_type.clone().or_else(first)
    }

    fn config(
        &self,
        shape: ModelShape,
        model_type: &str,
        says_no_window: bool,
    ) -> Result<ModelConfig, ShapeError> {
        let (activation, norm_epsilon) = match shape.family {
            Family::Falcon => ("gelu", 1e-5),
            Family::Llama => ("silu", 1e-6),
        };
        self.refuse_unsupported(activation)?;
        Ok(ModelConfig {
            norm_epsilon: self.rms_norm_eps.unwrap_or(norm_epsilon),
            rope_theta: self.rope_theta()?,
            attention_window: self.window(model_type == "mistral" && !says_no_window)?,
            eos: self.eos()?,
            shape,
        })
    }

    fn refuse_unsupported(&self, activation: &str) -> Result<(), ShapeError> {
        if self.alibi == Some(true) {
            return Err(unsupported("alibi", "false", "true"));
        }
        match &self.hidden_act {
            Some(found) if found != activation => Err(unsupported("activation", activation, found)),
            _ => Ok(()),
        }
    }

    /// `rope_theta`, or the newer `rope_parameters.rope_theta`; angles that are scaled in any way are refused.
    fn rope_theta(&self) -> Result<f64, ShapeError> {
        for (field, rope) in
            [("rope_parameters", &self.rope_parameters), ("rope_scaling", &self.rope_scaling)]
        {
            let Some(rope) = rope else { continue };
            if let Some(found) = rope.rope_type.as_ref().filter(|found| *found != "default") {
                return Err(unsupported(field, "rope_type default", found));
            }
            if let Some(found) = rope.partial_rotary_factor.filter(|found| *found != 1.0) {
                return Err(unsupported(field, "partial_rotary_factor 1", &found.to_string()));
            }
        }
        let newer = self.rope_parameters.as_ref().and_then(|rope| rope.rope_theta);
        let theta = newer.or(self.rope_theta).unwrap_or(ROPE_THETA);
        match theta.is_finite() && theta > 0.0 {
            true => Ok(theta),
            false => Err(unsupported("rope_theta", "a positive number", &theta.to_string())),
        }
    }

    fn window(&self, has_default: bool) -> Result<Option<u32>, ShapeError> {
        match &self.sliding_window {
            Some(value) => count("sliding_window", value).map(Some),
            None => Ok(has_default.then_some(MISTRAL_WINDOW)),
        }
    }

    fn eos(&self) -> Result<Vec<u32>, ShapeError> {
        match &self.eos_token_id {
            None => Ok(Vec::new()),
            Some(Value::Array(tokens)) => tokens.iter().map(|token| count("eos_token_id", token)).collect(),
            Some(token) => Ok(vec![count("eos_token_id", token)?]),
        }
    }
}

fn count(field: &'static str, value: &Value) -> Result<u32, ShapeError> {
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
    number.ok_or_else(|| unsupported(field, "a count", &value.to_string()))
}

fn unsupported(field: &'static str, expected: &str, found: &str) -> ShapeError {
    ShapeError::Unsupported { field, expected: expected.to_owned(), found: found.to_owned() }
}
