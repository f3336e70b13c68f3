//! Which worker has stopped working, judged from what each says of itself and from looks at it. Pure: times are handed in.

use std::time::Duration;

use super::protocol::Beat;
use crate::comm::{Doing, Seen};

/// A worker that has said nothing for this long is taken for hung.
pub(super) const SILENCE_NS: u64 = 3_000_000_000;
/// A rank that is to compute and did not for this long hangs; and where no rank did, though something is asked of them, they wait for each other.
pub(super) const STALL_NS: u64 = 4_000_000_000;
/// A rank that used no more of a processor in that time did not compute: what heartbeats cost, and waking now and then to look for a peer, and a
/// little more. Of each rank by itself, so that many that wait do not look like one that computes.
const STALL_CPU_NS: u64 = 40_000_000;

/// What is told of a rank that is to compute: heartbeats are apart, and so a shorter time says nothing.
const IDLE_TOLD_NS: u64 = 1_000_000_000;

/// Between two looks there is never more time than this, unless the driver itself was stopped.
const ABSENCE_NS: u64 = 1_000_000_000;

/// How often processes are looked at until all are ready.
pub(super) const LOOK: Duration = Duration::from_millis(20);
/// A process that was seen stopped at so many looks in a row is not about to go on.
const STOPPED_LOOKS: u32 = 75;

/// How often in a row each rank was seen stopped. Counted in looks, so that a driver that was itself stopped and goes on gives its
/// workers time to do so too.
#[derive(Debug)]
pub(super) struct Looks {
    stopped: Vec<u32>,
    next_ns: u64,
}

impl Looks {
    /// None so far, at any of `ranks`.
    pub(super) fn new(ranks: usize) -> Self {
        Self { stopped: vec![0; ranks], next_ns: 0 }
    }

    /// Looks at every rank, unless that was done a moment ago; one that has been stopped for too long.
    pub(super) fn stopped(&mut self, now: u64, is_stopped: impl Fn(usize) -> bool) -> Option<usize> {
        if now < self.next_ns {
            return None;
        }
        self.next_ns = now + LOOK.as_nanos() as u64;
        for (rank, looks) in self.stopped.iter_mut().enumerate() {
            *looks = if is_stopped(rank) { *looks + 1 } else { 0 };
        }
        self.stopped.iter().position(|looks| *looks >= STOPPED_LOOKS)
    }
}

/// What was last heard of each rank.
#[derive(Debug)]
pub(super) struct Health {
    ranks: Vec<Pulse>,
    looked_ns: u64,
    /// For how long nobody looked in all.
    absent_ns: u64,
    /// When something was last asked of the ranks, or a batch came back.
    progressed_ns: u64,
    /// Whether a rank that computes uses its host's processor.
    on_host: bool,
}

#[derive(Debug, Clone, Copy)]
struct Pulse {
    heard_ns: u64,
    beat: Beat,
    /// When it last showed work, and its processor time then.
    work: (u64, u64),
}

impl Pulse {
    /// For how long it has done what it said last.
    fn for_ns(&self, now: u64) -> u64 {
        self.beat.seen.for_ns + now.saturating_sub(self.heard_ns)
    }

    fn idle_ns(&self, now: u64) -> u64 {
        now.saturating_sub(self.work.0)
    }

    fn doing(&self) -> Doing {
        self.beat.seen.doing
    }
}

/// Why a trial cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This rank is silent.
    Silent { rank: usize, ns: u64 },
    /// This rank was to compute, and did not.
    Blocked { rank: usize },
    /// No rank works, though something is asked of them; this one is waited for.
    Stalled { rank: usize, ns: u64 },
    /// A batch takes longer than it may; this rank is waited for.
    Late { rank: usize, batch: u32, limit_ns: u64 },
}

