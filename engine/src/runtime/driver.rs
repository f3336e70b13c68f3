//! The real executor: hands batches to the workers and waits for their tokens. Knows when, not why; decides nothing about batches.

mod asks;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use camino::Utf8Path;

use super::health::{Health, Verdict};
use super::launch::{LaunchError, Workers, io};
use super::limit::{Size, StepLimit};
use super::lookout::Lookout;
use super::loss::{Heard, Loss};
use super::places::Places;
use super::probe::Probed;
use super::protocol::{Farewell, Order, Output, Report, Seat, Setup, Weights, frame, frame_step};
use super::sequences::{After, Prompt, Sequences};
use super::step::{Head, Step};
use super::switchboard::Waker;
use super::warm_up::{self, Bounds};
use crate::backend::{BackendName, cuda};
use crate::clock::monotonic_ns;
use crate::comm::secret::Secret;
use crate::comm::{Links, shm};
use crate::executor::{Event, Executor, StageOperations, StageStay};
use crate::model::KvSpec;
use crate::sched::Scheduler;
use crate::sched::batch::{Batch, Chunk};
use crate::shard::Parallel;
use crate::units::{BatchId, Nanos, SeqId};

/// How often the workers' health is looked at while nothing is heard.
const TICK: Duration = Duration::from_millis(100);
/// On GPUs some stage is done with a batch within a rank's patience with its own, and this, while one is under way: by then a rank that has given up has
/// said so. What is left is a message between stages that does not come through, which both ends of it take for the other's being at work.
const HEARD_BY: Duration = Duration::from_millis(1200);
/// How long workers may take to say goodbye and end.
const FAREWELL: Duration = Duration::from_secs(4);

/// What a run of workers is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What ranks compute on.
    pub backend: BackendName,
    /// Whether to keep what each operation took, where the backend can tell; GPUs then replay no graphs.
    pub operations: bool,
    /// Ranks.
    pub parallel: Parallel,
    /// Compute threads of a rank.
    pub threads: usize,
    /// Where the weights come from.
    pub weights: Weights,
    /// Room for keys and values, on every rank.
    pub kv: KvSpec,
    /// Blocks whose memory is found before the first batch, as many as may be in use at once: those never used come last, the lowest first. Of others it is found
    /// when they are first written, in the midst of a step: 80 ms for 32 MB on a virtual machine.
    pub blocks_touched: u32,
    /// Longest sequence, in tokens.
    pub max_model_len: u32,
    /// Largest batch, in tokens.
    pub batch_tokens: u32,
    /// Where the driver listens and ranks run.
    pub places: Places,
    /// Whether ranks talk through shared memory, or over TCP.
    pub shared_memory: bool,
    /// For each rank, the core of each of its threads; empty: wherever the operating system puts them.
    pub cores: Vec<Vec<usize>>,
    /// Links to emulate.
    pub links: Option<Links>,
    /// Workers must have loaded by then.
    pub ready_by: Duration,
    /// A batch must be done by then, and a peer must have answered. On the CPU eight times what the longest batch before took is enough, 4 s
    /// at least.
    pub step_by: Duration,
}

impl Plan {
    /// Whether ranks compute on their hosts' processors.
    fn on_host(&self) -> bool {
        self.backend == BackendName::Cpu
    }

    /// Cores of this host that no rank's thread needs, or how many too few there are.
    fn spare_cores(&self) -> isize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        cores as isize - (self.parallel.ranks() as usize * self.threads) as isize
    }

    /// Nanoseconds within which some stage is done with a batch.
    fn stage_by_ns(&self) -> Option<u64> {
        match self.backend {
            BackendName::Cpu => None,
            BackendName::Cuda { .. } => Some((cuda::patience() + HEARD_BY).as_nanos() as u64),
        }
    }

    fn setup(&self, rank: usize, driver: SocketAddr, secret: &Secret, shared: Option<&Utf8Path>) -> Setup {
        Setup {
            seat: Seat { rank: rank as u32, threads: self.threads, cores: self.cores.get(rank).cloned() },
            driver,
            address: self.places.address(rank),
            secret: secret.to_hex(),
            backend: self.backend,
            operations: self.operations,
            parallel: self.parallel,
            weights: self.weights.clone(),
            kv: self.kv,
            blocks_touched: self.blocks_touched,
            max_model_len: self.max_model_len,
            batch_tokens: self.batch_tokens,
            shared_memory: shared.map(Utf8Path::to_owned),
            own_cores: self.spare_cores() >= 0,
            links: self.links.clone(),
            peer_timeout_s: self.step_by.as_secs_f64(),
            gpu_patience_s: cuda::patience().as_secs_f64(),
        }
    }
}

