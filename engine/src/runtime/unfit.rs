//! What is wrong with the weights that a rank was given, where the user can mend it, and how. Knows no backend.

use thiserror::Error;

use super::protocol::Weights;
use crate::model::ModelError;

/// What mends a damaged folder.
pub const FETCH_AGAIN: &str = "; fetch the model's files again";

/// Weights that cannot be loaded as they are.
#[derive(Debug, Error)]
#[error("{0}")]
pub(super) struct Unfit(String);

/// Of an error of loading, what the user can mend.
pub(super) fn or_unfit(error: anyhow::Error, weights: &Weights) -> anyhow::Error {
    match error.downcast::<ModelError>() {
        // A rank's file was written with types that are known.
        Ok(error) if error.is_damage() || is_foreign_type(&error, weights) => {
            Unfit(format!("{error}{}", mend(weights))).into()
        }
        Ok(error) if error.is_mistake() => Unfit(error.to_string()).into(),
        Ok(error) => error.into(),
        Err(other) => other,
    }
}

fn is_foreign_type(error: &ModelError, weights: &Weights) -> bool {
    matches!((error, weights), (ModelError::UnknownDtype { .. }, Weights::Shards(_)))
}

/// What makes files whole again.
fn mend(weights: &Weights) -> &'static str {
    match weights {
        Weights::Shards(_) => "; run `chariot-engine shard` again",
        Weights::HuggingFace(_) => FETCH_AGAIN,
        Weights::Dummy { .. } => "",
    }
}
