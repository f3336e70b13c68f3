//! Where each rank's worker runs and how it is started there. Knows no connection and no platform.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where a run's driver listens and its workers run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The driver listens here, on any free port.
    pub driver: IpAddr,
    /// One a rank, or none: then all are on this host, and loopback is enough.
    pub ranks: Vec<Place>,
}

/// Where one rank's worker runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its peers reach it here.
    pub address: IpAddr,
    /// What stands before the worker's command; empty: it is a child of the driver.
    pub launch: Vec<String>,
    /// The executable there, if it lies elsewhere than the driver's.
    pub program: Option<PathBuf>,
}

impl Place {
    /// A command of the executable there, which is `program` unless this place says otherwise; without arguments.
    pub fn command(&self, program: &Path) -> Command {
        let program = self.program.as_deref().unwrap_or(program);
        match self.launch.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        }
    }
}

impl Places {
    /// Driver and workers on this host, reachable from nowhere else.
    pub fn here() -> Self {
        Self { driver: IpAddr::V4(Ipv4Addr::LOCALHOST), ranks: Vec::new() }
    }

    /// Where a rank listens for its peers.
    pub(super) fn address(&self, rank: usize) -> IpAddr {
        self.ranks.get(rank).map_or(self.driver, |place| place.address)
    }

    /// The command of a rank's worker, whose executable is `program` unless its place says otherwise.
    pub(super) fn command(&self, rank: usize, program: &Path) -> Command {
        let mut command =
            self.ranks.get(rank).map_or_else(|| Command::new(program), |place| place.command(program));
        command.args(["worker", "--rank", &rank.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(launch: &[&str], program: Option<&str>, expected: &[&str]) {
        let place = Place {
            address: "10.0.0.2".parse().unwrap(),
            launch: launch.iter().map(|&word| word.to_owned()).collect(),
            program: program.map(PathBuf::from),
        };
        let places = Places { ranks: vec![place], ..Places::here() };
        let command = places.command(0, Path::new("/bin/engine"));
        let words: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
        assert_eq!(words, expected);
        assert_eq!(places.address(0).to_string(), "10.0.0.2");
    }

    #[test]
    fn a_worker_is_started_by_its_places_command() {
        check(&[], None, &["/bin/engine", "worker", "--rank", "0"]);
        check(&["ssh", "-T", "b"], None, &["ssh", "-T", "b", "/bin/engine", "worker", "--rank", "0"]);
        check(&["env"], Some("/opt/engine"), &["env", "/opt/engine", "worker", "--rank", "0"]);
        let here = Places::here();
        assert_eq!(here.command(3, Path::new("e")).get_program(), "e");
        assert!(here.address(3).is_loopback());
    }
}
