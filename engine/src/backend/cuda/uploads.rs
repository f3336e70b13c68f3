//! Weights on their way up: through two pieces of pinned memory by turns, whichever tensors they belong to. Knows no tensor.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaStream};

use super::error::{CudaError, driver};
use super::memory::{Buffer, Pinned};

/// What is waited for.
pub(super) const WHAT: &str = "copy weights to the GPU";

#[derive(Debug)]
struct Piece {
    pinned: Pinned,
    /// The device has read it.
    read: Option<CudaEvent>,
}

/// Two pieces that take turns. A copy that was queued may be still to come, until all is waited for.
#[derive(Debug)]
pub(super) struct Uploads {
    pieces: [Piece; 2],
    turn: usize,
    /// Of a piece.
    bytes: usize,
}

impl Uploads {
    /// Pieces of so many bytes.
    pub(super) fn new(context: &Arc<CudaContext>, bytes: usize) -> Result<Self, CudaError> {
        let piece = || Ok::<_, CudaError>(Piece { pinned: Pinned::new(context, bytes)?, read: None });
        Ok(Self { pieces: [piece()?, piece()?], turn: 0, bytes })
    }

    /// Queues copies of these bytes, one part after the other; `wait` waits for the device to have read a piece that is to be written again.
    pub(super) fn send(
        &mut self,
        stream: &Arc<CudaStream>,
        buffer: &Buffer,
        parts: &[&[u8]],
        wait: impl Fn(&CudaEvent) -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        let mut to = 0;
        for bytes in parts.iter().flat_map(|part| part.chunks(self.bytes)) {
            let Piece { pinned, read } = &mut self.pieces[self.turn];
            if let Some(read) = &*read {
                wait(read)?;
            }
            pinned.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
            pinned.send(stream, buffer, to, bytes.len())?;
            *read = Some(stream.record_event(None).map_err(driver(WHAT))?);
            self.turn = 1 - self.turn;
            to += bytes.len();
        }
        Ok(())
    }
}

impl Drop for Uploads {
    fn drop(&mut self) {
        for read in self.pieces.iter().filter_map(|piece| piece.read.as_ref()) {
            // The memory goes; where the device has failed it reads no more.
            let _ = read.synchronize();
        }
    }
}
