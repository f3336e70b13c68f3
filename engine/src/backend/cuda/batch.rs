//! A step's spans as the kernels want them: made once, used by each layer. Knows no kernel.

use super::card::Card;
use super::error::CudaError;
use super::graphs::{self, Kind};
use super::scratch::Upload;
use crate::backend::Span;

/// Spans side by side that have one new token each: one launch of the decode kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decodes {
    /// The first one, among all spans.
    pub(super) span: usize,
    pub(super) row: usize,
    pub(super) count: usize,
    /// Keys of the longest.
    pub(super) keys_max: usize,
}

/// A span of several tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) span: usize,
    pub(super) row: usize,
    pub(super) tokens: usize,
    pub(super) context: usize,
}

/// A step, on the device and in words.
#[derive(Debug)]
pub struct Batch {
    /// Tokens of all spans; with a kind, padding included.
    pub(super) rows: usize,
    /// Of a batch of decodes that may be recorded.
    pub(super) kind: Option<Kind>,
    /// Entries of a block table, of the longest.
    pub(super) table_width: usize,
    pub(super) decodes: Vec<Decodes>,
    pub(super) chunks: Vec<Chunk>,
    /// `[rows]`: token ids.
    pub(super) tokens: u64,
    /// `[rows]`: places in their sequences.
    pub(super) positions: u64,
    /// `[rows]`: spans.
    pub(super) seqs: u64,
    /// `[spans]`: keys of each.
    pub(super) lengths: u64,
    /// `[spans, table_width]`: blocks.
    pub(super) tables: u64,
    /// `[spans, 3]`: first row, tokens, context.
    pub(super) spans_at: u64,
    /// `[tiles, 2]`: a chunk's span, and the first of the tokens that a block of the flash kernel takes.
    pub(super) tiles_at: u64,
    pub(super) tiles: usize,
}

/// Tokens of a chunk that a block of the flash kernel takes (`flash.cu`).
const FLASH_TOKENS: usize = 64;

