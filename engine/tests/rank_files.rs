//! `chariot-engine shard` with real weights: what it writes, what it leaves alone, what it refuses.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod ranks;

use std::collections::BTreeMap;
use std::process::{Command, Output};
use std::time::SystemTime;

use camino::{Utf8Path, Utf8PathBuf};
use chariot_engine::model::{Dummy, HuggingFace, ModelConfig, ShardFile, TensorSource};
use chariot_engine::shard::{Dtype, Parallel};
use ranks::{Chunk, Model, SINGLE, Widened};
use serde_json::Value;

const TOKENS: [u32; 9] = [3, 1, 4, 1, 5, 9, 2, 6, 5];
const PRESET: &str = "name: tiny\nfamily: llama\nhidden_size: 64\nlayers: 2\nquery_heads: 4\nkv_heads: 2\nhead_dim: 16\nffn_size: 96\n\
    vocab_size: 100\nparallel_attention: false\nnorms_per_layer: 2\ntied_embedding: false\n";

struct Bench(tempfile::TempDir);

impl Bench {
    /// With a simulated cluster, a measured one and a preset.
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        let platform =
            format!("{}/../pipelines/platforms/azure-nc96ads-a100-v4-x2.yaml", env!("CARGO_MANIFEST_DIR"));
        for (on, out) in [("simulator", "simulated.json"), ("cpu", "measured.json")] {
            bench.succeeds(&format!("cluster --platform {platform} --on {on} --out {out}"));
        }
        fs_err::write(bench.path("tiny.yaml"), PRESET).unwrap();
        bench
    }

    fn path(&self, name: &str) -> Utf8PathBuf {
        Utf8Path::from_path(self.0.path()).unwrap().join(name)
    }

    /// A server that starts, where it should not, ends with the time.
    fn run(&self, args: &str) -> Output {
        let mut command = Command::new("timeout");
        command.args(["120", env!("CARGO_BIN_EXE_chariot-engine")]);
        command.args(args.split(' ')).current_dir(self.0.path()).output().unwrap()
    }

    fn succeeds(&self, args: &str) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it says on stderr.
    fn refuses(&self, args: &str, expected: &str) -> String {
        let output = self.run(args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args}: expected `{expected}` in: {stderr}");
        assert!(stderr.contains(expected), "{args}: expected `{expected}` in: {stderr}");
        stderr
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs_err::read(self.path(name)).unwrap()).unwrap()
    }

    /// File name -> when it was written.
    fn files(&self, folder: &str) -> BTreeMap<String, SystemTime> {
        let entries = fs_err::read_dir(self.path(folder)).unwrap().map(Result::unwrap);
        entries
            .map(|entry| {
                let name = entry.file_name().to_str().unwrap().to_owned();
                (name, entry.metadata().unwrap().modified().unwrap())
            })
            .collect()
    }

    fn logits(&self, folder: &str, parallel: Parallel) -> Vec<Vec<f32>> {
        let config =
            serde_json::from_value(self.json(&format!("{folder}/weights.json"))["weights"]["config"].take());
        let config: ModelConfig = config.unwrap();
        let mut model = Model::load(&config, parallel, |plan| {
            let rank = plan.stage * parallel.tp + plan.tp_rank;
            let file = self.path(&format!("{folder}/rank-{rank:03}.safetensors"));
            Box::new(Widened(ShardFile::open(&file).unwrap()))
        });
        prefill(&mut model)
    }
}

fn prefill(model: &mut Model) -> Vec<Vec<f32>> {
    model.step(&[Chunk { seq: 0, context: 0, tokens: &TOKENS }])
}

fn golden(name: &str) -> Utf8PathBuf {
    Utf8PathBuf::from(format!("{}/tests/parity/golden/{name}", env!("CARGO_MANIFEST_DIR")))
}

/// What a model in rank files computes is what it computes from their source.
fn expect_same(
    bench: &Bench,
    folder: &str,
    parallel: Parallel,
    open: impl Fn(&chariot_engine::model::StagePlan) -> Box<dyn TensorSource>,
) {
    let config: ModelConfig =
        serde_json::from_value(bench.json(&format!("{folder}/weights.json"))["weights"]["config"].take())
            .unwrap();
    assert_eq!(bench.logits(folder, parallel), prefill(&mut Model::load(&config, parallel, open)));
}

