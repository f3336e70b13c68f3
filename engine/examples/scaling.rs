//! Time and peak memory of a simulated trial of 1,000 to 1,000,000 requests, records included: both should show a straight line
//! through the origin, and a flat one.
//!
//! `cargo run --release -p chariot-engine --example scaling [REQUESTS...]`

use std::io::Write as _;
use std::process::Command;

use anyhow::Context as _;
use camino::Utf8Path;
use chariot_engine::engine::{Ending, Trial};
use chariot_engine::record::{Recorder, Watch};
use chariot_engine::sched::{ChunkSchedule, Compat, Policy, Scheduler, SchedulerConfig};
use chariot_engine::shape::ModelShape;
use chariot_engine::shard::{Division, Parallel};
use chariot_engine::sim::SimExecutor;
use chariot_engine::sim::coefficient::Band;
use chariot_engine::sim::cost::CostModel;
use chariot_engine::units::Nanos;
use chariot_engine::workload::{Arrivals, Lengths, Workload};

const PIPELINES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines");

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, requests] = &args[..]
        && flag == "--one"
    {
        return one(requests.parse()?);
    }
    let sizes = if args.is_empty() {
        ["1000", "10000", "100000", "1000000"].map(str::to_owned).to_vec()
    } else {
        args
    };
    let mut out = std::io::stdout();
    writeln!(
        out,
        "| requests | batches | output tokens | seconds | us a request | peak MB |\n|---|---|---|---|---|---|"
    )?;
    for requests in sizes {
        // A process each, so that the peak is this size's own.
        Command::new(std::env::current_exe()?).args(["--one", &requests]).status()?;
    }
    Ok(())
}

/// Chat requests at 0.4 a second, below what Sarathi on TP4 x PP2 sustains, so that the queue stays short at every size.
fn one(requests: u32) -> anyhow::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
    let started = std::time::Instant::now();
    let (ending, tokens) = simulate(requests)?;
    let seconds = started.elapsed().as_secs_f64();
    let per_request = seconds / f64::from(requests) * 1e6;
    let peak = peak_megabytes().map_or_else(|| "-".to_owned(), |peak| format!("{peak:.0}"));
    let batches = ending.batches;
    Ok(writeln!(
        std::io::stdout(),
        "| {requests} | {batches} | {tokens} | {seconds:.3} | {per_request:.1} | {peak} |"
    )?)
}

fn simulate(count: u32) -> anyhow::Result<(Ending, u64)> {
    let read = |path: &str| fs_err::read_to_string(format!("{PIPELINES}/{path}.yaml"));
    let platform = serde_saphyr::from_str(&read("platforms/azure-nc96ads-a100-v4-x2")?)?;
    let shape = ModelShape::parse(&read("models/falcon-180b")?, "")?;
    let division = Division::new(&shape, Parallel { tp: 4, pp: 2 })?;
    let lengths = Lengths::Quantiles { file: "openchat_sharegpt4.yaml".to_owned(), total_max: None };
    let workload = Workload { requests: count, arrivals: Arrivals::Poisson { qps: 0.4 }, lengths };
    let requests = workload.generate(&Utf8Path::new(PIPELINES).join("lengths"), 42, false)?;
    let config = SchedulerConfig {
        policy: Policy::Sarathi { chunk: ChunkSchedule::Fixed(512) },
        batch_cap: 128,
        max_model_len: 8192,
        block_size: 16,
        blocks: 78_636,
        stages: 2,
        watermark: None,
        compat: Compat::Honest,
    };
    let outputs = || requests.iter().map(|request| request.output_tokens);
    // Records are encoded and counted, but kept nowhere: their size is the disk's business.
    let watch = Watch::new(Vec::new(), outputs());
    let mut recorder = Recorder::new(std::io::sink(), Some(std::io::sink()), watch)?;
    let mut executor = SimExecutor::new(CostModel::new(&platform, &shape, &division, Band::Central));
    let ending =
        Trial::new(&requests, Scheduler::new(config)?, &mut executor, &mut recorder).run(Nanos::MAX)?;
    recorder.finish(ending.end).context("expected records to be encoded")?;
    Ok((ending, outputs().map(u64::from).sum()))
}

/// Largest resident size so far, where the system tells.
fn peak_megabytes() -> Option<f64> {
    let status = fs_err::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? / 1e3)
}
