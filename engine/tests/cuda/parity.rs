//! The whole engine on CUDA's double, with workers, NCCL and all: tokens and logits of Transformers and of the CPU backend.
//! What is run here, as a table: docs/cuda.md.

use std::collections::BTreeSet;
use std::path::Path;

use safetensors::Dtype;
use serde_json::Value;
use tempfile::TempDir;

use crate::double::Double;
use crate::models::{GOLDEN, Llama, rewrite};

/// Output tokens of each prompt: the double is slow.
const TOKENS: usize = 5;
/// Prompts of a model.
const ALL: usize = 5;
/// Of a logit, as a part of its row's largest, about twice what was found: activations are rounded to 8 bits or 11 some ten times a layer.
/// Golden models in bf16: 0.019 found.
const GOLDEN_TOLERANCE: f64 = 0.04;
/// Random Llamas in bf16 and in f16, by the flash kernel and by products: 0.023 and 0.0023 found.
const LLAMA_TOLERANCE: [f64; 2] = [0.05, 0.005];
/// A random Llama with norms in f32: 0.034 found.
const NORMS_TOLERANCE: f64 = 0.07;
/// Rows of logits that some prompt has before its tokens in bf16 and f32 part: prompts, and decodes after them.
const ROWS_MIN: usize = 3;

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

/// What `generate --json` said.
struct Report(Value);

impl Report {
    /// How many steps were replayed, or how often a sequence was preempted.
    fn count(&self, what: &str) -> u64 {
        self.0[what].as_u64().unwrap()
    }

    fn outputs(&self) -> &[Value] {
        self.0["outputs"].as_array().unwrap()
    }

    /// Token ids of each prompt.
    fn tokens(&self) -> Vec<Vec<u64>> {
        self.outputs().iter().map(|output| ids(&output["token_ids"])).collect()
    }

    /// What each token of each prompt was drawn from.
    fn logits(&self) -> Vec<Vec<Vec<f64>>> {
        let row = |row: &Value| row.as_array().unwrap().iter().map(|logit| logit.as_f64().unwrap()).collect();
        let rows = |output: &Value| output["logits"].as_array().unwrap().iter().map(row).collect();
        self.outputs().iter().map(rows).collect()
    }
}

fn generate(double: &Double, folder: &Path, prompts: &[Vec<u64>], more: &[&str]) -> Report {
    generate_so_many(double, folder, prompts, TOKENS, more)
}

fn generate_so_many(
    double: &Double,
    folder: &Path,
    prompts: &[Vec<u64>],
    tokens: usize,
    more: &[&str],
) -> Report {
    let tokens = tokens.to_string();
    let folder = folder.to_str().unwrap();
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
    Report(serde_json::from_slice(&output.stdout).unwrap())
}

/// A model's tokens on CUDA are those of Transformers, of its first `prompts` prompts, which get longer.
fn check(double: &Double, model: &str, prompts: usize, more: &[&str]) -> Report {
    let folder = tempfile::tempdir().unwrap();
    rewrite(model, folder.path(), Dtype::F32, Dtype::F32);
    let (prompts, expected): (Vec<_>, Vec<_>) = golden(model).prompts.into_iter().take(prompts).unzip();
    let report = generate(double, folder.path(), &prompts, &[&["--backend", "cuda"], more].concat());
    for (found, expected) in report.tokens().iter().zip(&expected) {
        assert_eq!(found[..], expected[..TOKENS], "{model} {more:?}");
    }
    report
}

/// The largest distance between two rows of logits, and the largest logit.
fn distance(one: &[f64], other: &[f64]) -> (f64, f64) {
    assert_eq!(one.len(), other.len());
    let apart = one.iter().zip(other).map(|(one, other)| (one - other).abs()).fold(0.0, f64::max);
    (apart, one.iter().map(|logit| logit.abs()).fold(0.0, f64::max))
}

/// A model in its own types, and with the same values in f32.
struct Twins {
    name: String,
    own: TempDir,
    wide: TempDir,
}