/// Runs batches on worker processes.
#[derive(Debug)]
pub struct RuntimeExecutor {
    workers: Workers,
    /// What ranks compute on; without graphs where each call is timed.
    backend: BackendName,
    parallel: Parallel,
    kv: KvSpec,
    limit: StepLimit,
    /// Some stage must be done with a batch by then.
    stage_by_ns: Option<u64>,
    /// When the batch before the oldest under way was done, by the clock of [`Health::present_ns`].
    freed_ns: u64,
    /// CLOCK_MONOTONIC at the start of the trial.
    epoch_ns: u64,
    sequences: Sequences,
    in_flight: VecDeque<Flight>,
    health: Health,
    lookout: Lookout,
    ended: Vec<SeqId>,
    produced: Vec<(SeqId, u32)>,
    logits: Option<Vec<f32>>,
    stays: Option<Vec<StageStay>>,
    operations: Vec<StageOperations>,
    /// A waker was used since the last wait.
    woken: bool,
}

#[derive(Debug)]
struct Flight {
    batch: u32,
    submitted_ns: u64,
    /// The same by the clock of [`Health::present_ns`].
    present_ns: u64,
    size: Size,
    /// When the first stage began, once that stage has told.
    start_ns: Option<u64>,
    /// Stages that are done with it.
    stages: u32,
    /// Sequences whose token is drawn, in order.
    sampled: Vec<u32>,
    tokens: Option<Vec<u32>>,
}

/// What a run of workers tells at its end.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Summary {
    /// Messages over emulated links, of all ranks.
    pub messages: u64,
    /// Time these should have taken.
    pub planned: Nanos,
    /// Time by which they were late.
    pub late: Nanos,
    /// The latest.
    pub worst: Nanos,
    /// Steps that ran as CUDA graphs, of all ranks.
    pub replays: u64,
}

impl RuntimeExecutor {
    /// Starts the workers; returns when all have loaded their weights. `program` is an executable with the `worker` command.
    pub fn launch(program: &Path, plan: &Plan) -> Result<Self, LaunchError> {
        let world = plan.parallel.ranks() as usize;
        let shared = plan.shared_memory.then(|| shm::create(world)).transpose();
        let shared = shared.map_err(io("make the ranks' shared memory"))?;
        let path = shared.as_ref().map(shm::SharedMemory::path);
        let setup = |rank: usize, driver, secret: &Secret| plan.setup(rank, driver, secret, path.as_deref());
        let workers = Workers::launch(program, &plan.places, world, setup, plan.ready_by, plan.on_host())?;
        // All have mapped it.
        drop(shared);
        let now = monotonic_ns();
        Ok(Self {
            health: Health::new(world, plan.on_host(), now),
            lookout: Lookout::new(plan.spare_cores() > 0),
            workers,
            backend: match plan.backend {
                BackendName::Cuda { graphs, flash } => {
                    BackendName::Cuda { graphs: graphs && !plan.operations, flash }
                }
                BackendName::Cpu => BackendName::Cpu,
            },
            parallel: plan.parallel,
            kv: plan.kv,
            limit: StepLimit::new(plan.step_by, plan.on_host()),
            stage_by_ns: plan.stage_by_ns(),
            freed_ns: 0,
            epoch_ns: now,
            sequences: Sequences::default(),
            in_flight: VecDeque::new(),
            ended: Vec::new(),
            produced: Vec::new(),
            logits: None,
            stays: None,
            operations: Vec::new(),
            woken: false,
        })
    }

    /// Keeps each batch's stay in each stage, for a timeline.
    pub fn keep_stays(mut self) -> Self {
        self.stays = Some(Vec::new());
        self
    }

    /// Keeps stays from now on, and forgets those kept before.
    pub fn begin_stays(&mut self) {
        self.stays = Some(Vec::new());
    }

    /// Asks for the logits of every token drawn.
    pub fn keep_logits(mut self) -> Self {
        self.logits = Some(Vec::new());
        self
    }

