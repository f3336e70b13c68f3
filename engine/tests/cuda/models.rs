//! Models that the engine runs on CUDA's double: the golden ones in another type, and random Llamas. Knows no backend.

use std::collections::BTreeMap;
use std::path::Path;

use rand::{Rng as _, SeedableRng as _};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

pub(crate) const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/golden");

/// Writes a golden model's folder again: its tensors rounded to one type, and stored in another that has all values of it.
pub(crate) fn rewrite(model: &str, folder: &Path, rounded: Dtype, stored: Dtype) {
    let mut tensors = BTreeMap::new();
    for entry in fs_err::read_dir(format!("{GOLDEN}/{model}")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "safetensors")
            || path.ends_with("logits.safetensors")
        {
            continue;
        }
        let bytes = fs_err::read(&path).unwrap();
        for (name, tensor) in safetensors::SafeTensors::deserialize(&bytes).unwrap().tensors() {
            let shape = tensor.shape().to_vec();
            let values = cast(&widened(tensor.dtype(), tensor.data()), rounded);
            tensors.insert(name, (stored, shape, cast(&widened(rounded, &values), stored)));
        }
    }
    store(folder, &tensors);
    fs_err::copy(format!("{GOLDEN}/{model}/config.json"), folder.join("config.json")).unwrap();
}

/// Stores one tensor of a folder in another type.
pub(crate) fn retype(folder: &Path, name: &str, dtype: Dtype) {
    let bytes = fs_err::read(folder.join("model.safetensors")).unwrap();
    let stored = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensors = stored.tensors().into_iter().map(|(own, tensor)| {
        let new = if own == name { dtype } else { tensor.dtype() };
        let values = cast(&widened(tensor.dtype(), tensor.data()), new);
        (own, (new, tensor.shape().to_vec(), values))
    });
    store(folder, &tensors.collect());
}

/// Tensors by name: type, shape, bytes.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn store(folder: &Path, tensors: &Tensors) {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

/// A tensor's values.
fn widened(dtype: Dtype, data: &[u8]) -> Vec<f32> {
    let halves = || data.as_chunks::<2>().0.iter();
    match dtype {
        Dtype::F32 => data.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
        Dtype::F16 => halves().map(|&bytes| half::f16::from_le_bytes(bytes).to_f32()).collect(),
        Dtype::BF16 => halves().map(|&bytes| half::bf16::from_le_bytes(bytes).to_f32()).collect(),
        other => panic!("no golden model has tensors of {other:?}"),
    }
}

/// Values as bytes of a type.
fn cast(values: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|&value| half::bf16::from_f32(value).to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect(),
        other => panic!("no test asks for {other:?}"),
    }
}

/// A Llama of random weights, the same for the same seed, heads and widths.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Llama {
    pub(crate) query_heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) hidden: usize,
    /// What matrices and norms are rounded to.
    pub(crate) dtype: Dtype,
    pub(crate) norms: Dtype,
}

impl Llama {
    /// Two query heads on one KV head.
    pub(crate) fn of_two_heads(head_dim: usize, dtype: Dtype) -> Self {
        Self { query_heads: 2, kv_heads: 1, head_dim, hidden: 2 * head_dim, dtype, norms: dtype }
    }

    /// Writes its folder, in its own types, or all of it in f32, which has the same values.
    pub(crate) fn write(&self, folder: &Path, wide: bool) {
        let Self { query_heads, kv_heads, head_dim, hidden, dtype, norms } = *self;
        let (ffn, vocab) = (96, 80);
        let config = format!(
            r#"{{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": {hidden}, "intermediate_size": {ffn},
                "num_hidden_layers": 2, "num_attention_heads": {query_heads}, "num_key_value_heads": {kv_heads}, "head_dim": {head_dim},
                "vocab_size": {vocab}, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false,
                "max_position_embeddings": 256}}"#
        );
        fs_err::write(folder.join("config.json"), config).unwrap();
        let mut shapes = vec![
            ("model.embed_tokens.weight".to_owned(), vec![vocab, hidden]),
            ("lm_head.weight".to_owned(), vec![vocab, hidden]),
            ("model.norm.weight".to_owned(), vec![hidden]),
        ];
        for layer in 0..2 {
            let mut push = |name: &str, shape: Vec<usize>| {
                shapes.push((format!("model.layers.{layer}.{name}.weight"), shape))
            };
            push("input_layernorm", vec![hidden]);
            push("post_attention_layernorm", vec![hidden]);
            push("self_attn.q_proj", vec![query_heads * head_dim, hidden]);
            push("self_attn.k_proj", vec![kv_heads * head_dim, hidden]);
            push("self_attn.v_proj", vec![kv_heads * head_dim, hidden]);
            push("self_attn.o_proj", vec![hidden, query_heads * head_dim]);
            push("mlp.gate_proj", vec![ffn, hidden]);
            push("mlp.up_proj", vec![ffn, hidden]);
            push("mlp.down_proj", vec![hidden, ffn]);
        }
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(5);
        let mut value = |shape: &[usize]| {
            let uniform = (random.next_u32() >> 8) as f32 / (1 << 24) as f32 - 0.5;
            if shape.len() == 1 { 1.0 + 0.2 * uniform } else { 4.0 * uniform / (shape[1] as f32).sqrt() }
        };
        let tensor = |(name, shape): (String, Vec<usize>)| {
            let values: Vec<f32> = (0..shape.iter().product()).map(|_| value(&shape)).collect();
            let own = if shape.len() == 1 { norms } else { dtype };
            let bytes = cast(&values, own);
            match wide {
                true => (name, (Dtype::F32, shape, cast(&widened(own, &bytes), Dtype::F32))),
                false => (name, (own, shape, bytes)),
            }
        };
        store(folder, &shapes.into_iter().map(tensor).collect());
    }
}
