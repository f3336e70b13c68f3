//! Bytes between ranks, in order, whatever carries them. Knows no collective.

use std::sync::Arc;

use super::CommError;
use super::activity::Activity;
use super::board::Boards;

/// One rank's end of the connections to all others. Bytes between two ranks come in the order sent.
///
/// A send may wait until the peer receives. It never does for the first 128 KiB and 4 bytes, two pieces and a value, that the peer has not yet
/// received: collectives rely on that, for ranks that all send before they receive. They send no more ahead.
pub(super) trait Wire: Send {
    /// Whose end it is.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn world(&self) -> usize;

    /// Sends bytes to another rank.
    fn send(&mut self, to: usize, bytes: &[u8]) -> Result<(), CommError>;

    /// Fills `bytes` with what another rank sent.
    fn recv(&mut self, from: usize, bytes: &mut [u8]) -> Result<(), CommError>;

    /// From now on, this end says there whom it waits for.
    fn tell(&mut self, activity: &Arc<Activity>);

    /// Memory that all ranks see, where there is some.
    fn boards(&mut self) -> Option<&mut Boards> {
        None
    }
}
