//! The simulator against closed forms: queueing theory, pipeline algebra and conservation.

use std::collections::BTreeMap;

use chariot_engine::sched::{Compat, Policy};
use chariot_engine::sim::coefficient::Coefficient;
use chariot_engine::units::Nanos;
use chariot_engine::workload::{Lengths, Request};
use parquet::record::Field;

use super::setting::{Row, Run, Setting, at_once, azure, constant, int, poisson, rows, sarathi, sum};

const MS: f64 = 1e-3;

/// Micro-batches of 8 sequences with prompts of 8 tokens: a batch of 64 tokens holds no more.
fn eights() -> Policy {
    sarathi(64)
}

/// Requests like a chat's: 64 to 2048 tokens.
fn chat(count: u32, qps: f64) -> Vec<Request> {
    let lengths = Lengths::Uniform { total_min: 64, total_max: 2048, prompt_to_output: 4.0 };
    poisson(count, qps, lengths, 7)
}

fn close(found: f64, expected: f64, tolerance: f64, what: &str) {
    let error = (found / expected - 1.0).abs();
    assert!(
        error <= tolerance,
        "{what}: expected {expected} within {tolerance}, found {found} ({error:.4} off)"
    );
}

#[test]
fn m_d_1_waits_as_pollaczek_and_khinchine_say() {
    // One stage, one sequence a batch, one batch a request: service is 10 ms, always.
    let setting = Setting { batch_cap: 1, ..Setting::new(constant(), 1, 1) };
    for (utilisation, count) in [(0.3, 100_000), (0.5, 100_000), (0.7, 200_000)] {
        let lengths = Lengths::Fixed { prompt: 1, output: 1 };
        let run = setting.run(&poisson(count, utilisation / (10.0 * MS), lengths, 11));
        let waits = rows(&run.records)
            .iter()
            .map(|row| int(row, "scheduled_ns") - int(row, "arrival_ns"))
            .sum::<i64>();
        let mean = waits as f64 / 1e9 / f64::from(count);
        let expected = utilisation * 10.0 * MS / (2.0 * (1.0 - utilisation));
        close(mean, expected, 0.02, &format!("mean wait at utilisation {utilisation}"));
    }
}

