//! How much of the machine others used while something was measured, as Linux tells it. Knows nothing of what was measured.

use crate::clock::monotonic_ns;

/// Nanoseconds of a tick of /proc/stat.
const TICK_NS: f64 = 1e7;
/// Fields of its first line, after the name: idle and waiting for disks.
const IDLE: [usize; 2] = [3, 4];

/// The machine, and the processes on it that are ours.
#[derive(Debug)]
pub(super) struct Machine {
    processes: Vec<u32>,
}

/// Counters at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    wall_ns: u64,
    cores: f64,
    /// Of all cores.
    idle_ns: f64,
    /// CPU time of our processes.
    own_ns: f64,
}

impl Machine {
    pub(super) fn new(mut processes: Vec<u32>) -> Self {
        processes.push(std::process::id());
        Self { processes }
    }

    /// The counters now, where the system has them.
    pub(super) fn now(&self) -> Option<Moment> {
        let text = fs_err::read_to_string("/proc/stat").ok()?;
        let (cores, idle_ns) = idle(&text)?;
        let own_ns = self.processes.iter().map(|process| cpu_ns(*process)).sum::<Option<f64>>()?;
        Some(Moment { wall_ns: monotonic_ns(), cores, idle_ns, own_ns })
    }
}

/// The share of all cores' time between two moments that was neither ours nor idle.
pub(super) fn others(from: Moment, to: Moment) -> f64 {
    let all = (to.wall_ns - from.wall_ns) as f64 * to.cores;
    let rest = all - (to.idle_ns - from.idle_ns) - (to.own_ns - from.own_ns);
    if all > 0.0 { (rest / all).clamp(0.0, 1.0) } else { 0.0 }
}

/// Cores, and their idle time in all.
fn idle(stat: &str) -> Option<(f64, f64)> {
    let cores = stat.lines().filter(|line| line.starts_with("cpu")).count().checked_sub(1)?;
    let fields: Vec<f64> =
        stat.lines().next()?.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    let ticks: f64 = IDLE.iter().map(|field| fields.get(*field)).sum::<Option<f64>>()?;
    Some((cores as f64, ticks * TICK_NS))
}

/// CPU time of a process over all its threads.
fn cpu_ns(process: u32) -> Option<f64> {
    let mut sum = 0.0;
    for thread in fs_err::read_dir(format!("/proc/{process}/task")).ok()? {
        // A thread may have ended meanwhile.
        let Ok(text) = fs_err::read_to_string(thread.ok()?.path().join("schedstat")) else { continue };
        sum += text.split_whitespace().next()?.parse::<f64>().ok()?;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_ours_nor_idle_is_others() {
        let moment = |wall_ns, idle_ns, own_ns| Moment { wall_ns, cores: 2.0, idle_ns, own_ns };
        let share = |to| others(moment(0, 0.0, 0.0), to);
        assert_eq!(share(moment(100, 50.0, 100.0)), 0.25);
        assert_eq!(share(moment(100, 100.0, 100.0)), 0.0);
        // Ticks are coarse.
        assert_eq!(share(moment(100, 150.0, 100.0)), 0.0);
        assert_eq!(share(moment(0, 0.0, 0.0)), 0.0);
    }

    #[test]
    fn the_first_line_tells_of_all_cores() {
        let stat = "cpu  10 0 20 300 40 0 0 5 0 0\ncpu0 1 2 3 4\ncpu1 1 2 3 4\nintr 7\n";
        assert_eq!(idle(stat), Some((2.0, 340.0 * TICK_NS)));
        assert_eq!(idle("nothing"), None);
    }
}