impl Twins {
    fn golden(model: &str, dtype: Dtype) -> Self {
        let twins = Self::empty(format!("{model} {dtype:?}"));
        rewrite(model, twins.own.path(), dtype, dtype);
        rewrite(model, twins.wide.path(), dtype, Dtype::F32);
        twins
    }

    fn llama(llama: &Llama) -> Self {
        let twins = Self::empty(format!("{llama:?}"));
        llama.write(twins.own.path(), false);
        llama.write(twins.wide.path(), true);
        twins
    }

    fn empty(name: String) -> Self {
        Self { name, own: tempfile::tempdir().unwrap(), wide: tempfile::tempdir().unwrap() }
    }

    /// Logits on CUDA are no further from those of the CPU in f32 than `allowed` says, of their row's largest: each prompt's, and those of
    /// each token after it while the tokens before are the same. Some prompt has `rows` of them at least.
    fn compare(
        &self,
        double: &Double,
        prompts: &[Vec<u64>],
        more: &[&str],
        rows: usize,
        allowed: impl Fn(f64) -> f64,
    ) -> Report {
        let Self { name, own, wide } = self;
        let run = |folder: &TempDir, backend: &str, more: &[&str]| {
            let more = [&["--backend", backend, "--logits"], more].concat();
            generate(double, folder.path(), prompts, &more)
        };
        let (cuda, cpu) = (run(own, "cuda", more), run(wide, "cpu", &[]));
        let (tokens, logits) = ([cuda.tokens(), cpu.tokens()], [cuda.logits(), cpu.logits()]);
        let (mut seen, mut worst) = (Vec::new(), 0.0_f64);
        for prompt in 0..prompts.len() {
            let [found, expected] = tokens.each_ref().map(|tokens| &tokens[prompt]);
            let alike = found.iter().zip(expected).take_while(|(found, expected)| found == expected).count();
            // The row after the last equal token is of equal tokens before it, too.
            let compared = (alike + 1).min(TOKENS);
            let rows = logits[0][prompt].iter().zip(&logits[1][prompt]).take(compared);
            for (row, (one, other)) in rows.enumerate() {
                let (apart, largest) = distance(one, other);
                worst = worst.max(apart / largest);
                assert!(
                    apart <= allowed(largest),
                    "{name} {more:?}, prompt {prompt}, row {row}: {apart} apart, the largest logit is {largest}"
                );
            }
            seen.push(compared);
        }
        println!("{name} {more:?}: {worst} of the largest logit at worst; rows of each prompt: {seen:?}");
        assert!(seen.iter().any(|seen| *seen >= rows), "{name} {more:?}: {seen:?} rows");
        cuda
    }
}

fn prompts_of(model: &str) -> Vec<Vec<u64>> {
    golden(model).prompts.into_iter().map(|(prompt, _)| prompt).collect()
}

