use super::*;
use crate::sched::batch::Chunk;
use crate::shape::ModelShape;
use crate::shard::{Division, Parallel};
use crate::units::SeqId;

use coefficient::{Band, Coefficient};
use platform::Platform;

const MS: u64 = 1_000_000;

/// Stages of 10 ms; a batch's sends, round trip and driver time as given, in ms.
fn executor(pp: u32, send: f64, round_trip: f64, schedule: f64, process: f64) -> SimExecutor {
    let read = |path: &str| {
        fs_err::read_to_string(format!("{}/../pipelines/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    let mut platform: Platform = serde_saphyr::from_str(&read("platforms/constant-x8.yaml")).unwrap();
    platform.links[0].send_recv.alpha_us = Coefficient::certain(send * 1e3);
    platform.links[0].send_recv.gbps = Coefficient::certain(1e30);
    let cpu = platform.cpu.as_mut().unwrap();
    cpu.driver_round_trip_ms = Coefficient::certain(round_trip);
    cpu.schedule.ms = Coefficient::certain(schedule);
    cpu.process.ms = Coefficient::certain(process);
    let shape = ModelShape::parse(&read("models/mistral-7b.yaml"), "").unwrap();
    let division = Division::new(&shape, Parallel { tp: 1, pp }).unwrap();
    SimExecutor::new(CostModel::new(&platform, &shape, &division, Band::Central)).keep_stays()
}

fn batch(id: u32) -> Batch {
    let chunk = Chunk { seq: SeqId(0), context: 0, tokens: 1, is_prefill: false, emits_token: true };
    Batch { id: BatchId(id), chunks: vec![chunk], preempted: vec![] }
}

fn completed(batch: u32, start: u64, end: u64) -> Event {
    Event::Completed { batch: BatchId(batch), start: Nanos(start * MS), end: Nanos(end * MS) }
}

#[test]
fn one_stage_takes_driver_and_round_trip_in_series() {
    let mut executor = executor(1, 0.0, 4.0, 1.0, 3.0);
    executor.enter(&batch(0));
    assert_eq!(executor.now(), Nanos(MS));
    // 1 schedule, 2 there, 10 stage, 2 back, 3 process
    assert_eq!(executor.leave(Nanos::MAX), completed(0, 3, 18));
    assert_eq!(executor.now(), Nanos(18 * MS));
}

#[test]
fn two_stages_overlap_two_batches() {
    let mut executor = executor(2, 1.0, 0.0, 0.0, 0.0);
    executor.enter(&batch(0));
    executor.enter(&batch(1));
    assert_eq!(executor.leave(Nanos::MAX), completed(0, 0, 21));
    executor.enter(&batch(2));
    // Batch 1 waits for stage 0 until 10, is sent by 21, and finds stage 1 just free.
    assert_eq!(executor.leave(Nanos::MAX), completed(1, 10, 31));
    assert_eq!(executor.leave(Nanos::MAX), completed(2, 21, 42));
    let stays: Vec<_> =
        executor.into_stays().iter().map(|s| (s.batch.0, s.stage, s.start.0 / MS, s.end.0 / MS)).collect();
    assert_eq!(
        stays,
        [(0, 0, 0, 10), (0, 1, 11, 21), (1, 0, 10, 20), (1, 1, 21, 31), (2, 0, 21, 31), (2, 1, 32, 42)]
    );
}

#[test]
fn waiting_stops_at_the_time_given() {
    let mut executor = executor(1, 0.0, 0.0, 0.0, 0.0);
    assert_eq!(executor.leave(Nanos(5 * MS)), Event::TimeReached);
    executor.enter(&batch(0));
    assert_eq!(executor.leave(Nanos(14 * MS)), Event::TimeReached);
    assert_eq!(executor.now(), Nanos(14 * MS));
    assert_eq!(executor.leave(Nanos(15 * MS)), completed(0, 5, 15));
}
