//! One rank's process: reads its setup, meets driver and peers, and runs the steps it is sent. Knows no scheduler and no other stage.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, set_parent_process_death_signal};
use rustix::thread::gettid;

use super::launch::OF_PEER;
use super::protocol::{Beat, Fault, Order, Report, Setup, frame_into, read_frame, read_order};
use super::rank::Rank;
use super::speed::Speed;
use super::step::Step;
use super::unfit::Unfit;
use crate::backend::cpu::Cpu;
use crate::backend::cuda::{self, Cuda};
use crate::backend::{Backend, BackendName};
use crate::clock::{cpu_ns, monotonic_ns};
use crate::comm::secret::{Secret, Side};
use crate::comm::{Activity, CommError, Doing};

/// How often a worker says that it is still there.
const HEARTBEAT: Duration = Duration::from_millis(200);
/// How long a worker looks for its next order before it sleeps.
const LOOK_OUT: Duration = Duration::from_micros(300);
/// How long a worker looks for its GPU's progress, and for its next order, without sleeping in between: longer than most steps of decoding.
const AWAKE: Duration = Duration::from_millis(20);
/// How long it sleeps in between later.
const NAP: Duration = Duration::from_micros(50);
/// How long driver and peers may take to answer while meeting.
const MEETING: Duration = Duration::from_secs(20);

/// Room for a report from the start; only those of large batches are longer.
const FRAME_BYTES: usize = 1024;

/// The write half of the connection to the driver. Two threads write whole frames to it, hence the lock.
type Driver = Arc<Mutex<Line>>;

struct Line {
    stream: TcpStream,
    /// The last frame, whose memory the next one takes.
    frame: Vec<u8>,
}

/// Runs a worker to its end; its exit code is the result. `setup` is what the driver writes to its stdin.
pub fn run(rank: u32, mut setup: impl Read) -> anyhow::Result<u8> {
    // Should the driver be killed, this process goes with it.
    set_parent_process_death_signal(Some(Signal::KILL)).context("ask to end with the driver")?;
    let mut json = String::new();
    setup.read_to_string(&mut json).context("read the setup")?;
    let setup: Setup = serde_json::from_str(&json).context("read the setup")?;
    anyhow::ensure!(
        setup.seat.rank == rank,
        "expected the setup of rank {rank}, found rank {}",
        setup.seat.rank
    );
    let secret = Secret::from_hex(&setup.secret).context("read the secret")?;
    let connected = TcpStream::connect_timeout(&setup.driver, MEETING);
    let mut stream = connected.with_context(|| format!("connect to the driver at {}", setup.driver))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(MEETING))?;
    secret.shake_hands(&mut stream, Side::Caller).context("shake hands with the driver")?;
    let reader = stream.try_clone()?;
    start_watch(stream.try_clone()?);
    let driver = Arc::new(Mutex::new(Line { stream, frame: Vec::with_capacity(FRAME_BYTES) }));
    match serve(&setup, &secret, &driver, reader) {
        Ok(()) => Ok(0),
        Err(error) => {
            let (message, fault) = (format!("{error:#}"), fault(&error));
            // The driver may be the one that is gone.
            let _ = say(&driver, &Report::Failed { message, fault });
            Ok(if matches!(fault, Fault::Peer(_)) { OF_PEER as u8 } else { 1 })
        }
    }
}

fn fault(error: &anyhow::Error) -> Fault {
    let peer = error.chain().find_map(|cause| cause.downcast_ref::<CommError>()?.peer_at_fault());
    match peer {
        Some(peer) => Fault::Peer(peer as u32),
        None if error.is::<Unfit>() => Fault::Input,
        None => Fault::Own,
    }
}

fn serve(setup: &Setup, secret: &Secret, driver: &Driver, reader: TcpStream) -> anyhow::Result<()> {
    let (mut reader, mut buffer) = (BufReader::new(reader), Vec::new());
    let meeting = super::meeting::open(setup, secret)?;
    say(driver, &Report::Hello { rank: setup.seat.rank, peers_at: meeting.address() })?;
    let peers = loop {
        match read_frame(&mut reader, &mut buffer).context("wait for all ranks")? {
            Order::Clock => say(driver, &Report::Clock { ns: monotonic_ns() })?,
            Order::Join(peers) => break peers,
            _ => anyhow::bail!("expected the peers' addresses first"),
        }
    };
    reader.get_ref().set_read_timeout(None)?;
    let activity = Arc::new(Activity::default());
    start_heartbeat(Arc::clone(driver), Arc::clone(&activity), gettid());
    let mesh = meeting.join(&peers, &activity)?;
    #[cfg(debug_assertions)]
    super::hang::loading(setup.seat.rank);
    // The one place that chooses a backend.
    match setup.backend {
        BackendName::Cpu => {
            let cpu = Cpu::new(setup.seat.threads, setup.seat.cores.as_deref());
            let mut rank = Rank::load(cpu.context("start compute threads")?, setup, mesh)?;
            work(&mut rank, Some(Speed::default()), driver, &activity, &mut reader)
        }
        BackendName::Cuda { graphs, flash } => {
            let gpu = setup.seat.rank as usize % cuda::device_count()?;
            let patience = Duration::from_secs_f64(setup.gpu_patience_s);
            let timed = setup.operations;
            let under_way = setup.parallel.pp as usize;
            let options = cuda::Options { graphs, flash, timed, patience, under_way, ..cuda::Options::FAST };
            let mut rank = Rank::load(Cuda::open(gpu, &cuda::kernel_folder(), options)?, setup, mesh)?;
            let worked = work(&mut rank, None, driver, &activity, &mut reader)
                // The last step's tokens are known before all of its ranks are done with it, and who goes ends NCCL's groups for the others.
                .and_then(|()| rank.part());
            if worked.is_err() {
                // A GPU that hangs lets nobody give memory back, and the driver is to be told; the process's end gives all back.
                std::mem::forget(rank);
            }
            worked
        }
    }
}

