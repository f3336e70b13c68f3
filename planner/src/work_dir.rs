//! Directories in which actions run, and what a killed planner left in them. Knows nothing of actions.
//!
//! Each folder of `.chariot/work` holds `dir/` (the action's directory), `log`, and `claim`: the process group that runs in it,
//! with its start time, because ids come again. An empty claim means that a group was about to be started.

use std::io;
use std::thread::sleep;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use nix::sys::signal::Signal;

use crate::process::{self, Identity};

/// The place of one try of one action.
#[derive(Debug)]
pub struct WorkDir {
    path: Utf8PathBuf,
}

impl WorkDir {
    /// Makes a fresh one under `root`.
    pub fn create(root: &Utf8Path, name: &str) -> io::Result<Self> {
        let path = root.join(name);
        fs_err::create_dir_all(path.join("dir"))?;
        fs_err::write(path.join("claim"), "")?;
        fs_err::write(path.join("log"), "")?;
        Ok(Self { path })
    }

    /// Where the action runs.
    pub fn dir(&self) -> Utf8PathBuf {
        self.path.join("dir")
    }

    /// Where its stdout and stderr go. It is there from the start: a process may be stopped before it is started.
    pub fn log(&self) -> Utf8PathBuf {
        self.path.join("log")
    }

    /// Writes down which process group runs here.
    pub fn claim(&self, group: u32) -> io::Result<()> {
        let started = process::identity(group).map_or(0, |identity| identity.started);
        fs_err::write(self.path.join("claim"), format!("{group} {started}\n"))
    }

    /// Removes it with all it holds.
    pub fn remove(self) -> io::Result<()> {
        remove_tree(&self.path)
    }
}

/// Ends what still runs in the directories under `root` and removes them; returns how many there were.
/// Only the holder of the lock may call this.
pub fn sweep(root: &Utf8Path) -> io::Result<usize> {
    let entries = match root.read_dir_utf8() {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    if entries.is_empty() {
        return Ok(0);
    }
    let processes = process::all();
    for entry in &entries {
        end_leftovers(entry.path(), &processes);
        remove_tree(entry.path())?;
    }
    Ok(entries.len())
}

/// A claimed group is killed if its leader is the one that was claimed, or the leader is gone and a member of the
/// group still works in this directory; with an empty claim, any group that works here is.
fn end_leftovers(path: &Utf8Path, processes: &[(Identity, Option<Utf8PathBuf>)]) {
    let claim = fs_err::read_to_string(path.join("claim")).unwrap_or_default();
    let claimed = claim.trim().split_once(' ').and_then(|(group, started)| {
        Some(Identity { group: group.parse().ok()?, started: started.parse().ok()? })
    });
    let dir = path.join("dir").canonicalize_utf8().unwrap_or_else(|_| path.join("dir"));
    let works_here = |cwd: &Option<Utf8PathBuf>| cwd.as_ref().is_some_and(|cwd| cwd.starts_with(&dir));
    for (identity, cwd) in processes {
        let ours = match claimed {
            Some(claimed) => identity.group == claimed.group && (*identity == claimed || works_here(cwd)),
            None => works_here(cwd),
        };
        if ours {
            process::signal(identity.group, Signal::SIGKILL);
        }
    }
}

/// How often a removal is tried that something of a killed group disturbs.
const REMOVALS: u32 = 50;
const BETWEEN_REMOVALS: Duration = Duration::from_millis(20);

/// Removes a tree although directories in it may have been made read-only, and although what was killed may
/// finish its last system call, and make a file, while this goes on.
fn remove_tree(path: &Utf8Path) -> io::Result<()> {
    let (mut removals, mut is_allowed) = (0, false);
    loop {
        removals += 1;
        match fs_err::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !is_allowed => {
                allow_removal(path)?;
                is_allowed = true;
            }
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && removals < REMOVALS => {
                sleep(BETWEEN_REMOVALS);
            }
            other => return other,
        }
    }
}

fn allow_removal(path: &Utf8Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
    for entry in path.read_dir_utf8()? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            allow_removal(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Child, Command};

    use super::*;

    fn sleeper(dir: &Utf8Path) -> Child {
        Command::new("sleep").arg("60").current_dir(dir).process_group(0).spawn().unwrap()
    }

    fn killed(mut child: Child) -> bool {
        child.wait().unwrap().signal() == Some(9)
    }

    fn root() -> (tempfile::TempDir, Utf8PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(temp.path().to_path_buf()).unwrap();
        (temp, path)
    }

    #[test]
    fn a_claimed_process_is_ended_and_its_directory_removed() {
        let (_temp, root) = root();
        let work = WorkDir::create(&root, "a").unwrap();
        let child = sleeper(&work.dir());
        work.claim(child.id()).unwrap();
        assert_eq!(sweep(&root).unwrap(), 1);
        assert!(killed(child));
        assert!(!root.join("a").exists());
    }

    #[test]
    fn a_process_started_just_before_the_claim_is_ended_too() {
        let (_temp, root) = root();
        let work = WorkDir::create(&root, "a").unwrap();
        let child = sleeper(&work.dir());
        sweep(&root).unwrap();
        assert!(killed(child));
    }

    #[test]
    fn files_made_while_it_is_removed_go_with_it() {
        let (_temp, root) = root();
        let work = WorkDir::create(&root, "a").unwrap();
        let (dir, first) = (work.dir(), work.dir().join("0"));
        let straggler = std::thread::spawn(move || {
            (0..500).filter(|number| fs_err::write(dir.join(format!("{number}")), "").is_ok()).count()
        });
        while !first.exists() {
            std::thread::yield_now();
        }
        work.remove().unwrap();
        assert!(straggler.join().unwrap() > 0);
        assert!(!root.join("a").exists());
    }

    #[test]
    fn another_process_that_got_the_same_id_is_left_alone() {
        let (_temp, root) = root();
        let work = WorkDir::create(&root, "a").unwrap();
        let mut child = sleeper(Utf8Path::new("/"));
        fs_err::write(root.join("a/claim"), format!("{} 1\n", child.id())).unwrap();
        sweep(&root).unwrap();
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        drop(work);
    }
}
