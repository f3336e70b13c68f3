//! Ranks over TCP: one connection a pair, each end of which has proved that it knows the run's secret.
//!
//! A thread a connection takes bytes off the wire as they come, so that a send waits for no receive. It keeps them in an inbox without a bound of
//! its own: a sender that waited for room would look like a rank that hangs. What ranks send bounds it. In collectives no rank is further ahead of
//! another than two pieces and a value (`comm/tests.rs`). A stage is ahead of the next one by the batches under way, of which the driver lets
//! there be as many as stages. Whatever else is sent is answered before more is.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::CommError;
use super::activity::Activity;
use super::secret::{Secret, Side};
use super::wire::Wire;
use crate::clock::monotonic_ns;

/// How long who connects may take to prove itself.
const GREETING: Duration = Duration::from_secs(5);
/// How often a rank that waits for its peers looks for new connections.
const LOOK: Duration = Duration::from_millis(1);
/// Bytes taken off the wire at once.
const READ: usize = 1 << 16;
/// Looks into an empty inbox before a rank sleeps: what is on its way is often there within some microseconds.
const LOOKS: u32 = 10;

/// Where a rank's peers reach it.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    /// Where this rank says whom it waits for.
    activity: Arc<Activity>,
}

impl Listener {
    /// Listens on any free port of `ip`.
    pub fn bind(ip: IpAddr) -> io::Result<Self> {
        Ok(Self { socket: TcpListener::bind((ip, 0))?, activity: Arc::default() })
    }

    /// What to tell the peers.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// From now on, this rank says there whom it waits for.
    pub fn tell(&mut self, activity: &Arc<Activity>) {
        self.activity = Arc::clone(activity);
    }

    /// Connects with all peers, whose addresses are given in order of ranks: it calls those below `rank` and waits for those above.
    pub(super) fn join(
        self,
        rank: usize,
        peers: &[SocketAddr],
        secret: &Secret,
        timeout: Duration,
    ) -> Result<Sockets, CommError> {
        let mut links: Vec<Option<Link>> = (0..peers.len()).map(|_| None).collect();
        for (peer, address) in peers.iter().enumerate().take(rank) {
            let _pause = self.activity.waits_for(peer);
            let link = call(rank, *address, secret, timeout);
            links[peer] = Some(link.map_err(|source| CommError::on_connection(peer, timeout, source))?);
        }
        self.await_callers(rank, &mut links, secret, timeout)?;
        Ok(Sockets { rank, links, timeout, activity: self.activity })
    }

