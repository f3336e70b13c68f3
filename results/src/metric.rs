//! Every metric by name: which samples a trial gives it. Knows records; knows no statistic and no file.
//!
//! The formulas are written out in `docs/metrics.md`. One rule serves them all: a request counts once a metric's clock
//! has started for it, and a clock that still runs is read at the end of the trial. Under `compat: sarathi` the
//! artifact's names cover finished requests alone, so that no clock runs; our own names never change their meaning.

use crate::columns::Lists;
use crate::quantile::quantile;
use crate::records::{Batches, Compat, Lives, Works};

/// All that a trial's metrics are derived from.
pub struct Trial {
    /// Whose rules the artifact's metrics follow.
    pub compat: Compat,
    /// When it ended, ns.
    pub end: i64,
    /// When things happened.
    pub lives: Lives,
    /// What was done.
    pub works: Works,
    /// Token gaps, ns.
    pub gaps: Lists<i64>,
    /// Whether a gap's batch carried decodes alone.
    pub decode_only: Lists<bool>,
}

/// The samples of a metric.
#[derive(Debug, Clone, PartialEq)]
pub enum Samples {
    /// Times, ns; shown in seconds.
    Nanos(Vec<i64>),
    /// Numbers in the metric's own unit.
    Real(Vec<f64>),
}

/// A metric of a trial's requests and tokens.
pub struct Metric {
    /// Its name in summaries and specifications.
    pub name: &'static str,
    /// The unit of its statistics.
    pub unit: &'static str,
    /// Its samples.
    pub samples: fn(&Trial) -> Samples,
}

/// A metric of a trial's batches.
pub struct BatchMetric {
    /// Its name in summaries and specifications.
    pub name: &'static str,
    /// The unit of its statistics.
    pub unit: &'static str,
    /// Its samples.
    pub samples: fn(&Batches) -> Samples,
}

/// Our own names first, then the artifact's.
pub const METRICS: &[Metric] = &[
    Metric { name: "ttft", unit: "s", samples: |t| Samples::Nanos(ttft(&t.lives, t.end)) },
    Metric { name: "tbt", unit: "s", samples: |t| Samples::Nanos(tbt(&t.lives, &t.gaps, t.end)) },
    Metric { name: "tbt_decode_only", unit: "s", samples: |t| Samples::Nanos(tbt_decode_only(t)) },
    Metric {
        name: "scheduling_delay",
        unit: "s",
        samples: |t| Samples::Nanos(scheduling_delay(&t.lives, t.end)),
    },
    Metric {
        name: "output_throughput",
        unit: "tokens/s",
        samples: |t| Samples::Real(output_throughput(&t.lives, t.end)),
    },
    Metric {
        name: "request_e2e_time",
        unit: "s",
        samples: |t| nanos(t, |r| Some(r.completed() - r.arrival)),
    },
    Metric {
        name: "request_e2e_time_normalized",
        unit: "s/token",
        samples: |t| seconds_per(t, |r| Some((r.completed() - r.arrival, 0, r.output))),
    },
    Metric {
        name: "request_e2e_time_piecewise_normalized",
        unit: "s/token",
        samples: |t| {
            seconds_per(t, |r| Some((r.execution + r.preemption, r.scheduled() - r.arrival, r.output)))
        },
    },
    Metric {
        name: "request_scheduling_delay",
        unit: "s",
        samples: |t| nanos(t, |r| Some(r.scheduled() - r.arrival)),
    },
    Metric {
        name: "request_execution_time",
        unit: "s",
        samples: |t| nanos(t, |r| r.scheduled.map(|_| r.execution)),
    },
    Metric {
        name: "request_preemption_time",
        unit: "s",
        samples: |t| nanos(t, |r| r.scheduled.map(|_| r.preemption)),
    },
    Metric {
        name: "request_execution_plus_preemption_time",
        unit: "s",
        samples: |t| nanos(t, |r| r.scheduled.map(|_| r.execution + r.preemption)),
    },
    Metric {
        name: "request_execution_plus_preemption_time_normalized",
        unit: "s/token",
        samples: |t| seconds_per(t, |r| r.scheduled.map(|_| (r.execution + r.preemption, 0, r.output))),
    },
    Metric {
        name: "prefill_e2e_time",
        unit: "s",
        samples: |t| nanos(t, |r| Some(r.prefilled() - r.arrival)),
    },
    Metric {
        name: "prefill_e2e_time_normalized",
        unit: "s/token",
        samples: |t| seconds_per(t, |r| Some((r.prefilled() - r.arrival, 0, r.prompt))),
    },
    Metric {
        name: "prefill_e2e_time_piecewise_normalized",
        unit: "s/token",
        samples: |t| {
            seconds_per(t, |r| Some((r.prefilled() - r.scheduled(), r.scheduled() - r.arrival, r.prompt)))
        },
    },
    Metric {
        name: "prefill_time_execution_plus_preemption",
        unit: "s",
        samples: |t| nanos(t, |r| r.scheduled.map(|s| r.prefilled() - s)),
    },
    Metric {
        name: "prefill_time_execution_plus_preemption_normalized",
        unit: "s/token",
        samples: |t| seconds_per(t, |r| r.scheduled.map(|s| (r.prefilled() - s, 0, r.prompt))),
    },
    Metric {
        name: "decode_time_execution_plus_preemption_normalized",
        unit: "s/token",
        samples: |t| seconds_per(t, |r| r.prefill_end.map(|f| (r.completed() - f, 0, r.output))),
    },
    Metric {
        name: "decode_token_execution_plus_preemption_time",
        unit: "s",
        samples: |t| Samples::Nanos(decode_token_time(t)),
    },
    Metric {
        name: "request_inter_arrival_delay",
        unit: "s",
        samples: |t| Samples::Nanos(inter_arrival_delay(t)),
    },
    Metric { name: "request_num_tokens", unit: "tokens", samples: |t| real(t, |r| r.prompt + r.output) },
    Metric { name: "request_num_prefill_tokens", unit: "tokens", samples: |t| real(t, |r| r.prompt) },
    Metric { name: "request_num_decode_tokens", unit: "tokens", samples: |t| real(t, |r| r.output) },
    Metric { name: "request_pd_ratio", unit: "1", samples: |t| real(t, |r| r.prompt / r.output) },
    Metric { name: "request_num_restarts", unit: "1", samples: |t| real(t, |r| r.restarts) },
    Metric { name: "request_num_pauses", unit: "1", samples: |t| real(t, |r| r.pauses) },
    Metric {
        name: "request_num_ignored",
        unit: "1",
        samples: |t| {
            Samples::Real(t.lives.ignored.iter().map(|ignored| f64::from(u8::from(*ignored))).collect())
        },
    },
];

