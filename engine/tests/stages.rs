//! A model divided computes what it computes whole, however its tokens are batched.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod ranks;

use chariot_engine::backend::cpu::Cpu;
use chariot_engine::model::{Dummy, HuggingFace, KvSpec, ModelConfig, Stage, StagePlan, TensorSource};
use chariot_engine::shape::{Family, ModelShape};
use chariot_engine::shard::{Division, Dtype, Parallel};
use proptest::prelude::*;
use ranks::plain::Plain;
use ranks::{Chunk, Model, SINGLE, distance, splits, whole};

/// Sums in another order, in f32, of values near 4.
const TOLERANCE: f32 = 1e-5;
const TOKENS: [u32; 24] =
    [1, 130, 7, 7, 64, 63, 65, 99, 0, 128, 127, 5, 31, 77, 12, 3, 90, 18, 44, 120, 2, 66, 111, 8];

fn shape(
    family: Family,
    kv_heads: u32,
    parallel_attention: bool,
    norms_per_layer: u32,
    tied: bool,
) -> ModelConfig {
    ModelConfig::of_shape(ModelShape {
        name: "tiny".to_owned(),
        family,
        hidden_size: 40,
        layers: 4,
        query_heads: 8,
        kv_heads,
        head_dim: 6,
        ffn_size: 56,
        // Odd: the last rank's rows are mostly padding.
        vocab_size: 131,
        parallel_attention,
        norms_per_layer,
        tied_embedding: tied,
    })
}

/// Every form, with as many KV heads as ranks, fewer, and one.
fn configs() -> Vec<ModelConfig> {
    vec![
        shape(Family::Falcon, 4, true, 2, true),
        shape(Family::Falcon, 2, true, 1, false),
        shape(Family::Falcon, 1, true, 1, true),
        shape(Family::Falcon, 8, false, 2, false),
        shape(Family::Llama, 2, false, 2, true),
        shape(Family::Llama, 8, false, 2, false),
    ]
}

fn model(config: &ModelConfig, parallel: Parallel) -> Model {
    Model::load(config, parallel, |plan| Box::new(Dummy::new(3, Dtype::Float32, plan).unwrap()))
}

fn prefill(model: &mut Model) -> Vec<Vec<f32>> {
    model.step(&[Chunk { seq: 5, context: 0, tokens: &TOKENS }])
}

fn expect_rows(found: &[Vec<f32>], expected: &[Vec<f32>], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (row, (found, expected)) in found.iter().zip(expected).enumerate() {
        let distance = distance(found, expected);
        assert!(distance <= TOLERANCE, "{what}: row {row} differs by {distance}");
    }
}

#[test]
fn every_split_computes_what_one_rank_computes() {
    for config in configs() {
        let expected = prefill(&mut model(&config, SINGLE));
        assert_eq!(expected[0].len(), 131, "padding is dropped");
        let splits = splits(&config);
        assert_eq!(splits.len(), 12);
        for parallel in splits {
            let found = prefill(&mut model(&config, parallel));
            expect_rows(&found, &expected, &format!("{:?} {parallel:?}", config.shape));
        }
    }
}

/// A tied head is held once where the embedding lies on the same rank, and counted again where it does not.
#[test]
fn a_rank_holds_the_bytes_of_its_tensors() {
    let cpu = Cpu::new(1, None).unwrap();
    for config in configs() {
        for parallel in splits(&config) {
            let division = Division::new(&config.shape, parallel).unwrap();
            for stage in 0..parallel.pp {
                let plan = StagePlan { parallel, stage, ..whole(&config) };
                let source = Dummy::new(3, Dtype::Bfloat16, &plan).unwrap();
                let kv = KvSpec { blocks: 1, block_size: 1 };
                let held = Stage::load(&cpu, &plan, &source, kv).unwrap().weight_bytes();
                let tensors = division.tensors(&config.shape, stage, Dtype::Bfloat16);
                assert_eq!(
                    held,
                    tensors.iter().map(|tensor| tensor.bytes).sum::<u64>(),
                    "{parallel:?} {stage}"
                );
            }
        }
    }
}

/// A dummy's activations are worth computing with: logits differ from token to token, and none is far out.
#[test]
fn a_dummy_is_a_sane_model() {
    for config in configs() {
        for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
            let source = Dummy::new(3, dtype, &whole(&config)).unwrap();
            let logits = prefill(&mut Model::load_from(&config, &source));
            let square = |row: &Vec<f32>| row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32;
            let spread = (logits.iter().map(square).sum::<f32>() / logits.len() as f32).sqrt();
            assert!((2.0..8.0).contains(&spread), "{:?} {dtype:?}: {spread}", config.shape);
            assert!(distance(&logits[0], &logits[1]) > 1.0);
        }
    }
}

