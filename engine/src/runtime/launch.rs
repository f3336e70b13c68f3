//! Worker processes: started, met, listened to, and never left behind. Knows nothing of batches.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use thiserror::Error;

use super::health::{Health, LOOK, Looks, Verdict};
use super::loss::{Blame, Heard, Loss, blame, how_it_ended, is_stopped, memory_kills, signal_of};
use super::offset::{Offset, Round};
use super::places::Places;
use super::protocol::{Fault, Order, Report, Setup, frame, read_frame};
use super::switchboard::{Switchboard, Waker};
use crate::clock::monotonic_ns;
use crate::comm::secret::{Secret, Side};

/// Lines of a worker's log that an error shows.
const LOG_LINES: usize = 12;
/// How long a connection may take to prove itself.
const GREETING: Duration = Duration::from_secs(5);
/// How long a worker may take to connect. Workers themselves wait longer to be told that all have.
const CONNECT_BY: Duration = Duration::from_secs(15);
/// After a first sign of trouble: how long a culprit may take to be found dead, and one that said why it failed.
const INQUEST: Duration = Duration::from_secs(2);
const CONFESSED: Duration = Duration::from_millis(200);
/// How often a worker is asked the time.
const CLOCK_ROUNDS: usize = 8;
/// How often a culprit is looked for, once something is wrong.
const TICK: Duration = Duration::from_millis(20);

/// Why workers could not be started.
#[derive(Debug, Error)]
pub enum LaunchError {
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Its answer.
        source: std::io::Error,
    },
    /// A worker ended before it was ready.
    #[error(transparent)]
    Lost(#[from] Loss),
}

