//! Groups of GPUs by NCCL: its entry points, and a communicator that never waits without looking. Knows no tensor.
//!
//! Communicators do not block: every call returns, and whoever waits asks for errors meanwhile.
#![expect(unsafe_code, reason = "NCCL is a C library")]

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use cudarc::nccl::result::NcclError;
use cudarc::nccl::sys::{
    cudaStream_t, ncclComm_t, ncclConfig_t, ncclDataType_t, ncclRedOp_t, ncclResult_t, ncclUniqueId,
};

use super::error::{CudaError, nccl};
use super::library::{Library, Missing, entry, require};
use super::patience::Waited;

/// How long a rank waits for the others to start and open their GPUs.
const JOIN_PATIENCE: Duration = Duration::from_secs(60);
/// How long the end of a group may take at the end of a run.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a group's name.
pub(super) const ID_BYTES: usize = 128;

/// An entry point that moves values from one buffer to another.
type Move = unsafe extern "C" fn(
    *const c_void,
    *mut c_void,
    usize,
    ncclDataType_t,
    ncclComm_t,
    cudaStream_t,
) -> ncclResult_t;
type Reduce = unsafe extern "C" fn(
    *const c_void,
    *mut c_void,
    usize,
    ncclDataType_t,
    ncclRedOp_t,
    ncclComm_t,
    cudaStream_t,
) -> ncclResult_t;
type Pass =
    unsafe extern "C" fn(*mut c_void, usize, ncclDataType_t, c_int, ncclComm_t, cudaStream_t) -> ncclResult_t;
type Init =
    unsafe extern "C" fn(*mut ncclComm_t, c_int, ncclUniqueId, c_int, *mut ncclConfig_t) -> ncclResult_t;

/// The library's entry points that are used here.
struct Api {
    unique_id: unsafe extern "C" fn(*mut ncclUniqueId) -> ncclResult_t,
    init: Init,
    abort: unsafe extern "C" fn(ncclComm_t) -> ncclResult_t,
    async_error: unsafe extern "C" fn(ncclComm_t, *mut ncclResult_t) -> ncclResult_t,
    all_reduce: Reduce,
    all_gather: Move,
    send: Pass,
    recv: Pass,
}

impl Api {
    fn load() -> Result<Self, Missing> {
        require(Library::Nccl)?;
        // SAFETY: types as in NCCL's header, which has kept them since 2.14.
        unsafe {
            Ok(Self {
                unique_id: entry(Library::Nccl, "ncclGetUniqueId")?,
                init: entry(Library::Nccl, "ncclCommInitRankConfig")?,
                abort: entry(Library::Nccl, "ncclCommAbort")?,
                async_error: entry(Library::Nccl, "ncclCommGetAsyncError")?,
                all_reduce: entry(Library::Nccl, "ncclAllReduce")?,
                all_gather: entry(Library::Nccl, "ncclAllGather")?,
                send: entry(Library::Nccl, "ncclSend")?,
                recv: entry(Library::Nccl, "ncclRecv")?,
            })
        }
    }

    /// Loaded once a process.
    fn get() -> Result<&'static Self, CudaError> {
        static API: OnceLock<Result<Api, Missing>> = OnceLock::new();
        API.get_or_init(Self::load).as_ref().map_err(|missing| missing.clone().into())
    }
}

/// A new group's name, for its first rank to tell the others.
pub(super) fn unique_id() -> Result<[u8; ID_BYTES], CudaError> {
    let api = Api::get()?;
    let mut id = ncclUniqueId { internal: [0; ID_BYTES] };
    // SAFETY: a name is written to a variable of its type.
    check("name a group of GPUs", unsafe { (api.unique_id)(&raw mut id) })?;
    Ok(id.internal.map(|byte| byte as u8))
}

/// Calls that only began are no failure.
fn check(what: &'static str, code: ncclResult_t) -> Result<(), CudaError> {
    match code {
        ncclResult_t::ncclSuccess | ncclResult_t::ncclInProgress => Ok(()),
        code => Err(nccl(what)(NcclError(code))),
    }
}

/// One rank's end of a group of GPUs. One thread uses it.
pub(super) struct Comm {
    api: &'static Api,
    raw: ncclComm_t,
    /// Ranks of the group.
    pub(super) size: usize,
    aborted: Cell<bool>,
    /// How long a call may take to be queued.
    patience: Duration,
}

impl std::fmt::Debug for Comm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Comm").field("size", &self.size).finish_non_exhaustive()
    }
}

/// The type of the values that a call moves.
pub(super) type Values = ncclDataType_t;

impl Comm {
    /// Begins to join the group of this name as rank `me`.
    pub(super) fn begin(
        id: [u8; ID_BYTES],
        size: usize,
        me: usize,
        patience: Duration,
    ) -> Result<Self, CudaError> {
        let api = Api::get()?;
        let id = ncclUniqueId { internal: id.map(|byte| byte as _) };
        let mut config = config();
        let mut raw: ncclComm_t = std::ptr::null_mut();
        // SAFETY: all pointers are to variables of their types; the context of this thread is the rank's own.
        let code = unsafe { (api.init)(&raw mut raw, size as c_int, id, me as c_int, &raw mut config) };
        check("bring GPUs together", code)?;
        Ok(Self { api, raw, size, aborted: Cell::new(false), patience })
    }

    /// Waits until all have joined.
    pub(super) fn joined(&self) -> Result<(), CudaError> {
        self.settle_within("bring GPUs together", JOIN_PATIENCE)
    }