#[test]
fn a_simulated_cluster_gets_the_manifest_alone() {
    let bench = Bench::new();
    bench.succeeds("shard --cluster simulated.json --model tiny.yaml --tp 2 --pp 1 --out weights.json");
    let manifest = bench.json("weights.json");
    assert!(manifest.get("weights").is_none());
    assert!(manifest["stages"][0]["ranks"][0].get("key").is_none());
    assert!(!bench.files(".").keys().any(|name| name.starts_with("rank-")));
}

#[test]
fn a_measured_cluster_gets_a_dummy() {
    let bench = Bench::new();
    fs_err::create_dir(bench.path("out")).unwrap();
    let said = bench
        .succeeds("shard --cluster measured.json --model tiny.yaml --tp 2 --pp 2 --out out/weights.json");
    assert!(said.contains("rank files: 4 written"), "{said}");
    assert!(said.contains("(measured)"), "{said}");
    let manifest = bench.json("out/weights.json");
    assert_eq!(manifest["weights"]["origin"]["dummy"]["seed"], 0);
    assert_eq!(manifest["weights"]["dtype"], "bfloat16");
    // 2 x kv_heads 1 x head_dim 16 x 1 layer x 2 bytes.
    assert_eq!(manifest["memory"]["kv_bytes_per_token"], 64);
    assert_eq!(bench.files("out").len(), 5, "four ranks and the manifest, no leftovers");
    expect_same(&bench, "out", Parallel { tp: 2, pp: 2 }, |plan| {
        Box::new(Widened(Dummy::new(0, Dtype::Bfloat16, plan).unwrap()))
    });
}

#[test]
fn real_dtypes_count_their_real_bytes() {
    let bench = Bench::new();
    let bytes = |dtype: &str| {
        let out = format!("{dtype}.json");
        bench.succeeds(&format!("shard --cluster simulated.json --model tiny.yaml --tp 1 --pp 1 --out {out} --dummy 4 --dtype {dtype}"));
        let memory = bench.json(&out)["memory"].take();
        ["weight_bytes_max", "kv_bytes_per_token"].map(|field| memory[field].as_u64().unwrap())
    };
    assert_eq!(bytes("bf16"), bytes("f16"));
    assert_eq!(bytes("f32"), bytes("f16").map(|bytes| 2 * bytes));
}

#[test]
fn only_files_that_would_change_are_written() {
    let bench = Bench::new();
    let shard = |seed: &str| {
        bench.succeeds(&format!(
            "shard --cluster simulated.json --model tiny.yaml --tp 2 --pp 1 --out weights.json --dummy {seed}"
        ))
    };
    assert!(shard("1").contains("2 written, 0 as they should be"));
    let (first, manifest) = (bench.files("."), fs_err::read(bench.path("weights.json")).unwrap());
    assert!(shard("1").contains("rank files: 2 as they should be"));
    let rank = "rank-001.safetensors";
    assert_eq!(bench.files(".")[rank], first[rank]);
    assert_eq!(fs_err::read(bench.path("weights.json")).unwrap(), manifest, "byte for byte");
    // A file that was lost or cut short is written again, alone.
    let whole = fs_err::read(bench.path(rank)).unwrap();
    fs_err::write(bench.path(rank), &whole[..whole.len() - 1]).unwrap();
    assert!(shard("1").contains("1 written, 1 as they should be"));
    assert_eq!(fs_err::read(bench.path(rank)).unwrap(), whole);
    // A run of another seed that was killed before the manifest leaves that seed's files.
    shard("2");
    fs_err::write(bench.path("weights.json"), &manifest).unwrap();
    assert!(shard("1").contains("2 written, 0 as they should be"));
    assert_eq!(fs_err::read(bench.path(rank)).unwrap(), whole);
}

