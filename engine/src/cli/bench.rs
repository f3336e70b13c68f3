//! `chariot-engine bench`: one trial on real workers becomes records and `trial.json`, measured.

use std::ops::RangeInclusive;

use chariot_engine::backend::BackendName;
use chariot_engine::comm::{LinkClass, Links};
use chariot_engine::engine::{Ending, Trial};
use chariot_engine::manifest::{Contents, Origin};
use chariot_engine::model::KvSpec;
use chariot_engine::model::sampler::Sampling;
use chariot_engine::record::Recorder;
use chariot_engine::runtime::{self, Bounds, Prompt, RuntimeExecutor, Summary, Weights};
use chariot_engine::sched::Scheduler;
use chariot_engine::sim::cluster::Provenance;
use chariot_engine::sim::coefficient::Band;
use chariot_engine::sim::platform::{Emulation, Link, Platform, Runtime, Transport};
use chariot_engine::timeline::Timeline;
use chariot_engine::trial::BandChoice;
use chariot_engine::units::SeqId;
use chariot_engine::workload::{Request, prompt_tokens};

use super::choice::of_platform;
use super::files::{Output, mistake, read_json, write_json};
use super::nodes::places_of;
use super::plan::{Plan, Shown, TrialArgs};
use super::ranks::{self, READY_BY, STEP_BY, check_cores, cores_of};
use super::weights::refuse_odd;
use super::{exchanges, gpu_selftest, say};

/// Run one trial for real, on one process a rank
///
/// The cluster must have been brought up with `--on cpu` or `--on cuda`, and the weights been divided for it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  chariot-engine cluster --platform pipelines/platforms/cpu-2x4.yaml --on cpu --out cluster.json\n  \
                  chariot-engine shard --cluster cluster.json --model pipelines/models/falcon-60m.yaml --tp 4 --pp 2 --out weights.json\n  \
                  chariot-engine bench --cluster cluster.json --weights weights.json --config config.json --out trial"
)]
pub(super) struct Args {
    #[command(flatten)]
    trial: TrialArgs,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let args = &args.trial;
    let plan = Plan::read(args)?;
    if plan.cluster.provenance != Provenance::Measured {
        let what = "provenance: expected a cluster that was brought up with `--on cpu` or `--on cuda`, found a simulated one";
        return Err(mistake(&args.cluster, what));
    }
    if plan.config.band != BandChoice::Central {
        return Err(mistake(
            &args.config,
            "band: expected central, for a measured trial has no uncertain costs",
        ));
    }
    if let Some(runtime) = &plan.cluster.preset.runtime {
        check_types(&plan, args, runtime)?;
        check_gpus(&plan.cluster.preset, runtime, plan.weights.parallel.ranks())?;
    }
    fs_err::create_dir_all(&args.out)?;
    let mut recorder = Recorder::new(
        Output::create(&args.out.join("records.parquet"))?,
        Some(Output::create(&args.out.join("batches.parquet"))?),
        plan.watch(),
    )?;
    let mut timeline = args.trace.as_ref().map(|_| Timeline::measured());
    let mut executor = launch(&plan, args)?;
    if timeline.is_some() {
        executor = executor.keep_stays();
    }
    let ending = serve(&plan, &mut executor, &mut recorder, timeline.as_mut())?;
    let (stays, operations) = (executor.take_stays(), executor.take_operations());
    let emulation = plan.cluster.preset.runtime.as_ref().and_then(|runtime| runtime.emulate);
    let slowed_max = plan.cluster.preset.runtime.as_ref().and_then(|runtime| runtime.slowed_max);
    let checks = executor.core_checks()?;
    // Nothing is said of a trial whose workers did not all end well.
    let summary = executor.finish()?;
    check_cores_speed(slowed_max, &checks)?;
    check_lateness(emulation, &summary)?;
    let (records, batches) = recorder.finish(ending.end)?;
    if let (Some(path), Some(timeline)) = (&args.trace, &timeline) {
        let mut trace = Output::create(path)?;
        timeline.write(&plan.title("measured"), &stays, &operations, &mut trace)?;
        trace.publish()?;
    }
    records.publish()?;
    batches.map_or(Ok(()), Output::publish)?;
    write_json(
        &args.out.join("trial.json"),
        &plan.report(Provenance::Measured, ending.stopped.clone(), ending.end),
    )?;
    say(format_args!("{}: {}", plan.title("measured"), Shown(&plan, &ending)))
}

