//! Two processes as ranks of one communicator.
#![expect(unsafe_code, reason = "calls NCCL")]

use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DeviceRepr};
use cudarc::nccl::safe::Id;
use cudarc::nccl::sys::{self, ncclDataType_t as Kind, ncclRedOp_t as How, ncclResult_t as Status};

use crate::streams::wait_until;
use crate::{command, ended};

/// One of two processes.
pub(crate) struct Rank {
    pub(crate) rank: usize,
    pub(crate) comm: sys::ncclComm_t,
    pub(crate) stream: Arc<CudaStream>,
    pub(crate) folder: String,
}

impl Rank {
    fn from_environment() -> Self {
        let rank = std::env::var("CHARIOT_RANK").unwrap().parse().unwrap();
        let folder = std::env::var("CHARIOT_FOLDER").unwrap();
        let stream = stream(0);
        let file = Path::new(&folder).join("id");
        if rank == 0 {
            let id = Id::new().unwrap();
            let bytes: Vec<u8> = id.internal().iter().map(|c| *c as u8).collect();
            fs_err::write(file.with_extension("new"), bytes).unwrap();
            fs_err::rename(file.with_extension("new"), &file).unwrap();
        }
        wait_until("the id", || file.exists());
        let bytes = fs_err::read(&file).unwrap();
        let id = sys::ncclUniqueId { internal: std::array::from_fn(|i| bytes[i].cast_signed()) };
        let mut comm = std::ptr::null_mut();
        // SAFETY: a place for a handle, and an id of ncclGetUniqueId.
        let status = unsafe { sys::ncclCommInitRank(&raw mut comm, 2, id, rank) };
        assert_eq!(status, Status::ncclSuccess);
        Self { rank: rank as usize, comm, stream, folder }
    }

    pub(crate) fn peer(&self) -> i32 {
        1 - self.rank as i32
    }

    pub(crate) fn put<T: DeviceRepr>(&self, values: &[T]) -> CudaSlice<T> {
        self.stream.clone_htod(values).unwrap()
    }

    pub(crate) fn take<T: DeviceRepr + Clone + Default>(&self, values: &CudaSlice<T>) -> Vec<T> {
        self.stream.clone_dtoh(values).unwrap()
    }

    pub(crate) fn at<T>(&self, values: &CudaSlice<T>) -> *mut std::ffi::c_void {
        values.device_ptr(&self.stream).0 as *mut _
    }

    pub(crate) fn reduce<T>(&self, values: &CudaSlice<T>, kind: Kind, how: How) {
        let (at, stream) = (self.at(values), self.stream.cu_stream().cast());
        // SAFETY: a live slice of this type.
        let status = unsafe { sys::ncclAllReduce(at, at, values.len(), kind, how, self.comm, stream) };
        assert_eq!(status, Status::ncclSuccess);
    }

    pub(crate) fn send(&self, values: &CudaSlice<f32>) {
        let (at, stream) = (self.at(values), self.stream.cu_stream().cast());
        // SAFETY: a live slice of this type.
        let status =
            unsafe { sys::ncclSend(at, values.len(), Kind::ncclFloat32, self.peer(), self.comm, stream) };
        assert_eq!(status, Status::ncclSuccess);
    }

    pub(crate) fn receive(&self, values: &CudaSlice<f32>) {
        let (at, stream) = (self.at(values), self.stream.cu_stream().cast());
        // SAFETY: a live slice of this type.
        let status =
            unsafe { sys::ncclRecv(at, values.len(), Kind::ncclFloat32, self.peer(), self.comm, stream) };
        assert_eq!(status, Status::ncclSuccess);
    }

    pub(crate) fn status(&self) -> Status {
        let mut status = Status::ncclSuccess;
        // SAFETY: a live communicator, and a place for its state.
        unsafe { sys::ncclCommGetAsyncError(self.comm, &raw mut status) };
        status
    }

    /// Ends what is stuck, from another thread than the one that waits for it.
    pub(crate) fn abort_while_waiting(&self) {
        let comm = self.comm as usize;
        let aborting = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(100));
            // SAFETY: a live communicator, aborted once.
            unsafe { sys::ncclCommAbort(comm as sys::ncclComm_t) }
        });
        assert!(self.stream.synchronize().is_err(), "the wait ends with an error");
        assert_eq!(aborting.join().unwrap(), Status::ncclSuccess);
    }

    pub(crate) fn destroy(&self) {
        // SAFETY: a live communicator, destroyed once.
        assert_eq!(unsafe { sys::ncclCommDestroy(self.comm) }, Status::ncclSuccess);
    }
}

pub(crate) fn stream(device: usize) -> Arc<CudaStream> {
    let context = CudaContext::new(device).unwrap();
    // SAFETY: each test has one stream a rank.
    unsafe { context.disable_event_tracking() };
    context.new_stream().unwrap()
}

/// Runs `body` in two processes, and gives what they wrote; in each of them nothing.
pub(crate) fn pair(name: &str, variables: &[(&str, &str)], body: fn(Rank)) -> Option<[Output; 2]> {
    if std::env::var_os("CHARIOT_DOUBLE_CHILD").is_some() {
        body(Rank::from_environment());
        return None;
    }
    let shared = tempfile::tempdir().unwrap();
    let folder = shared.path().to_str().unwrap().to_owned();
    let mut links = Vec::new();
    let children = [0, 1].map(|rank| {
        let (link, mut command) = command(name, "forward", &[("CHARIOT_FOLDER", folder.clone())]);
        links.push(link);
        command.env("CHARIOT_RANK", rank.to_string()).envs(variables.iter().copied());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    });
    Some(children.map(ended))
}

pub(crate) fn pair_passes(name: &str, body: fn(Rank)) {
    for output in pair(name, &[], body).iter().flatten() {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
