//! Who touched a byte last, and whether a barrier has stood between since. Knows no addresses.
//!
//! What it finds does not hang on the order in which threads run: two accesses of different threads, one of them a write, must
//! have a barrier of the block, or of their warp, between them; threads of different blocks never meet within a launch. Atomic additions
//! need none among themselves, for a sum has no order.

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

/// Accesses of one kind that no barrier ended.
///
/// It keeps two lanes of two warps: what comes after none of the others comes after one of these, too, or is one of them.
type Open = [Option<Access>; 4];

/// The last write of a byte, and the reads and additions since that no barrier ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shadow {
    write: Option<Access>,
    reads: Open,
    additions: Open,
}

/// An access that another does not come after, and what it did.
pub(crate) type Conflict = (Access, &'static str);

fn keep(open: &mut Open, by: Access) {
    for access in &mut *open {
        if access.is_some_and(|access| access.is_before(by)) {
            *access = None;
        }
    }
    let lanes =
        |access: &&Option<Access>| access.is_some_and(|access| access.thread / WARP == by.thread / WARP);
    if open.iter().filter(lanes).count() < 2
        && let Some(free) = open.iter_mut().find(|access| access.is_none())
    {
        *free = Some(by);
    }
}

/// Whether `by` comes after all of these.
fn is_after(open: &Open, by: Access, did: &'static str) -> Result<(), Conflict> {
    match open.iter().flatten().find(|access| !access.is_before(by)) {
        Some(access) => Err((*access, did)),
        None => Ok(()),
    }
}

impl Shadow {
    pub(crate) fn read(&mut self, by: Access) -> Result<(), Conflict> {
        self.is_after_write(by)?;
        is_after(&self.additions, by, "added to it")?;
        keep(&mut self.reads, by);
        Ok(())
    }

    pub(crate) fn write(&mut self, by: Access) -> Result<(), Conflict> {
        self.is_after_write(by)?;
        is_after(&self.reads, by, "read it")?;
        is_after(&self.additions, by, "added to it")?;
        *self = Self { write: Some(by), ..Self::default() };
        Ok(())
    }

    /// An atomic addition.
    pub(crate) fn add(&mut self, by: Access) -> Result<(), Conflict> {
        self.is_after_write(by)?;
        is_after(&self.reads, by, "read it")?;
        keep(&mut self.additions, by);
        Ok(())
    }

    fn is_after_write(&self, by: Access) -> Result<(), Conflict> {
        match self.write.filter(|write| !write.is_before(by)) {
            Some(write) => Err((write, "wrote it")),
            None => Ok(()),
        }
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

    #[test]
    fn additions_have_no_order_but_with_reads_and_writes() {
        let mut byte = Shadow::default();
        assert_eq!(byte.write(access(5, 0, 0)), Ok(()));
        assert_eq!(byte.add(access(0, 0, 0)), Err((access(5, 0, 0), "wrote it")));
        for thread in 0..128 {
            assert_eq!(byte.add(access(thread, 1, 0)), Ok(()));
        }
        assert!(byte.clone().read(access(0, 1, 0)).is_err(), "lane 1 adds");
        assert!(byte.clone().write(access(1, 1, 0)).is_err(), "lane 0 adds");
        assert!(byte.clone().read(access(0, 1, 1)).is_err(), "another warp adds");
        assert_eq!(byte.read(access(127, 2, 0)), Ok(()));
        assert_eq!(byte.add(access(126, 2, 0)), Err((access(127, 2, 0), "read it")));
        assert_eq!(byte.write(access(126, 3, 0)), Ok(()));
    }
}
