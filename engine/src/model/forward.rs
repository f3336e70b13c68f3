//! Runs a stage: tokens to hidden states, through its layers, to logits. Every rank of the stage calls the same in the same order.

use super::Stage;
use super::stage::{Layer, Norm, Scratch, Table};
use crate::backend::cpu::{Activations, AttentionShape, Cpu, KvCache, Linear, RotaryTable, Span};
use crate::comm::{CommError, Communicator};
use crate::shape::Family;

impl Stage {
    /// `hidden[tokens, hidden]`: the embedding of each token. On the first stage alone.
    pub fn embed(
        &mut self,
        cpu: &Cpu,
        group: &mut dyn Communicator,
        tokens: &[u32],
        hidden: &mut [f32],
    ) -> Result<(), CommError> {
        match self.embedding.as_ref().expect("the first stage embeds") {
            Table::Own(table) => cpu.embed(table, tokens, hidden),
            Table::Head { first } => {
                let head = self.head.as_ref().expect("the only stage has the head");
                cpu.embed_packed(&head.projection, *first, tokens, hidden);
            }
        }
        group.all_reduce(hidden)
    }

    /// `hidden[tokens, hidden]`, in place: the spans' tokens through this stage's layers. Their keys and values are stored.
    pub fn layers(
        &mut self,
        cpu: &Cpu,
        group: &mut dyn Communicator,
        spans: &[Span<'_>],
        hidden: &mut [f32],
    ) -> Result<(), CommError> {
        assert_eq!(group.size(), self.tp, "expected a group of the stage's ranks");
        let Self { config, attention, rotary, layers, kv, scratch, .. } = self;
        let is_parallel = config.shape.parallel_attention;
        for (index, layer) in layers.iter().enumerate() {
            let epsilon = config.norm_epsilon;
            let mut run = Run { cpu, layer, index, spans, attention, rotary, kv, scratch, epsilon };
            match is_parallel {
                true => run.parallel(group, config.shape.family, hidden)?,
                false => run.sequential(group, config.shape.family, hidden)?,
            }
        }
        Ok(())
    }

    /// `logits[rows, vocab]` of some rows of `hidden[tokens, hidden]`, on every rank. On the last stage alone.
    pub fn logits(
        &mut self,
        cpu: &Cpu,
        group: &mut dyn Communicator,
        rows: &[usize],
        hidden: &[f32],
        logits: &mut Vec<f32>,
    ) -> Result<(), CommError> {
        let head = self.head.as_ref().expect("the last stage has the head");
        let width = self.config.shape.hidden_size as usize;
        let Scratch { normed, sum, up: mine, logits: all, .. } = &mut self.scratch;
        sum.clear();
        for &row in rows {
            sum.extend_from_slice(&hidden[row * width..(row + 1) * width]);
        }
        normed.resize(sum.len());
        head.norm.apply(cpu, sum, self.config.norm_epsilon, normed);
        project(cpu, &head.projection, normed, mine);
        all.resize(self.tp * mine.len());
        group.all_gather(mine, all)?;
        let (held, vocab) = (self.rank.vocab_rows as usize, self.config.shape.vocab_size as usize);
        interleave(all, rows.len(), held, vocab, logits);
        Ok(())
    }
}

/// `logits[rows, vocab]` from `all[ranks, rows, held]`, without the padding at the end of the vocabulary.
fn interleave(all: &[f32], rows: usize, held: usize, vocab: usize, logits: &mut Vec<f32>) {
    logits.clear();
    for row in 0..rows {
        let end = logits.len() + vocab;
        for rank in all.chunks_exact(rows * held) {
            let part = &rank[row * held..(row + 1) * held];
            logits.extend_from_slice(&part[..held.min(end - logits.len())]);
        }
    }
}

/// One layer and what it works on.
struct Run<'a> {
    cpu: &'a Cpu,
    layer: &'a Layer,
    /// Of the layer in its stage.
    index: usize,
    spans: &'a [Span<'a>],
    attention: &'a AttentionShape,
    rotary: &'a RotaryTable,
    kv: &'a mut KvCache,
    scratch: &'a mut Scratch,
    epsilon: f32,
}

impl Run<'_> {
    /// Attention and MLP read the same hidden state, through one norm or one each, and are summed once.
    fn parallel(
        &mut self,
        group: &mut dyn Communicator,
        family: Family,
        hidden: &mut [f32],
    ) -> Result<(), CommError> {
        self.norm(0, hidden);
        self.attend();
        if self.layer.norms.len() == 2 {
            self.norm(1, hidden);
        }
        self.mlp(family);
        let Scratch { sum, mlp, .. } = &mut *self.scratch;
        self.cpu.add(sum, mlp);
        group.all_reduce(sum)?;
        self.cpu.add(hidden, sum);
        Ok(())
    }

    /// The MLP reads what attention has added to the hidden state.
    fn sequential(
        &mut self,
        group: &mut dyn Communicator,
        family: Family,
        hidden: &mut [f32],
    ) -> Result<(), CommError> {
        self.norm(0, hidden);
        self.attend();
        group.all_reduce(&mut self.scratch.sum)?;
        self.cpu.add(hidden, &self.scratch.sum);
        self.norm(1, hidden);
        self.mlp(family);
        group.all_reduce(&mut self.scratch.mlp)?;
        self.cpu.add(hidden, &self.scratch.mlp);
        Ok(())
    }

    fn norm(&mut self, which: usize, hidden: &[f32]) {
        self.scratch.normed.resize(hidden.len());
        self.layer.norms[which].apply(self.cpu, hidden, self.epsilon, &mut self.scratch.normed);
    }

    /// From `normed` to this rank's summand of attention in `sum`.
    fn attend(&mut self) {
        let Self { cpu, layer, attention: shape, .. } = *self;
        let Scratch { normed, qkv, attended, sum, .. } = &mut *self.scratch;
        project(cpu, &layer.qkv, normed, qkv);
        cpu.rotate(self.rotary, shape, qkv, self.spans);
        cpu.store_kv(self.kv, self.index, shape, qkv, self.spans);
        attended.resize(qkv.len() / layer.qkv.rows() * layer.dense.columns());
        cpu.attend(self.kv, self.index, shape, qkv, self.spans, attended);
        project(cpu, &layer.dense, attended, sum);
    }

    /// From `normed` to this rank's summand of the MLP in `mlp`.
    fn mlp(&mut self, family: Family) {
        let Self { cpu, layer, .. } = *self;
        let Scratch { normed, up, gated, mlp, .. } = &mut *self.scratch;
        project(cpu, &layer.up, normed, up);
        match family {
            Family::Falcon => {
                cpu.gelu(up);
                project(cpu, &layer.down, up, mlp);
            }
            Family::Llama => {
                gated.resize(up.len() / 2);
                cpu.silu_mul(up, layer.down.columns(), gated);
                project(cpu, &layer.down, gated, mlp);
            }
        }
    }
}

impl Norm {
    fn apply(&self, cpu: &Cpu, x: &[f32], epsilon: f32, y: &mut [f32]) {
        match &self.bias {
            Some(bias) => cpu.layer_norm(x, &self.weight, bias, epsilon, y),
            None => cpu.rms_norm(x, &self.weight, epsilon, y),
        }
    }
}

/// `y = x w^T`, for as many rows as `x` has.
fn project(cpu: &Cpu, w: &Linear, x: &[f32], y: &mut Activations) {
    y.resize(x.len() / w.columns() * w.rows());
    cpu.linear(w, x, y);
}
