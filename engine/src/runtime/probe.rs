//! Batches made up to be timed: any chunks at any context, without a scheduler. Knows nothing of what the times are for.

use super::driver::RuntimeExecutor;
use super::loss::Loss;
use super::step::{Part, Step};
use crate::executor::StageStay;
use crate::model::sampler::Sampling;
use crate::model::{KvSpec, LayerTimes};
use crate::units::Nanos;

/// Batches of probes have numbers from here on, which no other has.
const FIRST_BATCH: u32 = u32::MAX - (1 << 22);
/// Token ids of made-up batches are multiples of this, modulo the vocabulary: they lie far apart.
const TOKEN_STRIDE: u32 = 2_654_435_761;

/// One sequence's part of a made-up batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbePart {
    /// Tokens in the KV cache before it.
    pub context: u32,
    /// Its tokens.
    pub tokens: u32,
    /// A token is drawn after it.
    pub samples: bool,
}

/// How made-up batches are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbePlan {
    /// The first run's first block. Each sequence and each run has its blocks after the one before it, round and round the cache.
    pub first_block: u32,
    /// Token ids are below it.
    pub vocabulary: u32,
    /// Runs of the same batch.
    pub times: u32,
    /// Runs under way at once.
    pub depth: u32,
}

/// How a made-up batch went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    /// From the driver to the beginning of the first stage.
    pub out: Nanos,
    /// When it began and ended in each stage.
    pub stages: Vec<(Nanos, Nanos)>,
    /// From the end of the last stage to the driver's knowing of it.
    pub back: Nanos,
}

impl Probed {
    /// From what stages told of all batches.
    pub(super) fn new(batch: u32, submitted: Nanos, heard: Nanos, stays: &[StageStay]) -> Self {
        let mut own: Vec<&StageStay> = stays.iter().filter(|stay| stay.batch.0 == batch).collect();
        own.sort_by_key(|stay| stay.stage);
        let stages: Vec<_> = own.iter().map(|stay| (stay.start, stay.end)).collect();
        let (began, ended) = (stages[0].0, stages[stages.len() - 1].1);
        Self { out: began.saturating_sub(submitted), stages, back: heard.saturating_sub(ended) }
    }
}

impl RuntimeExecutor {
    /// Runs the same made-up batch several times.
    pub fn probe(&mut self, parts: &[ProbePart], plan: &ProbePlan) -> Result<Vec<Probed>, Loss> {
        let kv = self.kv();
        let steps = (0..plan.times).map(|number| step(number, parts, plan, kv)).collect();
        self.run_steps(steps, plan.depth)
    }

    /// Runs a made-up batch once, and then times products and attention of one layer after the other on it, on the first rank of the last stage,
    /// while the others rest.
    pub fn time_layers(&mut self, parts: &[ProbePart], plan: &ProbePlan) -> Result<Vec<LayerTimes>, Loss> {
        // What it leaves as hidden states is what the layers work on.
        self.probe(parts, &ProbePlan { times: 1, depth: 1, ..*plan })?;
        self.order_layers(step(0, parts, plan, self.kv()))
    }
}

/// Blocks that a made-up batch takes.
pub fn probe_blocks(parts: &[ProbePart], block_size: u32) -> u32 {
    parts.iter().map(|part| (part.context + part.tokens).div_ceil(block_size)).sum()
}

fn step(number: u32, parts: &[ProbePart], plan: &ProbePlan, kv: KvSpec) -> Step {
    let blocks = probe_blocks(parts, kv.block_size);
    let first = plan.first_block + number * blocks;
    let part = |(index, probe): (usize, &ProbePart)| Part {
        slot: index as u32,
        context: probe.context,
        tokens: probe.tokens,
        blocks_kept: 0,
        blocks_new: (probe.context + probe.tokens).div_ceil(kv.block_size),
        sample: probe.samples.then_some((Sampling::greedy(), 0)),
    };
    let tokens: u32 = parts.iter().map(|part| part.tokens).sum();
    let id = |token: u32| (number * tokens + token).wrapping_mul(TOKEN_STRIDE) % plan.vocabulary;
    Step {
        batch: FIRST_BATCH + number,
        parts: parts.iter().enumerate().map(part).collect(),
        tokens: (0..tokens).map(id).collect(),
        blocks: (first..first + blocks).map(|block| block % kv.blocks).collect(),
        ..Step::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_lie_one_after_the_other_and_round_again() {
        let part = |context, tokens| ProbePart { context, tokens, samples: true };
        let parts = [part(0, 17), part(31, 1), part(32, 16)];
        let plan = ProbePlan { first_block: 2, vocabulary: 50, times: 2, depth: 1 };
        let kv = KvSpec { blocks: 8, block_size: 16 };
        let next = step(1, &parts, &plan, kv);
        assert_eq!(next.blocks[..2], [1, 2], "it goes on where the first run ended");
        let step = step(0, &parts, &plan, kv);
        let blocks: Vec<_> = step.parts_and_blocks().map(|(_, blocks)| blocks).collect();
        assert_eq!(blocks, [&[2, 3][..], &[4, 5], &[6, 7, 0]]);
        assert_eq!((step.batch, step.tokens.len()), (FIRST_BATCH, 34));
        assert!(step.tokens.iter().all(|token| *token < 50));
    }
}
