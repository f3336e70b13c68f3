use camino::{Utf8Path, Utf8PathBuf};
use half::{bf16, f16};
use proptest::prelude::*;

use crate::model::{
    Dummy, HuggingFace, ModelConfig, ModelError, ShardFile, StagePlan, TensorSource, rank_file,
};
use crate::shard::{Division, Dtype, Parallel, Tensor};

const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1,
    "intermediate_size": 12, "vocab_size": 10, "tie_word_embeddings": true}"#;

fn plan() -> StagePlan {
    let config = ModelConfig::parse(CONFIG, "tiny").unwrap();
    StagePlan {
        config,
        parallel: Parallel { tp: 1, pp: 1 },
        stage: 0,
        tp_rank: 0,
        max_positions: 8,
        batch_tokens: 8,
    }
}

fn tensors(dtype: Dtype) -> Vec<Tensor> {
    Division::new(&plan().config.shape, plan().parallel).unwrap().tensors(&plan().config.shape, 0, dtype)
}

fn wanted(name: &str) -> Tensor {
    tensors(Dtype::Float32).into_iter().find(|tensor| tensor.name == name).unwrap()
}

/// A rank file of the tiny model.
fn rank_bytes() -> Vec<u8> {
    let source = Dummy::new(1, Dtype::Float16, &plan()).unwrap();
    let mut bytes = Vec::new();
    rank_file::write(&mut bytes, "some key", &source, &mut tensors(Dtype::Float16)).unwrap();
    bytes
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Utf8Path {
        Utf8Path::from_path(self.0.path()).unwrap()
    }

    fn write(&self, name: &str, content: &[u8]) -> Utf8PathBuf {
        fs_err::write(self.path().join(name), content).unwrap();
        self.path().join(name)
    }

    /// The message without the folder's own path.
    fn message<T: std::fmt::Debug>(&self, result: Result<T, ModelError>) -> String {
        result
            .unwrap_err()
            .to_string()
            .replace(&format!("{}/", self.path()), "")
            .replace(self.path().as_str(), "FOLDER")
    }

    fn hugging_face(&self, name: &str) -> String {
        match HuggingFace::open(self.path(), &plan()) {
            Ok(source) => self.message(source.tensor(&wanted(name))),
            error => self.message(error),
        }
    }
}

/// A file with a header said outright, and as many zeros as it wants.
fn file(header: &str, data: usize) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn a_rank_file_gives_back_what_was_written() {
    let folder = Folder::new();
    let dummy = Dummy::new(1, Dtype::Float16, &plan()).unwrap();
    let mut tensors = tensors(Dtype::Float16);
    let mut bytes = Vec::new();
    rank_file::write(&mut bytes, "some key", &dummy, &mut tensors).unwrap();
    let rank = ShardFile::open(&folder.write("rank.safetensors", &bytes)).unwrap();
    assert_eq!(rank.key(), Some("some key"));
    for tensor in &tensors {
        let part = rank.tensor(tensor).unwrap();
        assert_eq!(part, dummy.tensor(tensor).unwrap(), "{}", tensor.name);
        assert_eq!(tensor.digest.as_deref(), Some(blake3::hash(&part.bytes).to_hex().as_str()));
    }
    assert_eq!(bytes, rank_bytes(), "same inputs, same bytes");
}

#[test]
fn a_broken_rank_file_says_how() {
    let folder = Folder::new();
    let bytes = rank_bytes();
    let open = |bytes: &[u8]| folder.message(ShardFile::open(&folder.write("rank.safetensors", bytes)));
    assert_eq!(
        open(&bytes[..bytes.len() - 1]),
        format!(
            "rank.safetensors: expected {} bytes, as its header says, found {}",
            bytes.len(),
            bytes.len() - 1
        )
    );
    assert_eq!(open(&[]), "rank.safetensors: expected a safetensors header, found a file of 0 bytes");
    assert_eq!(
        open(b"PK\x03\x04, a zip file"),
        "rank.safetensors: expected a safetensors header, found one of 2333181455372602192 bytes in a file of 16 bytes"
    );
    assert_eq!(
        open(&file("no json", 0)),
        "rank.safetensors: expected a safetensors header, found expected ident at line 1 column 2"
    );
    let absent = ShardFile::open(&folder.path().join("absent"));
    assert_eq!(folder.message(absent), "absent: expected a file, found none");
}

#[test]
fn a_wrong_tensor_says_file_name_expected_and_found() {
    let folder = Folder::new();
    let check = |header: &str, data, name: &str, expected: &str| {
        folder.write("model.safetensors", &file(header, data));
        assert_eq!(folder.hugging_face(name), expected);
    };
    let embedding = |dtype: &str, shape: &str, end: usize| {
        format!(
            r#"{{"model.embed_tokens.weight": {{"dtype": "{dtype}", "shape": {shape}, "data_offsets": [0, {end}]}}}}"#
        )
    };
    check(
        &embedding("F32", "[10, 8]", 320),
        320,
        "final_norm.weight",
        "model.safetensors: expected tensor model.norm.weight, found none of that name",
    );
    check(
        &embedding("F32", "[8, 10]", 320),
        320,
        "embedding.weight",
        "model.safetensors: expected model.embed_tokens.weight of shape [10, 8], found [8, 10]",
    );
    check(
        &embedding("I64", "[10, 8]", 640),
        640,
        "embedding.weight",
        "model.safetensors: expected model.embed_tokens.weight of dtype F32, F16 or BF16, found I64",
    );
}