#[test]
fn a_changed_layer_rewrites_its_stage_alone() {
    let bench = Bench::new();
    let folder = bench.path("falcon");
    fs_err::create_dir(&folder).unwrap();
    fs_err::copy(golden("falcon-old").join("config.json"), folder.join("config.json")).unwrap();
    let config = fs_err::read_to_string(folder.join("config.json")).unwrap();
    let config = ModelConfig::parse(&config, "falcon").unwrap();
    ranks::folder::write_random(&folder, &config);
    let shard = "shard --cluster measured.json --model falcon/config.json --weights falcon --tp 2 --pp 3 --out weights.json";
    assert!(bench.succeeds(shard).contains("6 written, 0 as they should be"));
    let before = bench.json("weights.json");
    let file = folder.join("model.safetensors");
    let mut bytes = fs_err::read(&file).unwrap();
    // The last value of the file belongs to the last layer or the final norm: both on the last stage.
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let entry: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let name = "transformer.h.2.mlp.dense_4h_to_h.weight";
    let at = 8 + header + entry[name]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[at] ^= 1;
    fs_err::write(&file, &bytes).unwrap();
    assert!(bench.succeeds(shard).contains("2 written, 4 as they should be"));
    let after = bench.json("weights.json");
    assert_ne!(before["weights"]["inputs"][name], after["weights"]["inputs"][name]);
    assert_eq!(before["stages"][1], after["stages"][1], "digests of kept files are kept");
    assert_ne!(before["stages"][2], after["stages"][2]);
}

const LLAMA: &str = r#"{"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 2, "intermediate_size": 96, "vocab_size": 100, "tie_word_embeddings": false}"#;

/// Norms in f32 beside matrices in bf16: each keeps its own type, and the tokens are those of the folder.
#[test]
fn tensors_keep_their_own_types() {
    let bench = Bench::new();
    let folder = bench.path("mixed");
    fs_err::create_dir(&folder).unwrap();
    fs_err::write(folder.join("config.json"), LLAMA).unwrap();
    ranks::folder::write_mixed(&folder, &ModelConfig::parse(LLAMA, "mixed").unwrap());
    let mut paths = Vec::new();
    for (name, parallel) in [("one", SINGLE), ("four", Parallel { tp: 2, pp: 2 })] {
        fs_err::create_dir(bench.path(name)).unwrap();
        let Parallel { tp, pp } = parallel;
        bench.succeeds(&format!(
            "shard --cluster measured.json --model mixed/config.json --weights mixed --tp {tp} --pp {pp} --out {name}/weights.json"
        ));
        let manifest = bench.json(&format!("{name}/weights.json"));
        assert_eq!(manifest["weights"]["dtype"], "bfloat16");
        let mut fullest = 0;
        for stage in manifest["stages"].as_array().unwrap() {
            let tensors = stage["ranks"][0]["tensors"].as_array().unwrap();
            for tensor in tensors {
                let is_norm = tensor["name"].as_str().unwrap().contains("norm");
                assert_eq!(tensor["dtype"], if is_norm { "float32" } else { "bfloat16" }, "{tensor}");
            }
            let bytes: u64 = tensors.iter().map(|tensor| tensor["bytes"].as_u64().unwrap()).sum();
            assert_eq!(stage["ranks"][0]["bytes"], bytes);
            fullest = bytes.max(fullest);
        }
        assert_eq!(manifest["memory"]["weight_bytes_max"], fullest);
        expect_same(&bench, name, parallel, |plan| {
            Box::new(Widened(HuggingFace::open(&folder, plan).unwrap()))
        });
        let tokens = |row: &Vec<f32>| ranks::largest(row);
        paths.push(bench.logits(name, parallel).iter().map(tokens).collect::<Vec<_>>());
    }
    assert_eq!(paths[0], paths[1]);
    // In their own types, which the KV cache then has as well.
    let config = ModelConfig::parse(LLAMA, "mixed").unwrap();
    let file = ShardFile::open(&bench.path("one/rank-000.safetensors")).unwrap();
    let from_file = prefill(&mut Model::load_from(&config, &file));
    let source = HuggingFace::open(&folder, &ranks::whole(&config)).unwrap();
    assert_eq!(from_file, prefill(&mut Model::load_from(&config, &source)));
}

