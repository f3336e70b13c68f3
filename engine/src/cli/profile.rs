//! `chariot-engine profile`: measures models on this machine; a platform with those costs becomes a file that the simulator reads.

mod samples;
mod shown;

use std::io::Write as _;
use std::str::FromStr;

use anyhow::Context;
use camino::{Utf8Path, Utf8PathBuf};
use chariot_engine::backend::cuda;
use chariot_engine::model::ModelConfig;
use chariot_engine::profile::{self, ProfileError, SampleRow, Target};
use chariot_engine::runtime::{self, Weights};
use chariot_engine::shard::{Division, Dtype, Parallel};
use chariot_engine::sim::measured::{Layout, Measured};
use chariot_engine::sim::platform::{Backend, Platform, Runtime, StageCosts};

use super::bench::{check_gpus, links};
use super::choice::of_platform;
use super::files::{Output, mistake, read, wrong};
use super::ranks::{self, check_cores};
use super::shard::DummyDtype;
use super::{say, yaml};
use samples::Samples;
use shown::Shown;

/// A layout with a larger share of disturbed measurements is warned of.
const DISTURBED_MAX: f64 = 0.25;

/// Measure models on this machine, for the simulator to predict trials with
///
/// Runs made-up batches on the worker processes, transport and emulated links of the platform's `runtime`, for each model and each way
/// to divide it, and writes the platform with what they took. `cluster` and `simulate` read that file. Leave the machine alone meanwhile.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  chariot-engine profile --platform pipelines/platforms/cpu-2x4.yaml --model pipelines/models/falcon-60m.yaml --parallel 1x1,2x1,1x2 --out here.yaml\n  \
                  chariot-engine cluster --platform here.yaml --out cluster.json"
)]
pub(super) struct Args {
    /// Platform preset with a `runtime`, YAML
    #[arg(long, value_name = "FILE")]
    platform: Utf8PathBuf,
    /// A model preset, or a Hugging Face config.json; may be given several times
    #[arg(long, value_name = "FILE", required = true)]
    model: Vec<Utf8PathBuf>,
    /// Tensor-parallel ranks x pipeline stages, of each layout
    #[arg(long, value_name = "TPxPP", value_delimiter = ',', default_value = "1x1")]
    parallel: Vec<Split>,
    /// Type of the weights, whose values are made up
    #[arg(long, value_enum, default_value = "bf16")]
    dtype: DummyDtype,
    /// Seed of the weights' values; tells repeated profiles apart
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The largest batch to measure, in tokens
    #[arg(long, value_name = "N", default_value_t = 512)]
    max_tokens: u32,
    /// How long to measure, all layouts together, starting ranks aside; each batch is measured at least once
    #[arg(long, value_name = "N", default_value_t = 60.0)]
    seconds: f64,
    /// Where to write the platform with its costs
    #[arg(long, value_name = "FILE")]
    out: Utf8PathBuf,
    /// Where to write every time that was measured, CSV
    #[arg(long, value_name = "FILE")]
    samples: Option<Utf8PathBuf>,
}

/// A layout as the command line says it.
#[derive(Debug, Clone, Copy)]
struct Split(Parallel);

impl FromStr for Split {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number > 0);
        let split = text.split_once('x').and_then(|(tp, pp)| Some((number(tp)?, number(pp)?)));
        let (tp, pp) = split.ok_or_else(|| format!("expected TPxPP such as 4x2, found `{text}`"))?;
        Ok(Self(Parallel { tp, pp }))
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let (mut platform, runtime) = platform(args)?;
    let targets = targets(args, &platform)?;
    let ranks = targets.iter().map(|(_, parallel)| parallel.ranks()).max();
    ranks.map_or(Ok(()), |ranks| check_gpus(&platform, &runtime, ranks))?;
    let seconds = args.seconds / targets.len() as f64;
    let mut output = Output::create(&args.out)?;
    let mut samples = args.samples.as_deref().map(Samples::create).transpose()?;
    let mut layouts = Vec::new();
    for (config, parallel) in targets {
        let (layout, rows) = measure(args, &platform, &runtime, &config, parallel, seconds)?;
        // The CPU computes in f32 whatever its weights are.
        let value_bytes = match runtime.backend {
            Backend::Cpu => Dtype::Float32.bytes(),
            Backend::Cuda => Dtype::from(args.dtype).bytes(),
        };
        let kv_bytes = Dtype::from(args.dtype).bytes();
        say(format_args!("{}", Shown { layout: &layout, value_bytes, kv_bytes }))?;
        if let Some(samples) = &mut samples {
            samples.write(&config.shape.name, parallel, &rows)?;
        }
        if layout.fit.disturbed > DISTURBED_MAX {
            let share = layout.fit.disturbed * 100.0;
            // Nobody is left to tell if stderr is closed.
            let _ = writeln!(
                std::io::stderr(),
                "warning: others used the machine, or slowed its cores, in {share:.0} % of the measurements; measure again when it is quiet"
            );
        }
        layouts.push(layout);
    }
    platform.stage = Some(StageCosts::Measured(Measured { dtype: args.dtype.into(), layouts }));
    platform.cpu = None;
    platform.validate().context("a measured platform is valid")?;
    output.write_all(header(args, runtime.backend).as_bytes())?;
    output.write_all(yaml::platform(&platform)?.as_bytes())?;
    samples.map_or(Ok(()), Samples::publish)?;
    output.publish()
}

