//! NCCL's C interface: communicators and their calls. Knows no socket.
#![expect(unsafe_code, reason = "a C interface")]

use std::collections::BTreeMap;
use std::ffi::{c_char, c_int, c_void};
use std::io::Read as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::collective::{Call, Collective, Message, Which};
use crate::context::{Ptr, device, key, select};
use crate::group::{self, CUDA_ERROR};
use crate::peers::{Comm, IN_PROGRESS, INVALID_ARGUMENT, INVALID_USAGE, REMOTE_ERROR, SYSTEM_ERROR};
use crate::reduce::{Kind, Reduction};
use crate::status::{failed, put, trace};
use crate::stream;

const VERSION: c_int = 22_604;
const CONFIG_MAGIC: u32 = 0xcafe_beef;
const ID_BYTES: usize = 16;

/// NCCL's unique id: ours begins with random bytes, and ends in zeros.
#[repr(C)]
#[derive(Clone, Copy)]
struct UniqueId([u8; 128]);

/// The first fields of NCCL's configuration; later ones change nothing here.
#[repr(C)]
struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
}

/// Live communicators by handle; handles are never used again.
static COMMS: Mutex<BTreeMap<usize, Arc<Comm>>> = Mutex::new(BTreeMap::new());
static HANDLES: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(1);

fn comms() -> MutexGuard<'static, BTreeMap<usize, Arc<Comm>>> {
    COMMS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn comm(handle: Ptr) -> Result<Arc<Comm>, u32> {
    let found = comms().get(&(handle as usize)).cloned();
    found.ok_or_else(|| invalid("the communicator does not exist, or was destroyed"))
}

fn invalid(why: &str) -> u32 {
    failed(&format!("nccl: {why}"), INVALID_ARGUMENT)
}

fn code(result: Result<u32, u32>) -> u32 {
    result.unwrap_or_else(|code| code)
}

fn given<V>(out: *mut V, value: V) -> u32 {
    if put(out, value) == 0 { 0 } else { INVALID_ARGUMENT }
}

#[unsafe(no_mangle)]
extern "C" fn ncclGetVersion(out: *mut c_int) -> u32 {
    given(out, VERSION)
}

#[unsafe(no_mangle)]
extern "C" fn ncclGetErrorString(code: u32) -> *const c_char {
    let text = match code {
        0 => c"no error",
        CUDA_ERROR => c"unhandled cuda error",
        SYSTEM_ERROR => c"unhandled system error",
        INVALID_ARGUMENT => c"invalid argument",
        INVALID_USAGE => c"invalid usage",
        REMOTE_ERROR => c"remote process exited or there was a network error",
        IN_PROGRESS => c"in progress",
        _ => c"an error of the CUDA double",
    };
    text.as_ptr()
}

/// Reasons are on stderr, not kept.
#[unsafe(no_mangle)]
extern "C" fn ncclGetLastError(_comm: Ptr) -> *const c_char {
    c"the CUDA double wrote the reason to stderr".as_ptr()
}

fn fresh_id() -> std::io::Result<UniqueId> {
    let mut id = [0; 128];
    fs_err::File::open("/dev/urandom")?.read_exact(&mut id[..ID_BYTES])?;
    Ok(UniqueId(id))
}

#[unsafe(no_mangle)]
extern "C" fn ncclGetUniqueId(out: *mut UniqueId) -> u32 {
    fresh_id().map_or(SYSTEM_ERROR, |id| given(out, id))
}

fn is_blocking(config: *const Config) -> Result<bool, u32> {
    // SAFETY: null or a configuration, by the C contract.
    match unsafe { config.as_ref() } {
        None => Ok(true),
        Some(config) if config.magic == CONFIG_MAGIC && config.size >= size_of::<Config>() => {
            Ok(config.blocking != 0)
        }
        Some(_) => Err(invalid("the configuration was not initialised")),
    }
}

