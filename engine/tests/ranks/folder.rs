//! Hugging Face folders of random weights.

use std::collections::BTreeMap;

use camino::Utf8Path;
use chariot_engine::model::ModelConfig;
use chariot_engine::shape::{Family, ModelShape};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// Name -> shape and values.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Writes `model.safetensors` with every tensor that the configuration asks for.
pub(crate) fn write_random(folder: &Utf8Path, config: &ModelConfig) {
    write(folder, &random(config));
}

/// Like [`write_random`], with vectors in f32 and matrices in bf16, as many models are published.
pub(crate) fn write_mixed(folder: &Utf8Path, config: &ModelConfig) {
    write_as(folder, &random(config), |_, shape| if shape.len() == 1 { Dtype::F32 } else { Dtype::BF16 });
}

/// Writes `model.safetensors` with each tensor in the type that `dtype` says of its name, and to `whole` the same values, all in f32.
pub(crate) fn write_of_types(
    folder: &Utf8Path,
    whole: &Utf8Path,
    config: &ModelConfig,
    dtype: impl Fn(&str) -> Dtype,
) {
    let mut tensors = random(config);
    for (name, (_, values)) in &mut tensors {
        let round: fn(f32) -> f32 = match dtype(name) {
            Dtype::BF16 => |value| half::bf16::from_f32(value).to_f32(),
            Dtype::F16 => |value| half::f16::from_f32(value).to_f32(),
            _ => |value| value,
        };
        values.iter_mut().for_each(|value| *value = round(*value));
    }
    write_as(folder, &tensors, |name, _| dtype(name));
    write(whole, &tensors);
}

fn random(config: &ModelConfig) -> Tensors {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let mut uniform = || (rng.next_u32() >> 8) as f32 / (1 << 24) as f32 - 0.5;
    let mut tensors = BTreeMap::new();
    for (name, shape) in names(&config.shape) {
        let count: usize = shape.iter().product();
        let scale = 3.0 / (*shape.last().unwrap() as f32).sqrt();
        let value = |_| if shape.len() == 1 { 1.0 + uniform() } else { scale * uniform() };
        let values: Vec<f32> = (0..count).map(value).collect();
        tensors.insert(name, (shape, values));
    }
    tensors
}

/// Writes `model.safetensors`, in f32.
pub(crate) fn write(folder: &Utf8Path, tensors: &Tensors) {
    write_as(folder, tensors, |_, _| Dtype::F32);
}

/// `dtype`: by name and shape.
fn write_as(folder: &Utf8Path, tensors: &Tensors, dtype: impl Fn(&str, &[usize]) -> Dtype) {
    let encoded = |values: &[f32], dtype| -> Vec<u8> {
        match dtype {
            Dtype::BF16 => values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect(),
            Dtype::F16 => values.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    };
    let bytes: BTreeMap<&String, (&Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| (name, (shape, encoded(values, dtype(name, shape)))))
        .collect();
    let views = bytes.iter().map(|(name, (shape, bytes))| {
        (name, TensorView::new(dtype(name, shape), (*shape).clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, folder.join("model.safetensors").as_std_path()).unwrap();
}

fn names(shape: &ModelShape) -> Vec<(String, Vec<usize>)> {
    let [hidden, ffn, vocab] = [shape.hidden_size, shape.ffn_size, shape.vocab_size].map(|n| n as usize);
    let [q, kv] = [shape.query_heads, shape.kv_heads].map(|heads| (heads * shape.head_dim) as usize);
    let mut all = Vec::new();
    let mut push = |name: String, shape: &[usize]| all.push((name, shape.to_vec()));
    let is_falcon = shape.family == Family::Falcon;
    let (embedding, norm) = match is_falcon {
        true => ("transformer.word_embeddings", "transformer.ln_f"),
        false => ("model.embed_tokens", "model.norm"),
    };
    push(format!("{embedding}.weight"), &[vocab, hidden]);
    let mut norms = vec![norm.to_owned()];
    if !shape.tied_embedding {
        push("lm_head.weight".to_owned(), &[vocab, hidden]);
    }
    for layer in 0..shape.layers {
        let mut matrix = |name: &str, rows, columns| {
            let prefix = if is_falcon { "transformer.h" } else { "model.layers" };
            push(format!("{prefix}.{layer}.{name}.weight"), &[rows, columns]);
        };
        if is_falcon {
            matrix("self_attention.query_key_value", q + 2 * kv, hidden);
            matrix("self_attention.dense", hidden, q);
            matrix("mlp.dense_h_to_4h", ffn, hidden);
            matrix("mlp.dense_4h_to_h", hidden, ffn);
            let names: &[&str] = match (shape.parallel_attention, shape.norms_per_layer) {
                (true, 2) => &["ln_attn", "ln_mlp"],
                (true, _) => &["input_layernorm"],
                (false, _) => &["input_layernorm", "post_attention_layernorm"],
            };
            norms.extend(names.iter().map(|name| format!("transformer.h.{layer}.{name}")));
        } else {
            for (name, rows) in [("q", q), ("k", kv), ("v", kv)] {
                matrix(&format!("self_attn.{name}_proj"), rows, hidden);
            }
            matrix("self_attn.o_proj", hidden, q);
            matrix("mlp.gate_proj", ffn, hidden);
            matrix("mlp.up_proj", ffn, hidden);
            matrix("mlp.down_proj", hidden, ffn);
            norms.extend(
                ["input", "post_attention"].map(|name| format!("model.layers.{layer}.{name}_layernorm")),
            );
        }
    }
    for norm in norms {
        push(format!("{norm}.weight"), &[hidden]);
        if is_falcon {
            push(format!("{norm}.bias"), &[hidden]);
        }
    }
    all
}
