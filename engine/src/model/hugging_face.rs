//! A folder of Hugging Face safetensors: their names and fused layouts. A rank reads its own slice of each tensor.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;

use super::safetensors_file::{SafetensorsFile, Stored};
use super::slice::{LayerSlot, Slice, Slicer, Slot};
use super::{ModelConfig, ModelError, PIECE, Part, StagePlan, Take, TensorSource};
use crate::shape::Family;
use crate::shard::{Dtype, Dtypes, Parallel, Tensor};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A rank's part of a model in a folder.
#[derive(Debug)]
pub struct HuggingFace {
    files: Files,
    slicer: Slicer,
    /// Layer norms feed attention and MLP separately.
    has_two_parallel_norms: bool,
}

#[derive(Debug, Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The files of a folder.
#[derive(Debug)]
struct Files {
    all: Vec<SafetensorsFile>,
    /// Its path, and tensor -> file; absent where all tensors are in one file.
    index: Option<(Utf8PathBuf, BTreeMap<String, usize>)>,
}

/// Rows of a tensor in the folder.
struct Piece {
    tensor: String,
    /// Of the whole tensor.
    shape: Vec<u64>,
    rows: Range<u64>,
}

impl HuggingFace {
    /// Maps the files of a folder for the rank of `plan`.
    pub fn open(folder: &Utf8Path, plan: &StagePlan) -> Result<Self, ModelError> {
        Ok(Self {
            files: Files::open(folder)?,
            slicer: Slicer::new(plan)?,
            has_two_parallel_norms: plan.config.shape.parallel_attention && plan.config.has_norm_for_mlp(),
        })
    }

    /// Types of a whole model's tensors in a folder, by the names that ranks have for them.
    pub fn dtypes(folder: &Utf8Path, config: &ModelConfig, parallel: Parallel) -> Result<Dtypes, ModelError> {
        let plan = StagePlan {
            config: config.clone(),
            parallel,
            stage: 0,
            tp_rank: 0,
            max_positions: 0,
            batch_tokens: 0,
        };
        let (source, division) = (Self::open(folder, &plan)?, plan.division()?);
        let mut dtypes = Dtypes::uniform(source.dtype()?);
        for tensor in (0..parallel.pp).flat_map(|stage| division.tensors(&config.shape, stage, dtypes.main)) {
            let dtype = source.dtype_of(&tensor)?;
            if dtype != dtypes.main {
                dtypes.others.insert(tensor.name, dtype);
            }
        }
        Ok(dtypes)
    }

    /// Type of the first layer's projections, which most of a model's tensors share.
    pub fn dtype(&self) -> Result<Dtype, ModelError> {
        Ok(self.cut_slot(Slot::Layer(0, LayerSlot::Qkv))?.dtype)
    }

    /// Type of a tensor.
    pub(super) fn dtype_of(&self, wanted: &Tensor) -> Result<Dtype, ModelError> {
        Ok(self.cut(wanted)?.dtype)
    }

    /// Types of what a tensor is cut from, where they are not the tensor's own.
    pub fn widened(&self, wanted: &Tensor) -> Result<Option<Vec<Dtype>>, ModelError> {
        let cut = self.cut(wanted)?;
        let types: Vec<Dtype> = cut.rows.iter().map(|rows| rows.dtype).collect();
        Ok(types.iter().any(|dtype| *dtype != cut.dtype).then_some(types))
    }

    /// Names and values of the folder's tensors that a tensor of the rank is cut from, whole.
    pub fn inputs(&self, wanted: &Tensor) -> Result<Vec<(String, &[u8])>, ModelError> {
        let (_, mut pieces) = self.pieces(wanted)?;
        pieces.dedup_by(|a, b| a.tensor == b.tensor);
        let whole =
            |piece: Piece| Ok((piece.tensor.clone(), self.files.tensor(&piece.tensor, &piece.shape)?.bytes));
        pieces.into_iter().map(whole).collect()
    }

    /// Name of the folder's tensor that is a tensor of the rank as it stands, if there is one.
    pub fn same(&self, wanted: &Tensor) -> Result<Option<String>, ModelError> {
        let (slice, mut pieces) = self.pieces(wanted)?;
        let (Some(piece), true) = (pieces.pop(), pieces.is_empty()) else { return Ok(None) };
        let shape: Vec<u64> = wanted.shape.iter().map(|&length| u64::from(length)).collect();
        Ok((slice.padding == 0 && piece.shape == shape).then_some(piece.tensor))
    }

