//! Runs a stage: tokens to hidden states, through its layers, to logits. Every rank of the stage calls the same in the same order.

use super::Stage;
use super::stage::{Layer, Scratch, Table};
use crate::backend::{AttentionShape, Backend, Draw};
use crate::shape::Family;

impl<B: Backend> Stage<B> {
    /// `hidden[tokens, hidden]`: the embedding of each token of the batch. On the first stage alone.
    pub fn embed(
        &mut self,
        backend: &B,
        group: &mut B::Group,
        batch: &B::Batch<'_>,
        hidden: &mut B::Tensor,
    ) -> Result<(), B::Error> {
        match self.embedding.as_ref().expect("the first stage embeds") {
            Table::Own(table) => backend.embed(table, batch, hidden)?,
            Table::Head { first } => {
                let head = self.head.as_ref().expect("the only stage has the head");
                backend.embed_head(&head.projection, *first, batch, hidden)?;
            }
        }
        backend.all_reduce(group, hidden)
    }

    /// `hidden[tokens, hidden]`, in place: the batch's tokens through this stage's layers, of which there is one at least. Their keys and values are stored.
    pub fn layers(
        &mut self,
        backend: &B,
        group: &mut B::Group,
        batch: &B::Batch<'_>,
        hidden: &mut B::Tensor,
    ) -> Result<(), B::Error> {
        assert_eq!(backend.group_size(group), self.tp, "expected a group of the stage's ranks");
        let Self { config, attention, rotary, layers, kv, scratch, rank, .. } = self;
        let (is_parallel, family) = (config.shape.parallel_attention, config.shape.family);
        let ffn = rank.ffn_size as usize;
        for (index, layer) in layers.iter().enumerate() {
            let mut run = Run { backend, layer, index, batch, attention, rotary, kv, scratch, family, ffn };
            match is_parallel {
                true => run.parallel(group, hidden)?,
                false => run.sequential(group, hidden)?,
            }
        }
        // What the last layer leaves to be added; of the others the next one's norm has done it.
        backend.add(hidden, if is_parallel { &scratch.sum } else { &scratch.mlp })
    }

    /// `logits[rows, vocab]` on the host, of some rows of `hidden[tokens, hidden]`, on every rank. On the last stage alone.
    pub fn logits(
        &mut self,
        backend: &B,
        group: &mut B::Group,
        rows: &[usize],
        hidden: &B::Tensor,
        logits: &mut Vec<f32>,
    ) -> Result<(), B::Error> {
        self.own_logits(backend, rows, hidden)?;
        let (held, vocab) = self.vocabulary();
        let Scratch { up: mine, logits: all, .. } = &mut self.scratch;
        backend.all_gather(group, mine, all)?;
        backend.logits(all, self.tp, rows.len(), held, vocab, logits)
    }

    /// `tokens[rows]`: the token of the largest logit, of equal ones the first, after some rows of `hidden[tokens, hidden]`, on every rank. On
    /// the last stage alone.
    pub fn greedy(
        &mut self,
        backend: &B,
        group: &mut B::Group,
        rows: &[usize],
        hidden: &B::Tensor,
        tokens: &mut Vec<u32>,
    ) -> Result<(), B::Error> {
        self.own_logits(backend, rows, hidden)?;
        let (held, vocab) = self.vocabulary();
        let Scratch { up: mine, logits: all, .. } = &mut self.scratch;
        backend.keep_largest(mine, self.tp_rank, 1, vocab)?;
        backend.all_gather(group, mine, all)?;
        backend.greedy(all, self.tp, rows.len(), held, vocab, tokens)
    }

    /// `tokens[rows]`: drawn, as `how[rows]` says, after some rows of `hidden[tokens, hidden]`, on the first rank of the stage; none on others. On
    /// the last stage alone.
    pub fn draw(
        &mut self,
        backend: &B,
        group: &mut B::Group,
        rows: &[usize],
        hidden: &B::Tensor,
        how: &[Draw],
        tokens: &mut Vec<u32>,
    ) -> Result<(), B::Error> {
        assert_eq!(rows.len(), how.len(), "expected to know of each row how to draw");
        self.own_logits(backend, rows, hidden)?;
        let (held, vocab) = self.vocabulary();
        let Scratch { up: mine, logits: all, .. } = &mut self.scratch;
        backend.all_gather(group, mine, all)?;
        tokens.clear();
        match self.tp_rank {
            0 => backend.draw(all, self.tp, held, vocab, how, tokens),
            _ => Ok(()),
        }
    }