/// Carries out the driver's orders, until there are no more. `speed`: of the core, where it is what computes.
fn work<B: Backend>(
    rank: &mut Rank<B>,
    mut speed: Option<Speed>,
    driver: &Driver,
    activity: &Activity,
    reader: &mut BufReader<TcpStream>,
) -> anyhow::Result<()> {
    let (mut buffer, mut step) = (Vec::new(), Step::default());
    say(driver, &Report::Ready { weight_bytes: rank.weight_bytes(), kv_bytes: rank.kv_bytes() })?;
    loop {
        speed.iter_mut().for_each(Speed::check_if_due);
        if reader.buffer().is_empty() && !tell(rank, driver, Some(reader.get_ref()))? {
            look_out(reader.get_ref());
        }
        activity.begin(Doing::Idle);
        let (order, lists) = read_order(reader, &mut buffer).context("wait for an order")?;
        activity.begin(order.doing());
        match order {
            Order::Step(head) => {
                #[cfg(debug_assertions)]
                super::hang::step();
                step.read(head, lists).context("read a step")?;
                rank.step(&step, |report| say(driver, report))?;
            }
            Order::Exchange(exchange) => {
                if let Some(ns) = rank.exchange(&exchange)? {
                    say(driver, &Report::Exchanged { ns })?;
                }
            }
            Order::CheckExchanges(dtype) => {
                say(driver, &Report::Checked { checks: rank.check_exchanges(dtype)? })?;
            }
            Order::Layers(head) => {
                step.read(head, lists).context("read a step")?;
                if let Some(times) = rank.time_layers(&step)? {
                    say(driver, &Report::Layers { times })?;
                }
            }
            Order::Speed => {
                speed.iter_mut().for_each(Speed::check);
                let checks = speed.as_mut().map(Speed::take).unwrap_or_default();
                say(driver, &Report::Speed { checks })?;
            }
            Order::Memory => say(driver, &Report::Memory { free_bytes: rank.free_bytes()? })?,
            Order::Clock | Order::Join(_) => anyhow::bail!("expected the peers' addresses once"),
            Order::Stop => {
                tell(rank, driver, None)?;
                return Ok(say(driver, &Report::Bye(rank.farewell()))?);
            }
        }
    }
}

/// Tells the driver of what its last orders came to, as it comes; whether there is another order before that is done.
fn tell<B: Backend>(rank: &mut Rank<B>, driver: &Driver, orders: Option<&TcpStream>) -> anyhow::Result<bool> {
    let asleep_ns = monotonic_ns() + AWAKE.as_nanos() as u64;
    while rank.tell(|report| say(driver, report))? {
        if orders.is_some_and(is_readable) {
            return Ok(true);
        }
        if monotonic_ns() > asleep_ns {
            std::thread::sleep(NAP);
        } else {
            std::thread::yield_now();
        }
    }
    Ok(false)
}

/// Whether there is something to read, or nothing any more.
fn is_readable(stream: &TcpStream) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
}

/// Looks for the next order for a moment before this thread goes to sleep: waking it would take longer than forming a batch does.
fn look_out(stream: &TcpStream) {
    let end = monotonic_ns() + LOOK_OUT.as_nanos() as u64;
    while monotonic_ns() < end && !is_readable(stream) {
        std::thread::yield_now();
    }
}

fn say(driver: &Driver, report: &Report) -> std::io::Result<()> {
    let mut line = driver.lock().map_err(|_| std::io::Error::other("a thread ended while it wrote"))?;
    let Line { stream, frame } = &mut *line;
    frame_into(report, frame);
    stream.write_all(frame)
}

/// Says several times a second what this process has computed, and what its thread `computes` is doing.
fn start_heartbeat(driver: Driver, activity: Arc<Activity>, computes: Pid) {
    let stat = format!("/proc/self/task/{}/stat", computes.as_raw_nonzero());
    std::thread::spawn(move || {
        let beat = || {
            let seen = activity.seen();
            Beat { cpu_ns: cpu_ns(), seen, reads: seen.doing.is_work() && waits_for_disk(&stat) }
        };
        while say(&driver, &Report::Alive(beat())).is_ok() {
            std::thread::sleep(HEARTBEAT);
        }
    });
}

/// Whether the thread of this file of the system waits for a disk, or a file system elsewhere.
fn waits_for_disk(stat: &str) -> bool {
    let stat = fs_err::read_to_string(stat).unwrap_or_default();
    // The name in parentheses may hold anything; the state follows the last one.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('D'))
}

/// Ends this process when the driver's end of the connection is closed: without a driver there is nothing left to do, whatever the compute
/// thread waits for or computes.
fn start_watch(stream: TcpStream) {
    std::thread::spawn(move || {
        let closed = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        loop {
            let mut polled = [PollFd::new(&stream, PollFlags::RDHUP)];
            if poll(&mut polled, None).is_ok() && polled[0].revents().intersects(closed) {
                std::process::exit(OF_PEER);
            }
        }
    });
}
