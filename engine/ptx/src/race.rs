//! Who touched a byte last, and whether a barrier has stood between since. Knows no addresses.
//!
//! What it finds does not hang on the order in which threads run: two accesses of different threads, one of them a write, must
//! have a barrier of the block, or of their warp, between them; threads of different blocks never meet within a launch.

const WARP: u32 = 32;

/// One thread between two barriers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) block: u32,
    pub(crate) thread: u32,
    /// Barriers of the block so far.
    pub(crate) epoch: u32,
    /// Barriers of the thread's warp so far.
    pub(crate) warp_epoch: u32,
}

impl Access {
    fn is_before(self, later: Self) -> bool {
        let is_same_warp = self.thread / WARP == later.thread / WARP;
        self.block == later.block
            && (self.thread == later.thread
                || self.epoch < later.epoch
                || is_same_warp && self.warp_epoch < later.warp_epoch)
    }
}

/// The last write of a byte and the reads since that no barrier ended.
///
/// Of those reads it keeps two lanes of two warps: a write after any further one, but after none of these, cannot be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shadow {
    write: Option<Access>,
    reads: [Option<Access>; 4],
}

/// An access that another does not come after, and what it did.
pub(crate) type Conflict = (Access, &'static str);

impl Shadow {
    pub(crate) fn read(&mut self, by: Access) -> Result<(), Conflict> {
        if let Some(write) = self.write.filter(|write| !write.is_before(by)) {
            return Err((write, "wrote it"));
        }
        for read in &mut self.reads {
            if read.is_some_and(|read| read.is_before(by)) {
                *read = None;
            }
        }
        let lanes = |read: &&Option<Access>| read.is_some_and(|read| read.thread / WARP == by.thread / WARP);
        if self.reads.iter().filter(lanes).count() < 2
            && let Some(free) = self.reads.iter_mut().find(|read| read.is_none())
        {
            *free = Some(by);
        }
        Ok(())
    }

    pub(crate) fn write(&mut self, by: Access) -> Result<(), Conflict> {
        if let Some(write) = self.write.filter(|write| !write.is_before(by)) {
            return Err((write, "wrote it"));
        }
        if let Some(read) = self.reads.iter().flatten().find(|read| !read.is_before(by)) {
            return Err((*read, "read it"));
        }
        *self = Self { write: Some(by), reads: [None; 4] };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(thread: u32, epoch: u32, warp_epoch: u32) -> Access {
        Access { block: 0, thread, epoch, warp_epoch }
    }

    #[test]
    fn a_barrier_orders_and_nothing_else() {
        let mut byte = Shadow::default();
        assert_eq!(byte.write(access(0, 0, 0)), Ok(()));
        assert_eq!(byte.read(access(0, 0, 0)), Ok(()));
        assert_eq!(byte.read(access(1, 0, 0)), Err((access(0, 0, 0), "wrote it")));
        assert_eq!(byte.read(access(1, 0, 1)), Ok(()), "its warp met");
        assert_eq!(byte.read(access(32, 0, 1)), Err((access(0, 0, 0), "wrote it")), "another warp");
        assert_eq!(byte.read(access(32, 1, 1)), Ok(()));
        assert_eq!(byte.write(access(0, 1, 9)), Err((access(32, 1, 1), "read it")));
        assert_eq!(byte.write(access(0, 2, 9)), Ok(()));
        assert_eq!(byte.write(Access { block: 1, ..access(0, 3, 9) }), Err((access(0, 2, 9), "wrote it")));
    }

    #[test]
    fn of_many_readers_enough_are_kept() {
        let mut byte = Shadow::default();
        for thread in 0..128 {
            assert_eq!(byte.read(access(thread, 0, 0)), Ok(()));
        }
        assert!(byte.clone().write(access(0, 0, 0)).is_err(), "lane 1 reads");
        assert!(byte.clone().write(access(1, 0, 0)).is_err(), "lane 0 reads");
        assert!(byte.clone().write(access(0, 0, 1)).is_err(), "another warp reads");
        assert!(byte.clone().write(access(127, 0, 1)).is_err(), "another warp reads");
        assert_eq!(byte.write(access(127, 1, 0)), Ok(()));
    }
}