    fn pieces(&self, wanted: &Tensor) -> Result<(Slice, Vec<Piece>), ModelError> {
        Ok(self.pieces_of(Slot::parse(&wanted.name)?))
    }

    fn pieces_of(&self, slot: Slot) -> (Slice, Vec<Piece>) {
        let slice = self.slicer.slice(slot);
        let pieces = match (slot, self.slicer.shape.family) {
            (Slot::Layer(layer, LayerSlot::Qkv), Family::Falcon) => self.fused(layer, &slice),
            (Slot::Layer(layer, LayerSlot::Qkv), Family::Llama) => self.separate(layer, &slice),
            _ => vec![self.plain(slot, &slice)],
        };
        (slice, pieces)
    }

    /// Falcon's `query_key_value`: each KV head's queries, then its key, then its value. Multi-query has one such group, the older
    /// layout one query in each.
    fn fused(&self, layer: u32, slice: &Slice) -> Vec<Piece> {
        let shape = &self.slicer.shape;
        let dim = self.slicer.head_dim();
        let [heads, groups] = [shape.query_heads, shape.kv_heads].map(u64::from);
        let per_group = heads / groups;
        // Where a head of the rank's own order stands.
        let place = |head: u64| match head {
            query if query < heads => query / per_group * (per_group + 2) + query % per_group,
            key if key < heads + groups => (key - heads) * (per_group + 2) + per_group,
            value => (value - heads - groups) * (per_group + 2) + per_group + 1,
        };
        let piece = |head: u64| Piece {
            tensor: format!("transformer.h.{layer}.self_attention.query_key_value.weight"),
            shape: vec![(heads + 2 * groups) * dim, shape.hidden_size.into()],
            rows: place(head) * dim..(place(head) + 1) * dim,
        };
        slice.rows.iter().flat_map(|rows| rows.start / dim..rows.end / dim).map(piece).collect()
    }

    /// Llama's three projections.
    fn separate(&self, layer: u32, slice: &Slice) -> Vec<Piece> {
        let shape = &self.slicer.shape;
        let mut before = 0;
        let piece = |(rows, (name, heads)): (&Range<u64>, (&str, u32))| {
            let all = u64::from(heads) * self.slicer.head_dim();
            let rows = rows.start - before..rows.end - before;
            before += all;
            Piece {
                tensor: format!("model.layers.{layer}.self_attn.{name}_proj.weight"),
                shape: vec![all, shape.hidden_size.into()],
                rows,
            }
        };
        let projections = [("q", shape.query_heads), ("k", shape.kv_heads), ("v", shape.kv_heads)];
        slice.rows.iter().zip(projections).map(piece).collect()
    }

    fn plain(&self, slot: Slot, slice: &Slice) -> Piece {
        let shape = &self.slicer.shape;
        let [hidden, ffn] = [shape.hidden_size, shape.ffn_size].map(u64::from);
        let attention = u64::from(shape.query_heads) * self.slicer.head_dim();
        let whole = match slot {
            Slot::Embedding | Slot::Head => vec![shape.vocab_size.into(), hidden],
            Slot::FinalNorm(_) | Slot::Layer(_, LayerSlot::Norm(..)) => vec![hidden],
            Slot::Layer(_, LayerSlot::Gate | LayerSlot::Up) => vec![ffn, hidden],
            Slot::Layer(_, LayerSlot::Down) => vec![hidden, ffn],
            Slot::Layer(_, LayerSlot::Dense | LayerSlot::Qkv) => vec![hidden, attention],
        };
        Piece { tensor: self.name(slot), shape: whole, rows: slice.rows[0].clone() }
    }

    /// A tensor's name in the folder; fused and separate projections have their own functions.
    fn name(&self, slot: Slot) -> String {
        // A tied head may be absent.
        let slot =
            if slot == Slot::Head && self.slicer.shape.tied_embedding { Slot::Embedding } else { slot };
        let family = self.slicer.shape.family;
        match (slot, family) {
            (Slot::Head, _) => "lm_head.weight".to_owned(),
            (Slot::Embedding, Family::Falcon) => "transformer.word_embeddings.weight".to_owned(),
            (Slot::Embedding, Family::Llama) => "model.embed_tokens.weight".to_owned(),
            (Slot::FinalNorm(part), Family::Falcon) => format!("transformer.ln_f.{}", part.name()),
            (Slot::FinalNorm(part), Family::Llama) => format!("model.norm.{}", part.name()),
            (Slot::Layer(layer, slot), Family::Falcon) => {
                format!("transformer.h.{layer}.{}", self.falcon_name(slot))
            }
            (Slot::Layer(layer, slot), Family::Llama) => format!("model.layers.{layer}.{}", llama_name(slot)),
        }
    }