/// An error of the operating system's, with what it is about.
fn about(what: impl std::fmt::Display, error: std::io::Error) -> std::io::Error {
    std::io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// Says what was tried when the operating system refused.
pub(super) fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> LaunchError {
    move |source| LaunchError::Io { what, source }
}

type Log = Arc<Mutex<VecDeque<String>>>;

/// All workers of a run. Dropped, none is left.
#[derive(Debug)]
pub(super) struct Workers {
    children: Vec<Child>,
    logs: Vec<Log>,
    board: Switchboard,
    /// Of each rank's clock.
    offsets: Vec<Offset>,
    /// Processes that the kernel had ended for lack of memory when this run began.
    memory_kills: Option<u64>,
}

/// A connection that proved itself, and its first message.
struct Greeted {
    stream: TcpStream,
    rank: usize,
    peers_at: Option<SocketAddr>,
    offset: Offset,
}

impl Workers {
    /// Starts `world` workers of `program` in their places and waits until all have connected, have each other's addresses and said they are ready.
    /// `setup` makes each rank's, given where the driver listens and the run's secret; `on_host`: they compute on their hosts' processors.
    pub(super) fn launch(
        program: &Path,
        places: &Places,
        world: usize,
        setup: impl Fn(usize, SocketAddr, &Secret) -> Setup,
        ready_by: Duration,
        on_host: bool,
    ) -> Result<Self, LaunchError> {
        let secret = Secret::random().map_err(io("the operating system's random numbers"))?;
        let listen = "listen for workers at the driver's address";
        let listener = TcpListener::bind((places.driver, 0));
        let listener = listener.map_err(|error| io(listen)(about(places.driver, error)))?;
        let address = listener.local_addr().map_err(io(listen))?;
        listener.set_nonblocking(true).map_err(io(listen))?;
        let board = Switchboard::new().map_err(io("make a bell for the driver"))?;
        let (children, logs, offsets) = (Vec::new(), Vec::new(), Vec::new());
        let mut workers = Self { children, logs, board, offsets, memory_kills: memory_kills() };
        for rank in 0..world {
            workers.spawn(program, places, &setup(rank, address, &secret))?;
        }
        let mut looks = Looks::new(world);
        let greeted = workers.meet(&listener, secret, &mut looks)?;
        workers.join(greeted)?;
        workers.await_ready(ready_by, on_host, &mut looks)?;
        Ok(workers)
    }

    fn spawn(&mut self, program: &Path, places: &Places, setup: &Setup) -> Result<(), LaunchError> {
        let rank = setup.seat.rank;
        let mut command = places.command(rank as usize, program);
        let mut child = command
            // An interrupt at the terminal is the driver's to handle; the workers go when it goes.
            .process_group(0)
            .spawn()
            .map_err(|error| io("start a worker")(about(command.get_program().display(), error)))?;
        let log = Log::default();
        let stderr = child.stderr.take().expect("stderr is piped");
        std::thread::spawn({
            let log = Arc::clone(&log);
            move || keep_log(rank, BufReader::new(stderr), &log)
        });
        let mut stdin = child.stdin.take().expect("stdin is piped");
        self.children.push(child);
        self.logs.push(log);
        let json = serde_json::to_vec(setup).expect("a setup is plain data");
        // A worker that is dead already is found by `meet`.
        let _ = stdin.write_all(&json);
        Ok(())
    }

    /// Waits for every worker's connection, whatever order they come in and whoever else connects.
    fn meet(
        &mut self,
        listener: &TcpListener,
        secret: Secret,
        looks: &mut Looks,
    ) -> Result<Vec<Greeted>, LaunchError> {
        let world = self.children.len();
        let (sender, greetings) = channel();
        let deadline = monotonic_ns() + CONNECT_BY.as_nanos() as u64;
        let mut met: Vec<Option<Greeted>> = (0..world).map(|_| None).collect();
        while met.iter().any(Option::is_none) {
            while let Ok((stream, _)) = listener.accept() {
                let (sender, secret) = (sender.clone(), secret.clone());
                // One thread a connection: a stranger that says nothing holds nobody up.
                std::thread::spawn(move || greet(stream, &secret).map(|greeted| sender.send(greeted)));
            }
            if let Ok(greeted) = greetings.recv_timeout(LOOK)
                && let Some(place @ None) = met.get_mut(greeted.rank)
            {
                *place = Some(greeted);
            }
            if let Some(loss) = self.any_dead().or_else(|| self.any_stopped(looks)) {
                return Err(loss.into());
            }
            if let Some(rank) = met.iter().position(Option::is_none).filter(|_| monotonic_ns() > deadline) {
                let how =
                    format!("expected it to connect within {} s, found it silent", CONNECT_BY.as_secs());
                return Err(self.describe(rank, how).into());
            }
        }
        Ok(met.into_iter().flatten().collect())
    }

    /// A worker that has been stopped for too long.
    fn any_stopped(&self, looks: &mut Looks) -> Option<Loss> {
        let stopped = |rank: usize| is_stopped(self.children[rank].id());
        let rank = looks.stopped(monotonic_ns(), stopped)?;
        Some(self.describe(rank, "hung: its process is stopped".to_owned()))
    }

    /// Tells everyone where everyone is, and starts listening to them.
    fn join(&mut self, greeted: Vec<Greeted>) -> Result<(), LaunchError> {
        let peers = greeted.iter().filter_map(|worker| worker.peers_at).collect();
        let join = frame(&Order::Join(peers));
        for Greeted { stream, offset, .. } in greeted {
            self.offsets.push(offset);
            self.board.add(stream).map_err(io("a worker's connection"))?;
        }
        self.send(&join)?;
        Ok(())
    }

    /// Waits until all have loaded. One that was stopped while others were still connecting is as much nearer to being named.
    fn await_ready(
        &mut self,
        ready_by: Duration,
        on_host: bool,
        looks: &mut Looks,
    ) -> Result<(), LaunchError> {
        let began = monotonic_ns();
        let mut health = Health::new(self.children.len(), on_host, began);
        let mut ready = vec![false; self.children.len()];
        while !ready.iter().all(|ready| *ready) {
            let heard = self.hear(LOOK);
            let now = monotonic_ns();
            match heard {
                Some((rank, Heard::Report(Report::Ready { .. }))) => {
                    ready[rank] = true;
                    health.heard(rank, now);
                }
                Some((rank, Heard::Report(Report::Alive(beat)))) => health.beat(rank, beat, now),
                Some((rank, heard)) => return Err(self.loss(rank, heard).into()),
                None => {}
            }
            if let Some(verdict) = health.verdict(false, now) {
                return Err(self.sentence(verdict, &health, now).into());
            }
            if let Some(loss) = self.any_stopped(looks) {
                return Err(loss.into());
            }
            if now - began > ready_by.as_nanos() as u64 {
                let mut late = (0..ready.len()).filter(|rank| !ready[*rank]);
                let first = late.clone().next().expect("the loop ends when all are ready");
                let rank = late.find(|rank| !health.waits(*rank)).unwrap_or(first);
                let how = format!("expected it ready within {} s, still loading", ready_by.as_secs());
                return Err(self.describe(rank, how).into());
            }
        }
        Ok(())
    }

    /// Sends the same bytes to every worker.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), Loss> {
        self.board.send(bytes).map_err(|rank| self.loss(rank, Heard::Closed))
    }

    /// The next thing heard, if any within `patience`.
    pub(super) fn hear(&mut self, patience: Duration) -> Option<(usize, Heard)> {
        self.board.hear(patience)
    }

    /// For other threads of this process.
    pub(super) fn waker(&self) -> Waker {
        self.board.waker()
    }

    /// A time of a rank's clock, by the driver's.
    pub(super) fn by_own_clock(&self, rank: usize, ns: u64) -> u64 {
        self.offsets[rank].of_driver(ns)
    }

    /// How wrong such a time may be, of the rank where that is most.
    pub(super) fn clock_uncertainty_ns(&self) -> u64 {
        self.offsets.iter().map(|offset| offset.uncertainty_ns).max().unwrap_or(0)
    }

    /// How many there are.
    pub(super) fn world(&self) -> usize {
        self.children.len()
    }

    /// Their processes, in order of ranks.
    pub(super) fn processes(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }

    /// Who is to blame, after the first sign of trouble. Peers of a dead rank complain of it, often before it is found dead: so a
    /// killed process goes before a failed one, and a failed one before a complaint.
    pub(super) fn loss(&mut self, rank: usize, heard: Heard) -> Loss {
        let mut signs = vec![(rank, heard)];
        let began = monotonic_ns();
        let passed = |time: Duration| monotonic_ns() - began > time.as_nanos() as u64;
        while !passed(INQUEST) {
            if let Some(rank) = self.dead(|status| signal_of(status).is_some()) {
                return self.obituary(rank);
            }
            let confesses = |heard: &Heard| {
                matches!(heard, Heard::Report(Report::Failed { fault: Fault::Own | Fault::Input, .. }))
            };
            if signs.iter().any(|(_, heard)| confesses(heard)) && passed(CONFESSED) {
                break;
            }
            signs.extend(self.hear(TICK));
        }
        if let Some(Blame { rank, how, of_input }) = blame(&signs) {
            return Loss { of_input, ..self.describe(rank, how) };
        }
        if let Some(rank) = self.dead(|status| !status.success() && status.code() != Some(OF_PEER)) {
            return self.obituary(rank);
        }
        self.describe(rank, "closed its connection to the driver".to_owned())
    }

    /// A verdict on the workers' health, with what is known of its rank.
    pub(super) fn sentence(&self, verdict: Verdict, health: &Health, now: u64) -> Loss {
        let s = |ns: u64| ns as f64 / 1e9;
        match verdict {
            Verdict::Silent { rank, ns } => {
                let stopped =
                    if is_stopped(self.children[rank].id()) { "; its process is stopped" } else { "" };
                let how = format!(
                    "hung: expected a sign of life every 0.2 s, heard none for {:.1} s{stopped}",
                    s(ns)
                );
                self.describe(rank, how)
            }
            Verdict::Blocked { rank } => self.describe(rank, format!("hung: {}", health.story(rank, now))),
            Verdict::Stalled { rank, ns } => {
                let story = health.story(rank, now);
                self.describe(rank, format!("hung: no rank has computed for {:.1} s; {story}", s(ns)))
            }
            Verdict::Late { rank, batch, limit_ns } => {
                let (limit, story) = (s(limit_ns), health.story(rank, now));
                let how = format!(
                    "hung: expected the tokens of batch {batch} within {limit:.1} s, found none; {story}"
                );
                self.describe(rank, how)
            }
        }
    }

    /// A worker that ended, if one did.
    fn any_dead(&mut self) -> Option<Loss> {
        let rank = self.dead(|_| true)?;
        Some(self.obituary(rank))
    }

    fn dead(&mut self, how: impl Fn(&ExitStatus) -> bool) -> Option<usize> {
        let status = |child: &mut Child| child.try_wait().ok().flatten();
        self.children.iter_mut().position(|child| status(child).is_some_and(|status| how(&status)))
    }

    fn obituary(&mut self, rank: usize) -> Loss {
        let how = match self.children[rank].try_wait() {
            Ok(Some(status)) => how_it_ended(status, self.memory_ran_out()),
            _ => "ended".to_owned(),
        };
        self.describe(rank, how)
    }

    fn memory_ran_out(&self) -> Option<bool> {
        Some(memory_kills()? > self.memory_kills?)
    }

    /// A loss with the rank's process and log.
    pub(super) fn describe(&self, rank: usize, how: String) -> Loss {
        let log = self.logs[rank].lock().map(|lines| lines.iter().cloned().collect()).unwrap_or_default();
        Loss { rank, pid: Some(self.children[rank].id()), how, log, of_input: false }
    }

    /// Waits until `deadline_ns` for every process to end by itself, then for none.
    pub(super) fn reap(&mut self, deadline_ns: u64) -> Result<(), Loss> {
        for rank in 0..self.children.len() {
            loop {
                match self.children[rank].try_wait() {
                    Ok(Some(status)) if status.success() => break,
                    Ok(None) if monotonic_ns() < deadline_ns => std::thread::sleep(Duration::from_millis(2)),
                    Ok(None) => {
                        return Err(
                            self.describe(rank, "expected it to end when told, still runs".to_owned())
                        );
                    }
                    _ => return Err(self.obituary(rank)),
                }
            }
        }
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended; then there is nothing to kill and only its status to fetch.
            let _ = child.kill();
        }
        for child in &mut self.children {
            let _ = child.wait();
        }
    }
}

