//! One try of one action: lay out its inputs, run it, look at what it left, publish that. Knows nothing of other actions.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use chariot_cache::{Digest, Run, Store};
use tokio::sync::watch;

use crate::action::{Action, Input, Origin};
use crate::clock;
use crate::process::{self, Ended, Spec, Stop};
use crate::work_dir::WorkDir;

/// Name of the log among an action's blobs.
pub const LOG: &str = "log";
/// How much of a log a failure shows.
const TAIL_LINES: usize = 20;
/// The exit code by which our own tools say that what they were given is wrong.
const MISTAKE: i32 = 2;

/// What every try needs to know of the project.
#[derive(Debug)]
pub struct Site {
    /// Where results go.
    pub store: Arc<Store>,
    /// `.chariot/work`.
    pub work: Utf8PathBuf,
    /// `.chariot/logs`: the newest log of every action that failed.
    pub logs: Utf8PathBuf,
    /// The `PATH` that actions see.
    pub path: String,
    /// What actions on GPUs see beside that.
    pub gpu_environment: BTreeMap<String, String>,
    /// Name of this host.
    pub host: String,
}

/// A process that is over, and what it left.
#[derive(Debug)]
pub struct Left {
    work: WorkDir,
    ended: Ended,
    /// How long it ran.
    pub wall: Duration,
}

impl Left {
    /// Removes it unread.
    pub fn discard(self) -> io::Result<()> {
        self.work.remove()
    }
}

/// Why an action has no results.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// We stopped it.
    #[error("stopped")]
    Stopped,
    /// It ended badly, or left less than it declared.
    #[error("{why} after {:.2} s{}", wall.as_secs_f64(), indented(tail))]
    Ended {
        /// What happened.
        why: String,
        /// How long it ran.
        wall: Duration,
        /// The end of its log.
        tail: String,
        /// Another try would end in the same way.
        is_final: bool,
    },
    /// It could not be run.
    #[error("could not be run: {0}")]
    Io(#[from] io::Error),
    /// Its inputs or results could not be taken from or put into the store.
    #[error("{0}")]
    Store(#[from] chariot_cache::Error),
    /// An input is not what it was when the key was made.
    #[error("{path} changed while it was being used; run again")]
    Changed {
        /// Which.
        path: Utf8PathBuf,
    },
}

impl Failure {
    /// What happened, in a few words that do not differ from time to time.
    pub fn brief(&self) -> String {
        match self {
            Self::Ended { why, .. } => why.clone(),
            other => other.to_string(),
        }
    }

    /// Whether another try would end in the same way.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Ended { is_final: true, .. })
    }
}

fn indented(tail: &str) -> String {
    tail.lines().map(|line| format!("\n    | {line}")).collect()
}

/// Lays out the inputs and runs the process. `name` is unique among the tries of this planner.
pub async fn run(
    site: Arc<Site>,
    action: Arc<Action>,
    name: String,
    mut stop: watch::Receiver<Stop>,
) -> Result<Left, Failure> {
    let prepared = {
        let (site, action) = (Arc::clone(&site), Arc::clone(&action));
        blocking(move || prepare(&site, &action, &name)).await?
    };
    let mut env: BTreeMap<String, String> = action.env.clone();
    env.entry("PATH".to_owned()).or_insert_with(|| site.path.clone());
    for (name, value) in site.gpu_environment.iter().filter(|_| action.sees_gpus) {
        env.entry(name.clone()).or_insert_with(|| value.clone());
    }
    let spec = Spec {
        program: action.program.clone(),
        args: action.args.clone(),
        env,
        dir: prepared.dir(),
        log: prepared.log(),
        timeout: action.timeout,
    };
    let started = clock::now();
    match process::run(&spec, &mut stop, |group| prepared.claim(group)).await {
        Ok(ended) => Ok(Left { work: prepared, ended, wall: started.elapsed() }),
        Err(error) => {
            prepared.remove()?;
            Err(error.into())
        }
    }
}

