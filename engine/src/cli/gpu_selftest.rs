//! `chariot-engine gpu-selftest`: whether this machine's GPUs compute rightly; and the same before a trial is measured on one that
//! has not shown it yet.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use camino::Utf8PathBuf;
use chariot_engine::backend::cuda;
use chariot_engine::selftest::stamps::{self, Stamps};
use chariot_engine::selftest::{self, Check, DTYPES, Seat, Tested, name};
use chariot_engine::shard::Dtype;
use serde::Serialize;

use super::files::wrong;
use super::say;

/// Test whether the GPUs of this machine compute and exchange values rightly
///
/// Runs every operation of the engine on each GPU and on the CPU, with the same inputs, and sends values between all GPUs, a process
/// each. A line an operation says how far the results are apart and how far rounding explains. Exit codes: 0 all right, 1 a GPU computes wrongly,
/// 2 there is no GPU.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  chariot-engine gpu-selftest\n  chariot-engine gpu-selftest --devices 0,1 --json"
)]
pub(super) struct Args {
    /// GPUs by their numbers, separated by commas; default: all
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',')]
    devices: Option<Vec<usize>>,
    /// Types of weights and activations; default: all that the kernels have
    #[arg(long, value_enum, value_name = "TYPES", value_delimiter = ',')]
    dtype: Option<Vec<Type>>,
    /// Test only GPUs that have not passed with this executable, driver and libraries, and say nothing of others; print what each GPU is, a line each
    #[arg(long, conflicts_with_all = ["dtype", "json"])]
    if_new: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Type {
    F32,
    Bf16,
    F16,
}

impl From<Type> for Dtype {
    fn from(dtype: Type) -> Self {
        match dtype {
            Type::F32 => Self::Float32,
            Type::Bf16 => Self::Bfloat16,
            Type::F16 => Self::Float16,
        }
    }
}

/// One GPU of a test (started by `gpu-selftest`, not by hand)
#[derive(Debug, clap::Args)]
pub(super) struct RankArgs {
    /// All GPUs, in order of ranks
    #[arg(long, value_delimiter = ',')]
    gpus: Vec<usize>,
    /// Which of them
    #[arg(long)]
    rank: usize,
    /// Shared memory of the ranks
    #[arg(long)]
    meet: Option<Utf8PathBuf>,
    #[arg(long, value_enum, value_delimiter = ',')]
    dtype: Vec<Type>,
}

/// One operation's line in JSON.
#[derive(Debug, Serialize)]
struct Line<'a> {
    gpu: usize,
    right: bool,
    operation: &'a str,
    shape: &'a str,
    dtype: Dtype,
    error: f32,
    allowed: f32,
}

impl<'a> Line<'a> {
    fn new(gpu: usize, check: &'a Check) -> Self {
        let Check { operation, shape, dtype, error, allowed } = check;
        let right = check.is_right();
        Self { gpu, right, operation, shape, dtype: *dtype, error: *error, allowed: *allowed }
    }
}

#[derive(Debug, Serialize)]
struct Failure<'a> {
    gpu: usize,
    failure: &'a str,
}

/// The whole answer in JSON.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    right: bool,
    seconds: f64,
    summary: String,
    checks: Vec<Line<'a>>,
    failures: Vec<Failure<'a>>,
}

/// What came of a test.
struct Report {
    /// GPUs and what each found.
    found: Vec<(usize, Tested)>,
    /// How many of these are of GPUs alone; the others are of what they exchange.
    alone: usize,
    gpus: usize,
    seconds: f64,
}

impl Report {
    fn checks(&self) -> impl Iterator<Item = (usize, &Check)> {
        self.found.iter().flat_map(|(gpu, tested)| tested.checks.iter().map(|check| (*gpu, check)))
    }

    fn failures(&self) -> impl Iterator<Item = (usize, &str)> {
        self.found.iter().filter_map(|(gpu, tested)| Some((*gpu, tested.failure.as_deref()?)))
    }

