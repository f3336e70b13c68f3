//! Trials and capacity searches: `chariot-engine simulate` or `bench`, its configuration, and what reads its records.

use std::collections::BTreeMap;

use camino::Utf8PathBuf;
use serde_json::{Value, json};

use super::cluster::Ground;
use super::{FORMAT, json_input, measured, output, own, step};
use crate::diagnostic::Mistake;
use crate::recipe::{
    Arrivals, Band, Capacity, Chunk, ChunkSchedule, Lengths, On, Process, Scheduler, SearchBand, Serving,
    Trial,
};
use crate::resolve::Site;
use crate::step::{ActionTemplate, Cutoff, RateTemplate, Rates, Repeat, SearchTemplate, Source, Step, Work};
use crate::value::Count;

/// The trial and, beside it, its summary.
pub(super) fn trial(site: &Site<'_>, recipe: &Trial) -> Result<Vec<Step>, Mistake> {
    let ground = Ground::of(site, &recipe.weights)?;
    let band = trial_band(&ground, recipe);
    let trace = recipe.trace.unwrap_or(false);
    let mut action = run(site, &ground, &recipe.serving(), band)?;
    let arrivals = arrivals(site, &recipe.arrivals, &mut action);
    let once = Once { seed: recipe.seed, repetition: recipe.repetition.unwrap_or(0), band };
    let config = config(site, &recipe.serving(), arrivals, once)?;
    action.inputs.insert("config.json".into(), json_input(&config));
    let summary = summary(site, &action);
    if trace {
        action.args.extend(["--trace", "trace.json"].map(str::to_owned));
        action.outputs.push("trace.json".into());
    }
    Ok(vec![step(site, "trial", Work::Action(action)), summary])
}

/// Where the coefficients are taken; what runs for real has none that are uncertain.
fn trial_band(ground: &Ground<'_>, recipe: &Trial) -> Band {
    match ground.on {
        On::Simulator => recipe.band.unwrap_or(Band::Central),
        On::Cpu | On::Cuda => Band::Central,
    }
}

