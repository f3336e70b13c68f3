//! Streams: queues that run when somebody waits for them, so that a missing wait shows as stale data. Knows no kernel.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Work of a stream; its error is CUDA's code.
pub(crate) enum Op {
    Work(Box<dyn FnOnce() -> Result<(), u32> + Send>),
    /// Until this stream has done so many ops.
    Wait(usize, u64),
}

#[derive(Default)]
struct Stream {
    queue: VecDeque<Op>,
    done: u64,
}

/// All streams, and the first error, which stays.
#[derive(Default)]
pub(crate) struct Streams {
    streams: BTreeMap<usize, Stream>,
    pub(crate) error: u32,
}

static STREAMS: Mutex<Streams> = Mutex::new(Streams { streams: BTreeMap::new(), error: 0 });

/// The streams, locked: a program may drive them from several threads.
pub(crate) fn streams() -> MutexGuard<'static, Streams> {
    STREAMS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Streams {
    pub(crate) fn push(&mut self, stream: usize, op: Op) -> u32 {
        self.streams.entry(stream).or_default().queue.push_back(op);
        self.error
    }

    /// Ops done when everything queued now is done.
    pub(crate) fn end(&mut self, stream: usize) -> u64 {
        let stream = self.streams.entry(stream).or_default();
        stream.done + stream.queue.len() as u64
    }

    pub(crate) fn run_until(&mut self, stream: usize, end: u64) -> u32 {
        while self.streams.entry(stream).or_default().done < end {
            let Some(op) = self.streams.entry(stream).or_default().queue.pop_front() else { break };
            match op {
                Op::Work(work) if self.error == 0 => self.error = work().err().unwrap_or(0),
                Op::Work(_) => {}
                Op::Wait(other, until) => {
                    self.run_until(other, until);
                }
            }
            self.streams.entry(stream).or_default().done += 1;
        }
        self.error
    }

    pub(crate) fn run(&mut self, stream: usize) -> u32 {
        let end = self.end(stream);
        self.run_until(stream, end)
    }

    pub(crate) fn run_all(&mut self) -> u32 {
        let all: Vec<_> = self.streams.keys().copied().collect();
        all.into_iter().fold(0, |_, stream| self.run(stream));
        self.error
    }
}