    fn is_right(&self) -> bool {
        self.found.iter().all(|(_, tested)| tested.is_right())
    }

    fn are_alone_right(&self) -> bool {
        self.found[..self.alone].iter().all(|(_, tested)| tested.is_right())
    }

    /// One sentence. What was wrong first is named: later operations may be wrong because of it.
    fn summary(&self) -> String {
        if let Some((gpu, check)) = self.checks().find(|(_, check)| !check.is_right()) {
            let Check { operation, shape, error, allowed, .. } = check;
            let dtype = name(check.dtype);
            let what = if self.are_alone_right() { "gets wrong values" } else { "computes wrongly" };
            return format!(
                "GPU {gpu} {what}: {operation} of {shape} in {dtype} is off by {error:.2e}, expected at most {allowed:.2e}"
            );
        }
        if let Some((gpu, failure)) = self.failures().next() {
            let what = if self.are_alone_right() { "exchanges nothing" } else { "does not compute" };
            return format!("GPU {gpu} {what}: {failure}");
        }
        let (count, gpus, seconds) = (self.checks().count(), self.gpus, self.seconds);
        let what = match (self.alone, gpus) {
            (_, 1) => "1 GPU computes".to_owned(),
            (0, _) => format!("{gpus} GPUs exchange values"),
            _ if self.found.len() > self.alone => format!("{gpus} GPUs compute and exchange values"),
            _ => format!("{gpus} GPUs compute"),
        };
        format!("{what} rightly: {count} results in {seconds:.1} s")
    }

    fn answer(&self) -> Answer<'_> {
        Answer {
            right: self.is_right(),
            seconds: self.seconds,
            summary: self.summary(),
            checks: self.checks().map(|(gpu, check)| Line::new(gpu, check)).collect(),
            failures: self.failures().map(|(gpu, failure)| Failure { gpu, failure }).collect(),
        }
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let count = cuda::device_count().map_err(wrong)?;
    let mut gpus = args.devices.clone().unwrap_or_else(|| (0..count).collect());
    gpus.sort_unstable();
    gpus.dedup();
    if let Some(gpu) = gpus.iter().find(|gpu| **gpu >= count) {
        return Err(wrong(format_args!("--devices: expected numbers below {count}, found {gpu}")));
    }
    cuda::check(gpus.len() as u32).map_err(wrong)?;
    if args.if_new {
        test_if_new(&gpus)?;
        return tell_identities(&gpus);
    }
    let dtypes = args.dtype.as_ref().map(|types| types.iter().copied().map(Dtype::from).collect());
    let dtypes: Vec<Dtype> = dtypes.unwrap_or_else(|| DTYPES.to_vec());
    let program = own_program()?;
    let together = if gpus.len() > 1 { &gpus[..] } else { &[] };
    let report = test(&program, &gpus, together, &dtypes)?;
    if args.json {
        let mut out = std::io::stdout().lock();
        serde_json::to_writer(&mut out, &report.answer())?;
        writeln!(out)?;
    } else {
        show(&report)?;
    }
    if report.is_right() && DTYPES.iter().all(|dtype| dtypes.contains(dtype)) {
        remember(&program, &gpus, together)?;
    }
    Ok(ExitCode::from(u8::from(!report.is_right())))
}

pub(super) fn run_rank(args: &RankArgs) -> anyhow::Result<()> {
    selftest::end_with_parent().context("ask to end with the test")?;
    if args.rank >= args.gpus.len() {
        return Err(wrong(format_args!(
            "--rank: expected one below {}, found {}",
            args.gpus.len(),
            args.rank
        )));
    }
    let dtypes: Vec<Dtype> = args.dtype.iter().copied().map(Dtype::from).collect();
    let seat = Seat { gpus: &args.gpus, rank: args.rank, meet: args.meet.as_deref(), dtypes: &dtypes };
    say(format_args!("{}", serde_json::to_string(&selftest::run_one(&seat))?))
}

