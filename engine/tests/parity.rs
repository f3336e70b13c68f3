//! The CPU backend against Hugging Face Transformers: same weights, same tokens, logits within the goldens' tolerance.
//! The goldens and what they withstand: tests/parity/README.md.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod ranks;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use camino::Utf8PathBuf;
use chariot_engine::model::sampler::{Sampling, sample};
use chariot_engine::model::{HuggingFace, ModelConfig, ModelError, Part, StagePlan, TensorSource};
use chariot_engine::shard::{Dtype, Parallel, Tensor};
use ranks::plain::Plain;
use ranks::{Chunk, Model, SEQUENCES, SINGLE, Widened, distance, largest, splits, whole};
use safetensors::SafeTensors;
use serde::Deserialize;

const MODELS: [&str; 8] = [
    "falcon-new",
    "falcon-new-one-norm",
    "falcon-mq",
    "falcon-old",
    "falcon-old-sequential",
    "llama-gqa",
    "llama-tied",
    "mistral",
];
/// The prompt after which every greedy step's logits are stored.
const DECODED: usize = 2;
/// The prompt that every split takes in chunks: of 33 tokens, nine blocks.
const CHUNKED: usize = 3;

#[derive(Deserialize)]
struct GoldenFile {
    tolerance: f32,
    drift: Drift,
    mutants: BTreeMap<String, Vec<f32>>,
    prompts: Vec<Prompt>,
}

/// How far PyTorch is from its own f32 in these types, over all prompts.
#[derive(Deserialize)]
struct Drift {
    float64: f32,
    float16: f32,
    bfloat16: f32,
}

#[derive(Deserialize)]
struct Prompt {
    tokens: Vec<u32>,
    greedy: Vec<u32>,
    /// At each greedy step: the largest logit less the second.
    margins: Vec<f32>,
}

/// A model of `parity/golden`.
struct Golden {
    name: &'static str,
    folder: Utf8PathBuf,
    config: ModelConfig,
    tolerance: f32,
    drift: Drift,
    mutants: BTreeMap<String, Vec<f32>>,
    prompts: Vec<Prompt>,
    /// Per prompt: logits after each of its tokens.
    prefill: Vec<Vec<Vec<f32>>>,
    /// The logits that chose each greedy token of one prompt.
    decode: Vec<Vec<f32>>,
}

impl Golden {
    fn read(name: &'static str) -> Self {
        let folder = Utf8PathBuf::from(format!("{}/tests/parity/golden/{name}", env!("CARGO_MANIFEST_DIR")));
        let text = |file: &str| fs_err::read_to_string(folder.join(file)).unwrap();
        let GoldenFile { tolerance, drift, mutants, prompts } =
            serde_json::from_str(&text("golden.json")).unwrap();
        let bytes = fs_err::read(folder.join("logits.safetensors")).unwrap();
        let logits = SafeTensors::deserialize(&bytes).unwrap();
        let rows = |name: &str| -> Vec<Vec<f32>> {
            let view = logits.tensor(name).unwrap();
            let values: Vec<f32> = view.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            values.chunks_exact(view.shape()[1]).map(<[f32]>::to_vec).collect()
        };
        Self {
            name,
            config: ModelConfig::parse(&text("config.json"), name).unwrap(),
            tolerance,
            drift,
            mutants,
            prefill: (0..prompts.len()).map(|prompt| rows(&format!("prefill.{prompt}"))).collect(),
            decode: rows(&format!("decode.{DECODED}")),
            prompts,
            folder,
        }
    }

    fn model(&self, parallel: Parallel) -> Model {
        Model::load(&self.config, parallel, |plan| Box::new(self.source(plan)))
    }

    /// In f32, as the goldens are.
    fn source(&self, plan: &StagePlan) -> Widened<HuggingFace> {
        Widened(HuggingFace::open(&self.folder, plan).unwrap())
    }

    fn expect_row(&self, found: &[f32], expected: &[f32], what: std::fmt::Arguments<'_>) {
        let distance = distance(found, expected);
        assert!(distance <= self.tolerance, "{}: {what}: logits differ by {distance}", self.name);
    }

