//! All ranks of a model in one process, a thread each: what the tests of stages run on.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "several tests use parts of it, and a test fails by panicking"
)]

pub(crate) mod folder;
pub(crate) mod plain;

use std::borrow::Cow;
use std::sync::{Arc, Barrier, Mutex};

use chariot_engine::backend::cpu::Cpu;
use chariot_engine::backend::{Backend, Draw, Span};
use chariot_engine::comm::{CommError, Communicator};

use chariot_engine::model::sampler::{Sampling, sample};
use chariot_engine::model::{KvSpec, ModelConfig, ModelError, Part, Stage, StagePlan, TensorSource};
use chariot_engine::shard::{Division, Dtype, Parallel, Tensor};
use half::{bf16, f16};

/// Positions of the longest sequence.
const POSITIONS: u32 = 128;
/// Tokens of a block: few, so that sequences cross many.
const BLOCK: u32 = 4;
/// Sequences that have blocks.
pub(crate) const SEQUENCES: u32 = 16;

const KV: KvSpec = KvSpec { blocks: SEQUENCES * POSITIONS / BLOCK, block_size: BLOCK };

/// A rank of a group of threads.
struct Thread {
    rank: usize,
    shared: Arc<Shared>,
}

struct Shared {
    parts: Vec<Mutex<Vec<f32>>>,
    barrier: Barrier,
}

impl Thread {
    fn group(size: usize) -> Vec<Self> {
        let parts = (0..size).map(|_| Mutex::new(Vec::new())).collect();
        let shared = Arc::new(Shared { parts, barrier: Barrier::new(size) });
        (0..size).map(|rank| Self { rank, shared: Arc::clone(&shared) }).collect()
    }

    /// Shows `mine` to all, and hands each rank's part in turn to `take`.
    fn exchange(&self, mine: &[f32], mut take: impl FnMut(usize, &[f32])) {
        *self.shared.parts[self.rank].lock().unwrap() = mine.to_vec();
        self.shared.barrier.wait();
        for (rank, part) in self.shared.parts.iter().enumerate() {
            take(rank, &part.lock().unwrap());
        }
        self.shared.barrier.wait();
    }
}

impl Communicator for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.shared.parts.len()
    }

    fn all_reduce(&mut self, data: &mut [f32]) -> Result<(), CommError> {
        let mut sum = vec![0.0; data.len()];
        self.exchange(data, |_, part| {
            assert_eq!(part.len(), sum.len());
            sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        });
        data.copy_from_slice(&sum);
        Ok(())
    }

    fn all_gather(&mut self, mine: &[f32], all: &mut [f32]) -> Result<(), CommError> {
        self.exchange(mine, |rank, part| all[rank * part.len()..][..part.len()].copy_from_slice(part));
        Ok(())
    }

    fn send(&mut self, to: usize, _: &[f32]) -> Result<(), CommError> {
        Err(CommError::Closed { peer: to })
    }

    fn recv(&mut self, from: usize, _: &mut [f32]) -> Result<(), CommError> {
        Err(CommError::Closed { peer: from })
    }
}

/// Tokens of one sequence that a step runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chunk<'a> {
    /// Below [`SEQUENCES`].
    pub(crate) seq: u32,
    /// Tokens before these.
    pub(crate) context: usize,
    pub(crate) tokens: &'a [u32],
}

/// A source whose values become f32: exactly, and with them the KV cache, which has the weights' type.
pub(crate) struct Widened<S>(pub(crate) S);

impl<S: TensorSource> TensorSource for Widened<S> {
    fn tensor(&self, wanted: &Tensor) -> Result<Part<'_>, ModelError> {
        let part = self.0.tensor(wanted)?;
        let pairs = part.bytes.as_chunks().0;
        let bytes: Vec<u8> = match part.dtype {
            Dtype::Float32 => return Ok(part),
            Dtype::Float16 => {
                pairs.iter().flat_map(|&b| f16::from_le_bytes(b).to_f32().to_le_bytes()).collect()
            }
            Dtype::Bfloat16 => {
                pairs.iter().flat_map(|&b| bf16::from_le_bytes(b).to_f32().to_le_bytes()).collect()
            }
        };
        Ok(Part { dtype: Dtype::Float32, shape: part.shape, bytes: Cow::Owned(bytes) })
    }
}

/// A model on its ranks.
pub(crate) struct Model {
    /// TP rank -> stages.
    ranks: Vec<Vec<Stage<Cpu>>>,
}

/// The splits of {1, 2, 4, 8} x {1, 2, 4} that divide a model.
pub(crate) fn splits(config: &ModelConfig) -> Vec<Parallel> {
    let all = [1, 2, 4, 8].into_iter().flat_map(|tp| [1, 2, 4].map(|pp| Parallel { tp, pp }));
    all.filter(|&parallel| Division::new(&config.shape, parallel).is_ok()).collect()
}

/// The one rank's plan of an undivided model.
pub(crate) fn whole(config: &ModelConfig) -> StagePlan {
    let (stage, tp_rank) = (0, 0);
    let config = config.clone();
    StagePlan { config, parallel: SINGLE, stage, tp_rank, max_positions: POSITIONS, batch_tokens: POSITIONS }
}

