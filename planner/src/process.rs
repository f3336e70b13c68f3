//! One child process: its own process group, a log file, a timeout, a way to stop it. Knows nothing of actions or caches.

use std::collections::BTreeMap;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// How long a process may take to end after it was asked to.
pub const GRACE: Duration = Duration::from_secs(3);

/// A process to run.
#[derive(Debug)]
pub struct Spec {
    /// The executable.
    pub program: Utf8PathBuf,
    /// Arguments after the executable.
    pub args: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub dir: Utf8PathBuf,
    /// Receives stdout and stderr.
    pub log: Utf8PathBuf,
    /// Killed after this long.
    pub timeout: Option<Duration>,
}

/// What the planner asks of a running process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Go on.
    No,
    /// End: SIGTERM, then SIGKILL after [`GRACE`].
    Ask,
    /// End at once: SIGKILL.
    Kill,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this code.
    Exit(i32),
    /// A signal that we did not send ended it.
    Signal(i32),
    /// It ran past its timeout.
    TimedOut,
    /// We stopped it.
    Stopped,
}

/// Runs a process to its end. `started` hears the process group's id as soon as there is one.
/// When the process is over, so is its group: nothing it left behind keeps running.
pub async fn run(
    spec: &Spec,
    stop: &mut watch::Receiver<Stop>,
    started: impl FnOnce(u32) -> std::io::Result<()>,
) -> std::io::Result<Ended> {
    if *stop.borrow() != Stop::No {
        return Ok(Ended::Stopped);
    }
    let mut child = spawn(spec)?;
    let group = child.id().expect("a child that was not waited for has an id");
    started(group)?;
    let ended = watch_over(&mut child, group, spec.timeout, stop).await;
    signal(group, Signal::SIGKILL);
    ended
}

fn spawn(spec: &Spec) -> std::io::Result<Child> {
    let log = fs_err::OpenOptions::new().create(true).append(true).open(&spec.log)?;
    let log = log.into_file();
    Command::new(&spec.program)
        .args(&spec.args)
        .env_clear()
        .envs(&spec.env)
        .current_dir(&spec.dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

async fn watch_over(
    child: &mut Child,
    group: u32,
    timeout: Option<Duration>,
    stop: &mut watch::Receiver<Stop>,
) -> std::io::Result<Ended> {
    let asked = tokio::select! {
        status = child.wait() => return status.map(ended),
        () = sleep(timeout) => {
            signal(group, Signal::SIGKILL);
            child.wait().await?;
            return Ok(Ended::TimedOut);
        }
        asked = wait_for(stop, Stop::Ask) => asked,
    };
    if asked == Stop::Ask {
        signal(group, Signal::SIGTERM);
        tokio::select! {
            status = child.wait() => return status.map(|_| Ended::Stopped),
            () = tokio::time::sleep(GRACE) => {}
            _ = wait_for(stop, Stop::Kill) => {}
        }
    }
    signal(group, Signal::SIGKILL);
    child.wait().await?;
    Ok(Ended::Stopped)
}

async fn sleep(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => tokio::time::sleep(timeout).await,
        None => std::future::pending().await,
    }
}

/// Waits until at least `level` is asked for; for ever if nobody can ask any more.
async fn wait_for(stop: &mut watch::Receiver<Stop>, level: Stop) -> Stop {
    let asked = stop.wait_for(|asked| *asked >= level).await.ok().map(|asked| *asked);
    match asked {
        Some(asked) => asked,
        None => std::future::pending().await,
    }
}

fn ended(status: ExitStatus) -> Ended {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Exit(code),
        (None, signal) => Ended::Signal(signal.unwrap_or_default()),
    }
}

/// Signals a process group; one that is gone is no error.
pub fn signal(group: u32, signal: Signal) {
    if let Ok(group) = i32::try_from(group) {
        let _ = killpg(Pid::from_raw(group), signal);
    }
}

/// The name of a signal, for messages.
pub fn signal_name(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |signal| signal.as_str().to_owned())
}

/// When a process started, in clock ticks since boot, and its process group; `None` where there is no such
/// process or no `/proc`. With its id this names a process for good: ids come again, start times do not.
pub fn identity(pid: u32) -> Option<Identity> {
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    if matches!(fields.first(), Some(&"Z")) {
        return None;
    }
    Some(Identity { group: fields.get(2)?.parse().ok()?, started: fields.get(19)?.parse().ok()? })
}

/// What tells a process from another that got its id later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Process group.
    pub group: u32,
    /// Start, in clock ticks since boot.
    pub started: u64,
}

/// All processes that can be seen, with their working directories where those can be read.
pub fn all() -> Vec<(Identity, Option<Utf8PathBuf>)> {
    let Ok(entries) = fs_err::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((identity(pid)?, working_dir(pid))))
        .collect()
}

fn working_dir(pid: u32) -> Option<Utf8PathBuf> {
    let link = fs_err::read_link(format!("/proc/{pid}/cwd")).ok()?;
    Utf8PathBuf::from_path_buf(link).ok()
}

/// The executable a command names: a path as it is, a bare name looked up in `PATH`.
pub fn look_up(name: &str, path: &str, root: &Utf8Path) -> Option<Utf8PathBuf> {
    if name.contains('/') {
        return Some(root.join(name)).filter(|path| is_executable(path));
    }
    path.split(':')
        .filter(|dir| !dir.is_empty())
        .map(|dir| Utf8Path::new(dir).join(name))
        .find(|path| is_executable(path))
}

fn is_executable(path: &Utf8Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs_err::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