    /// How far the last logits of each prompt are from the golden's.
    fn moved(&self, model: &mut Model) -> Vec<f32> {
        let last = |(prompt, expected): (&Prompt, &Vec<Vec<f32>>)| {
            let logits = model.step(&[Chunk { seq: 0, context: 0, tokens: &prompt.tokens }]);
            distance(logits.last().unwrap(), expected.last().unwrap())
        };
        self.prompts.iter().zip(&self.prefill).map(last).collect()
    }
}

/// The largest logit less the second.
fn margin(logits: &[f32]) -> f32 {
    let best = largest(logits) as usize;
    let others = logits.iter().enumerate().filter(|(token, _)| *token != best);
    logits[best] - others.map(|(_, &logit)| logit).fold(f32::NEG_INFINITY, f32::max)
}

/// Their tokens must be those of the largest logits by far more than logits may differ, else equal tokens would be luck.
#[test]
fn no_greedy_token_hangs_on_rounding() {
    for golden in MODELS.map(Golden::read) {
        let name = golden.name;
        assert!(golden.tolerance <= 2e-4 && golden.drift.float64 <= golden.tolerance / 10.0, "{name}");
        for (number, (prompt, prefill)) in golden.prompts.iter().zip(&golden.prefill).enumerate() {
            assert_eq!((prompt.greedy.len(), prompt.margins.len()), (32, 32), "{name}: prompt {number}");
            let least = prompt.margins.iter().copied().fold(f32::INFINITY, f32::min);
            assert!(least >= 10.0 * golden.tolerance, "{name}: prompt {number} has a margin of {least}");
            let different = prompt.greedy.iter().collect::<BTreeSet<_>>().len();
            assert!(different >= 8, "{name}: prompt {number} has {different} different tokens");
            // What is written is so: to four decimals, of the logits that are there.
            let rows = std::iter::once(prefill.last().unwrap());
            let rows = rows.chain(if number == DECODED { &golden.decode[1..] } else { &[] });
            for (step, row) in rows.enumerate() {
                assert_eq!(largest(row), prompt.greedy[step], "{name}: prompt {number}, token {step}");
                let apart = (margin(row) - prompt.margins[step]).abs();
                assert!(apart < 1e-4, "{name}: prompt {number}, token {step}: a margin is off by {apart}");
            }
        }
        assert_eq!(golden.decode.len(), 32, "{name}");
        golden.expect_row(&golden.decode[0], golden.prefill[DECODED].last().unwrap(), format_args!("decode"));
    }
}

/// All prompts in one batch, then 32 greedy steps of all together, in every split of TP and PP.
#[test]
fn every_split_has_the_logits_and_the_greedy_tokens() {
    for golden in MODELS.map(Golden::read) {
        let splits = splits(&golden.config);
        assert!(splits.len() >= 8, "{}: {splits:?}", golden.name);
        for parallel in splits {
            prefill_and_decode(&golden, parallel);
        }
    }
}

fn prefill_and_decode(golden: &Golden, parallel: Parallel) {
    let mut model = golden.model(parallel);
    let chunk = |(seq, prompt)| {
        let prompt: &Prompt = prompt;
        Chunk { seq, context: 0, tokens: &prompt.tokens }
    };
    let chunks: Vec<Chunk<'_>> = (0..).zip(&golden.prompts).map(chunk).collect();
    let logits = model.step(&chunks);
    let expected: Vec<&Vec<f32>> = golden.prefill.iter().flatten().collect();
    assert_eq!(logits.len(), expected.len());
    for (row, (found, expected)) in logits.iter().zip(expected).enumerate() {
        golden.expect_row(found, expected, format_args!("{parallel:?}, row {row}"));
    }
    let mut end = 0;
    let last = |prompt: &Prompt| {
        end += prompt.tokens.len();
        largest(&logits[end - 1])
    };
    let mut tokens: Vec<u32> = golden.prompts.iter().map(last).collect();
    for step in 0..golden.decode.len() {
        let expected: Vec<u32> = golden.prompts.iter().map(|prompt| prompt.greedy[step]).collect();
        assert_eq!(tokens, expected, "{}: {parallel:?}, greedy token {step}", golden.name);
        let chunk = |(seq, prompt): (usize, &Prompt)| {
            let context = prompt.tokens.len() + step;
            Chunk { seq: seq as u32, context, tokens: &tokens[seq..=seq] }
        };
        let chunks: Vec<Chunk<'_>> = golden.prompts.iter().enumerate().map(chunk).collect();
        let logits = model.step(&chunks);
        if let Some(expected) = golden.decode.get(step + 1) {
            golden.expect_row(&logits[DECODED], expected, format_args!("{parallel:?}, step {step}"));
        }
        tokens = logits.iter().map(|row| largest(row)).collect();
    }
}

