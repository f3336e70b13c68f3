//! What a verdict and a summary cost on a trial of the figure's size: 2048 requests, 900,000 token gaps.
//! Run with `cargo bench -p chariot-results`; prints the median of 21 runs.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "a benchmark"
)]

#[path = "../tests/it/fixture.rs"]
mod fixture;

use std::time::Instant;

use chariot_results::judge::judge;
use chariot_results::predicate::parse;
use chariot_results::summary::summarize;
use fixture::{BatchRow, Request, trial, trial_json};

const REQUESTS: i64 = 2048;
const GAPS: i64 = 440;
const S: i64 = 1_000_000_000;

/// Gaps that no dictionary holds: spread by a multiplicative hash over 80 to 180 ms.
fn request(index: i64) -> Request {
    let tbt: Vec<i64> = (0..GAPS)
        .map(|k| {
            80_000_000
                + ((index * GAPS + k).wrapping_mul(0x9E37_79B9_7F4A_7C15u64 as i64) >> 32)
                    .rem_euclid(100_000_000)
        })
        .collect();
    let first = index * S + S;
    let last = first + tbt.iter().sum::<i64>();
    Request {
        arrival: index * S,
        prompt: 2000,
        output: GAPS as i32 + 1,
        scheduled: Some(index * S),
        prefill_end: Some(first),
        first_token: Some(first),
        last_token: Some(last),
        completed: Some(last),
        tokens_out: GAPS as i32 + 1,
        execution: last - index * S,
        decode_only: tbt.iter().map(|gap| gap % 3 == 0).collect(),
        tbt,
        ..Request::default()
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn time(name: &str, mut run: impl FnMut()) {
    let mut times: Vec<f64> = (0..21)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("{name}: {:.1} ms", times[times.len() / 2]);
}

fn main() {
    let rows: Vec<Request> = (0..REQUESTS).map(request).collect();
    let batches: Vec<BatchRow> = (0..20_000)
        .map(|k| BatchRow {
            start: k * S / 10,
            end: k * S / 10 + S / 20,
            sequences: 64,
            prefill: 100,
            decode: 64,
        })
        .collect();
    let (_guard, dir) = trial(&rows, &batches, &trial_json(3000 * S, "honest"));
    let slo = [parse("p99(tbt) <= 1.0").unwrap(), parse("p50(scheduling_delay) <= 2.0").unwrap()];
    time("judge, 2048 requests, 901120 gaps", || drop(judge(&dir, &slo).unwrap()));
    time("summarize, the same", || drop(summarize(&dir).unwrap()));
}
