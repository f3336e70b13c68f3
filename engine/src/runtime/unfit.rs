//! What is wrong with the weights that a rank was given, where the user can mend it, and how. Knows no backend.

use thiserror::Error;

use super::protocol::Weights;
use crate::model::ModelError;

/// Weights that cannot be loaded as they are.
#[derive(Debug, Error)]
#[error("{0}")]
pub(super) struct Unfit(String);

/// Of an error of loading, what the user can mend.
pub(super) fn or_unfit(error: anyhow::Error, weights: &Weights) -> anyhow::Error {
    match error.downcast::<ModelError>() {
        Ok(error) if error.is_damage() => Unfit(format!("{error}{}", mend(weights))).into(),
        Ok(error) if error.is_mistake() => Unfit(error.to_string()).into(),
        Ok(error) => error.into(),
        Err(other) => other,
    }
}

/// What makes files whole again.
fn mend(weights: &Weights) -> &'static str {
    match weights {
        Weights::Shards(_) => "; run `chariot-engine shard` again",
        Weights::HuggingFace(_) => "; fetch the model's files again",
        Weights::Dummy { .. } => "",
    }
}