/// The exit code of a worker that ends because a peer failed it.
pub(super) const OF_PEER: i32 = 4;

/// Passes a worker's log on and keeps its end, without the frames of backtraces: what they are of stands above them.
fn keep_log(rank: u32, lines: impl BufRead, log: &Log) {
    for line in lines.lines().map_while(Result::ok) {
        // Nobody is left to tell if stderr is closed.
        let _ = writeln!(std::io::stderr(), "rank {rank}: {line}");
        if let Ok(mut kept) = log.lock()
            && !line.starts_with("   ")
        {
            if kept.len() == LOG_LINES {
                kept.pop_front();
            }
            kept.push_back(line);
        }
    }
}

/// Lets in who proves to know the secret and says a rank.
fn greet(mut stream: TcpStream, secret: &Secret) -> Option<Greeted> {
    let read = || -> std::io::Result<Greeted> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(GREETING))?;
        secret.shake_hands(&mut stream, Side::Listener)?;
        let Report::Hello { rank, peers_at } = read_frame(&mut stream, &mut Vec::new())? else {
            return Err(std::io::Error::other("expected a greeting, found another message"));
        };
        let offset = compare_clocks(&mut stream)?;
        stream.set_read_timeout(None)?;
        Ok(Greeted { stream, rank: rank as usize, peers_at, offset })
    };
    let greeted = { read }();
    if let Err(error) = &greeted {
        tracing::warn!("refused a connection to the driver: {error}");
    }
    greeted.ok()
}

/// Asks a worker the time, a few times.
fn compare_clocks(stream: &mut TcpStream) -> std::io::Result<Offset> {
    let (question, mut buffer) = (frame(&Order::Clock), Vec::new());
    let mut rounds = [Round { asked_ns: 0, theirs_ns: 0, heard_ns: u64::MAX }; CLOCK_ROUNDS];
    for round in &mut rounds {
        let asked_ns = monotonic_ns();
        stream.write_all(&question)?;
        let Report::Clock { ns: theirs_ns } = read_frame(stream, &mut buffer)? else {
            return Err(std::io::Error::other("expected a worker's time, found another message"));
        };
        *round = Round { asked_ns, theirs_ns, heard_ns: monotonic_ns() };
    }
    Ok(Offset::from_rounds(&rounds).expect("there is more than no round"))
}
