//! `chariot-engine simulate`: one trial on the simulated executor becomes records and `trial.json`.

use camino::{Utf8Path, Utf8PathBuf};
use chariot_engine::engine::{Ending, Trial};
use chariot_engine::executor::StageStay;
use chariot_engine::manifest::{self, Manifest};
use chariot_engine::record::{Predicate, Recorder, Watch};
use chariot_engine::sched::{Compat, Scheduler, SchedulerConfig};
use chariot_engine::shard::Division;
use chariot_engine::sim::SimExecutor;
use chariot_engine::sim::cluster::{self, Cluster};
use chariot_engine::sim::coefficient::Band;
use chariot_engine::sim::cost::CostModel;
use chariot_engine::timeline::Timeline;
use chariot_engine::trial::{BandChoice, FORMAT, TrialConfig, TrialReport};
use chariot_engine::units::Nanos;
use chariot_engine::workload::Request;

use super::files::{Output, check_format, mistake, read_json, write_json, wrong};
use super::say;

/// Run one trial on the simulated cluster
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  chariot-engine simulate --cluster cluster.json --weights weights.json --config config.json --out trial\n  \
                  chariot-engine simulate ... --trace trace.json                                 # open at ui.perfetto.dev\n  \
                  chariot-engine simulate ... --stop-when-hopeless 'p99(tbt) <= 1.0'"
)]
pub(super) struct Args {
    /// cluster.json, as `chariot-engine cluster` wrote it
    #[arg(long, value_name = "FILE")]
    cluster: Utf8PathBuf,
    /// weights.json, as `chariot-engine shard` wrote it
    #[arg(long, value_name = "FILE")]
    weights: Utf8PathBuf,
    /// The trial's configuration; files it names are looked up beside it
    #[arg(long, value_name = "FILE")]
    config: Utf8PathBuf,
    /// Directory for records.parquet, batches.parquet and trial.json
    #[arg(long, value_name = "DIR")]
    out: Utf8PathBuf,
    /// Also write a Chrome/Perfetto trace of stages, batches and sequences
    #[arg(long, value_name = "FILE")]
    trace: Option<Utf8PathBuf>,
    /// End the trial once this cannot hold any more, e.g. 'p99(tbt) <= 1.0' (seconds); may be given several times
    #[arg(long, value_name = "PREDICATE")]
    stop_when_hopeless: Vec<Predicate>,
}

/// Everything a trial needs, checked.
struct Plan {
    cluster: Cluster,
    weights: Manifest,
    config: TrialConfig,
    division: Division,
    scheduler: SchedulerConfig,
    requests: Vec<Request>,
    predicates: Vec<Predicate>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let plan = Plan::read(args)?;
    fs_err::create_dir_all(&args.out)?;
    let main = plan.config.band.main();
    let records = args.out.join("records.parquet");
    let mut timeline = args.trace.as_ref().map(|_| Timeline::default());
    let (ending, stays) =
        plan.simulate(main, &records, Some(&args.out.join("batches.parquet")), timeline.as_mut())?;
    if let (Some(path), Some(timeline)) = (&args.trace, &timeline) {
        let mut trace = Output::create(path)?;
        timeline.write(&plan.title(main), &stays, &mut trace)?;
        trace.publish()?;
    }
    let mut stopped = ending.stopped.clone();
    if plan.config.band == BandChoice::All {
        for band in [Band::Low, Band::High] {
            let path = args.out.join(format!("records-{}.parquet", band.name()));
            stopped = stopped.or(plan.simulate_end(band, &records, &path)?);
        }
    }
    write_json(&args.out.join("trial.json"), &plan.report(stopped, ending.end))?;
    say(format_args!("{}: {}", plan.title(main), Shown(&plan, &ending)))
}

