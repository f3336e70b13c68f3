//! NCCL between processes, and between threads of one.
#![expect(unsafe_code, reason = "calls NCCL")]

use std::path::Path;

use cudarc::driver::CudaContext;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::nccl::safe::{Comm, Id, ReduceOp};
use cudarc::nccl::sys::{self, ncclDataType_t as Kind, ncclRedOp_t as How, ncclResult_t as Status};
use half::bf16;

use crate::passes_with;
use crate::ranks::{pair_passes, stream};
use crate::streams::wait_until;

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

/// Two stages of two ranks: each rank has a communicator with its stage, and one with its twin of the other stage.
fn rank_of_four(rank: usize, [stages, twins]: [[Id; 2]; 2]) -> Vec<f32> {
    let stream = stream(rank);
    let (stage, lane) = (rank / 2, rank % 2);
    let tensor = Comm::from_rank(stream.clone(), lane, 2, stages[stage]).unwrap();
    let pipe = Comm::from_rank(stream.clone(), stage, 2, twins[lane]).unwrap();
    let mut values = stream.clone_htod(&[lane as f32 + 1.0; 3]).unwrap();
    if stage == 1 {
        pipe.recv(&mut values, 0).unwrap();
    }
    tensor.all_reduce_in_place(&mut values, &ReduceOp::Sum).unwrap();
    if stage == 0 {
        pipe.send(&values, 1).unwrap();
    }
    stream.clone_dtoh(&values).unwrap()
}

#[test]
fn two_stages_of_two_ranks() {
    passes_with("nccl::two_stages_of_two_ranks", &[("CHARIOT_DOUBLE_DEVICES", "4")], || {
        let ids = [(); 2].map(|()| [(); 2].map(|()| Id::new().unwrap()));
        let ranks = [0, 1, 2, 3].map(|rank| std::thread::spawn(move || rank_of_four(rank, ids)));
        let found = ranks.map(|rank| rank.join().unwrap());
        assert_eq!(found, [[3.0; 3], [3.0; 3], [6.0; 3], [6.0; 3]]);
    });
}

#[test]
fn four_ranks_reduce_in_their_order() {
    passes_with("nccl::four_ranks_reduce_in_their_order", &[("CHARIOT_DOUBLE_DEVICES", "4")], || {
        let id = Id::new().unwrap();
        // In f32 and in this order: 1 + 1e8 is 1e8, and 1e8 - 1e8 + 2 is 2.
        let parts = [1f32, 1e8, -1e8, 2.0];
        let rank = move |rank: usize| {
            let stream = stream(rank);
            let comm = Comm::from_rank(stream.clone(), rank, 4, id).unwrap();
            let mut values = stream.clone_htod(&[parts[rank]]).unwrap();
            comm.all_reduce_in_place(&mut values, &ReduceOp::Sum).unwrap();
            stream.clone_dtoh(&values).unwrap()
        };
        let ranks = [0, 1, 2, 3].map(|number| std::thread::spawn(move || rank(number)));
        ranks.into_iter().for_each(|rank| assert_eq!(rank.join().unwrap(), [2.0]));
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
