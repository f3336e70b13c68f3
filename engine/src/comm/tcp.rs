//! Ranks over TCP: one connection a pair, each end of which has proved that it knows the run's secret.
//!
//! A thread a connection takes bytes off the wire as they come, so that a send waits for no receive.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::CommError;
use super::secret::{Secret, Side};
use super::wire::Wire;
use crate::clock::monotonic_ns;

/// How long who connects may take to prove itself.
const GREETING: Duration = Duration::from_secs(5);
/// Bytes taken off the wire at once.
const READ: usize = 1 << 16;

/// Where a rank's peers reach it.
#[derive(Debug)]
pub struct Listener(TcpListener);

impl Listener {
    /// Listens on any free port of `ip`.
    pub fn bind(ip: IpAddr) -> io::Result<Self> {
        TcpListener::bind((ip, 0)).map(Self)
    }

    /// What to tell the peers.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
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
            let link = call(rank, *address, secret, timeout);
            links[peer] = Some(link.map_err(|source| CommError::on_connection(peer, timeout, source))?);
        }
        let deadline = monotonic_ns() + timeout.as_nanos() as u64;
        let own = |source| CommError::Io { peer: rank, source };
        self.0.set_nonblocking(true).map_err(own)?;
        while let Some(missing) = (rank + 1..peers.len()).find(|peer| links[*peer].is_none()) {
            if monotonic_ns() > deadline {
                return Err(CommError::Timeout { peer: missing, seconds: timeout.as_secs_f64() });
            }
            match self.0.accept() {
                Ok((stream, from)) => match greet(stream, secret) {
                    Ok((peer, stream)) if peer > rank && peer < peers.len() && links[peer].is_none() => {
                        links[peer] = Some(Link::new(stream).map_err(own)?);
                    }
                    Ok((peer, _)) => tracing::warn!("refused a second rank {peer} from {from}"),
                    Err(error) => tracing::warn!("refused a connection from {from}: {error}"),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(own(error)),
            }
        }
        Ok(Sockets { rank, links, timeout })
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
}

#[derive(Debug)]
struct Link {
    stream: TcpStream,
    arrived: Receiver<Vec<u8>>,
    /// What arrived and was not asked for yet.
    kept: VecDeque<u8>,
}

impl Link {
    fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_read_timeout(None)?;
        let reader = stream.try_clone()?;
        let (sender, arrived) = channel();
        std::thread::spawn(move || take_off(reader, &sender));
        Ok(Self { stream, arrived, kept: VecDeque::new() })
    }

    fn fill(&mut self, peer: usize, mut bytes: &mut [u8], timeout: Duration) -> Result<(), CommError> {
        loop {
            let count = self.kept.read(bytes).expect("a queue in memory can be read");
            bytes = &mut bytes[count..];
            if bytes.is_empty() {
                return Ok(());
            }
            match self.arrived.recv_timeout(timeout) {
                Ok(more) => self.kept.extend(more),
                Err(RecvTimeoutError::Disconnected) => return Err(CommError::Closed { peer }),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(CommError::Timeout { peer, seconds: timeout.as_secs_f64() });
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

fn take_off(mut reader: TcpStream, sender: &Sender<Vec<u8>>) {
    loop {
        let mut bytes = vec![0; READ];
        match reader.read(&mut bytes) {
            Ok(0) | Err(_) => return,
            Ok(count) => bytes.truncate(count),
        }
        if sender.send(bytes).is_err() {
            return;
        }
    }
}

impl Sockets {
    fn link(&mut self, peer: usize) -> &mut Link {
        self.links[peer].as_mut().expect("a rank has a link to every other")
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
        let sent = self.link(to).stream.write_all(bytes);
        sent.map_err(|source| CommError::on_connection(to, self.timeout, source))
    }

    fn recv(&mut self, from: usize, bytes: &mut [u8]) -> Result<(), CommError> {
        let timeout = self.timeout;
        self.link(from).fill(from, bytes, timeout)
    }
}
