//! The whole engine on CUDA's double, with workers, NCCL and all: tokens and logits of Transformers and of the CPU backend.

use std::collections::BTreeMap;
use std::path::Path;

use rand::{Rng as _, SeedableRng as _};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value;

use crate::double::Double;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/golden");
/// Output tokens of each prompt: the double is slow.
const TOKENS: usize = 5;
/// Prompts of a model.
const ALL: usize = 5;
/// Of a logit in bf16, as a part of the prompt's largest: activations are rounded to 8 bits some ten times a layer; found: 0.025.
const BF16_TOLERANCE: f64 = 0.05;

/// Prompts of a model, and what comes after them.
struct Golden {
    prompts: Vec<(Vec<u64>, Vec<u64>)>,
    tolerance: f64,
}

fn ids(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

fn golden(model: &str) -> Golden {
    let text = fs_err::read_to_string(format!("{GOLDEN}/{model}/golden.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let prompt = |prompt: &Value| (ids(&prompt["tokens"]), ids(&prompt["greedy"]));
    Golden {
        prompts: golden["prompts"].as_array().unwrap().iter().map(prompt).collect(),
        tolerance: golden["tolerance"].as_f64().unwrap(),
    }
}

/// Token ids and logits of each prompt, and how many steps were replayed.
struct Outputs(Vec<Value>, u64);

impl Outputs {
    fn tokens(&self) -> Vec<Vec<u64>> {
        self.0.iter().map(|output| ids(&output["token_ids"])).collect()
    }

    /// Logits that a prompt's first token was drawn from: of equal tokens before it on any backend.
    fn first_logits(&self) -> Vec<Vec<f64>> {
        let row = |output: &Value| {
            output["logits"][0].as_array().unwrap().iter().map(|logit| logit.as_f64().unwrap()).collect()
        };
        self.0.iter().map(row).collect()
    }
}

fn generate(double: &Double, folder: &str, prompts: &[Vec<u64>], more: &[&str]) -> Outputs {
    let tokens = TOKENS.to_string();
    let mut arguments =
        vec!["generate", "--json", "--ignore-eos", "--model", folder, "--max-tokens", &tokens];
    let prompts: Vec<String> = prompts
        .iter()
        .map(|prompt| prompt.iter().map(u64::to_string).collect::<Vec<_>>().join(","))
        .collect();
    for prompt in &prompts {
        arguments.extend(["--prompt-ids", prompt]);
    }
    arguments.extend(more);
    let output = double.run(&arguments);
    assert!(output.status.success(), "{more:?}: {}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    Outputs(report["outputs"].as_array().unwrap().clone(), report["graph_replays"].as_u64().unwrap())
}

/// A model's tokens on CUDA are those of Transformers, of its first `prompts` prompts, which get longer. How many steps were replayed.
fn check(double: &Double, model: &str, prompts: usize, more: &[&str]) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    rewrite(model, folder.path(), Dtype::F32);
    let (prompts, expected): (Vec<_>, Vec<_>) = golden(model).prompts.into_iter().take(prompts).unzip();
    let more = [&["--backend", "cuda"], more].concat();
    let found = generate(double, folder.path().to_str().unwrap(), &prompts, &more);
    for (found, expected) in found.tokens().iter().zip(&expected) {
        assert_eq!(found[..], expected[..TOKENS], "{model} {more:?}");
    }
    found.1
}

/// The largest distance between two rows of logits, and the largest logit.
fn distance(one: &[f64], other: &[f64]) -> (f64, f64) {
    let apart = one.iter().zip(other).map(|(one, other)| (one - other).abs()).fold(0.0, f64::max);
    (apart, one.iter().map(|logit| logit.abs()).fold(0.0, f64::max))
}

/// Logits of CUDA and CPU are no further apart than `allowed` says, of the largest logit.
fn check_logits(model: &str, dtype: Dtype, more: &[&str], allowed: impl Fn(f64) -> f64) {
    let folder = tempfile::tempdir().unwrap();
    rewrite(model, folder.path(), dtype);
    let prompts: Vec<_> = golden(model).prompts.into_iter().map(|(prompt, _)| prompt).collect();
    compare(&format!("{model} {dtype:?}"), folder.path(), &prompts, more, allowed);
}

/// Logits of CUDA and CPU, of the model in a folder.
fn compare(model: &str, folder: &Path, prompts: &[Vec<u64>], more: &[&str], allowed: impl Fn(f64) -> f64) {
    let double = Double::new();
    let run = |backend: &str| {
        let more = [&["--backend", backend, "--logits"], more].concat();
        generate(&double, folder.to_str().unwrap(), prompts, &more).first_logits()
    };
    for (cuda, cpu) in run("cuda").iter().zip(&run("cpu")) {
        assert_eq!(cuda.len(), cpu.len());
        let (apart, largest) = distance(cuda, cpu);
        println!("{model} {more:?}: {apart} apart, the largest logit is {largest}");
        assert!(apart <= allowed(largest), "{model} {more:?}: {apart} apart, the largest logit is {largest}");
    }
}

#[test]
fn every_model_gives_the_tokens_of_transformers() {
    let double = Double::new();
    for model in
        ["falcon-new-one-norm", "falcon-mq", "falcon-old", "falcon-old-sequential", "llama-tied", "mistral"]
    {
        check(&double, model, ALL, &[]);
    }
}

#[test]
fn falcon_gives_them_at_every_split_and_chunk_and_after_preemption() {
    let double = Double::new();
    for (prompts, more) in [
        (ALL, &[][..]),
        (4, &["--tp", "2"]),
        (4, &["--pp", "2"]),
        (3, &["--tp", "2", "--pp", "2", "--chunk", "7"]),
        (3, &["--chunk", "1"]),
        // Room for about half: sequences are preempted and recomputed.
        (4, &["--tp", "2", "--kv-blocks", "4", "--chunk", "16"]),
    ] {
        check(&double, "falcon-new", prompts, more);
    }
}

#[test]
fn llama_gives_them_at_every_split_and_chunk_and_after_preemption() {
    let double = Double::new();
    for (prompts, more) in [
        (4, &["--tp", "2"][..]),
        (4, &["--pp", "2", "--chunk", "5"]),
        (3, &["--tp", "2", "--pp", "2"]),
        (4, &["--pp", "2", "--kv-blocks", "4", "--chunk", "16"]),
    ] {
        check(&double, "llama-gqa", prompts, more);
    }
}

#[test]
fn the_order_of_threads_does_not_matter() {
    for order in ["reverse", "random:3"] {
        let double = Double::new().with("CHARIOT_DOUBLE_ORDER", order);
        check(&double, "llama-gqa", 3, &["--tp", "2"]);
        check(&double, "falcon-mq", 3, &[]);
    }
}

/// Of five tokens a prompt, the first comes with the prompts, the second's step runs, the third's is recorded, and two are replayed: by
/// each rank, and with three sequences padded to four.
#[test]
fn steps_of_decoding_are_replayed_unless_switched_off() {
    let double = Double::new();
    for (more, replays) in [(&[][..], 2), (&["--tp", "2"], 4), (&["--no-graphs"], 0)] {
        assert_eq!(check(&double, "llama-gqa", 3, more), replays, "{more:?}");
    }
}

#[test]
fn logits_in_f32_are_those_of_the_cpu() {
    for (model, more) in [("falcon-new", &["--tp", "2"][..]), ("llama-gqa", &["--pp", "2"]), ("mistral", &[])]
    {
        let tolerance = golden(model).tolerance;
        check_logits(model, Dtype::F32, more, |_| tolerance);
    }
}

#[test]
fn logits_in_bf16_are_near_those_of_the_cpu() {
    for (model, more) in
        [("falcon-new", &["--tp", "2", "--pp", "2"][..]), ("llama-gqa", &[]), ("falcon-mq", &[])]
    {
        check_logits(model, Dtype::BF16, more, |largest| BF16_TOLERANCE * largest);
    }
}

/// Writes a model's folder again, its tensors in another type.
fn rewrite(model: &str, folder: &Path, dtype: Dtype) {
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
            tensors.insert(name, (tensor.shape().to_vec(), cast(&tensor, dtype)));
        }
    }
    let views = tensors
        .iter()
        .map(|(name, (shape, bytes))| (name, TensorView::new(dtype, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
    fs_err::copy(format!("{GOLDEN}/{model}/config.json"), folder.join("config.json")).unwrap();
}

/// A tensor's bytes in another type.
fn cast(tensor: &TensorView<'_>, dtype: Dtype) -> Vec<u8> {
    let data = tensor.data();
    let halves = || data.as_chunks::<2>().0.iter();
    let wide: Vec<f32> = match tensor.dtype() {
        Dtype::F32 => data.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
        Dtype::F16 => halves().map(|&bytes| half::f16::from_le_bytes(bytes).to_f32()).collect(),
        Dtype::BF16 => halves().map(|&bytes| half::bf16::from_le_bytes(bytes).to_f32()).collect(),
        other => panic!("no golden model has tensors of {other:?}"),
    };
    match dtype {
        Dtype::F32 => wide.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Dtype::BF16 => wide.iter().flat_map(|&value| half::bf16::from_f32(value).to_le_bytes()).collect(),
        Dtype::F16 => wide.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect(),
        other => panic!("no test asks for {other:?}"),
    }
}

/// Writes a Llama of two query heads of `head_dim` values on one KV head, of random weights.
fn write_llama(folder: &Path, head_dim: usize, dtype: Dtype, norms: Dtype) {
    let (hidden, ffn, vocab) = (2 * head_dim, 96, 80);
    let config = format!(
        r#"{{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": {hidden}, "intermediate_size": {ffn},
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": {vocab}, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "tie_word_embeddings": false, "max_position_embeddings": 256}}"#
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
        push("self_attn.q_proj", vec![hidden, hidden]);
        push("self_attn.k_proj", vec![head_dim, hidden]);
        push("self_attn.v_proj", vec![head_dim, hidden]);
        push("self_attn.o_proj", vec![hidden, hidden]);
        push("mlp.gate_proj", vec![ffn, hidden]);
        push("mlp.up_proj", vec![ffn, hidden]);
        push("mlp.down_proj", vec![hidden, ffn]);
    }
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(5);
    let mut value = |shape: &[usize]| {
        let uniform = (random.next_u32() >> 8) as f32 / (1 << 24) as f32 - 0.5;
        if shape.len() == 1 { 1.0 + 0.2 * uniform } else { 4.0 * uniform / (shape[1] as f32).sqrt() }
    };
    let tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let bytes: Vec<u8> =
                (0..shape.iter().product()).flat_map(|_| value(&shape).to_le_bytes()).collect();
            let dtype = if shape.len() == 1 { norms } else { dtype };
            let bytes = cast(&TensorView::new(Dtype::F32, shape.clone(), &bytes).unwrap(), dtype);
            (name, (dtype, shape, bytes))
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

/// Heads that the flash kernel knows: prompts of several tiles, in chunks that begin within one, beside each other.
#[test]
fn the_flash_kernel_and_the_products_agree_with_the_cpu() {
    let prompts: Vec<Vec<u64>> =
        [70_u64, 3, 20].map(|length| (0..length).map(|token| (token * 7 + length) % 80).collect()).to_vec();
    for (head_dim, dtype) in [(64, Dtype::BF16), (64, Dtype::F16), (128, Dtype::BF16)] {
        let folder = tempfile::tempdir().unwrap();
        write_llama(folder.path(), head_dim, dtype, dtype);
        for more in [&["--chunk", "100"][..], &["--chunk", "40", "--no-flash"], &["--chunk", "40"]] {
            let model = format!("heads of {head_dim} in {dtype:?}");
            compare(&model, folder.path(), &prompts, more, |largest| BF16_TOLERANCE * largest);
        }
    }
}

/// As some checkpoints have them; ranks of a stage and of two.
#[test]
fn norms_may_be_finer_than_matrices() {
    let folder = tempfile::tempdir().unwrap();
    write_llama(folder.path(), 32, Dtype::BF16, Dtype::F32);
    let prompts = [vec![1_u64, 2, 3, 4, 5, 6, 7], vec![9, 8]];
    for more in [&["--pp", "2"][..], &["--no-graphs"]] {
        compare("norms in f32", folder.path(), &prompts, more, |largest| BF16_TOLERANCE * largest);
    }
}