/// Prompts of several tiles of the flash kernel and of part of one, for 80 tokens.
fn long_prompts() -> Vec<Vec<u64>> {
    [70_u64, 3, 20].map(|length| (0..length).map(|token| (token * 7 + length) % 80).collect()).to_vec()
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
fn falcon_gives_them_at_every_split_and_chunk() {
    let double = Double::new();
    for (prompts, more) in [
        (ALL, &[][..]),
        (4, &["--tp", "2"]),
        (4, &["--tp", "2", "--chunk", "16"]),
        (4, &["--pp", "2"]),
        (3, &["--tp", "2", "--pp", "2", "--chunk", "7"]),
        (3, &["--chunk", "1"]),
    ] {
        check(&double, "falcon-new", prompts, more);
    }
}

/// As many sequences at once and as many tokens of each as the CPU's parity has.
#[test]
fn sixteen_sequences_of_32_tokens_are_those_of_transformers() {
    let double = Double::new();
    for (model, more) in [("falcon-new", &["--tp", "2"][..]), ("llama-gqa", &["--pp", "2", "--chunk", "16"])]
    {
        let folder = tempfile::tempdir().unwrap();
        rewrite(model, folder.path(), Dtype::F32, Dtype::F32);
        let all = golden(model).prompts.into_iter().cycle().take(16);
        let (prompts, expected): (Vec<_>, Vec<_>) = all.unzip();
        let more = [&["--backend", "cuda"], more].concat();
        let report = generate_so_many(&double, folder.path(), &prompts, 32, &more);
        for (found, expected) in report.tokens().iter().zip(&expected) {
            assert_eq!(expected.len(), 32);
            assert_eq!(found, expected, "{model} {more:?}");
        }
        assert_eq!(report.tokens().len(), 16);
    }
}

#[test]
fn llama_gives_them_at_every_split_and_chunk() {
    let double = Double::new();
    for (prompts, more) in [
        (4, &["--tp", "2"][..]),
        (4, &["--pp", "2", "--chunk", "5"]),
        (4, &["--pp", "2", "--chunk", "16"]),
        (3, &["--tp", "2", "--pp", "2"]),
    ] {
        check(&double, "llama-gqa", prompts, more);
    }
}

/// The prompts fill all blocks, and the longest wants another one at its first decode, when the others have not yet all of their tokens: it is
/// preempted, and computed again when they are done.
fn check_preempted(model: &str) {
    let double = Double::new();
    for split in [["1", "1"], ["2", "1"], ["1", "2"], ["2", "2"]] {
        let more = ["--kv-blocks", "11", "--chunk", "48", "--tp", split[0], "--pp", split[1]];
        let preemptions = check(&double, model, ALL, &more).count("preemptions");
        assert!(preemptions > 0, "{model} {more:?}: nobody was preempted");
    }
}

#[test]
fn falcon_gives_them_after_preemption_at_every_split() {
    check_preempted("falcon-new");
}

#[test]
fn llama_gives_them_after_preemption_at_every_split() {
    check_preempted("llama-gqa");
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
        let report = check(&double, "llama-gqa", 3, more);
        assert_eq!(report.count("graph_replays"), replays, "{more:?}");
    }
}

#[test]
fn logits_in_f32_are_those_of_the_cpu() {
    let double = Double::new();
    for (model, more) in [("falcon-new", &["--tp", "2"][..]), ("llama-gqa", &["--pp", "2"]), ("mistral", &[])]
    {
        let tolerance = golden(model).tolerance;
        Twins::golden(model, Dtype::F32).compare(&double, &prompts_of(model), more, TOKENS, |_| tolerance);
    }
}

/// The last one's third row is of a step that was recorded, those after it are of steps that were replayed.
#[test]
fn logits_in_bf16_are_near_those_of_the_cpu() {
    let double = Double::new();
    for (model, more, rows, replays) in [
        ("falcon-new", &["--tp", "2", "--pp", "2", "--no-graphs"][..], ROWS_MIN, 0),
        ("llama-gqa", &["--no-graphs"], ROWS_MIN, 0),
        ("falcon-mq", &["--tp", "1"], 4, 2),
    ] {
        let twins = Twins::golden(model, Dtype::BF16);
        let near = |largest| GOLDEN_TOLERANCE * largest;
        let report = twins.compare(&double, &prompts_of(model), more, rows, near);
        assert_eq!(report.count("graph_replays"), replays, "{model} {more:?}");
    }
}

