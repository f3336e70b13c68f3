//! Hugging Face `config.json`s of the Falcon and Llama families as they are published: each gives the published number of
//! parameters, and the simulator serves it.

use chariot_engine::shape::ModelShape;
use chariot_engine::shard::{Division, Parallel};

use super::setting::{Setting, at_once, azure};

/// Members beside the shape that such files have, to be passed over.
const LLAMA: &str = r#""architectures": ["LlamaForCausalLM"], "model_type": "llama", "bos_token_id": 1, "eos_token_id": [2, 3], "hidden_act": "silu",
    "initializer_range": 0.02, "max_position_embeddings": 4096, "pad_token_id": null, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0, "torch_dtype": "bfloat16", "transformers_version": "4.43.0.dev0", "use_cache": true"#;
const MISTRAL: &str = r#""architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": null, "attention_dropout": 0.0, "rms_norm_eps": 1e-05"#;
const FALCON: &str = r#""architectures": ["FalconForCausalLM"], "model_type": "falcon", "alibi": false, "attention_dropout": 0.0, "bias": false,
    "auto_map": {"AutoConfig": "configuration_falcon.FalconConfig"}, "layer_norm_epsilon": 1e-05, "torch_dtype": "bfloat16""#;

/// Name, what its file shares with its family's, its own members, parameters in billions as published.
const PUBLISHED: &[(&str, &str, &str, f64)] = &[
    (
        "falcon-7b",
        FALCON,
        r#""hidden_size": 4544, "multi_query": true, "new_decoder_architecture": false, "num_attention_heads": 71,
        "num_hidden_layers": 32, "parallel_attn": true, "vocab_size": 65024"#,
        6.922,
    ),
    // The published weights hold the output projection too (41.84), which their config does not say.
    (
        "falcon-40b",
        FALCON,
        r#""hidden_size": 8192, "multi_query": true, "new_decoder_architecture": true, "num_attention_heads": 128,
        "num_hidden_layers": 60, "num_kv_heads": 8, "parallel_attn": true, "vocab_size": 65024"#,
        41.303,
    ),
    (
        "falcon-40b, first release",
        r#""architectures": ["RWForCausalLM"], "model_type": "RefinedWeb", "alibi": false, "bias": false"#,
        r#""hidden_size": 8192, "n_head": 128, "n_head_kv": 8, "n_layer": 60, "new_decoder_architecture": true, "parallel_attn": true,
        "vocab_size": 65024"#,
        41.303,
    ),
    (
        "falcon-11B",
        FALCON,
        r#""hidden_size": 4096, "ff_factor": 4, "ffn_hidden_size": 16384, "multi_query": true, "new_decoder_architecture": true,
        "num_attention_heads": 32, "num_hidden_layers": 60, "num_kv_heads": 8, "num_ln_in_parallel_attn": 1, "parallel_attn": true,
        "vocab_size": 65024, "tie_word_embeddings": false, "rope_theta": 5000042"#,
        11.103,
    ),
    (
        "Llama-2-7b-hf",
        LLAMA,
        r#""hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 32, "rope_scaling": null, "tie_word_embeddings": false, "vocab_size": 32000"#,
        6.738,
    ),
    (
        "llama-7b, before num_key_value_heads",
        LLAMA,
        r#""hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32,
        "num_hidden_layers": 32, "vocab_size": 32000"#,
        6.738,
    ),
    (
        "Llama-2-13b-hf",
        LLAMA,
        r#""hidden_size": 5120, "intermediate_size": 13824, "num_attention_heads": 40, "num_hidden_layers": 40,
        "num_key_value_heads": 40, "vocab_size": 32000"#,
        13.016,
    ),
    (
        "CodeLlama-34b-hf",
        LLAMA,
        r#""hidden_size": 8192, "intermediate_size": 22016, "num_attention_heads": 64, "num_hidden_layers": 48,
        "num_key_value_heads": 8, "vocab_size": 32000"#,
        33.744,
    ),
    (
        "Meta-Llama-3-8B",
        LLAMA,
        r#""attention_bias": false, "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "tie_word_embeddings": false, "vocab_size": 128256"#,
        8.030,
    ),
    (
        "Llama-3.1-70B",
        LLAMA,
        r#""attention_bias": false, "hidden_size": 8192, "intermediate_size": 28672, "mlp_bias": false, "num_attention_heads": 64,
        "num_hidden_layers": 80, "num_key_value_heads": 8, "vocab_size": 128256,
        "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_type": "llama3"}"#,
        70.554,
    ),
    (
        "Llama-3.2-1B",
        LLAMA,
        r#""attention_bias": false, "head_dim": 64, "hidden_size": 2048, "intermediate_size": 8192, "mlp_bias": false,
        "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8, "tie_word_embeddings": true, "vocab_size": 128256"#,
        1.236,
    ),
    (
        "TinyLlama-1.1B",
        LLAMA,
        r#""hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 32, "num_hidden_layers": 22,
        "num_key_value_heads": 4, "vocab_size": 32000"#,
        1.100,
    ),
    (
        "Yi-6B",
        LLAMA,
        r#""hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 4, "vocab_size": 64000"#,
        6.061,
    ),
    (
        "Yi-34B",
        LLAMA,
        r#""hidden_size": 7168, "intermediate_size": 20480, "num_attention_heads": 56, "num_hidden_layers": 60,
        "num_key_value_heads": 8, "vocab_size": 64000"#,
        34.389,
    ),
    (
        "Mistral-7B-v0.3",
        MISTRAL,
        r#""hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "vocab_size": 32768"#,
        7.248,
    ),
    // Its heads are narrower than the hidden size over their number.
    (
        "Mistral-Nemo-Base-2407",
        MISTRAL,
        r#""head_dim": 128, "hidden_size": 5120, "intermediate_size": 14336, "num_attention_heads": 32,
        "num_hidden_layers": 40, "num_key_value_heads": 8, "vocab_size": 131072"#,
        12.248,
    ),
];

/// The widest group of a node that divides the model.
fn division(shape: &ModelShape) -> Division {
    let widest = [4, 2, 1].into_iter().find_map(|tp| Division::new(shape, Parallel { tp, pp: 2 }).ok());
    widest.expect("one device holds any shape")
}

#[test]
fn published_configurations_have_the_published_parameters_and_can_be_simulated() {
    for (name, family, own, billions) in PUBLISHED {
        let shape = ModelShape::parse(&format!("{{{family}, {own}}}"), name).expect(name);
        let found = shape.parameters() as f64 / 1e9;
        assert!(
            (found / billions - 1.0).abs() < 0.001,
            "{name}: expected {billions} G parameters, found {found}"
        );
        let parallel = division(&shape).parallel;
        let setting = Setting { shape, ..Setting::new(azure(), parallel.tp, parallel.pp) };
        assert_eq!(setting.run(&at_once(20, 700, 5)).ending.completed, 20, "{name}");
    }
}

#[test]
fn what_the_model_code_has_not_is_refused_by_name() {
    let falcon_rw = r#"{"architectures": ["FalconForCausalLM"], "model_type": "falcon", "alibi": true, "bias": true, "hidden_size": 2048,
        "multi_query": false, "new_decoder_architecture": false, "num_attention_heads": 32, "num_hidden_layers": 24, "parallel_attn": false,
        "vocab_size": 50304}"#;
    let qwen = r#"{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 3584}"#;
    let refused = |text| ModelShape::parse(text, "").unwrap_err().to_string();
    assert_eq!(refused(falcon_rw), "bias: expected false, found true");
    assert_eq!(refused(qwen), "model_type: expected one of falcon, llama, mistral, found `qwen2`");
}