/// Runs what may wait for the disk beside the loop.
pub async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: Send + From<io::Error> + 'static,
{
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn prepare(site: &Site, action: &Action, name: &str) -> Result<WorkDir, Failure> {
    let work = WorkDir::create(&site.work, name)?;
    match lay_out(site, action, &work.dir()) {
        Ok(()) => Ok(work),
        Err(failure) => {
            work.remove()?;
            Err(failure)
        }
    }
}

fn lay_out(site: &Site, action: &Action, dir: &Utf8Path) -> Result<(), Failure> {
    for (path, input) in &action.inputs {
        admit(&site.store, input)?;
        site.store.cas().materialise(&input.digest, &dir.join(path))?;
    }
    for output in &action.outputs {
        if let Some(parent) = output.parent() {
            fs_err::create_dir_all(dir.join(parent))?;
        }
    }
    Ok(())
}

/// Puts an input's bytes into the store, so that what the action reads is what its key says, and stays.
fn admit(store: &Store, input: &Input) -> Result<(), Failure> {
    let stored = match &input.origin {
        Origin::Store => return Ok(()),
        Origin::Bytes(bytes) => store.cas().put_bytes(bytes)?,
        Origin::File(path) => store.cas().put_file(path)?,
    };
    match (stored.digest == input.digest, &input.origin) {
        (false, Origin::File(path)) => Err(Failure::Changed { path: path.clone() }),
        _ => Ok(()),
    }
}

/// Publishes what an action left, or says why it failed; either way nothing of it stays behind.
/// Returns the keys it was published under.
pub fn publish(site: &Site, action: &Action, left: Left) -> Result<Vec<Digest>, Failure> {
    let published = try_publish(site, action, &left);
    let kept = if published.is_err() { keep_log(site, action, &left) } else { Ok(()) };
    left.work.remove()?;
    kept?;
    published
}

fn try_publish(site: &Site, action: &Action, left: &Left) -> Result<Vec<Digest>, Failure> {
    if let Some(why) = complaint(action, left) {
        if left.ended == Ended::Stopped {
            return Err(Failure::Stopped);
        }
        let log = fs_err::read(left.work.log()).unwrap_or_default();
        let is_final = action.is_own && left.ended == Ended::Exit(MISTAKE);
        return Err(Failure::Ended { why, wall: left.wall, tail: tail(&log), is_final });
    }
    let dir = left.work.dir();
    let outputs: Vec<_> = action.outputs.iter().map(|path| (path.clone(), dir.join(path))).collect();
    let run = Run {
        tool: action.program.file_name().unwrap_or_default().to_owned(),
        exit_code: 0,
        wall_ns: u64::try_from(left.wall.as_nanos()).unwrap_or(u64::MAX),
        finished_at: clock::timestamp(),
        host: site.host.clone(),
    };
    let logs = [(Utf8PathBuf::from(LOG), left.work.log())];
    let record = site.store.publish(&action.key.manifest, &outputs, &logs, &run)?;
    let mut keys = vec![action.key.digest];
    if let Some((whole, marker)) = &action.uncut
        && ran_to_its_end(&dir.join(marker))
    {
        site.store.publish_also(&whole.manifest, &record)?;
        keys.push(whole.digest);
    }
    Ok(keys)
}

/// What is wrong with how an action ended.
fn complaint(action: &Action, left: &Left) -> Option<String> {
    match left.ended {
        Ended::Exit(0) => {}
        Ended::Exit(code) => return Some(format!("exited with code {code}")),
        Ended::Signal(signal) => return Some(format!("was ended by {}", process::signal_name(signal))),
        Ended::TimedOut => return Some("was killed by its timeout".to_owned()),
        Ended::Stopped => return Some("was stopped".to_owned()),
    }
    let missing: Vec<&str> = action
        .outputs
        .iter()
        .filter(|path| !fs_err::symlink_metadata(left.work.dir().join(path)).is_ok_and(|meta| meta.is_file()))
        .map(|path| path.as_str())
        .collect();
    (!missing.is_empty()).then(|| format!("exited with code 0 but did not write {}", missing.join(", ")))
}

/// Whether the marker says that a run which might have ended early did not.
fn ran_to_its_end(marker: &Utf8Path) -> bool {
    let text = fs_err::read(marker).unwrap_or_default();
    let json: Option<serde_json::Value> = serde_json::from_slice(&text).ok();
    json.and_then(|json| json.get("stopped").map(serde_json::Value::is_null)).unwrap_or(false)
}

fn keep_log(site: &Site, action: &Action, left: &Left) -> io::Result<()> {
    fs_err::create_dir_all(&site.logs)?;
    fs_err::rename(left.work.log(), site.logs.join(action.key.digest.to_string()))
}

/// The last lines of a log.
fn tail(log: &[u8]) -> String {
    let text = String::from_utf8_lossy(log);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::ToolFile;
    use crate::step::{ActionTemplate, Resources, Tool};

    fn sleeper() -> Arc<Action> {
        let template = ActionTemplate {
            tool: Tool::User("sh".to_owned()),
            args: vec!["-c".to_owned(), "sleep 60".to_owned()],
            env: BTreeMap::new(),
            inputs: BTreeMap::new(),
            outputs: vec!["o".into()],
            resources: Resources { cpu: 1, gpu: 0, exclusive: false },
            timeout: None,
            retries: 0,
            facts: Vec::new(),
            cutoff: None,
        };
        let tool = ToolFile { path: "/bin/sh".into(), digest: Digest::of(b"sh") };
        Arc::new(Action::new("p/s".to_owned(), &template, tool, BTreeMap::new(), &BTreeMap::new()))
    }

    fn site(root: &Utf8Path) -> Arc<Site> {
        Arc::new(Site {
            store: Arc::new(Store::open(&root.join("store")).unwrap()),
            work: root.join("work"),
            logs: root.join("logs"),
            path: std::env::var("PATH").unwrap(),
            gpu_environment: BTreeMap::new(),
            host: String::new(),
        })
    }

    #[tokio::test]
    async fn stopped_before_it_is_started_it_fails_as_stopped_and_leaves_no_directory() {
        let temp = tempfile::tempdir().unwrap();
        let site = site(Utf8Path::from_path(temp.path()).unwrap());
        for asked in [Stop::Ask, Stop::Kill] {
            let (_sender, receiver) = watch::channel(asked);
            let left = run(Arc::clone(&site), sleeper(), "s".to_owned(), receiver).await.unwrap();
            let published = publish(&site, &sleeper(), left);
            assert!(matches!(published, Err(Failure::Stopped)), "{published:?}");
            assert!(!site.work.read_dir_utf8().unwrap().any(|_| true));
        }
    }
}