    fn falcon_name(&self, slot: LayerSlot) -> String {
        match slot {
            LayerSlot::Norm(norm, part) => {
                let name = match (self.has_two_parallel_norms, norm) {
                    (true, 0) => "ln_attn",
                    (true, _) => "ln_mlp",
                    (false, 0) => "input_layernorm",
                    (false, _) => "post_attention_layernorm",
                };
                format!("{name}.{}", part.name())
            }
            LayerSlot::Qkv => "self_attention.query_key_value.weight".to_owned(),
            LayerSlot::Dense => "self_attention.dense.weight".to_owned(),
            LayerSlot::Gate | LayerSlot::Up => "mlp.dense_h_to_4h.weight".to_owned(),
            LayerSlot::Down => "mlp.dense_4h_to_h.weight".to_owned(),
        }
    }
}

fn llama_name(slot: LayerSlot) -> String {
    match slot {
        LayerSlot::Norm(0, part) => format!("input_layernorm.{}", part.name()),
        LayerSlot::Norm(_, part) => format!("post_attention_layernorm.{}", part.name()),
        LayerSlot::Qkv => "self_attn.qkv_proj.weight".to_owned(),
        LayerSlot::Dense => "self_attn.o_proj.weight".to_owned(),
        LayerSlot::Gate => "mlp.gate_proj.weight".to_owned(),
        LayerSlot::Up => "mlp.up_proj.weight".to_owned(),
        LayerSlot::Down => "mlp.down_proj.weight".to_owned(),
    }
}

/// A rank's part of a tensor, as it lies in the folder.
struct Cut<'a> {
    /// Of all rows' values, or f32, which holds them all, where these differ.
    dtype: Dtype,
    /// Some from each piece.
    rows: Vec<Rows<'a>>,
    /// Values of a whole row.
    row_values: usize,
    /// The rank's values of each row.
    columns: Range<usize>,
    /// Bytes of zeros after the last row.
    padding: usize,
}

/// Whole rows as they stand.
struct Rows<'a> {
    dtype: Dtype,
    bytes: &'a [u8],
}

impl HuggingFace {
    fn cut(&self, wanted: &Tensor) -> Result<Cut<'_>, ModelError> {
        self.cut_slot(Slot::parse(&wanted.name)?)
    }

    fn cut_slot(&self, slot: Slot) -> Result<Cut<'_>, ModelError> {
        let (slice, pieces) = self.pieces_of(slot);
        let row_values = pieces[0].shape[pieces[0].shape.len() - 1] as usize;
        let mut rows = Vec::with_capacity(pieces.len());
        for piece in &pieces {
            let Stored { dtype, bytes, .. } = self.files.tensor(&piece.tensor, &piece.shape)?;
            let row_bytes = row_values * dtype.bytes() as usize;
            let bytes = &bytes[piece.rows.start as usize * row_bytes..piece.rows.end as usize * row_bytes];
            rows.push(Rows { dtype, bytes });
        }
        let first = rows[0].dtype;
        let dtype = if rows.iter().all(|rows| rows.dtype == first) { first } else { Dtype::Float32 };
        let columns = slice.columns.start as usize..slice.columns.end as usize;
        let padding = slice.padding as usize * columns.len() * dtype.bytes() as usize;
        Ok(Cut { dtype, rows, row_values, columns, padding })
    }
}

impl<'a> Cut<'a> {
    /// Whether these rows are part of the tensor as they stand.
    fn is_as_it_stands(&self, rows: &Rows<'_>) -> bool {
        self.columns.len() == self.row_values && rows.dtype == self.dtype
    }

    fn bytes(&self) -> usize {
        let rows = |rows: &Rows<'_>| rows.bytes.len() / (self.row_values * rows.dtype.bytes() as usize);
        let rows: usize = self.rows.iter().map(rows).sum();
        rows * self.columns.len() * self.dtype.bytes() as usize + self.padding
    }

