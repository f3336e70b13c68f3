//! Every metric on four hand-made requests, against values worked out by hand.

use std::collections::BTreeMap;

use chariot_results::metric;
use chariot_results::summary::{Summary, summarize};

use crate::fixture::{four_requests, records, three_batches, trial, trial_json, write};

const S: i64 = 1_000_000_000;

fn summary(compat: &str) -> Summary {
    let (_guard, dir) = trial(&four_requests(), &three_batches(), &trial_json(20 * S, compat));
    summarize(&dir).unwrap()
}

/// The samples, told by count, min, max and mean; means are enough to tell any two of these sets apart.
fn check(summary: &Summary, name: &str, unit: &str, samples: &[f64]) {
    let m = summary.metrics.get(name).unwrap_or_else(|| panic!("no metric {name}"));
    assert_eq!((m.unit.as_str(), m.central.count), (unit, samples.len() as u64), "{name}");
    if samples.is_empty() {
        assert!(m.central.values().iter().all(Option::is_none), "{name}");
        return;
    }
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    let middle = if n % 2 == 1 { sorted[n / 2] } else { (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0 };
    let mean = samples.iter().sum::<f64>() / n as f64;
    let std = (samples.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64).sqrt();
    for (what, got, expected) in [
        ("min", m.central.min, sorted[0]),
        ("max", m.central.max, sorted[n - 1]),
        ("p50", m.central.p50, middle),
        ("mean", m.central.mean, mean),
        ("std", m.central.std, std),
    ] {
        assert!((got.unwrap() - expected).abs() < 1e-9, "{name} {what}: expected {expected}, found {got:?}");
    }
}

#[test]
fn honest_metrics_count_every_request_as_what_it_is() {
    let s = summary("honest");
    let expected: &[(&str, &str, &[f64])] = &[
        // Done: 4 - 1. Stalled: 5 - 2. Never scheduled: 20 - 5 so far.
        ("ttft", "s", &[3.0, 3.0, 15.0]),
        // Median closed gap 1.5 s; the stalled request's open gap 20 - 6 is longer and counts.
        ("tbt", "s", &[1.0, 2.0, 3.0, 1.0, 14.0]),
        ("tbt_decode_only", "s", &[1.0, 3.0, 1.0]),
        ("scheduling_delay", "s", &[1.0, 2.0, 15.0]),
        // Four tokens and two, from the first arrival at 1 s to the end at 20 s.
        ("output_throughput", "tokens/s", &[6.0 / 19.0]),
        ("request_e2e_time", "s", &[9.0, 18.0, 15.0]),
        ("request_e2e_time_normalized", "s/token", &[9.0 / 4.0, 18.0 / 10.0, 15.0 / 2.0]),
        ("request_e2e_time_piecewise_normalized", "s/token", &[1.0 + 8.0 / 4.0, 2.0 + 16.0 / 10.0, 15.0]),
        ("request_scheduling_delay", "s", &[1.0, 2.0, 15.0]),
        ("request_execution_time", "s", &[5.0, 2.0]),
        ("request_preemption_time", "s", &[3.0, 14.0]),
        ("request_execution_plus_preemption_time", "s", &[8.0, 16.0]),
        ("request_execution_plus_preemption_time_normalized", "s/token", &[2.0, 1.6]),
        ("prefill_e2e_time", "s", &[3.0, 3.0, 15.0]),
        ("prefill_e2e_time_normalized", "s/token", &[3.0 / 100.0, 3.0 / 50.0, 15.0 / 10.0]),
        ("prefill_e2e_time_piecewise_normalized", "s/token", &[1.0 + 2.0 / 100.0, 2.0 + 1.0 / 50.0, 15.0]),
        ("prefill_time_execution_plus_preemption", "s", &[2.0, 1.0]),
        ("prefill_time_execution_plus_preemption_normalized", "s/token", &[0.02, 0.02]),
        ("decode_time_execution_plus_preemption_normalized", "s/token", &[6.0 / 4.0, 15.0 / 10.0]),
        ("decode_token_execution_plus_preemption_time", "s", &[0.0, 1.0, 2.0, 3.0, 0.0, 1.0]),
        ("request_inter_arrival_delay", "s", &[1.0, 3.0]),
        ("request_num_tokens", "tokens", &[104.0, 60.0, 12.0]),
        ("request_num_prefill_tokens", "tokens", &[100.0, 50.0, 10.0]),
        ("request_num_decode_tokens", "tokens", &[4.0, 10.0, 2.0]),
        ("request_pd_ratio", "1", &[25.0, 5.0, 5.0]),
        ("request_num_restarts", "1", &[1.0, 0.0, 0.0]),
        ("request_num_pauses", "1", &[2.0, 0.0, 0.0]),
        ("request_num_ignored", "1", &[0.0, 0.0, 0.0, 1.0, 0.0]),
        ("batch_num_tokens", "tokens", &[100.0, 51.0, 2.0]),
        ("batch_num_prefill_tokens", "tokens", &[100.0, 50.0, 0.0]),
        ("batch_num_decode_tokens", "tokens", &[0.0, 1.0, 2.0]),
        ("batch_size", "sequences", &[1.0, 2.0, 2.0]),
        ("batch_execution_time", "s", &[2.0, 1.0, 1.0]),
        ("inter_batch_delay", "s", &[0.0, 1.0]),
    ];
    for (name, unit, samples) in expected {
        check(&s, name, unit, samples);
    }
    let tested: Vec<&str> = expected.iter().map(|(name, _, _)| *name).collect();
    assert_eq!(tested, metric::names().collect::<Vec<_>>(), "every metric is worked out here");
    let r = &s.requests;
    assert_eq!(
        (r.total, r.ignored, r.not_arrived, r.never_scheduled, r.unfinished, r.completed),
        (5, 1, 1, 1, 1, 1)
    );
}

#[test]
fn sarathi_covers_finished_requests_and_logs_two_zeros_but_our_names_keep_their_meaning() {
    let s = summary("sarathi");
    check(&s, "request_scheduling_delay", "s", &[1.0]);
    check(&s, "request_e2e_time", "s", &[9.0]);
    check(&s, "prefill_e2e_time", "s", &[3.0]);
    check(&s, "decode_token_execution_plus_preemption_time", "s", &[0.0, 0.0, 1.0, 2.0, 3.0]);
    check(&s, "request_inter_arrival_delay", "s", &[]);
    check(&s, "scheduling_delay", "s", &[1.0, 2.0, 15.0]);
    check(&s, "ttft", "s", &[3.0, 3.0, 15.0]);
    check(&s, "tbt", "s", &[1.0, 2.0, 3.0, 1.0, 14.0]);
}

#[test]
fn a_short_open_gap_is_no_sample() {
    let (_guard, dir) = trial(&four_requests(), &three_batches(), &trial_json(7 * S, "honest"));
    check(&summarize(&dir).unwrap(), "tbt", "s", &[1.0, 2.0, 3.0, 1.0]);
}

#[test]
fn series_are_running_totals() {
    let s = summary("honest");
    let told: BTreeMap<&str, (f64, Option<f64>, Option<f64>)> =
        s.series.iter().map(|(name, s)| (name.as_str(), (s.total, s.first_s, s.last_s))).collect();
    assert_eq!(told["request_arrival"], (3.0, Some(1.0), Some(5.0)));
    assert_eq!(told["request_completion"], (1.0, Some(10.0), Some(10.0)));
    assert_eq!(told["prefill_completion"], (150.0, Some(4.0), Some(5.0)));
    assert_eq!(told["decode_completion"], (3.0, Some(5.0), Some(7.0)));
    let prefill = &s.series["prefill_completion"];
    assert_eq!((prefill.min, prefill.max, prefill.mean), (Some(100.0), Some(150.0), Some(125.0)));
    assert_eq!(prefill.points.len(), 101);
    assert_eq!(
        (prefill.points[0], prefill.points[20], prefill.points[100]),
        ((0.0, 0.0), (4.0, 100.0), (20.0, 150.0))
    );
}

#[test]
fn the_band_is_told_where_it_differs() {
    let (_guard, dir) = trial(&four_requests(), &three_batches(), &trial_json(20 * S, "honest"));
    let central = fs_err::read(dir.join("records.parquet")).unwrap();
    write(&dir.join("records-low.parquet"), &central);
    let mut slow = four_requests();
    slow[0].tbt = vec![S, 2 * S, 5 * S];
    slow[0].last_token = Some(12 * S);
    slow[0].completed = Some(12 * S);
    write(&dir.join("records-high.parquet"), &records(&slow, 2));
    let s = summarize(&dir).unwrap();
    assert!(s.metrics.values().all(|m| m.low.is_none()), "the low end is equal, byte for byte");
    assert_eq!(s.metrics["tbt_decode_only"].high.as_ref().unwrap().max, Some(5.0));
    assert_eq!(
        s.metrics["tbt"].high.as_ref().unwrap().max,
        Some(14.0),
        "the time limit ends the band's trial too"
    );
    assert!(s.metrics["batch_size"].high.is_none(), "the band has no batches");
}

#[test]
fn row_groups_do_not_matter() {
    let (_guard, dir) = trial(&four_requests(), &three_batches(), &trial_json(20 * S, "honest"));
    let whole = serde_json::to_string(&summarize(&dir).unwrap()).unwrap();
    for per_group in 1..5 {
        write(&dir.join("records.parquet"), &records(&four_requests(), per_group));
        assert_eq!(serde_json::to_string(&summarize(&dir).unwrap()).unwrap(), whole);
    }
}

#[test]
fn a_summary_survives_the_round_trip() {
    let s = summary("honest");
    let text = serde_json::to_string(&s).unwrap();
    let back: Summary = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string(&back).unwrap(), text);
}