/// A line a GPU, for those who remember what it exchanges with GPUs of other hosts.
fn tell_identities(gpus: &[usize]) -> anyhow::Result<ExitCode> {
    let stamps = Stamps::of(&own_program()?, &stamps::folder())?;
    for &gpu in gpus {
        say(format_args!("{}", stamps.identity(gpu)?))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn own_program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("find this executable")
}

/// Operations of `alone`, and, if they are right, what the GPUs `together` exchange.
fn test(program: &Path, alone: &[usize], together: &[usize], dtypes: &[Dtype]) -> anyhow::Result<Report> {
    let began = now();
    let pair = |gpus: &[usize], tested: Vec<Tested>| -> Vec<(usize, Tested)> {
        gpus.iter().copied().zip(tested).collect()
    };
    let mut found = pair(alone, selftest::each(program, alone, dtypes)?);
    if !together.is_empty() && found.iter().all(|(_, tested)| tested.is_right()) {
        found.extend(pair(together, selftest::between(program, together, dtypes)?));
    }
    let gpus = alone.len().max(together.len());
    Ok(Report { found, alone: alone.len(), gpus, seconds: began.elapsed().as_secs_f64() })
}

/// A line an operation, and one at the end.
fn show(report: &Report) -> anyhow::Result<()> {
    for (gpu, tested) in &report.found {
        for check in &tested.checks {
            let Check { operation, shape, dtype, error, allowed } = check;
            let verdict = if check.is_right() { "ok" } else { "WRONG" };
            say(format_args!(
                "GPU {gpu}  {operation:<18}  {shape:<51}  {:<4}  error {error:8.1e}  allowed {allowed:8.1e}  {verdict}",
                name(*dtype)
            ))?;
        }
        if let Some(failure) = &tested.failure {
            say(format_args!("GPU {gpu}  FAILED: {failure}"))?;
        }
    }
    say(format_args!("{}", report.summary()))
}

/// Stamps of GPUs alone and together that were right.
fn remember(program: &Path, alone: &[usize], together: &[usize]) -> anyhow::Result<()> {
    let stamps = Stamps::of(program, &stamps::folder())?;
    let sets = alone.iter().map(std::slice::from_ref).chain((!together.is_empty()).then_some(together));
    for gpus in sets {
        stamps.stamp(gpus)?.put().context("remember that the GPUs compute rightly")?;
    }
    Ok(())
}

/// Refuses to measure on GPUs of this host that compute wrongly. Those of `ranks` ranks are tested that have not passed the test with this
/// executable, driver and libraries.
pub(super) fn before_measuring(ranks: u32) -> anyhow::Result<()> {
    cuda::check(ranks).map_err(|missing| wrong(format_args!("the platform's backend is cuda: {missing}")))?;
    test_if_new(&(0..ranks as usize).collect::<Vec<_>>())
}

/// Tests those of `gpus` that have not passed, and what all of them exchange if that has not; an error if anything is wrong.
fn test_if_new(gpus: &[usize]) -> anyhow::Result<()> {
    let program = own_program()?;
    let stamps = Stamps::of(&program, &stamps::folder())?;
    let is_known = |gpus: &[usize]| stamps.stamp(gpus).map(|stamp| stamp.is_there());
    let mut alone = Vec::new();
    for &gpu in gpus {
        if !is_known(&[gpu])? {
            alone.push(gpu);
        }
    }
    let together = if gpus.len() > 1 && !is_known(gpus)? { gpus } else { &[] };
    if alone.is_empty() && together.is_empty() {
        return Ok(());
    }
    let report = test(&program, &alone, together, &DTYPES)?;
    if !report.is_right() {
        anyhow::bail!(
            "{}; nothing is measured on it. `chariot-engine gpu-selftest` shows all results",
            report.summary()
        );
    }
    // Nobody is left to tell if stderr is closed.
    let _ = writeln!(std::io::stderr(), "self-test before the first trial: {}", report.summary());
    remember(&program, &alone, together)
}

#[expect(clippy::disallowed_methods, reason = "says how long the test took")]
fn now() -> Instant {
    Instant::now()
}
