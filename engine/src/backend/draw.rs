//! A token drawn by temperature and `top_p`, in integers: the same logits give the same token on every backend, in whatever order it looks
//! at them. `cuda/kernels/sampling.cu` computes the same. Knows no seed and no backend.
//!
//! - A token weighs the whole part of 2^39 exp((logit - largest) / temperature), by roundings that IEEE 754 defines: a largest logit weighs
//!   2^39, and one that is less than 2^-39 times as likely nothing.
//! - Kept are the fewest tokens, heaviest first, that weigh `top_p` of all: of equal weights the first in the vocabulary.
//! - Drawn is the first kept token, in order of the vocabulary, at which the running sum of kept weights exceeds a random part of their sum.
//!
//! At temperature 0 only largest logits weigh anything, and the first of them is kept. A NaN counts as minus infinity. Where the largest logit
//! is infinite, those equal to it weigh alike and others nothing.

/// What a largest logit weighs.
pub const HEAVIEST: u64 = 1 << 39;

/// Logits of a row at most: their weights add up to less than 2^64.
pub const TOKENS_MAX: usize = 1 << 24;

/// A power of two below which a weight is 0.
const FAINTEST: f32 = -39.0;

/// Added to a number of this range and taken off again, leaves the nearest whole one, which is then in its lowest bits.
const ROUND: f32 = 12_582_912.0;

/// Of 2^x for x from -1/2 to 1/2: ln(2)^n / n! for n from 6 to 0.
const SERIES: [f32; 7] =
    [0.000_154_035_3, 0.001_333_355_8, 0.009_618_129, 0.055_504_11, 0.240_226_5, std::f32::consts::LN_2, 1.0];

/// How one token is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// Halvings of probability a logit: log2(e) / temperature. Infinite at temperature 0.
    pub scale: f32,
    /// The probability to keep, in 2^-64; the largest number stands for 1.
    pub top_p: u64,
    /// Random bits: how far into the kept weights, in 2^-64 of their sum.
    pub random: u64,
}

impl Draw {
    /// The likeliest token.
    pub const GREEDY: Self = Self { scale: f32::INFINITY, top_p: 0, random: 0 };

    /// By numbers as users give them; a temperature that is not above 0 takes the likeliest.
    pub fn new(temperature: f32, top_p: f32, random: u64) -> Self {
        if temperature > 0.0 {
            let scale = (std::f64::consts::LOG2_E / f64::from(temperature)) as f32;
            let top_p = (f64::from(top_p) * (1_u128 << 64) as f64) as u64;
            Self { scale: scale.clamp(f32::MIN_POSITIVE, f32::MAX), top_p, random }
        } else {
            Self::GREEDY
        }
    }

    /// Whether it takes the likeliest token, whatever the random bits are.
    pub fn is_greedy(&self) -> bool {
        self.scale == f32::INFINITY
    }
}

/// The token of the largest logit, of equal ones the first. `parts` are the logits of one row, side by side.
pub fn likeliest<'a>(parts: impl Iterator<Item = &'a [f32]>) -> u32 {
    let (mut best, mut largest, mut first) = (0, f32::NEG_INFINITY, 0);
    for part in parts {
        for (token, &logit) in (first..).zip(part) {
            if logit > largest {
                (best, largest) = (token, logit);
            }
        }
        first += part.len() as u32;
    }
    best
}

/// Draws from the logits of one row, whose `parts` lie side by side. `weights` is room that may be kept.
pub fn draw<'a>(parts: impl Iterator<Item = &'a [f32]> + Clone, how: &Draw, weights: &mut Vec<u64>) -> u32 {
    if how.is_greedy() {
        return likeliest(parts);
    }
    let largest = parts.clone().flatten().fold(f32::NEG_INFINITY, |most, &logit| most.max(logit));
    weights.clear();
    for part in parts {
        weights.extend(part.iter().map(|&logit| weight(logit, largest, how.scale)));
    }
    let count = weights.len();
    assert!((1..=TOKENS_MAX).contains(&count), "expected 1 to {TOKENS_MAX} logits, found {count}");
    let kept = Kept::of(weights, how.top_p);
    kept.token_at(upper(how.random, kept.sum), weights)
}

/// A token's weight where `largest` is the largest logit. No operation may be contracted, reordered or done in another precision.
pub fn weight(logit: f32, largest: f32, scale: f32) -> u64 {
    let logit = if logit.is_nan() { f32::NEG_INFINITY } else { logit };
    if logit == largest {
        return HEAVIEST;
    }
    let power = (logit - largest) * scale;
    if power < FAINTEST {
        return 0;
    }
    let shifted = power + ROUND;
    let rest = power - (shifted - ROUND);
    let size = SERIES.iter().fold(0.0_f32, |sum, factor| sum * rest + factor).to_bits();
    // 24 bits and their place: `size` is from 1/2 to 2, and shifts are from 23 to 63.
    let bits = u64::from(size & 0x007f_ffff | 0x0080_0000) << 39;
    let whole = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    bits >> (150 - (size >> 23) as i32 - whole)
}

/// The upper half of a product: `part` 2^-64 of `whole`, rounded down.
fn upper(part: u64, whole: u64) -> u64 {
    ((u128::from(part) * u128::from(whole)) >> 64) as u64
}

/// Which tokens of a row may be drawn.
#[derive(Debug, Clone, Copy)]
struct Kept {
    /// Heavier tokens are kept,
    least: u64,
    /// and so many of just this weight, the first in the vocabulary.
    of_least: u64,
    /// Of all kept weights.
    sum: u64,
}

impl Kept {
    fn of(weights: &[u64], top_p: u64) -> Self {
        let total: u64 = weights.iter().sum();
        let exact = u128::from(top_p) * u128::from(total);
        let wanted = (exact.div_ceil(1 << 64) as u64).max(1);
        if wanted == total {
            return Self { least: 0, of_least: 0, sum: total };
        }
        let (least, heavier) = least_kept(weights, wanted);
        let of_least = (wanted - heavier).div_ceil(least);
        Self { least, of_least, sum: heavier + of_least * least }
    }

    /// The token at which the running sum of kept weights exceeds `target`, which is below their sum.
    fn token_at(self, mut target: u64, weights: &[u64]) -> u32 {
        let mut of_least = self.of_least;
        for (token, &weight) in (0..).zip(weights) {
            let is_least = weight == self.least && of_least > 0;
            of_least -= u64::from(is_least);
            if is_least || weight > self.least {
                if target < weight {
                    return token;
                }
                target -= weight;
            }
        }
        unreachable!("the target is below the sum of what is kept");
    }
}

/// The largest weight such that it and all heavier ones add up to `wanted` at least, and the sum of the heavier ones: a digit of 8 bits
/// at a time, from the highest of 40 on.
fn least_kept(weights: &[u64], wanted: u64) -> (u64, u64) {
    let (mut least, mut heavier) = (0, 0);
    for shift in [32, 24, 16, 8, 0] {
        let mut sums = [0_u64; 256];
        for weight in weights.iter().filter(|&weight| weight >> shift >> 8 == least) {
            sums[(weight >> shift) as usize & 255] += weight;
        }
        let mut digit = 255;
        while heavier + sums[digit] < wanted {
            heavier += sums[digit];
            digit -= 1;
        }
        least = least << 8 | digit as u64;
    }
    (least, heavier)
}
