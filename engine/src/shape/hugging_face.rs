//! Shapes from a Hugging Face `config.json` of the Falcon or Llama family. Knows their members and defaults; reads no weights.

use serde::Deserialize;

use super::{Family, ModelShape, ShapeError};

/// The members that decide a shape; a `config.json` has many more, which do not.
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    model_type: Option<String>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    hidden_size: Option<u32>,
    #[serde(default, alias = "n_layer")]
    num_hidden_layers: Option<u32>,
    #[serde(default, alias = "n_head")]
    num_attention_heads: Option<u32>,
    #[serde(default)]
    num_key_value_heads: Option<u32>,
    #[serde(default, alias = "n_head_kv")]
    num_kv_heads: Option<u32>,
    #[serde(default)]
    head_dim: Option<u32>,
    #[serde(default)]
    intermediate_size: Option<u32>,
    #[serde(default)]
    ffn_hidden_size: Option<u32>,
    #[serde(default)]
    vocab_size: Option<u32>,
    #[serde(default)]
    multi_query: Option<bool>,
    #[serde(default)]
    new_decoder_architecture: Option<bool>,
    #[serde(default)]
    parallel_attn: Option<bool>,
    #[serde(default)]
    num_ln_in_parallel_attn: Option<u32>,
    #[serde(default)]
    bias: Option<bool>,
    #[serde(default)]
    attention_bias: Option<bool>,
    #[serde(default)]
    mlp_bias: Option<bool>,
    #[serde(default)]
    tie_word_embeddings: Option<bool>,
}

/// The shape, or `None` where the text is no Hugging Face configuration.
pub(super) fn parse_if_so(text: &str, stem: &str) -> Result<Option<ModelShape>, ShapeError> {
    let config: Config =
        serde_saphyr::from_str(text).map_err(|error| ShapeError::Syntax(error.to_string()))?;
    let Some(model_type) = config.model_type() else { return Ok(None) };
    match model_type.as_str() {
        "falcon" | "RefinedWeb" | "RefinedWebModel" => config.falcon(stem).map(Some),
        "llama" | "mistral" => config.llama(stem).map(Some),
        _ => Err(ShapeError::UnsupportedModel { found: model_type }),
    }
}

impl Config {
    /// `model_type`, or where it is absent what the first architecture says.
    fn model_type(&self) -> Option<String> {
        let by_architecture = || {
            let first = self.architectures.as_ref()?.first()?;
            Some(first.trim_end_matches("ForCausalLM").to_lowercase())
        };
        self.model_type.clone().or_else(by_architecture)
    }

    fn falcon(&self, stem: &str) -> Result<ModelShape, ShapeError> {
        refuse_bias("bias", self.bias)?;
        let hidden_size = required("hidden_size", self.hidden_size)?;
        let query_heads = required("num_attention_heads", self.num_attention_heads)?;
        let new_decoder = self.new_decoder_architecture.unwrap_or(false);
        // The member num_kv_heads counts in the new decoder alone; before it, multi_query means one head.
        let kv_heads = match (new_decoder, self.multi_query.unwrap_or(true)) {
            (true, _) => self.num_kv_heads.unwrap_or(query_heads),
            (false, true) => 1,
            (false, false) => query_heads,
        };
        let parallel_attention = new_decoder || self.parallel_attn.unwrap_or(true);
        let norms_per_layer = match (new_decoder, parallel_attention) {
            (true, _) => self.num_ln_in_parallel_attn.unwrap_or(2),
            (false, true) => 1,
            (false, false) => 2,
        };
        Ok(ModelShape {
            name: stem.to_owned(),
            family: Family::Falcon,
            hidden_size,
            layers: required("num_hidden_layers", self.num_hidden_layers)?,
            query_heads,
            kv_heads,
            head_dim: self.head_dim(hidden_size, query_heads)?,
            ffn_size: self.ffn_hidden_size.unwrap_or(hidden_size.saturating_mul(4)),
            vocab_size: required("vocab_size", self.vocab_size)?,
            parallel_attention,
            norms_per_layer,
            tied_embedding: self.tie_word_embeddings.unwrap_or(true),
        })
    }

    fn llama(&self, stem: &str) -> Result<ModelShape, ShapeError> {
        refuse_bias("attention_bias", self.attention_bias)?;
        refuse_bias("mlp_bias", self.mlp_bias)?;
        let hidden_size = required("hidden_size", self.hidden_size)?;
        let query_heads = required("num_attention_heads", self.num_attention_heads)?;
        Ok(ModelShape {
            name: stem.to_owned(),
            family: Family::Llama,
            hidden_size,
            layers: required("num_hidden_layers", self.num_hidden_layers)?,
            query_heads,
            kv_heads: self.num_key_value_heads.unwrap_or(query_heads),
            head_dim: self.head_dim(hidden_size, query_heads)?,
            ffn_size: required("intermediate_size", self.intermediate_size)?,
            vocab_size: required("vocab_size", self.vocab_size)?,
            parallel_attention: false,
            norms_per_layer: 2,
            tied_embedding: self.tie_word_embeddings.unwrap_or(false),
        })
    }

    /// Said outright, or the hidden size over the heads.
    fn head_dim(&self, hidden_size: u32, query_heads: u32) -> Result<u32, ShapeError> {
        match self.head_dim {
            Some(head_dim) => Ok(head_dim),
            None if query_heads > 0 && hidden_size.is_multiple_of(query_heads) => {
                Ok(hidden_size / query_heads)
            }
            None => Err(ShapeError::Unsupported {
                field: "num_attention_heads",
                expected: format!("a divisor of hidden_size={hidden_size}"),
                found: query_heads.to_string(),
            }),
        }
    }
}

fn required(field: &'static str, value: Option<u32>) -> Result<u32, ShapeError> {
    value.ok_or(ShapeError::Missing { field, expected: "a count" })
}

/// Linear layers with a bias hold vectors that the manifest would miss.
fn refuse_bias(field: &'static str, value: Option<bool>) -> Result<(), ShapeError> {
    match value {
        Some(true) => {
            Err(ShapeError::Unsupported { field, expected: "false".to_owned(), found: "true".to_owned() })
        }
        _ => Ok(()),
    }
}
