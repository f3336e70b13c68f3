//! NCCL between processes, and between threads of one.
#![expect(unsafe_code, reason = "calls NCCL")]

use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::sync::Arc;

use cudarc::driver::sys::CUstreamCaptureMode;
use cudarc::driver::{
    CudaContext, CudaSlice, CudaStream, DevicePtr, DeviceRepr, sys::CUgraphInstantiate_flags,
};
use cudarc::nccl::safe::{Comm, Id, ReduceOp};
use cudarc::nccl::sys::{self, ncclDataType_t as Kind, ncclRedOp_t as How, ncclResult_t as Status};
use half::bf16;

use crate::streams::wait_until;
use crate::{command, passes_with};

/// One of two processes.
struct Rank {
    rank: usize,
    comm: sys::ncclComm_t,
    stream: Arc<CudaStream>,
    folder: String,
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

    fn peer(&self) -> i32 {
        1 - self.rank as i32
    }

    fn put<T: DeviceRepr>(&self, values: &[T]) -> CudaSlice<T> {
        self.stream.clone_htod(values).unwrap()
    }

    fn take<T: DeviceRepr + Clone + Default>(&self, values: &CudaSlice<T>) -> Vec<T> {
        self.stream.clone_dtoh(values).unwrap()
    }

    fn at<T>(&self, values: &CudaSlice<T>) -> *mut std::ffi::c_void {
        values.device_ptr(&self.stream).0 as *mut _
    }

    fn reduce<T>(&self, values: &CudaSlice<T>, kind: Kind, how: How) {
        let (at, stream) = (self.at(values), self.stream.cu_stream().cast());
        // SAFETY: a live slice of this type.
        let status = unsafe { sys::ncclAllReduce(at, at, values.len(), kind, how, self.comm, stream) };
        assert_eq!(status, Status::ncclSuccess);
    }

    fn send(&self, values: &CudaSlice<f32>) {
        let (at, stream) = (self.at(values), self.stream.cu_stream().cast());
        // SAFETY: a live slice of this type.
        let status =
            unsafe { sys::ncclSend(at, values.len(), Kind::ncclFloat32, self.peer(), self.comm, stream) };
        assert_eq!(status, Status::ncclSuccess);
    }

    fn receive(&self, values: &CudaSlice<f32>) {
        let (at, stream) = (self.at(values), self.stream.cu_stream().cast());
        // SAFETY: a live slice of this type.
        let status =
            unsafe { sys::ncclRecv(at, values.len(), Kind::ncclFloat32, self.peer(), self.comm, stream) };
        assert_eq!(status, Status::ncclSuccess);
    }

    fn status(&self) -> Status {
        let mut status = Status::ncclSuccess;
        // SAFETY: a live communicator, and a place for its state.
        unsafe { sys::ncclCommGetAsyncError(self.comm, &raw mut status) };
        status
    }

    /// Ends what is stuck, from another thread than the one that waits for it.
    fn abort_while_waiting(&self) {
        let comm = self.comm as usize;
        let aborting = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(100));
            // SAFETY: a live communicator, aborted once.
            unsafe { sys::ncclCommAbort(comm as sys::ncclComm_t) }
        });
        assert!(self.stream.synchronize().is_err(), "the wait ends with an error");
        assert_eq!(aborting.join().unwrap(), Status::ncclSuccess);
    }

    fn destroy(&self) {
        // SAFETY: a live communicator, destroyed once.
        assert_eq!(unsafe { sys::ncclCommDestroy(self.comm) }, Status::ncclSuccess);
    }
}

fn stream(device: usize) -> Arc<CudaStream> {
    let context = CudaContext::new(device).unwrap();
    // SAFETY: each test has one stream a rank.
    unsafe { context.disable_event_tracking() };
    context.new_stream().unwrap()
}

/// Runs `body` in two processes, and gives what they wrote; in each of them nothing.
fn pair(name: &str, variables: &[(&str, &str)], body: fn(Rank)) -> Option<[Output; 2]> {
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
    Some(children.map(finished))
}

/// A process that does not end within ten seconds is killed, and fails its test.
fn finished(mut child: Child) -> Output {
    wait_until("the end of a rank", || child.try_wait().unwrap().is_some());
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("running 1 test"), "{told}");
    output
}

