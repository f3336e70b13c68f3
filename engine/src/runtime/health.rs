//! Which worker has stopped working, judged from what each says of itself and from looks at it. Pure: times are handed in.

use std::time::Duration;

/// A worker that has said nothing for this long is taken for hung.
pub(super) const SILENCE_NS: u64 = 3_000_000_000;
/// Workers that together computed almost nothing for this long, with a batch under way, wait for each other.
pub(super) const STALL_NS: u64 = 4_000_000_000;
/// "Almost nothing": what heartbeats cost and a little more, in each stall window.
const STALL_CPU_NS: u64 = 40_000_000;

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
    /// When a batch last went out, or a stage was done with one.
    progress_ns: u64,
    /// When the ranks last showed work, and their CPU time then.
    work: (u64, u64),
}

#[derive(Debug, Clone, Copy)]
struct Pulse {
    heard_ns: u64,
    cpu_ns: u64,
}

/// Why a trial cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This rank is silent.
    Silent { rank: usize, ns: u64 },
    /// No rank works, though a batch is under way.
    Stalled { ns: u64 },
}

impl Health {
    /// All of `ranks` well at `now`.
    pub(super) fn new(ranks: usize, now: u64) -> Self {
        let ranks = vec![Pulse { heard_ns: now, cpu_ns: 0 }; ranks];
        Self { ranks, looked_ns: now, progress_ns: now, work: (now, 0) }
    }

    /// A rank said something; `cpu_ns` is what it has computed so far, if it said that.
    pub(super) fn heard(&mut self, rank: usize, cpu_ns: Option<u64>, now: u64) {
        let pulse = &mut self.ranks[rank];
        pulse.heard_ns = now;
        pulse.cpu_ns = cpu_ns.unwrap_or(pulse.cpu_ns).max(pulse.cpu_ns);
        let total = self.ranks.iter().map(|pulse| pulse.cpu_ns).sum();
        if total >= self.work.1 + STALL_CPU_NS {
            self.work = (now, total);
        }
    }

    /// A batch went out, or a stage is done with one: that is work.
    pub(super) fn progressed(&mut self, now: u64) {
        self.work.0 = now;
        self.progress_ns = now;
    }

    /// How long it has been since, without the driver's own absence. To be asked after the verdict.
    pub(super) fn since_progress_ns(&self) -> u64 {
        self.looked_ns.saturating_sub(self.progress_ns)
    }

    /// What is wrong at `now`, if anything. Called whenever something was heard or some 0.1 s have passed: time in which it was not
    /// called is the driver's own absence, and counts against nobody.
    pub(super) fn verdict(&mut self, busy: bool, now: u64) -> Option<Verdict> {
        let absent = now.saturating_sub(self.looked_ns);
        self.looked_ns = now;
        if absent > ABSENCE_NS {
            self.ranks.iter_mut().for_each(|pulse| pulse.heard_ns = (pulse.heard_ns + absent).min(now));
            self.work.0 += absent;
            self.progress_ns += absent;
        }
        let oldest = self.ranks.iter().enumerate().min_by_key(|(_, pulse)| pulse.heard_ns);
        let (rank, pulse) = oldest?;
        let ns = now.saturating_sub(pulse.heard_ns);
        if ns > SILENCE_NS {
            return Some(Verdict::Silent { rank, ns });
        }
        let ns = now.saturating_sub(self.work.0);
        (busy && ns > STALL_NS).then_some(Verdict::Stalled { ns })
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

    #[test]
    fn a_silent_rank_is_named() {
        let mut health = Health::new(3, 0);
        for tick in 1..=34 {
            let now = tick * S / 10;
            for rank in [0, 2] {
                health.heard(rank, Some(now), now);
            }
            let verdict = health.verdict(false, now);
            let silent = Verdict::Silent { rank: 1, ns: now };
            assert_eq!(verdict, (now > SILENCE_NS).then_some(silent));
        }
    }

    #[test]
    fn ranks_that_talk_but_compute_nothing_are_stalled_only_while_a_batch_is_under_way() {
        let mut health = Health::new(2, 0);
        for tick in 1..=50 {
            let now = tick * S / 5;
            for rank in 0..2 {
                // 100 us of CPU a heartbeat, five a second: what being alive costs.
                health.heard(rank, Some(tick * 100_000), now);
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
        let mut health = Health::new(2, 0);
        let hour = 3600 * S;
        assert_eq!(health.verdict(true, hour), None);
        health.heard(0, Some(1), hour + S / 10);
        assert_eq!(health.verdict(true, hour + S / 10), None);
        for tick in 2..=35 {
            health.heard(0, Some(tick), hour + tick * S / 10);
            let verdict = health.verdict(true, hour + tick * S / 10);
            assert_eq!(verdict.is_some(), tick > 30, "{tick}: {verdict:?}");
        }
    }

    /// Ranks that wait for GPUs look at them, which is work but no progress.
    #[test]
    fn progress_is_a_batch_s_and_not_counted_while_the_driver_was_away() {
        let mut health = Health::new(1, 0);
        for tick in 1..=150 {
            let now = tick * S / 10 + if tick > 60 { 3600 * S } else { 0 };
            health.heard(0, Some(now), now);
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
        let mut health = Health::new(4, 0);
        for tick in 1..=100 {
            for rank in 0..4 {
                let cpu = if rank == 3 { tick * S / 10 } else { 0 };
                health.heard(rank, Some(cpu), tick * S / 5);
            }
            assert_eq!(health.verdict(true, tick * S / 5), None);
        }
    }
}
