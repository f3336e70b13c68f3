//! The ranks of a communicator: a socket to each, and what has come from it. Ranks find each other by names made
//! of the unique id. Knows frames, no operation.

use std::collections::{BTreeSet, VecDeque};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::status::failed;

pub(crate) const SYSTEM_ERROR: u32 = 2;
pub(crate) const INVALID_ARGUMENT: u32 = 4;
pub(crate) const INVALID_USAGE: u32 = 5;
pub(crate) const REMOTE_ERROR: u32 = 6;
pub(crate) const IN_PROGRESS: u32 = 7;

const RETRY: Duration = Duration::from_millis(2);
/// Bytes of a frame before its payload.
const HEAD: usize = 8 * (2 + TERMS);
/// Numbers that two ranks must agree on.
pub(crate) const TERMS: usize = 6;
pub(crate) type Terms = [u64; TERMS];

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Post {
    /// A rank has come to a send; to a receive; what it then sends.
    Offer,
    Accept,
    Data,
    /// A rank has come to a collective, with its part.
    Part,
    /// A rank leaves in order.
    Bye,
}

const POSTS: [Post; 5] = [Post::Offer, Post::Accept, Post::Data, Post::Part, Post::Bye];

/// What comes from a rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) terms: Terms,
    pub(crate) payload: Arc<[u8]>,
}

#[derive(Default)]
struct Peer {
    socket: Option<Arc<UnixStream>>,
    writer: Arc<Mutex<()>>,
    inbox: [VecDeque<Frame>; 4],
    is_leaving: bool,
}

#[derive(Default)]
struct State {
    peers: Vec<Peer>,
    is_connected: bool,
    is_aborted: bool,
    is_leaving: bool,
    /// What is asked for is never queued.
    is_in_progress: bool,
    error: u32,
    /// Rises with every change.
    version: u64,
    running: usize,
    collectives: u64,
    streams: BTreeSet<usize>,
}

/// A rank's end of a communicator.
pub(crate) struct Comm {
    pub(crate) rank: usize,
    pub(crate) ranks: usize,
    pub(crate) device: usize,
    id: String,
    state: Mutex<State>,
    changed: Condvar,
}

/// No more waiting: the communicator was aborted.
#[derive(Debug)]
pub(crate) struct Aborted;

