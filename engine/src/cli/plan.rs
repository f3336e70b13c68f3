//! What a trial needs, read from the files of docs/formats.md and checked before anything runs. Knows no executor.

use camino::{Utf8Path, Utf8PathBuf};
use chariot_engine::engine::Ending;
use chariot_engine::manifest::{self, Manifest};
use chariot_engine::record::{Predicate, Watch};
use chariot_engine::sched::{Compat, Scheduler, SchedulerConfig};
use chariot_engine::shard::Division;
use chariot_engine::sim::cluster::{self, Cluster, Provenance};
use chariot_engine::trial::{FORMAT, TrialConfig, TrialReport};
use chariot_engine::units::Nanos;
use chariot_engine::workload::Request;

use super::files::{check_format, mistake, read_json, wrong};

/// The files and switches that every trial has.
#[derive(Debug, clap::Args)]
pub(super) struct TrialArgs {
    /// cluster.json, as `chariot-engine cluster` wrote it
    #[arg(long, value_name = "FILE")]
    pub(super) cluster: Utf8PathBuf,
    /// weights.json, as `chariot-engine shard` wrote it
    #[arg(long, value_name = "FILE")]
    pub(super) weights: Utf8PathBuf,
    /// The trial's configuration; files it names are looked up beside it
    #[arg(long, value_name = "FILE")]
    pub(super) config: Utf8PathBuf,
    /// Directory for records.parquet, batches.parquet and trial.json
    #[arg(long, value_name = "DIR")]
    pub(super) out: Utf8PathBuf,
    /// Also write a Chrome/Perfetto trace of stages, batches and sequences
    #[arg(long, value_name = "FILE")]
    pub(super) trace: Option<Utf8PathBuf>,
    /// End the trial once this cannot hold any more, e.g. 'p99(tbt) <= 1.0' (seconds); may be given several times
    #[arg(long, value_name = "PREDICATE")]
    pub(super) stop_when_hopeless: Vec<Predicate>,
}

/// Everything a trial needs, checked.
pub(super) struct Plan {
    pub(super) cluster: Cluster,
    pub(super) weights: Manifest,
    pub(super) config: TrialConfig,
    pub(super) division: Division,
    pub(super) scheduler: SchedulerConfig,
    pub(super) requests: Vec<Request>,
    predicates: Vec<Predicate>,
}

impl Plan {
    pub(super) fn read(args: &TrialArgs) -> anyhow::Result<Self> {
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

    /// What the command line asked to watch.
    pub(super) fn watch(&self) -> Watch {
        Watch::new(self.predicates.clone(), self.requests.iter().map(|request| request.output_tokens))
    }

    /// When the trial ends at the latest.
    pub(super) fn limit(&self) -> Nanos {
        self.config.time_limit_s.map_or(Nanos::MAX, Nanos::from_secs_f64)
    }

    /// What ran where, and `how` its numbers came about.
    pub(super) fn title(&self, how: &str) -> String {
        let Manifest { model, platform, parallel, .. } = &self.weights;
        format!("{model} on {platform} ({how}), tp{} x pp{}", parallel.tp, parallel.pp)
    }

    /// The content of `trial.json`. Not the cluster's provenance: one with costs that was brought up for real can be simulated, too.
    pub(super) fn report(&self, provenance: Provenance, stopped: Option<String>, end: Nanos) -> TrialReport {
        TrialReport {
            format: FORMAT,
            provenance,
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
}

/// How a trial went, in one line.
pub(super) struct Shown<'a>(pub(super) &'a Plan, pub(super) &'a Ending);

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
