//! Writing files so that a crash leaves the old one or the new one, whole. Knows nothing of the store's layout.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use camino::Utf8Path;
use tempfile::NamedTempFile;

use crate::digest::Digest;

/// How far the times of files written here are set back: more than the coarsest tick of a file system (2 s).
const BACKDATED: Duration = Duration::from_secs(3);

/// Replaces a file's content, or makes it, at once: temp in the same directory, fsync, rename, fsync of the directory.
pub fn write_atomic(path: &Utf8Path, bytes: &[u8]) -> io::Result<()> {
    let dir = parent(path);
    let mut temp = temp_in(dir)?;
    temp.write_all(bytes)?;
    temp.as_file().sync_all()?;
    temp.persist(path).map_err(|e| named(e.error, "replace", path))?;
    sync_dir(dir)
}

/// A fresh file in `dir`; removed when dropped, unless it was persisted.
pub(crate) fn temp_in(dir: &Utf8Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new().prefix(".tmp-").tempfile_in(dir).map_err(|e| named(e, "write in", dir))
}

/// Brings the bytes of several files to the disk, all at once: a journaling file system then commits them together,
/// where one after the other would each wait for a commit of its own.
pub(crate) fn sync_files(files: &[&File]) -> io::Result<()> {
    let Some((first, others)) = files.split_first() else { return Ok(()) };
    std::thread::scope(|scope| {
        let others: Vec<_> = others.iter().map(|file| scope.spawn(|| file.sync_all())).collect();
        let mut results = vec![first.sync_all()];
        results.extend(others.into_iter().map(|t| t.join().expect("syncing a file does not panic")));
        results.into_iter().collect()
    })
}

/// Makes what was renamed into or out of a directory last through a loss of power.
pub(crate) fn sync_dir(dir: &Utf8Path) -> io::Result<()> {
    fs_err::File::open(dir)?.sync_all()
}

/// The digests that name the files of a directory laid out as `ab/cdef...`, in order; files of other names are left out.
pub(crate) fn list_sharded(root: &Utf8Path) -> io::Result<Vec<Digest>> {
    let mut digests = Vec::new();
    for shard in fs_err::read_dir(root)? {
        let shard = shard?;
        for file in fs_err::read_dir(shard.path())? {
            let name =
                [shard.file_name(), file?.file_name()].map(|n| n.to_string_lossy().into_owned()).concat();
            digests.extend(name.parse::<Digest>());
        }
    }
    digests.sort_unstable();
    Ok(digests)
}

/// The directory a file is in.
pub(crate) fn parent(path: &Utf8Path) -> &Utf8Path {
    match path.parent() {
        Some(dir) if !dir.as_str().is_empty() => dir,
        _ => Utf8Path::new("."),
    }
}

/// Makes a finished file read-only, and its time of modification older than any tick a later write could share:
/// whoever writes to it from now on, however soon, moves that time.
pub(crate) fn seal_times(file: &File) -> io::Result<()> {
    file.set_permissions(std::fs::Permissions::from_mode(0o444))?;
    file.set_modified(now() - BACKDATED)
}

/// The wall clock; the crate's one look at it.
#[expect(
    clippy::disallowed_methods,
    reason = "timestamps of files can be judged against the wall clock only"
)]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

/// An error of the operating system with the path it is about.
pub(crate) fn named(error: io::Error, verb: &str, path: &Utf8Path) -> io::Error {
    io::Error::new(error.kind(), format!("failed to {verb} {path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use camino::Utf8PathBuf;

    #[test]
    fn a_file_is_replaced_and_no_temp_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        let path = root.join("a.json");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs_err::read(&path).unwrap(), b"two");
        assert_eq!(fs_err::read_dir(&root).unwrap().count(), 1);
        let error = write_atomic(&root.join("none/a"), b"").unwrap_err().to_string();
        assert!(error.starts_with(&format!("failed to write in {root}/none: ")), "{error}");
    }
}
