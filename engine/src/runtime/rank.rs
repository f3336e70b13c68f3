//! What one rank does with a step: receive or embed, run its layers, send or sample. Knows no socket to the driver.

use std::collections::VecDeque;

use camino::Utf8Path;

use super::exchange::Exchanges;
use super::meeting::Groups;
use super::protocol::{Exchange, Farewell, Output, Report, Setup, Weights};
use super::step::{Part, Step};
use super::unfit::or_unfit;
use crate::backend::draw::{Draw, draw};
use crate::backend::{Backend, Span, Stayed};
use crate::clock::monotonic_ns;
use crate::comm::{Lateness, Mesh};
use crate::executor::Operation;
use crate::manifest::{Contents, Manifest, rank_file};
use crate::model::{
    Dummy, HuggingFace, KvSpec, LayerTimes, ModelConfig, ModelError, ShardFile, Stage, StagePlan,
    TensorSource,
};
use crate::selftest::Check;
use crate::shard::{Division, Dtype};
use crate::units::Nanos;

/// Layers are timed for this long, and this many of them at least, the stage's in turn.
const LAYERS_NS: u64 = 100_000_000;
const LAYERS_MIN: usize = 5;

/// A rank with its weights, caches and connections.
pub(super) struct Rank<B: Backend> {
    backend: B,
    stage: Stage<B>,
    groups: Groups<B>,
    /// Groups beside those of stages, made to time exchanges.
    others: Exchanges<B>,
    /// All connections; the groups are made of them.
    mesh: Mesh,
    hidden_size: usize,
    /// Ranks of the run.
    world: usize,
    /// Block tables of running sequences, by slot.
    tables: Vec<Vec<u32>>,
    /// Hidden states `[tokens, hidden_size]` of the step under way.
    hidden: B::Tensor,
    /// `[sampled rows, vocabulary]`.
    logits: Vec<f32>,
    /// What is drawn after the step under way.
    draws: Draws,
    /// Memory of its spans.
    spans: Vec<Span<'static>>,
    /// Entries of the longest block table.
    blocks_max: usize,
    /// Stays in the stage that the driver was not told of, in order.
    stays: VecDeque<Held<B::Stay>>,
}

/// Tokens drawn after a step: from which rows, how, and which. Kept from step to step.
#[derive(Default)]
struct Draws {
    /// The last row of each part after which one is drawn.
    rows: Vec<usize>,
    /// How from each.
    how: Vec<Draw>,
    tokens: Vec<u32>,
    /// Room of a draw on the host.
    weights: Vec<u64>,
}

/// A batch's stay in the stage, which may be still to come.
struct Held<S> {
    batch: u32,
    stay: S,
    /// In the last stage.
    output: Option<Output>,
}

impl<B: Backend> Rank<B> {
    /// Loads the rank's weights and makes room for its KV cache.
    pub(super) fn load(mut backend: B, setup: &Setup, mesh: Mesh) -> anyhow::Result<Self> {
        let Setup { seat, parallel, kv, .. } = setup;
        // Before the weights, for which some ranks may take much longer than others.
        let groups = Groups::new(&mut backend, &mesh, seat.rank, *parallel)?;
        let loaded = load_stage(&backend, setup);
        let (mut stage, hidden_size) = loaded.map_err(|error| or_unfit(error, &setup.weights))?;
        stage.touch(&backend, setup.blocks_touched.min(kv.blocks), kv.blocks);
        Ok(Self {
            stage,
            groups,
            others: Exchanges::new(seat.rank),
            mesh,
            hidden_size: hidden_size as usize,
            world: parallel.ranks() as usize,
            tables: Vec::new(),
            hidden: backend.tensor(),
            logits: Vec::new(),
            draws: Draws::default(),
            spans: Vec::new(),
            blocks_max: setup.max_model_len.div_ceil(kv.block_size) as usize,
            stays: VecDeque::new(),
            backend,
        })
    }

    /// Bytes of this rank's weights.
    pub(super) fn weight_bytes(&self) -> u64 {
        self.stage.weight_bytes()
    }

    /// Bytes of this rank's KV cache.
    pub(super) fn kv_bytes(&self) -> u64 {
        self.stage.kv_bytes()
    }

