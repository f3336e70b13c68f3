//! NCCL when a rank does not come, is gone, or calls something else.
#![expect(unsafe_code, reason = "calls NCCL")]

use std::path::Path;

use cudarc::nccl::safe::Id;
use cudarc::nccl::sys::{self, ncclDataType_t as Kind, ncclRedOp_t as How, ncclResult_t as Status};

use crate::passes_with;
use crate::ranks::{Rank, pair, pair_passes, stream};
use crate::streams::wait_until;

#[test]
fn sends_without_receives_are_stuck_until_an_abort() {
    pair_passes("stuck::sends_without_receives_are_stuck_until_an_abort", |rank| {
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
    pair_passes("stuck::a_killed_peer_is_a_remote_error", |rank| {
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
    let outputs = pair("stuck::different_calls_are_told", &[], different);
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
    let outputs = pair("stuck::a_wrong_sum_on_purpose", &[("CHARIOT_DOUBLE_WRONG", "nccl")], wrong);
    for output in outputs.iter().flatten() {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_nonblocking_start_is_in_progress() {
    passes_with("stuck::a_nonblocking_start_is_in_progress", &[], || {
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

#[test]
fn different_messages_are_told() {
    let different = |rank: Rank| {
        let values = rank.put(&vec![1f32; 3 + rank.rank]);
        if rank.rank == 0 {
            rank.send(&values)
        } else {
            rank.receive(&values)
        }
        assert!(rank.stream.synchronize().is_err());
        assert_eq!(rank.status(), Status::ncclInvalidUsage);
    };
    let outputs = pair("stuck::different_messages_are_told", &[], different);
    for (output, verbs) in outputs.iter().flatten().zip(["rank 0 sends 3", "rank 1 receives 4"]) {
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && told.contains(verbs), "{told}");
    }
}

#[test]
fn a_buffer_out_of_its_allocation_is_found() {
    let short = |rank: Rank| {
        let values = rank.put(&[1f32; 2]);
        let at = rank.at(&values);
        let (float, stream) = (Kind::ncclFloat32, rank.stream.cu_stream().cast());
        // SAFETY: out of bounds on purpose, which the double finds.
        unsafe {
            sys::ncclAllReduce(at, at, 3, float, How::ncclSum, rank.comm, stream);
        }
        assert!(rank.stream.synchronize().is_err());
    };
    let outputs = pair("stuck::a_buffer_out_of_its_allocation_is_found", &[], short);
    for output in outputs.iter().flatten() {
        let told = String::from_utf8_lossy(&output.stderr);
        let expected =
            "AllReduce, what is sent of 12 bytes: ends 4 bytes past the end of allocation 0 (8 bytes)";
        assert!(output.status.success() && told.contains(expected), "{told}");
    }
}
