//! Rows of logits for tests of the kernel `draw`, a way to draw from each, and the tokens that the engine's host then draws. Knows no device.

#[path = "../../../../src/backend/draw.rs"]
#[allow(dead_code, unreachable_pub, reason = "the engine's own file, of which a test takes a part")]
mod definition;

use definition::{Draw, draw};

/// What pads a rank's part: larger than all finite logits.
const PADDING: f32 = 99.0;

/// As the kernel gets them, and what must come of it.
pub(crate) struct Rows {
    /// `[ranks, rows, held]`.
    pub(crate) all: Vec<f32>,
    /// Six words a row.
    pub(crate) how: Vec<u32>,
    pub(crate) tokens: Vec<u32>,
}

/// So many rows of `vocab` logits in the parts of `ranks`, each logit rounded. Of 60 rows each has other logits or another way to draw.
pub(crate) fn rows(count: usize, [ranks, held, vocab]: [usize; 3], round: impl Fn(f32) -> f32) -> Rows {
    let mut all = vec![PADDING; ranks * count * held];
    let (mut how, mut tokens) = (Vec::new(), Vec::new());
    for row in 0..count {
        let logits: Vec<f32> = (0..vocab).map(|token| round(logit(row, token))).collect();
        for (rank, part) in logits.chunks(held).enumerate() {
            all[(rank * count + row) * held..][..part.len()].copy_from_slice(part);
        }
        let way = way(row, &logits);
        how.extend([way.top_p, way.random].iter().flat_map(|bits| [*bits as u32, (*bits >> 32) as u32]));
        how.extend([way.scale.to_bits(), 0]);
        tokens.push(draw(logits.chunks(held), &way, &mut Vec::new()));
    }
    Rows { all, how, tokens }
}

/// Bits that look random.
fn mixed(row: usize, token: usize) -> u64 {
    let word = (row as u64 * 100_003 + token as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (word ^ (word >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

fn logit(row: usize, token: usize) -> f32 {
    let noise = (mixed(row, token) >> 40) as f32 / (1 << 23) as f32 - 1.0;
    match row % 6 {
        0 => 8.0 * noise,
        // Two kinds, of whose lighter one a part is kept, with heavier ones behind; many are equal; all are equal.
        1 if row % 12 == 1 => [0.5, 0.5, 1.0][token % 3],
        1 => (4.0 * noise).round() / 2.0,
        2 => 0.5,
        // Few weigh anything.
        3 => 60.0 * noise,
        4 => match token % 7 {
            0 => f32::NAN,
            1 => f32::NEG_INFINITY,
            2 if row % 12 == 4 => f32::INFINITY,
            _ => noise,
        },
        _ if token.is_multiple_of(2) => f32::NAN,
        _ => f32::NEG_INFINITY,
    }
}

/// Most random numbers lie at a border between two tokens, which no weight before it and no sum may miss by 1.
fn way(row: usize, logits: &[f32]) -> Draw {
    let way = Draw::new([1.0, 0.3, 2.0, 0.0][row % 4], [0.9, 1.0, 0.5, 0.999, 0.02][row % 5], mixed(row, 77));
    let last = border(logits, Draw { random: u64::MAX, ..way });
    let random = match row % 7 {
        // The last of the equal ones is kept for a remainder of less than a weight's unit.
        _ if row == 8 => {
            let half = ((logits.len() as u128 / 2) << 64) / logits.len() as u128;
            return Draw { top_p: half as u64 + 1, random: u64::MAX, ..way };
        }
        _ if row == 25 => last,
        0 => 0,
        1 => u64::MAX,
        2 => last,
        3 => last.saturating_sub(1),
        4 => border(logits, way),
        5 => border(logits, way).saturating_sub(1),
        _ => way.random,
    };
    Draw { random, ..way }
}

/// The least random number that draws the token that this way draws: larger numbers draw later tokens.
fn border(logits: &[f32], way: Draw) -> u64 {
    let mut room = Vec::new();
    let mut token = |random| draw(std::iter::once(logits), &Draw { random, ..way }, &mut room);
    let (expected, mut below, mut least) = (token(way.random), 0, way.random);
    while below < least {
        let middle = below + (least - below) / 2;
        if token(middle) < expected { below = middle + 1 } else { least = middle }
    }
    least
}