/// Queries, keys and values of a type each, and so gates and what they gate: what f32 computes, to the bit, in any split, from the folder and
/// from rank files.
#[test]
fn parts_of_several_types_compute_what_f32_computes() {
    let bench = Bench::new();
    let config = ModelConfig::parse(LLAMA, "several").unwrap();
    let [folder, whole] = ["several", "whole"].map(|name| bench.path(name));
    for folder in [&folder, &whole] {
        fs_err::create_dir(folder).unwrap();
        fs_err::write(folder.join("config.json"), LLAMA).unwrap();
    }
    ranks::folder::write_of_types(&folder, &whole, &config, |name| match name.split('.').nth_back(1) {
        Some("q_proj" | "gate_proj") => safetensors::Dtype::BF16,
        Some("k_proj") => safetensors::Dtype::F16,
        _ => safetensors::Dtype::F32,
    });
    let shard = |name: &str, Parallel { tp, pp }| {
        let model = "--model several/config.json --weights several";
        bench.succeeds(&format!(
            "shard --cluster measured.json {model} --tp {tp} --pp {pp} --out {name}/weights.json"
        ))
    };
    for (name, parallel) in
        [("one", SINGLE), ("two", Parallel { tp: 4, pp: 1 }), ("four", Parallel { tp: 2, pp: 2 })]
    {
        let of = |folder: &Utf8PathBuf| {
            prefill(&mut Model::load(&config, parallel, |plan| {
                Box::new(HuggingFace::open(folder, plan).unwrap())
            }))
        };
        let expected = of(&whole);
        assert_eq!(of(&folder), expected, "{parallel:?}");
        fs_err::create_dir(bench.path(name)).unwrap();
        shard(name, parallel);
        assert_eq!(bench.logits(name, parallel), expected, "{parallel:?}");
        let manifest = bench.json(&format!("{name}/weights.json"));
        for tensor in manifest["stages"][0]["ranks"][0]["tensors"].as_array().unwrap() {
            let is_gate = tensor["name"].as_str().unwrap().contains("gate");
            assert_eq!(tensor["dtype"], if is_gate { "bfloat16" } else { "float32" }, "{tensor}");
        }
    }
    assert!(shard("one", SINGLE).contains("rank files: 1 as they should be"));
    // The same bytes of another type are other values.
    let file = folder.join("model.safetensors");
    let queries = |dtype| format!("model.layers.0.self_attn.q_proj.weight\":{{\"dtype\":{dtype}");
    let other = with_header(&fs_err::read(&file).unwrap(), &queries("\"BF16\""), &queries("\"F16\" "));
    fs_err::write(&file, other).unwrap();
    assert!(shard("one", SINGLE).contains("1 written, 0 as they should be"));
}

#[test]
fn every_golden_survives_sharding() {
    let bench = Bench::new();
    for (name, parallel) in [
        ("falcon-new", Parallel { tp: 4, pp: 2 }),
        ("falcon-mq", Parallel { tp: 8, pp: 1 }),
        ("falcon-old-sequential", Parallel { tp: 2, pp: 3 }),
        ("llama-gqa", Parallel { tp: 8, pp: 1 }),
        ("mistral", SINGLE),
    ] {
        let (folder, Parallel { tp, pp }) = (golden(name), parallel);
        fs_err::create_dir(bench.path(name)).unwrap();
        bench.succeeds(&format!(
            "shard --cluster measured.json --model {folder}/config.json --weights {folder} --tp {tp} --pp {pp} --out {name}/weights.json"
        ));
        expect_same(&bench, name, parallel, |plan| {
            Box::new(Widened(HuggingFace::open(&folder, plan).unwrap()))
        });
    }
}

/// A bench that serves two requests on the ranks of `weights.json`.
const TRIAL: &str = r#"{"format": 1, "scheduler": {"policy": "sarathi", "chunk": 64, "batch_cap": 2},
    "workload": {"requests": 2, "arrivals": {"kind": "static", "qps": 1000}, "lengths": {"kind": "fixed", "prompt": 8, "output": 4}},
    "max_model_len": 64, "block_size": 16, "gpu_memory_utilization": 0.85, "time_limit_s": 60.0,
    "seed": 7, "repetition": 0, "band": "central", "compat": "honest"}"#;

