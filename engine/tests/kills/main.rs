//! Workers and drivers that are killed or stopped at random instants, from the start of their process to its end: every time one clear
//! error that names the rank, soon, and nothing left behind; and a rerun passes. And workers that hang without being stopped.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a failed test shows its seed and its instants"
)]

mod bed;

use std::sync::Mutex;

use bed::{Bed, Cage, Ending, Run, Transport, WORLD, Worker, now};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::process::Signal;

/// A run is over at the latest this long after a worker was killed or stopped.
const SECONDS_MAX: f64 = 5.0;
const KILLS: usize = 50;
const STOPS: usize = 8;
const DRIVER_KILLS: usize = 40;
/// Instants that came after the end of a worker prove nothing and are drawn anew, at most so many a kill.
const DRAWS: usize = 10;

/// `CHARIOT_SEED=N` repeats the instants of a failed run, as far as a machine repeats itself.
fn seeded(what: &str) -> ChaCha8Rng {
    let given = std::env::var("CHARIOT_SEED").ok().map(|seed| seed.parse().unwrap());
    let seed = given.unwrap_or_else(|| u64::from(std::process::id()) ^ now().to_bits());
    println!("{what}: CHARIOT_SEED={seed}");
    ChaCha8Rng::seed_from_u64(seed)
}

/// One worker that is sent a signal within one phase of a run.
#[derive(Debug, Clone, Copy)]
struct Strike {
    number: usize,
    victim: usize,
    phase: usize,
    signal: Signal,
}

impl Strike {
    /// Strikes a run at instant `random` (0 to 1) of the phase, and returns the run and the victim; `None` if that was over before.
    fn hit(&self, bed: &Bed, random: f64) -> Option<(Run, Worker)> {
        bed.clear(self.number);
        let mut run = bed.start(self.number);
        let worker = run.worker(self.victim)?;
        let [from, to] = [self.phase, self.phase + 1].map(|phase| bed.phases()[phase]);
        sleep_until(now() + from + random * (to - from));
        worker.send(self.signal)?;
        Some((run, worker))
    }

    /// How the run then ended, which is as it should; `None` if the victim's work was done before.
    fn see(&self, bed: &Bed, mut run: Run, worker: &Worker) -> Option<Ending> {
        let ending = run.end(SECONDS_MAX);
        if ending.code == Some(0) {
            assert!(bed.is_whole(self.number), "success means whole results");
            return None;
        }
        let said = format!("error: rank {} (process {}): ", self.victim, worker.pid());
        let Ending { stderr, .. } = &ending;
        assert_eq!(ending.code, Some(1), "{self:?}: {stderr}");
        assert_eq!(stderr.matches("error: ").count(), 1, "{self:?}: one error: {stderr}");
        assert!(stderr.contains(&said), "{self:?}: expected `{said}`: {stderr}");
        assert!(ending.stdout.is_empty(), "{self:?}: no half result: {}", ending.stdout);
        assert_eq!(bed.outputs(self.number), [""; 0], "{self:?}: no half-written output");
        assert_eq!(run.memory_files(), [""; 0], "{self:?}: nothing is left in memory");
        Some(ending)
    }
}

fn sleep_until(at: f64) {
    while now() < at {
        std::thread::sleep(std::time::Duration::from_micros(100));
    }
}

fn kills(transport: Transport) {
    let bed = Bed::new(transport);
    let mut random = seeded("kills");
    let mut slowest: f64 = 0.0;
    for kill in 0..KILLS {
        let strike =
            Strike { number: kill, victim: kill % WORLD, phase: kill / WORLD % 4, signal: Signal::KILL };
        let ending = (0..DRAWS).find_map(|_| {
            let (run, worker) = strike.hit(&bed, random.random())?;
            strike.see(&bed, run, &worker)
        });
        let ending = ending.unwrap_or_else(|| panic!("{strike:?}: its work was done before, {DRAWS} times"));
        assert!(ending.stderr.contains("was killed by signal 9 (SIGKILL)"), "{}", ending.stderr);
        slowest = slowest.max(ending.seconds);
        bed.rerun(kill);
    }
    println!("{transport:?}: {KILLS} kills, the slowest run was over after {slowest:.3} s");
}

