//! The batches that a run of workers starts with, before its clock does. Pure.

use std::ops::RangeInclusive;

use super::step::{Part, Step};
use crate::backend::{BackendName, cuda};
use crate::model::KvSpec;
use crate::model::sampler::Sampling;

/// Warm-up batches have numbers from here on, which no other has.
const FIRST_BATCH: u32 = u32::MAX - 256;
/// Each kind of batch runs this often: the first time touches memory, and a GPU's kernels are loaded; the second fills caches, and is recorded.
const ROUNDS: u32 = 2;

/// What batches of a run are at most.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Tokens, decodes of other sequences aside.
    pub batch_tokens: u32,
    /// Sequences.
    pub sequences: u32,
    /// Tokens of a sequence.
    pub max_model_len: u32,
    /// Tokens of sequences that decode, where they are known beforehand: from the first decode of the shortest to the last of the longest.
    pub decodes: Option<RangeInclusive<u32>>,
}

/// One sequence's part of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chunk {
    context: u32,
    tokens: u32,
}

impl Chunk {
    /// The last token of a sequence of so many.
    fn decode(length: u32) -> Self {
        Self { context: length - 1, tokens: 1 }
    }
}

/// The steps of a warm-up, in order.
pub(super) fn steps(bounds: &Bounds, backend: BackendName, kv: KvSpec) -> Vec<Step> {
    let batches = match backend {
        BackendName::Cpu => twice(on_host(bounds, kv)),
        BackendName::Cuda { graphs, .. } => on_gpus(bounds, graphs, kv),
    };
    let numbered = batches.iter().zip(FIRST_BATCH..);
    numbered.map(|(chunks, batch)| step(batch, chunks, kv)).collect()
}

fn twice(batches: Vec<Vec<Chunk>>) -> Vec<Vec<Chunk>> {
    (0..ROUNDS).flat_map(|_| batches.clone()).collect()
}

/// Tokens of the longest sequence for which there are blocks.
fn fitting(tokens: u32, kv: KvSpec) -> u32 {
    tokens.min(kv.blocks.saturating_mul(kv.block_size)).max(1)
}

/// A prompt, then a decode of all sequences, without any context: what is larger takes memory that nobody waits for.
fn on_host(bounds: &Bounds, kv: KvSpec) -> Vec<Vec<Chunk>> {
    let tokens = fitting(bounds.batch_tokens.min(bounds.max_model_len), kv);
    vec![vec![Chunk { context: 0, tokens }], vec![Chunk::decode(1); bounds.sequences.max(1) as usize]]
}

/// The largest batches, one of whose sequences is the longest: memory that a GPU is asked for later stops it, and ends all recordings. Then, where
/// lengths are known, batches of all kinds that are recorded, as many as are kept, the longest and largest first. What a batch takes depends on
/// its longest sequence alone; if all were as long, there might be no room for them, nor time.
fn on_gpus(bounds: &Bounds, graphs: bool, kv: KvSpec) -> Vec<Vec<Chunk>> {
    let longest = bounds.decodes.as_ref().map_or(bounds.max_model_len, |lengths| *lengths.end());
    let longest = fitting(longest, kv);
    let mut mixed = prompts(bounds.batch_tokens.max(1), longest);
    mixed.resize((bounds.sequences as usize).max(mixed.len()), Chunk::decode(1));
    let decodes = |sequences: u32, length: u32| {
        let mut batch = vec![Chunk::decode(1); sequences.max(1) as usize];
        batch[0] = Chunk::decode(length);
        batch
    };
    let mut batches = twice(vec![mixed, decodes(bounds.sequences, longest)]);
    if let Some(shortest) = bounds.decodes.as_ref().map(|lengths| *lengths.start()).filter(|_| graphs) {
        let sizes = cuda::recorded_sizes(bounds.sequences);
        let kinds = lengths(shortest, longest).into_iter();
        let kinds = kinds.flat_map(|length| sizes.iter().map(move |size| decodes(*size, length)));
        batches.extend(kinds.take(cuda::Options::FAST.graphs_max).flat_map(|batch| [batch.clone(), batch]));
    }
    batches
}

/// The last chunks of prompts of at most `longest` tokens, so many tokens in all.
fn prompts(tokens: u32, longest: u32) -> Vec<Chunk> {
    let starts = (0..tokens).step_by(longest as usize);
    let chunk = |start: u32| {
        let tokens = longest.min(tokens - start);
        Chunk { context: longest - tokens, tokens }
    };
    starts.map(chunk).collect()
}

