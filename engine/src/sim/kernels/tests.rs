use super::*;
use crate::sched::batch::Chunk;
use crate::shard::Parallel;
use crate::sim::platform::{Platform, StageCosts};
use crate::units::{BatchId, SeqId};

fn read(path: &str) -> String {
    fs_err::read_to_string(format!("{}/../pipelines/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn times(tp: u32, pp: u32, stage: u32) -> KernelTimes {
    let shape = ModelShape::parse(&read("models/falcon-180b.yaml"), "").unwrap();
    let platform: Platform =
        serde_saphyr::from_str(&read("platforms/azure-nc96ads-a100-v4-x2.yaml")).unwrap();
    let division = Division::new(&shape, Parallel { tp, pp }).unwrap();
    let StageCosts::Kernels(kernels) = platform.stage.as_ref().unwrap() else {
        panic!("the preset has kernels")
    };
    let ring = &platform.link(&division.parallel.stage_ranks(stage)).all_reduce;
    KernelTimes::new(kernels, ring, &shape, &division, stage, Band::Central)
}

fn close(found: f64, expected: f64) {
    assert!((found / expected - 1.0).abs() < 1e-9, "expected {expected}, found {found}");
}

#[test]
fn products_follow_the_formula() {
    // The MLP's up projection at TP8: K = 14848, N = 7424.
    let gemm = times(8, 1, 0).token_wise.gemm;
    // M = 1: weights of 220,463,104 B and 44,544 B of activations at 1695 GB/s, 220,463,104 flops at 227 T.
    let (memory, compute) = ((220_463_104.0 + 44_544.0) / 1695e9, 220_463_104.0 / 227e12);
    close(gemm.seconds(1.0, 14848.0, 7424.0), 8e-6 + f64::hypot(memory, compute));
    // M = 65 computes as 128 rows, but moves 65.
    let (memory, compute) = ((220_463_104.0 + 65.0 * 44_544.0) / 1695e9, 128.0 * 220_463_104.0 / 227e12);
    close(gemm.seconds(65.0, 14848.0, 7424.0), 8e-6 + f64::hypot(memory, compute));
}

#[test]
fn all_reduces_follow_the_formula() {
    // 512 tokens of 29,696 B across the nodes: 315 us + 1.75 x 15,204,352 B at 3.75 GB/s; inside a node 57.6 us + B / 15.78 GB/s.
    close(times(8, 1, 0).token_wise.group.all_reduce(15_204_352.0), 315e-6 + 1.75 * 15_204_352.0 / 3.75e9);
    close(times(4, 2, 1).token_wise.group.all_reduce(15_204_352.0), 57.6e-6 + 15_204_352.0 / 15.78e9);
    close(times(1, 8, 0).token_wise.group.all_reduce(15_204_352.0) + 1.0, 1.0);
}

fn chunk(is_prefill: bool, context: u32, tokens: u32) -> Chunk {
    Chunk { seq: SeqId(0), context, tokens, is_prefill, emits_token: !is_prefill }
}

fn work(chunks: Vec<Chunk>) -> Work {
    Work::of(&Batch { id: BatchId(0), chunks, preempted: vec![] })
}

#[test]
fn attention_follows_the_formula() {
    // TP4: 58 query heads and 2 KV heads of 64. A decode at context 999 reads 1000 x 2 x 2 x 64 x 2 B; a chunk of 512 at context 1024
    // has 4 x 512 x (1024 + 256) x 58 x 64 flops.
    let stage = times(4, 2, 0);
    let decode = work(vec![chunk(false, 999, 1); 8]);
    close(stage.attention(&decode), 45e-6 + 8.0 * 512_000.0 / 1200e9);
    let prefill = work(vec![chunk(true, 1024, 512)]);
    close(stage.attention(&prefill), 27e-6 + 4.0 * 512.0 * 1280.0 * 58.0 * 64.0 / 60e12);
    let hybrid = work([vec![chunk(false, 999, 1); 8], vec![chunk(true, 1024, 512)]].concat());
    close(stage.attention(&hybrid), stage.attention(&decode) + stage.attention(&prefill));
}

#[test]
fn a_small_layer_takes_the_launch_floor() {
    // TP8, one decode: products 4 x 8 us + 555 MB / 1695 GB/s = 0.36 ms, 9 x 4.5 us, 45 us, all-reduce 315 us: 0.76 ms, above 0.645.
    // TP8 with a nearby network would sit on the floor; so does TP4's stage without its products.
    let mut stage = times(4, 2, 0);
    stage.token_wise.products = [(1.0, 1.0); 4];
    let decode = work(vec![chunk(false, 99, 1)]);
    let embedding = stage.token_wise.embedding(1.0);
    close(stage.seconds(&decode), 40.0 * 0.645e-3 + embedding);
}

#[test]
fn the_table_changes_nothing() {
    let mut stage = times(4, 2, 0);
    for tokens in [1, 512, 64, 40_000, 512] {
        let direct = stage.token_wise.layer(f64::from(tokens));
        assert_eq!(stage.layer_token_wise(tokens).to_bits(), direct.to_bits());
    }
}

#[test]
fn more_tensor_parallelism_never_slows_a_product() {
    let sum = |tp, tokens: f64| {
        let t = times(tp, 1, 0).token_wise;
        t.products.iter().map(|&(k, n)| t.gemm.seconds(tokens, k, n)).sum::<f64>()
    };
    for tokens in [1.0, 17.0, 64.0, 65.0, 512.0, 2048.0] {
        assert!(
            sum(2, tokens) <= sum(1, tokens)
                && sum(4, tokens) <= sum(2, tokens)
                && sum(8, tokens) <= sum(4, tokens)
        );
    }
}

#[test]
fn equal_costs_are_equal_whatever_was_asked_of_them() {
    let mut asked = times(4, 2, 0);
    asked.seconds(&work(vec![chunk(true, 0, 512)]));
    assert_eq!(asked, times(4, 2, 0));
    assert_ne!(times(4, 2, 0), times(8, 1, 0));
}