#[test]
fn a_worker_killed_at_any_instant_is_named_over_shared_memory() {
    kills(Transport::SharedMemory);
}

#[test]
fn a_worker_killed_at_any_instant_is_named_over_tcp() {
    kills(Transport::Tcp);
}

#[test]
fn a_worker_stopped_at_any_instant_is_named_in_time() {
    for transport in [Transport::SharedMemory, Transport::Tcp] {
        let bed = Bed::new(transport);
        let mut random = seeded("stops");
        let instants: Vec<[f64; DRAWS]> = (0..STOPS).map(|_| random.random()).collect();
        // Runs are struck one at a time, and then wait together.
        let gate = Mutex::new(());
        std::thread::scope(|scope| {
            for (stop, instants) in instants.iter().enumerate() {
                let (bed, gate) = (&bed, &gate);
                let strike =
                    Strike { number: stop, victim: stop % WORLD, phase: stop / 2 % 4, signal: Signal::STOP };
                scope.spawn(move || {
                    let ending = instants.iter().find_map(|instant| {
                        let hit = gate.lock().map(|_turn| strike.hit(bed, *instant)).unwrap();
                        hit.and_then(|(run, worker)| strike.see(bed, run, &worker))
                    });
                    let ending = ending.unwrap_or_else(|| panic!("{strike:?}: its work was done before"));
                    println!("{transport:?} {strike:?}: {:.2} s, {}", ending.seconds, ending.stderr);
                });
            }
        });
        bed.rerun(STOPS);
    }
}

/// Whether this build has ranks that hang on purpose.
fn can_hang() -> bool {
    if !cfg!(debug_assertions) {
        eprintln!("SKIPPED: an optimized build has no rank that hangs on purpose; nothing was tested");
    }
    cfg!(debug_assertions)
}

/// The run of a rank that hangs on purpose ended as it should.
fn check_hang(hang: &str, ending: &Ending, said: &[&str]) {
    let Ending { code, stdout, stderr, seconds } = ending;
    println!("{hang}: {seconds:.2} s, {stderr}");
    let victim = hang.split(':').nth(1).unwrap();
    assert_eq!(*code, Some(1), "{hang}: {stderr}");
    assert_eq!(stderr.matches("error: ").count(), 1, "{hang}: one error: {stderr}");
    let error = stderr.lines().find(|line| line.starts_with("error: ")).unwrap();
    assert!(error.starts_with(&format!("error: rank {victim} (process ")), "{hang}: {error}");
    for said in said {
        assert!(error.contains(said), "{hang}: expected `{said}`: {error}");
    }
    assert!(stdout.is_empty(), "{hang}: no half result: {stdout}");
    // Where warming up took long, on a busy machine, a batch has longer, and the error says how long.
    let limit =
        error.split_once(" within ").and_then(|(_, rest)| rest.split(' ').next()?.parse::<f64>().ok());
    let most = SECONDS_MAX + (limit.unwrap_or(4.0) - 4.0);
    assert!(*seconds < most, "{hang}: expected the end within {most} s, found {seconds:.2}: {error}");
}

/// One thread hangs; those that say that the rank is alive go on. Four steps are the warm-up's.
#[test]
fn a_rank_that_blocks_or_spins_is_named_in_time() {
    if !can_hang() {
        return;
    }
    for transport in [Transport::SharedMemory, Transport::Tcp] {
        let bed = Bed::new(transport);
        // Those that take no processor wait together.
        std::thread::scope(|scope| {
            let cases =
                [("block:0:9", " wait for it"), ("block:3:8", "computing batch"), ("block:2:0", "loading")];
            for (number, (hang, said)) in cases.into_iter().enumerate() {
                let bed = &bed;
                scope.spawn(move || {
                    let ending = bed.start_hanging(number, hang).end_after_hang();
                    check_hang(hang, &ending, &[said, ", without using its processor for "]);
                    assert_eq!(bed.outputs(number), [""; 0], "{hang}: no half-written output");
                });
            }
        });
        for hang in ["spin:1:9", "spin:2:3"] {
            let ending = bed.start_hanging(0, hang).end_after_hang();
            let said = ["hung: expected the tokens of batch ", "; it has been computing batch "];
            check_hang(hang, &ending, &said);
            assert_eq!(bed.outputs(0), [""; 0], "{hang}: no half-written output");
        }
        bed.rerun(0);
    }
}

