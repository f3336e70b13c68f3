//! The operations of a layer, each timed by itself. Knows no other rank, and not what the times are for.

use serde::{Deserialize, Serialize};

use super::Stage;
use super::stage::Scratch;
use crate::backend::Backend;
use crate::shape::Family;

/// Calls of a layer and of the head's product after it.
const CALLS: usize = 10;

/// Nanoseconds of one rank's operations in a layer, and of the head's product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerTimes {
    /// A norm of hidden states, to which nothing is added.
    pub norm_ns: u64,
    /// Queries and keys are rotated, keys and values stored.
    pub rotary_ns: u64,
    /// Of the MLP, between its products.
    pub activation_ns: u64,
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
            // Twice, for what comes first may wait for the queue to begin.
            0 | 1 => backend.apply_norm(&layer.norms[0], hidden, normed),
            2 => backend.product(&layer.qkv, normed, qkv),
            3 => backend.rotate_and_store(rotary, kv, index, attention, batch, qkv),
            4 => backend.attend(kv, index, attention, batch, qkv, attended),
            5 => backend.product(&layer.dense, attended, sum),
            6 => backend.product(&layer.up, normed, up),
            7 => match family {
                Family::Falcon => backend.gelu(up),
                Family::Llama => backend.silu_mul(up, ffn, gated),
            },
            8 => match family {
                Family::Falcon => backend.product(&layer.down, up, mlp),
                Family::Llama => backend.product(&layer.down, gated, mlp),
            },
            _ => backend.product(&head.projection, normed, logits),
        })?;
        Ok(LayerTimes {
            norm_ns: ns[1],
            rotary_ns: ns[3],
            activation_ns: ns[7],
            qkv_ns: ns[2],
            attention_ns: ns[4],
            dense_ns: ns[5],
            up_ns: ns[6],
            down_ns: ns[8],
            head_ns: ns[9],
        })
    }
}