/// Metrics of the batches.
pub const BATCH_METRICS: &[BatchMetric] = &[
    BatchMetric {
        name: "batch_num_tokens",
        unit: "tokens",
        samples: |b| sum(&b.prefill_tokens, Some(&b.decode_tokens)),
    },
    BatchMetric {
        name: "batch_num_prefill_tokens",
        unit: "tokens",
        samples: |b| sum(&b.prefill_tokens, None),
    },
    BatchMetric { name: "batch_num_decode_tokens", unit: "tokens", samples: |b| sum(&b.decode_tokens, None) },
    BatchMetric { name: "batch_size", unit: "sequences", samples: |b| sum(&b.sequences, None) },
    BatchMetric {
        name: "batch_execution_time",
        unit: "s",
        samples: |b| Samples::Nanos(b.end.iter().zip(&b.start).map(|(end, start)| end - start).collect()),
    },
    BatchMetric {
        name: "inter_batch_delay",
        unit: "s",
        samples: |b| {
            Samples::Nanos(b.start.iter().skip(1).zip(&b.end).map(|(start, end)| start - end).collect())
        },
    },
];

/// All names, in the order of summaries.
pub fn names() -> impl Iterator<Item = &'static str> {
    METRICS.iter().map(|m| m.name).chain(BATCH_METRICS.iter().map(|m| m.name))
}

impl Lives {
    /// Whether a request counts: not ignored, and arrived before the trial ended.
    pub fn counts(&self, row: usize, end: i64) -> bool {
        !self.ignored[row] && self.arrival[row] <= end
    }

    fn counted(&self, end: i64) -> impl Iterator<Item = usize> {
        (0..self.arrival.len()).filter(move |row| self.counts(*row, end))
    }
}

/// Planned arrival to first token; the wait so far where none has come.
pub fn ttft(lives: &Lives, end: i64) -> Vec<i64> {
    lives.counted(end).map(|i| lives.first_token[i].unwrap_or(end) - lives.arrival[i]).collect()
}

/// Arrival to first time scheduled; the wait so far where it never was.
pub fn scheduling_delay(lives: &Lives, end: i64) -> Vec<i64> {
    lives.counted(end).map(|i| lives.scheduled[i].unwrap_or(end) - lives.arrival[i]).collect()
}

/// Gaps between consecutive output tokens, and the open gaps of requests still owed a token that are overdue.
///
/// A request that stalls until the trial ends must not go unseen, yet a gap cut short at an ordinary moment is no
/// sample of anything and would dilute the rest. So an open gap counts if it is already longer than the median closed one.
pub fn tbt(lives: &Lives, gaps: &Lists<i64>, end: i64) -> Vec<i64> {
    let mut samples = Vec::with_capacity(gaps.values().len());
    for i in lives.counted(end) {
        samples.extend_from_slice(gaps.row(i));
    }
    let open: Vec<i64> = lives.counted(end).filter_map(|i| open_gap(lives, i, end)).collect();
    if open.is_empty() {
        return samples;
    }
    let median = quantile(&mut samples, 0.5).unwrap_or(0.0);
    samples.extend(open.into_iter().filter(|gap| *gap as f64 > median));
    samples
}

