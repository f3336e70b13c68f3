//! Any policy, any number of stages, tight memory, any workload: see `Checker` for what must hold. The failing input
//! that proptest prints, seeds included, is all that is needed to run it again.

use proptest::prelude::*;

use super::checker::{Arrival, Checker};
use super::*;

fn policies(max_model_len: u32) -> impl Strategy<Value = Policy> {
    prop_oneof![
        (1..40_u32).prop_map(|chunk| Policy::Sarathi { chunk: ChunkSchedule::Fixed(chunk) }),
        (1..40_u32, 0..100_u32, 1..5_u32, 1..80_u32).prop_map(|(low, more, stages, max_tokens)| {
            Policy::Sarathi { chunk: ChunkSchedule::Dynamic { low, high: low + more, stages, max_tokens } }
        }),
        (0..40_u32).prop_map(move |more| Policy::Vllm { max_batched_tokens: max_model_len + more }),
        Just(Policy::Orca),
        Just(Policy::FasterTransformer),
        (1..40_u32).prop_map(|chunk| Policy::SimpleChunking { chunk }),
    ]
}

prop_compose! {
    fn configs()(max_model_len in 8..60_u32)(
        policy in policies(max_model_len),
        batch_cap in 1..10_u32,
        block_size in 1..6_u32,
        spare in 0..20_u32,
        stages in 1..5_u32,
        watermark in prop_oneof![Just(None), (0.0..0.3_f64).prop_map(Some)],
        compat in prop_oneof![Just(Compat::Honest), Just(Compat::Sarathi)],
        max_model_len in Just(max_model_len),
    ) -> SchedulerConfig {
        // Room for one of the longest sequences above the watermark, and little more.
        let blocks = (max_model_len.div_ceil(block_size) + 1) * 10 / 7 + 1 + spare;
        SchedulerConfig { policy, batch_cap, max_model_len, block_size, blocks, stages, watermark, compat }
    }
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let request = (0..4_usize, 1..50_u32, 1..25_u32);
    proptest::collection::vec(request, 1..30).prop_map(|requests| {
        let mut batch = 0;
        let numbered = (0..).zip(requests).map(|(id, (after, prompt, output))| {
            batch += after;
            (batch, new_sequence(id, prompt, output))
        });
        numbered.collect()
    })
}

fn run(cfg: &SchedulerConfig, arrivals: &[Arrival], hasty: u64, early: &[(u32, u32)]) -> String {
    let mut checker = Checker::new(cfg.clone());
    for &(seq, after) in early {
        checker.end_early(SeqId(seq), after);
    }
    checker.run(arrivals, hasty);
    checker.trace
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_sequence_finishes_and_every_batch_is_sound(
        cfg in configs(),
        arrivals in arrivals(),
        hasty in any::<u64>(),
        early in proptest::collection::vec((0..30_u32, 1..10_u32), 0..4),
    ) {
        let trace = run(&cfg, &arrivals, hasty, &early);
        prop_assert_eq!(trace, run(&cfg, &arrivals, hasty, &early), "same input, same trace");
    }

    #[test]
    fn sequences_can_be_given_up_at_any_time(
        cfg in configs(),
        arrivals in arrivals(),
        hasty in any::<u64>(),
        aborts in proptest::collection::vec((0..60_usize, 0..30_u32), 1..20),
    ) {
        let mut checker = Checker::new(cfg);
        for (batch, seq) in aborts {
            checker.abort_before(batch, SeqId(seq));
        }
        checker.run(&arrivals, hasty);
    }

    #[test]
    fn reserving_policies_never_preempt(cfg in configs(), arrivals in arrivals(), hasty in any::<u64>()) {
        let reserving = matches!(cfg.policy, Policy::Orca | Policy::FasterTransformer);
        let preempts = run(&cfg, &arrivals, hasty, &[]).contains(" -");
        prop_assert!(!(reserving && preempts));
    }
}

/// The properties above are worth little unless their inputs reach the hard cases.
#[test]
fn tight_memory_preempts_often() {
    let policy = Policy::Sarathi { chunk: ChunkSchedule::Fixed(16) };
    let cfg = SchedulerConfig { blocks: 20, stages: 3, ..config(policy) };
    let arrivals: Vec<Arrival> = (0..40).map(|id| (0, new_sequence(id, 5 + id % 7, 20))).collect();
    let trace = run(&cfg, &arrivals, 0, &[]);
    assert!(trace.matches(" -").count() > 20, "{trace}");
}
