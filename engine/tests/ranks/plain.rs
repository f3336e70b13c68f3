//! The models in plain loops, from a Hugging Face folder: no rank, no cache, no shared code. It reads fused weights by
//! its own arithmetic, so that a mistake would have to be made twice.

use std::collections::BTreeMap;

use camino::Utf8Path;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// A folder's tensors as f32, and its configuration.
pub(crate) struct Plain {
    pub(crate) config: Value,
    pub(crate) tensors: BTreeMap<String, Vec<f32>>,
    pub(crate) has_tanh_gelu: bool,
}

/// A layer's projections, a head each: `[head][dim][hidden]`.
struct Heads {
    q: Vec<Vec<f32>>,
    k: Vec<Vec<f32>>,
    v: Vec<Vec<f32>>,
}

impl Plain {
    pub(crate) fn read(folder: &Utf8Path) -> Self {
        let config = serde_json::from_slice(&fs_err::read(folder.join("config.json")).unwrap()).unwrap();
        let mut tensors = BTreeMap::new();
        for entry in fs_err::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if name.starts_with("model") && name.ends_with(".safetensors") {
                tensors.extend(read_tensors(&fs_err::read(&path).unwrap()));
            }
        }
        Self { config, tensors, has_tanh_gelu: false }
    }

    fn count(&self, name: &str) -> usize {
        self.config[name].as_u64().unwrap() as usize
    }

    fn is_set(&self, name: &str) -> bool {
        self.config[name].as_bool().unwrap_or(false)
    }

    fn get(&self, name: &str) -> &[f32] {
        self.tensors.get(name).unwrap_or_else(|| panic!("no {name}"))
    }

    fn is_falcon(&self) -> bool {
        self.config["model_type"] == "falcon"
    }

    fn head_dim(&self) -> usize {
        let said = self.config["head_dim"].as_u64().map(|dim| dim as usize);
        said.unwrap_or_else(|| self.count("hidden_size") / self.count("num_attention_heads"))
    }

    fn theta(&self) -> f64 {
        let newer = self.config["rope_parameters"]["rope_theta"].as_f64();
        newer.or(self.config["rope_theta"].as_f64()).unwrap_or(10_000.0)
    }

    /// Logits after each token.
    pub(crate) fn logits(&self, tokens: &[u32]) -> Vec<Vec<f32>> {
        let (embedding, norm, own_head) = match self.is_falcon() {
            true => ("transformer.word_embeddings.weight", "transformer.ln_f", "lm_head.weight"),
            false => ("model.embed_tokens.weight", "model.norm", "lm_head.weight"),
        };
        let hidden = self.count("hidden_size");
        let row = |&token: &u32| self.get(embedding)[token as usize * hidden..][..hidden].to_vec();
        let mut x: Vec<Vec<f32>> = tokens.iter().map(row).collect();
        for layer in 0..self.count("num_hidden_layers") {
            x = self.layer(layer, x);
        }
        let is_tied = self.config["tie_word_embeddings"].as_bool().unwrap_or(self.is_falcon());
        let head = if is_tied { embedding } else { own_head };
        x.iter().map(|x| product(self.get(head), &self.norm(norm, x))).collect()
    }

    fn layer(&self, layer: usize, x: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
        let prefix = if self.is_falcon() { "transformer.h" } else { "model.layers" };
        let name = |part: &str| format!("{prefix}.{layer}.{part}");
        let norm = |part: &str, x: &[Vec<f32>]| -> Vec<Vec<f32>> {
            x.iter().map(|x| self.norm(&name(part), x)).collect()
        };
        let is_new = self.is_set("new_decoder_architecture");
        let is_parallel = self.is_falcon() && (is_new || self.is_set("parallel_attn"));
        let two = self.tensors.contains_key(&name("ln_attn.weight"));
        let before = norm(if two { "ln_attn" } else { "input_layernorm" }, &x);
        let attended = self.attention(&name, self.heads(&name), &before);
        if is_parallel {
            let for_mlp = if two { norm("ln_mlp", &x) } else { before };
            return add(add(x, &attended), &self.mlp(&name, &for_mlp));
        }
        let x = add(x, &attended);
        let for_mlp = norm("post_attention_layernorm", &x);
        let mlp = self.mlp(&name, &for_mlp);
        add(x, &mlp)
    }

    fn norm(&self, name: &str, x: &[f32]) -> Vec<f32> {
        let weight = self.get(&format!("{name}.weight"));
        let count = x.len() as f64;
        let (mean, epsilon) = match self.is_falcon() {
            true => (x.iter().map(|&x| f64::from(x)).sum::<f64>() / count, "layer_norm_epsilon"),
            false => (0.0, "rms_norm_eps"),
        };
        let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
        let scale = 1.0 / (variance + self.config[epsilon].as_f64().unwrap()).sqrt();
        let bias = |i: usize| if self.is_falcon() { self.get(&format!("{name}.bias"))[i] } else { 0.0 };
        let value = |(i, &x): (usize, &f32)| ((f64::from(x) - mean) * scale) as f32 * weight[i] + bias(i);
        x.iter().enumerate().map(value).collect()
    }

    fn heads(&self, name: &impl Fn(&str) -> String) -> Heads {
        let rows = self.head_dim() * self.count("hidden_size");
        let cut = |part: &str| -> Vec<Vec<f32>> {
            self.get(&name(part)).chunks_exact(rows).map(<[f32]>::to_vec).collect()
        };
        if !self.is_falcon() {
            let [q, k, v] = ["q", "k", "v"].map(|part| cut(&format!("self_attn.{part}_proj.weight")));
            return Heads { q, k, v };
        }
        let all = cut("self_attention.query_key_value.weight");
        let queries = self.count("num_attention_heads");
        if self.is_set("new_decoder_architecture") {
            let mut heads = Heads { q: Vec::new(), k: Vec::new(), v: Vec::new() };
            for group in all.chunks_exact(queries / self.count("num_kv_heads") + 2) {
                let (kv, q) = group.split_last_chunk::<2>().map(|(q, kv)| (kv, q)).unwrap();
                heads.q.extend_from_slice(q);
                heads.k.push(kv[0].clone());
                heads.v.push(kv[1].clone());
            }
            return heads;
        }
        if self.config["multi_query"].as_bool().unwrap_or(true) {
            let [q, k, v] =
                [&all[..queries], &all[queries..=queries], &all[queries + 1..]].map(<[_]>::to_vec);
            return Heads { q, k, v };
        }
        let [q, k, v] = [0, 1, 2].map(|part| all.iter().skip(part).step_by(3).cloned().collect());
        Heads { q, k, v }
    }

    fn attention(&self, name: &impl Fn(&str) -> String, heads: Heads, x: &[Vec<f32>]) -> Vec<Vec<f32>> {
        let dense = self.get(&name(if self.is_falcon() {
            "self_attention.dense.weight"
        } else {
            "self_attn.o_proj.weight"
        }));
        let turned = |weight: &Vec<f32>| -> Vec<Vec<f32>> {
            x.iter().enumerate().map(|(position, x)| self.turn(product(weight, x), position)).collect()
        };
        let keys: Vec<Vec<Vec<f32>>> = heads.k.iter().map(turned).collect();
        let values: Vec<Vec<Vec<f32>>> =
            heads.v.iter().map(|weight| x.iter().map(|x| product(weight, x)).collect()).collect();
        let per_kv = heads.q.len() / heads.k.len();
        let mut joined = vec![Vec::new(); x.len()];
        for (head, weight) in heads.q.iter().enumerate() {
            for (position, query) in turned(weight).iter().enumerate() {
                let (keys, values) = (&keys[head / per_kv][..=position], &values[head / per_kv]);
                joined[position].extend(weighted(&softmax(query, keys), values));
            }
        }
        joined.iter().map(|row| product(dense, row)).collect()
    }

    /// Rotates value i with value i + dim / 2.
    fn turn(&self, mut head: Vec<f32>, position: usize) -> Vec<f32> {
        let half = head.len() / 2;
        for i in 0..half {
            let angle = position as f64 * self.theta().powf(-(i as f64) / half as f64);
            let (a, b) = (f64::from(head[i]), f64::from(head[i + half]));
            head[i] = (a * angle.cos() - b * angle.sin()) as f32;
            head[i + half] = (b * angle.cos() + a * angle.sin()) as f32;
        }
        head
    }

    fn mlp(&self, name: &impl Fn(&str) -> String, x: &[Vec<f32>]) -> Vec<Vec<f32>> {
        if self.is_falcon() {
            let [up, down] =
                ["h_to_4h", "4h_to_h"].map(|part| self.get(&name(&format!("mlp.dense_{part}.weight"))));
            let gelu = |x: f32| if self.has_tanh_gelu { tanh_gelu(x) } else { erf_gelu(x) };
            return x
                .iter()
                .map(|x| product(down, &product(up, x).into_iter().map(gelu).collect::<Vec<_>>()))
                .collect();
        }
        let [gate, up, down] =
            ["gate", "up", "down"].map(|part| self.get(&name(&format!("mlp.{part}_proj.weight"))));
        let one = |x: &Vec<f32>| {
            let silu = |x: f32| x / (1.0 + (-x).exp());
            let both = product(gate, x).into_iter().zip(product(up, x));
            product(down, &both.map(|(gate, up)| silu(gate) * up).collect::<Vec<_>>())
        };
        x.iter().map(one).collect()
    }
}

