//! The paged KV cache of one rank, in the weights' dtype. Knows blocks, not sequences.

use super::format::{Bf16, F16, F32, Values};
use super::huge_pages::HugePages;
use super::{AttentionShape, Cpu, Dtype, Span};

/// Tokens whose keys lie side by side.
pub(super) const GROUP: usize = 16;

/// Keys and values of a stage's layers, in blocks of `block_size` tokens.
#[derive(Debug)]
pub struct KvCache {
    block_size: usize,
    layers: Layers,
}

#[derive(Debug)]
enum Layers {
    F32(Vec<Layer<F32>>),
    F16(Vec<Layer<F16>>),
    Bf16(Vec<Layer<Bf16>>),
}

/// Keys and values of one layer.
pub(super) struct Layer<V: Values> {
    /// `[blocks, kv_heads, groups of a block, head_dim, 16 tokens]`: vectors go over tokens. The last group may be part empty.
    keys: HugePages<[V::Stored; GROUP]>,
    /// `[blocks, kv_heads, block_size, head_dim]`, the last rounded up to vectors of 16.
    values: HugePages<[V::Stored; GROUP]>,
}

impl<V: Values> std::fmt::Debug for Layer<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Layer({} vectors of keys, {} of values)", self.keys.len(), self.values.len())
    }
}

/// A layer as an operation sees it.
pub(super) struct Pages<L> {
    pub(super) layer: L,
    pub(super) block_size: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
}

impl<L> Pages<L> {
    /// Groups of a block.
    pub(super) fn groups(&self) -> usize {
        self.block_size.div_ceil(GROUP)
    }

    /// Vectors of one token's values of one head.
    pub(super) fn value_vectors(&self) -> usize {
        self.head_dim.div_ceil(GROUP)
    }

    fn key_start(&self, block: u32, head: usize, group: usize) -> usize {
        ((block as usize * self.kv_heads + head) * self.groups() + group) * self.head_dim
    }

    fn value_start(&self, block: u32, head: usize, token: usize) -> usize {
        ((block as usize * self.kv_heads + head) * self.block_size + token) * self.value_vectors()
    }
}

impl<V: Values> Pages<&Layer<V>> {
    /// `[head_dim]` vectors of a group's keys.
    pub(super) fn keys(&self, block: u32, head: usize, group: usize) -> &[[V::Stored; GROUP]] {
        &self.layer.keys[self.key_start(block, head, group)..][..self.head_dim]
    }

    /// Values of `tokens` tokens of a block from `token` on.
    pub(super) fn values(
        &self,
        block: u32,
        head: usize,
        token: usize,
        tokens: usize,
    ) -> &[[V::Stored; GROUP]] {
        &self.layer.values[self.value_start(block, head, token)..][..tokens * self.value_vectors()]
    }
}

/// What reads one layer, whatever its dtype.
pub(super) trait Reader {
    fn read<V: Values>(self, pages: Pages<&Layer<V>>);
}

impl KvCache {
    /// Room for `blocks` blocks in each of `layers` layers.
    pub fn new(
        shape: &AttentionShape,
        layers: usize,
        blocks: usize,
        block_size: usize,
        dtype: Dtype,
    ) -> Self {
        fn all<V: Values>(layers: usize, pages: &Pages<()>, blocks: usize) -> Vec<Layer<V>> {
            let zeros = |block: usize| HugePages::zeroed(blocks * pages.kv_heads * block);
            let layer = |_| Layer {
                keys: zeros(pages.groups() * pages.head_dim),
                values: zeros(pages.block_size * pages.value_vectors()),
            };
            (0..layers).map(layer).collect()
        }
        let AttentionShape { kv_heads, head_dim, .. } = *shape;
        let pages = Pages { layer: (), block_size, kv_heads, head_dim };
        let layers = match dtype {
            Dtype::F32 => Layers::F32(all(layers, &pages, blocks)),
            Dtype::F16 => Layers::F16(all(layers, &pages, blocks)),
            Dtype::Bf16 => Layers::Bf16(all(layers, &pages, blocks)),
        };
        Self { block_size, layers }
    }