/// Starts the workers, gives them every prompt there will be, and warms them up.
fn launch(plan: &Plan, args: &TrialArgs) -> anyhow::Result<RuntimeExecutor> {
    let preset = &plan.cluster.preset;
    let runtime = preset.runtime.clone().unwrap_or_default();
    check_cores(&args.cluster, "preset.", &runtime)?;
    let scheduler = &plan.scheduler;
    let lengths = plan.requests.iter().map(|request| request.prompt_tokens + request.output_tokens);
    let workers = runtime::Plan {
        backend: of_platform(&runtime),
        operations: args.trace.is_some(),
        parallel: plan.weights.parallel,
        threads: runtime.threads as usize,
        weights: weights_of(plan, args)?,
        kv: KvSpec { blocks: scheduler.blocks, block_size: scheduler.block_size },
        blocks_touched: scheduler.blocks_in_use_max(lengths),
        max_model_len: scheduler.max_model_len,
        batch_tokens: scheduler.batch_tokens_fitting(),
        places: places_of(preset),
        shared_memory: runtime.transport == Transport::SharedMemory,
        cores: cores_of(&runtime),
        links: runtime.emulate.map(|emulation| links(preset, emulation)),
        ready_by: READY_BY,
        step_by: STEP_BY,
    };
    let mut executor = ranks::start(&workers)?;
    if !runtime.places.is_empty() {
        let us = executor.clock_uncertainty().as_secs_f64() * 1e6;
        say(format_args!("stages' times are by the driver's clock, to within {us:.0} us when ranks joined"))?;
    }
    let vocabulary = plan.weights.shape.vocab_size;
    for (number, request) in plan.requests.iter().enumerate() {
        let prompt = Prompt {
            tokens: prompt_tokens(plan.config.seed, number as u32, request.prompt_tokens, vocabulary),
            sampling: Sampling::greedy(),
            output_max: request.output_tokens,
            stop: Vec::new(),
        };
        executor.insert(SeqId(number as u32), prompt);
    }
    executor.warm_up(&Bounds {
        batch_tokens: scheduler.batch_tokens_fitting(),
        sequences: scheduler.batch_cap.min(plan.requests.len() as u32),
        max_model_len: scheduler.max_model_len,
        decodes: decoded(&plan.requests),
    })?;
    executor.start();
    Ok(executor)
}

/// Tokens of sequences that decode, from the first decode of the shortest to the last of the longest; `None`: none does.
fn decoded(requests: &[Request]) -> Option<RangeInclusive<u32>> {
    let decoding = || requests.iter().filter(|request| request.output_tokens > 1);
    let shortest = decoding().map(|request| request.prompt_tokens + 1).min()?;
    let longest = decoding().map(|request| request.prompt_tokens + request.output_tokens - 1).max()?;
    Some(shortest..=longest)
}

/// Refuses GPUs that compute wrongly, of this host or of those that the ranks run on.
pub(super) fn check_gpus(platform: &Platform, runtime: &Runtime, ranks: u32) -> anyhow::Result<()> {
    match of_platform(runtime) {
        BackendName::Cuda { .. } if runtime.places.is_empty() => gpu_selftest::before_measuring(ranks),
        BackendName::Cuda { .. } => exchanges::before_measuring(platform, ranks),
        BackendName::Cpu => Ok(()),
    }
}

/// Refuses a folder's weights that GPUs do not compute with.
fn check_types(plan: &Plan, args: &TrialArgs, runtime: &Runtime) -> anyhow::Result<()> {
    let held = plan.weights.weights.as_ref().filter(|held| held.origin == Origin::HuggingFace);
    let (Some(held), BackendName::Cuda { .. }) = (held, of_platform(runtime)) else { return Ok(()) };
    let contents: Contents = read_json(&args.weights)?;
    let mut tensors = contents.into_ranks().flat_map(|rank| rank.tensors);
    let odd = tensors.find(|tensor| tensor.shape.len() > 1 && tensor.dtype != held.dtype);
    refuse_odd(&args.weights, held.dtype, odd.as_ref().map(|tensor| (tensor.name.as_str(), tensor.dtype)))
}

/// What ranks load: files beside the manifest, or what its seed gives.
fn weights_of(plan: &Plan, args: &TrialArgs) -> anyhow::Result<Weights> {
    let Some(held) = &plan.weights.weights else {
        return Err(mistake(
            &args.weights,
            "expected weights that were written, found a plan of them; run `chariot-engine shard` for this cluster",
        ));
    };
    match held.origin {
        Origin::Dummy { seed } if held.in_memory => {
            Ok(Weights::Dummy { config: Box::new(held.config.clone()), seed, dtype: held.dtype })
        }
        Origin::HuggingFace if held.in_memory => Err(mistake(
            &args.weights,
            "weights.in_memory: expected weights that are made up, found a folder's",
        )),
        // Workers elsewhere have another working folder.
        _ => Ok(Weights::Shards(camino::absolute_utf8(&args.weights)?)),
    }
}

fn serve(
    plan: &Plan,
    executor: &mut RuntimeExecutor,
    recorder: &mut Recorder<Output>,
    timeline: Option<&mut Timeline>,
) -> anyhow::Result<Ending> {
    let scheduler = Scheduler::new(plan.scheduler.clone())?;
    let trial = Trial::new(&plan.requests, scheduler, executor, recorder).with_timeline(timeline);
    Ok(trial.run(plan.limit())?)
}

/// A platform's links, at their central costs.
pub(super) fn links(preset: &Platform, emulation: Emulation) -> Links {
    let class = |link: &Link| LinkClass {
        span: link.span,
        ring_alpha_us: link.all_reduce.alpha_us.at(Band::Central),
        ring_gbps: link.all_reduce.ring_gbps.at(Band::Central),
        send_alpha_us: link.send_recv.alpha_us.at(Band::Central),
        send_gbps: link.send_recv.gbps.at(Band::Central),
    };
    let Emulation { time_scale, bytes_per_value, compute_scale, .. } = emulation;
    let classes = preset.links.iter().map(class).collect();
    Links { classes, time_scale, bytes_per_value, compute_scale }
}