pub(crate) const SINGLE: Parallel = Parallel { tp: 1, pp: 1 };

impl Model {
    pub(crate) fn load(
        config: &ModelConfig,
        parallel: Parallel,
        open: impl Fn(&StagePlan) -> Box<dyn TensorSource>,
    ) -> Self {
        let stage = |stage, tp_rank| {
            let plan = StagePlan { parallel, stage, tp_rank, ..whole(config) };
            Stage::load(&cpu(), &plan, &*open(&plan), KV).unwrap()
        };
        let ranks = (0..parallel.tp).map(|rank| (0..parallel.pp).map(|s| stage(s, rank)).collect()).collect();
        Self { ranks }
    }

    /// Undivided, from a source of the one rank.
    pub(crate) fn load_from(config: &ModelConfig, source: &dyn TensorSource) -> Self {
        Self { ranks: vec![vec![Stage::load(&cpu(), &whole(config), source, KV).unwrap()]] }
    }

    pub(crate) fn parallel(&self) -> Parallel {
        Parallel { tp: self.ranks.len() as u32, pp: self.ranks[0].len() as u32 }
    }

    /// The logits after every token of the chunks.
    pub(crate) fn step(&mut self, chunks: &[Chunk<'_>]) -> Vec<Vec<f32>> {
        let tokens: Vec<u32> = chunks.iter().flat_map(|chunk| chunk.tokens).copied().collect();
        let threads = Thread::group(self.ranks.len());
        let answers: Vec<Vec<f32>> = std::thread::scope(|scope| {
            let mut handles = Vec::new();
            for (mut thread, stages) in threads.into_iter().zip(&mut self.ranks) {
                let tokens = &tokens;
                handles.push(scope.spawn(move || run_stages(&mut thread, stages, chunks, tokens)));
            }
            handles.into_iter().map(|handle| handle.join().unwrap()).collect()
        });
        assert!(answers.iter().all(|answer| answer == &answers[0]), "expected the same logits on every rank");
        answers[0].chunks_exact(answers[0].len() / tokens.len()).map(<[f32]>::to_vec).collect()
    }
}

fn run_stages(
    thread: &mut Thread,
    stages: &mut [Stage<Cpu>],
    chunks: &[Chunk<'_>],
    tokens: &[u32],
) -> Vec<f32> {
    let mut cpu = cpu();
    let tables: Vec<Vec<u32>> = chunks.iter().map(|chunk| table(chunk.seq)).collect();
    let mut first_row = 0;
    let span = |(chunk, table)| {
        let Chunk { context, tokens, .. }: &Chunk<'_> = chunk;
        let table: &Vec<u32> = table;
        let row = first_row;
        first_row += tokens.len();
        Span { first_row: row, tokens: tokens.len(), context: *context, table }
    };
    let spans: Vec<Span<'_>> = chunks.iter().zip(&tables).map(span).collect();
    let batch = cpu.begin(&spans, tokens).unwrap();
    let mut hidden = cpu.tensor();
    stages[0].embed(&cpu, thread, &batch, &mut hidden).unwrap();
    for stage in &mut *stages {
        stage.layers(&cpu, thread, &batch, &mut hidden).unwrap();
    }
    let (mut logits, mut greedy) = (Vec::new(), Vec::new());
    let rows: Vec<usize> = (0..tokens.len()).collect();
    let last = stages.last_mut().unwrap();
    last.logits(&cpu, thread, &rows, &hidden, &mut logits).unwrap();
    last.greedy(&cpu, thread, &rows, &hidden, &mut greedy).unwrap();
    let each = logits.len() / rows.len();
    let expected = logits.chunks_exact(each).map(largest);
    assert_eq!(greedy, expected.collect::<Vec<_>>(), "expected the tokens of the largest logits");
    let sampling = Sampling { temperature: 0.8, top_p: 0.95, seed: 7 };
    let how: Vec<Draw> = (0..rows.len() as u32).map(|position| sampling.draw(position)).collect();
    let mut drawn = vec![9];
    last.draw(&cpu, thread, &rows, &hidden, &how, &mut drawn).unwrap();
    let from_row = |(position, row)| sample(row, &sampling, position);
    let expected: Vec<u32> = match thread.rank {
        0 => (0..).zip(logits.chunks_exact(each)).map(from_row).collect(),
        _ => Vec::new(),
    };
    assert_eq!(drawn, expected, "expected the draws from the logits, on the first rank alone");
    logits
}

fn cpu() -> Cpu {
    Cpu::new(1, None).unwrap()
}

/// A sequence's blocks: far from one another, and not in order.
fn table(seq: u32) -> Vec<u32> {
    (0..POSITIONS / BLOCK).rev().map(|block| block * SEQUENCES + seq).collect()
}

/// The largest difference of two rows.
pub(crate) fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let gap = |(a, b): (&f32, &f32)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() };
    a.iter().zip(b).map(gap).fold(0.0, f32::max)
}

pub(crate) fn largest(logits: &[f32]) -> u32 {
    let better = |best: usize, token: usize| if logits[token] > logits[best] { token } else { best };
    (0..logits.len()).reduce(better).unwrap() as u32
}
