//! `chariot-engine simulate`: one trial on the simulated executor becomes records and `trial.json`.

use camino::Utf8Path;
use chariot_engine::engine::{Ending, Trial};
use chariot_engine::executor::StageStay;
use chariot_engine::record::Recorder;
use chariot_engine::sched::Scheduler;
use chariot_engine::sim::SimExecutor;
use chariot_engine::sim::cluster::Provenance;
use chariot_engine::sim::coefficient::Band;
use chariot_engine::sim::cost::CostModel;
use chariot_engine::sim::platform::StageCosts;
use chariot_engine::timeline::Timeline;
use chariot_engine::trial::BandChoice;

use super::files::{Output, mistake, write_json};
use super::plan::{Plan, Shown, TrialArgs};
use super::say;

/// Run one trial on the simulated cluster
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  chariot-engine simulate --cluster cluster.json --weights weights.json --config config.json --out trial\n  \
                  chariot-engine simulate ... --trace trace.json                                 # open at ui.perfetto.dev\n  \
                  chariot-engine simulate ... --stop-when-hopeless 'p99(tbt) <= 1.0'"
)]
pub(super) struct Args {
    #[command(flatten)]
    trial: TrialArgs,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let args = &args.trial;
    let plan = Plan::read(args)?;
    check_costs(&plan, args)?;
    fs_err::create_dir_all(&args.out)?;
    let main = plan.config.band.main();
    let records = args.out.join("records.parquet");
    let mut timeline = args.trace.as_ref().map(|_| Timeline::default());
    let (ending, stays) =
        plan.simulate(main, &records, Some(&args.out.join("batches.parquet")), timeline.as_mut())?;
    if let (Some(path), Some(timeline)) = (&args.trace, &timeline) {
        let mut trace = Output::create(path)?;
        timeline.write(&plan.title(&format!("simulated, {} band", main.name())), &stays, &[], &mut trace)?;
        trace.publish()?;
    }
    let mut stopped = ending.stopped.clone();
    if plan.config.band == BandChoice::All {
        for band in [Band::Low, Band::High] {
            let path = args.out.join(format!("records-{}.parquet", band.name()));
            stopped = stopped.or(plan.simulate_end(band, &records, &path)?);
        }
    }
    write_json(&args.out.join("trial.json"), &plan.report(Provenance::Simulated, stopped, ending.end))?;
    say(format_args!(
        "{}: {}",
        plan.title(&format!("simulated, {} band", main.name())),
        Shown(&plan, &ending)
    ))
}

/// A measured platform has costs of the layouts that were measured, with weights of one type.
fn check_costs(plan: &Plan, args: &TrialArgs) -> anyhow::Result<()> {
    let Plan { cluster, weights, .. } = plan;
    let preset = &cluster.preset;
    preset.covers(&weights.shape, weights.parallel).map_err(|error| mistake(&args.cluster, error))?;
    match (&preset.stage, &weights.weights) {
        (Some(StageCosts::Measured(measured)), Some(held)) if held.dtype != measured.dtype => {
            let (expected, found) = (measured.dtype, held.dtype);
            let what = format_args!("weights.dtype: expected {expected:?}, as was measured, found {found:?}");
            Err(mistake(&args.weights, what))
        }
        _ => Ok(()),
    }
}

impl Plan {
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
        let batches = batches.map(Output::create).transpose()?;
        let mut recorder = Recorder::new(Output::create(records)?, batches, self.watch())?;
        let mut executor = SimExecutor::new(self.costs(band));
        if timeline.is_some() {
            executor = executor.keep_stays();
        }
        let scheduler = Scheduler::new(self.scheduler.clone())?;
        let trial = Trial::new(&self.requests, scheduler, &mut executor, &mut recorder);
        let ending = trial.with_timeline(timeline).run(self.limit())?;
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
}
