//! Runs a schedule: starts processes, reaps them, records what happened, listens for signals. The shell around `schedule`.

pub mod attempt;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chariot_cache::Digest;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::action::Action;
use crate::clock;
use crate::execute::attempt::{Failure, Left, Site};
use crate::graph::Graph;
use crate::history::{Entry, History};
use crate::host::{Host, HostError};
use crate::plan::Plan;
use crate::probes;
use crate::process::Stop;
use crate::progress::{Event, Progress};
use crate::schedule::{Schedule, ScheduleError};
use crate::step::{StepId, Work};

/// Why a run broke off.
pub type RunError = ScheduleError<HostError>;

/// How a run ended.
#[derive(Debug)]
pub struct Outcome<'g> {
    /// What is done.
    pub plan: Plan<'g>,
    /// Actions whose process ran to a good end.
    pub ran: usize,
    /// Actions that somebody wanted and that failed: address and how.
    pub failures: Vec<(String, String)>,
    /// Steps that could not be done, with those that failed.
    pub lost: Vec<StepId>,
    /// Whether a signal ended the run.
    pub interrupted: bool,
}

/// What a task of the loop brings back.
enum Report {
    /// The process is over; its results are not stored yet.
    Over(Digest, Result<Left, Failure>),
    /// The results were stored, or there are none.
    Published(Digest, Duration, Result<Vec<Digest>, Failure>),
}

/// One run.
struct Runner<'a, 'g> {
    schedule: Schedule<'g>,
    site: Arc<Site>,
    host: &'a mut Host,
    history: &'a mut History,
    progress: &'a mut dyn Progress,
    tasks: JoinSet<Report>,
    /// Processes that run, and how to stop them.
    running: BTreeMap<Digest, (Arc<Action>, watch::Sender<Stop>)>,
    /// Actions whose results are being stored.
    publishing: BTreeMap<Digest, Arc<Action>>,
    tries: u64,
    walls: BTreeMap<String, Duration>,
    done: usize,
    ran: usize,
    failures: Vec<(String, String)>,
    lost: Vec<StepId>,
    stop: Stop,
}

/// Runs a schedule to its end, the first failure, or a signal.
pub async fn execute<'g>(
    schedule: Schedule<'g>,
    site: Arc<Site>,
    host: &mut Host,
    history: &mut History,
    progress: &mut dyn Progress,
) -> Result<Outcome<'g>, RunError> {
    let mut runner = Runner {
        schedule,
        site,
        host,
        history,
        progress,
        tasks: JoinSet::new(),
        running: BTreeMap::new(),
        publishing: BTreeMap::new(),
        tries: 0,
        walls: BTreeMap::new(),
        done: 0,
        ran: 0,
        failures: Vec::new(),
        lost: Vec::new(),
        stop: Stop::No,
    };
    let result = runner.run().await;
    if result.is_err() {
        runner.wind_down().await;
    }
    runner.progress.finish();
    result?;
    Ok(Outcome {
        plan: runner.schedule.plan,
        ran: runner.ran,
        failures: runner.failures,
        lost: runner.lost,
        interrupted: runner.stop != Stop::No,
    })
}

impl Runner<'_, '_> {
    async fn run(&mut self) -> Result<(), RunError> {
        self.advance()?;
        if self.tasks.is_empty() {
            return Ok(());
        }
        let mut signals = Signals::listen().map_err(|error| ScheduleError::View(store_error(error)))?;
        while let Some(report) = self.next_report(&mut signals).await {
            self.take(report)?;
            self.advance()?;
        }
        Ok(())
    }

    /// The next report; signals are obeyed meanwhile.
    async fn next_report(&mut self, signals: &mut Signals) -> Option<Report> {
        loop {
            tokio::select! {
                biased;
                () = signals.next() => self.interrupt(),
                report = self.tasks.join_next() => {
                    return report.map(|report| report.expect("a task of the loop does not panic"));
                }
            }
        }
    }

    /// The first signal asks children to end, the second ends them.
    fn interrupt(&mut self) {
        self.schedule.halt();
        self.stop = if self.stop == Stop::No { Stop::Ask } else { Stop::Kill };
        if self.stop == Stop::Ask {
            let text = format!("stopping {} running actions; once more to kill them", self.running.len());
            self.progress.event(&Event::Note(&text));
        }
        self.stop_all(self.stop);
    }

    fn stop_all(&self, stop: Stop) {
        for (_, sender) in self.running.values() {
            sender.send_replace(stop);
        }
    }

    /// After an error of our own: nothing of ours keeps running.
    async fn wind_down(&mut self) {
        self.stop_all(Stop::Kill);
        while let Some(report) = self.tasks.join_next().await {
            if let Ok(Report::Over(_, Ok(left))) = report {
                let _ = left.discard();
            }
        }
    }

    /// Everything that can be done without waiting.
    fn advance(&mut self) -> Result<(), RunError> {
        self.schedule.settle(self.host)?;
        self.tell()?;
        self.stop_the_vain()?;
        self.start();
        if self.stop == Stop::No {
            self.schedule.look_ahead(self.host)?;
            self.start();
        }
        Ok(())
    }

