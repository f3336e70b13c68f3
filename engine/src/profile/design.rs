//! Which batches are measured. Pure.

use crate::runtime::ProbePart;

/// Numbers of tokens at which the cost of a batch's rows is told.
///
/// Close together where decode batches are: a product takes its rows in tiles, so its time goes in steps, not straight between powers of two.
pub(super) const ROWS: [u32; 25] =
    [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024];
/// Tokens of a chunk at which the cost of its query-key pairs is told.
pub(super) const CHUNKS: [u32; 4] = [1, 16, 64, 256];
/// Tokens drawn at which their cost is told.
pub(super) const DRAWN: [u32; 4] = [1, 8, 32, 64];

/// Decodes: how many, and at which context.
const DECODES: [(u32, u32); 20] = [
    (1, 16),
    (1, 512),
    (1, 1536),
    (2, 128),
    (3, 128),
    (4, 256),
    (6, 128),
    (8, 16),
    (8, 128),
    (8, 384),
    (10, 128),
    (12, 128),
    (16, 64),
    (16, 224),
    (24, 96),
    (32, 16),
    (32, 64),
    (32, 112),
    (64, 16),
    (64, 48),
];
/// Decodes after which nothing is drawn, at the least context: what the others take more is the drawing.
const UNDRAWN: [u32; 4] = [1, 8, 32, 64];
/// Chunks of a prompt that goes on: tokens and context.
const CONTINUED: [(u32, u32); 7] =
    [(16, 512), (16, 1536), (64, 256), (64, 1024), (128, 512), (256, 256), (256, 1024)];
/// A chunk and decodes together: its tokens and context, how many decodes at which context.
const HYBRID: [[u32; 4]; 4] = [[48, 64, 16, 128], [120, 0, 8, 256], [60, 128, 4, 256], [224, 256, 32, 64]];
/// Batches that are also measured while all stages are busy: decodes, and prompts of so many tokens.
const BUSY_DECODES: [(u32, u32); 4] = [(1, 128), (4, 128), (12, 128), (32, 96)];
const BUSY_PROMPTS: [u32; 4] = [64, 128, 256, 512];

/// A batch to measure.
pub(super) type Point = Vec<ProbePart>;

/// All tokens of a batch.
pub(super) fn tokens(point: &Point) -> u32 {
    point.iter().map(|part| part.tokens).sum()
}

/// A batch in words: how many sequences of how many tokens at which context, such as `16 x 1 @ 128 + 48 @ 64`. Decodes draw a token, unless it
/// says that they do not, and longer chunks draw none.
pub(super) fn name(point: &Point) -> String {
    let part = |parts: &[ProbePart]| {
        let ProbePart { tokens, context, samples } = parts[0];
        let count = if parts.len() > 1 { format!("{} x ", parts.len()) } else { String::new() };
        let undrawn = if tokens == 1 && !samples { " undrawn" } else { "" };
        format!("{count}{tokens} @ {context}{undrawn}")
    };
    let same = point.chunk_by(|a, b| a == b);
    same.map(part).collect::<Vec<_>>().join(" + ")
}

/// Batches that tell all costs, of at most `tokens_max` tokens.
pub(super) fn points(tokens_max: u32) -> Vec<Point> {
    let prompts = ROWS.iter().map(|rows| vec![chunk(0, *rows)]);
    let undrawn = UNDRAWN.iter().map(|n| decodes(*n, 16, false));
    let drawn = DECODES.iter().map(|(n, context)| decodes(*n, *context, true));
    let continued = CONTINUED.iter().map(|(tokens, context)| vec![chunk(*context, *tokens)]);
    let hybrid = HYBRID.iter().map(|[tokens, context, n, decoded]| {
        [decodes(*n, *decoded, true), vec![chunk(*context, *tokens)]].concat()
    });
    let all = prompts.chain(undrawn).chain(drawn).chain(continued).chain(hybrid);
    all.filter(|point| tokens(point) <= tokens_max.max(1)).collect()
}

/// Batches that tell how stages slow each other down, from few tokens to many.
pub(super) fn busy_points(tokens_max: u32) -> Vec<Point> {
    let drawn = BUSY_DECODES.iter().map(|(n, context)| decodes(*n, *context, true));
    let all = drawn.chain(BUSY_PROMPTS.iter().map(|rows| vec![chunk(0, *rows)]));
    all.filter(|point| tokens(point) <= tokens_max.max(1)).collect()
}

/// Tokens of the longest sequence among all points.
pub(super) fn longest() -> u32 {
    let decoded = DECODES.iter().map(|(_, context)| context + 1);
    let continued = CONTINUED.iter().map(|(tokens, context)| context + tokens);
    decoded.chain(continued).chain(ROWS).max().unwrap_or(1)
}

pub(super) fn chunk(context: u32, tokens: u32) -> ProbePart {
    ProbePart { context, tokens, samples: false }
}

pub(super) fn decodes(n: u32, context: u32, samples: bool) -> Point {
    vec![ProbePart { context, tokens: 1, samples }; n as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_keep_to_the_limit_and_cover_the_tables() {
        for tokens_max in [1, 64, 512] {
            let points = points(tokens_max);
            assert!(points.iter().all(|point| tokens(point) <= tokens_max));
            for rows in ROWS.iter().filter(|rows| **rows <= tokens_max) {
                assert!(points.contains(&vec![chunk(0, *rows)]), "{rows}");
            }
        }
        assert!(points(4096).iter().flatten().all(|part| part.context + part.tokens <= longest()));
    }

    #[test]
    fn a_name_tells_sequences_tokens_and_context() {
        assert_eq!(name(&[decodes(16, 128, true), vec![chunk(64, 48)]].concat()), "16 x 1 @ 128 + 48 @ 64");
        assert_eq!(name(&decodes(1, 16, true)), "1 @ 16");
        assert_eq!(name(&decodes(8, 16, false)), "8 x 1 @ 16 undrawn");
    }

    #[test]
    fn no_two_batches_have_one_name() {
        let names: Vec<String> = points(1024).iter().map(name).collect();
        let different: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!(different.len(), names.len(), "{names:?}");
        assert!(names.iter().all(|name| !name.contains(',')), "they stand in CSV");
    }
}
