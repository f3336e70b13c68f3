//! What was told is what is read back.

use expect_test::expect;
use proptest::prelude::*;

use super::super::recorder::GroupSize;
use super::story::{Event, Story, expected_rows, read, record, tell};
use crate::sched::{ChunkSchedule, Compat, NewSequence, Policy, SchedulerConfig};
use crate::units::{Nanos, SeqId};

fn config(policy: Policy, stages: u32, compat: Compat) -> SchedulerConfig {
    let (batch_cap, max_model_len, block_size, blocks) = (6, 40, 4, 24);
    SchedulerConfig { policy, batch_cap, max_model_len, block_size, blocks, stages, watermark: None, compat }
}

/// Requests of `(gap, prompt, output)`.
fn requests(lengths: &[(u64, u32, u32)]) -> Vec<NewSequence> {
    let mut arrival = Nanos::ZERO;
    let request = |(id, &(gap, prompt_tokens, output_tokens))| {
        arrival += Nanos(gap);
        NewSequence { id: SeqId(id), arrival, prompt_tokens, output_tokens }
    };
    (0..).zip(lengths).map(request).collect()
}

fn sarathi() -> Policy {
    Policy::Sarathi { chunk: ChunkSchedule::Fixed(8) }
}

fn batch_rows(story: &Story) -> Vec<String> {
    let scheduled = |id| {
        story.events.iter().find_map(|event| match event {
            Event::Scheduled(batch, now) if batch.id == id => Some(now.0),
            _ => None,
        })
    };
    let row = |event: &Event| {
        let Event::Completed { batch, start, end, .. } = event else { return None };
        let (prefill, decode) = (batch.prefill_tokens(), batch.decode_tokens());
        Some(format!(
            "{{batch_id: {}, scheduled_ns: {}, start_ns: {}, end_ns: {}, sequences: {}, prefill_tokens: {prefill}, \
             decode_tokens: {decode}, preemptions: {}}}",
            batch.id.0,
            scheduled(batch.id).unwrap(),
            start.0,
            end.0,
            batch.chunks.len(),
            batch.preempted.len(),
        ))
    };
    story.events.iter().filter_map(row).collect()
}