    /// Runs the largest batches there will be, so that the first real one finds all memory there and touched; on GPUs also batches of the kinds that
    /// are recorded.
    pub fn warm_up(&mut self, bounds: &Bounds) -> Result<(), Loss> {
        assert!(self.sequences.all_unknown(), "made-up batches take the slots of sequences");
        for step in warm_up::steps(bounds, self.backend, self.kv) {
            let flight = self.dispatch(step)?;
            self.in_flight.push_back(flight);
            while !self.front_is_done() {
                self.listen(TICK)?;
            }
            self.retire();
        }
        self.stays = self.stays.take().map(|_| Vec::new());
        self.operations.clear();
        Ok(())
    }

    /// The workers' processes.
    pub fn processes(&self) -> Vec<u32> {
        self.workers.processes()
    }

    /// By how much a stage's times may be wrong, for its host's clock is known no better.
    pub fn clock_uncertainty(&self) -> Nanos {
        Nanos(self.workers.clock_uncertainty_ns())
    }

    /// Room for keys and values.
    pub(super) fn kv(&self) -> KvSpec {
        self.kv
    }

    /// Runs steps that nobody scheduled, up to `depth` at once; how each went.
    pub(super) fn run_steps(&mut self, steps: Vec<Step>, depth: u32) -> Result<Vec<Probed>, Loss> {
        assert!(self.sequences.all_unknown(), "made-up batches take the slots of sequences");
        let kept = self.stays.replace(Vec::new());
        let mut waiting = steps.into_iter();
        let (mut submitted, mut heard) = (Vec::new(), Vec::new());
        loop {
            while self.in_flight.len() < depth as usize
                && let Some(step) = waiting.next()
            {
                let flight = self.dispatch(step)?;
                submitted.push((flight.batch, Nanos(flight.submitted_ns - self.epoch_ns)));
                self.in_flight.push_back(flight);
            }
            if self.in_flight.is_empty() {
                break;
            }
            while !self.front_is_done() {
                self.listen(TICK)?;
            }
            heard.push(self.now());
            self.retire();
        }
        // Stages between the first and the last may report later than the last.
        let expected = submitted.len() * self.parallel.pp as usize;
        while self.stays.as_ref().map_or(0, Vec::len) < expected {
            self.listen(TICK)?;
        }
        let stays = std::mem::replace(&mut self.stays, kept).unwrap_or_default();
        let probed = |((batch, submitted), heard)| Probed::new(batch, submitted, heard, &stays);
        Ok(submitted.into_iter().zip(heard).map(probed).collect())
    }

    /// The trial starts now.
    pub fn start(&mut self) {
        self.epoch_ns = monotonic_ns();
    }

    /// A request: its prompt must be known before the scheduler may schedule it.
    pub fn insert(&mut self, seq: SeqId, prompt: Prompt) {
        self.sequences.insert(seq.0, prompt);
    }

    /// Nobody wants a sequence any more, and no batch under way has it.
    pub fn remove(&mut self, seq: SeqId) {
        self.sequences.remove(seq.0);
    }

    /// Ends a `wait`, from any thread.
    pub fn waker(&self) -> Waker {
        self.workers.waker()
    }

    /// The tokens that the batch completed last produced.
    pub fn produced(&self) -> &[(SeqId, u32)] {
        &self.produced
    }

    /// The logits that those were drawn from, `[tokens, vocabulary]`, if asked for.
    pub fn logits(&self) -> Option<&[f32]> {
        self.logits.as_deref()
    }

