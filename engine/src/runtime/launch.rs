//! Worker processes: started, met, listened to, and never left behind. Knows nothing of batches.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use thiserror::Error;

use super::protocol::{Order, Report, Setup, frame, read_frame};
use crate::clock::monotonic_ns;
use crate::comm::secret::{Secret, Side};
use crate::comm::shm;

/// Lines of a worker's log that an error shows.
const LOG_LINES: usize = 12;
/// How long a connection may take to prove itself.
const GREETING: Duration = Duration::from_secs(5);
/// After a first sign of trouble: how long the culprit may take to be found dead.
const INQUEST: Duration = Duration::from_millis(400);
/// How often children are looked at while nothing is heard of them.
const TICK: Duration = Duration::from_millis(20);

/// A run that lost a worker.
#[derive(Debug, Error)]
#[error("rank {rank}{}: {how}{}", pid_of(*pid), log_of(log))]
pub struct Loss {
    /// Which.
    pub rank: usize,
    /// Its process.
    pub pid: Option<u32>,
    /// What became of it.
    pub how: String,
    /// Its last words on stderr.
    pub log: Vec<String>,
}

fn pid_of(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

fn log_of(log: &[String]) -> String {
    match log {
        [] => "; it logged nothing".to_owned(),
        lines => format!("; its last log lines:\n  {}", lines.join("\n  ")),
    }
}

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

fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> LaunchError {
    move |source| LaunchError::Io { what, source }
}

/// What was heard of a worker.
#[derive(Debug)]
pub(super) enum Heard {
    Report(Report),
    /// Its connection ended.
    Closed,
    /// Nothing of a worker: somebody in this process wants the driver's attention.
    Woken,
}

/// Ends a driver's wait from another thread.
#[derive(Debug, Clone)]
pub struct Waker(Sender<(usize, Heard)>);

impl Waker {
    /// The driver looks up from its wait, at once or when it waits next.
    pub fn wake(&self) {
        // A driver that is gone needs no waking.
        let _ = self.0.send((0, Heard::Woken));
    }
}

/// The file through which ranks meet in shared memory; its name is gone when dropped.
#[derive(Debug)]
pub(super) struct SharedFile(Utf8PathBuf);

impl SharedFile {
    /// In memory where the system has a place for such files, among temporary ones where it has not.
    pub(super) fn create(world: usize) -> Result<Self, LaunchError> {
        let memory = Utf8PathBuf::from("/dev/shm");
        let folder = if memory.is_dir() {
            memory
        } else {
            Utf8PathBuf::from_path_buf(std::env::temp_dir()).unwrap_or_default()
        };
        let path = folder.join(format!("chariot-{}-{}", std::process::id(), monotonic_ns()));
        shm::create(&path, world).map_err(io("make the ranks' shared memory"))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Utf8Path {
        &self.0
    }
}

impl Drop for SharedFile {
    fn drop(&mut self) {
        // Somebody else may have removed it.
        let _ = fs_err::remove_file(&self.0);
    }
}

type Log = Arc<Mutex<VecDeque<String>>>;

/// All workers of a run. Dropped, none is left.
#[derive(Debug)]
pub(super) struct Workers {
    children: Vec<Child>,
    logs: Vec<Log>,
    orders: Vec<TcpStream>,
    heard: Receiver<(usize, Heard)>,
    waker: Waker,
}

/// A connection that proved itself, and its first message.
struct Greeted {
    stream: TcpStream,
    rank: usize,
    peers_at: Option<SocketAddr>,
}

impl Workers {
    /// Starts `world` workers of `program` and waits until all have connected, have each other's addresses and said they are ready.
    /// `setup` makes each rank's, given where the driver listens and the run's secret.
    pub(super) fn launch(
        program: &Path,
        world: usize,
        setup: impl Fn(usize, SocketAddr, &Secret) -> Setup,
        ready_by: Duration,
    ) -> Result<Self, LaunchError> {
        let secret = Secret::random().map_err(io("the operating system's random numbers"))?;
        let listener =
            TcpListener::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), 0)).map_err(io("listen on loopback"))?;
        let address = listener.local_addr().map_err(io("listen on loopback"))?;
        listener.set_nonblocking(true).map_err(io("listen on loopback"))?;
        let (sender, heard) = channel();
        let waker = Waker(sender.clone());
        let mut workers = Self { children: Vec::new(), logs: Vec::new(), orders: Vec::new(), heard, waker };
        for rank in 0..world {
            workers.spawn(program, &setup(rank, address, &secret))?;
        }
        let greeted = workers.meet(&listener, secret)?;
        workers.join(greeted, &sender)?;
        workers.await_ready(ready_by)?;
        Ok(workers)
    }

    fn spawn(&mut self, program: &Path, setup: &Setup) -> Result<(), LaunchError> {
        let rank = setup.seat.rank;
        let mut child = Command::new(program)
            .args(["worker", "--rank", &rank.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // An interrupt at the terminal is the driver's to handle; the workers go when it goes.
            .process_group(0)
            .spawn()
            .map_err(io("start a worker"))?;
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
    fn meet(&mut self, listener: &TcpListener, secret: Secret) -> Result<Vec<Greeted>, LaunchError> {
        let world = self.children.len();
        let (sender, greetings) = channel();
        let mut met: Vec<Option<Greeted>> = (0..world).map(|_| None).collect();
        while met.iter().any(Option::is_none) {
            while let Ok((stream, _)) = listener.accept() {
                let (sender, secret) = (sender.clone(), secret.clone());
                // One thread a connection: a stranger that says nothing holds nobody up.
                std::thread::spawn(move || greet(stream, &secret).map(|greeted| sender.send(greeted)));
            }
            if let Ok(greeted) = greetings.recv_timeout(TICK)
                && let Some(place @ None) = met.get_mut(greeted.rank)
            {
                *place = Some(greeted);
            }
            if let Some(loss) = self.any_dead() {
                return Err(loss.into());
            }
        }
        Ok(met.into_iter().flatten().collect())
    }

    /// Tells everyone where everyone is, and starts listening to them.
    fn join(&mut self, greeted: Vec<Greeted>, sender: &Sender<(usize, Heard)>) -> Result<(), LaunchError> {
        let peers = greeted.iter().filter_map(|worker| worker.peers_at).collect();
        let join = frame(&Order::Join(peers));
        for Greeted { stream, rank, .. } in greeted {
            let reader = stream.try_clone().map_err(io("a worker's connection"))?;
            let sender = sender.clone();
            std::thread::spawn(move || listen(rank, reader, &sender));
            self.orders.push(stream);
        }
        self.send(&join)?;
        Ok(())
    }

    fn await_ready(&mut self, ready_by: Duration) -> Result<(), LaunchError> {
        let deadline = monotonic_ns() + ready_by.as_nanos() as u64;
        let mut ready = vec![false; self.children.len()];
        while !ready.iter().all(|ready| *ready) {
            match self.hear(TICK * 5) {
                Some((rank, Heard::Report(Report::Ready { .. }))) => ready[rank] = true,
                Some((_, Heard::Report(Report::Alive { .. }) | Heard::Woken)) | None => {}
                Some((rank, heard)) => return Err(self.loss(rank, heard).into()),
            }
            if monotonic_ns() > deadline {
                let rank = ready.iter().position(|ready| !ready).expect("the loop ends when all are ready");
                let how = format!("expected it ready within {} s, still loading", ready_by.as_secs());
                return Err(self.describe(rank, how).into());
            }
        }
        Ok(())
    }

    /// Sends the same bytes to every worker.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), Loss> {
        for rank in 0..self.orders.len() {
            if self.orders[rank].write_all(bytes).is_err() {
                return Err(self.loss(rank, Heard::Closed));
            }
        }
        Ok(())
    }

    /// The next thing heard, if any within `patience`.
    pub(super) fn hear(&self, patience: Duration) -> Option<(usize, Heard)> {
        self.heard.recv_timeout(patience).ok()
    }

    /// For other threads of this process.
    pub(super) fn waker(&self) -> Waker {
        self.waker.clone()
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
        let mut complaints = vec![(rank, heard)];
        let deadline = monotonic_ns() + INQUEST.as_nanos() as u64;
        while monotonic_ns() < deadline {
            if let Some(rank) = self.dead(|status| status.signal().is_some()) {
                return self.obituary(rank);
            }
            if let Some(heard) = self.hear(TICK).filter(|(_, heard)| !matches!(heard, Heard::Woken)) {
                complaints.push(heard);
            }
        }
        let failure = complaints.iter().find_map(|(rank, heard)| match heard {
            Heard::Report(Report::Failed { message, of_peer: false }) => Some((*rank, message.clone())),
            _ => None,
        });
        if let Some((rank, message)) = failure {
            return self.describe(rank, message);
        }
        if let Some(rank) = self.dead(|status| !status.success() && status.code() != Some(OF_PEER)) {
            return self.obituary(rank);
        }
        match complaints.swap_remove(0) {
            (rank, Heard::Report(Report::Failed { message, .. })) => self.describe(rank, message),
            (rank, _) => self.describe(rank, "closed its connection to the driver".to_owned()),
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
            Ok(Some(status)) => how_it_ended(status),
            _ => "ended".to_owned(),
        };
        self.describe(rank, how)
    }

    /// A loss with the rank's process and log.
    pub(super) fn describe(&self, rank: usize, how: String) -> Loss {
        let log = self.logs[rank].lock().map(|lines| lines.iter().cloned().collect()).unwrap_or_default();
        Loss { rank, pid: Some(self.children[rank].id()), how, log }
    }

    /// Waits for every process to end by itself, then for none.
    pub(super) fn reap(&mut self, patience: Duration) -> Result<(), Loss> {
        let deadline = monotonic_ns() + patience.as_nanos() as u64;
        for rank in 0..self.children.len() {
            loop {
                match self.children[rank].try_wait() {
                    Ok(Some(status)) if status.success() => break,
                    Ok(None) if monotonic_ns() < deadline => std::thread::sleep(Duration::from_millis(2)),
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

fn how_it_ended(status: ExitStatus) -> String {
    const OUT_OF_MEMORY: &str =
        "; the kernel ends processes so when memory runs out, and then says so in its log";
    match (status.signal(), status.code()) {
        (Some(9), _) => format!("was killed by signal 9 (SIGKILL){OUT_OF_MEMORY}"),
        (Some(6), _) => "was ended by signal 6 (SIGABRT), as after a failed allocation".to_owned(),
        (Some(signal), _) => format!("was killed by signal {signal}{}", named(signal)),
        (_, Some(code)) => format!("ended with exit code {code}"),
        _ => "ended".to_owned(),
    }
}

fn named(signal: i32) -> &'static str {
    match signal {
        4 => " (SIGILL)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        _ => "",
    }
}

/// Passes a worker's log on and keeps its end.
fn keep_log(rank: u32, lines: impl BufRead, log: &Log) {
    for line in lines.lines().map_while(Result::ok) {
        // Nobody is left to tell if stderr is closed.
        let _ = writeln!(std::io::stderr(), "rank {rank}: {line}");
        if let Ok(mut kept) = log.lock() {
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
        stream.set_read_timeout(None)?;
        Ok(Greeted { stream, rank: rank as usize, peers_at })
    };
    let greeted = { read }();
    if let Err(error) = &greeted {
        tracing::warn!("refused a connection to the driver: {error}");
    }
    greeted.ok()
}

/// Hands on all that a worker says, until it says no more.
fn listen(rank: usize, stream: TcpStream, sender: &Sender<(usize, Heard)>) {
    let mut source = BufReader::new(stream);
    let mut buffer = Vec::new();
    while let Ok(report) = read_frame(&mut source, &mut buffer) {
        if sender.send((rank, Heard::Report(report))).is_err() {
            return;
        }
    }
    // The receiver may be gone: then nobody cares.
    let _ = sender.send((rank, Heard::Closed));
}