#[test]
fn a_small_trial_reads_back() {
    let story = tell(
        config(sarathi(), 2, Compat::Honest),
        &requests(&[(0, 9, 3), (1, 39, 2), (1, 4, 1), (200, 4, 4)]),
        8,
    );
    let (requests, batches) = record(&story, None);
    expect![[r#"
        {request_id: 0, arrival_ns: 0, prompt_tokens: 9, output_tokens: 3, ignored: false, scheduled_ns: 0, prefill_end_ns: 78, first_token_ns: 78, last_token_ns: 126, completed_ns: 126, tokens_out: 3, execution_ns: 126, preemption_ns: 0, restarts: 0, pauses: 0, tbt_ns: [24, 24], tbt_decode_only: [true, true]}
        {request_id: 1, arrival_ns: 1, prompt_tokens: 39, output_tokens: 2, ignored: true, scheduled_ns: null, prefill_end_ns: null, first_token_ns: null, last_token_ns: null, completed_ns: null, tokens_out: 0, execution_ns: 0, preemption_ns: 0, restarts: 0, pauses: 0, tbt_ns: [], tbt_decode_only: []}
        {request_id: 2, arrival_ns: 2, prompt_tokens: 4, output_tokens: 1, ignored: false, scheduled_ns: 40, prefill_end_ns: 78, first_token_ns: 78, last_token_ns: 78, completed_ns: 78, tokens_out: 1, execution_ns: 38, preemption_ns: 0, restarts: 0, pauses: 0, tbt_ns: [], tbt_decode_only: []}
        {request_id: 3, arrival_ns: 202, prompt_tokens: 4, output_tokens: 4, ignored: false, scheduled_ns: 202, prefill_end_ns: 234, first_token_ns: 234, last_token_ns: 306, completed_ns: 306, tokens_out: 4, execution_ns: 104, preemption_ns: 0, restarts: 0, pauses: 0, tbt_ns: [24, 24, 24], tbt_decode_only: [true, true, true]}"#]].assert_eq(&read(&requests).0.join("\n"));
    expect![[r#"
        {batch_id: 0, scheduled_ns: 0, start_ns: 0, end_ns: 40, sequences: 1, prefill_tokens: 8, decode_tokens: 0, preemptions: 0}
        {batch_id: 1, scheduled_ns: 40, start_ns: 40, end_ns: 78, sequences: 2, prefill_tokens: 5, decode_tokens: 0, preemptions: 0}
        {batch_id: 2, scheduled_ns: 78, start_ns: 78, end_ns: 102, sequences: 1, prefill_tokens: 0, decode_tokens: 1, preemptions: 0}
        {batch_id: 3, scheduled_ns: 102, start_ns: 102, end_ns: 126, sequences: 1, prefill_tokens: 0, decode_tokens: 1, preemptions: 0}
        {batch_id: 4, scheduled_ns: 202, start_ns: 202, end_ns: 234, sequences: 1, prefill_tokens: 4, decode_tokens: 0, preemptions: 0}
        {batch_id: 5, scheduled_ns: 234, start_ns: 234, end_ns: 258, sequences: 1, prefill_tokens: 0, decode_tokens: 1, preemptions: 0}
        {batch_id: 6, scheduled_ns: 258, start_ns: 258, end_ns: 282, sequences: 1, prefill_tokens: 0, decode_tokens: 1, preemptions: 0}
        {batch_id: 7, scheduled_ns: 282, start_ns: 282, end_ns: 306, sequences: 1, prefill_tokens: 0, decode_tokens: 1, preemptions: 0}"#]].assert_eq(&read(&batches).0.join("\n"));
}

#[test]
fn a_trial_without_requests_leaves_empty_tables() {
    let story = Story { events: Vec::new(), end: Nanos(7) };
    let (requests, batches) = record(&story, None);
    assert_eq!(read(&requests), (Vec::new(), 0));
    assert_eq!(read(&batches), (Vec::new(), 0));
}

#[test]
fn many_row_groups_hold_what_one_holds() {
    let lengths: Vec<_> = (0..200).map(|id| (id % 30, 1 + id as u32 % 20, 1 + id as u32 % 15)).collect();
    let story = tell(config(sarathi(), 2, Compat::Honest), &requests(&lengths), usize::MAX);
    let small = Some(GroupSize { output_tokens: 60, requests: 20, batches: 16 });
    let (one, many) = (record(&story, None), record(&story, small));
    assert_eq!(read(&one.0).0, read(&many.0).0);
    assert_eq!(read(&one.1).0, read(&many.1).0);
    assert!(read(&many.0).1 > 10 && read(&many.1).1 > 10);
}

/// Blocks of values of different widths, more pages than one, and gaps that no dictionary can shorten.
#[test]
fn wide_and_narrow_gaps_read_back() {
    let lengths: Vec<_> =
        (0..60).map(|id| (id * id * 40_009 % 1_000_003, 1 + id as u32 % 30, 1 + id as u32 % 9)).collect();
    let story = tell(
        config(Policy::Vllm { max_batched_tokens: 40 }, 1, Compat::Honest),
        &requests(&lengths),
        usize::MAX,
    );
    assert_eq!(read(&record(&story, None).0).0, expected_rows(&story));
}

fn policies() -> impl Strategy<Value = Policy> {
    prop_oneof![
        Just(sarathi()),
        Just(Policy::Vllm { max_batched_tokens: 40 }),
        Just(Policy::Orca),
        Just(Policy::FasterTransformer),
        Just(Policy::SimpleChunking { chunk: 8 }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rows_are_what_the_events_say(
        policy in policies(),
        stages in 1..4_u32,
        honest in any::<bool>(),
        lengths in proptest::collection::vec((0..60_u64, 1..30_u32, 1..14_u32), 0..40),
        completions in 1..200_usize,
        (output_tokens, group_requests, batches) in (1..80_usize, 1..20_usize, 1..40_usize),
    ) {
        let compat = if honest { Compat::Honest } else { Compat::Sarathi };
        let story = tell(config(policy, stages, compat), &requests(&lengths), completions);
        let group = GroupSize { output_tokens, requests: group_requests, batches };
        let files = record(&story, Some(group));
        prop_assert_eq!(read(&files.0).0, expected_rows(&story));
        prop_assert_eq!(read(&files.1).0, batch_rows(&story));
        prop_assert_eq!(&files, &record(&story, Some(group)), "same events, same bytes");
    }
}