    /// What `keep_stays` kept so far, in order of arrival.
    pub fn take_stays(&mut self) -> Vec<StageStay> {
        self.stays.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// What their operations took, as far as [`Plan::operations`] asked for that.
    pub fn take_operations(&mut self) -> Vec<StageOperations> {
        std::mem::take(&mut self.operations)
    }

    /// Ends the workers and hears their last words.
    pub fn finish(mut self) -> Result<Summary, Loss> {
        self.workers.send(&frame(&Order::Stop))?;
        let mut summary = Summary::default();
        let mut said = vec![false; self.workers.world()];
        let deadline = monotonic_ns() + FAREWELL.as_nanos() as u64;
        while !said.iter().all(|said| *said) && monotonic_ns() < deadline {
            match self.workers.hear(TICK) {
                Some((rank, Heard::Report(Report::Bye(farewell)))) => {
                    summary.add(&farewell);
                    said[rank] = true;
                }
                Some((rank, heard @ Heard::Report(Report::Failed { .. }))) => {
                    return Err(self.workers.loss(rank, heard));
                }
                Some((rank, Heard::Closed)) if !said[rank] => {
                    return Err(self.workers.loss(rank, Heard::Closed));
                }
                _ => {}
            }
        }
        self.workers.reap(deadline)?;
        Ok(summary)
    }

    fn dispatch(&mut self, mut step: Step) -> Result<Flight, Loss> {
        // Nothing else bounds what a stage over TCP has sent and the next one has not yet taken.
        let (under_way, depth) = (self.in_flight.len(), self.parallel.pp as usize);
        assert!(under_way < depth, "caller keeps batches in flight <= depth, {depth}");
        let batch = step.batch;
        let submitted_ns = monotonic_ns();
        step.sent_ns = submitted_ns;
        let size = Size::of(&step.parts);
        let present_ns = self.health.present_ns(submitted_ns);
        self.ask_of(Order::Step, &step)?;
        Ok(Flight {
            batch,
            submitted_ns,
            present_ns,
            size,
            start_ns: None,
            stages: 0,
            sampled: Vec::new(),
            tokens: None,
        })
    }

    /// Sends an order to all ranks.
    fn ask(&mut self, order: &Order) -> Result<(), Loss> {
        self.send(&frame(order))
    }

    /// Sends an order about a step.
    fn ask_of(&mut self, order: fn(Head) -> Order, step: &Step) -> Result<(), Loss> {
        self.send(&frame_step(order, step))
    }

    fn send(&mut self, frame: &[u8]) -> Result<(), Loss> {
        self.workers.send(frame)?;
        self.health.progressed(monotonic_ns());
        Ok(())
    }

    /// The oldest batch is done.
    fn retire(&mut self) -> Option<Flight> {
        let flight = self.in_flight.pop_front()?;
        self.freed_ns = self.health.present_ns(monotonic_ns());
        self.limit.took(flight.size, self.freed_ns.saturating_sub(flight.present_ns));
        Some(flight)
    }

    fn front_is_done(&self) -> bool {
        self.in_flight.front().is_some_and(|flight| flight.tokens.is_some() && flight.start_ns.is_some())
    }

    /// Hears one thing, or looks after the workers' health.
    fn listen(&mut self, patience: Duration) -> Result<(), Loss> {
        let heard = self.workers.hear(patience);
        let now = monotonic_ns();
        self.health.present_ns(now);
        match heard {
            None => {}
            Some((_, Heard::Woken)) => self.woken = true,
            Some((rank, Heard::Report(Report::Alive(beat)))) => self.health.beat(rank, beat, now),
            Some((rank, Heard::Report(report @ Report::Stage { .. }))) => {
                self.health.heard(rank, now);
                self.health.progressed(now);
                self.note(rank, report);
                return Ok(());
            }
            Some((rank, heard)) => return Err(self.workers.loss(rank, heard)),
        }
        self.look(now)
    }

    /// Ends the run if a worker is not well. `busy`: something is asked of them.
    fn judge(&mut self, busy: bool, now: u64) -> Result<(), Loss> {
        let verdict = self.health.verdict(busy, now);
        verdict.map_or(Ok(()), |verdict| Err(self.workers.sentence(verdict, &self.health, now)))
    }

    /// The same, or if the oldest batch takes too long.
    fn look(&mut self, now: u64) -> Result<(), Loss> {
        self.judge(!self.in_flight.is_empty(), now)?;
        let Some(flight) = self.in_flight.front() else { return Ok(()) };
        let since_ns = self.health.since_progress_ns();
        if self.stage_by_ns.is_some_and(|by| since_ns > by) {
            return Err(self.stuck(flight, since_ns));
        }
        let limit_ns = self.limit.of(flight.size);
        let since_ns = flight.present_ns.max(self.freed_ns);
        if self.health.present_ns(now).saturating_sub(since_ns) <= limit_ns {
            return Ok(());
        }
        let late = Verdict::Late { rank: self.health.suspect(now), batch: flight.batch, limit_ns };
        Err(self.workers.sentence(late, &self.health, now))
    }

    /// No stage was done with anything for so long, and no rank has given up.
    fn stuck(&self, flight: &Flight, since_ns: u64) -> Loss {
        let (s, batch, stage) = (since_ns as f64 / 1e9, flight.batch, flight.stages);
        let how = format!(
            "batch {batch}: expected stage {stage} done with it, found no stage done with any batch for {s:.1} s: \
             what it is to receive does not come through, or what it has to send"
        );
        let rank = self.parallel.stage_ranks(stage.min(self.parallel.pp - 1))[0];
        self.workers.describe(rank as usize, how)
    }

    fn note(&mut self, rank: usize, report: Report) {
        let Report::Stage { batch, stage, start_ns, end_ns, operations, output } = report else { return };
        let [start_ns, end_ns] = [start_ns, end_ns].map(|ns| self.workers.by_own_clock(rank, ns));
        let since = |ns: u64| Nanos(ns.saturating_sub(self.epoch_ns));
        let (start, end) = (since(start_ns), since(end_ns));
        if let Some(stays) = &mut self.stays {
            stays.push(StageStay { batch: BatchId(batch), stage, start, end });
            if !operations.is_empty() {
                self.operations.push(StageOperations { batch: BatchId(batch), stage, operations });
            }
        }
        let Some(flight) = self.in_flight.iter_mut().find(|flight| flight.batch == batch) else { return };
        if stage == 0 {
            flight.start_ns = Some(start_ns);
        }
        flight.stages = flight.stages.max(stage + 1);
        if let Some(Output { tokens, logits }) = output {
            flight.tokens = Some(tokens);
            if let Some(kept) = &mut self.logits {
                *kept = logits;
            }
        }
    }

    /// The oldest batch is done: its tokens join their sequences.
    fn complete(&mut self, flight: Flight) -> Event {
        self.ended.clear();
        self.produced.clear();
        let tokens = flight.tokens.unwrap_or_default();
        for (&seq, &token) in flight.sampled.iter().zip(&tokens) {
            self.produced.push((SeqId(seq), token));
            if self.sequences.push(seq, token) == After::Stopped {
                self.ended.push(SeqId(seq));
            }
        }
        let start = flight.start_ns.unwrap_or(flight.submitted_ns).saturating_sub(self.epoch_ns);
        Event::Completed { batch: BatchId(flight.batch), start: Nanos(start), end: self.now() }
    }
}

impl Executor for RuntimeExecutor {
    type Error = Loss;