impl Batch {
    /// With a spare block, a batch of decodes is padded to its kind, by sequences of one token in that block.
    pub(super) fn new(
        card: &Card,
        upload: &mut Upload,
        spans: &[Span<'_>],
        tokens: &[u32],
        spare: Option<u32>,
    ) -> Result<Self, CudaError> {
        let Some(spare) = spare else { return Self::of(card, upload, spans, tokens, None) };
        let width = spans.iter().map(|span| span.table.len()).max().unwrap_or(0);
        let longest = spans.iter().map(|span| span.context + 1).max().unwrap_or(0);
        let decodes = !spans.is_empty() && spans.iter().all(|span| span.tokens == 1);
        let Some(kind) = decodes.then(|| graphs::kind(spans.len(), width, longest)).flatten() else {
            return Self::of(card, upload, spans, tokens, None);
        };
        let table = [spare];
        let padding = |row| Span { first_row: row, tokens: 1, context: 0, table: &table };
        let padded: Vec<Span<'_>> =
            spans.iter().copied().chain((spans.len()..kind.rows).map(padding)).collect();
        let mut tokens = tokens.to_vec();
        tokens.resize(kind.rows, 0);
        Self::of(card, upload, &padded, &tokens, Some(kind))
    }

    fn of(
        card: &Card,
        upload: &mut Upload,
        spans: &[Span<'_>],
        tokens: &[u32],
        kind: Option<Kind>,
    ) -> Result<Self, CudaError> {
        assert!(spans.iter().all(|span| span.tokens > 0), "a span has a token at least");
        let rows: usize = spans.iter().map(|span| span.tokens).sum();
        assert_eq!(tokens.len(), rows, "expected a token a row");
        let (mut positions, mut seqs) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        for (number, span) in spans.iter().enumerate() {
            assert_eq!(span.first_row, positions.len(), "spans follow each other");
            positions.extend((span.context..span.context + span.tokens).map(|position| position as u32));
            seqs.extend(std::iter::repeat_n(number as u32, span.tokens));
        }
        let lengths: Vec<u32> = spans.iter().map(|span| (span.context + span.tokens) as u32).collect();
        let width = spans.iter().map(|span| span.table.len()).max().unwrap_or(0);
        let table_width = kind.map_or(width, |kind| kind.table_width);
        let mut tables = vec![0; spans.len() * table_width];
        for (entries, span) in tables.chunks_exact_mut(table_width.max(1)).zip(spans) {
            entries[..span.table.len()].copy_from_slice(span.table);
        }
        let (mut decodes, chunks) = sorted(spans);
        let described: Vec<u32> = spans
            .iter()
            .flat_map(|span| [span.first_row, span.tokens, span.context].map(|n| n as u32))
            .collect();
        let mut tiles_at = tiles(&chunks);
        let tiles = tiles_at.len() / 2;
        // A batch's description is no longer than that of a larger one.
        tiles_at.resize(2 * tiles_max(rows, spans.len()), 0);
        let lists = [tokens, &positions, &seqs, &lengths, &tables, &described, &tiles_at];
        let first = upload.send(card, &lists)?;
        let address = |lists: &[&[u32]]| first + 4 * lists.iter().map(|list| list.len() as u64).sum::<u64>();
        if let Some(kind) = kind {
            decodes.iter_mut().for_each(|run| run.keys_max = kind.keys_max);
        }
        Ok(Self {
            rows,
            kind,
            table_width,
            decodes,
            chunks,
            tokens: first,
            positions: address(&lists[..1]),
            seqs: address(&lists[..2]),
            lengths: address(&lists[..3]),
            tables: address(&lists[..4]),
            spans_at: address(&lists[..5]),
            tiles_at: address(&lists[..6]),
            tiles,
        })
    }
}

/// Tiles of all chunks, those that see most keys first, so that none of them begins last.
fn tiles(chunks: &[Chunk]) -> Vec<u32> {
    let of = |chunk: &Chunk| {
        let Chunk { span, tokens, context, .. } = *chunk;
        (0..tokens).step_by(FLASH_TOKENS).map(move |first| (context + first, span, first))
    };
    let mut all: Vec<_> = chunks.iter().flat_map(of).collect();
    all.sort_unstable_by(|one, other| other.cmp(one));
    all.into_iter().flat_map(|(_, span, first)| [span as u32, first as u32]).collect()
}

/// Tiles of so many spans of so many tokens in all at most.
fn tiles_max(rows: usize, spans: usize) -> usize {
    rows / FLASH_TOKENS + spans
}

/// Spans of one token in runs, and the others.
fn sorted(spans: &[Span<'_>]) -> (Vec<Decodes>, Vec<Chunk>) {
    let (mut decodes, mut chunks) = (Vec::<Decodes>::new(), Vec::new());
    for (number, span) in spans.iter().enumerate() {
        let Span { first_row: row, tokens, context, .. } = *span;
        if tokens > 1 {
            chunks.push(Chunk { span: number, row, tokens, context });
            continue;
        }
        match decodes.last_mut() {
            Some(run) if run.span + run.count == number => {
                run.count += 1;
                run.keys_max = run.keys_max.max(context + 1);
            }
            _ => decodes.push(Decodes { span: number, row, count: 1, keys_max: context + 1 }),
        }
    }
    (decodes, chunks)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn spans_have_no_more_tiles_than_there_may_be(tokens in prop::collection::vec(1_usize..300, 1..20)) {
            let chunk = |(span, &tokens): (usize, &usize)| Chunk { span, row: 0, tokens, context: 9 };
            let chunks: Vec<Chunk> = tokens.iter().enumerate().map(chunk).collect();
            let found = tiles(&chunks).len() / 2;
            prop_assert!(found <= tiles_max(tokens.iter().sum(), tokens.len()));
            prop_assert_eq!(found, tokens.iter().map(|tokens| tokens.div_ceil(FLASH_TOKENS)).sum::<usize>());
        }
    }

    #[test]
    fn tokens_of_decodes_side_by_side_are_one_run() {
        let lengths = [(1, 5), (1, 9), (3, 0), (1, 2), (4, 7)];
        let mut row = 0;
        let spans: Vec<Span<'_>> = lengths
            .iter()
            .map(|&(tokens, context)| {
                row += tokens;
                Span { first_row: row - tokens, tokens, context, table: &[] }
            })
            .collect();
        let (decodes, chunks) = sorted(&spans);
        let run = |span, row, count, keys_max| Decodes { span, row, count, keys_max };
        assert_eq!(decodes, [run(0, 0, 2, 10), run(3, 5, 1, 3)]);
        let chunk = |span, row, tokens, context| Chunk { span, row, tokens, context };
        assert_eq!(chunks, [chunk(2, 2, 3, 0), chunk(4, 6, 4, 7)]);
        assert_eq!(tiles(&[chunk(2, 2, 130, 0), chunk(4, 132, 4, 100)]), [2, 128, 4, 0, 2, 64, 2, 0]);
    }
}