/// Integral over time, up to the trial's end, of the sequences in the system, from the trace, in request-nanoseconds.
pub(crate) fn integrated_population(run: &Run) -> i128 {
    let mut changes = BTreeMap::<i128, i128>::new();
    for line in run.trace().lines().filter(|line| line.contains(r#""cat":"sequence""#)) {
        let event: serde_json::Value = serde_json::from_str(line.trim_end_matches(',')).unwrap();
        let at = (event["ts"].as_f64().unwrap() * 1e3).round() as i128;
        *changes.entry(at).or_default() += if event["ph"] == "b" { 1 } else { -1 };
    }
    changes.entry(i128::from(run.ending.end.0)).or_default();
    let (mut population, mut before, mut integral) = (0, 0, 0);
    for (at, change) in changes {
        integral += population * (at - before);
        (population, before) = (population + change, at);
    }
    integral
}

#[test]
fn littles_law_holds_on_every_trial() {
    let policies = [
        sarathi(512),
        Policy::Vllm { max_batched_tokens: 8192 },
        Policy::Orca,
        Policy::FasterTransformer,
        Policy::SimpleChunking { chunk: 512 },
    ];
    for policy in policies {
        for (tp, pp) in [(8, 1), (4, 2), (2, 4)] {
            let run = Setting { policy, ..Setting::new(azure(), tp, pp) }.run(&chat(60, 0.5));
            let stay = |row: &Row| i128::from(int(row, "completed_ns") - int(row, "arrival_ns"));
            // L = lambda W, both sides times the length of the trial: exact in integers.
            let stays: i128 = rows(&run.records).iter().map(stay).sum();
            assert_eq!(integrated_population(&run), stays, "{policy:?} at tp={tp} pp={pp}");
        }
    }
}

#[test]
fn two_stages_without_bubbles_reach_the_analytic_throughput() {
    // Two micro-batches of 8 decodes: a batch leaves every 10 ms.
    let setting = Setting { policy: eights(), batch_cap: 16, ..Setting::new(constant(), 1, 2) };
    let run = setting.run(&at_once(16, 8, 2000));
    let tokens = 16.0 * 2000.0;
    assert!(rows(&run.batches).iter().all(|row| int(row, "sequences") == 8));
    close(tokens / run.ending.end.as_secs_f64(), 8.0 / (10.0 * MS), 0.01, "decode tokens a second");
    // More stages, more micro-batches, the same rate.
    let setting = Setting { policy: eights(), batch_cap: 32, ..Setting::new(constant(), 1, 4) };
    let run = setting.run(&at_once(32, 8, 2000));
    close(32.0 * 2000.0 / run.ending.end.as_secs_f64(), 8.0 / (10.0 * MS), 0.01, "over four stages");
}

#[test]
fn what_lies_between_the_stages_leaves_bubbles_of_its_length() {
    // With two batches in flight a micro-batch comes round once in stages + sends + driver, and nothing fills that.
    let mut platform = constant();
    platform.links[0].send_recv.alpha_us = Coefficient::certain(2000.0);
    platform.cpu.as_mut().unwrap().driver_round_trip_ms = Coefficient::certain(4.0);
    let setting = Setting { policy: eights(), batch_cap: 16, ..Setting::new(platform, 1, 2) };
    let run = setting.run(&at_once(16, 8, 2000));
    let round = (10.0 + 2.0 + 10.0 + 4.0) * MS;
    close(16.0 * 2000.0 / run.ending.end.as_secs_f64(), 2.0 * 8.0 / round, 0.01, "decode tokens a second");
}

#[test]
fn steady_decode_on_kernels_takes_the_sum_of_its_parts() {
    // Falcon-180B, TP4 x PP2: the prompts are short, so that nearly all batches are decodes of 8 sequences.
    let mut platform = azure();
    platform.cpu.as_mut().unwrap().driver_round_trip_ms = Coefficient::certain(0.0);
    let setting = Setting { policy: eights(), batch_cap: 16, ..Setting::new(platform, 4, 2) };
    let run = setting.run(&at_once(16, 8, 3000));
    let batches = rows(&run.batches);
    let steady = &batches[1000..5000];
    assert!(steady.iter().all(|row| int(row, "sequences") == 8));
    let span = int(&steady[steady.len() - 1], "end_ns") - int(&steady[0], "end_ns");
    let round = |row: &Row| int(row, "end_ns") - int(row, "scheduled_ns");
    let mean_round = steady.iter().map(round).sum::<i64>() as f64 / steady.len() as f64;
    let between = span as f64 / (steady.len() - 1) as f64;
    close(between, mean_round / 2.0, 0.01, "time between batches, two in flight");
}

#[test]
fn tokens_are_conserved() {
    for compat in [Compat::Honest, Compat::Sarathi] {
        let requests = chat(300, 2.0);
        let setting = Setting { compat, ..Setting::new(azure(), 4, 2) };
        let run = setting.run(&requests);
        let (records, batches) = (rows(&run.records), rows(&run.batches));
        let asked = |tokens: fn(&Request) -> u32| {
            requests.iter().map(|request| i64::from(tokens(request))).sum::<i64>()
        };
        assert_eq!(sum(&records, "restarts"), 0);
        assert_eq!(sum(&batches, "prefill_tokens"), asked(|request| request.prompt_tokens));
        assert_eq!(sum(&records, "tokens_out"), asked(|request| request.output_tokens));
        // Honest: the batch that ends a prompt gives the first token, so each request decodes once less.
        let by_prefill = if compat == Compat::Honest { records.len() as i64 } else { 0 };
        assert_eq!(sum(&batches, "decode_tokens") + by_prefill, asked(|request| request.output_tokens));
    }
}

#[test]
fn memory_pressure_recomputes_but_loses_nothing() {
    let requests = chat(200, 20.0);
    let setting = Setting { blocks: 600, ..Setting::new(azure(), 4, 2) };
    let run = setting.run(&requests);
    let records = rows(&run.records);
    assert!(sum(&records, "restarts") > 0, "600 blocks are too few for 128 sequences");
    assert_eq!(run.ending.completed, 200);
    assert_eq!(sum(&records, "tokens_out"), requests.iter().map(|r| i64::from(r.output_tokens)).sum::<i64>());
}

#[test]
fn no_first_token_comes_before_its_prompt_could_be_processed() {
    // A request alone: schedule, half a round trip, the stages, half back, process; TTFT is never less than its share of that.
    let setting = Setting::new(azure(), 4, 2);
    for (prompt, decimals) in [(1, 1), (512, 2), (4000, 3)] {
        let alone = setting.run(&at_once(1, prompt, 1));
        let least = int(&rows(&alone.records)[0], "first_token_ns");
        let crowd = setting.run(&poisson(100, 3.0, Lengths::Fixed { prompt, output: 1 + decimals }, 3));
        for row in rows(&crowd.records) {
            assert!(int(&row, "first_token_ns") - int(&row, "arrival_ns") >= least, "prompt {prompt}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let setting = Setting::new(azure(), 8, 1);
    let [a, b] = [(); 2].map(|()| setting.run(&chat(100, 1.0)));
    assert!(a.records == b.records && a.batches == b.batches && a.trace() == b.trace());
    let other = setting.run(&poisson(100, 1.0, Lengths::Fixed { prompt: 64, output: 8 }, 8));
    assert!(a.records != other.records);
}

#[test]
fn the_limit_ends_a_trial_and_leaves_the_rest_waiting() {
    let limit = Nanos::from_secs_f64(30.0);
    let setting = Setting { time_limit: limit, ..Setting::new(azure(), 8, 1) };
    let run = setting.run(&chat(500, 2.0));
    let unfinished = rows(&run.records).iter().filter(|row| row["completed_ns"] == Field::Null).count();
    // The driver may be taking in a batch when the limit passes.
    assert!(run.ending.end >= limit && run.ending.end < limit + Nanos::from_secs_f64(0.01));
    assert_eq!(unfinished + run.ending.completed as usize, rows(&run.records).len());
    assert!(unfinished > 0);
}