/// However many wait for it, and wake now and then to look.
#[test]
fn one_of_eight_ranks_that_blocks_is_named_in_time() {
    if can_hang() {
        let said = [", without using its processor for ", " wait for it"];
        check_hang("block:5:7", &bed::generate_hanging("block:5:7"), &said);
    }
}

#[test]
fn a_driver_killed_at_any_instant_takes_its_workers_along() {
    for transport in [Transport::SharedMemory, Transport::Tcp] {
        let bed = Bed::new(transport);
        let mut random = seeded("drivers");
        for kill in 0..DRIVER_KILLS / 2 {
            let mut run = bed.start(kill);
            // From before its first worker to after its last.
            sleep_until(now() + random.random::<f64>() * 1.2 * bed.phases()[4]);
            run.kill_driver();
            let began = now();
            while !run.left().is_empty() && now() - began < SECONDS_MAX {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            assert_eq!(run.left(), [0; 0], "workers outlived their driver");
            assert_eq!(run.memory_files(), [""; 0], "nothing is left in memory");
            if kill % 5 == 0 {
                bed.rerun(kill);
            }
        }
    }
}

/// As by a person at a terminal: longer than any silence that a driver bears.
#[test]
fn a_whole_run_that_is_stopped_and_goes_on_passes() {
    const AWAY: f64 = 4.5;
    let bed = Bed::new(Transport::SharedMemory);
    let mut random = seeded("stopped runs");
    for number in 0..DRAWS {
        bed.clear(number);
        let mut run = bed.start(number);
        let Some(_) = run.worker(WORLD - 1) else { continue };
        sleep_until(now() + random.random::<f64>() * bed.phases()[4]);
        if run.signal_all(Signal::STOP).is_none() {
            continue;
        }
        sleep_until(now() + AWAY);
        run.signal_all(Signal::CONT).unwrap();
        let ending = run.end(60.0);
        assert_eq!(ending.code, Some(0), "{}", ending.stderr);
        assert!(bed.is_whole(number), "{:?}", bed.outputs(number));
        return;
    }
    panic!("every run was over before it was stopped");
}

#[test]
fn memory_that_the_system_refuses_is_asked_for_in_words() {
    // 80 GB a rank, of the 4 GB that it may have.
    let ending = bed::generate_within(4_000_000, 20_000_000);
    let Ending { code, stdout, stderr, .. } = &ending;
    assert_eq!(*code, Some(1), "{stderr}");
    assert_eq!(stderr.matches("error: ").count(), 1, "one error: {stderr}");
    let said = "expected memory for a KV cache of ";
    assert!(stderr.contains("error: rank ") && stderr.contains(said), "{stderr}");
    assert!(stdout.is_empty(), "{stdout}");
}

#[test]
fn a_worker_killed_for_memory_is_named_with_the_cause() {
    let bed = Bed::new(Transport::SharedMemory);
    for number in 0..DRAWS {
        let mut run = bed.start(number);
        let Some(worker) = run.worker(2) else { continue };
        let Some(_cage) = Cage::around(&worker, 1 << 18) else {
            eprintln!("SKIPPED: this system permits no memory control group; nothing was tested");
            return;
        };
        let ending = run.end(SECONDS_MAX);
        if ending.code == Some(0) {
            // It had all the memory it ever needed before it was caged.
            continue;
        }
        let said = format!(
            "error: rank 2 (process {}): was killed by signal 9 (SIGKILL): memory ran out",
            worker.pid()
        );
        assert_eq!(ending.code, Some(1), "{}", ending.stderr);
        assert!(ending.stderr.contains(&said), "expected `{said}`: {}", ending.stderr);
        assert_eq!(bed.outputs(number), [""; 0], "no half-written output");
        return;
    }
    panic!("the worker never needed memory");
}
