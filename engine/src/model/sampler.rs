//! How a request's tokens are drawn. A draw depends on logits, seed and position alone: not on the batch, nor on what was drawn before.
//! What a draw computes: `backend/draw.rs`.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::backend::draw::{Draw, draw};

/// How a request's output is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Divides the logits; 0 takes the largest.
    pub temperature: f32,
    /// Draw among the fewest likeliest tokens that hold this much probability.
    pub top_p: f32,
    /// Of the request.
    pub seed: u64,
}

impl Sampling {
    /// Always the likeliest token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, top_p: 1.0, seed: 0 }
    }

    /// The draw of output token `position` of the request.
    pub fn draw(&self, position: u32) -> Draw {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(u64::from(position));
        Draw::new(self.temperature, self.top_p, rng.next_u64())
    }
}

/// The token after `logits[vocab]`, as output token `position` of its request. Of equal logits the first counts as likelier.
pub fn sample(logits: &[f32], sampling: &Sampling, position: u32) -> u32 {
    draw(std::iter::once(logits), &sampling.draw(position), &mut Vec::new())
}
