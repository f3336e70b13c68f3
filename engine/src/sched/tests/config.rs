//! What a configuration that cannot work is told.

use expect_test::{Expect, expect};

use super::*;

fn check(cfg: SchedulerConfig, expect: Expect) {
    expect.assert_eq(&Scheduler::new(cfg).unwrap_err().to_string());
}

#[test]
fn mistakes_name_field_expected_and_found() {
    let orca = config(Policy::Orca);
    check(SchedulerConfig { stages: 0, ..orca.clone() }, expect!["expected stages of at least 1, found 0"]);
    check(
        SchedulerConfig { watermark: Some(1.5), ..orca.clone() },
        expect!["expected a watermark of at least 0 and below 1, found 1.5"],
    );
    check(
        SchedulerConfig { blocks: 15, ..orca },
        expect![
            "expected at least 16 KV blocks of 4 tokens (this policy reserves max_model_len=64 per sequence), found 15"
        ],
    );
    check(
        config(Policy::Vllm { max_batched_tokens: 63 }),
        expect!["expected max_batched_tokens of at least max_model_len=64 (prompts run whole), found 63"],
    );
    check(
        config(Policy::Sarathi { chunk: ChunkSchedule::Fixed(0) }),
        expect!["expected chunk of at least 1, found 0"],
    );
    let chunk = ChunkSchedule::Dynamic { low: 64, high: 32, stages: 2, max_tokens: 8 };
    check(
        config(Policy::Sarathi { chunk }),
        expect!["expected chunk_schedule.low <= chunk_schedule.high, found low=64, high=32"],
    );
}

#[test]
fn dynamic_sizes_are_evenly_spaced_and_rounded() {
    let chunk = ChunkSchedule::Dynamic { low: 512, high: 2048, stages: 4, max_tokens: 8192 };
    let budgets: Vec<u32> = [0, 2047, 2048, 4096, 6144, 8191, 20000].map(|done| chunk.budget(done)).to_vec();
    assert_eq!(budgets, [2048, 2048, 1536, 1024, 512, 512, 512]);
    let one = ChunkSchedule::Dynamic { low: 100, high: 300, stages: 1, max_tokens: 8 };
    assert_eq!((one.budget(0), one.budget(9)), (288, 288));
}

#[test]
fn a_hundredth_of_the_blocks_stays_free_where_memory_is_not_reserved() {
    let sarathi = Policy::Sarathi { chunk: ChunkSchedule::Fixed(8) };
    let vllm = Policy::Vllm { max_batched_tokens: 64 };
    let kept =
        |policy, watermark| SchedulerConfig { blocks: 1050, watermark, ..config(policy) }.watermark_blocks();
    let chunked = Policy::SimpleChunking { chunk: 8 };
    assert_eq!(
        [sarathi, vllm, chunked, Policy::Orca, Policy::FasterTransformer].map(|p| kept(p, None)),
        [10, 10, 10, 0, 0]
    );
    assert_eq!([sarathi, Policy::Orca].map(|policy| kept(policy, Some(0.1))), [105, 105]);
}