/// With weights and KV cache in the type they are stored in, the rest in f32: nearer than PyTorch is with everything in it.
#[test]
fn stored_types_are_nearer_than_pytorch_in_them() {
    for golden in MODELS.map(Golden::read) {
        let source = HuggingFace::open(&golden.folder, &whole(&golden.config)).unwrap();
        let limit = match source.dtype().unwrap() {
            Dtype::Float32 => golden.tolerance,
            Dtype::Float16 => golden.drift.float16,
            Dtype::Bfloat16 => golden.drift.bfloat16,
        };
        let moved = golden.moved(&mut Model::load_from(&golden.config, &source));
        assert!(moved.iter().all(|&moved| moved <= limit), "{}: {moved:?}, limit {limit}", golden.name);
    }
}

/// Every prompt in chunks of 1, 2, ... tokens up to all of it.
#[test]
fn every_chunk_size_has_the_logits() {
    for golden in MODELS.map(Golden::read) {
        let mut model = golden.model(SINGLE);
        for (number, prompt) in golden.prompts.iter().enumerate() {
            for size in 1..=prompt.tokens.len() {
                in_chunks(&golden, &mut model, number, size);
            }
        }
    }
}

/// One prompt in chunks of every size, in every split of TP and PP.
#[test]
fn every_split_has_the_logits_of_chunks() {
    for golden in MODELS.map(Golden::read) {
        for parallel in splits(&golden.config).into_iter().filter(|&parallel| parallel != SINGLE) {
            let mut model = golden.model(parallel);
            for size in 1..=golden.prompts[CHUNKED].tokens.len() {
                in_chunks(&golden, &mut model, CHUNKED, size);
            }
        }
    }
}

/// A prompt in chunks of `size` tokens.
fn in_chunks(golden: &Golden, model: &mut Model, prompt: usize, size: usize) {
    let parallel = model.parallel();
    let mut context = 0;
    for tokens in golden.prompts[prompt].tokens.chunks(size) {
        let logits = model.step(&[Chunk { seq: 3, context, tokens }]);
        for (found, row) in logits.iter().zip(context..) {
            let what = format_args!("{parallel:?}, chunks of {size}, row {row}");
            golden.expect_row(found, &golden.prefill[prompt][row], what);
        }
        context += tokens.len();
    }
}

/// 1 to 16 sequences at once, some with chunks of their prompt and some decoding, in every split of TP and PP.
#[test]
fn every_split_has_the_logits_of_mixed_batches() {
    for golden in MODELS.map(Golden::read) {
        for parallel in splits(&golden.config) {
            let mut model = golden.model(parallel);
            for sequences in 1..=SEQUENCES {
                mixed(&golden, &mut model, sequences);
            }
        }
    }
}