    /// Of a new cache: takes the memory of the first `blocks` blocks, of `all`, in every layer.
    pub(super) fn touch(&mut self, blocks: usize, all: usize) {
        fn each<V: Values>(layers: &mut [Layer<V>], blocks: usize, all: usize) {
            for layer in layers {
                for pages in [&mut layer.keys, &mut layer.values] {
                    pages.touch(pages.len() / all.max(1) * blocks);
                }
            }
        }
        match &mut self.layers {
            Layers::F32(layers) => each(layers, blocks, all),
            Layers::F16(layers) => each(layers, blocks, all),
            Layers::Bf16(layers) => each(layers, blocks, all),
        }
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> u64 {
        fn all<V: Values>(layers: &[Layer<V>]) -> u64 {
            layers
                .iter()
                .map(|layer| size_of_val(&layer.keys[..]) + size_of_val(&layer.values[..]))
                .sum::<usize>() as u64
        }
        match &self.layers {
            Layers::F32(layers) => all(layers),
            Layers::F16(layers) => all(layers),
            Layers::Bf16(layers) => all(layers),
        }
    }

    pub(super) fn read(&self, layer: usize, shape: &AttentionShape, reader: impl Reader) {
        let AttentionShape { kv_heads, head_dim, .. } = *shape;
        let block_size = self.block_size;
        match &self.layers {
            Layers::F32(layers) => {
                reader.read(Pages { layer: &layers[layer], block_size, kv_heads, head_dim })
            }
            Layers::F16(layers) => {
                reader.read(Pages { layer: &layers[layer], block_size, kv_heads, head_dim })
            }
            Layers::Bf16(layers) => {
                reader.read(Pages { layer: &layers[layer], block_size, kv_heads, head_dim })
            }
        }
    }
}

/// What `Cpu::store_kv` stores.
struct New<'a> {
    query_heads: usize,
    qkv: &'a [f32],
    spans: &'a [Span<'a>],
}

impl New<'_> {
    fn store<V: Values>(&self, cpu: &Cpu, pages: &Pages<()>, layer: &mut Layer<V>) {
        let Layer { keys, values } = layer;
        let mut parts = [keys, values];
        // Keys and values are two halves for two threads.
        let all_tokens = self.spans.iter().map(|span| span.tokens).sum::<usize>();
        let shared = all_tokens * pages.kv_heads * pages.head_dim >= 1 << 13;
        let store = |first: usize, parts: &mut [&mut HugePages<[V::Stored; GROUP]>]| {
            for (part, out) in (first..).zip(parts) {
                match part {
                    0 => self.store_keys::<V>(pages, out),
                    _ => self.store_values::<V>(pages, out),
                }
            }
        };
        match shared {
            true => cpu.pool.each(&mut parts, &|index, part| store(index, std::slice::from_mut(part))),
            false => store(0, &mut parts),
        }
    }

    /// Calls `store` with block, token in the block, head and values of every token's keys (part 0) or values (part 1).
    fn each(&self, pages: &Pages<()>, part: usize, mut store: impl FnMut(u32, usize, usize, &[f32])) {
        let head_dim = pages.head_dim;
        let width = (self.query_heads + 2 * pages.kv_heads) * head_dim;
        for span in self.spans {
            for token in 0..span.tokens {
                let first = (self.query_heads + part * pages.kv_heads) * head_dim;
                let row = &self.qkv[(span.first_row + token) * width + first..][..pages.kv_heads * head_dim];
                let position = span.context + token;
                let block = span.table[position / pages.block_size];
                for (head, values) in row.chunks_exact(head_dim).enumerate() {
                    store(block, position % pages.block_size, head, values);
                }
            }
        }
    }

    fn store_keys<V: Values>(&self, pages: &Pages<()>, keys: &mut [[V::Stored; GROUP]]) {
        self.each(pages, 0, |block, token, head, values| {
            let start = pages.key_start(block, head, token / GROUP);
            for (stored, value) in keys[start..].iter_mut().zip(values) {
                stored[token % GROUP] = V::round(*value);
            }
        });
    }

    fn store_values<V: Values>(&self, pages: &Pages<()>, stored: &mut [[V::Stored; GROUP]]) {
        self.each(pages, 1, |block, token, head, values| {
            let start = pages.value_start(block, head, token);
            for (stored, value) in stored[start..].as_flattened_mut().iter_mut().zip(values) {
                *stored = V::round(*value);
            }
        });
    }
}

impl Cpu {
    /// Stores the keys and values of `qkv[tokens, (query_heads + 2 kv_heads) head_dim]` where the spans' tables say.
    pub fn store_kv(
        &self,
        cache: &mut KvCache,
        layer: usize,
        shape: &AttentionShape,
        qkv: &[f32],
        spans: &[Span<'_>],
    ) {
        let AttentionShape { query_heads, kv_heads, head_dim, .. } = *shape;
        let new = New { query_heads, qkv, spans };
        let pages = Pages { layer: (), block_size: cache.block_size, kv_heads, head_dim };
        match &mut cache.layers {
            Layers::F32(layers) => new.store(self, &pages, &mut layers[layer]),
            Layers::F16(layers) => new.store(self, &pages, &mut layers[layer]),
            Layers::Bf16(layers) => new.store(self, &pages, &mut layers[layer]),
        }
    }
}
