//! Draws a token from logits. The draw depends on seed and position alone: not on the batch, nor on what was drawn before.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

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

    /// Whether it is the likeliest token always.
    pub fn is_greedy(&self) -> bool {
        self.temperature <= 0.0
    }
}

/// The token after `logits[vocab]`, as output token `position` of its request. Of equal logits the first counts as likelier.
pub fn sample(logits: &[f32], sampling: &Sampling, position: u32) -> u32 {
    assert!(!logits.is_empty(), "expected at least one logit");
    if sampling.is_greedy() {
        return largest(logits) as u32;
    }
    let likeliest = nucleus(logits, sampling);
    let sum: f64 = likeliest.iter().map(|&(_, weight)| weight).sum();
    let mut left = uniform(sampling.seed, position) * sum;
    for &(token, weight) in &likeliest {
        left -= weight;
        if left < 0.0 {
            return token;
        }
    }
    // Rounding left a sliver after the last.
    likeliest[likeliest.len() - 1].0
}

fn largest(logits: &[f32]) -> usize {
    let mut best = 0;
    for (token, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = token;
        }
    }
    best
}

/// The fewest tokens that hold `top_p` of the probability, likeliest first, with weights that do not sum to 1.
fn nucleus(logits: &[f32], sampling: &Sampling) -> Vec<(u32, f64)> {
    let most = f64::from(logits[largest(logits)]);
    let weight = |&logit: &f32| libm::exp((f64::from(logit) - most) / f64::from(sampling.temperature));
    let mut tokens: Vec<(u32, f64)> = (0..).zip(logits.iter().map(weight)).collect();
    if sampling.top_p >= 1.0 {
        return tokens;
    }
    // Stable: of equal weights the first stays first.
    tokens.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let wanted = f64::from(sampling.top_p) * tokens.iter().map(|&(_, weight)| weight).sum::<f64>();
    let mut held = 0.0;
    let is_short = |&&(_, weight): &&(u32, f64)| {
        let short = held < wanted;
        held += weight;
        short
    };
    let kept = tokens.iter().take_while(is_short).count();
    tokens.truncate(kept.max(1));
    tokens
}

/// Uniform in [0, 1).
fn uniform(seed: u64, position: u32) -> f64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(u64::from(position));
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}