#[test]
fn a_prompt_in_chunks_is_the_prompt_at_once() {
    for config in configs() {
        for parallel in [SINGLE, Parallel { tp: 4, pp: 2 }] {
            let mut model = model(&config, parallel);
            let expected = prefill(&mut model);
            for size in 1..TOKENS.len() {
                let mut found = Vec::new();
                for tokens in TOKENS.chunks(size) {
                    found.extend(model.step(&[Chunk { seq: 9, context: found.len(), tokens }]));
                }
                expect_rows(&found, &expected, &format!("{:?} {parallel:?}, chunks of {size}", config.shape));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Several sequences, each cut into its own chunks, in one batch after the other.
    #[test]
    fn a_mixed_batch_is_its_sequences_alone(
        form in 0..6_usize,
        split in 0..12_usize,
        sizes in prop::collection::vec(prop::collection::vec(1..9_usize, 1..5), 1..7),
    ) {
        let config = &configs()[form];
        let mut together = model(config, splits(config)[split]);
        let mut alone = model(config, SINGLE);
        let text = |seq: usize| -> Vec<u32> { TOKENS.iter().cycle().skip(seq).take(32).copied().collect() };
        let expected: Vec<_> = (0..sizes.len())
            .map(|seq| alone.step(&[Chunk { seq: seq as u32, context: 0, tokens: &text(seq) }]))
            .collect();
        let texts: Vec<_> = (0..sizes.len()).map(text).collect();
        let mut contexts = vec![0; sizes.len()];
        for step in 0..sizes.iter().map(Vec::len).max().unwrap_or(0) {
            let running = || (0..sizes.len()).filter(|&seq| step < sizes[seq].len());
            let chunk = |seq: usize| {
                let tokens = &texts[seq][contexts[seq]..contexts[seq] + sizes[seq][step]];
                Chunk { seq: seq as u32, context: contexts[seq], tokens }
            };
            let chunks: Vec<Chunk<'_>> = running().map(chunk).collect();
            let found = together.step(&chunks);
            let mut rows = found.chunks(1);
            let mut next = contexts.clone();
            for chunk in &chunks {
                let seq = chunk.seq as usize;
                for position in chunk.context..chunk.context + chunk.tokens.len() {
                    expect_rows(rows.next().unwrap(), &expected[seq][position..=position], "mixed");
                }
                next[seq] += chunk.tokens.len();
            }
            contexts = next;
        }
    }
}

/// Each rank's part of a made-up tensor is a part of the whole one: gathered, they are the same bytes.
#[test]
fn a_dummy_is_the_same_model_in_every_split() {
    for config in configs() {
        let single = Dummy::new(7, Dtype::Bfloat16, &whole(&config)).unwrap();
        let tensor = |source: &Dummy, plan: &StagePlan, name: &str| {
            let division = Division::new(&config.shape, plan.parallel).unwrap();
            let tensors = division.tensors(&config.shape, plan.stage, Dtype::Bfloat16);
            source
                .tensor(tensors.iter().find(|tensor| tensor.name == name).unwrap())
                .unwrap()
                .bytes
                .into_owned()
        };
        let plan = |tp_rank| StagePlan { parallel: Parallel { tp: 4, pp: 1 }, tp_rank, ..whole(&config) };
        let parts = |name: &str| -> Vec<Vec<u8>> {
            (0..4)
                .map(|rank| tensor(&Dummy::new(7, Dtype::Bfloat16, &plan(rank)).unwrap(), &plan(rank), name))
                .collect()
        };
        let up = "layers.2.mlp.up.weight";
        assert_eq!(parts(up).concat(), tensor(&single, &whole(&config), up));
        let down = "layers.2.mlp.down.weight";
        let columns = |parts: Vec<Vec<u8>>| -> Vec<u8> {
            let row = |row: usize| parts.iter().flat_map(move |part| part[row * 28..][..28].to_vec());
            (0..40).flat_map(row).collect()
        };
        assert_eq!(columns(parts(down)), tensor(&single, &whole(&config), down));
        let other = Dummy::new(8, Dtype::Bfloat16, &whole(&config)).unwrap();
        assert_ne!(tensor(&other, &whole(&config), up), tensor(&single, &whole(&config), up));
    }
}

/// Made-up models of every layout, as a folder: the plain loops read it by their own arithmetic.
#[test]
fn folders_of_every_layout_are_read_as_plain_loops_read_them() {
    let new = r#""model_type": "falcon", "new_decoder_architecture": true, "num_kv_heads": 4, "tie_word_embeddings": false"#;
    let one_norm = r#""model_type": "falcon", "new_decoder_architecture": true, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1"#;
    let multi_query = r#""model_type": "falcon", "multi_query": true, "parallel_attn": true"#;
    let old = r#""model_type": "falcon", "multi_query": false, "parallel_attn": true"#;
    let sequential = r#""model_type": "falcon", "multi_query": false, "parallel_attn": false"#;
    let llama =
        r#""model_type": "llama", "num_key_value_heads": 2, "intermediate_size": 56, "rope_theta": 500.0"#;
    for members in [new, one_norm, multi_query, old, sequential, llama] {
        let directory = tempfile::tempdir().unwrap();
        let folder = camino::Utf8Path::from_path(directory.path()).unwrap();
        let epsilon = if members.contains("llama") { "rms_norm_eps" } else { "layer_norm_epsilon" };
        let json = format!(
            r#"{{{members}, "hidden_size": 48, "num_attention_heads": 8, "num_hidden_layers": 2, "vocab_size": 131,
               "{epsilon}": 1e-3}}"#
        );
        fs_err::write(folder.join("config.json"), &json).unwrap();
        let config = ModelConfig::parse(&json, "tiny").unwrap();
        ranks::folder::write_random(folder, &config);
        let expected = Plain::read(folder).logits(&TOKENS);
        for parallel in splits(&config) {
            let mut model =
                Model::load(&config, parallel, |plan| Box::new(HuggingFace::open(folder, plan).unwrap()));
            for (found, expected) in prefill(&mut model).iter().zip(&expected) {
                let distance = distance(found, expected);
                assert!(distance < 1e-4, "{members} {parallel:?}: {distance}");
            }
        }
    }
}
