//! Writes a rank's file piece by piece, so that no tensor need be in memory. Knows no folder and no other rank.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::mpsc::{SyncSender, sync_channel};

use super::safetensors_file::{self, KEY};
use super::{ModelError, PIECE, TensorSource};
use crate::shard::Tensor;

/// Pieces that wait to be written.
const QUEUE: usize = 3;

/// Writes `tensors`, whose dtypes and sizes are decided, as a safetensors file with `key` in its header, and notes the digests of those
/// that have none yet. One thread makes and hashes pieces, another writes them.
pub fn write(
    sink: &mut (impl Write + Send),
    key: &str,
    source: &dyn TensorSource,
    tensors: &mut [Tensor],
) -> Result<(), ModelError> {
    let notes = HashMap::from([(KEY.to_owned(), key.to_owned())]);
    sink.write_all(&safetensors_file::header(tensors, notes))?;
    std::thread::scope(|scope| {
        let (made, pieces) = sync_channel::<Cow<'_, [u8]>>(QUEUE);
        let writing = scope.spawn(move || pieces.iter().try_for_each(|piece| sink.write_all(&piece)));
        let making = tensors.iter_mut().try_for_each(|tensor| make(source, tensor, &made));
        drop(made);
        // Where writing failed, making stopped for it.
        writing.join().expect("writing does not panic")?;
        making
    })
}

/// Sends the bytes of one tensor on, and notes their digest.
fn make<'a>(
    source: &'a dyn TensorSource,
    tensor: &mut Tensor,
    made: &SyncSender<Cow<'a, [u8]>>,
) -> Result<(), ModelError> {
    let mut hasher = tensor.digest.is_none().then(blake3::Hasher::new);
    let mut bytes = 0;
    let mut send = |piece: Cow<'a, [u8]>| {
        if let Some(hasher) = &mut hasher {
            hasher.update(&piece);
        }
        bytes += piece.len() as u64;
        made.send(piece).map_err(|_| ModelError::Io(io::ErrorKind::BrokenPipe.into()))
    };
    let found = source.stream(tensor, &mut |part| match part {
        Cow::Borrowed(part) => part.chunks(PIECE).try_for_each(|piece| send(Cow::Borrowed(piece))),
        owned => send(owned),
    })?;
    if found != tensor.dtype {
        return Err(ModelError::OtherDtype { tensor: tensor.name.clone(), expected: tensor.dtype, found });
    }
    assert_eq!(bytes, tensor.bytes, "{}: a source answers with the shape asked for", tensor.name);
    if let Some(hasher) = hasher {
        tensor.digest = Some(hasher.finalize().to_hex().to_string());
    }
    Ok(())
}
