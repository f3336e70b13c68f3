use proptest::prelude::*;

use super::*;
use crate::sched::batch::Chunk;
use crate::shard::Parallel;
use crate::units::{BatchId, SeqId};

fn read(path: &str) -> String {
    fs_err::read_to_string(format!("{}/../pipelines/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn model(name: &str, tp: u32, pp: u32, band: Band) -> CostModel {
    let shape = ModelShape::parse(&read(&format!("models/{name}.yaml")), "").unwrap();
    let platform: Platform =
        serde_saphyr::from_str(&read("platforms/azure-nc96ads-a100-v4-x2.yaml")).unwrap();
    CostModel::new(&platform, &shape, &Division::new(&shape, Parallel { tp, pp }).unwrap(), band)
}

fn batch(decodes: u32, context: u32, prefill: u32) -> Batch {
    let decode = |n| Chunk { seq: SeqId(n), context, tokens: 1, is_prefill: false, emits_token: true };
    let mut chunks: Vec<Chunk> = (0..decodes).map(decode).collect();
    if prefill > 0 {
        let prompt =
            Chunk { seq: SeqId(decodes), context, tokens: prefill, is_prefill: true, emits_token: false };
        chunks.push(prompt);
    }
    Batch { id: BatchId(0), chunks, preempted: vec![] }
}

fn stages(model: &mut CostModel, batch: &Batch) -> Vec<u64> {
    let mut stages = Vec::new();
    model.cost(batch, &mut stages);
    stages.into_iter().map(|stage| stage.0).collect()
}

/// Every number here is worked out by hand in docs/cost-model.md, "An example".
#[test]
fn a_decode_of_32_at_4k_costs_what_the_documentation_works_out() {
    let batch = batch(32, 4095, 0);
    expect_test::expect!["[40380071, 41463846]"]
        .assert_eq(&format!("{:?}", stages(&mut model("falcon-180b", 4, 2, Band::Central), &batch)));
    expect_test::expect!["[104551698]"]
        .assert_eq(&format!("{:?}", stages(&mut model("falcon-180b", 8, 1, Band::Central), &batch)));
}

#[test]
fn the_band_touches_only_layouts_that_reduce_across_nodes() {
    for (tp, pp, touched) in [(8, 1, true), (4, 2, false), (2, 4, false), (1, 8, false)] {
        let [low, central, high] =
            [Band::Low, Band::Central, Band::High].map(|band| model("falcon-180b", tp, pp, band));
        assert_eq!((low != central, central != high), (touched, touched), "tp={tp} pp={pp}");
    }
}

#[test]
fn low_is_fast_and_high_is_slow() {
    for batch in [batch(1, 0, 0), batch(32, 4096, 0), batch(8, 1000, 512)] {
        let [low, central, high] = [Band::Low, Band::Central, Band::High]
            .map(|band| stages(&mut model("falcon-180b", 8, 1, band), &batch)[0]);
        assert!(low < central && central < high);
    }
}

#[test]
fn the_send_follows_the_formula() {
    let mut model = model("falcon-180b", 4, 2, Band::Central);
    let cost = model.cost(&batch(0, 0, 512), &mut Vec::new());
    // 30 us + 512 x 29,696 B at 2.35 GB/s
    assert_eq!(model.send(0, &cost), Nanos(30_000 + 6_469_937));
    // One chunk: 0.08 + 0.0152, 0.10 + 0.0165, 6.5 / 2 ms.
    assert_eq!(
        (cost.schedule, cost.process, cost.one_way),
        (Nanos(95_200), Nanos(116_500), Nanos(3_250_000))
    );
}

proptest! {
    #[test]
    fn time_grows_with_the_batch(decodes in 1u32..128, context in 0u32..8000, prefill in 1u32..2048, more in 1u32..64) {
        for (name, tp, pp) in [("falcon-180b", 8, 1), ("falcon-180b", 4, 2), ("llama-2-70b", 2, 2)] {
            let mut model = model(name, tp, pp, Band::Central);
            let mut time = |decodes, context, prefill| stages(&mut model, &batch(decodes, context, prefill)).iter().sum::<u64>();
            let base = time(decodes, context, prefill);
            prop_assert!(time(decodes + more, context, prefill) >= base);
            prop_assert!(time(decodes, context + more, prefill) >= base);
            prop_assert!(time(decodes, context, prefill + more) >= base);
        }
    }
}