    fn now(&self) -> Nanos {
        Nanos(monotonic_ns() - self.epoch_ns)
    }

    fn depth(&self) -> u32 {
        self.parallel.pp
    }

    fn submit(&mut self, batch: &Batch, scheduler: &Scheduler) -> Result<(), Loss> {
        for seq in &batch.preempted {
            self.sequences.preempted(seq.0);
        }
        let mut step = Step { batch: batch.id.0, logits: self.logits.is_some(), ..Step::default() };
        for chunk in &batch.chunks {
            let table = scheduler.block_table(chunk.seq).expect("a scheduled sequence holds blocks");
            self.sequences.add(chunk, table, self.kv.block_size, &mut step);
        }
        let mut flight = self.dispatch(step)?;
        let emits = |chunk: &&Chunk| chunk.emits_token;
        flight.sampled.extend(batch.chunks.iter().filter(emits).map(|chunk| chunk.seq.0));
        self.in_flight.push_back(flight);
        Ok(())
    }

    fn wait(&mut self, until: Nanos) -> Result<Event, Loss> {
        loop {
            if self.front_is_done()
                && let Some(flight) = self.retire()
            {
                self.lookout.took(monotonic_ns() - flight.submitted_ns);
                return Ok(self.complete(flight));
            }
            let now = self.now();
            if now >= until || std::mem::take(&mut self.woken) {
                return Ok(Event::TimeReached);
            }
            let left = Duration::from_nanos(until.saturating_sub(now).0).min(TICK);
            let since = |flight: &Flight| monotonic_ns() - flight.submitted_ns;
            let patience =
                self.in_flight.front().map_or(left, |flight| self.lookout.patience(since(flight), left));
            self.listen(patience)?;
        }
    }

    fn ended(&self) -> &[SeqId] {
        &self.ended
    }
}

impl Summary {
    fn add(&mut self, farewell: &Farewell) {
        self.messages += farewell.messages;
        self.planned += Nanos(farewell.planned_ns);
        self.late += Nanos(farewell.late_ns);
        self.replays += farewell.replays;
        self.worst = self.worst.max(Nanos(farewell.worst_ns));
    }
}