    fn start(&mut self) {
        for action in self.schedule.start() {
            self.progress.event(&Event::Started { address: &action.address });
            let key = action.key.digest;
            let (sender, receiver) = watch::channel(Stop::No);
            self.tries += 1;
            let name = format!("{}-{}-{}", key.short(), std::process::id(), self.tries);
            let (site, of_task) = (Arc::clone(&self.site), Arc::clone(&action));
            self.running.insert(key, (action, sender));
            self.tasks
                .spawn(async move { Report::Over(key, attempt::run(site, of_task, name, receiver).await) });
        }
    }

    fn stop_the_vain(&mut self) -> Result<(), RunError> {
        if !self.schedule.has_ahead() {
            return Ok(());
        }
        for key in self.schedule.in_vain(self.host)? {
            if !self.schedule.drop_queued(&key)
                && let Some((_, sender)) = self.running.get(&key)
            {
                sender.send_replace(Stop::Kill);
            }
        }
        Ok(())
    }

    fn take(&mut self, report: Report) -> Result<(), RunError> {
        match report {
            Report::Over(key, left) => self.process_over(key, left),
            Report::Published(key, wall, Ok(keys)) => self.published(key, wall, &keys),
            Report::Published(key, _, Err(failure)) => self.failed(key, failure),
        }
    }

    fn process_over(&mut self, key: Digest, left: Result<Left, Failure>) -> Result<(), RunError> {
        let Some((action, _)) = self.running.remove(&key) else { return Ok(()) };
        self.schedule.process_over(&key);
        self.progress.event(&Event::Ended { address: &action.address });
        self.publishing.insert(key, Arc::clone(&action));
        let left = match left {
            Ok(left) => left,
            Err(failure) => return self.failed(key, failure),
        };
        let site = Arc::clone(&self.site);
        self.tasks.spawn(async move {
            let wall = left.wall;
            let published = attempt::blocking(move || attempt::publish(&site, &action, left)).await;
            Report::Published(key, wall, published)
        });
        Ok(())
    }

    fn published(&mut self, key: Digest, wall: Duration, keys: &[Digest]) -> Result<(), RunError> {
        let Some(action) = self.publishing.remove(&key) else { return Ok(()) };
        self.ran += 1;
        self.walls.insert(action.address.clone(), wall);
        keys.iter().for_each(|key| self.schedule.plan.ran(*key));
        self.schedule.published(&key);
        self.record(&action.address, key, None)
    }

    fn failed(&mut self, key: Digest, failure: Failure) -> Result<(), RunError> {
        let Some(action) = self.publishing.remove(&key) else { return Ok(()) };
        if matches!(failure, Failure::Stopped) {
            self.schedule.stopped(&key);
            return Ok(());
        }
        let text = format!("{} {failure}", action.address);
        if !failure.is_final() && self.schedule.retry(&key) {
            self.progress.event(&Event::Note(&format!("{text}\n  trying again")));
            return Ok(());
        }
        if let Some(lost) = self.schedule.failed(&key) {
            self.progress.event(&Event::Note(&format!(
                "failed: {text}\n  the whole log: chariot log '{}'",
                action.address
            )));
            self.lost.extend(lost);
            self.record(&action.address, key, Some(failure.brief()))?;
            self.failures.push((action.address.clone(), failure.to_string()));
        }
        Ok(())
    }

    fn record(&mut self, address: &str, key: Digest, failure: Option<String>) -> Result<(), RunError> {
        let entry = Entry { address: address.to_owned(), key, failure, at: clock::timestamp() };
        self.history.append(entry).map_err(|error| ScheduleError::View(error.into()))
    }

    /// Tells what came out since this was last asked.
    fn tell(&mut self) -> Result<(), RunError> {
        let graph = self.schedule.plan.graph();
        for news in self.schedule.plan.news() {
            if let (Some(search), Work::Search(template)) =
                (self.schedule.plan.search(news.step), &graph.step(news.step).work)
            {
                self.progress.event(&Event::Probe {
                    address: &graph.step(news.step).address,
                    repeat: &probes::repeat_name(&template.repeats[news.point.repeat]),
                    rate: news.point.rate,
                    pass: news.pass,
                    bracket: search.bracket(news.point.repeat),
                });
            }
        }
        let total = self.schedule.plan.needed().len();
        for id in self.schedule.finished() {
            self.done += 1;
            self.remember_hits(graph, id)?;
            let address = &graph.step(id).address;
            let wall = self.walls.get(address).copied();
            self.progress.event(&Event::Step { address, wall, done: self.done, total });
        }
        Ok(())
    }

    /// A step answered by other results than last time: what changes next is to be told against these.
    fn remember_hits(&mut self, graph: &Graph, id: StepId) -> Result<(), RunError> {
        let step = graph.step(id);
        let Some(done) = self.schedule.plan.done(id) else { return Ok(()) };
        if let (Work::Action(_), [found]) = (&step.work, done.actions.as_slice())
            && !self.walls.contains_key(&step.address)
        {
            let key = found.key;
            return self.record(&step.address, key, None);
        }
        Ok(())
    }
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn store_error(error: std::io::Error) -> HostError {
    HostError::Store(error.into())
}
