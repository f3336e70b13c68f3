//! A file mapped by several processes at once: words that they share, and bytes that words say whose turn it is to touch.
//! The one place of `comm` with unsafe code.

use std::io;
use std::sync::atomic::AtomicU32;

use camino::Utf8Path;
use memmap2::{MmapOptions, MmapRaw};

/// A mapped file of fixed length.
#[derive(Debug)]
pub(super) struct Mapping {
    map: MmapRaw,
}

impl Mapping {
    /// Maps the whole file.
    pub(super) fn open(path: &Utf8Path) -> io::Result<Self> {
        let file = fs_err::OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self { map: MmapOptions::new().map_raw(file.file())? })
    }

    /// Bytes of it.
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// The word at `offset`, a multiple of 4.
    #[expect(
        unsafe_code,
        reason = "a word that other processes write too is an atomic in memory that Rust did not allocate"
    )]
    pub(super) fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.len(), "expected a word within the mapping");
        // SAFETY: in bounds and aligned (mappings begin at a page), alive as long as self; all access to words is atomic.
        unsafe { AtomicU32::from_ptr(self.map.as_mut_ptr().add(offset).cast()) }
    }

    /// Copies bytes in. By the words' protocol nobody else touches `offset..` meanwhile.
    #[expect(unsafe_code, reason = "memory shared with other processes is no slice")]
    pub(super) fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len(), "expected bytes within the mapping");
        // SAFETY: in bounds; `bytes` is memory of this process, hence apart from the mapping.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.map.as_mut_ptr().add(offset), bytes.len())
        }
    }

    /// Copies bytes out, under the same protocol.
    #[expect(unsafe_code, reason = "memory shared with other processes is no slice")]
    pub(super) fn read(&self, offset: usize, bytes: &mut [u8]) {
        assert!(offset + bytes.len() <= self.len(), "expected bytes within the mapping");
        // SAFETY: as in write().
        unsafe {
            std::ptr::copy_nonoverlapping(self.map.as_ptr().add(offset), bytes.as_mut_ptr(), bytes.len())
        }
    }

    /// Adds the values at `offset`, a multiple of 4, to `sum`, under the same protocol.
    #[expect(unsafe_code, reason = "memory shared with other processes is no slice")]
    pub(super) fn add(&self, offset: usize, sum: &mut [f32]) {
        assert!(offset.is_multiple_of(4), "expected values at a multiple of 4");
        assert!(offset + size_of_val(sum) <= self.len(), "expected values within the mapping");
        let values: *const f32 = self.map.as_ptr().wrapping_add(offset).cast();
        for (i, sum) in sum.iter_mut().enumerate() {
            // SAFETY: in bounds and aligned by the assertions, mappings begin at a page; as in write().
            *sum += unsafe { values.add(i).read() };
        }
    }
}