impl Health {
    /// All of `ranks` well at `now`. `on_host`: they compute on their hosts' processors.
    pub(super) fn new(ranks: usize, on_host: bool, now: u64) -> Self {
        let pulse = Pulse { heard_ns: now, beat: Beat::default(), work: (now, 0) };
        Self { ranks: vec![pulse; ranks], looked_ns: now, absent_ns: 0, progressed_ns: now, on_host }
    }

    /// A rank said something.
    pub(super) fn heard(&mut self, rank: usize, now: u64) {
        let Pulse { heard_ns, beat, .. } = &mut self.ranks[rank];
        beat.seen.for_ns += now.saturating_sub(*heard_ns);
        *heard_ns = now;
    }

    /// A rank said what it does. Whoever has begun something else, computed, read, or lets an emulated device have its time, works.
    pub(super) fn beat(&mut self, rank: usize, beat: Beat, now: u64) {
        let pulse = &mut self.ranks[rank];
        let Seen { doing, turns, .. } = beat.seen;
        let works = turns != pulse.beat.seen.turns
            || beat.reads
            || doing == Doing::Pacing
            || beat.cpu_ns >= pulse.work.1 + STALL_CPU_NS;
        if works {
            pulse.work = (now, beat.cpu_ns);
        }
        (pulse.heard_ns, pulse.beat) = (now, beat);
    }

    /// A batch or another order went out, or a batch came back.
    pub(super) fn progressed(&mut self, now: u64) {
        self.progressed_ns = now;
    }

    /// How long it has been since, without the driver's own absence. To be asked after the verdict.
    pub(super) fn since_progress_ns(&self) -> u64 {
        self.looked_ns.saturating_sub(self.progressed_ns)
    }

    /// The time by a clock that stands still while the driver is away. Called whenever something was heard or some 0.1 s have passed: time in
    /// which it was not called is the driver's own absence, and counts against nobody.
    pub(super) fn present_ns(&mut self, now: u64) -> u64 {
        let absent = now.saturating_sub(self.looked_ns);
        self.looked_ns = now;
        if absent > ABSENCE_NS {
            for pulse in &mut self.ranks {
                pulse.heard_ns = (pulse.heard_ns + absent).min(now);
                pulse.work.0 = (pulse.work.0 + absent).min(now);
            }
            self.progressed_ns = (self.progressed_ns + absent).min(now);
            self.absent_ns += absent;
        }
        now - self.absent_ns
    }

    /// What is wrong at `now`, if anything. `busy`: something is asked of the ranks.
    pub(super) fn verdict(&mut self, busy: bool, now: u64) -> Option<Verdict> {
        self.present_ns(now);
        let ranks = || self.ranks.iter().enumerate();
        let (rank, pulse) = ranks().min_by_key(|(_, pulse)| pulse.heard_ns)?;
        let ns = now.saturating_sub(pulse.heard_ns);
        if ns > SILENCE_NS {
            return Some(Verdict::Silent { rank, ns });
        }
        let on_host = self.on_host;
        let at_work = ranks().filter(|(_, pulse)| on_host && pulse.doing().is_work());
        if let Some((rank, pulse)) = at_work.max_by_key(|(_, pulse)| pulse.idle_ns(now))
            && pulse.idle_ns(now) > STALL_NS
        {
            return Some(Verdict::Blocked { rank });
        }
        let worked = ranks().map(|(_, pulse)| pulse.idle_ns(now)).min().unwrap_or(0);
        let ns = worked.min(now.saturating_sub(self.progressed_ns));
        (busy && ns > STALL_NS).then(|| Verdict::Stalled { rank: self.suspect(now), ns })
    }