    /// What has gone wrong since the last call, or is still going on.
    fn state(&self) -> ncclResult_t {
        let mut state = ncclResult_t::ncclSuccess;
        // SAFETY: a live communicator; a code is written to a variable of its type.
        let asked = unsafe { (self.api.async_error)(self.raw, &raw mut state) };
        if asked == ncclResult_t::ncclSuccess { state } else { asked }
    }

    /// An error if the group has failed.
    pub(super) fn look(&self, what: &'static str) -> Result<(), CudaError> {
        check(what, self.state())
    }

    /// Waits until a call is really queued: the first one between two ranks connects them.
    fn settle(&self, what: &'static str) -> Result<(), CudaError> {
        self.settle_within(what, self.patience)
    }

    fn settle_within(&self, what: &'static str, patience: Duration) -> Result<(), CudaError> {
        let mut waited = Waited::begin();
        loop {
            match self.state() {
                ncclResult_t::ncclInProgress if waited.so_far() < patience => std::thread::yield_now(),
                ncclResult_t::ncclInProgress => {
                    return Err(CudaError::Stuck { what, seconds: patience.as_secs_f64() });
                }
                state => return check(what, state),
            }
        }
    }

    /// `count` values from `pointer` on become the sum over all ranks.
    pub(super) fn all_reduce(
        &self,
        pointer: u64,
        count: usize,
        values: Values,
        stream: cudaStream_t,
    ) -> Result<(), CudaError> {
        let what = "sum over GPUs";
        let at = pointer as *mut c_void;
        // SAFETY: the caller's buffer has the values; it is the group's turn in stream order.
        let code =
            unsafe { (self.api.all_reduce)(at, at, count, values, ncclRedOp_t::ncclSum, self.raw, stream) };
        check(what, code)?;
        self.settle(what)
    }

    /// `size * count` values from `to` on: every rank's `count` values from `from` on.
    pub(super) fn all_gather(
        &self,
        from: u64,
        to: u64,
        count: usize,
        values: Values,
        stream: cudaStream_t,
    ) -> Result<(), CudaError> {
        let what = "gather from GPUs";
        // SAFETY: as in `all_reduce`.
        let code = unsafe {
            (self.api.all_gather)(from as *const c_void, to as *mut c_void, count, values, self.raw, stream)
        };
        check(what, code)?;
        self.settle(what)
    }

    /// `count` values from `from` on go to `peer`.
    pub(super) fn send(
        &self,
        peer: usize,
        from: u64,
        count: usize,
        values: Values,
        stream: cudaStream_t,
    ) -> Result<(), CudaError> {
        let what = "send to a GPU";
        // SAFETY: as in `all_reduce`; NCCL does not write what it sends.
        let code =
            unsafe { (self.api.send)(from as *mut c_void, count, values, peer as c_int, self.raw, stream) };
        check(what, code)?;
        self.settle(what)
    }

    /// `count` values from `to` on come from `peer`.
    pub(super) fn recv(
        &self,
        peer: usize,
        to: u64,
        count: usize,
        values: Values,
        stream: cudaStream_t,
    ) -> Result<(), CudaError> {
        let what = "receive from a GPU";
        // SAFETY: as in `all_reduce`.
        let code =
            unsafe { (self.api.recv)(to as *mut c_void, count, values, peer as c_int, self.raw, stream) };
        check(what, code)?;
        self.settle(what)
    }

    /// Begins to end whatever the group is doing; it is used no more. Says when that is done, which a GPU that hangs may put off for ever; `None`:
    /// it was begun before.
    pub(super) fn abort(&self) -> Option<Receiver<()>> {
        if self.aborted.replace(true) {
            return None;
        }
        let (abort, raw) = (self.api.abort, self.raw as usize);
        let (done, is_done) = channel();
        std::thread::spawn(move || {
            // SAFETY: a live communicator, aborted once; NCCL lets any thread do that.
            let _ = unsafe { abort(raw as ncclComm_t) };
            // Nobody may wait for it any more.
            let _ = done.send(());
        });
        Some(is_done)
    }
}

impl Drop for Comm {
    fn drop(&mut self) {
        // Not "destroy", which waits for the others.
        if let Some(done) = self.abort() {
            let _ = done.recv_timeout(END_PATIENCE);
        }
    }
}

/// Fields that are not set, in NCCL's words.
const UNDEFINED: c_int = c_int::MIN;
const MAGIC: u32 = 0xcafe_beef;
/// The version whose fields are set: 2.18. A newer library takes its defaults for the others.
const CONFIG_VERSION: u32 = 21_800;

fn config() -> ncclConfig_t {
    ncclConfig_t {
        size: size_of::<ncclConfig_t>(),
        magic: MAGIC,
        version: CONFIG_VERSION,
        blocking: 0,
        cgaClusterSize: UNDEFINED,
        minCTAs: UNDEFINED,
        maxCTAs: UNDEFINED,
        netName: std::ptr::null(),
        splitShare: UNDEFINED,
        trafficClass: UNDEFINED,
        commName: std::ptr::null(),
        collnetEnable: UNDEFINED,
        CTAPolicy: UNDEFINED,
        shrinkShare: UNDEFINED,
        nvlsCTAs: UNDEFINED,
        nChannelsPerNetPeer: UNDEFINED,
        nvlinkCentricSched: UNDEFINED,
        graphUsageMode: UNDEFINED,
        numRmaCtx: UNDEFINED,
        maxP2pPeers: UNDEFINED,
    }
}
