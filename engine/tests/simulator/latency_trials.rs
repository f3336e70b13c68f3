//! The ten latency trials of pipelines/figure-8.yaml, each held against its own timeline.

use chariot_engine::units::Nanos;

use super::closed_forms::integrated_population;
use super::setting::{Setting, azure, column, openchat};

/// Sum over requests of the time from arrival to completion, or to the end of the trial, in nanoseconds.
fn stays(records: &bytes::Bytes, end: Nanos) -> i128 {
    let arrivals = column(records, "arrival_ns").into_iter().flatten();
    let leaves = column(records, "completed_ns").into_iter().map(|at| at.unwrap_or(end.0 as i64));
    arrivals.zip(leaves).map(|(arrival, leave)| i128::from((leave - arrival).max(0))).sum()
}

#[test]
fn littles_law_and_conservation_hold_on_each_latency_trial() {
    let requests = openchat(0.75);
    for (tp, pp) in [(8, 1), (4, 2)] {
        for batch_cap in [8, 16, 32, 64, 128] {
            let what = format!("tp={tp} pp={pp} cap={batch_cap}");
            let time_limit = Nanos::from_secs_f64(1800.0);
            let setting = Setting { batch_cap, blocks: 78_636, time_limit, ..Setting::new(azure(), tp, pp) };
            let run = setting.run(&requests);
            let total = |file, name| column(file, name).into_iter().flatten().sum::<i64>();
            assert_eq!(integrated_population(&run), stays(&run.records, run.ending.end), "{what}");
            // Every token that left did so in a completed batch: as a decode, or at the end of a prompt.
            let prompts_done = column(&run.records, "prefill_end_ns").into_iter().flatten().count() as i64;
            let in_flight =
                total(&run.batches, "decode_tokens") + prompts_done - total(&run.records, "tokens_out");
            assert!(
                (0..=i64::from(batch_cap)).contains(&in_flight),
                "{what}: {in_flight} tokens in flight at the end"
            );
            assert!(run.ending.completed > 100, "{what}: the trial serves something");
        }
    }
}
