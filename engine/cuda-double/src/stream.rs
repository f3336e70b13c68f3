//! Streams: queues that run when somebody waits for them, so that a missing wait shows as stale data. Work that
//! other processes wait for runs on a thread of its stream. While an op runs, no lock is held. Knows no kernel.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::ThreadId;
use std::time::Instant;

use crate::memory::together;
use crate::status::{
    CAPTURE_INVALIDATED, CAPTURE_UNMATCHED, CAPTURE_UNSUPPORTED, INVALID_VALUE, LAUNCH_FAILED, NOT_READY,
};

/// What an op does, as often as it is run; its error is CUDA's code.
pub(crate) type Work = Arc<dyn Fn() -> Result<(), u32> + Send + Sync>;

/// An entry of a stream's queue.
#[derive(Clone)]
pub(crate) enum Op {
    Work(Work),
    /// Work that peers or the host wait for without waiting for the stream.
    Eager(Work),
    /// Notes when the stream came here.
    Record(Arc<OnceLock<Instant>>),
    /// Until this stream has done so many ops.
    Wait(usize, u64),
}

impl Op {
    pub(crate) fn work(work: impl Fn() -> Result<(), u32> + Send + Sync + 'static) -> Self {
        Self::Work(Arc::new(work))
    }
}

/// Ops that are recorded, not queued.
struct Capture {
    ops: Vec<Op>,
    mode: CaptureMode,
    thread: ThreadId,
    is_broken: bool,
}

/// Whose calls a capture forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CaptureMode {
    Global,
    ThreadLocal,
    Relaxed,
}

#[derive(Default)]
struct Stream {
    queue: VecDeque<Op>,
    done: u64,
    /// Some thread runs the op before `queue`.
    is_running: bool,
    /// The stream's own thread runs as far as this.
    wanted: u64,
    is_driven: bool,
    is_closed: bool,
    capture: Option<Capture>,
}

impl Stream {
    fn end(&self) -> u64 {
        self.done + self.queue.len() as u64 + u64::from(self.is_running)
    }
}

/// All streams, and the first error, which stays.
#[derive(Default)]
struct Streams {
    streams: BTreeMap<usize, Stream>,
    error: u32,
}

static STREAMS: Mutex<Streams> = Mutex::new(Streams { streams: BTreeMap::new(), error: 0 });
static CHANGED: Condvar = Condvar::new();