    /// Rows that are part of it as they stand are handed on so, others and the padding in pieces.
    fn stream(&self, take: &mut Take<'a, '_>) -> Result<(), ModelError> {
        let bytes = self.columns.len() * self.dtype.bytes() as usize;
        let at_once = (PIECE / bytes.max(1)).max(1);
        for rows in &self.rows {
            if self.is_as_it_stands(rows) {
                take(Cow::Borrowed(rows.bytes))?;
                continue;
            }
            let row_bytes = self.row_values * rows.dtype.bytes() as usize;
            for piece in rows.bytes.chunks(at_once * row_bytes) {
                take(Cow::Owned(self.columns_of(rows.dtype, piece)))?;
            }
        }
        for start in (0..self.padding).step_by(PIECE) {
            take(Cow::Owned(vec![0; PIECE.min(self.padding - start)]))?;
        }
        Ok(())
    }

    /// The rank's values of whole rows of `dtype`, in the type of the whole.
    fn columns_of(&self, dtype: Dtype, rows: &[u8]) -> Vec<u8> {
        let width = dtype.bytes() as usize;
        let columns = self.columns.start * width..self.columns.end * width;
        let mut bytes = Vec::with_capacity(rows.len() / (self.row_values * width) * columns.len());
        for row in rows.chunks_exact(self.row_values * width) {
            bytes.extend_from_slice(&row[columns.clone()]);
        }
        if dtype == self.dtype {
            return bytes;
        }
        let part = Part { dtype, shape: Vec::new(), bytes: Cow::Owned(bytes) };
        part.widen().into_iter().flat_map(f32::to_le_bytes).collect()
    }
}

impl TensorSource for HuggingFace {
    fn tensor(&self, wanted: &Tensor) -> Result<Part<'_>, ModelError> {
        let cut = self.cut(wanted)?;
        let bytes = match &cut.rows[..] {
            // Rows that stand together in the file need no copy.
            [rows] if cut.is_as_it_stands(rows) && cut.padding == 0 => Cow::Borrowed(rows.bytes),
            _ => {
                let mut bytes = Vec::with_capacity(cut.bytes());
                cut.stream(&mut |more| {
                    bytes.extend_from_slice(&more);
                    Ok(())
                })?;
                Cow::Owned(bytes)
            }
        };
        Ok(Part { dtype: cut.dtype, shape: wanted.shape.clone(), bytes })
    }

    fn stream<'a>(&'a self, wanted: &Tensor, take: &mut Take<'a, '_>) -> Result<Dtype, ModelError> {
        let cut = self.cut(wanted)?;
        cut.stream(take)?;
        Ok(cut.dtype)
    }
}

impl Files {
    /// The folder's one file, or all that its index names.
    fn open(folder: &Utf8Path) -> Result<Self, ModelError> {
        let single = folder.join(SINGLE);
        if single.exists() {
            return Ok(Self { all: vec![SafetensorsFile::open(&single)?], index: None });
        }
        let path = folder.join(INDEX);
        if !path.exists() {
            return Err(ModelError::NoWeights { folder: folder.to_owned() });
        }
        let broken = |found: String| ModelError::Index { file: path.clone(), found };
        let index: Index =
            serde_json::from_slice(&fs_err::read(&path)?).map_err(|error| broken(error.to_string()))?;
        let mut all: Vec<SafetensorsFile> = Vec::new();
        let mut places = BTreeMap::new();
        for (tensor, name) in index.weight_map {
            let file = folder.join(name);
            let known = all.iter().position(|known| known.path() == file);
            if known.is_none() {
                if !file.exists() {
                    return Err(ModelError::MissingFile { index: path, file, tensor });
                }
                all.push(SafetensorsFile::open(&file)?);
            }
            places.insert(tensor, known.unwrap_or(all.len() - 1));
        }
        match all.is_empty() {
            true => Err(broken("an empty one".to_owned())),
            false => Ok(Self { all, index: Some((path, places)) }),
        }
    }

    fn tensor(&self, name: &str, shape: &[u64]) -> Result<Stored<'_>, ModelError> {
        let Some((path, places)) = &self.index else { return self.all[0].tensor_of_shape(name, shape) };
        let missing = || ModelError::MissingTensor { file: path.clone(), tensor: name.to_owned() };
        let place = *places.get(name).ok_or_else(missing)?;
        self.all[place].tensor_of_shape(name, shape)
    }
}
