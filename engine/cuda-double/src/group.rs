//! Groups of NCCL's calls: what a thread calls between a start and an end becomes one op a stream. Knows no type.

use std::cell::RefCell;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::collective::{self, Call};
use crate::peers::{Comm, IN_PROGRESS, INVALID_USAGE, SYSTEM_ERROR};
use crate::status::{failed, is_stuck, trace};
use crate::stream::{self, Op};

pub(crate) const CUDA_ERROR: u32 = 1;

#[derive(Default)]
struct Group {
    depth: usize,
    calls: Vec<(Arc<Comm>, usize, Call)>,
    starting: Vec<JoinHandle<u32>>,
    is_in_progress: bool,
    error: u32,
}

std::thread_local! {
    static GROUP: RefCell<Group> = RefCell::new(Group::default());
}

/// Begins a group, or one within it.
pub(crate) fn begin() {
    GROUP.with_borrow_mut(|group| group.depth += 1);
}

/// Whether this thread is in a group.
pub(crate) fn is_open() -> bool {
    GROUP.with_borrow(|group| group.depth > 0)
}

/// Keeps the largest error of what could not be called.
pub(crate) fn note_error(error: u32) {
    GROUP.with_borrow_mut(|group| group.error = group.error.max(error));
}

/// A communicator starts without anybody's waiting; the group's end says so.
pub(crate) fn note_in_progress() {
    GROUP.with_borrow_mut(|group| group.is_in_progress |= group.depth > 0);
}

/// The group's end waits for this communicator.
pub(crate) fn await_start(starting: JoinHandle<u32>) {
    GROUP.with_borrow_mut(|group| group.starting.push(starting));
}

/// Ends a group; the outermost one queues its calls.
pub(crate) fn end() -> u32 {
    let group = GROUP.with_borrow_mut(|group| match group.depth {
        0 => Err(INVALID_USAGE),
        1 => Ok(Some(std::mem::take(group))),
        _ => {
            group.depth -= 1;
            Ok(None)
        }
    });
    match group {
        Err(error) => failed("nccl: the end of a group that did not start", error),
        Ok(None) => 0,
        Ok(Some(group)) => group.finish(),
    }
}

impl Group {
    /// Waits for the communicators that start, then queues the calls: those of one stream and communicator as one op.
    fn finish(self) -> u32 {
        let starts = self.starting.into_iter().map(|one| one.join().unwrap_or(SYSTEM_ERROR));
        let mut error = starts.fold(self.error, u32::max);
        if self.is_in_progress && error == 0 {
            error = IN_PROGRESS;
        }
        let mut left = self.calls;
        while let Some((comm, stream, _)) = left.first().cloned() {
            let is_same = |call: &(Arc<Comm>, usize, Call)| Arc::ptr_eq(&call.0, &comm) && call.1 == stream;
            let (together, others): (Vec<_>, Vec<_>) = left.into_iter().partition(is_same);
            error = error.max(queue(&comm, stream, together.into_iter().map(|(_, _, call)| call).collect()));
            left = others;
        }
        error
    }
}

fn queue(comm: &Arc<Comm>, stream: usize, calls: Vec<Call>) -> u32 {
    comm.note_stream(stream);
    let comm = comm.clone();
    match stream::push(stream, Op::Eager(Arc::new(move || collective::run(&comm, &calls)))) {
        0 => 0,
        _ => CUDA_ERROR,
    }
}

/// Queues a call now, or at the end of the group.
pub(crate) fn call(comm: Arc<Comm>, stream: usize, call: Call) -> u32 {
    trace(match call {
        Call::Send(_) => "send",
        Call::Receive(_) => "recv",
        Call::Collective(_) => "collective",
    });
    if is_stuck("queue", comm.device) {
        comm.stay_in_progress();
    }
    let is_grouped = GROUP.with_borrow_mut(|group| {
        if group.depth > 0 {
            group.calls.push((comm.clone(), stream, call));
        }
        group.depth > 0
    });
    if is_grouped { 0 } else { queue(&comm, stream, vec![call]) }
}
