//! NCCL's operations: each completes when every rank that it needs has come. Knows no stream.
#![expect(unsafe_code, reason = "reads and writes raw device memory")]

use crate::copies::check;
use crate::memory::opened;
use crate::peers::{Aborted, Comm, Frame, INVALID_USAGE, Post, Terms};
use crate::reduce::{Kind, Reduction, reduce, spoil};
use crate::status::{LAUNCH_FAILED, failed, is_stuck, is_wrong};

/// What all ranks do together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    AllReduce,
    AllGather,
    ReduceScatter,
    Broadcast,
}

const WHICH: [Which; 4] = [Which::AllReduce, Which::AllGather, Which::ReduceScatter, Which::Broadcast];

/// A collective as one rank calls it. `count` is what NCCL counts: of all_gather what a rank sends, of
/// reduce_scatter what a rank receives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Collective {
    pub(crate) which: Which,
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) count: usize,
    pub(crate) kind: Kind,
    pub(crate) how: Reduction,
    pub(crate) root: usize,
}

/// A send or a receive as one rank calls it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message {
    pub(crate) at: usize,
    pub(crate) count: usize,
    pub(crate) kind: Kind,
    pub(crate) peer: usize,
}

/// A call of a group.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Call {
    Send(Message),
    Receive(Message),
    Collective(Collective),
}

/// A call that this rank has come to.
enum Pending {
    Send(Message),
    /// Whether the sender has come.
    Receive(Message, bool),
    /// With this rank's terms and part.
    Collective(Collective, Frame),
}

/// Why an operation ended without a result.
enum Failure {
    Aborted,
    Code(u32),
}

impl From<Aborted> for Failure {
    fn from(_: Aborted) -> Self {
        Self::Aborted
    }
}

impl From<u32> for Failure {
    fn from(code: u32) -> Self {
        Self::Code(code)
    }
}

/// Runs the calls of a group together; none completes before its peers have come.
pub(crate) fn run(comm: &Comm, calls: &[Call]) -> Result<(), u32> {
    let done = comm.while_running(|| {
        if is_stuck("nccl", comm.device) {
            comm.wait_for_abort()?;
        }
        match settle(comm, calls) {
            Err(Failure::Aborted) => Err(Aborted),
            Err(Failure::Code(code)) => Ok(Err(code)),
            Ok(()) => Ok(Ok(())),
        }
    });
    done.unwrap_or_else(|Aborted| {
        Err(failed(&format!("nccl: rank {}: an operation was aborted", comm.rank), LAUNCH_FAILED))
    })
}

fn settle(comm: &Comm, calls: &[Call]) -> Result<(), Failure> {
    let mut pending = Vec::new();
    for call in calls {
        pending.push(come(comm, *call)?);
    }
    loop {
        let version = comm.version();
        let mut left = Vec::new();
        for call in pending {
            left.extend(advance(comm, call)?);
        }
        if left.is_empty() {
            return Ok(());
        }
        pending = left;
        comm.wait_beyond(version)?;
    }
}

/// Tells the peers that this rank has come to a call.
fn come(comm: &Comm, call: Call) -> Result<Pending, Failure> {
    Ok(match call {
        Call::Send(message) => {
            comm.post(message.peer, Post::Offer, message.frame());
            Pending::Send(message)
        }
        Call::Receive(message) => {
            comm.post(message.peer, Post::Accept, message.frame());
            Pending::Receive(message, false)
        }
        Call::Collective(call) => {
            let is_sender = call.which != Which::Broadcast || call.root == comm.rank;
            let bytes = if is_sender { call.sent(comm.ranks) } else { 0 };
            let payload = read(&format!("{:?}, what is sent", call.which), call.from, bytes)?.into();
            let frame = Frame { terms: call.terms(comm.next_collective()), payload };
            for rank in (0..comm.ranks).filter(|rank| *rank != comm.rank) {
                comm.post(rank, Post::Part, frame.clone());
            }
            Pending::Collective(call, frame)
        }
    })
}

/// Goes on as far as the peers have come; none when the call is complete.
fn advance(comm: &Comm, call: Pending) -> Result<Option<Pending>, Failure> {
    Ok(match call {
        Pending::Send(message) => match comm.take(message.peer, Post::Accept) {
            None => Some(Pending::Send(message)),
            Some(other) => {
                message.agree(comm, &other, "sends", "receives")?;
                let payload = read("send", message.at, message.bytes())?.into();
                comm.post(message.peer, Post::Data, Frame { payload, ..message.frame() });
                None
            }
        },
        Pending::Receive(message, false) => match comm.take(message.peer, Post::Offer) {
            None => Some(Pending::Receive(message, false)),
            Some(other) => {
                message.agree(comm, &other, "receives", "sends")?;
                return advance(comm, Pending::Receive(message, true));
            }
        },
        Pending::Receive(message, true) => match comm.take(message.peer, Post::Data) {
            None => Some(Pending::Receive(message, true)),
            Some(data) => {
                write("receive", message.kind, message.at, &mut data.payload.to_vec())?;
                None
            }
        },
        Pending::Collective(call, own) => match comm.take_parts() {
            None => Some(Pending::Collective(call, own)),
            Some(parts) => {
                call.finish(comm, own, parts)?;
                None
            }
        },
    })
}