fn read_tensors(bytes: &[u8]) -> Vec<(String, Vec<f32>)> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let value = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let bytes = view.data();
        let values = match view.dtype() {
            Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
            Dtype::F16 => {
                bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
            }
            Dtype::BF16 => bytes
                .chunks_exact(2)
                .map(|b| f32::from_bits(u32::from_le_bytes([0, 0, b[0], b[1]])))
                .collect(),
            other => panic!("unexpected {other:?}"),
        };
        (name, values)
    };
    file.tensors().into_iter().map(value).collect()
}

fn product(weight: &[f32], x: &[f32]) -> Vec<f32> {
    let dot = |row: &[f32]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>() as f32;
    weight.chunks_exact(x.len()).map(dot).collect()
}

fn softmax(query: &[f32], keys: &[Vec<f32>]) -> Vec<f32> {
    let scale = (query.len() as f32).sqrt();
    let scores: Vec<f32> = keys.iter().map(|key| product(key, query)[0] / scale).collect();
    let most = scores.iter().copied().fold(f32::MIN, f32::max);
    let weights: Vec<f32> = scores.iter().map(|score| (score - most).exp()).collect();
    let sum: f32 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

fn weighted(shares: &[f32], values: &[Vec<f32>]) -> Vec<f32> {
    let column = |i: usize| shares.iter().zip(values).map(|(share, value)| share * value[i]).sum();
    (0..values[0].len()).map(column).collect()
}

fn add(x: Vec<Vec<f32>>, y: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let sum = |(x, y): (Vec<f32>, &Vec<f32>)| x.iter().zip(y).map(|(x, y)| x + y).collect();
    x.into_iter().zip(y).map(sum).collect()
}

fn erf_gelu(x: f32) -> f32 {
    (0.5 * f64::from(x) * (1.0 + libm::erf(f64::from(x) / 2.0_f64.sqrt()))) as f32
}

fn tanh_gelu(x: f32) -> f32 {
    let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
    0.5 * x * (1.0 + inner.tanh())
}
