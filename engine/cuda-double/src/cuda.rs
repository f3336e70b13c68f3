//! The driver's streams, events and graphs. Everything on a stream is queued.
#![expect(unsafe_code, reason = "a C interface")]

use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use crate::context::{Ptr, key};
use crate::status::{
    CAPTURE_ISOLATION, CAPTURE_UNSUPPORTED, INVALID_HANDLE, INVALID_VALUE, NOT_READY, NOT_SUPPORTED, put,
    trace,
};
use crate::stream::{self, CaptureMode, Op};

/// The result of a step as a code.
pub(crate) fn code(result: Result<u32, u32>) -> u32 {
    result.unwrap_or_else(|code| code)
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSynchronize() -> u32 {
    trace("wait");
    code(stream::refuse_beside_captures().map(|()| stream::run_all()))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreate(out: *mut Ptr, _flags: u32) -> u32 {
    put(out, Box::into_raw(Box::new(0u64)).cast())
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreateWithPriority(out: *mut Ptr, flags: u32, _priority: c_int) -> u32 {
    cuStreamCreate(out, flags)
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy_v2(stream: Ptr) -> u32 {
    stream::close(key(stream))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamSynchronize(stream: Ptr) -> u32 {
    trace("wait");
    let refused = stream::refuse_in_capture(key(stream)).and_then(|()| stream::refuse_beside_captures());
    code(refused.map(|()| stream::run(key(stream))))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamQuery(stream: Ptr) -> u32 {
    let refused = stream::refuse_in_capture(key(stream)).and_then(|()| stream::refuse_beside_captures());
    code(refused.map(|()| stream::query(key(stream), stream::end(key(stream)))))
}

/// Where a stream was when an event was last recorded.
#[derive(Clone, Default)]
enum Place {
    #[default]
    Never,
    /// A stream, how many ops it has then done, and when that was.
    Queued(usize, u64, Arc<OnceLock<Instant>>),
    /// In the capture of this stream.
    Captured(usize),
}

#[derive(Default)]
struct Event(Mutex<Place>);

fn place(event: Ptr) -> Result<Place, u32> {
    if event.is_null() {
        return Err(INVALID_HANDLE);
    }
    // SAFETY: a live event, by the C contract.
    let event = unsafe { &*event.cast::<Event>() };
    Ok(event.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

#[unsafe(no_mangle)]
extern "C" fn cuEventCreate(out: *mut Ptr, _flags: u32) -> u32 {
    put(out, Box::into_raw(Box::new(Event::default())).cast())
}

#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(event: Ptr) -> u32 {
    if event.is_null() {
        return INVALID_HANDLE;
    }
    // SAFETY: made by cuEventCreate, destroyed once, by the C contract.
    drop(unsafe { Box::from_raw(event.cast::<Event>()) });
    0
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(event: Ptr, stream: Ptr) -> u32 {
    let stream = key(stream);
    if event.is_null() {
        return INVALID_HANDLE;
    }
    let (found, error) = if stream::capture_status(stream) == 0 {
        let moment = Arc::new(OnceLock::new());
        let error = stream::push(stream, Op::Record(moment.clone()));
        (Place::Queued(stream, stream::end(stream), moment), error)
    } else {
        (Place::Captured(stream), 0)
    };
    // SAFETY: a live event, by the C contract.
    let event = unsafe { &*event.cast::<Event>() };
    *event.0.lock().unwrap_or_else(PoisonError::into_inner) = found;
    error
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(event: Ptr) -> u32 {
    code(stream::refuse_beside_captures().and_then(|()| match place(event)? {
        Place::Never => Ok(0),
        Place::Queued(stream, end, moment) => {
            if moment.get().is_none() {
                trace("wait");
            }
            Ok(stream::run_until(stream, end))
        }
        Place::Captured(_) => Err(CAPTURE_UNSUPPORTED),
    }))
}

/// One that is not there yet is noted: who asks is about to wait.
#[unsafe(no_mangle)]
extern "C" fn cuEventQuery(event: Ptr) -> u32 {
    let told = query(event);
    if told == NOT_READY {
        trace("wait");
    }
    told
}

fn query(event: Ptr) -> u32 {
    code(stream::refuse_beside_captures().and_then(|()| match place(event)? {
        Place::Never => Ok(0),
        Place::Queued(stream, end, _) => Ok(stream::query(stream, end)),
        Place::Captured(_) => Err(CAPTURE_UNSUPPORTED),
    }))
}

/// Milliseconds between the moments at which the streams came to the events.
#[unsafe(no_mangle)]
extern "C" fn cuEventElapsedTime(out: *mut f32, from: Ptr, to: Ptr) -> u32 {
    let moment = |event| match place(event)? {
        Place::Queued(_, _, moment) => moment.get().copied().ok_or(NOT_READY),
        _ => Err(INVALID_HANDLE),
    };
    let elapsed = moment(from).and_then(|from| {
        let to = moment(to)?;
        let backwards = from.saturating_duration_since(to).as_secs_f32();
        Ok((to.saturating_duration_since(from).as_secs_f32() - backwards) * 1e3)
    });
    elapsed.map_or_else(|code| code, |ms| put(out, ms))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventElapsedTime_v2(out: *mut f32, from: Ptr, to: Ptr) -> u32 {
    cuEventElapsedTime(out, from, to)
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamWaitEvent(stream: Ptr, event: Ptr, _flags: u32) -> u32 {
    let stream = key(stream);
    let is_captured = stream::capture_status(stream) != 0;
    code(place(event).and_then(|place| match place {
        Place::Captured(of) if of == stream => Ok(0),
        // A second stream in one capture.
        Place::Captured(_) => Err(NOT_SUPPORTED),
        Place::Never => Ok(0),
        Place::Queued(..) if is_captured => {
            stream::refuse_in_capture(stream).map_err(|_| CAPTURE_ISOLATION)?;
            Ok(0)
        }
        Place::Queued(other, end, _) => Ok(stream::push(stream, Op::Wait(other, end))),
    }))
}

#[unsafe(no_mangle)]
extern "C" fn cuLaunchHostFunc(
    stream: Ptr,
    call: Option<extern "C" fn(*mut c_void)>,
    data: *mut c_void,
) -> u32 {
    let Some(call) = call else { return INVALID_VALUE };
    let data = data as usize;
    let work = move || {
        call(data as *mut c_void);
        Ok(())
    };
    stream::push(key(stream), Op::Eager(Arc::new(work)))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamBeginCapture_v2(stream: Ptr, mode: u32) -> u32 {
    trace("record");
    if stream.is_null() {
        return CAPTURE_UNSUPPORTED;
    }
    let mode = match mode {
        0 => CaptureMode::Global,
        1 => CaptureMode::ThreadLocal,
        2 => CaptureMode::Relaxed,
        _ => return INVALID_VALUE,
    };
    stream::begin_capture(key(stream), mode)
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamIsCapturing(stream: Ptr, out: *mut u32) -> u32 {
    put(out, stream::capture_status(key(stream)))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamGetCaptureInfo(stream: Ptr, out: *mut u32, id: *mut u64) -> u32 {
    if !id.is_null() {
        put(id, key(stream) as u64);
    }
    cuStreamIsCapturing(stream, out)
}

/// A recorded list of ops. An executable graph is a copy of it.
type Graph = Vec<Op>;

#[unsafe(no_mangle)]
extern "C" fn cuStreamEndCapture(stream: Ptr, out: *mut Ptr) -> u32 {
    match stream::end_capture(key(stream)) {
        Ok(ops) => put(out, Box::into_raw(Box::<Graph>::new(ops)).cast()),
        Err(error) => {
            put(out, std::ptr::null_mut());
            error
        }
    }
}

fn graph<'a>(handle: Ptr) -> Option<&'a Graph> {
    // SAFETY: null or a live graph of ours, by the C contract.
    unsafe { handle.cast::<Graph>().as_ref() }
}

/// No flags but those that change nothing here: freeing at launch, upload, and priorities.
#[unsafe(no_mangle)]
extern "C" fn cuGraphInstantiateWithFlags(out: *mut Ptr, handle: Ptr, flags: u64) -> u32 {
    match graph(handle) {
        Some(graph) if flags & !0b1011 == 0 => put(out, Box::into_raw(Box::new(graph.clone())).cast()),
        _ => INVALID_VALUE,
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphUpload(handle: Ptr, _stream: Ptr) -> u32 {
    if graph(handle).is_some() { 0 } else { INVALID_VALUE }
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphLaunch(handle: Ptr, stream: Ptr) -> u32 {
    let Some(graph) = graph(handle) else { return INVALID_VALUE };
    let stream = key(stream);
    graph.iter().fold(0, |error, op| error.max(stream::push(stream, op.clone())))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphDestroy(handle: Ptr) -> u32 {
    if handle.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: a graph of ours, destroyed once, by the C contract. What is queued of it has its own copies.
    drop(unsafe { Box::from_raw(handle.cast::<Graph>()) });
    0
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecDestroy(handle: Ptr) -> u32 {
    cuGraphDestroy(handle)
}
