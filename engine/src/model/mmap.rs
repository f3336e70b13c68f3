//! A file mapped into memory, read-only. Knows no format.

use camino::Utf8Path;
use fs_err::File;
use memmap2::Mmap;

/// Maps a whole file.
#[expect(unsafe_code, reason = "a mapping is sound only while nobody changes the file")]
pub(super) fn map(path: &Utf8Path) -> std::io::Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: weights are only replaced by rename, never written in place, so the mapped file does not change. Should
    // somebody truncate it all the same, the kernel ends the process with SIGBUS; no freed memory is reached.
    unsafe { Mmap::map(file.file()) }
}