    /// Bytes that are free in memory of the backend's own.
    pub(super) fn free_bytes(&self) -> anyhow::Result<Option<u64>> {
        Ok(self.backend.free_bytes()?)
    }

    /// What there is to tell at the end.
    pub(super) fn farewell(&self) -> Farewell {
        let Lateness { messages, planned_ns, late_ns, worst_ns } = self.mesh.lateness();
        Farewell { messages, planned_ns, late_ns, worst_ns, replays: self.backend.replays() }
    }

    /// Waits until every rank is done with what it was told to do.
    pub(super) fn part(&mut self) -> anyhow::Result<()> {
        self.backend.synchronize()?;
        let ranks: Vec<usize> = (0..self.world).collect();
        self.mesh.group(&ranks).all_gather(&[0.0], &mut vec![0.0; self.world])?;
        Ok(())
    }

    /// Asks for one batch's way through this rank's layers, and waits for the tokens that are drawn there, if any. The driver is told what it is
    /// to know of those batches that are done by now.
    pub(super) fn step(
        &mut self,
        step: &Step,
        say: impl FnMut(&Report) -> std::io::Result<()>,
    ) -> anyhow::Result<()> {
        self.mesh.begin_step(step.sent_ns);
        self.update_tables(step);
        let mut stay = self.layers(step)?;
        let output = match &mut self.groups.next {
            Some(next) => {
                self.backend.leave(&mut stay, self.mesh.now_ns(), false)?;
                self.backend.send(next, 1, &self.hidden)?;
                None
            }
            None => Some(self.finish(step, &mut stay)?),
        };
        self.stays.push_back(Held { batch: step.batch, stay, output });
        self.tell(say)?;
        Ok(())
    }

    /// From tokens, or what the stage before sends, to the hidden states behind this stage's layers.
    fn layers(&mut self, step: &Step) -> anyhow::Result<B::Stay> {
        let Self { backend, stage, groups, mesh, hidden, tables, hidden_size, .. } = self;
        let mut spans = recycled(std::mem::take(&mut self.spans));
        spans_of(&step.parts, tables, &mut spans);
        let batch = backend.begin(&spans, &step.tokens)?;
        let rows = backend.rows(&batch);
        match &mut groups.previous {
            Some(previous) => backend.recv(previous, 0, rows, *hidden_size, hidden)?,
            None => backend.reshape(hidden, rows, *hidden_size)?,
        }
        let stay = backend.enter(mesh.now_ns())?;
        backend.run(&batch, || {
            if groups.previous.is_none() {
                stage.embed(backend, &mut groups.stage, &batch, hidden)?;
            }
            stage.layers(backend, &mut groups.stage, &batch, hidden)
        })?;
        drop(batch);
        self.spans = recycled(spans);
        Ok(stay)
    }

    /// The end of a step in the last stage.
    fn finish(&mut self, step: &Step, stay: &mut B::Stay) -> anyhow::Result<Output> {
        let Self { backend, stage, groups, mesh, hidden, logits, draws, .. } = self;
        let speaks = groups.tp_rank == 0;
        draws.note(&step.parts);
        if step.logits {
            stage.logits(backend, &mut groups.stage, &draws.rows, hidden, logits)?;
            if speaks {
                draws.draw_from(logits);
            }
        } else if draws.are_greedy() {
            stage.greedy(backend, &mut groups.stage, &draws.rows, hidden, &mut draws.tokens)?;
        } else {
            let Draws { rows, how, tokens, .. } = draws;
            stage.draw(backend, &mut groups.stage, rows, hidden, how, tokens)?;
        }
        let end_ns = if speaks { mesh.end_step() } else { mesh.now_ns() };
        // A rank without tokens may not have waited for anything.
        backend.leave(stay, end_ns, !draws.tokens.is_empty())?;
        let tokens = std::mem::take(&mut draws.tokens);
        let logits = if speaks && step.logits { logits.clone() } else { Vec::new() };
        Ok(Output { tokens, logits })
    }

