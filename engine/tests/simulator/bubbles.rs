//! The tables of docs/chunk-and-bubbles.md, made here so that the page cannot drift from the simulator.
//!
//! `UPDATE_EXPECT=1 cargo test -p chariot-engine --test simulator bubbles` writes them anew.

use std::collections::BTreeMap;
use std::fmt::Write;

use chariot_engine::executor::StageStay;
use chariot_engine::units::Nanos;
use expect_test::expect_file;

use super::setting::{Run, Setting, azure, column, openchat, platform, sarathi};

/// TP4 x PP2 across the two nodes, or TP8 in one node: no stages, no bubbles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Layout {
    TwoStages,
    OneStage,
}

impl Layout {
    fn name(self) -> &'static str {
        match self {
            Self::TwoStages => "TP4 x PP2, two nodes",
            Self::OneStage => "TP8, one node",
        }
    }

    fn setting(self) -> Setting {
        match self {
            Self::TwoStages => Setting::new(azure(), 4, 2),
            Self::OneStage => Setting::new(platform("a100-pcie-x8"), 8, 1),
        }
    }
}

fn trial(layout: Layout, chunk: u32, qps: f64) -> Run {
    let time_limit = Nanos::from_secs_f64(1800.0);
    let setting = Setting { policy: sarathi(chunk), blocks: 78_636, time_limit, ..layout.setting() };
    setting.run(&openchat(qps))
}

/// What the SLO asks about, in seconds.
#[derive(Debug, Clone, Copy)]
struct Quality {
    tbt_p99: f64,
    delay_p50: f64,
}

impl Quality {
    /// Everyone who has arrived counts; who was never scheduled has waited until the end. Gaps that the end leaves open are
    /// not counted: with few stalls they do not move a P99 of some 900,000 gaps.
    fn of(run: &Run) -> Self {
        let end = run.ending.end.0 as i64;
        let arrivals = column(&run.records, "arrival_ns").into_iter().flatten();
        let delays = arrivals
            .zip(column(&run.records, "scheduled_ns"))
            .filter(|(arrival, _)| *arrival <= end)
            .map(|(arrival, scheduled)| scheduled.unwrap_or(end) - arrival);
        let gaps = column(&run.records, "tbt_ns").into_iter().flatten();
        Self { tbt_p99: quantile(gaps.collect(), 0.99), delay_p50: quantile(delays.collect(), 0.5) }
    }

    fn meets(self, tbt_max: f64) -> bool {
        self.tbt_p99 <= tbt_max && self.delay_p50 <= 2.0
    }
}

/// In seconds; between neighbours the interpolation is linear.
fn quantile(mut nanos: Vec<i64>, share: f64) -> f64 {
    nanos.sort_unstable();
    let at = share * (nanos.len() - 1) as f64;
    let [below, above] = [at.floor(), at.ceil()].map(|at| nanos[at as usize] as f64);
    (below + (above - below) * at.fract()) / 1e9
}

/// The rates a capacity search with 2.5 % granularity asks for.
fn rate(step: i32) -> f64 {
    1.025_f64.powi(step)
}

/// Bisects between 0.1 and 1.2 QPS: the highest step that meets the SLO, its upper neighbour missing it.
fn capacity(tbt_max: f64, mut probe: impl FnMut(i32) -> Quality) -> i32 {
    let (mut passes, mut fails) = (-93_i32, 7_i32);
    while fails - passes > 1 {
        let middle = (passes + fails).div_euclid(2);
        *if probe(middle).meets(tbt_max) { &mut passes } else { &mut fails } = middle;
    }
    assert!(passes > -93 && fails < 7, "expected a capacity inside the range");
    passes
}

fn capacities() -> String {
    let mut table = "\n| layout | chunk | P99 TBT limit | capacity (bracket, QPS) | just above it: P99 TBT | median scheduling delay |\n\
                     |---|---|---|---|---|---|\n"
        .to_owned();
    let mut seen = BTreeMap::new();
    for (layout, limits) in [(Layout::TwoStages, &[1.0, 5.0][..]), (Layout::OneStage, &[5.0])] {
        for chunk in [512, 2048] {
            for &limit in limits {
                let mut probe = |step| {
                    *seen
                        .entry((layout, chunk, step))
                        .or_insert_with(|| Quality::of(&trial(layout, chunk, rate(step))))
                };
                let passes = capacity(limit, &mut probe);
                let Quality { tbt_p99, delay_p50 } = probe(passes + 1);
                let (low, high, name) = (rate(passes), rate(passes + 1), layout.name());
                writeln!(table, "| {name} | {chunk} | {limit} s | {low:.4} - {high:.4} | {tbt_p99:.2} s | {delay_p50:.1} s |")
                    .unwrap();
            }
        }
    }
    table
}

