//! A trial is stopped exactly when its data can no longer pass.

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::super::{Predicate, Watch};
use crate::sched::NewSequence;
use crate::units::{Nanos, SeqId};

fn predicate(text: &str) -> Predicate {
    text.parse().unwrap()
}

/// Quantile as numpy's default reads it; the position is `(n - 1) q`.
fn quantile(mut samples: Vec<u64>, q: f64) -> f64 {
    samples.sort_unstable();
    let at = (samples.len() - 1) as f64 * q;
    let below = at as usize;
    let above = (below + 1).min(samples.len() - 1);
    let (low, high) = (samples[below] as f64, samples[above] as f64);
    low + (high - low) * at.fract()
}

/// Whether enough samples are above the limit to say so by count alone.
fn fails_by_count(samples: &[u64], q: f64, limit: u64) -> bool {
    let above = samples.iter().filter(|&&sample| sample > limit).count();
    above >= samples.len() - ((samples.len() - 1) as f64 * q) as usize
}

fn new_sequence(id: u32, arrival: u64, output_tokens: u32) -> NewSequence {
    NewSequence { id: SeqId(id), arrival: Nanos(arrival), prompt_tokens: 1, output_tokens }
}

fn quantiles() -> impl Strategy<Value = (&'static str, f64)> {
    prop_oneof![
        Just(("p0", 0.0)),
        Just(("p50", 0.5)),
        Just(("p90", 0.9)),
        Just(("p99", 0.99)),
        Just(("p99.9", 0.999)),
        Just(("p100", 1.0)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gaps_stop_a_trial_that_fails_and_no_other(
        (name, q) in quantiles(),
        gaps in proptest::collection::vec(0..20_u64, 1..300),
        limit in 0..20_u64,
        never_told in 0..20_usize,
    ) {
        let predicate = predicate(&format!("{name}(tbt) <= {}e-9", limit));
        let output_tokens = gaps.len() as u32 + 1;
        let ignored = never_told as u32;
        let mut watch = Watch::new(vec![predicate], [output_tokens, ignored].into_iter());
        watch.arrived(&new_sequence(0, 0, output_tokens), false);
        watch.arrived(&new_sequence(1, 0, ignored), true);
        let mut stopped = false;
        for &gap in &gaps {
            watch.gap(Nanos(gap));
            stopped |= watch.hopeless(Nanos(0)).is_some();
        }
        prop_assert!(!stopped || quantile(gaps.clone(), q) > limit as f64, "stopped a trial that passes");
        prop_assert_eq!(stopped, fails_by_count(&gaps, q, limit));
    }

    #[test]
    fn delays_stop_a_trial_that_fails_and_no_other(
        (name, q) in quantiles(),
        requests in proptest::collection::vec((0..10_u64, 0..40_u64), 1..120),
        limit in 0..40_u64,
        metric in prop_oneof![Just("ttft"), Just("scheduling_delay")],
        end in 0..1500_u64,
    ) {
        let predicate = predicate(&format!("{name}({metric}) <= {}e-9", limit));
        let mut watch = Watch::new(vec![predicate], requests.iter().map(|_| 1));
        let mut arrival = 0;
        let mut events = Vec::new();
        for (id, &(gap, delay)) in (0..).zip(&requests) {
            arrival += gap;
            events.push((arrival, 0, id, arrival, delay));
            events.push((arrival + delay, 1, id, arrival, delay));
        }
        events.sort_unstable();
        let (mut stopped, mut samples, mut waiting) = (false, Vec::new(), Vec::new());
        for (now, kind, id, arrival, delay) in events.into_iter().take_while(|event| event.0 <= end) {
            match (kind, metric) {
                (0, _) => {
                    watch.arrived(&new_sequence(id, arrival, 1), false);
                    waiting.push((id, arrival));
                }
                (_, "ttft") => watch.first_token(SeqId(id), Nanos(delay)),
                (_, _) => watch.scheduled(SeqId(id), Nanos(delay)),
            }
            if kind == 1 {
                waiting.retain(|&(other, _)| other != id);
                samples.push(delay);
            }
            stopped |= watch.hopeless(Nanos(now)).is_some();
        }
        stopped |= watch.hopeless(Nanos(end)).is_some();
        samples.extend(waiting.iter().map(|&(_, arrival)| end - arrival));
        if !samples.is_empty() {
            let value = quantile(samples.clone(), q);
            prop_assert!(!stopped || value > limit as f64, "stopped a trial that passes with {value}");
        }
        // Requests that never arrived are counted as passing until the trial ends, so only a whole trial is exact.
        if samples.len() == requests.len() {
            prop_assert_eq!(stopped, fails_by_count(&samples, q, limit));
        }
    }
}

#[test]
fn the_predicate_that_fails_is_named() {
    let predicates = vec![predicate("p50(tbt) <= 1.0"), predicate("p99(ttft) <= 0.5")];
    let mut watch = Watch::new(predicates, std::iter::once(3));
    watch.arrived(&new_sequence(0, 100, 3), false);
    assert_eq!(watch.hopeless(Nanos(500_000_100)), None);
    assert_eq!(watch.hopeless(Nanos(500_000_101)), Some("p99(ttft) <= 0.5"));
}

#[test]
fn no_samples_are_no_failure() {
    let mut watch = Watch::new(vec![predicate("p100(tbt) <= 0")], std::iter::once(1));
    watch.arrived(&new_sequence(0, 0, 1), false);
    assert_eq!(watch.hopeless(Nanos(1)), None);
}

#[test]
fn predicates_are_read_or_told_apart() {
    let check = |text: &str, expect: Expect| {
        expect.assert_eq(&text.parse::<Predicate>().unwrap_err().to_string());
    };
    for right in ["p99(tbt) <= 1.0", " p99.9( ttft )<=2", "p0(scheduling_delay) <= 0", "p100(tbt) <= 1e3"] {
        right.parse::<Predicate>().unwrap();
    }
    check(
        "p99(tbt) < 1.0",
        expect![
            "predicate 'p99(tbt) < 1.0': expected QUANTILE(METRIC) <= SECONDS, such as 'p99(tbt) <= 1.0'"
        ],
    );
    check(
        "99(tbt) <= 1.0",
        expect!["predicate '99(tbt) <= 1.0': expected a quantile from p0 to p100, such as p50 or p99.9"],
    );
    check(
        "p101(tbt) <= 1.0",
        expect!["predicate 'p101(tbt) <= 1.0': expected a quantile from p0 to p100, such as p50 or p99.9"],
    );
    check(
        "p99.99999999(tbt) <= 1.0",
        expect![
            "predicate 'p99.99999999(tbt) <= 1.0': expected a quantile from p0 to p100, such as p50 or p99.9"
        ],
    );
    check(
        "p99(tpot) <= 1.0",
        expect!["predicate 'p99(tpot) <= 1.0': expected one of the metrics tbt, ttft, scheduling_delay"],
    );
    check("p99(tbt) <= -1", expect!["predicate 'p99(tbt) <= -1': expected a limit in seconds of at least 0"]);
    check(
        "p99(tbt) <= soon",
        expect!["predicate 'p99(tbt) <= soon': expected a limit in seconds of at least 0"],
    );
}
