//! Hand-computed traces, one for each thing worth seeing. Blocks hold 4 tokens.

use expect_test::{Expect, expect};

use super::checker::Checker;
use super::*;

/// Runs requests `(before_batch, prompt, output)` and compares the trace.
fn check(cfg: SchedulerConfig, requests: &[(usize, u32, u32)], expect: Expect) {
    let arrivals: Vec<_> = (0..)
        .zip(requests)
        .map(|(id, &(batch, prompt, output))| (batch, new_sequence(id, prompt, output)))
        .collect();
    let mut checker = Checker::new(cfg);
    checker.run(&arrivals, 0);
    expect.assert_eq(&checker.trace);
}

fn sarathi(chunk: u32) -> Policy {
    Policy::Sarathi { chunk: ChunkSchedule::Fixed(chunk) }
}

#[test]
fn sarathi_fills_a_hybrid_batch_decodes_first() {
    check(
        config(sarathi(6)),
        &[(0, 4, 4), (1, 10, 2), (2, 3, 1)],
        expect![[r#"
        0: p0@0+4! free 63
        1: d0@4 p1@0+5 free 59
        2: d0@5 p1@5+5! free 59
        3: d0@6 d1@10 p2@0+3! free 58
    "#]],
    );
}

#[test]
fn sarathi_stops_admitting_at_the_batch_cap() {
    let cfg = SchedulerConfig { batch_cap: 1, ..config(sarathi(8)) };
    check(
        cfg,
        &[(0, 2, 2), (0, 2, 2)],
        expect![[r#"
        0: p0@0+2! free 63
        1: d0@2 free 63
        2: p1@0+2! free 63
        3: d1@2 free 63
    "#]],
    );
}

#[test]
fn sarathi_compat_feeds_the_last_prompt_token_again() {
    let cfg = SchedulerConfig { compat: Compat::Sarathi, ..config(sarathi(8)) };
    check(
        cfg,
        &[(0, 5, 2)],
        expect![[r#"
        0: p0@0+5 free 62
        1: d0@4 free 62
        2: d0@5 free 62
    "#]],
    );
}

#[test]
fn sarathi_dynamic_chunks_shrink_along_the_prompt() {
    let chunk = ChunkSchedule::Dynamic { low: 32, high: 128, stages: 4, max_tokens: 400 };
    let cfg = SchedulerConfig { max_model_len: 512, blocks: 200, ..config(Policy::Sarathi { chunk }) };
    check(
        cfg,
        &[(0, 450, 1)],
        expect![[r#"
        0: p0@0+128 free 87
        1: p0@128+96 free 87
        2: p0@224+64 free 87
        3: p0@288+64 free 87
        4: p0@352+32 free 87
        5: p0@384+32 free 87
        6: p0@416+32 free 87
        7: p0@448+2! free 87
    "#]],
    );
}

#[test]
fn micro_batches_divide_what_is_runnable() {
    let cfg = SchedulerConfig { stages: 2, ..config(sarathi(8)) };
    check(
        cfg,
        &[(0, 6, 3), (0, 4, 3), (0, 2, 3)],
        expect![[r#"
        0: p0@0+6! p1@0+2 free 61
        1: p2@0+2! free 60
        2: d0@6 p1@2+2! free 60
        3: d2@2 free 60
        4: d0@7 d1@4 free 59
        5: d2@3 free 59
        6: d1@5 free 61
    "#]],
    );
}

#[test]
fn vllm_prefills_first() {
    check(
        config(Policy::Vllm { max_batched_tokens: 64 }),
        &[(0, 40, 3), (0, 20, 2), (0, 8, 2), (1, 4, 1)],
        expect![[r#"
            0: p0@0+40! p1@0+20! free 49
            1: p2@0+8! p3@0+4! free 46
            2: d0@40 d1@20 d2@8 free 44
            3: d0@41 free 53
        "#]],
    );
}

#[test]
fn orca_reserves_and_mixes() {
    let cfg = SchedulerConfig { blocks: 33, ..config(Policy::Orca) };
    check(
        cfg,
        &[(0, 3, 3), (1, 5, 2), (1, 2, 1)],
        expect![[r#"
        0: p0@0+3! free 17
        1: d0@3 p1@0+5! free 1
        2: d0@4 d1@5 free 1
        3: p2@0+2! free 17
    "#]],
    );
}

#[test]
fn faster_transformer_waits_for_the_whole_batch() {
    check(
        config(Policy::FasterTransformer),
        &[(0, 3, 1), (0, 3, 3), (1, 3, 1)],
        expect![[r#"
        0: p0@0+3! p1@0+3! free 32
        1: d1@3 free 48
        2: d1@4 free 48
        3: p2@0+3! free 48
    "#]],
    );
}

#[test]
fn simple_chunking_alternates() {
    check(
        config(Policy::SimpleChunking { chunk: 4 }),
        &[(0, 4, 4), (1, 7, 2)],
        expect![[r#"
        0: p0@0+4! free 63
        1: d0@4 free 62
        2: p1@0+4 free 60
        3: d0@5 free 60
        4: p1@4+3! free 60
        5: d0@6 d1@7 free 60
    "#]],
    );
}

#[test]
fn out_of_blocks_the_youngest_is_preempted_and_recomputed() {
    let cfg = SchedulerConfig { blocks: 4, max_model_len: 16, ..config(sarathi(16)) };
    check(
        cfg,
        &[(0, 8, 4), (0, 7, 4)],
        expect![[r#"
        0: p0@0+8! p1@0+7! free 0
        1: d0@8 -1 free 1
        2: d0@9 free 1
        3: d0@10 free 1
        4: p1@0+8! free 2
        5: d1@8 free 1
        6: d1@9 free 1
    "#]],
    );
}

#[test]
fn at_last_a_sequence_preempts_itself() {
    let cfg = SchedulerConfig { blocks: 4, max_model_len: 16, stages: 2, ..config(sarathi(7)) };
    check(
        cfg,
        &[(0, 7, 3), (0, 8, 4)],
        expect![[r#"
        0: p0@0+7! free 2
        1: p1@0+7 free 0
        2: d0@7 free 0
        3: p1@7+1! free 0
        4: d1@8 -0 free 1
        5: d1@9 free 1
        6: d1@10 free 1
        7: p0@0+7 free 1
        8: p0@7+2! free 1
    "#]],
    );
}

#[test]
fn the_watermark_holds_a_prompt_back_that_would_fit() {
    let cfg = SchedulerConfig { blocks: 4, watermark: Some(0.25), max_model_len: 12, ..config(sarathi(16)) };
    check(
        cfg,
        &[(0, 7, 2), (0, 8, 1)],
        expect![[r#"
        0: p0@0+7! free 2
        1: d0@7 free 2
        2: p1@0+8! free 2
    "#]],
    );
}

#[test]
fn what_can_never_run_is_ignored() {
    let cfg = SchedulerConfig { blocks: 4, ..config(sarathi(16)) };
    check(
        cfg,
        &[(0, 60, 5), (0, 15, 3), (0, 15, 2)],
        expect![[r#"
        ignored 0
        ignored 1
        0: p2@0+15! free 0
        1: d2@15 free 0
    "#]],
    );
}