impl Plan {
    fn read(args: &Args) -> anyhow::Result<Self> {
        let cluster: Cluster = read_json(&args.cluster)?;
        check_format(&args.cluster, cluster::FORMAT, cluster.format)?;
        let weights: Manifest = read_json(&args.weights)?;
        check_format(&args.weights, manifest::FORMAT, weights.format)?;
        if weights.platform != cluster.platform {
            let (expected, found) = (&cluster.platform, &weights.platform);
            let what = format!("platform: expected {expected}, the cluster's, found {found}");
            return Err(mistake(&args.weights, what));
        }
        let config: TrialConfig = read_json(&args.config)?;
        let wrong_config = |error| mistake(&args.config, error);
        config.validate().map_err(wrong_config)?;
        let division = Division::new(&weights.shape, weights.parallel).map_err(wrong)?;
        let blocks = config.kv_blocks(&weights, &division).map_err(wrong_config)?;
        let scheduler = config.scheduler(weights.parallel.pp, blocks).map_err(wrong_config)?;
        let directory = args.config.parent().unwrap_or(Utf8Path::new(""));
        let clip_gaps = config.compat == Compat::Sarathi;
        let requests = config.workload.generate(directory, config.seed, clip_gaps);
        let requests = requests.map_err(|error| mistake(&args.config, error))?;
        // Refused here rather than after the outputs are open.
        Scheduler::new(scheduler.clone()).map_err(|error| wrong_config(error.into()))?;
        let predicates = args.stop_when_hopeless.clone();
        Ok(Self { cluster, weights, config, division, scheduler, requests, predicates })
    }

    fn costs(&self, band: Band) -> CostModel {
        CostModel::new(&self.cluster.preset, &self.weights.shape, &self.division, band)
    }

    /// Runs the trial at one end of the band.
    fn simulate(
        &self,
        band: Band,
        records: &Utf8Path,
        batches: Option<&Utf8Path>,
        timeline: Option<&mut Timeline>,
    ) -> anyhow::Result<(Ending, Vec<StageStay>)> {
        let watch =
            Watch::new(self.predicates.clone(), self.requests.iter().map(|request| request.output_tokens));
        let batches = batches.map(Output::create).transpose()?;
        let mut recorder = Recorder::new(Output::create(records)?, batches, watch)?;
        let mut executor = SimExecutor::new(self.costs(band));
        if timeline.is_some() {
            executor = executor.keep_stays();
        }
        let scheduler = Scheduler::new(self.scheduler.clone())?;
        let limit = self.config.time_limit_s.map_or(Nanos::MAX, Nanos::from_secs_f64);
        let trial = Trial::new(&self.requests, scheduler, &mut executor, &mut recorder);
        let ending = trial.with_timeline(timeline).run(limit)?;
        let (records, batches) = recorder.finish(ending.end)?;
        records.publish()?;
        batches.map_or(Ok(()), Output::publish)?;
        Ok((ending, executor.into_stays()))
    }

    /// Records at an end of the band: those of the central run where the band cannot touch this layout.
    fn simulate_end(
        &self,
        band: Band,
        central: &Utf8Path,
        path: &Utf8Path,
    ) -> anyhow::Result<Option<String>> {
        if self.costs(band) != self.costs(Band::Central) {
            return Ok(self.simulate(band, path, None, None)?.0.stopped);
        }
        let mut copy = Output::create(path)?;
        std::io::copy(&mut fs_err::File::open(central)?, &mut copy)?;
        copy.publish()?;
        Ok(None)
    }

    fn report(&self, stopped: Option<String>, end: Nanos) -> TrialReport {
        TrialReport {
            format: FORMAT,
            provenance: self.cluster.provenance,
            stopped,
            end_ns: end.0,
            platform: self.cluster.platform.clone(),
            model: self.weights.model.clone(),
            parallel: self.weights.parallel,
            seed: self.config.seed,
            repetition: self.config.repetition,
            band: self.config.band,
            requests: self.requests.len() as u32,
            compat: self.config.compat,
            kv_blocks: self.scheduler.blocks,
            config: self.config.clone(),
        }
    }

    fn title(&self, band: Band) -> String {
        let Manifest { model, platform, parallel, .. } = &self.weights;
        format!(
            "{model} on {platform} (simulated, {} band), tp{} x pp{}",
            band.name(),
            parallel.tp,
            parallel.pp
        )
    }
}

/// How a trial went, in one line.
struct Shown<'a>(&'a Plan, &'a Ending);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(plan, Ending { end, stopped, completed, ignored, batches }) = self;
        write!(f, "{completed} of {} requests completed in {:.1} s", plan.requests.len(), end.as_secs_f64())?;
        write!(f, ", {batches} batches, {} KV blocks", plan.scheduler.blocks)?;
        if *ignored > 0 {
            write!(f, ", {ignored} ignored (longer than max_model_len)")?;
        }
        match stopped {
            Some(predicate) => write!(f, "; stopped: {predicate} cannot hold any more"),
            None => Ok(()),
        }
    }
}