fn pair_passes(name: &str, body: fn(Rank)) {
    for output in pair(name, &[], body).iter().flatten() {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn two_processes_reduce() {
    pair_passes("nccl::two_processes_reduce", |rank| {
        let mine = rank.rank as f32 + 1.0;
        let sums = rank.put(&[mine, 10.0 * mine, 0.1]);
        rank.reduce(&sums, Kind::ncclFloat32, How::ncclSum);
        assert_eq!(rank.take(&sums), [3.0, 30.0, 0.2]);
        // 256 + 1 has no bf16: it rounds to 256.
        let rounded = rank.put(&[bf16::from_f32(if rank.rank == 0 { 256.0 } else { 1.0 })]);
        rank.reduce(&rounded, Kind::ncclBfloat16, How::ncclSum);
        assert_eq!(rank.take(&rounded), [bf16::from_f32(256.0)]);
        let (largest, least) = (rank.put(&[rank.rank as i32, -5]), rank.put(&[rank.rank as u8, 7]));
        rank.reduce(&largest, Kind::ncclInt32, How::ncclMax);
        rank.reduce(&least, Kind::ncclUint8, How::ncclMin);
        assert_eq!((rank.take(&largest), rank.take(&least)), (vec![1, -5], vec![0, 7]));
        rank.destroy();
    });
}

#[test]
fn two_processes_gather_scatter_and_broadcast() {
    pair_passes("nccl::two_processes_gather_scatter_and_broadcast", |rank| {
        let mine = rank.put(&[rank.rank as f32, 5.0]);
        let all = rank.put(&[9f32; 4]);
        let one = rank.put(&[9f32; 2]);
        let (float, sum, stream) = (Kind::ncclFloat32, How::ncclSum, rank.stream.cu_stream().cast());
        let [mine_at, all_at, one_at] = [&mine, &all, &one].map(|values| rank.at(values));
        // SAFETY: live slices of two, four and two floats.
        unsafe {
            sys::ncclAllGather(mine_at, all_at, 2, float, rank.comm, stream);
            assert_eq!(rank.take(&all), [0.0, 5.0, 1.0, 5.0]);
            sys::ncclReduceScatter(all_at, one_at, 2, float, sum, rank.comm, stream);
            assert_eq!(rank.take(&one), [2.0 * rank.rank as f32, 10.0]);
            sys::ncclBroadcast(mine_at, one_at, 2, float, 1, rank.comm, stream);
            assert_eq!(rank.take(&one), [1.0, 5.0]);
        }
        rank.destroy();
    });
}

#[test]
fn messages_one_way_and_both_ways() {
    pair_passes("nccl::messages_one_way_and_both_ways", |rank| {
        let (mine, theirs) = (rank.put(&[rank.rank as f32; 3]), rank.put(&[9f32; 3]));
        let file = Path::new(&rank.folder).join("received");
        if rank.rank == 0 {
            rank.send(&mine);
            wait_until("the peer, without waiting for the stream", || file.exists());
        } else {
            rank.receive(&theirs);
            assert_eq!(rank.take(&theirs), [0.0; 3]);
            fs_err::write(file, "").unwrap();
        }
        // SAFETY: calls without arguments.
        unsafe { sys::ncclGroupStart() };
        rank.send(&mine);
        rank.receive(&theirs);
        // SAFETY: as above.
        assert_eq!(unsafe { sys::ncclGroupEnd() }, Status::ncclSuccess);
        assert_eq!(rank.take(&theirs), [rank.peer() as f32; 3]);
        rank.destroy();
    });
}

#[test]
fn sends_without_receives_are_stuck_until_an_abort() {
    pair_passes("nccl::sends_without_receives_are_stuck_until_an_abort", |rank| {
        let (mine, theirs) = (rank.put(&[1f32]), rank.put(&[9f32]));
        rank.send(&mine);
        rank.receive(&theirs);
        let done = rank.stream.record_event(None).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(!done.is_complete() && rank.status() == Status::ncclSuccess, "both wait for each other");
        // The peer must not see an abort before its own look.
        fs_err::write(Path::new(&rank.folder).join(format!("stuck{}", rank.rank)), "").unwrap();
        let other = Path::new(&rank.folder).join(format!("stuck{}", rank.peer()));
        wait_until("the peer", || other.exists());
        rank.abort_while_waiting();
    });
}

#[test]
fn a_killed_peer_is_a_remote_error() {
    pair_passes("nccl::a_killed_peer_is_a_remote_error", |rank| {
        let values = rank.put(&[1f32]);
        rank.reduce(&values, Kind::ncclFloat32, How::ncclSum);
        assert_eq!(rank.take(&values), [2.0]);
        if rank.rank == 1 {
            std::process::exit(0);
        }
        rank.reduce(&values, Kind::ncclFloat32, How::ncclSum);
        wait_until("the error", || rank.status() == Status::ncclRemoteError);
        rank.abort_while_waiting();
    });
}

#[test]
fn different_calls_are_told() {
    let different = |rank: Rank| {
        let values = rank.put(&[1f32; 2]);
        let at = rank.at(&values);
        let (float, stream) = (Kind::ncclFloat32, rank.stream.cu_stream().cast());
        // SAFETY: a live slice of two floats.
        unsafe {
            sys::ncclAllReduce(at, at, 1 + rank.rank, float, How::ncclSum, rank.comm, stream);
        }
        assert!(rank.stream.synchronize().is_err());
        assert_eq!(rank.status(), Status::ncclInvalidUsage);
    };
    let outputs = pair("nccl::different_calls_are_told", &[], different);
    for output in outputs.iter().flatten() {
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}");
        assert!(told.contains("AllReduce of 1 x F32") && told.contains("AllReduce of 2 x F32"), "{told}");
    }
}

#[test]
fn a_wrong_sum_on_purpose() {
    let wrong = |rank: Rank| {
        let values = rank.put(&[1f32; 2]);
        rank.reduce(&values, Kind::ncclFloat32, How::ncclSum);
        assert_eq!(rank.take(&values), [3.0, 2.0]);
        rank.destroy();
    };
    let outputs = pair("nccl::a_wrong_sum_on_purpose", &[("CHARIOT_DOUBLE_WRONG", "nccl")], wrong);
    for output in outputs.iter().flatten() {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_graph_replays_messages() {
    pair_passes("nccl::a_graph_replays_messages", |rank| {
        let values = rank.put(&[1f32, 2.0]);
        rank.stream.synchronize().unwrap();
        rank.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        rank.reduce(&values, Kind::ncclFloat32, How::ncclSum);
        let graph = rank.stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
        assert_eq!(rank.take(&values), [1.0, 2.0]);
        graph.launch().unwrap();
        graph.launch().unwrap();
        assert_eq!(rank.take(&values), [4.0, 8.0]);
        rank.destroy();
    });
}

const TWO: [(&str, &str); 1] = [("CHARIOT_DOUBLE_DEVICES", "2")];

#[test]
fn ranks_are_threads_of_one_process() {
    passes_with("nccl::ranks_are_threads_of_one_process", &TWO, || {
        let id = Id::new().unwrap();
        let rank = move |rank: usize| {
            let stream = stream(rank);
            let comm = Comm::from_rank(stream.clone(), rank, 2, id).unwrap();
            let mut values = stream.clone_htod(&[rank as f32 + 1.0; 5]).unwrap();
            comm.all_reduce_in_place(&mut values, &ReduceOp::Sum).unwrap();
            stream.clone_dtoh(&values).unwrap()
        };
        let ranks = [0, 1].map(|number| std::thread::spawn(move || rank(number)));
        ranks.into_iter().for_each(|rank| assert_eq!(rank.join().unwrap(), [3.0; 5]));
    });
}

#[test]
fn ranks_are_devices_of_one_thread() {
    passes_with("nccl::ranks_are_devices_of_one_thread", &TWO, || {
        let streams: Vec<_> = [0, 1].map(|n| CudaContext::new(n).unwrap().default_stream()).into();
        let comms = Comm::from_devices(streams.clone()).unwrap();
        let mut values: Vec<_> =
            streams.iter().map(|stream| stream.clone_htod(&[2f32; 5]).unwrap()).collect();
        cudarc::nccl::safe::group_start().unwrap();
        for (comm, values) in comms.iter().zip(&mut values) {
            comm.context().bind_to_thread().unwrap();
            comm.all_reduce_in_place(values, &ReduceOp::Sum).unwrap();
        }
        cudarc::nccl::safe::group_end().unwrap();
        for (stream, values) in streams.iter().zip(&values) {
            assert_eq!(stream.clone_dtoh(values).unwrap(), [4.0; 5]);
        }
    });
}

#[test]
fn a_nonblocking_start_is_in_progress() {
    passes_with("nccl::a_nonblocking_start_is_in_progress", &[], || {
        let _stream = stream(0);
        let id = sys::ncclUniqueId { internal: *Id::new().unwrap().internal() };
        // SAFETY: numbers and null pointers may be zero.
        let mut config: sys::ncclConfig_t = unsafe { std::mem::zeroed() };
        config.size = size_of::<sys::ncclConfig_t>();
        config.magic = 0xcafe_beef;
        config.version = 22_604;
        let (mut comm, mut status) = (std::ptr::null_mut(), Status::ncclSuccess);
        // SAFETY: places for what is written, and a configuration.
        unsafe {
            let started = sys::ncclCommInitRankConfig(&raw mut comm, 2, id, 0, &raw mut config);
            assert_eq!(started, Status::ncclInProgress);
            sys::ncclCommGetAsyncError(comm, &raw mut status);
            assert_eq!(status, Status::ncclInProgress, "the other rank does not come");
            assert_eq!(sys::ncclCommAbort(comm), Status::ncclSuccess);
            assert_eq!(sys::ncclCommGetAsyncError(comm, &raw mut status), Status::ncclInvalidArgument);
        }
    });
}
