//! Weights that nobody trained: as good as real ones for everything but the text.
//!
//! A value depends on the seed and on its place in the whole model alone, so every division holds the same model.

use std::borrow::Cow;

use super::slice::{LayerSlot, NormPart, Slice, Slicer, Slot};
use super::{ModelError, PIECE, Part, StagePlan, Take, TensorSource};
use crate::shard::{Dtype, ShardError, Tensor};

/// Changes when the values of a seed do.
const VERSION: u32 = 1;
/// Values that one mixed word makes, one a byte.
const PER_WORD: u64 = 8;
/// Standard deviation of the logits.
const LOGIT_SPREAD: f64 = 4.0;

/// A rank's part of a model made up from a seed.
#[derive(Debug, Clone)]
pub struct Dummy {
    seed: u64,
    dtype: Dtype,
    slicer: Slicer,
}

impl Dummy {
    /// The part of `plan`'s rank.
    pub fn new(seed: u64, dtype: Dtype, plan: &StagePlan) -> Result<Self, ShardError> {
        Ok(Self { seed, dtype, slicer: Slicer::new(plan)? })
    }

    /// Names all that its values hang on, beside the model's configuration.
    pub fn origin(&self) -> String {
        format!("dummy {VERSION} {}", self.seed)
    }

    /// Mean and standard deviation of a tensor's values. Products keep their input's spread, and what a layer adds to the hidden
    /// state is divided by sqrt(2 layers), so that activations stay near 1 however deep the model is.
    fn spread(&self, slot: Slot) -> (f64, f64) {
        let shape = &self.slicer.shape;
        let per = |inputs: u32| 1.0 / f64::from(inputs).sqrt();
        let residual = per(2 * shape.layers);
        match slot {
            Slot::Embedding | Slot::Head => (0.0, LOGIT_SPREAD * per(shape.hidden_size)),
            Slot::FinalNorm(part) | Slot::Layer(_, LayerSlot::Norm(_, part)) => match part {
                NormPart::Weight => (1.0, 0.1),
                NormPart::Bias => (0.0, 0.1),
            },
            Slot::Layer(_, LayerSlot::Qkv | LayerSlot::Gate | LayerSlot::Up) => (0.0, per(shape.hidden_size)),
            Slot::Layer(_, LayerSlot::Dense) => (0.0, residual * per(shape.query_heads * shape.head_dim)),
            Slot::Layer(_, LayerSlot::Down) => (0.0, residual * per(shape.ffn_size)),
        }
    }

    /// What all values of a tensor hang on. A tied head is the embedding.
    fn key(&self, name: &str, slot: Slot) -> u64 {
        let is_tied = slot == Slot::Head && self.slicer.shape.tied_embedding;
        let name = if is_tied { "embedding.weight" } else { name };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes()).update(name.as_bytes());
        let first = hasher.finalize().as_bytes().first_chunk::<8>().copied();
        u64::from_le_bytes(first.expect("a digest has 32 bytes"))
    }
}

impl TensorSource for Dummy {
    fn tensor(&self, wanted: &Tensor) -> Result<Part<'_>, ModelError> {
        let values: u64 = wanted.shape.iter().map(|&length| u64::from(length)).product();
        let mut bytes = Vec::with_capacity((values * self.dtype.bytes()) as usize);
        self.stream(wanted, &mut |more| {
            bytes.extend_from_slice(&more);
            Ok(())
        })?;
        Ok(Part { dtype: self.dtype, shape: wanted.shape.clone(), bytes: Cow::Owned(bytes) })
    }

    fn stream<'a>(&'a self, wanted: &Tensor, take: &mut Take<'a, '_>) -> Result<Dtype, ModelError> {
        let slot = Slot::parse(&wanted.name)?;
        let slice = self.slicer.slice(slot);
        let key = self.key(&wanted.name, slot);
        let spread = self.spread(slot);
        match self.dtype {
            Dtype::Float32 => generate(key, &slice, &table(spread, f32::to_le_bytes), take)?,
            Dtype::Float16 => generate(key, &slice, &table(spread, f16_bytes), take)?,
            Dtype::Bfloat16 => generate(key, &slice, &table(spread, bf16_bytes), take)?,
        }
        Ok(self.dtype)
    }
}

/// The slice's values, and zeros for its padding, some rows at a time.
fn generate<const N: usize>(
    key: u64,
    slice: &Slice,
    table: &[[u8; N]; 256],
    take: &mut Take<'_, '_>,
) -> Result<(), ModelError> {
    let columns = (slice.columns.end - slice.columns.start) as usize;
    let at_once = (PIECE / (columns * N).max(1)).max(1);
    let padding = std::iter::repeat_n(None, slice.padding as usize);
    let rows: Vec<Option<u64>> = slice.rows.iter().cloned().flatten().map(Some).chain(padding).collect();
    for rows in rows.chunks(at_once) {
        let mut bytes = vec![0; rows.len() * columns * N];
        for (row, out) in rows.iter().zip(bytes.chunks_exact_mut(columns * N)) {
            if let Some(row) = row {
                fill(out.as_chunks_mut().0, mix(key ^ mix(*row)), slice.columns.start, table);
            }
        }
        take(Cow::Owned(bytes))?;
    }
    Ok(())
}

fn f16_bytes(value: f32) -> [u8; 2] {
    half::f16::from_f32(value).to_le_bytes()
}

fn bf16_bytes(value: f32) -> [u8; 2] {
    half::bf16::from_f32(value).to_le_bytes()
}

/// 256 equally likely values of a uniform distribution of some mean and standard deviation, encoded.
fn table<const N: usize>((mean, deviation): (f64, f64), encode: fn(f32) -> [u8; N]) -> [[u8; N]; 256] {
    let half_width = 3.0_f64.sqrt() * deviation;
    std::array::from_fn(|level| encode((mean + half_width * (level as f64 - 127.5) / 128.0) as f32))
}

/// The values of one row from column `first` on: each mixed word makes those of eight columns.
fn fill<const N: usize>(out: &mut [[u8; N]], row_key: u64, first: u64, table: &[[u8; N]; 256]) {
    let word =
        |index: u64| mix(row_key.wrapping_add(index)).to_le_bytes().map(|level| table[usize::from(level)]);
    let skipped = (first % PER_WORD) as usize;
    let head = (PER_WORD as usize - skipped).min(out.len());
    let (start, out) = out.split_at_mut(head);
    start.copy_from_slice(&word(first / PER_WORD)[skipped..skipped + head]);
    let (words, end) = out.as_chunks_mut();
    let mut index = first / PER_WORD + 1;
    for out in words {
        *out = word(index);
        index += 1;
    }
    end.copy_from_slice(&word(index)[..end.len()]);
}

/// One step of SplitMix64 (Steele, Lea and Flood 2014).
fn mix(state: u64) -> u64 {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}
