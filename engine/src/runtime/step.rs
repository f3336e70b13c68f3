//! A batch as ranks are told of it. Its lists follow an order in the same message, so that a worker reads them into memory that it keeps.

use std::io;

use serde::{Deserialize, Serialize};

use crate::model::sampler::Sampling;

/// One batch, the same message to every rank.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Step {
    pub(super) batch: u32,
    /// CLOCK_MONOTONIC when it was sent.
    pub(super) sent_ns: u64,
    /// Send the logits that were sampled from, too.
    pub(super) logits: bool,
    /// One a sequence.
    pub(super) parts: Vec<Part>,
    /// Token ids of all parts, in order.
    pub(super) tokens: Vec<u32>,
    /// New entries of all parts' block tables, in order.
    pub(super) blocks: Vec<u32>,
}

/// A chunk, with what a worker must know of its sequence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Part {
    /// Of the sequence among those that are live: which block table is meant.
    pub(super) slot: u32,
    /// Tokens in the KV cache before it.
    pub(super) context: u32,
    /// Its tokens.
    pub(super) tokens: u32,
    /// Entries of the block table that the worker has; 0 for a new table.
    pub(super) blocks_kept: u32,
    /// Entries after those, among the step's.
    pub(super) blocks_new: u32,
    /// Draw a token after it: how, and as which output token of the sequence, from 0.
    pub(super) sample: Option<(Sampling, u32)>,
}

/// A step but for its lists, of which it says how long they are.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) batch: u32,
    sent_ns: u64,
    logits: bool,
    parts: u32,
    tokens: u32,
    blocks: u32,
}

impl Step {
    pub(super) fn head(&self) -> Head {
        let Self { batch, sent_ns, logits, parts, tokens, blocks } = self;
        let [parts, tokens, blocks] = [parts.len(), tokens.len(), blocks.len()].map(|length| length as u32);
        Head { batch: *batch, sent_ns: *sent_ns, logits: *logits, parts, tokens, blocks }
    }

    /// Appends the lists to `bytes`.
    pub(super) fn write_lists(&self, bytes: &mut Vec<u8>) {
        write(&self.parts, bytes);
        write(&self.tokens, bytes);
        write(&self.blocks, bytes);
    }

    /// Becomes the step of a head and the bytes of its lists.
    pub(super) fn read(&mut self, head: Head, lists: &[u8]) -> io::Result<()> {
        (self.batch, self.sent_ns, self.logits) = (head.batch, head.sent_ns, head.logits);
        let rest = read(&mut self.parts, head.parts, lists)?;
        let rest = read(&mut self.tokens, head.tokens, rest)?;
        let rest = read(&mut self.blocks, head.blocks, rest)?;
        let counted = |count: fn(&Part) -> u32| self.parts.iter().map(count).map(u64::from).sum::<u64>();
        let fits = counted(|part| part.tokens) == u64::from(head.tokens)
            && counted(|part| part.blocks_new) == u64::from(head.blocks);
        if fits && rest.is_empty() { Ok(()) } else { Err(wrong("lists of other lengths")) }
    }

    /// Each part with its new blocks.
    pub(super) fn parts_and_blocks(&self) -> impl Iterator<Item = (&Part, &[u32])> {
        let mut rest = &self.blocks[..];
        self.parts.iter().map(move |part| {
            let (own, after) = rest.split_at(part.blocks_new as usize);
            rest = after;
            (part, own)
        })
    }
}

fn write(list: &[impl Serialize], bytes: &mut Vec<u8>) {
    let mut own = std::mem::take(bytes);
    for item in list {
        own = postcard::to_extend(item, own).expect("a message is plain data in memory");
    }
    *bytes = own;
}

/// Reads so many items, and returns the bytes behind them.
fn read<'b, T: Deserialize<'b>>(list: &mut Vec<T>, count: u32, mut bytes: &'b [u8]) -> io::Result<&'b [u8]> {
    list.clear();
    for _ in 0..count {
        let (item, rest) = postcard::take_from_bytes(bytes).map_err(wrong)?;
        list.push(item);
        bytes = rest;
    }
    Ok(bytes)
}

fn wrong(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A step whose parts have so many tokens and new blocks each.
    fn step(sizes: &[(u32, u32)], ids: u32) -> Step {
        let part = |(slot, &(tokens, blocks_new)): (usize, &(u32, u32))| Part {
            slot: slot as u32,
            context: ids,
            tokens,
            blocks_kept: 3,
            blocks_new,
            sample: (tokens % 2 == 0).then_some((Sampling::greedy(), tokens)),
        };
        let list = |length: u32| (0..length).map(|index| index.wrapping_mul(ids)).collect();
        let sum = |size: fn(&(u32, u32)) -> u32| sizes.iter().map(size).sum();
        Step {
            batch: ids,
            sent_ns: u64::from(ids) << 20,
            logits: ids % 2 == 1,
            parts: sizes.iter().enumerate().map(part).collect(),
            tokens: list(sum(|size| size.0)),
            blocks: list(sum(|size| size.1)),
        }
    }

    fn bytes(step: &Step) -> Vec<u8> {
        let mut bytes = Vec::new();
        step.write_lists(&mut bytes);
        bytes
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written_whatever_was_read_before(
            sizes in prop::collection::vec((0_u32..40, 0_u32..5), 0..12),
            before in prop::collection::vec((0_u32..40, 0_u32..5), 0..12),
            ids in any::<u32>(),
        ) {
            let (expected, mut found) = (step(&sizes, ids), step(&before, 7));
            found.read(expected.head(), &bytes(&expected)).unwrap();
            prop_assert_eq!(&found, &expected);
            let blocks: Vec<u32> = found.parts_and_blocks().flat_map(|(_, own)| own.to_vec()).collect();
            prop_assert_eq!(blocks, expected.blocks);
        }

        #[test]
        fn lists_that_are_cut_or_too_long_are_refused(
            sizes in prop::collection::vec((1_u32..40, 0_u32..5), 1..12),
            cut in any::<prop::sample::Index>(),
        ) {
            let step = step(&sizes, 12345);
            let mut bytes = bytes(&step);
            let cut = cut.index(bytes.len());
            prop_assert!(Step::default().read(step.head(), &bytes[..cut]).is_err());
            bytes.push(0);
            prop_assert!(Step::default().read(step.head(), &bytes).is_err());
        }
    }

    #[test]
    fn parts_that_want_more_than_there_is_are_refused() {
        let mut step = step(&[(3, 1), (2, 2)], 9);
        step.parts[1].blocks_new = 3;
        assert!(Step::default().read(step.head(), &bytes(&step)).is_err());
        step.parts[1].blocks_new = 2;
        step.parts[0].tokens = 4;
        assert!(Step::default().read(step.head(), &bytes(&step)).is_err());
    }
}