impl Comm {
    pub(crate) fn new(id: String, rank: usize, ranks: usize, device: usize) -> Self {
        let peers = (0..ranks).map(|_| Peer::default()).collect();
        let state = Mutex::new(State { peers, ..State::default() });
        Self { rank, ranks, device, id, state, changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        state.version += 1;
        let result = change(&mut state);
        self.changed.notify_all();
        result
    }

    fn address(&self, rank: usize) -> std::io::Result<SocketAddr> {
        SocketAddr::from_abstract_name(format!("chariot-double-nccl-{}-{rank}", self.id))
    }

    /// Finds all ranks, and reads from them from now on. Waits until the last has come.
    pub(crate) fn connect(self: &Arc<Self>) -> u32 {
        let code = match self.try_connect() {
            Ok(0) => {
                self.change(|state| state.is_connected = true);
                return 0;
            }
            Ok(code) => code,
            Err(error) => failed(&format!("nccl: rank {}: {error}", self.rank), SYSTEM_ERROR),
        };
        self.fail(code);
        code
    }

    fn try_connect(self: &Arc<Self>) -> std::io::Result<u32> {
        let listener = match UnixListener::bind_addr(&self.address(self.rank)?) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                return Ok(failed(&format!("nccl: rank {} is there twice", self.rank), INVALID_ARGUMENT));
            }
            listener => listener?,
        };
        listener.set_nonblocking(true)?;
        for rank in 0..self.rank {
            let address = self.address(rank)?;
            let Some(mut socket) = self.retry(|| UnixStream::connect_addr(&address))? else {
                return Ok(SYSTEM_ERROR);
            };
            socket.write_all(&[self.rank as u64, self.ranks as u64].map(u64::to_le_bytes).concat())?;
            self.add(rank, socket);
        }
        for _ in self.rank + 1..self.ranks {
            let Some((mut socket, _)) = self.retry(|| listener.accept())? else { return Ok(SYSTEM_ERROR) };
            let mut hello = [[0; 8]; 2];
            socket.read_exact(hello.as_flattened_mut())?;
            let [rank, ranks] = hello.map(|number| u64::from_le_bytes(number) as usize);
            if ranks != self.ranks || rank >= ranks {
                let why = format!(
                    "nccl: rank {} is one of {} ranks, rank {rank} one of {ranks}",
                    self.rank, self.ranks
                );
                return Ok(failed(&why, INVALID_ARGUMENT));
            }
            self.add(rank, socket);
        }
        Ok(0)
    }

    /// Tries until a peer is there; none if the communicator is aborted first.
    fn retry<T>(&self, mut once: impl FnMut() -> std::io::Result<T>) -> std::io::Result<Option<T>> {
        loop {
            match once() {
                Ok(done) => return Ok(Some(done)),
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionRefused | ErrorKind::WouldBlock) => {}
                Err(error) => return Err(error),
            }
            if self.lock().is_aborted {
                return Ok(None);
            }
            std::thread::sleep(RETRY);
        }
    }

    fn add(self: &Arc<Self>, rank: usize, socket: UnixStream) {
        let socket = Arc::new(socket);
        self.change(|state| state.peers[rank].socket = Some(socket.clone()));
        let comm = self.clone();
        std::thread::spawn(move || comm.read_on(rank, &socket));
    }

    fn read_on(&self, rank: usize, mut socket: &UnixStream) {
        loop {
            let mut head = [[0; 8]; HEAD / 8];
            let mut payload = Vec::new();
            let read = socket.read_exact(head.as_flattened_mut()).and_then(|()| {
                payload = vec![0; u64::from_le_bytes(head[1]) as usize];
                socket.read_exact(&mut payload)
            });
            if read.is_err() {
                return self.lost(rank);
            }
            let numbers = head.map(u64::from_le_bytes);
            let terms = std::array::from_fn(|i| numbers[2 + i]);
            let post = POSTS[numbers[0] as usize];
            self.deliver(rank, post, Frame { terms, payload: payload.into() });
        }
    }

    fn deliver(&self, from: usize, post: Post, frame: Frame) {
        self.change(|state| match post {
            Post::Bye => state.peers[from].is_leaving = true,
            _ => state.peers[from].inbox[post as usize].push_back(frame),
        });
    }

    /// A peer's socket has ended: its process did, unless it said good-bye.
    fn lost(&self, rank: usize) {
        self.change(|state| {
            let is_expected = state.peers[rank].is_leaving || state.is_leaving || state.is_aborted;
            if !is_expected && state.error == 0 {
                failed(&format!("nccl: rank {}: rank {rank} is gone", self.rank), REMOTE_ERROR);
                state.error = REMOTE_ERROR;
            }
        });
    }

    /// Sends a frame, to itself too. A peer that is gone is no error here: its reader says so.
    pub(crate) fn post(&self, to: usize, post: Post, frame: Frame) {
        if to == self.rank {
            return self.deliver(to, post, frame);
        }
        let (socket, writer) = {
            let state = self.lock();
            (state.peers[to].socket.clone(), state.peers[to].writer.clone())
        };
        let Some(socket) = socket else { return };
        let _whole = writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = [post as u64, frame.payload.len() as u64].map(u64::to_le_bytes).concat();
        bytes.extend(frame.terms.map(u64::to_le_bytes).as_flattened());
        bytes.extend(frame.payload.iter());
        let _ = (&*socket).write_all(&bytes);
    }

    /// The oldest frame of a kind from a rank.
    pub(crate) fn take(&self, from: usize, post: Post) -> Option<Frame> {
        self.lock().peers[from].inbox[post as usize].pop_front()
    }

    /// The oldest part of every other rank, when all have come.
    pub(crate) fn take_parts(&self) -> Option<Vec<(usize, Frame)>> {
        let mut state = self.lock();
        let others = (0..self.ranks).filter(|rank| *rank != self.rank);
        let inbox = Post::Part as usize;
        if others.clone().any(|rank| state.peers[rank].inbox[inbox].is_empty()) {
            return None;
        }
        Some(others.filter_map(|rank| Some((rank, state.peers[rank].inbox[inbox].pop_front()?))).collect())
    }

    /// Number of the next collective, from 0.
    pub(crate) fn next_collective(&self) -> u64 {
        self.change(|state| {
            state.collectives += 1;
            state.collectives - 1
        })
    }

    pub(crate) fn version(&self) -> u64 {
        self.lock().version
    }

    /// Waits for a change since `version`.
    pub(crate) fn wait_beyond(&self, version: u64) -> Result<(), Aborted> {
        self.wait_for(|state| state.version != version)
    }

    /// Waits for nothing but the end.
    pub(crate) fn wait_for_abort(&self) -> Result<(), Aborted> {
        self.wait_for(|_| false)
    }

    fn wait_for(&self, holds: impl Fn(&State) -> bool) -> Result<(), Aborted> {
        let mut state = self.lock();
        while !state.is_aborted && !holds(&state) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.is_aborted { Err(Aborted) } else { Ok(()) }
    }

    /// Runs an operation when all ranks are connected.
    pub(crate) fn while_running<R>(&self, work: impl FnOnce() -> Result<R, Aborted>) -> Result<R, Aborted> {
        self.wait_for(|state| state.is_connected)?;
        self.change(|state| state.running += 1);
        let result = work();
        self.change(|state| state.running -= 1);
        result
    }

    /// Ends all waiting, now and later; returns when no operation runs any more.
    pub(crate) fn abort(&self) {
        self.change(|state| {
            state.is_aborted = true;
            for socket in state.peers.iter().filter_map(|peer| peer.socket.as_ref()) {
                // It may have ended already.
                let _ = socket.shutdown(Shutdown::Both);
            }
        });
        let mut state = self.lock();
        while state.running > 0 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Says good-bye to all ranks.
    pub(crate) fn leave(&self) {
        if self.change(|state| std::mem::replace(&mut state.is_leaving, true)) {
            return;
        }
        for rank in (0..self.ranks).filter(|rank| *rank != self.rank) {
            self.post(rank, Post::Bye, Frame { terms: [0; TERMS], payload: [].into() });
            if let Some(socket) = &self.lock().peers[rank].socket {
                // It may have ended already.
                let _ = socket.shutdown(Shutdown::Write);
            }
        }
    }

    /// Keeps the first error; but a peer may be gone because it has seen the same wrong usage earlier.
    pub(crate) fn fail(&self, code: u32) {
        self.change(|state| {
            if state.error == 0 || code == INVALID_USAGE {
                state.error = code;
            }
        });
    }

    /// What ncclCommGetAsyncError says.
    pub(crate) fn status(&self) -> u32 {
        let state = self.lock();
        match state.error {
            0 if !state.is_connected || state.is_in_progress => IN_PROGRESS,
            error => error,
        }
    }

    /// From now on `status` says so, whatever happens.
    pub(crate) fn stay_in_progress(&self) {
        self.lock().is_in_progress = true;
    }

    pub(crate) fn note_stream(&self, stream: usize) {
        self.lock().streams.insert(stream);
    }

    pub(crate) fn streams(&self) -> Vec<usize> {
        self.lock().streams.iter().copied().collect()
    }
}