/// The files that a trial leaves behind.
pub(super) fn outputs_of_trial(site: &Site<'_>, recipe: &Trial) -> Result<Vec<&'static str>, Mistake> {
    let band = trial_band(&Ground::of(site, &recipe.weights)?, recipe);
    let trace = recipe.trace.unwrap_or(false).then_some("trace.json");
    Ok(OUTPUTS.into_iter().chain(ends(band)).chain(trace).collect())
}

fn summary(site: &Site<'_>, trial: &ActionTemplate) -> Step {
    let mut action = own("chariot-results", ["summarize", "--trial", "trial", "--out", "."]);
    for file in &trial.outputs {
        action.inputs.insert(Utf8PathBuf::from("trial").join(file), output(site.step(0), file));
    }
    action.outputs.push("summary.json".into());
    let summary = step(site, "summary", Work::Action(action));
    Step { address: format!("{}/summary", summary.address), ..summary }
}

/// A search whose probes are trials at a rate.
pub(super) fn capacity(site: &Site<'_>, recipe: &Capacity) -> Result<Step, Mistake> {
    let labels =
        site.instance.labels.iter().map(|(axis, name)| (axis.to_string(), name.to_string())).collect();
    let slo: Vec<String> = recipe.slo.value.iter().map(ToString::to_string).collect();
    if slo.is_empty() {
        return Err(Mistake::new(recipe.slo.span, "expected at least one predicate, found none")
            .help("write `slo: [p99(tbt) <= 1 s]`"));
    }
    let ground = Ground::of(site, &recipe.weights)?;
    let repeats =
        repeats(recipe, ground.on)?.into_iter().map(|once| repeat(site, &ground, recipe, &slo, once));
    let search = SearchTemplate {
        labels,
        rates: rates(recipe)?,
        repeats: repeats.collect::<Result<_, Mistake>>()?,
        slo: slo.clone(),
    };
    Ok(step(site, "capacity", Work::Search(search)))
}

fn rates(recipe: &Capacity) -> Result<Rates, Mistake> {
    let rate = &recipe.rate;
    let granularity = rate.granularity.value.fraction;
    if !(granularity > 0.0 && granularity < 1.0) {
        let title = format!("expected a percentage between 0 % and 100 %, found `{} %`", granularity * 100.0);
        return Err(Mistake::new(rate.granularity.span, title));
    }
    let start = rate.start.0;
    let (min, max) = (rate.min.map_or(start / 1000.0, |r| r.0), rate.max.map_or(start * 1000.0, |r| r.0));
    if !(min <= start && start <= max) {
        let title = format!("expected min <= start <= max, found {min}, {start}, {max}");
        return Err(Mistake::new(rate.granularity.span, title));
    }
    Ok(Rates { start, granularity, min, max })
}

/// One run of a configuration: what may differ between repeats.
#[derive(Clone, Copy)]
struct Once {
    seed: u32,
    repetition: u32,
    band: Band,
}

fn repeats(recipe: &Capacity, on: On) -> Result<Vec<Once>, Mistake> {
    let seeds = &recipe.seeds.value;
    let Some(first) = seeds.first() else {
        return Err(Mistake::new(recipe.seeds.span, "expected at least one seed, found none"));
    };
    let at = |seed: &u32, band| Once { seed: *seed, repetition: 0, band };
    let all = |band| seeds.iter().map(|seed| at(seed, band)).collect::<Vec<_>>();
    let band = recipe.band.filter(|_| on == On::Simulator);
    Ok(match band.unwrap_or(SearchBand::Central) {
        SearchBand::Central => all(Band::Central),
        SearchBand::Low => all(Band::Low),
        SearchBand::High => all(Band::High),
        SearchBand::Ends => {
            let ends = [at(first, Band::Low), at(first, Band::High)];
            all(Band::Central).into_iter().chain(ends).collect()
        }
    })
}

fn repeat(
    site: &Site<'_>,
    ground: &Ground<'_>,
    recipe: &Capacity,
    slo: &[String],
    once: Once,
) -> Result<Repeat, Mistake> {
    let mut action = run(site, ground, &recipe.serving(), once.band)?;
    if recipe.early_stop.unwrap_or(ground.on != On::Simulator) {
        let args = slo.iter().flat_map(|p| ["--stop-when-hopeless".to_owned(), p.clone()]).collect();
        action.cutoff = Some(Cutoff { args, marker: "trial.json".into() });
    }
    let arrivals = match recipe.arrivals.unwrap_or(Process::Poisson {}) {
        Process::Poisson {} => json!({"kind": "poisson"}),
        Process::Gamma { cv } => json!({"kind": "gamma", "cv": cv.0}),
        Process::Static {} => json!({"kind": "static"}),
    };
    let mut judge = own("chariot-results", ["judge", "--trial", "trial"]);
    judge.args.extend(slo.iter().flat_map(|p| ["--slo".to_owned(), p.clone()]));
    judge.args.extend(["--out", "verdict.json"].map(str::to_owned));
    judge.outputs.push("verdict.json".into());
    let judged = ["records.parquet", "trial.json"];
    let labels = [("seed".to_owned(), json!(once.seed)), ("band".to_owned(), json!(once.band))];
    Ok(Repeat {
        labels: BTreeMap::from(labels),
        trial: RateTemplate {
            config: config(site, &recipe.serving(), arrivals, once)?,
            action,
            config_path: "config.json".into(),
            rate_pointer: "/workload/arrivals/qps".to_owned(),
        },
        judge,
        judge_inputs: judged.map(|file| (Utf8PathBuf::from("trial").join(file), file.into())).into(),
    })
}

/// What every trial leaves behind.
const OUTPUTS: [&str; 3] = ["batches.parquet", "records.parquet", "trial.json"];

/// What a trial at all ends of the band leaves beside that.
fn ends(band: Band) -> impl Iterator<Item = &'static str> {
    let ends = ["records-high.parquet", "records-low.parquet"];
    ends.into_iter().filter(move |_| band == Band::All)
}

/// The action of a trial, without its configuration.
fn run(
    site: &Site<'_>,
    ground: &Ground<'_>,
    serving: &Serving<'_>,
    band: Band,
) -> Result<ActionTemplate, Mistake> {
    let (command, retries) = match ground.on {
        On::Simulator => ("simulate", 0),
        // A trial that a busy host disturbed says so and fails; another may do.
        On::Cpu => ("bench", 2),
        // Nothing about it says that it was disturbed.
        On::Cuda => ("bench", 0),
    };
    let args = [command, "--cluster", "cluster.json", "--weights", "weights.json", "--config", "config.json"];
    let mut action = own("chariot-engine", args);
    action.retries = retries;
    action.args.extend(["--out", "."].map(str::to_owned));
    action.inputs.insert("cluster.json".into(), output(ground.cluster.step(0), "cluster.json"));
    for file in ground.rank_files.iter().map(|file| file.as_str()).chain(["weights.json"]) {
        action.inputs.insert(file.into(), output(ground.weights.step(0), file));
    }
    let lengths = match serving.lengths {
        Lengths::Quantiles { table, .. } => Some(("lengths.yaml", site.book.preset("lengths", table)?)),
        Lengths::Trace { file } => Some(("lengths.csv", site.book.file(&file.value, file.span))),
        _ => None,
    };
    action.inputs.extend(lengths.map(|(name, file)| (Utf8PathBuf::from(name), Source::File(file))));
    action.outputs = OUTPUTS.into_iter().chain(ends(band)).map(Utf8PathBuf::from).collect();
    Ok(match ground.on {
        On::Simulator => action,
        on @ (On::Cpu | On::Cuda) => measured(action, on),
    })
}