/// The bytes with some text of the header in the place of other text of the same length.
fn with_header(whole: &[u8], old: &str, new: &str) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let at = whole.windows(old.len()).position(|text| text == old.as_bytes()).unwrap();
    [&whole[..at], new.as_bytes(), &whole[at + old.len()..]].concat()
}

/// The bytes with one of them changed.
fn with_flip(whole: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    bytes[at] ^= 0x40;
    bytes
}

/// Ways to spoil a file of safetensors that its own header tells, and what is then said of it.
fn told_by_the_header(whole: &[u8]) -> Vec<(Vec<u8>, String)> {
    let length = whole.len();
    let of_length = |found| format!("expected {length} bytes, as its header says, found {found}");
    let no_header = "expected a safetensors header, found ";
    vec![
        (whole[..length - 1].to_vec(), of_length(length - 1)),
        (whole[..length / 2].to_vec(), of_length(length / 2)),
        ([whole, b"!"].concat(), of_length(length + 1)),
        (Vec::new(), format!("{no_header}a file of 0 bytes")),
        (whole[..5].to_vec(), format!("{no_header}a file of 5 bytes")),
        (with_flip(whole, 7), format!("{no_header}one of ")),
        (with_flip(whole, 8), no_header.to_owned()),
    ]
}

#[test]
fn a_damaged_rank_file_is_not_computed_with_and_shard_mends_it() {
    let bench = Bench::new();
    let platform = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines/platforms/cpu-2x4.yaml");
    bench.succeeds(&format!("cluster --platform {platform} --on cpu --out measured.json"));
    let shard = "shard --cluster measured.json --model tiny.yaml --tp 2 --pp 1 --out weights.json";
    bench.succeeds(shard);
    fs_err::write(bench.path("config.json"), TRIAL).unwrap();
    let trial = "bench --cluster measured.json --weights weights.json --config config.json --out trial";
    let name = "rank-001.safetensors";
    let [whole, other] = [name, "rank-000.safetensors"].map(|file| fs_err::read(bench.path(file)).unwrap());
    let manifest = bench.json("weights.json");
    let tensors = manifest["stages"][0]["ranks"][1]["tensors"].as_array().unwrap();
    let digest = |name: &str| {
        let tensor = tensors.iter().find(|tensor| tensor["name"] == name).unwrap();
        format!("{name} of digest {}, found ", tensor["digest"].as_str().unwrap())
    };
    let values = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let absent = "expected tensor lm_head.weight, found none of that name".to_owned();
    let mut damages = told_by_the_header(&whole);
    damages.extend([
        (with_flip(&whole, values), digest("embedding.weight")),
        (with_flip(&whole, whole.len() - 1), digest("lm_head.weight")),
        // The first that is read of those that differ.
        (other, digest("layers.0.attention.qkv.weight")),
        (with_header(&whole, "lm_head.weight", "lm_head.weighs"), absent),
        // All bytes are as they were; what they mean is not.
        (with_header(&whole, "\"BF16\"", "\"F16\" "), "of dtype Bfloat16, found Float16".to_owned()),
        (with_header(&whole, "\"BF16\"", "\"I16\" "), "of dtype F32, F16 or BF16, found I16".to_owned()),
    ]);
    let check = |said: &str| {
        let told = bench.refuses(trial, said);
        let place = told.starts_with("error: rank 1: ") && told.contains(name);
        assert!(place && told.ends_with("; run `chariot-engine shard` again\n"), "{told}");
        assert!(bench.files("trial").is_empty(), "expected no result: {said}");
        assert!(bench.succeeds(shard).contains("1 written, 1 as they should be"), "{said}");
        assert!(fs_err::read(bench.path(name)).unwrap() == whole, "{said}");
    };
    for (bytes, said) in damages {
        fs_err::write(bench.path(name), bytes).unwrap();
        check(&said);
    }
    fs_err::remove_file(bench.path(name)).unwrap();
    check("rank-001.safetensors: expected a file, found none");
    let mut without = manifest.clone();
    without["stages"][0]["ranks"].as_array_mut().unwrap().pop();
    fs_err::write(bench.path("weights.json"), without.to_string()).unwrap();
    bench.refuses(trial, "weights.json: expected what rank 1 holds, found no such rank; run `chariot-engine");
    bench.succeeds(shard);
    bench.succeeds(trial);
}

