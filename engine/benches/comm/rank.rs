//! What one rank's process does: meets the others, and measures.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use camino::Utf8Path;
use chariot_engine::comm::secret::Secret;
use chariot_engine::comm::tcp::Listener;
use chariot_engine::comm::{Algorithm, Communicator, LinkClass, Links, Mesh, Patience};

const PATIENCE: Duration = Duration::from_secs(60);
const ROUNDS: usize = 3;
/// Bytes of the messages.
const SIZES: [usize; 6] = [8 << 10, 32 << 10, 128 << 10, 512 << 10, 2 << 20, 8 << 20];
const PACED_SIZES: [usize; 3] = [8 << 10, 128 << 10, 1 << 20];
/// Of emulated times, so that this machine is quick enough for their plans.
const TIME_SCALE: f64 = 20.0;

pub(crate) const HEADER: &str = "Best / median us (GB/s by the median) of a call on rank 0.\n\n\
     | transport | ranks | size | flat | doubling | halving | direct | ring | all_gather, a rank's part | send, one way |\n\
     |---|---|---|---|---|---|---|---|---|---|";
pub(crate) const PACED_HEADER: &str = "Emulated links, calls in a row by the clock: how much longer than planned, median (mean).\n\n\
     | transport | link class | ranks | size | all-reduce: planned us | longer by | recorded as late | send: planned us | longer by |\n\
     |---|---|---|---|---|---|---|---|---|";

type Call<'a> = Box<dyn FnMut() + 'a>;

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn now() -> Instant {
    Instant::now()
}

pub(crate) fn run(rank: usize, world: usize, transport: &str, what: &str, ip: IpAddr) -> anyhow::Result<()> {
    let mut mesh = meet(rank, world, transport, ip)?;
    match what {
        "paced" => paced(rank, world, transport, &mut mesh),
        _ => collectives(rank, world, transport, &mesh),
    }
    // Nobody leaves while others still talk.
    mesh.group(&(0..world).collect::<Vec<_>>()).all_reduce(&mut [0.0])?;
    Ok(())
}

fn meet(rank: usize, world: usize, transport: &str, ip: IpAddr) -> anyhow::Result<Mesh> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let listener = Listener::bind(ip)?;
    println!("{}", listener.address()?);
    let mut peers = String::new();
    std::io::stdin().read_line(&mut peers)?;
    if transport == "shm" {
        let cores = std::thread::available_parallelism()?.get();
        let patience =
            if world <= cores { Patience::own_cores(PATIENCE) } else { Patience::shared_cores(PATIENCE) };
        return Ok(Mesh::shared_memory(Utf8Path::new(line.trim()), rank, world, patience)?);
    }
    let peers = peers.split_whitespace().map(str::parse).collect::<Result<Vec<SocketAddr>, _>>()?;
    Ok(Mesh::tcp(listener, rank, &peers, &Secret::from_hex(line.trim())?, PATIENCE)?)
}