fn read(what: &str, at: usize, bytes: usize) -> Result<Vec<u8>, u32> {
    if bytes == 0 {
        return Ok(Vec::new());
    }
    check(&format!("nccl: {what}"), &[at], bytes)?;
    // SAFETY: a live allocation of the device, checked above and open.
    Ok(opened(|| unsafe { std::slice::from_raw_parts(at as *const u8, bytes) }.to_vec()))
}

fn write(what: &str, kind: Kind, at: usize, values: &mut [u8]) -> Result<(), u32> {
    if is_wrong("nccl") {
        spoil(kind, values);
    }
    check(&format!("nccl: {what}"), &[at], values.len())?;
    // SAFETY: a live allocation of the device, checked above and open.
    opened(|| unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), at as *mut u8, values.len()) });
    Ok(())
}

/// Ranks that call different things: NCCL would hang or mix up values.
fn mismatch(comm: &Comm, why: &str) -> Failure {
    comm.fail(INVALID_USAGE);
    Failure::Code(failed(&format!("nccl: {why}"), LAUNCH_FAILED))
}

impl Message {
    fn bytes(&self) -> usize {
        self.count * self.kind.bytes()
    }

    fn frame(&self) -> Frame {
        Frame { terms: [0, self.count as u64, self.kind as u64, 0, 0, 0], payload: [].into() }
    }

    fn agree(&self, comm: &Comm, other: &Frame, verb: &str, others: &str) -> Result<(), Failure> {
        if self.frame().terms == other.terms {
            return Ok(());
        }
        let theirs = named_kind(other.terms[2]);
        let why = format!(
            "rank {} {verb} {} x {:?}, rank {} {others} {} x {theirs}",
            comm.rank, self.count, self.kind, self.peer, other.terms[1]
        );
        Err(mismatch(comm, &why))
    }
}

fn named_kind(number: u64) -> String {
    Kind::from_number(number as u32).map_or_else(|| number.to_string(), |kind| format!("{kind:?}"))
}

fn named(terms: &Terms) -> String {
    let [which, count, kind, how, root, number] = *terms;
    let how = Reduction::from_number(how as u32).map_or_else(String::new, |how| format!("{how:?}"));
    let (which, kind) = (WHICH[which as usize], named_kind(kind));
    format!("as number {number} {which:?} of {count} x {kind}, {how}, root {root}")
}

impl Collective {
    fn terms(&self, number: u64) -> Terms {
        let (which, kind, how) = (self.which as u64, self.kind as u64, self.how as u64);
        [which, self.count as u64, kind, how, self.root as u64, number]
    }

    /// Bytes of what a rank sends.
    fn sent(&self, ranks: usize) -> usize {
        let parts = if self.which == Which::ReduceScatter { ranks } else { 1 };
        self.count * parts * self.kind.bytes()
    }

    fn finish(&self, comm: &Comm, own: Frame, mut parts: Vec<(usize, Frame)>) -> Result<(), Failure> {
        if let Some((rank, other)) = parts.iter().find(|(_, frame)| frame.terms != own.terms) {
            let (ours, theirs) = (named(&own.terms), named(&other.terms));
            let why = format!("rank {} calls {ours}, rank {rank} calls {theirs}", comm.rank);
            return Err(mismatch(comm, &why));
        }
        parts.push((comm.rank, own));
        parts.sort_unstable_by_key(|(rank, _)| *rank);
        let mut values = match self.which {
            Which::AllGather => parts.iter().flat_map(|(_, part)| part.payload.to_vec()).collect(),
            Which::Broadcast => parts[self.root].1.payload.to_vec(),
            Which::AllReduce => self.reduced(&parts),
            Which::ReduceScatter => {
                let bytes = self.count * self.kind.bytes();
                self.reduced(&parts)[comm.rank * bytes..][..bytes].to_vec()
            }
        };
        Ok(write(&format!("{:?}, what is received", self.which), self.kind, self.to, &mut values)?)
    }

    fn reduced(&self, parts: &[(usize, Frame)]) -> Vec<u8> {
        let mut values = parts[0].1.payload.to_vec();
        parts[1..].iter().for_each(|(_, part)| reduce(self.kind, self.how, &mut values, &part.payload));
        values
    }
}