    /// Tells the driver of stays that are over, if this rank speaks for its stage; whether there are others.
    pub(super) fn tell(
        &mut self,
        mut say: impl FnMut(&Report) -> std::io::Result<()>,
    ) -> anyhow::Result<bool> {
        let (speaks, stage) = (self.groups.tp_rank == 0, self.groups.number);
        while let Some(first) = self.stays.front_mut() {
            let Some(stayed) = self.backend.stayed(&mut first.stay)? else { return Ok(true) };
            let Stayed { start_ns, end_ns, calls } = stayed;
            let Some(Held { batch, output, .. }) = self.stays.pop_front() else { break };
            let operations = calls.into_iter().map(operation).collect();
            let report = Report::Stage { batch, stage, start_ns, end_ns, operations, output };
            if speaks {
                say(&report)?;
            }
            if let Report::Stage { output: Some(output), .. } = report {
                self.draws.tokens = output.tokens;
            }
        }
        Ok(false)
    }

    /// Times exchanges among some ranks, if this one is among them; the first of them gets to know.
    pub(super) fn exchange(&mut self, exchange: &Exchange) -> anyhow::Result<Option<Vec<u64>>> {
        Ok(self.others.run(&mut self.backend, &self.mesh, exchange)?)
    }

    /// Exchanges values with all ranks; how far what came is from what they sent. `dtype`: of the weights.
    pub(super) fn check_exchanges(&mut self, dtype: Dtype) -> anyhow::Result<Vec<Check>> {
        Ok(self.others.check(&mut self.backend, &self.mesh, self.world, dtype)?)
    }

    /// Times layers, one after the other, on a batch that was the last step, if this is the first rank of the last stage. The first layer, uncounted,
    /// makes room.
    pub(super) fn time_layers(&mut self, step: &Step) -> anyhow::Result<Option<Vec<LayerTimes>>> {
        if self.groups.tp_rank > 0 || self.groups.next.is_some() {
            return Ok(None);
        }
        self.update_tables(step);
        let Self { backend, stage, tables, hidden, .. } = self;
        let mut spans = Vec::new();
        spans_of(&step.parts, tables, &mut spans);
        let batch = backend.begin(&spans, &step.tokens)?;
        stage.time_layer(backend, 0, &batch, hidden)?;
        let (began_ns, mut times) = (monotonic_ns(), Vec::new());
        while times.len() < LAYERS_MIN || monotonic_ns() - began_ns < LAYERS_NS {
            times.push(stage.time_layer(backend, times.len() + 1, &batch, hidden)?);
        }
        Ok(Some(times))
    }

    fn update_tables(&mut self, step: &Step) {
        for (part, blocks) in step.parts_and_blocks() {
            let slot = part.slot as usize;
            if self.tables.len() <= slot {
                let blocks_max = self.blocks_max;
                self.tables.resize_with(slot + 1, || Vec::with_capacity(blocks_max));
            }
            let table = &mut self.tables[slot];
            table.truncate(part.blocks_kept as usize);
            assert_eq!(
                table.len(),
                part.blocks_kept as usize,
                "the driver keeps count of the blocks it told"
            );
            table.extend(blocks);
        }
    }
}

fn operation((name, calls, ns): (&str, u32, u64)) -> Operation {
    Operation { name: name.to_owned(), calls, time: Nanos(ns) }
}

/// A rank's stage, and the model's hidden size.
fn load_stage<B: Backend>(backend: &B, setup: &Setup) -> anyhow::Result<(Stage<B>, u32)> {
    let Setup { seat, parallel, kv, .. } = setup;
    let plan = |config: ModelConfig| StagePlan {
        config,
        parallel: *parallel,
        stage: seat.rank / parallel.tp,
        tp_rank: seat.rank % parallel.tp,
        max_positions: setup.max_model_len,
        batch_tokens: setup.batch_tokens,
    };
    let load = |plan: &StagePlan, source: &dyn TensorSource| {
        check_memory(backend, plan, *kv)?;
        let stage = Stage::load(backend, plan, source, *kv)?;
        Ok::<_, anyhow::Error>((stage, plan.config.shape.hidden_size))
    };
    match &setup.weights {
        Weights::Shards(manifest) => {
            let (config, file) = open_shard(manifest, seat.rank)?;
            load(&plan(config), &file)
        }
        Weights::HuggingFace(folder) => {
            let text = text_of(&folder.join("config.json"))?;
            let plan = plan(ModelConfig::parse(&text, folder.file_name().unwrap_or("model"))?);
            load(&plan, &HuggingFace::open(folder, &plan)?)
        }
        Weights::Dummy { config, seed, dtype } => {
            let plan = plan((**config).clone());
            load(&plan, &Dummy::new(*seed, *dtype, &plan)?)
        }
    }
}

