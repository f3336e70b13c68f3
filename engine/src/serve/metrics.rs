//! What is counted while serving, and its text for Prometheus. Written by the engine's thread and the HTTP edge, read by both: hence
//! atomics. Knows no request.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Upper bounds of the histograms' buckets, in seconds.
const TTFT_S: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
const TBT_S: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
const E2E_S: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// How an output, or a request that got none, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// By a stop token or text.
    Stop,
    /// It has all the tokens that it may have.
    Length,
    /// The client went away.
    Aborted,
    /// The engine failed, or was shut down.
    Failed,
    /// The queue was full.
    Rejected,
    /// The client's mistake.
    Invalid,
}

const OUTCOMES: [(Outcome, &str); 6] = [
    (Outcome::Stop, "stop"),
    (Outcome::Length, "length"),
    (Outcome::Aborted, "aborted"),
    (Outcome::Failed, "failed"),
    (Outcome::Rejected, "rejected"),
    (Outcome::Invalid, "invalid"),
];

/// How many values lay in each bucket.
#[derive(Debug)]
pub(super) struct Histogram {
    bounds_s: &'static [f64; 14],
    /// The last: above all bounds.
    counts: [AtomicU64; 15],
    sum_ns: AtomicU64,
}

impl Histogram {
    fn new(bounds_s: &'static [f64; 14]) -> Self {
        Self { bounds_s, counts: Default::default(), sum_ns: AtomicU64::new(0) }
    }

    /// Counts a length of time.
    pub(super) fn observe(&self, ns: u64) {
        let secs = ns as f64 / 1e9;
        let bucket = self.bounds_s.iter().position(|bound| secs <= *bound).unwrap_or(self.bounds_s.len());
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(ns, Relaxed);
    }

    /// Of all values so far, in seconds.
    pub(super) fn mean_s(&self) -> Option<f64> {
        let count: u64 = self.counts.iter().map(|count| count.load(Relaxed)).sum();
        (count > 0).then(|| self.sum_ns.load(Relaxed) as f64 / 1e9 / count as f64)
    }

    fn write(&self, name: &str, help: &str, text: &mut String) -> fmt::Result {
        header(name, "histogram", help, text)?;
        let mut below = 0;
        for (count, bound) in self.counts.iter().zip(self.bounds_s) {
            below += count.load(Relaxed);
            writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {below}")?;
        }
        below += self.counts[self.bounds_s.len()].load(Relaxed);
        writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {below}")?;
        writeln!(text, "{name}_sum {}", self.sum_ns.load(Relaxed) as f64 / 1e9)?;
        writeln!(text, "{name}_count {below}")
    }
}

/// Everything that is counted.
#[derive(Debug)]
pub(super) struct Metrics {
    outcomes: [AtomicU64; OUTCOMES.len()],
    /// Sequences that wait for memory or a place.
    pub(super) waiting: AtomicU64,
    /// Sequences that hold blocks.
    pub(super) running: AtomicU64,
    /// Blocks held.
    pub(super) blocks_used: AtomicU64,
    /// Blocks there are.
    pub(super) blocks_total: AtomicU64,
    /// Sequences that lost their blocks to others and were computed again.
    pub(super) preemptions: AtomicU64,
    /// Of prompts that gave a first token.
    pub(super) prompt_tokens: AtomicU64,
    /// Output tokens.
    pub(super) generation_tokens: AtomicU64,
    /// Arrival to first token.
    pub(super) ttft: Histogram,
    /// Between consecutive tokens of an output.
    pub(super) tbt: Histogram,
    /// Arrival to last token.
    pub(super) e2e: Histogram,
}

impl Metrics {
    /// Nothing counted yet.
    pub(super) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            outcomes: Default::default(),
            waiting: zero(),
            running: zero(),
            blocks_used: zero(),
            blocks_total: zero(),
            preemptions: zero(),
            prompt_tokens: zero(),
            generation_tokens: zero(),
            ttft: Histogram::new(&TTFT_S),
            tbt: Histogram::new(&TBT_S),
            e2e: Histogram::new(&E2E_S),
        }
    }

    /// `count` outputs ended like this.
    pub(super) fn ended(&self, outcome: Outcome, count: u64) {
        let place = OUTCOMES.iter().position(|(listed, _)| *listed == outcome);
        self.outcomes[place.expect("every outcome is listed")].fetch_add(count, Relaxed);
    }

    /// The Prometheus text format, version 0.0.4.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("writing to a string does not fail");
        text
    }

    fn write(&self, text: &mut String) -> fmt::Result {
        header("chariot_requests_total", "counter", "Outputs by how they ended.", text)?;
        for (count, (_, name)) in self.outcomes.iter().zip(OUTCOMES) {
            writeln!(text, "chariot_requests_total{{outcome=\"{name}\"}} {}", count.load(Relaxed))?;
        }
        let single = [
            ("chariot_requests_waiting", "gauge", "Sequences in the queue.", &self.waiting),
            ("chariot_requests_running", "gauge", "Sequences that hold KV blocks.", &self.running),
            ("chariot_kv_blocks_used", "gauge", "KV blocks held by sequences.", &self.blocks_used),
            ("chariot_kv_blocks_total", "gauge", "KV blocks of the cache.", &self.blocks_total),
            ("chariot_preemptions_total", "counter", "Sequences put back into the queue.", &self.preemptions),
            ("chariot_prompt_tokens_total", "counter", "Prompt tokens computed.", &self.prompt_tokens),
            ("chariot_generation_tokens_total", "counter", "Output tokens.", &self.generation_tokens),
        ];
        for (name, kind, help, value) in single {
            header(name, kind, help, text)?;
            writeln!(text, "{name} {}", value.load(Relaxed))?;
        }
        self.ttft.write("chariot_time_to_first_token_seconds", "Arrival to first token.", text)?;
        self.tbt.write("chariot_time_between_tokens_seconds", "Between consecutive tokens.", text)?;
        self.e2e.write("chariot_e2e_request_latency_seconds", "Arrival to last token.", text)
    }
}

fn header(name: &str, kind: &str, help: &str, text: &mut String) -> fmt::Result {
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_count_what_is_below_them() {
        let metrics = Metrics::new();
        for ms in [1, 2, 7, 40_000] {
            metrics.ttft.observe(ms * 1_000_000);
        }
        metrics.ended(Outcome::Length, 3);
        let text = metrics.text();
        for line in [
            "chariot_requests_total{outcome=\"length\"} 3",
            "chariot_requests_total{outcome=\"stop\"} 0",
            "chariot_time_to_first_token_seconds_bucket{le=\"0.001\"} 1",
            "chariot_time_to_first_token_seconds_bucket{le=\"0.0025\"} 2",
            "chariot_time_to_first_token_seconds_bucket{le=\"30\"} 3",
            "chariot_time_to_first_token_seconds_bucket{le=\"+Inf\"} 4",
            "chariot_time_to_first_token_seconds_sum 40.01",
            "chariot_time_to_first_token_seconds_count 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in:\n{text}");
        }
        assert_eq!(metrics.tbt.mean_s(), None);
    }
}
