//! The engine's side: takes orders from the HTTP edge, runs the engine, and tells each request of its tokens. Knows no HTTP and no
//! text. One plain thread; orders come in and news go out through channels.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, Sender, channel};

use tokio::sync::mpsc::UnboundedSender;

use super::metrics::Metrics;
use crate::clock::monotonic_ns;
use crate::engine::{Completed, Engine};
use crate::executor::Executor;
use crate::runtime::{Loss, Prompt, RuntimeExecutor, Waker};
use crate::sched::{Admission, NewSequence};
use crate::units::{Nanos, SeqId};

/// How long the batches under way may take to end once their requests were cut off.
const LAST_BATCH_NS: u64 = 1_000_000_000;

/// What the HTTP edge asks of the engine.
#[derive(Debug)]
pub(super) enum Order {
    /// Run these prompts.
    Submit(Submission),
    /// Nobody wants these outputs any more: one of a request, or all.
    Forget { ticket: u64, index: Option<u32> },
    /// End once all requests are done, or after this long; a second time: now.
    Close { grace_ns: u64 },
}

/// A request's prompts.
#[derive(Debug)]
pub(super) struct Submission {
    /// Names the request.
    pub(super) ticket: u64,
    /// CLOCK_MONOTONIC.
    pub(super) arrival_ns: u64,
    pub(super) prompts: Vec<Prompt>,
    /// Where to tell of it.
    pub(super) news: UnboundedSender<News>,
}

/// What a request hears.
#[derive(Debug, Clone)]
pub(super) enum News {
    /// It is in the queue; tokens will follow.
    Accepted,
    /// As many sequences as are taken at once are there already.
    QueueFull { held: usize },
    /// Prompt number `index` and its output can never fit into the KV blocks.
    NeverFits { index: usize },
    /// A token of output `index`; with `finish`, its last.
    Token { index: u32, token: u32, finish: Option<Finish> },
    /// The server is ending, and there was no time left.
    Cut,
    /// The engine failed.
    Lost(String),
}

/// Why an output has no more tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finish {
    /// A stop token: the last one.
    Stop,
    /// It has all that it may have.
    Length,
}

/// Gives orders, from any thread.
#[derive(Debug, Clone)]
pub(super) struct Counter {
    orders: Sender<Order>,
    waker: Waker,
}

impl Counter {
    /// The engine's thread may be gone; then nobody hears, and whoever waits for news finds their channel closed.
    pub(super) fn order(&self, order: Order) {
        let _ = self.orders.send(order);
        self.waker.wake();
    }
}

/// A sequence that somebody waits for.
#[derive(Debug)]
struct Job {
    ticket: u64,
    index: u32,
    arrival_ns: u64,
    prompt_tokens: u32,
    /// When its newest token came.
    newest_ns: Option<u64>,
    news: UnboundedSender<News>,
}

/// The engine and who waits for it.
pub(super) struct Desk {
    engine: Engine<RuntimeExecutor>,
    orders: Receiver<Order>,
    /// Sequences held at once, running and waiting.
    capacity: usize,
    jobs: BTreeMap<SeqId, Job>,
    /// Given up while in a batch under way.
    doomed: BTreeSet<SeqId>,
    next: u32,
    metrics: Arc<Metrics>,
    /// When the last requests are cut off, once the server ends.
    closing: Option<u64>,
}

impl Desk {
    /// A desk, and the counter at which to order.
    pub(super) fn new(
        engine: Engine<RuntimeExecutor>,
        capacity: usize,
        metrics: Arc<Metrics>,
    ) -> (Self, Counter) {
        let (sender, orders) = channel();
        let counter = Counter { orders: sender, waker: engine.executor().waker() };
        metrics.blocks_total.store(u64::from(engine.scheduler().blocks().total()), Relaxed);
        let (jobs, doomed) = (BTreeMap::new(), BTreeSet::new());
        (Self { engine, orders, capacity, jobs, doomed, next: 0, metrics, closing: None }, counter)
    }

    /// Serves until told to close. Ends the workers, whatever happens. `failed` is called before any request hears that the engine did.
    pub(super) fn run(mut self, failed: impl FnOnce()) -> Result<(), Loss> {
        let served = self.serve();
        let Self { engine, jobs, .. } = self;
        match served {
            // Requests were cut off, and their last batch lasts: its workers are not waited for.
            Ok(()) if !engine.is_idle() => Ok(()),
            Ok(()) => engine.into_executor().finish().map(|_| ()),
            Err(loss) => {
                drop(engine);
                failed();
                tell_all(jobs, &News::Lost(loss.to_string()));
                Err(loss)
            }
        }
    }

    fn serve(&mut self) -> Result<(), Loss> {
        loop {
            while let Ok(order) = self.orders.try_recv() {
                self.obey(order);
            }
            let until = match self.closing {
                None => Nanos::MAX,
                Some(_) if self.jobs.is_empty() && self.engine.is_idle() => return Ok(()),
                Some(deadline_ns) => {
                    let now = monotonic_ns();
                    if now >= deadline_ns {
                        tell_all(std::mem::take(&mut self.jobs), &News::Cut);
                        return self.end_batches(now + LAST_BATCH_NS);
                    }
                    self.engine.executor().now() + Nanos(deadline_ns - now)
                }
            };
            while let Some((batch, ..)) = self.engine.submit()? {
                self.metrics.preemptions.fetch_add(batch.preempted.len() as u64, Relaxed);
            }
            self.show();
            self.wait(until)?;
        }
    }

