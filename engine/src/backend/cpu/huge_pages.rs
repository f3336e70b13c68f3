//! Memory for values that steps read in order: on whole pages, which are huge where the kernel has such. Knows no weights.
//!
//! A weight that is streamed on pages of 4 KiB misses the address cache at every page, and hardware prefetches end at each; and
//! what the heap hands out begins 16 bytes after a page, so that every vector lies across two cache lines.

use std::alloc::{Layout, handle_alloc_error};
use std::fmt::{Debug, Formatter, Result};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::Pod;
use memmap2::{Advice, MmapMut};

/// `len` values, all bits zero at first.
pub(super) struct HugePages<T> {
    map: MmapMut,
    len: usize,
    values: PhantomData<T>,
}

impl<T: Pod> HugePages<T> {
    /// Ends the process where there is no memory, as a `Vec` does.
    pub(super) fn zeroed(len: usize) -> Self {
        let layout = Layout::array::<T>(len).expect("values that lie in a file fit into memory");
        // A mapping cannot be empty.
        let Ok(map) = MmapMut::map_anon(layout.size().max(1)) else { handle_alloc_error(layout) };
        // A kernel without huge pages says no, which costs speed alone.
        #[cfg(target_os = "linux")]
        let _ = map.advise(Advice::HugePage);
        Self { map, len, values: PhantomData }
    }
}

impl<T: Pod> Deref for HugePages<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        bytemuck::cast_slice(&self.map[..self.len * size_of::<T>()])
    }
}

impl<T: Pod> DerefMut for HugePages<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.map[..self.len * size_of::<T>()])
    }
}

impl<T> Debug for HugePages<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "HugePages({} values)", self.len)
    }
}