fn mixed(golden: &Golden, model: &mut Model, sequences: u32) {
    let prompt = |seq: u32| (seq + sequences) as usize % golden.prompts.len();
    let texts: Vec<Vec<u32>> = (0..sequences)
        .map(|seq| &golden.prompts[prompt(seq)])
        .map(|prompt| prompt.tokens.iter().chain(&prompt.greedy).copied().collect())
        .collect();
    let mut contexts = vec![0; sequences as usize];
    for step in 0..6 {
        let chunk = |(seq, text): (u32, &Vec<u32>)| {
            let context = contexts[seq as usize];
            let prompt_len = golden.prompts[prompt(seq)].tokens.len();
            // Chunks of other sizes for each sequence and step, then a token at a time.
            let size = (seq as usize * 7 + step * 5 + 3) % 23 + 1;
            let end = if context < prompt_len { prompt_len.min(context + size) } else { context + 1 };
            (seq, context, text[context..end].to_vec())
        };
        let parts: Vec<_> = (0..).zip(&texts).map(chunk).collect();
        let chunks: Vec<Chunk<'_>> = parts
            .iter()
            .map(|(seq, context, tokens)| Chunk { seq: *seq, context: *context, tokens })
            .collect();
        let mut logits = model.step(&chunks).into_iter();
        for (seq, context, tokens) in &parts {
            let golden_prompt = &golden.prompts[prompt(*seq)];
            for position in *context..context + tokens.len() {
                let found = logits.next().unwrap();
                let parallel = model.parallel();
                let what =
                    format_args!("{parallel:?}, {sequences} sequences, sequence {seq}, position {position}");
                match golden.prefill[prompt(*seq)].get(position) {
                    Some(expected) => golden.expect_row(&found, expected, what),
                    None => {
                        let next = golden_prompt.greedy[position + 1 - golden_prompt.tokens.len()];
                        assert_eq!(largest(&found), next, "{}: {what}", golden.name);
                    }
                }
            }
            contexts[*seq as usize] += tokens.len();
        }
    }
}

/// Seeds of draws.
const SEEDS: [u64; 6] = [0, 5, 17, 42, 1234, u64::MAX];

/// The tokens of 24 draws, one sequence a seed, and the logits that each step drew from.
fn drawn(golden: &Golden, model: &mut Model) -> (Vec<Vec<u32>>, Vec<Vec<f32>>) {
    let prompt = &golden.prompts[DECODED].tokens;
    let mut texts = vec![prompt.clone(); SEEDS.len()];
    let mut rows = Vec::new();
    for position in 0..24 {
        let context = if position == 0 { 0 } else { prompt.len() + position as usize - 1 };
        let chunk = |(seq, text)| {
            let text: &Vec<u32> = text;
            Chunk { seq, context, tokens: &text[context..] }
        };
        let chunks: Vec<Chunk<'_>> = (0..).zip(&texts).map(chunk).collect();
        let logits = model.step(&chunks);
        let each = logits.len() / SEEDS.len();
        for ((text, seed), logits) in texts.iter_mut().zip(SEEDS).zip(logits.chunks(each)) {
            let row = logits.last().unwrap();
            text.push(sample(row, &Sampling { temperature: 0.9, top_p: 0.9, seed }, position));
            rows.push(row.clone());
        }
    }
    (texts, rows)
}

/// A Falcon and a Llama. Stages change no bit of a logit; ranks of a stage add in another order, and draws must withstand that.
#[test]
fn draws_are_the_same_in_every_split() {
    for golden in ["falcon-new", "llama-gqa"].map(Golden::read) {
        let (expected, _) = drawn(&golden, &mut golden.model(SINGLE));
        let different = expected.iter().collect::<BTreeSet<_>>().len();
        assert_eq!(different, SEEDS.len(), "{}: every seed draws its own", golden.name);
        let mut rows = BTreeMap::new();
        for parallel in splits(&golden.config) {
            let (texts, logits) = drawn(&golden, &mut golden.model(parallel));
            assert_eq!(texts, expected, "{}: {parallel:?}", golden.name);
            let same = rows.entry(parallel.tp).or_insert_with(|| logits.clone());
            assert!(*same == logits, "{}: {parallel:?}: expected the bits of fewer stages", golden.name);
        }
    }
}

/// Weights with one mistake: the tensors named `part` are replaced.
struct Mutant<'a, F> {
    right: Widened<HuggingFace>,
    part: &'a str,
    change: F,
}

impl<F: Fn(&str, &[u8]) -> Vec<u8>> TensorSource for Mutant<'_, F> {
    fn tensor(&self, wanted: &Tensor) -> Result<Part<'_>, ModelError> {
        let part = self.right.tensor(wanted)?;
        if !wanted.name.contains(self.part) {
            return Ok(part);
        }
        let bytes = Cow::Owned((self.change)(&wanted.name, &part.bytes));
        Ok(Part { bytes, ..part })
    }
}