/// Microseconds of each of `count` calls, the algorithms in turn.
fn interleaved(count: usize, calls: &mut [Call<'_>]) -> Vec<Vec<f64>> {
    let mut times = vec![Vec::new(); calls.len()];
    for round in 0..=ROUNDS {
        for (call, times) in calls.iter_mut().zip(&mut times) {
            for _ in 0..count.div_ceil(ROUNDS) {
                let began = now();
                call();
                let us = began.elapsed().as_secs_f64() * 1e6;
                // The first round warms up.
                times.extend((round > 0).then_some(us));
            }
        }
    }
    times
}

fn cell(mut times: Vec<f64>, bytes: usize, calls_a_time: f64) -> String {
    if times.is_empty() {
        return "-".to_owned();
    }
    times.sort_by(f64::total_cmp);
    let (best, median) = (times[0] / calls_a_time, times[times.len() / 2] / calls_a_time);
    let shown = |us: f64| if us < 100.0 { format!("{us:.1}") } else { format!("{us:.0}") };
    format!("{} / {} ({:.2})", shown(best), shown(median), bytes as f64 / median / 1e3)
}

fn collectives(rank: usize, world: usize, transport: &str, mesh: &Mesh) {
    let everyone: Vec<usize> = (0..world).collect();
    for bytes in SIZES {
        let count = match bytes {
            ..=32_768 => 300,
            32_769..=524_288 => 60,
            _ => 15,
        };
        let length = bytes / size_of::<f32>();
        let algorithms = [Algorithm::Flat, Algorithm::Doubling, Algorithm::Halving, Algorithm::Direct];
        let is_there = |algorithm: &Algorithm| *algorithm != Algorithm::Flat || transport == "shm";
        let mut calls: Vec<Call<'_>> = Vec::new();
        for algorithm in algorithms.into_iter().filter(is_there) {
            let mut group = mesh.group_by(&everyone, Some(algorithm));
            let mut data = vec![0.0; length];
            calls.push(Box::new(move || group.all_reduce(&mut data).expect("peers are there")));
        }
        let mut group = mesh.group(&everyone);
        let (mut data, mut part) = (vec![0.0; length], vec![0.0; length.div_ceil(world)]);
        calls.push(Box::new(move || ring(&mut *group, &mut data, &mut part)));
        let mut group = mesh.group(&everyone);
        let (mine, mut all) = (vec![0.0; length], vec![0.0; length * world]);
        calls.push(Box::new(move || group.all_gather(&mine, &mut all).expect("peers are there")));
        if rank < 2 {
            let mut pair = mesh.group(&[0, 1]);
            let mut data = vec![0.0; length];
            calls.push(Box::new(move || ping(&mut *pair, &mut data)));
        }
        let mut cells: Vec<String> = Vec::new();
        let times = interleaved(count, &mut calls);
        let last = times.len() - 1;
        for (number, times) in times.into_iter().enumerate() {
            cells.push(cell(times, bytes, if number == last { 2.0 } else { 1.0 }));
        }
        if transport != "shm" {
            cells.insert(0, "-".to_owned());
        }
        if rank == 0 {
            println!("| {transport} | {world} | {} KB | {} |", bytes >> 10, cells.join(" | "));
        }
    }
}

/// There and back.
fn ping(pair: &mut dyn Communicator, data: &mut [f32]) {
    let peer = 1 - pair.rank();
    let result = match pair.rank() {
        0 => pair.send(peer, data).and_then(|()| pair.recv(peer, data)),
        _ => pair.recv(peer, data).and_then(|()| pair.send(peer, data)),
    };
    result.expect("the peer is there");
}

/// Parts go round a ring twice: once to be summed, once to be known. What the engine did before, to compare with.
fn ring(group: &mut dyn Communicator, data: &mut [f32], scratch: &mut [f32]) {
    const PIECE: usize = 1 << 14;
    let (size, me) = (group.size(), group.rank());
    let each = data.len() / size;
    for round in 0..2 * (size - 1) {
        let [sent, received] = [0, 1].map(|back| (me + 2 * size - round - back) % size * each);
        for at in (0..each).step_by(PIECE) {
            let count = PIECE.min(each - at);
            group.send((me + 1) % size, &data[sent + at..][..count]).expect("peers are there");
            let scratch = &mut scratch[..count];
            group.recv((me + size - 1) % size, scratch).expect("peers are there");
            let part = &mut data[received + at..][..count];
            if round < size - 1 {
                part.iter_mut().zip(scratch).for_each(|(sum, value)| *sum += *value);
            } else {
                part.copy_from_slice(scratch);
            }
        }
    }
}

/// The classes of pipelines/platforms/cpu-2x4.yaml.
fn links() -> Links {
    let class = |span, ring_alpha_us, ring_gbps, send_gbps| LinkClass {
        span,
        ring_alpha_us,
        ring_gbps,
        send_alpha_us: 30.0,
        send_gbps,
    };
    let classes =
        vec![class(2, 40.4, 195.0, 195.0), class(4, 57.6, 23.67, 23.67), class(8, 315.0, 3.75, 2.35)];
    Links { classes, time_scale: TIME_SCALE, bytes_per_value: 4.0, compute_scale: None }
}

fn paced(rank: usize, world: usize, transport: &str, mesh: &mut Mesh) {
    const CALLS: usize = 25;
    mesh.emulate(links());
    let mut everyone = mesh.group(&(0..world).collect::<Vec<_>>());
    for (name, size) in [("NVLink pair", 2), ("PCIe node", 4), ("Ethernet", 8)] {
        for bytes in PACED_SIZES {
            everyone.all_reduce(&mut [0.0]).expect("peers are there");
            if rank >= size {
                continue;
            }
            let mut group = mesh.group(&(0..size).collect::<Vec<_>>());
            let mut data = vec![0.0; bytes / size_of::<f32>()];
            group.all_reduce(&mut data).expect("peers are there");
            let reduce = share(mesh, CALLS, 1.0, || group.all_reduce(&mut data).expect("peers are there"));
            // Over the farthest link of the class: between its first rank and its last.
            let is_end = rank == 0 || rank + 1 == size;
            let mut pair = is_end.then(|| mesh.group(&[0, size - 1]));
            let send = pair.as_mut().map(|pair| share(mesh, CALLS, 2.0, || ping(&mut **pair, &mut data)));
            if let Some(send) = send.filter(|_| rank == 0) {
                let shown = |share: &Share| {
                    format!("{:.0} | {:.2} % ({:.2} %)", share.planned_us, share.median, share.mean)
                };
                println!(
                    "| {transport} | {name} | {size} | {} KB | {} | {:.2} % | {} |",
                    bytes >> 10,
                    shown(&reduce),
                    reduce.late,
                    shown(&send)
                );
            }
        }
    }
}

/// What calls were planned to take, us, and how much longer they took by the clock: the median and the mean, percent; and how much of
/// that was recorded as late.
struct Share {
    planned_us: f64,
    median: f64,
    mean: f64,
    late: f64,
}

/// Of `calls` calls, each of which is `messages` planned messages in a row, one of them recorded here.
fn share(mesh: &Mesh, calls: usize, messages: f64, mut call: impl FnMut()) -> Share {
    let first = mesh.lateness();
    let mut longer: Vec<f64> = Vec::new();
    for _ in 0..calls {
        let before = mesh.lateness().planned_ns;
        let began = now();
        call();
        let taken = began.elapsed().as_secs_f64() * 1e9;
        let planned = messages * (mesh.lateness().planned_ns - before) as f64;
        longer.push(100.0 * (taken / planned - 1.0));
    }
    let last = mesh.lateness();
    let planned = (last.planned_ns - first.planned_ns) as f64;
    longer.sort_by(f64::total_cmp);
    Share {
        planned_us: planned / calls as f64 / 1e3,
        median: longer[calls / 2],
        mean: longer.iter().sum::<f64>() / calls as f64,
        late: 100.0 * (last.late_ns - first.late_ns) as f64 / planned,
    }
}