/// A trial whose cores others slowed did not run on the machine that it claims.
fn check_cores_speed(slowed_max: Option<f64>, checks: &[Vec<u32>]) -> anyhow::Result<()> {
    let shares = checks.iter().map(|own| runtime::slowed(own)).enumerate();
    let Some((rank, share)) = shares.max_by(|(_, a), (_, b)| a.total_cmp(b)) else { return Ok(()) };
    let (count, percent) = (checks[rank].len(), share * 100.0);
    match slowed_max {
        Some(most) if share > most => anyhow::bail!(
            "the trial is invalid: others slowed the core of rank {rank} in {percent:.1} % of {count} checks, expected at most {:.1} % \
             (runtime.slowed_max); run it on a quieter machine",
            most * 100.0
        ),
        _ if count == 0 => Ok(()),
        _ => {
            let us = |own: &Vec<u32>| {
                runtime::check_ns(own).map_or("-".to_owned(), |ns| format!("{:.2}", ns / 1e3))
            };
            let all: Vec<String> = checks.iter().map(us).collect();
            say(format_args!(
                "cores: a check takes {} us in the median, by rank; slowed by others in {percent:.1} % of {count} at most (rank {rank})",
                all.join(", ")
            ))
        }
    }
}

/// A trial whose emulated messages came late did not run on the links that it claims.
fn check_lateness(emulation: Option<Emulation>, summary: &Summary) -> anyhow::Result<()> {
    let Some(emulation) = emulation else { return Ok(()) };
    let late_max = emulation.late_max;
    let (planned, late) = (summary.planned.as_secs_f64(), summary.late.as_secs_f64());
    let share = if planned > 0.0 { late / planned } else { 0.0 };
    let what = match emulation.compute_scale {
        Some(_) => "steps on emulated devices",
        None => "messages over emulated links",
    };
    if share <= late_max {
        let (messages, worst) = (summary.messages, summary.worst.as_secs_f64() * 1e3);
        let percent = share * 100.0;
        return say(format_args!(
            "{what}: {percent:.2} % late, worst by {worst:.2} ms ({messages} messages)"
        ));
    }
    anyhow::bail!(
        "the trial is invalid: its {what} were late by {:.1} % of their planned {planned:.1} s, expected at most {:.1} %; \
         run it on a quieter machine, or with a larger runtime.emulate.{}",
        share * 100.0,
        late_max * 100.0,
        if emulation.compute_scale.is_some() { "compute_scale" } else { "time_scale" }
    )
}

#[cfg(test)]
mod tests {
    use chariot_engine::units::Nanos;

    use super::*;

    #[test]
    fn a_trial_whose_messages_were_late_is_refused() {
        let emulation = |compute_scale| Emulation {
            time_scale: 4.0,
            bytes_per_value: 2.0,
            compute_scale,
            late_max: 0.05,
        };
        let summary = |late| Summary {
            messages: 9,
            planned: Nanos(2_000_000_000),
            late: Nanos(late),
            ..Summary::default()
        };
        assert!(check_lateness(None, &summary(u64::MAX)).is_ok(), "links that are not emulated keep no plan");
        assert!(check_lateness(Some(emulation(None)), &Summary::default()).is_ok(), "no message was late");
        assert!(check_lateness(Some(emulation(None)), &summary(100_000_000)).is_ok(), "5 % may be");
        for (compute_scale, what, which) in [
            (None, "messages over emulated links", "time_scale"),
            (Some(8.0), "steps on emulated devices", "compute_scale"),
        ] {
            let refused = check_lateness(Some(emulation(compute_scale)), &summary(104_000_000));
            assert_eq!(
                refused.map_err(|error| error.to_string()),
                Err(format!(
                    "the trial is invalid: its {what} were late by 5.2 % of their planned 2.0 s, expected at most 5.0 %; \
                     run it on a quieter machine, or with a larger runtime.emulate.{which}"
                ))
            );
        }
    }

    #[test]
    fn a_trial_on_a_slowed_core_is_refused_if_that_was_asked_for() {
        let core = |slow: usize| [vec![9_000; 100 - slow], vec![13_000; slow]].concat();
        let checks = [core(0), core(4), core(1)];
        assert!(check_cores_speed(None, &checks).is_ok() && check_cores_speed(Some(0.04), &checks).is_ok());
        let refused = check_cores_speed(Some(0.03), &checks).map_err(|error| error.to_string());
        assert_eq!(
            refused,
            Err("the trial is invalid: others slowed the core of rank 1 in 4.0 % of 100 checks, expected at most 3.0 % \
                 (runtime.slowed_max); run it on a quieter machine"
                .to_owned())
        );
        assert!(check_cores_speed(Some(0.0), &[Vec::new(), Vec::new()]).is_ok(), "GPUs make no checks");
    }
}