#[test]
fn a_wrong_index_says_what_is_missing() {
    let folder = Folder::new();
    assert_eq!(
        folder.hugging_face("embedding.weight"),
        "FOLDER: expected model.safetensors or model.safetensors.index.json, found neither"
    );
    let check = |index: &str, expected: &str| {
        folder.write("model.safetensors.index.json", index.as_bytes());
        assert_eq!(folder.hugging_face("embedding.weight"), expected);
    };
    check(
        r#"{"weight_map": {"model.embed_tokens.weight": "model-1.safetensors"}}"#,
        "model.safetensors.index.json: expected model-1.safetensors, which holds model.embed_tokens.weight, found no such file",
    );
    check(
        "{}",
        "model.safetensors.index.json: expected an index with a weight_map, found missing field `weight_map` at line 1 column 2",
    );
    check(
        r#"{"weight_map": {}}"#,
        "model.safetensors.index.json: expected an index with a weight_map, found an empty one",
    );
    folder.write("model-1.safetensors", &file("{}", 0));
    check(
        r#"{"weight_map": {"model.norm.weight": "model-1.safetensors"}}"#,
        "model.safetensors.index.json: expected tensor model.embed_tokens.weight, found none of that name",
    );
}

/// Queries, keys and values, each of a type: f32 has them all, exactly.
#[test]
fn parts_of_several_types_become_f32_and_those_of_one_stay() {
    // Eight bits hold each.
    let value = |index: u8| f32::from(index) / if index.is_multiple_of(2) { 4.0 } else { -4.0 };
    let encoded = |value: f32, dtype| match dtype {
        "F32" => value.to_le_bytes().to_vec(),
        "F16" => f16::from_f32(value).to_le_bytes().to_vec(),
        _ => bf16::from_f32(value).to_le_bytes().to_vec(),
    };
    for (types, expected) in [
        (["F32", "F16", "BF16"], Dtype::Float32),
        (["BF16", "BF16", "F16"], Dtype::Float32),
        (["F16", "F16", "F16"], Dtype::Float16),
    ] {
        let (mut entries, mut data) = (Vec::new(), Vec::new());
        for (part, (name, dtype)) in (0..).zip(["q", "k", "v"].into_iter().zip(types)) {
            let start = data.len();
            data.extend((64 * part..64 * (part + 1)).flat_map(|index| encoded(value(index), dtype)));
            entries.push(format!(
                r#""model.layers.0.self_attn.{name}_proj.weight": {{"dtype": "{dtype}", "shape": [8, 8], "data_offsets": [{start}, {}]}}"#,
                data.len()
            ));
        }
        let folder = Folder::new();
        let header = file(&format!("{{{}}}", entries.join(", ")), 0);
        folder.write("model.safetensors", &[header, data].concat());
        let source = HuggingFace::open(folder.path(), &plan()).unwrap();
        let wanted = wanted("layers.0.attention.qkv.weight");
        let part = source.tensor(&wanted).unwrap();
        assert_eq!(part.widen(), (0..192).map(value).collect::<Vec<_>>(), "{types:?}");
        let mut bytes = Vec::new();
        let streamed = source.stream(&wanted, &mut |piece| {
            bytes.extend_from_slice(&piece);
            Ok(())
        });
        assert!(bytes == *part.bytes, "{types:?}: a stream of the same bytes");
        let dtypes =
            [part.dtype, streamed.unwrap(), source.dtype_of(&wanted).unwrap(), source.dtype().unwrap()];
        assert_eq!(dtypes, [expected; 4], "{types:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever stands where a header should, opening and reading answer; they do not panic.
    #[test]
    fn corrupted_files_never_panic(
        flips in prop::collection::vec((0..1200_usize, any::<u8>()), 1..6),
        cut in prop::option::of(0..1200_usize),
    ) {
        let mut bytes = rank_bytes();
        for (at, byte) in flips {
            let length = bytes.len();
            bytes[at % length] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut);
        }
        let folder = Folder::new();
        if let Ok(rank) = ShardFile::open(&folder.write("rank.safetensors", &bytes)) {
            for tensor in tensors(Dtype::Float16) {
                let _ = rank.tensor(&tensor);
            }
        }
    }

    /// Nor for offsets and shapes at the ends of their range.
    #[test]
    fn absurd_numbers_never_panic(
        numbers in prop::collection::vec(prop_oneof![0..9_u64, any::<u64>(), Just(u64::MAX)], 8),
        dtype in prop_oneof![Just("F32"), Just("F4"), Just("BOOL"), Just("F16")],
    ) {
        let [a, b, c, d, e, f, g, h] = numbers[..] else { unreachable!("eight were asked for") };
        let header = format!(
            r#"{{"x": {{"dtype": "{dtype}", "shape": [{a}, {b}], "data_offsets": [{c}, {d}]}},
                 "y": {{"dtype": "F16", "shape": [{e}, {f}], "data_offsets": [{g}, {h}]}}}}"#
        );
        let folder = Folder::new();
        let _ = ShardFile::open(&folder.write("rank.safetensors", &file(&header, 16)));
    }
}