fn lock() -> MutexGuard<'static, Streams> {
    STREAMS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn changed(guard: MutexGuard<'static, Streams>) -> MutexGuard<'static, Streams> {
    CHANGED.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// Queues an op, or records it if the stream is being captured.
pub(crate) fn push(stream: usize, op: Op) -> u32 {
    let mut all = lock();
    let is_eager = matches!(op, Op::Eager(_));
    let entry = all.streams.entry(stream).or_default();
    match &mut entry.capture {
        Some(capture) if capture.is_broken => return CAPTURE_INVALIDATED,
        Some(capture) => {
            capture.ops.push(op);
            return 0;
        }
        None => entry.queue.push_back(op),
    }
    if is_eager {
        let end = entry.end();
        drive(entry, stream, end);
    }
    all.error
}

/// Has the stream's own thread run as far as `end`.
fn drive(entry: &mut Stream, stream: usize, end: u64) {
    entry.wanted = entry.wanted.max(end);
    if !std::mem::replace(&mut entry.is_driven, true) {
        std::thread::spawn(move || drive_on(stream));
    }
    CHANGED.notify_all();
}

fn drive_on(stream: usize) {
    loop {
        let mut all = lock();
        let end = loop {
            let Some(entry) = all.streams.get(&stream) else { return };
            if entry.wanted > entry.done {
                break entry.wanted;
            }
            if entry.is_closed {
                all.streams.remove(&stream);
                return;
            }
            all = changed(all);
        };
        drop(all);
        run_until(stream, end);
    }
}

/// Ops done when everything queued now is done.
pub(crate) fn end(stream: usize) -> u64 {
    lock().streams.entry(stream).or_default().end()
}

/// Runs the stream in this thread, or waits for the thread that does.
pub(crate) fn run_until(stream: usize, end: u64) -> u32 {
    together(|| run_ops(stream, end))
}

fn run_ops(stream: usize, end: u64) -> u32 {
    let mut all = lock();
    loop {
        let error = all.error;
        let Some(entry) = all.streams.get_mut(&stream) else { return error };
        if entry.done >= end {
            return error;
        }
        if entry.is_running {
            all = changed(all);
            continue;
        }
        let Some(op) = entry.queue.pop_front() else { return error };
        entry.is_running = true;
        drop(all);
        // A panic must not leave others waiting for this op.
        let run = std::panic::AssertUnwindSafe(|| execute(op, error));
        let result = std::panic::catch_unwind(run).unwrap_or(Err(LAUNCH_FAILED));
        all = lock();
        if all.error == 0 {
            all.error = result.err().unwrap_or(0);
        }
        if let Some(entry) = all.streams.get_mut(&stream) {
            entry.done += 1;
            entry.is_running = false;
        }
        CHANGED.notify_all();
    }
}

#[expect(clippy::disallowed_methods, reason = "an event notes the real time")]
fn execute(op: Op, error: u32) -> Result<(), u32> {
    match op {
        Op::Work(work) | Op::Eager(work) if error == 0 => work(),
        Op::Work(_) | Op::Eager(_) => Ok(()),
        Op::Record(moment) => {
            moment.get_or_init(Instant::now);
            Ok(())
        }
        Op::Wait(other, until) => {
            run_until(other, until);
            Ok(())
        }
    }
}

/// Runs all that is queued on the stream.
pub(crate) fn run(stream: usize) -> u32 {
    run_until(stream, end(stream))
}

/// Runs everything.
pub(crate) fn run_all() -> u32 {
    let all: Vec<_> = lock().streams.keys().copied().collect();
    all.into_iter().for_each(|stream| {
        run(stream);
    });
    lock().error
}

/// Whether the stream has come so far; if not, its own thread now runs it: on a GPU it would run by itself.
pub(crate) fn query(stream: usize, end: u64) -> u32 {
    let mut all = lock();
    let error = all.error;
    match all.streams.get_mut(&stream) {
        Some(entry) if entry.done < end => drive(entry, stream, end),
        _ => return error,
    }
    if error == 0 { NOT_READY } else { error }
}

/// The stream ends after what is queued. Nobody waits for a stream that has a thread.
pub(crate) fn close(stream: usize) -> u32 {
    let mut all = lock();
    let error = all.error;
    let Some(entry) = all.streams.get_mut(&stream) else { return error };
    if entry.is_driven {
        entry.is_closed = true;
        let end = entry.end();
        drive(entry, stream, end);
        return error;
    }
    drop(all);
    let error = run(stream);
    lock().streams.remove(&stream);
    error
}

/// From now on the stream's ops are recorded.
pub(crate) fn begin_capture(stream: usize, mode: CaptureMode) -> u32 {
    let mut all = lock();
    let entry = all.streams.entry(stream).or_default();
    if entry.capture.is_some() {
        return INVALID_VALUE;
    }
    let thread = std::thread::current().id();
    entry.capture = Some(Capture { ops: Vec::new(), mode, thread, is_broken: false });
    0
}

/// What was recorded since `begin_capture`.
pub(crate) fn end_capture(stream: usize) -> Result<Vec<Op>, u32> {
    let capture = lock().streams.get_mut(&stream).and_then(|entry| entry.capture.take());
    match capture {
        None => Err(CAPTURE_UNMATCHED),
        Some(capture) if capture.is_broken => Err(CAPTURE_INVALIDATED),
        Some(capture) => Ok(capture.ops),
    }
}

/// As CUDA numbers it: 0 is not capturing, 1 active, 2 invalidated.
pub(crate) fn capture_status(stream: usize) -> u32 {
    let all = lock();
    match all.streams.get(&stream).and_then(|entry| entry.capture.as_ref()) {
        None => 0,
        Some(capture) => 1 + u32::from(capture.is_broken),
    }
}

/// A call that no capture of this stream may see: breaks the capture, and says so.
pub(crate) fn refuse_in_capture(stream: usize) -> Result<(), u32> {
    let mut all = lock();
    let capture = all.streams.get_mut(&stream).and_then(|entry| entry.capture.as_mut());
    capture.map_or(Ok(()), |capture| {
        capture.is_broken = true;
        Err(CAPTURE_UNSUPPORTED)
    })
}

/// A call that waits or allocates: forbidden beside a global capture, and in the thread of a local one.
pub(crate) fn refuse_beside_captures() -> Result<(), u32> {
    let thread = std::thread::current().id();
    let mut all = lock();
    let mut result = Ok(());
    for capture in all.streams.values_mut().filter_map(|entry| entry.capture.as_mut()) {
        let forbids = match capture.mode {
            CaptureMode::Global => true,
            CaptureMode::ThreadLocal => capture.thread == thread,
            CaptureMode::Relaxed => false,
        };
        if forbids {
            capture.is_broken = true;
            result = Err(CAPTURE_UNSUPPORTED);
        }
    }
    result
}
