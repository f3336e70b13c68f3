use crate::model::ModelConfig;

const LLAMA: &str = r#""model_type": "llama", "hidden_size": 64, "num_attention_heads": 8, "num_hidden_layers": 2,
    "intermediate_size": 96, "vocab_size": 100"#;
const FALCON: &str = r#""model_type": "falcon", "hidden_size": 64, "num_attention_heads": 8, "num_hidden_layers": 2,
    "vocab_size": 100"#;

fn parse(base: &str, more: &str) -> Result<ModelConfig, String> {
    ModelConfig::parse(&format!("{{{base}{more}}}"), "tiny").map_err(|error| error.to_string())
}

/// Epsilon, rotary base, window and end tokens, or the message.
fn check(base: &str, more: &str, expected: &str) {
    let found = match parse(base, more) {
        Ok(ModelConfig { norm_epsilon, rope_theta, attention_window, eos, .. }) => {
            format!("{norm_epsilon:e} {rope_theta:e} {attention_window:?} {eos:?}")
        }
        Err(message) => message,
    };
    assert_eq!(found, expected, "{more}");
}

#[test]
fn what_is_not_said_is_what_transformers_takes() {
    check(LLAMA, "", "1e-6 1e4 None []");
    check(FALCON, "", "1e-5 1e4 None []");
    let mistral = LLAMA.replace("llama", "mistral");
    check(&mistral, "", "1e-6 1e4 Some(4096) []");
    check(&mistral, r#", "sliding_window": null"#, "1e-6 1e4 None []");
    check(&mistral, r#", "sliding_window": 16"#, "1e-6 1e4 Some(16) []");
}

#[test]
fn what_is_said_is_read_in_both_forms() {
    check(LLAMA, r#", "rms_norm_eps": 0.002, "rope_theta": 5e4, "eos_token_id": 2"#, "2e-3 5e4 None [2]");
    check(
        LLAMA,
        r#", "rope_parameters": {"rope_theta": 5e6, "rope_type": "default"}, "eos_token_id": [2, 3]"#,
        "1e-6 5e6 None [2, 3]",
    );
    check(
        FALCON,
        r#", "layer_norm_epsilon": 0.002, "rope_scaling": null, "eos_token_id": null"#,
        "2e-3 1e4 None []",
    );
}

#[test]
fn what_changes_the_arithmetic_is_refused() {
    check(
        LLAMA,
        r#", "rope_scaling": {"type": "linear", "factor": 2.0}"#,
        "rope_scaling: expected rope_type default, found linear",
    );
    check(
        LLAMA,
        r#", "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}"#,
        "rope_parameters: expected rope_type default, found llama3",
    );
    check(FALCON, r#", "alibi": true"#, "alibi: expected false, found true");
    check(FALCON, r#", "activation": "gelu_new""#, "activation: expected gelu, found gelu_new");
    check(LLAMA, r#", "hidden_act": "gelu""#, "activation: expected silu, found gelu");
    check(LLAMA, r#", "rope_theta": 0"#, "rope_theta: expected a positive number, found 0");
    check(LLAMA, r#", "eos_token_id": "end""#, r#"eos_token_id: expected a count, found "end""#);
}

#[test]
fn a_preset_has_documented_defaults_and_survives_json() {
    let path = format!("{}/../pipelines/models/falcon-180b.yaml", env!("CARGO_MANIFEST_DIR"));
    let config = ModelConfig::parse(&fs_err::read_to_string(path).unwrap(), "unused").unwrap();
    assert_eq!((config.norm_epsilon, config.rope_theta), (1e-5, 1e4));
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<ModelConfig>(&json).unwrap(), config);
}
