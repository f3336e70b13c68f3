use super::*;
use crate::shape::F16_BYTES;

fn falcon_180b() -> ModelShape {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines/models/falcon-180b.yaml");
    ModelShape::parse(&fs_err::read_to_string(path).unwrap(), "unused").unwrap()
}

fn divide(tp: u32, pp: u32) -> Result<Division, ShardError> {
    Division::new(&falcon_180b(), Parallel { tp, pp })
}

#[test]
fn both_splits_of_falcon_180b_hold_20480_kv_bytes_a_token() {
    for (tp, pp) in [(8, 1), (4, 2)] {
        assert_eq!(divide(tp, pp).unwrap().kv_bytes_per_token(&falcon_180b(), Dtype::Float16), 20_480);
    }
}

#[test]
fn what_does_not_divide_says_what_and_why() {
    for (tp, pp, expected) in [
        (3, 1, "expected 232 query heads divisible by tp=3, found remainder 1"),
        (29, 1, "expected 8 kv heads divisible by tp=29, or tp by them"),
        (1, 81, "expected pp of at most 80, the layers of the model, found 81"),
        (0, 1, "tp: expected 1 or more, found 0"),
    ] {
        assert_eq!(divide(tp, pp).unwrap_err().to_string(), expected);
    }
}

#[test]
fn layers_left_over_go_to_the_first_stages() {
    let division = divide(1, 3).unwrap();
    assert_eq!(division.stage_layers, [27, 27, 26]);
    assert_eq!(division.layer_range(2), 54..80);
}

#[test]
fn all_tensors_but_norms_are_matrices() {
    let falcon = falcon_180b();
    let llama = ModelShape { family: Family::Llama, tied_embedding: false, ..falcon.clone() };
    for shape in [falcon, llama] {
        let division = Division::new(&shape, Parallel { tp: 2, pp: 2 }).unwrap();
        for tensor in (0..2).flat_map(|stage| division.tensors(&shape, stage, Dtype::Float16)) {
            let mut dtypes = Dtypes::uniform(Dtype::Float16);
            dtypes.others.insert(tensor.name.clone(), Dtype::Float32);
            let odd = (tensor.shape.len() > 1).then_some((tensor.name.as_str(), Dtype::Float32));
            assert_eq!(dtypes.odd_matrix(), odd);
        }
    }
}

#[test]
fn every_split_holds_the_model_once_but_for_norms_and_padding() {
    let shape = falcon_180b();
    let whole = shape.parameters() * F16_BYTES;
    for (tp, pp) in [(1, 1), (2, 1), (4, 2), (8, 1), (1, 8), (2, 4)] {
        let division = divide(tp, pp).unwrap();
        let rank = |stage| {
            division.tensors(&shape, stage, Dtype::Float16).iter().map(|tensor| tensor.bytes).sum::<u64>()
        };
        let total: u64 = (0..pp).map(|stage| rank(stage) * u64::from(tp)).sum();
        let norms = u64::from(shape.layers * 2 + 1) * 2 * u64::from(shape.hidden_size) * F16_BYTES;
        let padding = u64::from(padded_vocab(shape.vocab_size, tp) - shape.vocab_size);
        let padding = 2 * padding * u64::from(shape.hidden_size) * F16_BYTES;
        assert_eq!(total, whole + norms * u64::from(tp - 1) + padding, "tp={tp} pp={pp}");
    }
}
