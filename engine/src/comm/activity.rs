//! What the one thread of a rank that computes is doing, for the rank's other threads to tell. Knows no driver.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::clock::monotonic_ns;

/// What a rank is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Doing {
    /// Meets its peers, loads its weights, makes its caches.
    #[default]
    Loading,
    /// Waits for an order.
    Idle,
    /// Runs a batch.
    Computing {
        /// Which.
        batch: u32,
    },
    /// Carries out an order beside batches.
    Answering,
    /// Waits for another rank to come to a collective, to send or to receive.
    Waiting {
        /// Which; where several are waited for, one of them.
        rank: u32,
    },
    /// Lets an emulated link or device have its time.
    Pacing,
}

impl Doing {
    /// Whether it is the rank's own doing, and takes its processor.
    pub fn is_work(self) -> bool {
        matches!(self, Self::Loading | Self::Computing { .. } | Self::Answering)
    }
}

/// After "has been".
impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loading => f.write_str("loading"),
            Self::Idle => f.write_str("waiting for an order"),
            Self::Computing { batch } => write!(f, "computing batch {batch}"),
            Self::Answering => f.write_str("carrying out an order"),
            Self::Waiting { rank } => write!(f, "waiting for rank {rank}"),
            Self::Pacing => f.write_str("waiting for its emulated device"),
        }
    }
}

/// What was seen of a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Seen {
    /// What it does.
    pub doing: Doing,
    /// For how long, nanoseconds.
    pub for_ns: u64,
    /// How often it has begun something, ever.
    pub turns: u64,
}

/// Kept by the thread that computes; others look. Hence the lock, which is held for a few instructions.
#[derive(Debug)]
pub struct Activity(Mutex<Turn>);

#[derive(Debug, Clone, Copy)]
struct Turn {
    doing: Doing,
    since_ns: u64,
    number: u64,
}

impl Default for Activity {
    /// A rank that begins to load now.
    fn default() -> Self {
        Self(Mutex::new(Turn { doing: Doing::Loading, since_ns: monotonic_ns(), number: 0 }))
    }
}

impl Activity {
    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something begins, and what was done before is over.
    pub fn begin(&self, doing: Doing) {
        let since_ns = monotonic_ns();
        let mut turn = self.turn();
        *turn = Turn { doing, since_ns, number: turn.number + 1 };
    }

    /// Something begins that goes on for as long as the value lives; then what was done before begins anew.
    pub(super) fn pause(&self, doing: Doing) -> Pause<'_> {
        let before = self.turn().doing;
        self.begin(doing);
        Pause { activity: self, before }
    }

    /// The rank waits for this one, as long as the value lives.
    pub(super) fn waits_for(&self, rank: usize) -> Pause<'_> {
        self.pause(Doing::Waiting { rank: rank as u32 })
    }

    /// What the rank does now.
    pub fn seen(&self) -> Seen {
        let Turn { doing, since_ns, number } = *self.turn();
        Seen { doing, for_ns: monotonic_ns().saturating_sub(since_ns), turns: number }
    }
}

/// Something done between two parts of something else.
pub(super) struct Pause<'a> {
    activity: &'a Activity,
    before: Doing,
}

impl Pause<'_> {
    /// It is another rank, from now on, that is waited for.
    pub(super) fn now_waits_for(&self, rank: usize) {
        let doing = Doing::Waiting { rank: rank as u32 };
        if self.activity.turn().doing != doing {
            self.activity.begin(doing);
        }
    }
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        self.activity.begin(self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_seen_and_what_was_before_it_begins_anew() {
        let activity = Activity::default();
        assert_eq!(activity.seen().doing, Doing::Loading);
        activity.begin(Doing::Computing { batch: 7 });
        {
            let pause = activity.waits_for(3);
            assert_eq!(activity.seen().doing, Doing::Waiting { rank: 3 });
            pause.now_waits_for(3);
            assert_eq!(activity.seen().turns, 2, "nothing new has begun");
            pause.now_waits_for(1);
            assert_eq!(activity.seen().doing, Doing::Waiting { rank: 1 });
        }
        let Seen { doing, for_ns, turns } = activity.seen();
        assert_eq!((doing, turns), (Doing::Computing { batch: 7 }, 4));
        assert!(for_ns < 1_000_000_000, "{for_ns}");
    }
}