    /// This rank's part of the rows' logits, `[rows, vocab_rows]`, in the scratch's `up`.
    fn own_logits(&mut self, backend: &B, rows: &[usize], hidden: &B::Tensor) -> Result<(), B::Error> {
        let head = self.head.as_ref().expect("the last stage has the head");
        let Scratch { normed, sum, up: mine, .. } = &mut self.scratch;
        backend.take_rows(hidden, rows, sum)?;
        backend.apply_norm(&head.norm, sum, normed)?;
        backend.product(&head.projection, normed, mine)
    }

    /// Rows of the embedding on a rank, and tokens in all.
    fn vocabulary(&self) -> (usize, usize) {
        (self.rank.vocab_rows as usize, self.config.shape.vocab_size as usize)
    }
}

/// One layer and what it works on.
struct Run<'a, 'b, B: Backend> {
    backend: &'a B,
    layer: &'a Layer<B>,
    /// Of the layer in its stage.
    index: usize,
    batch: &'a B::Batch<'b>,
    attention: &'a AttentionShape,
    rotary: &'a B::Rotary,
    kv: &'a mut B::KvCache,
    scratch: &'a mut Scratch<B>,
    family: Family,
    /// This rank's width of the MLP.
    ffn: usize,
}

impl<B: Backend> Run<'_, '_, B> {
    /// Attention and MLP read the same hidden state, through one norm or one each, and are summed once, in `sum`.
    fn parallel(&mut self, group: &mut B::Group, hidden: &mut B::Tensor) -> Result<(), B::Error> {
        let Scratch { normed, sum, .. } = &mut *self.scratch;
        let norms = &self.layer.norms;
        match self.index {
            0 => self.backend.apply_norm(&norms[0], hidden, normed)?,
            _ => self.backend.add_norm(&norms[0], hidden, sum, normed)?,
        }
        self.attend()?;
        if let [_, norm] = &norms[..] {
            self.backend.apply_norm(norm, hidden, &mut self.scratch.normed)?;
        }
        self.mlp()?;
        let Scratch { sum, mlp, .. } = &mut *self.scratch;
        self.backend.add(sum, mlp)?;
        self.backend.all_reduce(group, sum)
    }

    /// The MLP reads what attention has added to the hidden state; what it adds itself is in `mlp`.
    fn sequential(&mut self, group: &mut B::Group, hidden: &mut B::Tensor) -> Result<(), B::Error> {
        let Scratch { normed, mlp, .. } = &mut *self.scratch;
        let norms = &self.layer.norms;
        match self.index {
            0 => self.backend.apply_norm(&norms[0], hidden, normed)?,
            _ => self.backend.add_norm(&norms[0], hidden, mlp, normed)?,
        }
        self.attend()?;
        let Scratch { normed, sum, .. } = &mut *self.scratch;
        self.backend.all_reduce(group, sum)?;
        self.backend.add_norm(&norms[1], hidden, sum, normed)?;
        self.mlp()?;
        self.backend.all_reduce(group, &mut self.scratch.mlp)
    }

    /// From `normed` to this rank's summand of attention in `sum`.
    fn attend(&mut self) -> Result<(), B::Error> {
        let Self { backend, layer, index, batch, attention: shape, rotary, .. } = *self;
        let Scratch { normed, qkv, attended, sum, .. } = &mut *self.scratch;
        backend.product(&layer.qkv, normed, qkv)?;
        backend.rotate_and_store(rotary, self.kv, index, shape, batch, qkv)?;
        backend.attend(self.kv, index, shape, batch, qkv, attended)?;
        backend.product(&layer.dense, attended, sum)
    }

    /// From `normed` to this rank's summand of the MLP in `mlp`.
    fn mlp(&mut self) -> Result<(), B::Error> {
        let Self { backend, layer, .. } = *self;
        let Scratch { normed, up, gated, mlp, .. } = &mut *self.scratch;
        backend.product(&layer.up, normed, up)?;
        match self.family {
            Family::Falcon => {
                backend.gelu(up)?;
                backend.product(&layer.down, up, mlp)
            }
            Family::Llama => {
                backend.silu_mul(up, self.ffn, gated)?;
                backend.product(&layer.down, gated, mlp)
            }
        }
    }
}
