//! How a worker was lost: which, how its process ended, its last words, and who of several to blame. Knows no connection.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use thiserror::Error;

use super::protocol::{Fault, Report};

/// A run that lost a worker.
#[derive(Debug, Error)]
#[error("rank {rank}{}: {how}{}", pid_of(*pid), log_of(log))]
pub struct Loss {
    /// Which.
    pub rank: usize,
    /// Its process.
    pub pid: Option<u32>,
    /// What became of it.
    pub how: String,
    /// Its last words on stderr.
    pub log: Vec<String>,
    /// It is for what it was given to load, which the user can mend.
    pub of_input: bool,
}

fn pid_of(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

fn log_of(log: &[String]) -> String {
    match log {
        [] => "; it logged nothing".to_owned(),
        lines => format!("; its last log lines:\n  {}", lines.join("\n  ")),
    }
}

/// What was heard of a worker.
#[derive(Debug)]
pub(super) enum Heard {
    Report(Report),
    /// Its connection ended.
    Closed,
    /// Nothing of a worker: somebody in this process wants the driver's attention.
    Woken,
}

/// Who is to blame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Blame {
    pub(super) rank: usize,
    pub(super) how: String,
    /// For what it was given to load.
    pub(super) of_input: bool,
}

/// Which failure came first, as far as the ranks' own words tell: one that blames nobody goes before one that blames a peer, and a
/// peer that is blamed and blames nobody goes before those that complain of it. `None`: nobody said why.
pub(super) fn blame(signs: &[(usize, Heard)]) -> Option<Blame> {
    let failures = || {
        signs.iter().filter_map(|(rank, heard)| match heard {
            Heard::Report(Report::Failed { message, fault }) => Some((*rank, message, *fault)),
            _ => None,
        })
    };
    let own = |(rank, message, fault): (usize, &String, Fault)| Blame {
        rank,
        how: message.clone(),
        of_input: fault == Fault::Input,
    };
    if let Some(failure) = failures().find(|(_, _, fault)| !matches!(fault, Fault::Peer(_))) {
        return Some(own(failure));
    }
    let complains = |rank: u32| failures().any(|(complainant, ..)| complainant == rank as usize);
    let silent = failures().find_map(|(rank, message, fault)| match fault {
        Fault::Peer(peer) if !complains(peer) => {
            let how = format!("did not answer: rank {rank} says `{message}`");
            Some(Blame { rank: peer as usize, how, of_input: false })
        }
        _ => None,
    });
    silent.or_else(|| failures().next().map(own))
}

/// In words. `memory_ran_out`: whether the kernel has ended processes for it since the run began, if it tells.
pub(super) fn how_it_ended(status: ExitStatus, memory_ran_out: Option<bool>) -> String {
    let because = match memory_ran_out {
        Some(true) => ": memory ran out, and the kernel ended a process for it",
        Some(false) => "",
        None => "; the kernel ends processes so when memory runs out, and then says so in its log",
    };
    match (signal_of(&status), status.code()) {
        (Some(9), _) => format!("was killed by signal 9 (SIGKILL){because}"),
        (Some(6), _) => "was ended by signal 6 (SIGABRT), as after a failed allocation".to_owned(),
        (Some(signal), _) => format!("was killed by signal {signal}{}", named(signal)),
        (_, Some(code)) => format!("ended with exit code {code}"),
        _ => "ended".to_owned(),
    }
}

/// The signal that ended a process, or the worker behind it: shells, and programs that follow them, tell of one by 128 and its number.
pub(super) fn signal_of(status: &ExitStatus) -> Option<i32> {
    let behind = || status.code().map(|code| code - 128).filter(|signal| (1..=31).contains(signal));
    status.signal().or_else(behind)
}

fn named(signal: i32) -> &'static str {
    match signal {
        2 => " (SIGINT)",
        4 => " (SIGILL)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        _ => "",
    }
}

/// How many processes this kernel has ended for lack of memory, if it tells.
pub(super) fn memory_kills() -> Option<u64> {
    let text = fs_err::read_to_string("/proc/vmstat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// Whether a process has been stopped, by a signal or a debugger, and not told to go on.
pub(super) fn is_stopped(pid: u32) -> bool {
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything; the state follows the last one.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(rank: usize, fault: Fault) -> (usize, Heard) {
        (rank, Heard::Report(Report::Failed { message: format!("of {rank}"), fault }))
    }

    #[test]
    fn who_blames_nobody_is_to_blame_and_else_whom_others_wait_for() {
        use Fault::{Own, Peer};
        let named = |signs: &[(usize, Heard)]| blame(signs).map(|blame| blame.rank);
        let closed = || (7, Heard::Closed);
        assert_eq!(named(&[closed()]), None);
        assert_eq!(named(&[closed(), failed(1, Peer(2)), failed(3, Own)]), Some(3));
        // 0 waits for 1, 1 for 2; 2 says nothing.
        assert_eq!(named(&[failed(0, Peer(1)), failed(1, Peer(2))]), Some(2));
        // All wait in a circle: whoever said so first.
        assert_eq!(named(&[failed(0, Peer(1)), failed(1, Peer(0))]), Some(0));
    }

    /// Its peers may have complained of it before.
    #[test]
    fn who_was_given_what_it_cannot_load_is_named_for_that_alone() {
        use Fault::{Input, Own, Peer};
        let input = |signs: &[(usize, Heard)]| blame(signs).map(|blame| (blame.rank, blame.of_input));
        assert_eq!(input(&[failed(0, Peer(1)), failed(1, Input)]), Some((1, true)));
        assert_eq!(input(&[failed(1, Own), failed(2, Input)]), Some((1, false)), "the first counts");
        assert_eq!(input(&[failed(0, Peer(1))]), Some((1, false)));
    }

    #[test]
    fn a_signal_is_named_and_memory_only_where_it_ran_out() {
        let killed = |ran_out| how_it_ended(ExitStatus::from_raw(9), ran_out);
        assert_eq!(killed(Some(false)), "was killed by signal 9 (SIGKILL)");
        assert!(killed(Some(true)).contains("memory ran out"));
        assert!(killed(None).contains("when memory runs out"));
        assert_eq!(how_it_ended(ExitStatus::from_raw(11), None), "was killed by signal 11 (SIGSEGV)");
        assert_eq!(how_it_ended(ExitStatus::from_raw(3 << 8), None), "ended with exit code 3");
        assert_eq!(how_it_ended(ExitStatus::from_raw(255 << 8), None), "ended with exit code 255");
        let behind_a_shell = how_it_ended(ExitStatus::from_raw(137 << 8), Some(false));
        assert_eq!(behind_a_shell, "was killed by signal 9 (SIGKILL)");
    }

    #[test]
    fn a_running_process_is_not_stopped() {
        assert!(!is_stopped(std::process::id()));
        assert!(!is_stopped(u32::MAX));
    }
}
