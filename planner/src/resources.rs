//! Counters of what running actions occupy: CPU slots, GPUs, the whole machine. Knows nothing of actions.

use crate::step::Resources;

/// What there is and what is free.
#[derive(Debug, Clone)]
pub struct Pool {
    total: Resources,
    free: Resources,
    running: u32,
}

/// An action asks for more GPUs than there are.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "expected at most {total} GPUs, found an action that needs {wanted}\n  help: say how many there are with --gpus"
)]
pub struct TooManyGpus {
    /// GPUs asked for.
    pub wanted: u32,
    /// GPUs there are.
    pub total: u32,
}

impl Pool {
    /// A pool with this many CPU slots and GPUs.
    pub fn new(cpu: u32, gpu: u32) -> Self {
        let total = Resources { cpu: cpu.max(1), gpu, exclusive: false };
        Self { total, free: total, running: 0 }
    }

    /// What the action takes: as it asked, but at least one CPU slot and never more than there are, so that `-j1` runs everything.
    pub fn clamp(&self, wanted: Resources) -> Result<Resources, TooManyGpus> {
        if wanted.gpu > self.total.gpu {
            return Err(TooManyGpus { wanted: wanted.gpu, total: self.total.gpu });
        }
        Ok(Resources { cpu: wanted.cpu.clamp(1, self.total.cpu), ..wanted })
    }

    /// Which of these may start now, in order, and what each takes. None asks for more GPUs than there are.
    /// One that must wait keeps its share from those behind it, so that nothing waits for ever; as every action takes a
    /// CPU slot, no more are looked at than there are slots.
    pub fn admit(&mut self, ready: impl IntoIterator<Item = Resources>) -> Vec<(usize, Resources)> {
        let mut left = self.free;
        let mut admitted = Vec::new();
        for (index, wanted) in ready.into_iter().enumerate() {
            if left.exclusive || left.cpu == 0 {
                break;
            }
            let wanted =
                self.clamp(wanted).expect("an action that cannot be run is refused when it is first wanted");
            let fits = wanted.cpu <= left.cpu && wanted.gpu <= left.gpu;
            if fits && (!wanted.exclusive || self.running == 0) {
                self.take(wanted);
                admitted.push((index, wanted));
            }
            left.cpu = left.cpu.saturating_sub(wanted.cpu);
            left.gpu = left.gpu.saturating_sub(wanted.gpu);
            left.exclusive |= wanted.exclusive;
        }
        admitted
    }

    /// Whether nothing runs that wants the machine for itself, and a CPU slot is free.
    pub fn idle_cpus(&self) -> u32 {
        if self.free.exclusive { 0 } else { self.free.cpu }
    }

    fn take(&mut self, taken: Resources) {
        self.free.cpu -= taken.cpu;
        self.free.gpu -= taken.gpu;
        self.free.exclusive |= taken.exclusive;
        self.running += 1;
    }

    /// Gives back what an admitted action took.
    pub fn give(&mut self, taken: Resources) {
        self.free.cpu += taken.cpu;
        self.free.gpu += taken.gpu;
        self.free.exclusive &= !taken.exclusive;
        self.running -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wants(cpu: u32, gpu: u32, exclusive: bool) -> Resources {
        Resources { cpu, gpu, exclusive }
    }

    fn check(pool: &mut Pool, ready: &[Resources], admitted: &[usize]) {
        let found: Vec<usize> =
            pool.admit(ready.iter().copied()).into_iter().map(|(index, _)| index).collect();
        assert_eq!(found, admitted);
    }

    #[test]
    fn slots_are_counted() {
        let mut pool = Pool::new(2, 0);
        check(&mut pool, &[wants(1, 0, false); 3], &[0, 1]);
        check(&mut pool, &[wants(1, 0, false)], &[]);
        pool.give(wants(1, 0, false));
        check(&mut pool, &[wants(1, 0, false)], &[0]);
    }

    #[test]
    fn a_wide_action_is_not_starved_by_narrow_ones() {
        let mut pool = Pool::new(4, 0);
        check(&mut pool, &[wants(1, 0, false)], &[0]);
        check(&mut pool, &[wants(4, 0, false), wants(1, 0, false)], &[]);
        pool.give(wants(1, 0, false));
        check(&mut pool, &[wants(4, 0, false), wants(1, 0, false)], &[0]);
    }

    #[test]
    fn what_needs_other_things_passes_by() {
        let mut pool = Pool::new(4, 2);
        check(&mut pool, &[wants(1, 2, false)], &[0]);
        check(&mut pool, &[wants(1, 1, false), wants(1, 0, false)], &[1]);
    }

    #[test]
    fn exclusive_runs_alone() {
        let mut pool = Pool::new(4, 2);
        check(&mut pool, &[wants(1, 0, false), wants(1, 0, true), wants(1, 0, false)], &[0]);
        pool.give(wants(1, 0, false));
        check(&mut pool, &[wants(1, 0, true), wants(1, 0, false)], &[0]);
        check(&mut pool, &[wants(1, 0, false)], &[]);
        assert_eq!(pool.idle_cpus(), 0);
        pool.give(wants(1, 0, true));
        check(&mut pool, &[wants(1, 0, false)], &[0]);
    }

    #[test]
    fn too_much_is_cut_or_refused() {
        let pool = Pool::new(2, 1);
        assert_eq!(pool.clamp(wants(8, 1, false)), Ok(wants(2, 1, false)));
        assert_eq!(pool.clamp(wants(1, 2, false)), Err(TooManyGpus { wanted: 2, total: 1 }));
    }
}
