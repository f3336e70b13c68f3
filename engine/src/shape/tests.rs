use super::*;

fn preset(name: &str) -> ModelShape {
    let path = format!("{}/../pipelines/models/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    ModelShape::parse(&fs_err::read_to_string(path).unwrap(), "unused").unwrap()
}

#[test]
fn presets_have_the_published_parameter_counts() {
    for (name, billions) in [
        ("falcon-180b", 179.5),
        ("falcon-7b", 6.92),
        ("llama-2-70b", 68.98),
        ("mistral-7b", 7.24),
        ("yi-34b", 34.39),
    ] {
        let found = preset(name).parameters() as f64 / 1e9;
        assert!((found / billions - 1.0).abs() < 0.002, "{name}: expected {billions} G, found {found} G");
    }
}

fn check(json: &str, expected: &str) {
    match ModelShape::parse(json, "config") {
        Ok(shape) => assert_eq!(format!("{shape:?}"), expected),
        Err(error) => assert_eq!(error.to_string(), expected),
    }
}

#[test]
fn a_hugging_face_falcon_is_the_preset() {
    let json = r#"{"architectures": ["FalconForCausalLM"], "model_type": "falcon", "alibi": false, "bias": false,
        "hidden_size": 14848, "multi_query": true, "new_decoder_architecture": true, "num_attention_heads": 232,
        "num_hidden_layers": 80, "num_kv_heads": 8, "parallel_attn": true, "vocab_size": 65024,
        "tie_word_embeddings": false}"#;
    let shape = ModelShape::parse(json, "falcon-180b").unwrap();
    assert_eq!(shape, preset("falcon-180b"));
}

#[test]
fn an_older_falcon_ignores_num_kv_heads_under_multi_query() {
    let json = r#"{"model_type": "RefinedWebModel", "hidden_size": 4544, "multi_query": true, "n_head": 71, "n_layer": 32,
        "num_kv_heads": 71, "parallel_attn": true, "bias": false, "vocab_size": 65024}"#;
    assert_eq!(ModelShape::parse(json, "falcon-7b").unwrap(), preset("falcon-7b"));
}

#[test]
fn a_hugging_face_mistral_is_the_preset() {
    let json = r#"{"architectures": ["MistralForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336, "head_dim": null,
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "vocab_size": 32000}"#;
    assert_eq!(ModelShape::parse(json, "mistral-7b").unwrap(), preset("mistral-7b"));
}

#[test]
fn other_models_are_refused_by_name() {
    check(
        r#"{"model_type": "mixtral", "hidden_size": 4096}"#,
        "model_type: expected one of falcon, llama, mistral, found `mixtral`",
    );
    check(
        r#"{"model_type": "llama", "num_attention_heads": 32}"#,
        "hidden_size: expected a count, found none",
    );
    check(
        r#"{"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "attention_bias": true}"#,
        "attention_bias: expected false, found true",
    );
    check(
        r#"{"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 30, "num_hidden_layers": 2,
            "intermediate_size": 64, "vocab_size": 100}"#,
        "num_attention_heads: expected a divisor of hidden_size=4096, found 30",
    );
}