    /// Lets in all peers above `rank`, whatever order they come in and whoever else connects.
    fn await_callers(
        &self,
        rank: usize,
        links: &mut [Option<Link>],
        secret: &Secret,
        timeout: Duration,
    ) -> Result<(), CommError> {
        let own = |source| CommError::Io { peer: rank, source };
        self.socket.set_nonblocking(true).map_err(own)?;
        let deadline = monotonic_ns() + timeout.as_nanos() as u64;
        let (sender, greeted) = channel();
        let pause = self.activity.waits_for(rank + 1);
        while let Some(missing) = (rank + 1..links.len()).find(|peer| links[*peer].is_none()) {
            pause.now_waits_for(missing);
            if monotonic_ns() > deadline {
                return Err(CommError::Timeout { peer: missing, seconds: timeout.as_secs_f64() });
            }
            self.greet_all(secret, &sender).map_err(own)?;
            match greeted.recv_timeout(LOOK) {
                Ok((peer, stream)) if peer > rank && links.get(peer).is_some_and(Option::is_none) => {
                    links[peer] = Some(Link::new(stream).map_err(own)?);
                }
                Ok((peer, _)) => tracing::warn!("refused a second rank {peer}"),
                // Nobody has proved itself meanwhile.
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Begins to greet whoever has connected.
    fn greet_all(&self, secret: &Secret, greeted: &Sender<(usize, TcpStream)>) -> io::Result<()> {
        loop {
            match self.socket.accept() {
                Ok((stream, from)) => {
                    let (secret, greeted) = (secret.clone(), greeted.clone());
                    // One thread a connection: a stranger that says nothing holds nobody up.
                    std::thread::spawn(move || match greet(stream, &secret) {
                        // Once all have come nobody asks any more.
                        Ok(found) => drop(greeted.send(found)),
                        Err(error) => tracing::warn!("refused a connection from {from}: {error}"),
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Connects with a peer, which may be busy for as long as `timeout` with those before.
fn call(rank: usize, address: SocketAddr, secret: &Secret, timeout: Duration) -> io::Result<Link> {
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    prepare(&stream, timeout)?;
    secret.shake_hands(&mut stream, Side::Caller)?;
    stream.write_all(&(rank as u32).to_le_bytes())?;
    Link::new(stream)
}

fn prepare(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timeout))
}

fn greet(mut stream: TcpStream, secret: &Secret) -> io::Result<(usize, TcpStream)> {
    prepare(&stream, GREETING)?;
    secret.shake_hands(&mut stream, Side::Listener)?;
    let mut rank = [0; 4];
    stream.read_exact(&mut rank)?;
    Ok((u32::from_le_bytes(rank) as usize, stream))
}

/// All connections of one rank.
#[derive(Debug)]
pub(super) struct Sockets {
    rank: usize,
    links: Vec<Option<Link>>,
    timeout: Duration,
    /// Where this rank says whom it waits for.
    activity: Arc<Activity>,
}

#[derive(Debug)]
struct Link {
    stream: TcpStream,
    inbox: Arc<Inbox>,
}

/// What the thread that reads has taken off the wire, and nobody has asked for yet. Two threads share it, hence the lock; its memory is kept.
#[derive(Debug)]
struct Inbox {
    arrived: Mutex<Arrived>,
    /// There is more, or the end.
    news: Condvar,
}

#[derive(Debug)]
struct Arrived {
    bytes: VecDeque<u8>,
    is_open: bool,
}

impl Inbox {
    fn arrived(&self) -> MutexGuard<'_, Arrived> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills `bytes` as far as what has arrived goes; how far, and whether there may be more one day.
    fn take(&self, mut bytes: &mut [u8]) -> (usize, bool) {
        let mut arrived = self.arrived();
        let mut taken = 0;
        loop {
            // A piece at a time: a queue's end may lie before its beginning.
            let count = arrived.bytes.read(bytes).expect("a queue in memory can be read");
            if count == 0 {
                return (taken, arrived.is_open);
            }
            taken += count;
            bytes = &mut bytes[count..];
        }
    }

    /// Sleeps until there is something, or the end; `false`: neither came within `timeout`.
    fn wait(&self, timeout: Duration) -> bool {
        let is_quiet = |arrived: &mut Arrived| arrived.bytes.is_empty() && arrived.is_open;
        let waited = self.news.wait_timeout_while(self.arrived(), timeout, is_quiet);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl Link {
    fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_read_timeout(None)?;
        let reader = stream.try_clone()?;
        let arrived = Arrived { bytes: VecDeque::with_capacity(4 * READ), is_open: true };
        let inbox = Arc::new(Inbox { arrived: Mutex::new(arrived), news: Condvar::new() });
        std::thread::spawn({
            let inbox = Arc::clone(&inbox);
            move || take_off(reader, &inbox)
        });
        Ok(Self { stream, inbox })
    }

    fn fill(
        &self,
        peer: usize,
        bytes: &mut [u8],
        timeout: Duration,
        activity: &Activity,
    ) -> Result<(), CommError> {
        let (mut filled, mut looks) = (0, 0);
        loop {
            let (count, is_open) = self.inbox.take(&mut bytes[filled..]);
            filled += count;
            looks = if count > 0 { 0 } else { looks + 1 };
            match () {
                () if filled == bytes.len() => return Ok(()),
                () if !is_open => return Err(CommError::Closed { peer }),
                () if looks <= LOOKS => std::thread::yield_now(),
                () => {
                    let _pause = activity.waits_for(peer);
                    if !self.inbox.wait(timeout) {
                        return Err(CommError::Timeout { peer, seconds: timeout.as_secs_f64() });
                    }
                }
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The reader's half of the socket would keep the connection open. It may be closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Moves what comes to the inbox, to the connection's end.
fn take_off(mut reader: TcpStream, inbox: &Inbox) {
    let mut bytes = vec![0; READ];
    loop {
        let count = match reader.read(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        inbox.arrived().bytes.extend(&bytes[..count]);
        inbox.news.notify_one();
    }
    inbox.arrived().is_open = false;
    inbox.news.notify_one();
}

impl Sockets {
    /// Bytes in the fullest inbox.
    #[cfg(test)]
    pub(super) fn waiting_bytes(&self) -> usize {
        self.links.iter().flatten().map(|link| link.inbox.arrived().bytes.len()).max().unwrap_or(0)
    }

    fn link(&self, peer: usize) -> &Link {
        self.links[peer].as_ref().expect("a rank has a link to every other")
    }
}

impl Wire for Sockets {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.links.len()
    }

    fn send(&mut self, to: usize, bytes: &[u8]) -> Result<(), CommError> {
        let sent = (&self.link(to).stream).write_all(bytes);
        sent.map_err(|source| CommError::on_connection(to, self.timeout, source))
    }

    fn recv(&mut self, from: usize, bytes: &mut [u8]) -> Result<(), CommError> {
        self.link(from).fill(from, bytes, self.timeout, &self.activity)
    }

    fn tell(&mut self, activity: &Arc<Activity>) {
        self.activity = Arc::clone(activity);
    }
}