fn platform(args: &Args) -> anyhow::Result<(Platform, Runtime)> {
    let blame = |what: &dyn std::fmt::Display| mistake(&args.platform, what);
    let platform: Platform = serde_saphyr::from_str(&read(&args.platform)?).map_err(|error| blame(&error))?;
    platform.validate().map_err(|error| blame(&error))?;
    let runtime = platform.runtime.clone();
    let runtime =
        runtime.ok_or_else(|| blame(&"runtime: expected how ranks run on this machine, found none"))?;
    check_cores(&args.platform, "", &runtime)?;
    if runtime.backend == Backend::Cuda && runtime.places.is_empty() {
        let ranks = args.parallel.iter().map(|Split(parallel)| parallel.ranks()).max().unwrap_or(1);
        cuda::check(ranks).map_err(|missing| blame(&format_args!("runtime.backend: {missing}")))?;
    }
    Ok((platform, runtime))
}

/// Every model in every layout, checked before anything runs.
fn targets(args: &Args, platform: &Platform) -> anyhow::Result<Vec<(ModelConfig, Parallel)>> {
    if !(args.seconds.is_finite() && args.seconds > 0.0) {
        return Err(wrong(format_args!("--seconds: expected a time above 0, found {}", args.seconds)));
    }
    if !(1..=8192).contains(&args.max_tokens) {
        let found = args.max_tokens;
        return Err(wrong(format_args!("--max-tokens: expected a count from 1 to 8192, found {found}")));
    }
    let mut targets = Vec::new();
    for path in &args.model {
        let stem = path.file_stem().unwrap_or("model");
        let name =
            if stem == "config" { path.parent().and_then(Utf8Path::file_name).unwrap_or(stem) } else { stem };
        let config = ModelConfig::parse(&read(path)?, name).map_err(|error| mistake(path, error))?;
        for Split(parallel) in &args.parallel {
            Division::new(&config.shape, *parallel).map_err(|error| mistake(path, error))?;
            if parallel.ranks() > platform.devices() {
                return Err(wrong(format_args!(
                    "--parallel: expected at most the {} devices of {}, found {} x {}",
                    platform.devices(),
                    platform.name,
                    parallel.tp,
                    parallel.pp
                )));
            }
            targets.push((config.clone(), *parallel));
        }
    }
    Ok(targets)
}

fn measure(
    args: &Args,
    platform: &Platform,
    runtime: &Runtime,
    config: &ModelConfig,
    parallel: Parallel,
    seconds: f64,
) -> anyhow::Result<(Layout, Vec<SampleRow>)> {
    let dtype = args.dtype.into();
    let plan = runtime::Plan {
        backend: of_platform(runtime),
        parallel,
        weights: Weights::Dummy { config: Box::new(config.clone()), seed: args.seed, dtype },
        links: runtime.emulate.map(|emulation| links(platform, emulation)),
        ..ranks::bare(platform, parallel.ranks())
    };
    let program = std::env::current_exe().context("find this executable")?;
    let target =
        Target { program: &program, plan, shape: &config.shape, tokens_max: args.max_tokens, seconds };
    let Parallel { tp, pp } = parallel;
    let mut progress = |what: &str| {
        // Nobody is left to tell if stderr is closed.
        let _ = writeln!(std::io::stderr(), "{} at tp{tp} x pp{pp}: {what}", config.shape.name);
    };
    profile::layout(target, &mut progress).map_err(|error| match error {
        ProfileError::Launch(error) => ranks::blame(error),
        other => other.into(),
    })
}

/// Where these costs come from.
fn header(args: &Args, backend: Backend) -> String {
    let models: Vec<String> = args.model.iter().map(|model| format!("--model {model}")).collect();
    let splits: Vec<String> =
        args.parallel.iter().map(|Split(parallel)| format!("{}x{}", parallel.tp, parallel.pp)).collect();
    let Args { platform, dtype, seed, max_tokens, seconds, .. } = args;
    let dtype = format!("{dtype:?}").to_lowercase();
    format!(
        "# Costs measured on {}, by\n#   chariot-engine profile --platform {platform} {} --parallel {} --dtype {dtype} --seed {seed} \
         --max-tokens {max_tokens} --seconds {seconds}\n# What is simulated with them is simulated; links are that platform's. Tables: docs/calibration.md.\n",
        machine(backend),
        models.join(" "),
        splits.join(",")
    )
}

/// What computed, in words.
fn machine(backend: Backend) -> String {
    let cpuinfo = fs_err::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = cpuinfo.lines().find(|line| line.starts_with("model name"));
    let name = name.and_then(|line| line.split_once(": ")).map_or("an unknown processor", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let host = format!("{cores} cores of {name}");
    match backend {
        Backend::Cpu => host,
        Backend::Cuda => {
            let names = cuda::hardware().map(|found| found.gpus.into_iter().map(|gpu| gpu.name).collect());
            let names: Vec<String> = names.unwrap_or_default();
            format!("{} GPUs ({}) beside {host}", names.len(), names.join(", "))
        }
    }
}