fn config(site: &Site<'_>, serving: &Serving<'_>, arrivals: Value, once: Once) -> Result<Value, Mistake> {
    Ok(json!({
        "format": FORMAT,
        "scheduler": scheduler(site, serving)?,
        "workload": {"requests": serving.requests, "arrivals": arrivals, "lengths": lengths(site, serving.lengths)?},
        "max_model_len": serving.max_model_len,
        "block_size": serving.block_size,
        "gpu_memory_utilization": serving.gpu_memory_utilization,
        "time_limit_s": serving.time_limit.seconds,
        "seed": once.seed,
        "repetition": once.repetition,
        "band": once.band,
        "compat": serving.compat,
    }))
}

fn scheduler(site: &Site<'_>, serving: &Serving<'_>) -> Result<Value, Mistake> {
    let (mut value, watermark) = match serving.scheduler {
        Scheduler::Sarathi { chunk: Chunk::Fixed(chunk), watermark } => {
            (json!({"policy": "sarathi", "chunk": chunk}), *watermark)
        }
        Scheduler::Sarathi { chunk: Chunk::Schedule(schedule), watermark } => {
            ordered(site, "low", schedule.low, "high", schedule.high)?;
            let ChunkSchedule { low, high, stages, max_tokens } = schedule;
            let schedule = json!({"low": low, "high": high, "stages": stages, "max_tokens": max_tokens});
            (json!({"policy": "sarathi", "chunk_schedule": schedule}), *watermark)
        }
        Scheduler::Vllm { max_batched_tokens, watermark } => {
            let tokens = max_batched_tokens.unwrap_or(serving.max_model_len);
            (json!({"policy": "vllm", "max_batched_tokens": tokens}), *watermark)
        }
        Scheduler::Orca {} => (json!({"policy": "orca"}), None),
        Scheduler::FasterTransformer {} => (json!({"policy": "faster_transformer"}), None),
        Scheduler::SimpleChunking { chunk, watermark } => {
            (json!({"policy": "simple_chunking", "chunk": chunk}), *watermark)
        }
    };
    value["batch_cap"] = json!(serving.batch_cap);
    if let Some(watermark) = watermark {
        value["watermark"] = json!(watermark.0);
    }
    Ok(value)
}

fn arrivals(site: &Site<'_>, arrivals: &Arrivals, action: &mut ActionTemplate) -> Value {
    match arrivals {
        Arrivals::Poisson { qps } => json!({"kind": "poisson", "qps": qps.0}),
        Arrivals::Gamma { qps, cv } => json!({"kind": "gamma", "qps": qps.0, "cv": cv.0}),
        Arrivals::Static { qps } => json!({"kind": "static", "qps": qps.0}),
        Arrivals::Trace { file, scale } => {
            let path = site.book.file(&file.value, file.span);
            action.inputs.insert("arrivals.csv".into(), Source::File(path));
            let mut value = json!({"kind": "trace", "file": "arrivals.csv"});
            if let Some(scale) = scale {
                value["scale"] = json!(scale.0);
            }
            value
        }
    }
}

fn lengths(site: &Site<'_>, lengths: &Lengths) -> Result<Value, Mistake> {
    Ok(match lengths {
        Lengths::Quantiles { total_max: Some(total_max), .. } => {
            json!({"kind": "quantiles", "file": "lengths.yaml", "total_max": total_max})
        }
        Lengths::Quantiles { total_max: None, .. } => json!({"kind": "quantiles", "file": "lengths.yaml"}),
        Lengths::Trace { .. } => json!({"kind": "trace", "file": "lengths.csv"}),
        Lengths::Fixed { prompt, output } => json!({"kind": "fixed", "prompt": prompt, "output": output}),
        Lengths::Uniform { total_min, total_max, prompt_to_output } => {
            ordered(site, "total_min", *total_min, "total_max", *total_max)?;
            let ratio = prompt_to_output.0;
            json!({"kind": "uniform", "total_min": total_min, "total_max": total_max, "prompt_to_output": ratio})
        }
        Lengths::Zipf { total_min, total_max, theta, prompt_to_output } => {
            ordered(site, "total_min", *total_min, "total_max", *total_max)?;
            let (theta, ratio) = (theta.0, prompt_to_output.0);
            json!({"kind": "zipf", "total_min": total_min, "total_max": total_max, "theta": theta, "prompt_to_output": ratio})
        }
    })
}

fn ordered(site: &Site<'_>, low_name: &str, low: Count, high_name: &str, high: Count) -> Result<(), Mistake> {
    if low.0 <= high.0 {
        return Ok(());
    }
    Err(site.mistake(format!("expected {low_name} <= {high_name}, found {} and {}", low.0, high.0)))
}