/// A folder has no digests: what its headers do not tell is not found.
#[test]
fn a_damaged_folder_is_the_users_to_mend_whoever_reads_it() {
    let bench = Bench::new();
    for (model, golden) in [("model", golden("mistral")), ("parts", golden("falcon-new"))] {
        fs_err::create_dir(bench.path(model)).unwrap();
        for entry in fs_err::read_dir(golden).unwrap().map(Result::unwrap) {
            fs_err::copy(entry.path(), bench.path(model).as_std_path().join(entry.file_name())).unwrap();
        }
    }
    let generate = |model| format!("generate --model {model} --prompt-ids 1,2 --max-tokens 1 --tp 2");
    let serve = |model| format!("serve --model {model} --port 0 --tp 2");
    let file = bench.path("model/model.safetensors");
    let whole = fs_err::read(&file).unwrap();
    bench.succeeds(&generate("model"));
    let mut damages = told_by_the_header(&whole);
    damages.extend([
        (
            with_header(&whole, "model.norm.weight", "model.norm.weighs"),
            "expected tensor model.norm.weight, found none of that name".to_owned(),
        ),
        (
            with_header(&whole, "[250,64]", "[64,250]"),
            "expected lm_head.weight of shape [250, 64], found [64, 250]".to_owned(),
        ),
    ]);
    let check = |model, said: &str| {
        for args in [generate(model), serve(model)] {
            let told = bench.refuses(&args, said);
            // A server asks for the weights' types before it starts any rank.
            assert_eq!(told.contains("error: rank "), args.starts_with("generate"), "{args}: {told}");
            assert!(told.ends_with("; fetch the model's files again\n"), "{args}: {told}");
        }
    };
    for (bytes, said) in damages {
        fs_err::write(&file, bytes).unwrap();
        check("model", &format!("model/model.safetensors: {said}"));
    }
    fs_err::remove_file(&file).unwrap();
    check("model", "model: expected model.safetensors or model.safetensors.index.json, found neither");
    fs_err::remove_file(bench.path("parts/model-00002-of-00003.safetensors")).unwrap();
    check("parts", "expected parts/model-00002-of-00003.safetensors, which holds transformer.");
    // Not of a file, but of what was asked for.
    fs_err::write(&file, whole).unwrap();
    let config = fs_err::read_to_string(bench.path("model/config.json")).unwrap();
    let config = config.replace("\"sliding_window\": null", "\"sliding_window\": 2");
    fs_err::write(bench.path("model/config.json"), config).unwrap();
    let said = "expected sequences of at most 2 tokens, the model's attention window, found 3\n";
    bench.refuses(&generate("model"), said);
}

#[test]
fn wrong_weights_are_the_users_to_mend() {
    let bench = Bench::new();
    let shard = "shard --cluster measured.json --tp 1 --pp 1 --out weights.json";
    bench.refuses(
        &format!("{shard} --model tiny.yaml --weights {}", golden("mistral")),
        "config.json: expected the shape of tiny.yaml",
    );
    bench.refuses(
        &format!("{shard} --model tiny.yaml --weights absent"),
        "absent/config.json: expected a file, found none",
    );
    bench.refuses(&format!("{shard} --model tiny.yaml --weights absent --dummy 1"), "cannot be used with");
    fs_err::create_dir(bench.path("empty")).unwrap();
    fs_err::copy(golden("mistral").join("config.json"), bench.path("empty/config.json")).unwrap();
    bench.refuses(
        &format!("{shard} --model empty/config.json --weights empty"),
        "empty: expected model.safetensors or model.safetensors.index.json, found neither",
    );
    let model = fs_err::read(golden("mistral").join("model.safetensors")).unwrap();
    fs_err::write(bench.path("empty/model.safetensors"), &model[..model.len() / 2]).unwrap();
    bench.refuses(
        &format!("{shard} --model empty/config.json --weights empty"),
        "bytes, as its header says, found",
    );
    assert!(!bench.path("weights.json").exists());
}