    /// Whom the others wait for, as far as they say: of the ranks that are at something of their own, the one that has been for longest; where
    /// there is none, the one that is at the end of the waiting.
    pub(super) fn suspect(&self, now: u64) -> usize {
        let longest = |is_one: &dyn Fn(Doing) -> bool| {
            let ranks = self.ranks.iter().enumerate().filter(|(_, pulse)| is_one(pulse.doing()));
            // Of equal ones the first.
            ranks.rev().max_by_key(|(_, pulse)| pulse.for_ns(now)).map(|(rank, _)| rank)
        };
        if let Some(rank) = longest(&|doing| doing.is_work() || doing == Doing::Pacing) {
            return rank;
        }
        let Some(mut rank) = longest(&|doing| matches!(doing, Doing::Waiting { .. })) else { return 0 };
        // In a circle, it ends where it began or anywhere in it.
        for _ in &self.ranks {
            match self.ranks[rank].doing() {
                Doing::Waiting { rank: next } if (next as usize) < self.ranks.len() => rank = next as usize,
                _ => break,
            }
        }
        rank
    }

    /// Whether a rank waits for another.
    pub(super) fn waits(&self, rank: usize) -> bool {
        matches!(self.ranks[rank].doing(), Doing::Waiting { .. })
    }

    /// What a rank has been doing, and who waits for it.
    pub(super) fn story(&self, rank: usize, now: u64) -> String {
        let waits = |pulse: &Pulse| pulse.doing() == Doing::Waiting { rank: rank as u32 };
        let waiting: Vec<String> = (self.ranks.iter().enumerate())
            .filter(|(_, pulse)| waits(pulse))
            .map(|(other, _)| other.to_string())
            .collect();
        let pulse = &self.ranks[rank];
        let seconds = pulse.for_ns(now) as f64 / 1e9;
        let told = match &waiting[..] {
            [] => String::new(),
            [one] => format!("; rank {one} waits for it"),
            more => format!("; ranks {} wait for it", more.join(", ")),
        };
        let idle_ns = pulse.idle_ns(now);
        let idle = match self.on_host && pulse.doing().is_work() && idle_ns > IDLE_TOLD_NS {
            true => format!(", without using its processor for {:.1} s", idle_ns as f64 / 1e9),
            false => String::new(),
        };
        format!("it has been {} for {seconds:.1} s{idle}{told}", pulse.doing())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    /// However often it is asked in between, and only by looks in a row.
    #[test]
    fn a_rank_is_taken_for_stopped_after_looks_in_a_row_not_after_calls() {
        let mut looks = Looks::new(3);
        let step = S / 1000;
        let named = (0..5000).find(|ms| looks.stopped(ms * step, |rank| rank == 1 && *ms >= 40).is_some());
        assert_eq!(named, Some(40 + 74 * 20));
        let mut looks = Looks::new(1);
        let blinks = |look: u64| look % 75 != 74;
        assert!((0..1000).all(|look| looks.stopped(look * S, |_| blinks(look)).is_none()));
        let mut looks = Looks::new(1);
        assert!((0..74).all(|look| looks.stopped(look * S, |_| true).is_none()));
        // An hour's absence of the driver is one look.
        assert_eq!(looks.stopped(3600 * S, |_| false), None);
        assert_eq!(looks.stopped(3601 * S, |_| true), None);
    }

    /// A rank that has begun its `turns`th doing, so long ago.
    fn beat(cpu_ns: u64, doing: Doing, for_ns: u64, turns: u64) -> Beat {
        Beat { cpu_ns, seen: Seen { doing, for_ns, turns }, reads: false }
    }

    const BATCH: Doing = Doing::Computing { batch: 7 };

    fn waits(rank: u32) -> Doing {
        Doing::Waiting { rank }
    }

    /// Beats five times a second, of what each rank does from now on; the first verdict, and when.
    fn watch(
        doings: &[Doing],
        cpu_ns_per_s: impl Fn(usize) -> u64,
        seconds: u64,
    ) -> Option<(Verdict, Health)> {
        let mut health = Health::new(doings.len(), true, 0);
        for tick in 1..=5 * seconds {
            let now = tick * S / 5;
            for (rank, doing) in doings.iter().enumerate() {
                health.beat(rank, beat(cpu_ns_per_s(rank) * tick / 5, *doing, now, 1), now);
            }
            if let Some(verdict) = health.verdict(true, now) {
                return Some((verdict, health));
            }
        }
        None
    }

    #[test]
    fn a_silent_rank_is_named() {
        let mut health = Health::new(3, true, 0);
        for tick in 1..=34 {
            let now = tick * S / 10;
            for rank in [0, 2] {
                health.beat(rank, beat(now, BATCH, now, 1), now);
            }
            let verdict = health.verdict(false, now);
            let silent = Verdict::Silent { rank: 1, ns: now };
            assert_eq!(verdict, (now > SILENCE_NS).then_some(silent));
        }
    }

    #[test]
    fn ranks_that_talk_but_compute_nothing_are_stalled_only_while_something_is_asked_of_them() {
        let mut health = Health::new(2, true, 0);
        for tick in 1..=50 {
            let now = tick * S / 5;
            for rank in 0..2 {
                // 100 us of CPU a heartbeat, five a second: what being alive costs.
                health.beat(rank, beat(tick * 100_000, Doing::Idle, now, 1), now);
            }
            assert_eq!(health.verdict(false, now), None);
        }
        assert!(matches!(health.verdict(true, 10 * S), Some(Verdict::Stalled { .. })));
        health.progressed(9 * S);
        assert_eq!(health.verdict(true, 10 * S), None);
    }

    /// As when a person stops the whole run at a terminal and lets it go on an hour later.
    #[test]
    fn a_driver_that_was_away_blames_nobody() {
        let mut health = Health::new(2, true, 0);
        let hour = 3600 * S;
        assert_eq!(health.verdict(true, hour), None);
        assert_eq!(health.present_ns(hour + S / 10), S / 10, "its clock stood still");
        let later = |tick: u64| hour + tick * S / 10;
        for tick in 2..=35 {
            health.beat(0, beat(tick, Doing::Idle, 0, tick), later(tick));
            let verdict = health.verdict(true, later(tick));
            assert_eq!(verdict.is_some(), tick > 30, "{tick}: {verdict:?}");
        }
    }

    /// Ranks that wait for GPUs look at them, which is work but no progress.
    #[test]
    fn progress_is_a_batch_s_and_not_counted_while_the_driver_was_away() {
        let mut health = Health::new(1, false, 0);
        for tick in 1..=150 {
            let now = tick * S / 10 + if tick > 60 { 3600 * S } else { 0 };
            health.beat(0, beat(now, BATCH, now, 1), now);
            if tick == 40 {
                health.progressed(now);
            }
            assert_eq!(health.verdict(true, now), None);
            let since = match tick {
                ..40 => tick,
                40..=60 => tick - 40,
                // The first look after the hour is as if there had been no time since the one before.
                61.. => tick - 41,
            };
            assert_eq!(health.since_progress_ns(), since * S / 10, "{tick}");
        }
    }

    #[test]
    fn one_rank_at_work_is_enough() {
        let doings = [waits(3), waits(3), waits(3), BATCH];
        assert_eq!(watch(&doings, |rank| if rank == 3 { S / 2 } else { 0 }, 20).map(|found| found.0), None);
    }

    /// Each of them wakes 50 times a second to look for its peer. All of eight use more than one that computes must.
    #[test]
    fn however_many_wait_they_do_not_look_like_one_that_computes() {
        for world in [2, 8, 64] {
            let mut doings = vec![waits(1); world];
            doings[1] = Doing::Idle;
            let found = watch(&doings, |_| 50 * 100_000, 6).map(|(verdict, _)| verdict);
            assert!(matches!(found, Some(Verdict::Stalled { rank: 1, .. })), "{world}: {found:?}");
        }
    }

    #[test]
    fn a_rank_that_is_to_compute_and_does_not_is_named_whatever_the_others_do() {
        for doing in [BATCH, Doing::Loading, Doing::Answering] {
            let doings = [BATCH, waits(2), doing, waits(2)];
            let Some((verdict, health)) = watch(&doings, |rank| if rank == 0 { S } else { 0 }, 6) else {
                panic!("{doing:?}: expected a verdict");
            };
            assert_eq!(verdict, Verdict::Blocked { rank: 2 });
            let story = health.story(2, 5 * S);
            let idle = "without using its processor for 4.8 s";
            assert_eq!(story, format!("it has been {doing} for 5.0 s, {idle}; ranks 1, 3 wait for it"));
        }
    }

    #[test]
    fn who_reads_or_lets_a_device_have_its_time_or_begins_something_else_works() {
        let cases: [(Doing, bool, u64); 3] =
            [(Doing::Loading, true, 0), (Doing::Pacing, false, 0), (BATCH, false, 1)];
        for (doing, reads, turns) in cases {
            let mut health = Health::new(1, true, 0);
            for tick in 1..=100 {
                let now = tick * S / 5;
                health.beat(0, Beat { reads, ..beat(0, doing, 0, turns * tick) }, now);
                assert_eq!(health.verdict(true, now), None, "{doing:?}");
            }
        }
        let blocked = watch(&[Doing::Loading], |_| 0, 6).map(|(verdict, _)| verdict);
        assert!(matches!(blocked, Some(Verdict::Blocked { rank: 0 })), "{blocked:?}");
    }

    #[test]
    fn computing_takes_forty_milliseconds_in_four_seconds_at_least() {
        let is_blocked = |ms_per_s: u64| watch(&[BATCH], |_| ms_per_s * S / 1000, 20).is_some();
        assert!(is_blocked(9) && !is_blocked(11));
    }

    /// What it says of a batch comes between its beats, and is no beat.
    #[test]
    fn what_a_rank_does_goes_on_while_it_reports() {
        let mut health = Health::new(2, true, 0);
        health.beat(0, beat(0, BATCH, 3 * S, 1), 10 * S);
        health.beat(1, beat(0, BATCH, 2 * S, 1), 10 * S);
        health.heard(0, 12 * S);
        assert_eq!(health.suspect(12 * S), 0, "5 s, and the other 4");
        assert!(health.story(0, 12 * S).starts_with("it has been computing batch 7 for 5.0 s"));
    }

    /// What a GPU does takes no processor.
    #[test]
    fn a_rank_whose_device_computes_is_not_held_to_its_processor() {
        let mut health = Health::new(2, false, 0);
        for tick in 1..=30 {
            let now = tick * S / 5;
            health.beat(0, beat(0, BATCH, now, 1), now);
            health.beat(1, beat(now, BATCH, now, 1), now);
            assert_eq!(health.verdict(true, now), None);
        }
    }

    #[test]
    fn whom_the_others_wait_for_is_suspected() {
        let suspect = |beats: &[(Doing, u64)]| {
            let mut health = Health::new(beats.len(), true, 0);
            for (rank, (doing, for_s)) in beats.iter().enumerate() {
                health.beat(rank, beat(0, *doing, for_s * S, 1), 10 * S);
            }
            health.suspect(10 * S)
        };
        // Of two at work, the one that has been for longer; of equal ones the first.
        assert_eq!(suspect(&[(waits(1), 4), (BATCH, 4), (BATCH, 1), (waits(0), 9)]), 1);
        assert_eq!(suspect(&[(waits(2), 9), (BATCH, 4), (BATCH, 4)]), 1);
        // One whose emulated device is at work goes before whom the others say they wait for.
        assert_eq!(suspect(&[(waits(2), 9), (Doing::Pacing, 3), (Doing::Idle, 9)]), 1);
        // At the end of the waiting is one that waits for an order.
        assert_eq!(suspect(&[(waits(1), 4), (waits(3), 4), (Doing::Idle, 9), (Doing::Idle, 4)]), 3);
        // All in a circle, or all idle: any of them.
        assert!(suspect(&[(waits(1), 4), (waits(0), 3)]) < 2);
        assert_eq!(suspect(&[(Doing::Idle, 4), (Doing::Idle, 3)]), 0);
        // A rank that there is not.
        assert_eq!(suspect(&[(Doing::Idle, 4), (waits(7), 3)]), 1);
    }
}
