//! The products and the attention of a layer, each timed by itself. Knows no other rank, and not what the times are for.

use serde::{Deserialize, Serialize};

use super::Stage;
use super::stage::Scratch;
use crate::backend::Backend;
use crate::shape::Family;

/// Calls of a layer and of the head's product after it.
const CALLS: usize = 9;

/// Nanoseconds of one rank's products in a layer, of its attention, and of the head's product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerTimes {
    /// To queries, keys and values.
    pub qkv_ns: u64,
    /// Of queries to keys, and of what they find to values; without storing these.
    pub attention_ns: u64,
    /// From heads to hidden states.
    pub dense_ns: u64,
    /// Into the MLP; gate and up are one product.
    pub up_ns: u64,
    /// Out of the MLP.
    pub down_ns: u64,
    /// To logits of every row.
    pub head_ns: u64,
}

impl<B: Backend> Stage<B> {
    /// Makes the calls of layer `number` modulo the stage's layers on `hidden[rows, hidden]`, whose rows are the batch's, and the head's product: on
    /// this rank alone, so that nothing is summed and `hidden` stays as it is. The batch's keys and values are stored. On the last stage alone.
    pub fn time_layer(
        &mut self,
        backend: &B,
        number: usize,
        batch: &B::Batch<'_>,
        hidden: &B::Tensor,
    ) -> Result<LayerTimes, B::Error> {
        let Self { config, attention, rotary, layers, head, kv, scratch, rank, .. } = self;
        let (family, ffn) = (config.shape.family, rank.ffn_size as usize);
        let index = number % layers.len();
        let layer = &layers[index];
        let head = head.as_ref().expect("the last stage has the head");
        let Scratch { normed, qkv, attended, sum, mlp, up, gated, logits } = scratch;
        let ns = backend.time_each(CALLS, |call| match call {
            // First, for what comes first may wait for the queue to begin.
            0 => backend.apply_norm(&layer.norms[0], hidden, normed),
            1 => backend.product(&layer.qkv, normed, qkv),
            2 => backend.rotate_and_store(rotary, kv, index, attention, batch, qkv),
            3 => backend.attend(kv, index, attention, batch, qkv, attended),
            4 => backend.product(&layer.dense, attended, sum),
            5 => backend.product(&layer.up, normed, up),
            6 => match family {
                Family::Falcon => backend.gelu(up),
                Family::Llama => backend.silu_mul(up, ffn, gated),
            },
            7 => match family {
                Family::Falcon => backend.product(&layer.down, up, mlp),
                Family::Llama => backend.product(&layer.down, gated, mlp),
            },
            _ => backend.product(&head.projection, normed, logits),
        })?;
        Ok(LayerTimes {
            qkv_ns: ns[1],
            attention_ns: ns[3],
            dense_ns: ns[4],
            up_ns: ns[5],
            down_ns: ns[7],
            head_ns: ns[8],
        })
    }
}
