//! Commands about what is kept: log, clean, gc.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chariot_cache::{Digest, Found, Roots};

use super::args::{Gc, Wait};
use super::{CliError, DONE, FAILED, load_graph, print, run, say};
use crate::execute::attempt::LOG;
use crate::graph::nearest;
use crate::history::{History, Latest};
use crate::host::Host;
use crate::out_dir::OutDir;
use crate::project::Project;
use crate::session;
use crate::work_dir;

/// How many actions are named when a target has several logs.
const SHOWN_MAX: usize = 20;

/// `chariot log`.
pub(super) fn log(project: &Project, target: &str) -> Result<u8, CliError> {
    let history = History::read(project.store.root())?;
    let target = target.trim_end_matches('/');
    if let Some(latest) = history.latest(target) {
        let bytes = log_bytes(project, latest)?;
        if bytes.is_empty() {
            say(&format!("`{target}` wrote nothing to stdout or stderr"));
        }
        std::io::stdout().write_all(&bytes)?;
        return Ok(DONE);
    }
    let below = format!("{target}/");
    let several: Vec<&str> =
        history.all().map(|latest| latest.entry.address.as_str()).filter(|a| a.starts_with(&below)).collect();
    if several.is_empty() {
        let near = nearest(target, history.all().map(|latest| latest.entry.address.as_str()));
        let help = if near.is_empty() {
            String::new()
        } else {
            format!("\n  help: did you mean `{}`?", near.join("`, `"))
        };
        return Err(CliError::Mistake(format!("`{target}` was never run{help}")));
    }
    let more = several.len().saturating_sub(SHOWN_MAX);
    let mut names = several[..several.len() - more].join("\n  ");
    if more > 0 {
        names.push_str(&format!("\n  and {more} more"));
    }
    Err(CliError::Mistake(format!("`{target}` stands for several actions; name one of them:\n  {names}")))
}

fn log_bytes(project: &Project, latest: &Latest) -> Result<Vec<u8>, CliError> {
    let key = &latest.entry.key;
    if latest.entry.failure.is_some() {
        return Ok(fs_err::read(project.logs().join(key.to_string()))?);
    }
    match project.store.actions().get(key)? {
        Found::Record(record) => match record.logs.get(camino::Utf8Path::new(LOG)) {
            Some(blob) => Ok(project.store.cas().get(&blob.digest)?),
            None => Ok(Vec::new()),
        },
        Found::Nothing | Found::Unreadable(_) => {
            Err(CliError::Failed(format!("the log of `{}` is no longer in the store", latest.entry.address)))
        }
    }
}

/// `chariot clean`.
pub(super) fn clean(project: &Project, wait: &Wait) -> Result<u8, CliError> {
    let _lock = run::lock(project, wait)?;
    let lists = project.store.root().join("out");
    let mut removed = 0;
    if lists.is_dir() {
        for entry in lists.read_dir_utf8()? {
            let entry = entry?;
            if let Some(pipeline) = entry.path().file_stem() {
                removed += OutDir::new(&project.store, &project.out(), pipeline).clean()?;
            }
        }
    }
    let swept = work_dir::sweep(&project.work())?;
    print(&format!(
        "removed {removed} files from out/ and {swept} unfinished actions; results stay in .chariot"
    ))?;
    Ok(DONE)
}

/// `chariot gc`.
pub(super) fn gc(project: &Project, args: &Gc) -> Result<u8, CliError> {
    let lock = run::lock(project, &args.wait)?;
    if args.verify {
        return verify(project, &lock);
    }
    let roots = Roots { keep_since: Some(days_ago(args.keep_days)), ..roots(project)? };
    let collected = project.store.collect(&lock, &roots, args.dry_run)?;
    if !args.dry_run {
        drop_logs(project)?;
    }
    project.store.save()?;
    let would = if args.dry_run { "would remove" } else { "removed" };
    print(&format!(
        "{would} {} results and {} blobs, {:.1} MB; {} results stay",
        collected.actions_removed,
        collected.blobs_removed,
        collected.bytes_freed as f64 / 1e6,
        collected.actions_kept
    ))?;
    Ok(DONE)
}

/// All that the pipelines as they are now would take from the store.
fn roots(project: &Project) -> Result<Roots, CliError> {
    let mut roots = Roots { actions: BTreeSet::new(), blobs: BTreeSet::new(), keep_since: None };
    let path = std::env::var("PATH").unwrap_or_default();
    let mut host = Host::new(Arc::clone(&project.store), &project.root, path, false);
    for pipeline in project.pipelines()? {
        let graph = load_graph(project, &pipeline, &[])?;
        let named = graph.order().iter().copied().collect();
        let survey = session::survey(&graph, &named, &mut host)?;
        for id in graph.order() {
            roots.actions.extend(survey.plan.found(*id).map(|found| found.key));
            if let Some(done) = survey.plan.done(*id) {
                roots.blobs.extend(done.outputs.values().copied());
            }
        }
    }
    Ok(roots)
}

#[expect(clippy::disallowed_methods, reason = "days are counted back from now")]
fn days_ago(days: u32) -> SystemTime {
    let ago = Duration::from_secs(u64::from(days) * 24 * 60 * 60);
    SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Removes logs of failures that are no longer the newest of their address.
fn drop_logs(project: &Project) -> Result<(), CliError> {
    let history = History::read(project.store.root())?;
    let newest: BTreeSet<Digest> = history
        .all()
        .filter(|latest| latest.entry.failure.is_some())
        .map(|latest| latest.entry.key)
        .collect();
    if !project.logs().is_dir() {
        return Ok(());
    }
    for entry in project.logs().read_dir_utf8()? {
        let entry = entry?;
        if !entry.file_name().parse::<Digest>().is_ok_and(|key| newest.contains(&key)) {
            fs_err::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn verify(project: &Project, lock: &chariot_cache::Lock) -> Result<u8, CliError> {
    let verified = project.store.verify(lock)?;
    project.store.save()?;
    for path in &verified.quarantined {
        say(&format!("damaged; moved aside to {path}"));
    }
    for key in &verified.incomplete {
        say(&format!("the results {} lack a blob; the action will run again", key.short()));
    }
    print(&format!(
        "read {} blobs ({:.1} MB) and {} results; {} were damaged",
        verified.blobs,
        verified.bytes as f64 / 1e6,
        verified.actions,
        verified.quarantined.len()
    ))?;
    Ok(if verified.quarantined.is_empty() { DONE } else { FAILED })
}