/// A seed's draws on the GPU are to the bit those that the host draws from the same logits, in any type; in f32 those of the CPU, too, whose
/// logits are a little different.
#[test]
fn draws_of_a_seed_are_those_of_the_host() {
    let double = Double::new();
    let mut all = BTreeSet::new();
    for (model, dtype, split) in [
        ("falcon-new", Dtype::F32, &[][..]),
        ("falcon-new", Dtype::F32, &["--tp", "2"]),
        ("llama-gqa", Dtype::F32, &["--pp", "2"]),
        ("falcon-mq", Dtype::BF16, &[]),
        ("mistral", Dtype::F16, &["--tp", "2"]),
    ] {
        let twins = Twins::golden(model, dtype);
        let prompts = &prompts_of(model)[..3];
        for seed in ["5", "42"] {
            let run = |folder: &TempDir, more: &[&str]| {
                let how = ["--temperature", "0.9", "--top-p", "0.9", "--seed", seed];
                generate(&double, folder.path(), prompts, &[&how, more].concat()).tokens()
            };
            let on_cuda = [&["--backend", "cuda"], split].concat();
            let drawn = run(&twins.own, &on_cuda);
            let of_logits = run(&twins.own, &[&on_cuda[..], &["--logits"]].concat());
            assert_eq!(drawn, of_logits, "{model} {dtype:?} {split:?}, seed {seed}: from the same logits");
            if dtype == Dtype::F32 {
                let on_cpu = run(&twins.own, &["--backend", "cpu"]);
                assert_eq!(drawn, on_cpu, "{model} {split:?}, seed {seed}: from the CPU's logits");
            }
            all.insert(drawn);
        }
    }
    assert_eq!(all.len(), 8, "each seed draws its own, and each model");
}

/// Heads that the flash kernel knows: prompts of several tiles, in chunks that begin within one, beside each other.
#[test]
fn the_flash_kernel_and_the_products_agree_with_the_cpu() {
    let double = Double::new();
    let [bf16, f16] = LLAMA_TOLERANCE;
    for (head_dim, dtype, tolerance) in
        [(64, Dtype::BF16, bf16), (64, Dtype::F16, f16), (128, Dtype::BF16, bf16)]
    {
        let twins = Twins::llama(&Llama::of_two_heads(head_dim, dtype));
        let run = |more: &[&str]| {
            twins.compare(&double, &long_prompts(), more, ROWS_MIN, |largest| tolerance * largest)
        };
        run(&["--chunk", "100"]);
        let products = run(&["--chunk", "40", "--no-flash"]);
        let flash = run(&["--chunk", "40"]);
        assert_ne!(flash.logits(), products.logits(), "one of them did not run: they round differently");
    }
}

/// Two query heads on each of two KV heads of a rank, and on each of four of a stage's only rank, whatever order threads run in.
#[test]
fn the_flash_kernel_agrees_with_the_cpu_at_every_split_and_order_of_threads() {
    let dtype = Dtype::BF16;
    let llama = Llama { query_heads: 8, kv_heads: 4, head_dim: 64, hidden: 64, dtype, norms: dtype };
    let twins = Twins::llama(&llama);
    for (split, order) in [("--tp", "reverse"), ("--pp", "random:3")] {
        let run = |double: &Double, more: &[&str]| {
            let more = [&[split, "2", "--chunk", "40"], more].concat();
            let near = |largest| LLAMA_TOLERANCE[0] * largest;
            twins.compare(double, &long_prompts(), &more, ROWS_MIN, near).logits()
        };
        let flash = run(&Double::new(), &[]);
        assert_ne!(flash, run(&Double::new(), &["--no-flash"]), "{split}: one of them did not run");
        assert_eq!(flash, run(&Double::new().with("CHARIOT_DOUBLE_ORDER", order), &[]), "{split} {order}");
    }
}

/// As some checkpoints have them; ranks of a stage and of two.
#[test]
fn norms_may_be_finer_than_matrices() {
    let llama = Llama { norms: Dtype::F32, ..Llama::of_two_heads(32, Dtype::BF16) };
    let twins = Twins::llama(&llama);
    let prompts = [vec![1_u64, 2, 3, 4, 5, 6, 7], vec![9, 8]];
    for more in [&["--pp", "2"][..], &["--no-graphs"]] {
        twins.compare(&Double::new(), &prompts, more, ROWS_MIN, |largest| NORMS_TOLERANCE * largest);
    }
}
