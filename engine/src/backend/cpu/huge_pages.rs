//! Memory for values that steps read in order: on whole pages, which are huge where the kernel has such. Knows no weights.
//!
//! A weight that is streamed on pages of 4 KiB misses the address cache at every page, and hardware prefetches end at each; and
//! what the heap hands out begins 16 bytes after a page, so that every vector lies across two cache lines. Values begin with a huge
//! page, so that how many they have is not a matter of where a process happens to put them.

use std::alloc::{Layout, handle_alloc_error};
use std::fmt::{Debug, Formatter, Result};
use std::hint::black_box;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};

use bytemuck::Pod;
use memmap2::{Advice, MmapMut};

/// Bytes of a huge page.
const PAGE: usize = 2 << 20;
/// Bytes of the smallest page that there is.
const SMALL_PAGE: usize = 4 << 10;

/// `len` values, all bits zero at first.
pub(super) struct HugePages<T> {
    map: MmapMut,
    /// Bytes of the values.
    place: Range<usize>,
    values: PhantomData<T>,
}

impl<T: Pod> HugePages<T> {
    /// Ends the process where there is no memory, as a `Vec` does.
    pub(super) fn zeroed(len: usize) -> Self {
        let layout = Layout::array::<T>(len).expect("values that lie in a file fit into memory");
        let bytes = layout.size();
        // A huge page of which less than half were used is none. What lies before the first one is never touched.
        let whole = if bytes % PAGE > PAGE / 2 { bytes.next_multiple_of(PAGE) } else { bytes };
        let slack = if whole >= PAGE { PAGE } else { 1 };
        let Ok(map) = MmapMut::map_anon(whole + slack) else { handle_alloc_error(layout) };
        let start = if whole >= PAGE { map.as_ptr().align_offset(PAGE) } else { 0 };
        // A kernel without huge pages says no, which costs speed alone.
        #[cfg(target_os = "linux")]
        let _ = map.advise(Advice::HugePage);
        Self { map, place: start..start + bytes, values: PhantomData }
    }
}

impl<T> HugePages<T> {
    /// Has the kernel find memory for the first `len` values, which nobody has written yet, now and not when somebody does.
    pub(super) fn touch(&mut self, len: usize) {
        let bytes = &mut self.map[self.place.clone()][..len * size_of::<T>()];
        for byte in bytes.iter_mut().step_by(SMALL_PAGE) {
            // What is there already, which the compiler does not know. Nothing is read: that would find a page of zeros, to be split later.
            *byte = black_box(0);
        }
    }
}

impl<T: Pod> Deref for HugePages<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        bytemuck::cast_slice(&self.map[self.place.clone()])
    }
}

impl<T: Pod> DerefMut for HugePages<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.map[self.place.clone()])
    }
}

impl<T> Debug for HugePages<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "HugePages({} bytes)", self.place.len())
    }
}