/// The text of a file that the user gave.
fn text_of(file: &Utf8Path) -> anyhow::Result<String> {
    fs_err::read_to_string(file).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => ModelError::NoFile { file: file.to_owned() }.into(),
        _ => error.into(),
    })
}

/// The model of a `weights.json`, and a rank's file beside it, whose tensors are held to what is written of them.
fn open_shard(manifest: &Utf8Path, rank: u32) -> anyhow::Result<(ModelConfig, ShardFile)> {
    let wrong = |found: String| ModelError::Manifest { file: manifest.to_owned(), rank, found };
    let text = text_of(manifest)?;
    let Manifest { weights, .. } = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let weights = weights.ok_or_else(|| wrong("a plan of weights that were not written".to_owned()))?;
    let contents: Contents = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let own = contents.into_ranks().find(|own| own.rank == rank);
    let own = own.ok_or_else(|| wrong("no such rank".to_owned()))?;
    let file = ShardFile::open(&manifest.with_file_name(rank_file(rank)))?;
    Ok((weights.config, file.verified(own.tensors)))
}

/// Asks whether there may be as much memory as the KV cache will take at most, before anything is loaded.
fn check_memory(backend: &impl Backend, plan: &StagePlan, kv: KvSpec) -> anyhow::Result<()> {
    let division = Division::new(&plan.config.shape, plan.parallel)?;
    let layers = division.layer_range(plan.stage).len() as u64;
    let per_token = 2 * u64::from(division.rank.kv_heads) * u64::from(plan.config.shape.head_dim);
    let tokens = u64::from(kv.blocks) * u64::from(kv.block_size);
    let bytes = layers * per_token * tokens * size_of::<f32>() as u64;
    anyhow::ensure!(
        backend.has_room(bytes),
        "expected memory for a KV cache of {:.1} GB, the operating system refused it",
        bytes as f64 / 1e9
    );
    Ok(())
}

/// Where each part's tokens stand and have their blocks.
fn spans_of<'a>(parts: &[Part], tables: &'a [Vec<u32>], spans: &mut Vec<Span<'a>>) {
    let mut first_row = 0;
    spans.extend(parts.iter().map(|part| {
        let tokens = part.tokens as usize;
        let row = first_row;
        first_row += tokens;
        Span { first_row: row, tokens, context: part.context as usize, table: &tables[part.slot as usize] }
    }));
}

/// The memory of spans that are over, for those of another step: collecting in place takes it along.
fn recycled<'b>(mut spans: Vec<Span<'_>>) -> Vec<Span<'b>> {
    spans.clear();
    let moved =
        |Span { first_row, tokens, context, .. }: Span<'_>| Span { first_row, tokens, context, table: &[] };
    spans.into_iter().map(moved).collect()
}

impl Draws {
    /// Those of a step.
    fn note(&mut self, parts: &[Part]) {
        self.rows.clear();
        self.how.clear();
        let mut end = 0;
        for part in parts {
            end += part.tokens as usize;
            if let Some((sampling, position)) = part.sample {
                self.rows.push(end - 1);
                self.how.push(sampling.draw(position));
            }
        }
        self.tokens.clear();
    }

    fn are_greedy(&self) -> bool {
        self.how.iter().all(Draw::is_greedy)
    }

    /// Draws from `logits[rows, vocabulary]` on the host.
    fn draw_from(&mut self, logits: &[f32]) {
        let Self { how, tokens, weights, .. } = self;
        let Some(vocabulary) = logits.len().checked_div(how.len()) else { return };
        let rows = logits.chunks_exact(vocabulary).zip(&*how);
        tokens.extend(rows.map(|(row, how)| draw(std::iter::once(row), how, weights)));
    }
}
