//! Every transport against plain sums, and what happens when a peer is not there.

use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use super::group::Group;
use super::reduce::PIECE;
use super::secret::Secret;
use super::tcp::{Listener, Sockets};
use super::wire::Wire;
use super::*;
use crate::clock::{monotonic_ns, thread_cpu_ns};

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Transport {
    SharedMemory,
    Tcp,
}

/// Runs `work` on every rank of a mesh, a thread each; results in order of ranks.
fn on_mesh<T: Send>(
    transport: Transport,
    world: usize,
    links: Option<Links>,
    work: impl Fn(usize, &mut Mesh) -> T + Sync,
) -> Vec<T> {
    let memory = shm::create(world).unwrap();
    let path = &memory.path();
    let secret = Secret::random().unwrap();
    let listeners: Vec<Listener> =
        (0..world).map(|_| Listener::bind(IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap()).collect();
    let peers: Vec<_> = listeners.iter().map(|listener| listener.address().unwrap()).collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> = listeners
            .into_iter()
            .enumerate()
            .map(|(rank, listener)| {
                let (path, peers, secret, work, links) = (path, &peers, &secret, &work, links.clone());
                scope.spawn(move || {
                    let mut mesh = match transport {
                        Transport::SharedMemory => {
                            Mesh::shared_memory(path, rank, world, Patience::shared_cores(PATIENCE)).unwrap()
                        }
                        Transport::Tcp => Mesh::tcp(listener, rank, peers, secret, PATIENCE).unwrap(),
                    };
                    if let Some(links) = links {
                        mesh.emulate(links);
                    }
                    work(rank, &mut mesh)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn since(began_ns: u64) -> Duration {
    Duration::from_nanos(monotonic_ns() - began_ns)
}

/// Values that differ by rank and place, and whose sums depend on the order in the last bit.
fn values(rank: usize, length: usize) -> Vec<f32> {
    (0..length).map(|i| ((rank * 7919 + i * 104_729) % 10_007) as f32 * 1e-3 - 5.0).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The sum in the one order, written down as plainly as can be.
fn sum_of(world: usize, length: usize) -> Vec<f32> {
    let mut rows: Vec<Vec<f32>> = (0..world).map(|rank| values(rank, length)).collect();
    while rows.len() > 1 {
        let half = rows.len().div_ceil(2);
        let upper = rows.split_off(half);
        for (lower, upper) in rows.iter_mut().zip(upper) {
            lower.iter_mut().zip(upper).for_each(|(sum, value)| *sum += value);
        }
    }
    rows.remove(0)
}

/// Whatever moves the values: a sum does not tell how it was made.
#[test]
fn sums_and_parts_are_those_of_plain_loops_to_the_bit() {
    use Algorithm::{Direct, Doubling, Flat, Halving};
    let algorithms = [None, Some(Flat), Some(Direct), Some(Doubling), Some(Halving)];
    for transport in [Transport::SharedMemory, Transport::Tcp] {
        for world in [1, 2, 3, 4, 5, 8] {
            let everyone: Vec<usize> = (0..world).collect();
            let lengths = [0, 1, 7, 1000, (1 << 14) + 1, (1 << 17) + 13];
            let results = on_mesh(transport, world, None, |rank, mesh| {
                let cases =
                    algorithms.iter().flat_map(|algorithm| lengths.map(|length| (*algorithm, length)));
                let case = |(algorithm, length)| {
                    let mut group = mesh.group_by(&everyone, algorithm);
                    let mut sum = values(rank, length);
                    group.all_reduce(&mut sum).unwrap();
                    let mut all = vec![0.0; world * length];
                    group.all_gather(&values(rank, length), &mut all).unwrap();
                    (format!("{algorithm:?} {length}"), length, sum, all)
                };
                cases.map(case).collect::<Vec<_>>()
            });
            for (case, length, sum, all) in results.iter().flatten() {
                let parts: Vec<f32> = everyone.iter().flat_map(|rank| values(*rank, *length)).collect();
                assert_eq!(bits(sum), bits(&sum_of(world, *length)), "{transport:?} {world} {case}");
                assert_eq!(bits(all), bits(&parts), "{transport:?} {world} {case}");
            }
        }
    }
}

/// Groups that share ranks, and a group in another order, do not disturb one another's memory.
#[test]
fn groups_overlap() {
    for transport in [Transport::SharedMemory, Transport::Tcp] {
        let results = on_mesh(transport, 4, None, |rank, mesh| {
            let mut all = mesh.group(&[0, 1, 2, 3]);
            let mut row = mesh.group(if rank < 2 { &[0, 1] } else { &[2, 3] });
            let mut column = mesh.group(if rank % 2 == 0 { &[2, 0] } else { &[1, 3] });
            let mut kept = Vec::new();
            for round in 0..200 {
                let mut hidden = vec![(rank * round) as f32; 100 + 97 * round];
                for group in [&mut row, &mut all, &mut column] {
                    group.all_reduce(&mut hidden).unwrap();
                }
                kept.push((hidden[0], hidden[hidden.len() - 1]));
            }
            kept
        });
        for kept in results {
            for (round, ends) in kept.iter().enumerate() {
                // 0+1, 0+1, 2+3, 2+3; their sum is 12; a column has it twice.
                let expected = (24 * round) as f32;
                assert_eq!(*ends, (expected, expected), "{transport:?} round {round}");
            }
        }
    }
}

/// TP2 x PP2 with two micro-batches in flight, messages larger than any buffer.
#[test]
fn groups_of_a_pipeline_interleave() {
    const LENGTH: usize = 300_000;
    for transport in [Transport::SharedMemory, Transport::Tcp] {
        let results = on_mesh(transport, 4, None, |rank, mesh| {
            let (stage, tp) = (rank / 2, rank % 2);
            let mut stage_group = mesh.group(&[stage * 2, stage * 2 + 1]);
            let mut pair = mesh.group(&[tp, tp + 2]);
            let mut kept = Vec::new();
            for batch in 0..6 {
                let mut hidden = vec![batch as f32 + tp as f32; LENGTH];
                if stage == 1 {
                    pair.recv(0, &mut hidden).unwrap();
                }
                stage_group.all_reduce(&mut hidden).unwrap();
                if stage == 0 {
                    pair.send(1, &hidden).unwrap();
                }
                kept.push((hidden[0], hidden[LENGTH - 1]));
            }
            kept
        });
        for batch in 0..6 {
            let first = 2.0 * batch as f32 + 1.0;
            for (rank, kept) in results.iter().enumerate() {
                let expected = if rank < 2 { first } else { 2.0 * first };
                assert_eq!(kept[batch], (expected, expected), "{transport:?} rank {rank} batch {batch}");
            }
        }
    }
}

#[test]
fn a_peer_that_does_not_answer_is_named_in_time() {
    let memory = shm::create(2).unwrap();
    let path = &memory.path();
    let mesh = Mesh::shared_memory(path, 0, 2, Patience::own_cores(Duration::from_millis(200))).unwrap();
    let began = monotonic_ns();
    let error = mesh.group(&[0, 1]).all_reduce(&mut [1.0; 8]).unwrap_err();
    assert!(matches!(error, CommError::Timeout { peer: 1, .. }), "{error}");
    assert!(since(began) < Duration::from_secs(2));
    assert!(
        Mesh::shared_memory(path, 0, 3, Patience::shared_cores(PATIENCE)).is_err(),
        "memory of another size is refused"
    );
}

#[test]
fn a_tcp_peer_that_ends_is_named_at_once() {
    let results = on_mesh(Transport::Tcp, 2, None, |rank, mesh| {
        (rank == 0).then(|| mesh.group(&[0, 1]).recv(1, &mut [0.0; 8]).unwrap_err())
    });
    assert!(matches!(results[0], Some(CommError::Closed { peer: 1 })), "{results:?}");
}

#[test]
fn a_stranger_does_not_disturb_who_belongs_together() {
    let secret = Secret::random().unwrap();
    let listeners = [(); 2].map(|()| Listener::bind(IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap());
    let peers = listeners.each_ref().map(|listener| listener.address().unwrap());
    // Comes first, knows another secret, and is refused.
    let mut stranger = std::net::TcpStream::connect(peers[0]).unwrap();
    let (done, over) = channel();
    let refused = std::thread::spawn(move || {
        let result = Secret::random().unwrap().shake_hands(&mut stranger, secret::Side::Caller);
        over.recv().unwrap();
        result
    });
    std::thread::scope(|scope| {
        for (rank, listener) in listeners.into_iter().enumerate() {
            let (peers, secret) = (&peers, &secret);
            scope.spawn(move || {
                let mesh = Mesh::tcp(listener, rank, peers, secret, PATIENCE).unwrap();
                let mut sum = [1.0; 4];
                mesh.group(&[0, 1]).all_reduce(&mut sum).unwrap();
                assert_eq!(sum, [2.0; 4]);
            });
        }
    });
    done.send(()).unwrap();
    assert!(refused.join().unwrap().is_err());
}

fn links(time_scale: f64) -> Links {
    let class = |span, alpha, gbps| LinkClass {
        span,
        ring_alpha_us: alpha,
        ring_gbps: gbps,
        send_alpha_us: 30.0,
        send_gbps: gbps,
    };
    Links {
        classes: vec![class(2, 57.6, 23.67), class(4, 315.0, 3.75)],
        time_scale,
        bytes_per_value: 2.0,
        compute_scale: None,
    }
}

#[test]
fn the_nearest_class_that_holds_a_group_counts() {
    let links = links(1.0);
    let span = |ranks: &[usize]| links.class(ranks).map(|class| class.span);
    assert_eq!([span(&[0, 1]), span(&[2, 3]), span(&[1, 2]), span(&[0, 1, 2, 3])], [2, 2, 4, 4].map(Some));
    assert_eq!(span(&[3, 4]), None);
    // 315 us + 2 x 3/4 x 7500 x 2 B / 3.75 GB/s = 321 us
    assert_eq!(links.all_reduce_ns(&links.classes[1], 4, 7500), 321_000);
}

/// Scaled to milliseconds. No message is ever early; that a busy machine makes some late is what lateness is for, so the quickest
/// of several is held to the plan.
#[test]
fn emulated_messages_take_their_planned_time() {
    // When each sender began; on this machine all ranks read one clock.
    let began = [const { AtomicU64::new(0) }; 2];
    let results = on_mesh(Transport::SharedMemory, 4, Some(links(20.0)), |rank, mesh| {
        let mut all = mesh.group(&[0, 1, 2, 3]);
        let mut pair = mesh.group(&[rank % 2, rank % 2 + 2]);
        let all_reduce = |_| {
            let entered = monotonic_ns();
            all.all_reduce(&mut [1.0; 7500]).unwrap();
            since(entered)
        };
        let quickest = (0..15).map(all_reduce).min().unwrap();
        let send = |_| {
            all.all_reduce(&mut [0.0]).unwrap();
            if rank < 2 {
                began[rank].store(monotonic_ns(), Ordering::SeqCst);
                pair.send(1, &vec![1.0; 300_000]).unwrap();
            } else {
                pair.recv(0, &mut vec![0.0; 300_000]).unwrap();
            }
            since(began[rank % 2].load(Ordering::SeqCst))
        };
        (quickest, (0..9).map(send).min().unwrap(), mesh.lateness())
    });
    let ratio = |time: Duration, planned_ms: f64| time.as_secs_f64() * 1e3 / planned_ms;
    for (rank, (all_reduce, send, lateness)) in results.iter().enumerate() {
        assert!((1.0..1.5).contains(&ratio(*all_reduce, 6.42)), "{all_reduce:?}");
        // (30 us + 600 kB / 3.75 GB/s) x 20, from when the sender began
        assert!(rank < 2 || (1.0..1.5).contains(&ratio(*send, 3.8)), "{send:?}");
        assert!(lateness.messages >= 24 && lateness.planned_ns > 0, "{lateness:?}");
    }
}

/// A link that is asked for more than this machine can move is found late, not on time.
#[test]
fn what_cannot_keep_its_plan_is_late() {
    let lateness = on_mesh(Transport::SharedMemory, 4, Some(links(1e-6)), |_, mesh| {
        mesh.group(&[0, 1, 2, 3]).all_reduce(&mut vec![1.0; 1 << 18]).unwrap();
        mesh.lateness()
    });
    for lateness in lateness {
        assert!(lateness.late_ns > lateness.planned_ns && lateness.worst_ns > 0, "{lateness:?}");
    }
}

/// Eight ranks on however few cores: a device that computes eight times slower than a core takes eight times the processor time of its
/// rank, whoever else computes, and the slowest rank of a collective decides.
#[test]
fn an_emulated_device_computes_at_its_own_speed() {
    let scaled = Links { compute_scale: Some(8.0), ..links(20.0) };
    let results = on_mesh(Transport::SharedMemory, 4, Some(scaled), |rank, mesh| {
        let mut all = mesh.group(&[0, 1, 2, 3]);
        let step = |_| {
            all.all_reduce(&mut [0.0]).unwrap();
            mesh.begin_step(monotonic_ns());
            let (began, computed) = (mesh.now_ns(), thread_cpu_ns());
            while thread_cpu_ns() - computed < 2_000_000 + 500_000 * rank as u64 {}
            all.all_reduce(&mut [1.0; 7500]).unwrap();
            let end = mesh.end_step();
            assert!(monotonic_ns() >= end, "a step is not over before its device is done");
            (end - began) as f64 / 1e6
        };
        (0..9).map(step).fold(f64::INFINITY, f64::min)
    });
    for step_ms in results {
        // 3.5 ms of rank 3, eight times; then the all-reduce. A rank that began later has less of it before it.
        assert!((28.0..34.42 * 1.3).contains(&step_ms), "{step_ms}");
    }
}

/// They connect first and say nothing, for which whoever greets them gives them 5 s.
#[test]
fn strangers_that_say_nothing_hold_nobody_up() {
    let secret = Secret::random().unwrap();
    let listeners = [(); 3].map(|()| Listener::bind(IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap());
    let peers: Vec<_> = listeners.iter().map(|listener| listener.address().unwrap()).collect();
    let connect = |peer: &std::net::SocketAddr| [(); 4].map(|()| TcpStream::connect(peer).unwrap());
    let silent: Vec<_> = peers.iter().map(connect).collect();
    let began = monotonic_ns();
    std::thread::scope(|scope| {
        for (rank, listener) in listeners.into_iter().enumerate() {
            let (peers, secret) = (&peers, &secret);
            scope.spawn(move || {
                let mesh = Mesh::tcp(listener, rank, peers, secret, PATIENCE).unwrap();
                mesh.group(&[0, 1, 2]).all_reduce(&mut [1.0]).unwrap();
            });
        }
    });
    assert!(since(began) < Duration::from_secs(4), "{:?}", since(began));
    drop(silent);
}

#[test]
fn a_rank_that_waits_says_for_whom() {
    for transport in [Transport::SharedMemory, Transport::Tcp] {
        let activity = Arc::new(Activity::default());
        activity.begin(Doing::Computing { batch: 1 });
        let until_0_waits_for = |rank: u32| {
            let began = monotonic_ns();
            while activity.seen().doing != (Doing::Waiting { rank }) {
                let seen = activity.seen();
                assert!(since(began) < PATIENCE, "{transport:?}: expected it to wait for {rank}: {seen:?}");
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        on_mesh(transport, 3, None, |rank, mesh| {
            if rank == 0 {
                mesh.tell(&activity);
            }
            let (mut all, mut value) = (mesh.group(&[0, 1, 2]), [1.0]);
            if rank == 2 {
                until_0_waits_for(2);
            }
            all.all_reduce(&mut value).unwrap();
            match rank {
                0 => all.recv(1, &mut value).unwrap(),
                1 => {
                    until_0_waits_for(1);
                    all.send(0, &value).unwrap();
                }
                _ => {}
            }
        });
        assert_eq!(activity.seen().doing, Doing::Computing { batch: 1 }, "{transport:?}: it goes on");
    }
}

/// A rank's wire that receives only once all others have gone as far as they can without it.
struct Laggard {
    sockets: Sockets,
    others: Vec<Arc<Activity>>,
    /// Bytes in its fullest inbox then, at most.
    most: Arc<AtomicUsize>,
}

impl Laggard {
    /// All of them wait or are done, and still do at the next look.
    fn until_others_rest(&self) {
        let began = monotonic_ns();
        let look = || self.others.iter().map(|other| other.seen()).collect::<Vec<Seen>>();
        let rests = |seen: &Seen| matches!(seen.doing, Doing::Waiting { .. } | Doing::Idle);
        let mut before = look();
        loop {
            std::thread::sleep(Duration::from_millis(1));
            let now = look();
            let stays = |(now, before): (&Seen, &Seen)| rests(now) && now.turns == before.turns;
            if now.iter().zip(&before).all(stays) {
                return;
            }
            assert!(since(began) < PATIENCE, "expected the others to wait for this rank: {now:?}");
            before = now;
        }
    }
}

impl Wire for Laggard {
    fn rank(&self) -> usize {
        self.sockets.rank()
    }

    fn world(&self) -> usize {
        self.sockets.world()
    }

    fn send(&mut self, to: usize, bytes: &[u8]) -> Result<(), CommError> {
        self.sockets.send(to, bytes)
    }

    fn recv(&mut self, from: usize, bytes: &mut [u8]) -> Result<(), CommError> {
        self.until_others_rest();
        self.most.fetch_max(self.sockets.waiting_bytes(), Ordering::SeqCst);
        self.sockets.recv(from, bytes)
    }

    fn tell(&mut self, activity: &Arc<Activity>) {
        self.sockets.tell(activity);
    }
}

/// Sums and gathers by every algorithm, one after the other, on ranks over TCP of which one lags: the bytes in its fullest inbox, at most.
fn ahead_of(laggard: usize, world: usize) -> usize {
    use Algorithm::{Direct, Doubling, Halving};
    let secret = Secret::random().unwrap();
    let listeners: Vec<Listener> =
        (0..world).map(|_| Listener::bind(IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap()).collect();
    let peers: Vec<_> = listeners.iter().map(|listener| listener.address().unwrap()).collect();
    let activities: Vec<Arc<Activity>> = (0..world).map(|_| Arc::default()).collect();
    let (most, everyone) = (Arc::new(AtomicUsize::new(0)), (0..world).collect::<Vec<usize>>());
    let all_done = Barrier::new(world);
    let wire = |rank: usize, mut listener: Listener| -> Arc<Mutex<dyn Wire>> {
        listener.tell(&activities[rank]);
        let sockets = listener.join(rank, &peers, &secret, PATIENCE).unwrap();
        if rank != laggard {
            return Arc::new(Mutex::new(sockets));
        }
        let others = everyone.iter().filter(|other| **other != rank);
        let others = others.map(|other| Arc::clone(&activities[*other])).collect();
        Arc::new(Mutex::new(Laggard { sockets, others, most: Arc::clone(&most) }))
    };
    let work = |rank: usize, listener: Listener| {
        let wire = wire(rank, listener);
        activities[rank].begin(Doing::Computing { batch: 1 });
        for algorithm in [Direct, Doubling, Halving] {
            for length in [1000, 2 * PIECE + 1, 5 * PIECE + 13] {
                let mut group = Group::new(Arc::clone(&wire), &everyone, None, Some(algorithm));
                group.all_reduce(&mut values(rank, length)).unwrap();
                group.all_gather(&values(rank, length), &mut vec![0.0; world * length]).unwrap();
            }
        }
        activities[rank].begin(Doing::Idle);
        all_done.wait();
    };
    std::thread::scope(|scope| {
        for (rank, listener) in listeners.into_iter().enumerate() {
            let work = &work;
            scope.spawn(move || work(rank, listener));
        }
    });
    most.load(Ordering::SeqCst)
}

/// An inbox over TCP has no other bound, and a ring in shared memory must hold as much.
#[test]
fn in_collectives_nobody_is_further_ahead_than_two_pieces_and_a_value() {
    for world in [2, 3, 4] {
        for laggard in [0, world - 1] {
            let (most, piece) = (ahead_of(laggard, world), PIECE * size_of::<f32>());
            let expected = piece + 1..=2 * piece + size_of::<f32>();
            assert!(expected.contains(&most), "{world} ranks, {laggard} lags: {most} bytes");
        }
    }
}