/// Output tokens per second from the first arrival to the trial's end: one sample, none of a trial without requests or time.
fn output_throughput(lives: &Lives, end: i64) -> Vec<f64> {
    let first = lives.counted(end).map(|i| lives.arrival[i]).min();
    let tokens: i64 = lives.counted(end).map(|i| i64::from(lives.tokens_out[i])).sum();
    let nanos = first.map(|first| end - first).filter(|nanos| *nanos > 0);
    nanos.map(|nanos| tokens as f64 / (nanos as f64 / 1e9)).into_iter().collect()
}

/// How long a request that is still owed an output token has waited since its newest one.
fn open_gap(lives: &Lives, row: usize, end: i64) -> Option<i64> {
    let last = lives.last_token[row].filter(|_| lives.completed[row].is_none())?;
    Some((end - last).max(0))
}

fn tbt_decode_only(trial: &Trial) -> Vec<i64> {
    let rows = trial.lives.counted(trial.end);
    rows.flat_map(|i| trial.gaps.row(i).iter().zip(trial.decode_only.row(i)))
        .filter_map(|(gap, decode_only)| decode_only.then_some(*gap))
        .collect()
}

/// The artifact's: time since the request's previous token, 0 for its first; its own life cycle logs a second 0 at
/// the end of the prompt and covers finished requests.
fn decode_token_time(trial: &Trial) -> Vec<i64> {
    let zeros = match trial.compat {
        Compat::Honest => 1,
        Compat::Sarathi => 2,
    };
    let mut samples = Vec::with_capacity(trial.gaps.values().len() + zeros * trial.gaps.rows());
    for i in covered(trial).filter(|i| trial.lives.tokens_out[*i] > 0) {
        samples.extend(std::iter::repeat_n(0, zeros));
        samples.extend_from_slice(trial.gaps.row(i));
    }
    samples
}

fn inter_arrival_delay(trial: &Trial) -> Vec<i64> {
    let arrivals: Vec<i64> = covered(trial).map(|i| trial.lives.arrival[i]).collect();
    arrivals.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

/// Requests that the artifact's metrics cover under the trial's rules.
fn covered(trial: &Trial) -> impl Iterator<Item = usize> {
    let all = trial.compat == Compat::Honest;
    trial.lives.counted(trial.end).filter(move |i| all || trial.lives.completed[*i].is_some())
}

/// One request, its clocks read at `end` where they still run.
struct Row {
    end: i64,
    arrival: i64,
    scheduled: Option<i64>,
    prefill_end: Option<i64>,
    completed: Option<i64>,
    execution: i64,
    preemption: i64,
    prompt: f64,
    output: f64,
    restarts: f64,
    pauses: f64,
}

impl Row {
    fn scheduled(&self) -> i64 {
        self.scheduled.unwrap_or(self.end)
    }
    fn prefilled(&self) -> i64 {
        self.prefill_end.unwrap_or(self.end)
    }
    fn completed(&self) -> i64 {
        self.completed.unwrap_or(self.end)
    }
}

fn rows(trial: &Trial) -> impl Iterator<Item = Row> {
    let (lives, works) = (&trial.lives, &trial.works);
    covered(trial).map(move |i| Row {
        end: trial.end,
        arrival: lives.arrival[i],
        scheduled: lives.scheduled[i],
        prefill_end: works.prefill_end[i],
        completed: lives.completed[i],
        execution: works.execution[i],
        preemption: works.preemption[i],
        prompt: f64::from(works.prompt_tokens[i]),
        output: f64::from(lives.output_tokens[i]),
        restarts: f64::from(works.restarts[i]),
        pauses: f64::from(works.pauses[i]),
    })
}

fn nanos(trial: &Trial, time: fn(&Row) -> Option<i64>) -> Samples {
    Samples::Nanos(rows(trial).filter_map(|row| time(&row)).collect())
}

/// `(shared, alone, tokens)` of a request: shared / tokens + alone, in seconds. Requests without such tokens have none.
fn seconds_per(trial: &Trial, parts: fn(&Row) -> Option<(i64, i64, f64)>) -> Samples {
    let parts = rows(trial).filter_map(|row| parts(&row)).filter(|(_, _, tokens)| *tokens > 0.0);
    Samples::Real(
        parts.map(|(shared, alone, tokens)| (shared as f64 / tokens + alone as f64) / 1e9).collect(),
    )
}

fn real(trial: &Trial, value: fn(&Row) -> f64) -> Samples {
    Samples::Real(rows(trial).map(|row| value(&row)).filter(|value| value.is_finite()).collect())
}

fn sum(a: &[i32], b: Option<&[i32]>) -> Samples {
    let b = |i: usize| b.map_or(0.0, |b| f64::from(b[i]));
    Samples::Real(a.iter().enumerate().map(|(i, a)| f64::from(*a) + b(i)).collect())
}