/// The mistake moves the last logits as far as it does in Transformers.
fn expect_moved(golden: &Golden, mistake: &str, moved: &[f32]) {
    let expected = &golden.mutants[mistake];
    for (prompt, (moved, expected)) in golden.prompts.iter().zip(moved.iter().zip(expected)) {
        let name = golden.name;
        let is_near = (moved - expected).abs() <= 0.06 * expected + 2.0 * golden.tolerance;
        assert!(is_near, "{name}: {mistake}: expected logits to move by {expected}, found {moved}");
        assert!(prompt.tokens.len() < 17 || *moved > 5.0 * golden.tolerance, "{name}: {mistake} would pass");
    }
}

#[test]
fn swapped_keys_and_values_would_fail() {
    for golden in MODELS.map(Golden::read) {
        let shape = &golden.config.shape;
        let swap = |_: &str, bytes: &[u8]| {
            let heads = (shape.query_heads + 2 * shape.kv_heads) as usize;
            let head = bytes.len() / heads;
            let (q, kv) = bytes.split_at(shape.query_heads as usize * head);
            let (k, v) = kv.split_at(kv.len() / 2);
            [q, v, k].concat()
        };
        let right = golden.source(&whole(&golden.config));
        let mutant = Mutant { right, part: "attention.qkv", change: swap };
        expect_moved(&golden, "swapped_kv", &golden.moved(&mut Model::load_from(&golden.config, &mutant)));
    }
}

#[test]
fn a_flat_reading_of_fused_weights_would_fail() {
    for golden in MODELS.map(Golden::read).iter().filter(|golden| golden.mutants.contains_key("flat_qkv")) {
        let plain = Plain::read(&golden.folder);
        let flat = |name: &str, _: &[u8]| {
            let layer = name.split('.').nth(1).unwrap();
            let fused = format!("transformer.h.{layer}.self_attention.query_key_value.weight");
            plain.tensors[&fused].iter().flat_map(|value| value.to_le_bytes()).collect()
        };
        let right = golden.source(&whole(&golden.config));
        let mutant = Mutant { right, part: "attention.qkv", change: flat };
        expect_moved(golden, "flat_qkv", &golden.moved(&mut Model::load_from(&golden.config, &mutant)));
    }
}

#[test]
fn another_epsilon_or_rotary_base_would_fail() {
    for golden in MODELS.map(Golden::read) {
        let theta = if golden.config.rope_theta == 1e4 { 1e6 } else { 1e4 };
        let other_epsilon = ModelConfig { norm_epsilon: 1e-5, ..golden.config.clone() };
        let other_theta = ModelConfig { rope_theta: theta, ..golden.config.clone() };
        let source = golden.source(&whole(&golden.config));
        expect_moved(
            &golden,
            "norm_epsilon_1e-5",
            &golden.moved(&mut Model::load_from(&other_epsilon, &source)),
        );
        let mistake = format!("rope_theta_{theta:.0}");
        let moved = golden.moved(&mut Model::load_from(&other_theta, &source));
        let expected = &golden.mutants[&mistake];
        assert!(
            moved.iter().zip(expected).skip(2).all(|(moved, expected)| (moved / expected - 1.0).abs() < 0.06)
        );
    }
}

/// The plain loops agree with Transformers, and would not with the other GELU: nor would an engine that had it.
#[test]
fn the_other_gelu_would_fail() {
    for golden in MODELS.map(Golden::read) {
        let mut plain = Plain::read(&golden.folder);
        let last = |plain: &Plain| -> Vec<f32> {
            let prompts = golden.prompts.iter().zip(&golden.prefill);
            prompts
                .map(|(prompt, expected)| {
                    distance(plain.logits(&prompt.tokens).last().unwrap(), expected.last().unwrap())
                })
                .collect()
        };
        assert!(last(&plain).iter().all(|&moved| moved <= golden.tolerance), "{}", golden.name);
        if golden.mutants.contains_key("tanh_gelu") {
            plain.has_tanh_gelu = true;
            expect_moved(&golden, "tanh_gelu", &last(&plain));
        }
    }
}