    fn end_batches(&mut self, deadline_ns: u64) -> Result<(), Loss> {
        while !self.engine.is_idle() && monotonic_ns() < deadline_ns {
            let left = Nanos(deadline_ns.saturating_sub(monotonic_ns()));
            let until = self.engine.executor().now() + left;
            self.wait(until)?;
        }
        Ok(())
    }

    fn show(&self) {
        let scheduler = self.engine.scheduler();
        let blocks = scheduler.blocks();
        self.metrics.waiting.store(scheduler.waiting() as u64, Relaxed);
        self.metrics.running.store(u64::from(scheduler.running()), Relaxed);
        self.metrics.blocks_used.store(u64::from(blocks.total() - blocks.free()), Relaxed);
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Submit(submission) => self.submit(submission),
            Order::Forget { ticket, index } => {
                let is_meant =
                    |job: &Job| job.ticket == ticket && index.is_none_or(|index| job.index == index);
                let meant = self.jobs.iter().filter(|(_, job)| is_meant(job)).map(|(seq, _)| *seq);
                for seq in meant.collect::<Vec<_>>() {
                    self.forget(seq);
                }
            }
            Order::Close { grace_ns } => {
                let again = self.closing.is_some();
                let now = monotonic_ns();
                self.closing = Some(if again { now } else { now.saturating_add(grace_ns) });
            }
        }
    }

    fn submit(&mut self, submission: Submission) {
        let Submission { ticket, arrival_ns, prompts, news } = submission;
        // A client that is gone by now finds out by itself.
        let tell = |what| drop(news.send(what));
        if self.closing.is_some() {
            return tell(News::Cut);
        }
        let held = self.engine.scheduler().unfinished();
        if held + prompts.len() > self.capacity {
            return tell(News::QueueFull { held });
        }
        let first = self.next;
        for (index, prompt) in prompts.into_iter().enumerate() {
            let seq = SeqId(self.next);
            self.next += 1;
            let (prompt_tokens, output_tokens) = (prompt.tokens.len() as u32, prompt.output_max);
            let arrival = self.engine.executor().now();
            let admission = self.engine.add(NewSequence { id: seq, arrival, prompt_tokens, output_tokens });
            if admission == Admission::Ignored {
                (first..seq.0).for_each(|earlier| self.forget(SeqId(earlier)));
                return tell(News::NeverFits { index });
            }
            self.engine.executor_mut().insert(seq, prompt);
            let (index, news) = (index as u32, news.clone());
            self.jobs.insert(seq, Job { ticket, index, arrival_ns, prompt_tokens, newest_ns: None, news });
        }
        tell(News::Accepted);
    }

    fn forget(&mut self, seq: SeqId) {
        self.jobs.remove(&seq);
        if self.engine.abort(seq) {
            self.engine.executor_mut().remove(seq);
        } else {
            self.doomed.insert(seq);
        }
    }

    /// Waits for a batch, an order or `until`, and tells of the batch's tokens.
    fn wait(&mut self, until: Nanos) -> Result<(), Loss> {
        let Self { engine, jobs, doomed, metrics, .. } = self;
        let over = engine.wait(until, |executor, completed| {
            tell_of(executor, &completed, jobs, metrics);
            let ended = completed.outcomes.iter().filter(|outcome| outcome.finished);
            ended.map(|outcome| outcome.seq).filter(|seq| doomed.remove(seq)).collect::<Vec<_>>()
        })?;
        for seq in over.unwrap_or_default() {
            engine.executor_mut().remove(seq);
        }
        Ok(())
    }
}

fn tell_all(jobs: BTreeMap<SeqId, Job>, news: &News) {
    for job in jobs.into_values() {
        // Who is gone need not know.
        let _ = job.news.send(news.clone());
    }
}

/// Tells who waits for a batch's tokens.
fn tell_of(
    executor: &RuntimeExecutor,
    completed: &Completed<'_>,
    jobs: &mut BTreeMap<SeqId, Job>,
    metrics: &Metrics,
) {
    let now = monotonic_ns();
    let emitted = completed.outcomes.iter().filter(|outcome| outcome.emitted);
    for (&(seq, token), outcome) in executor.produced().iter().zip(emitted) {
        assert_eq!(seq, outcome.seq, "tokens come in the order of the chunks that emit them");
        metrics.generation_tokens.fetch_add(1, Relaxed);
        let Some(job) = jobs.get_mut(&seq) else { continue };
        match job.newest_ns {
            None => {
                metrics.prompt_tokens.fetch_add(u64::from(job.prompt_tokens), Relaxed);
                metrics.ttft.observe(now.saturating_sub(job.arrival_ns));
            }
            Some(newest) => metrics.tbt.observe(now.saturating_sub(newest)),
        }
        job.newest_ns = Some(now);
        let stopped = executor.ended().contains(&seq);
        let finish = outcome.finished.then_some(if stopped { Finish::Stop } else { Finish::Length });
        // Who is gone forgets the request by itself.
        let _ = job.news.send(News::Token { index: job.index, token, finish });
        if finish.is_some() {
            metrics.e2e.observe(now.saturating_sub(job.arrival_ns));
            jobs.remove(&seq);
        }
    }
}