/// A batch in the first stage, and what kept the stage idle after it.
struct Turn {
    prompt_tokens: i64,
    work: u64,
    /// Idle while the batch before it was still in the second stage, whose end the next batch waits for.
    bubble: u64,
    /// Idle otherwise: results on their way to the driver, the next batch on its way back.
    driver: u64,
}

/// The first stage's turns in the middle half of a trial.
fn turns(run: &Run) -> Vec<Turn> {
    let prompt_tokens: Vec<i64> = column(&run.batches, "prefill_tokens").into_iter().flatten().collect();
    let of =
        |stage| run.stays.iter().filter(move |stay| stay.stage == stage).copied().collect::<Vec<StageStay>>();
    let (first, second) = (of(0), of(1));
    let end = run.ending.end.0;
    let middle = (1..first.len() - 1).filter(|&i| (end / 4..end / 4 * 3).contains(&first[i].start.0));
    let turn = |i: usize| {
        let (left, next) = (first[i].end.0, first[i + 1].start.0);
        let before = second[i - 1];
        let bubble = before.end.0.min(next).saturating_sub(before.start.0.max(left));
        Turn {
            prompt_tokens: prompt_tokens[first[i].batch.0 as usize],
            work: left - first[i].start.0,
            bubble,
            driver: next - left - bubble,
        }
    };
    middle.map(turn).collect()
}

fn share(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole as f64
}

fn mean_ms(turns: &[&Turn]) -> f64 {
    turns.iter().map(|turn| turn.work).sum::<u64>() as f64 / turns.len() as f64 / 1e6
}

fn timeline() -> String {
    let mut table = "\n| QPS | chunk | full batch | decode batch | both full | alternating | works | bubble | driver | prompt tokens/s | per second of work |\n\
                     |---|---|---|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for (qps, chunk) in [(0.7, 512), (0.7, 2048), (0.9, 512), (0.9, 2048)] {
        let turns = turns(&trial(Layout::TwoStages, chunk, qps));
        let full = |turn: &Turn| turn.prompt_tokens * 2 >= i64::from(chunk);
        let decode = |turn: &Turn| turn.prompt_tokens == 0;
        let pairs = |wanted: &dyn Fn(&Turn, &Turn) -> bool| {
            share(turns.windows(2).filter(|pair| wanted(&pair[0], &pair[1])).count(), turns.len() - 1)
        };
        let both_full = pairs(&|a, b| full(a) && full(b));
        let alternating = pairs(&|a, b| full(a) && decode(b) || decode(a) && full(b));
        let total = |part: fn(&Turn) -> u64| turns.iter().map(part).sum::<u64>() as f64;
        let (work, bubble, driver) = (total(|t| t.work), total(|t| t.bubble), total(|t| t.driver));
        let span = work + bubble + driver;
        let [works, bubbles, drivers] = [work, bubble, driver].map(|part| 100.0 * part / span);
        let tokens = turns.iter().map(|turn| turn.prompt_tokens).sum::<i64>() as f64 * 1e9;
        let full_ms = mean_ms(&turns.iter().filter(|turn| full(turn)).collect::<Vec<_>>());
        let decode_ms = mean_ms(&turns.iter().filter(|turn| decode(turn)).collect::<Vec<_>>());
        writeln!(
            table,
            "| {qps} | {chunk} | {full_ms:.0} ms | {decode_ms:.0} ms | {both_full:.0} % | {alternating:.0} % | {works:.0} % | {bubbles:.0} % | {drivers:.0} % | {:.0} | {:.0} |",
            tokens / span,
            tokens / work,
        )
        .unwrap();
    }
    table
}

/// The page with `table` between the two comments of that name.
fn with_table(page: &str, name: &str, table: &str) -> String {
    let (open, close) = (format!("<!-- {name} -->\n"), format!("\n<!-- end of {name} -->"));
    let start = page.find(&open).expect("the page has a place for the table") + open.len();
    let end = page.find(&close).expect("the table's place ends");
    format!("{}{table}{}", &page[..start], &page[end..])
}

#[test]
fn the_page_says_what_the_simulator_does() {
    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/chunk-and-bubbles.md");
    let page = fs_err::read_to_string(PAGE).unwrap();
    let page = with_table(&page, "capacities", &capacities());
    let page = with_table(&page, "timeline", &timeline());
    expect_file![PAGE].assert_eq(&page);
}