/// One length of each kind, the longest first: kinds round lengths up to powers of two.
fn lengths(shortest: u32, longest: u32) -> Vec<u32> {
    let halved = |length: &u32| Some(length.next_power_of_two() / 2).filter(|half| *half >= shortest.max(1));
    std::iter::successors(Some(longest), halved).collect()
}

/// A batch of as many sequences; their blocks follow each other, round and round the cache, so that no two write to the same one if they suffice.
fn step(batch: u32, chunks: &[Chunk], kv: KvSpec) -> Step {
    let mut step = Step { batch, ..Step::default() };
    for (slot, Chunk { context, tokens }) in (0..).zip(chunks.iter().copied()) {
        let blocks_new = (context + tokens).div_ceil(kv.block_size);
        let sample = Some((Sampling::greedy(), 0));
        step.parts.push(Part { slot, context, tokens, blocks_kept: 0, blocks_new, sample });
        step.tokens.resize(step.tokens.len() + tokens as usize, 0);
        step.blocks.extend((slot..slot + blocks_new).map(|block| block % kv.blocks.max(1)));
    }
    step
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPU: BackendName = BackendName::Cuda { graphs: true, flash: true };

    fn bounds(batch_tokens: u32, sequences: u32, decodes: Option<RangeInclusive<u32>>) -> Bounds {
        Bounds { batch_tokens, sequences, max_model_len: 300, decodes }
    }

    /// Sequences, tokens, and keys of the longest.
    fn sizes(steps: &[Step]) -> Vec<(usize, usize, u32)> {
        let keys = |step: &Step| step.parts.iter().map(|part| part.context + part.tokens).max().unwrap();
        steps.iter().map(|step| (step.parts.len(), step.tokens.len(), keys(step))).collect()
    }

    #[test]
    fn batches_stay_within_the_blocks() {
        for backend in [BackendName::Cpu, GPU] {
            for (tokens, sequences, blocks) in [(512, 128, 4), (1, 1, 1), (512, 8, 1000), (8192, 256, 100)] {
                let kv = KvSpec { blocks, block_size: 16 };
                for step in steps(&bounds(tokens, sequences, Some(5..=290)), backend, kv) {
                    let total: u32 = step.parts.iter().map(|part| part.tokens).sum();
                    assert_eq!(total as usize, step.tokens.len());
                    for (part, own) in step.parts_and_blocks() {
                        assert!(own.iter().all(|block| *block < blocks), "{part:?}");
                        assert!(own.len() as u32 * 16 >= part.context + part.tokens, "{part:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_host_warms_up_with_a_prompt_and_a_decode_twice() {
        let steps =
            steps(&bounds(512, 8, Some(5..=290)), BackendName::Cpu, KvSpec { blocks: 50, block_size: 16 });
        assert_eq!(sizes(&steps), [(1, 300, 300), (8, 8, 1), (1, 300, 300), (8, 8, 1)]);
    }

    #[test]
    fn gpus_warm_up_with_the_largest_batches_and_all_kinds_that_are_recorded() {
        let kv = KvSpec { blocks: 50, block_size: 16 };
        let largest = [(6, 4 + 512, 290), (6, 6, 290)];
        let unknown = steps(&bounds(512, 6, None), GPU, kv);
        assert_eq!(sizes(&unknown)[..2], [(6, 4 + 512, 300), (6, 6, 300)]);
        assert_eq!(unknown.len(), 4);
        let steps = steps(&bounds(512, 6, Some(100..=290)), GPU, kv);
        assert_eq!(sizes(&steps)[..4], [largest, largest].concat());
        let kinds: Vec<_> = sizes(&steps)[4..].chunks(2).map(|pair| (pair[0], pair[1])).collect();
        let of = |length| [6, 4, 2, 1].map(|size: usize| ((size, size, length), (size, size, length)));
        // Of 129 to 256 tokens, and of 65 to 128.
        assert_eq!(kinds, [of(290), of(256), of(128)].concat());
    }

    #[test]
    fn kinds_are_as_many_as_are_kept() {
        let steps = steps(&bounds(512, 256, Some(1..=290)), GPU, KvSpec { blocks: 500, block_size: 16 });
        assert_eq!(steps.len(), 4 + 2 * 64);
    }
}