fn start(out: *mut Ptr, ranks: c_int, id: UniqueId, rank: c_int, config: *const Config) -> Result<u32, u32> {
    let is_blocking = is_blocking(config)?;
    if out.is_null() || ranks < 1 || !(0..ranks).contains(&rank) {
        return Err(invalid(&format!("rank {rank} of {ranks}")));
    }
    let name: String = id.0[..ID_BYTES].iter().map(|byte| format!("{byte:02x}")).collect();
    let made = Arc::new(Comm::new(name, rank as usize, ranks as usize, device()));
    let handle = HANDLES.fetch_add(1, std::sync::atomic::Ordering::Relaxed) * 16;
    comms().insert(handle, made.clone());
    put(out, handle as Ptr);
    let starting = std::thread::spawn(move || made.connect());
    match (is_blocking, group::is_open()) {
        (false, _) => {
            group::note_in_progress();
            Ok(IN_PROGRESS)
        }
        (true, true) => {
            group::await_start(starting);
            Ok(0)
        }
        (true, false) => starting.join().map_err(|_| SYSTEM_ERROR),
    }
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommInitRank(out: *mut Ptr, ranks: c_int, id: UniqueId, rank: c_int) -> u32 {
    code(start(out, ranks, id, rank, std::ptr::null()))
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommInitRankConfig(
    out: *mut Ptr,
    ranks: c_int,
    id: UniqueId,
    rank: c_int,
    config: *const Config,
) -> u32 {
    code(start(out, ranks, id, rank, config))
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommInitAll(out: *mut Ptr, ranks: c_int, devices: *const c_int) -> u32 {
    let Ok(id) = fresh_id() else { return SYSTEM_ERROR };
    let before = device();
    ncclGroupStart();
    for rank in 0..ranks {
        // SAFETY: null, or `ranks` numbers and as many places, by the C contract.
        let (device, out) = unsafe {
            (if devices.is_null() { rank } else { *devices.add(rank as usize) }, out.add(rank as usize))
        };
        select(device as usize);
        let error = ncclCommInitRank(out, ranks, id, rank);
        if error != 0 {
            group::note_error(error);
        }
    }
    select(before);
    ncclGroupEnd()
}

/// Runs what the communicator's streams still have.
fn flush(comm: &Comm) {
    for stream in comm.streams() {
        stream::run(stream);
    }
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommFinalize(handle: Ptr) -> u32 {
    code(comm(handle).map(|comm| {
        flush(&comm);
        comm.leave();
        0
    }))
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommDestroy(handle: Ptr) -> u32 {
    code(comm(handle).map(|comm| {
        flush(&comm);
        comm.leave();
        comms().remove(&(handle as usize));
        0
    }))
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommAbort(handle: Ptr) -> u32 {
    trace("abort");
    code(comm(handle).map(|comm| {
        comm.abort();
        comms().remove(&(handle as usize));
        0
    }))
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommGetAsyncError(handle: Ptr, out: *mut u32) -> u32 {
    code(comm(handle).map(|comm| given(out, comm.status())))
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommCount(handle: Ptr, out: *mut c_int) -> u32 {
    code(comm(handle).map(|comm| given(out, comm.ranks as c_int)))
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommUserRank(handle: Ptr, out: *mut c_int) -> u32 {
    code(comm(handle).map(|comm| given(out, comm.rank as c_int)))
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommCuDevice(handle: Ptr, out: *mut c_int) -> u32 {
    code(comm(handle).map(|comm| given(out, comm.device as c_int)))
}

#[unsafe(no_mangle)]
extern "C" fn ncclGroupStart() -> u32 {
    group::begin();
    0
}

#[unsafe(no_mangle)]
extern "C" fn ncclGroupEnd() -> u32 {
    group::end()
}

fn kind(number: u32) -> Result<Kind, u32> {
    Kind::from_number(number).ok_or_else(|| invalid(&format!("type {number} is not there")))
}

fn collective(comm: Arc<Comm>, stream: Ptr, given: Collective) -> Result<u32, u32> {
    let is_sender = given.which != Which::Broadcast || given.root == comm.rank;
    if given.count > 0 && (given.to == 0 || is_sender && given.from == 0) {
        return Err(invalid(&format!("{:?} with a null buffer", given.which)));
    }
    if given.root >= comm.ranks {
        return Err(invalid(&format!("root {} of {} ranks", given.root, comm.ranks)));
    }
    Ok(group::call(comm, key(stream), Call::Collective(given)))
}

fn reduction(number: u32) -> Result<Reduction, u32> {
    Reduction::from_number(number).ok_or_else(|| invalid(&format!("reduction {number} is not there")))
}

#[unsafe(no_mangle)]
extern "C" fn ncclAllReduce(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    kind_number: u32,
    how: u32,
    handle: Ptr,
    stream: Ptr,
) -> u32 {
    code(comm(handle).and_then(|comm| {
        let (kind, how) = (kind(kind_number)?, reduction(how)?);
        let (from, to, which) = (from as usize, to as usize, Which::AllReduce);
        collective(comm, stream, Collective { which, from, to, count, kind, how, root: 0 })
    }))
}

#[unsafe(no_mangle)]
extern "C" fn ncclReduceScatter(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    kind_number: u32,
    how: u32,
    handle: Ptr,
    stream: Ptr,
) -> u32 {
    code(comm(handle).and_then(|comm| {
        let (kind, how) = (kind(kind_number)?, reduction(how)?);
        let (from, to, which) = (from as usize, to as usize, Which::ReduceScatter);
        collective(comm, stream, Collective { which, from, to, count, kind, how, root: 0 })
    }))
}

#[unsafe(no_mangle)]
extern "C" fn ncclAllGather(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    kind_number: u32,
    handle: Ptr,
    stream: Ptr,
) -> u32 {
    code(comm(handle).and_then(|comm| {
        let (from, to, which) = (from as usize, to as usize, Which::AllGather);
        let (kind, how) = (kind(kind_number)?, Reduction::Sum);
        collective(comm, stream, Collective { which, from, to, count, kind, how, root: 0 })
    }))
}

#[unsafe(no_mangle)]
extern "C" fn ncclBroadcast(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    kind_number: u32,
    root: c_int,
    handle: Ptr,
    stream: Ptr,
) -> u32 {
    code(comm(handle).and_then(|comm| {
        let (from, to, which) = (from as usize, to as usize, Which::Broadcast);
        let (kind, how, root) = (kind(kind_number)?, Reduction::Sum, root as usize);
        collective(comm, stream, Collective { which, from, to, count, kind, how, root })
    }))
}

fn message(at: usize, count: usize, kind_number: u32, peer: c_int, comm: &Comm) -> Result<Message, u32> {
    if !(0..comm.ranks as c_int).contains(&peer) {
        return Err(invalid(&format!("peer {peer} of {} ranks", comm.ranks)));
    }
    if at == 0 && count > 0 {
        return Err(invalid("a message with a null buffer"));
    }
    Ok(Message { at, count, kind: kind(kind_number)?, peer: peer as usize })
}

#[unsafe(no_mangle)]
extern "C" fn ncclSend(
    from: *const c_void,
    count: usize,
    kind: u32,
    peer: c_int,
    handle: Ptr,
    stream: Ptr,
) -> u32 {
    code(comm(handle).and_then(|comm| {
        let message = message(from as usize, count, kind, peer, &comm)?;
        Ok(group::call(comm, key(stream), Call::Send(message)))
    }))
}

#[unsafe(no_mangle)]
extern "C" fn ncclRecv(
    to: *mut c_void,
    count: usize,
    kind: u32,
    peer: c_int,
    handle: Ptr,
    stream: Ptr,
) -> u32 {
    code(comm(handle).and_then(|comm| {
        let message = message(to as usize, count, kind, peer, &comm)?;
        Ok(group::call(comm, key(stream), Call::Receive(message)))
    }))
}
