//! Writes a rank's file, one tensor after the other, so that never more than one is in memory. Knows no folder and no other rank.

use std::collections::HashMap;
use std::io::Write;

use super::safetensors_file::{self, KEY};
use super::source::Part;
use super::{ModelError, TensorSource};
use crate::shard::Tensor;

/// Writes `tensors`, whose dtypes and sizes are decided, as a safetensors file with `key` in its header, and notes their digests.
pub fn write(
    sink: &mut (impl Write + Send),
    key: &str,
    source: &dyn TensorSource,
    tensors: &mut [Tensor],
) -> Result<(), ModelError> {
    let notes = HashMap::from([(KEY.to_owned(), key.to_owned())]);
    sink.write_all(&safetensors_file::header(tensors, notes))?;
    for tensor in tensors {
        let Part { dtype, bytes, .. } = source.tensor(tensor)?;
        if dtype != tensor.dtype {
            let (tensor, expected) = (tensor.name.clone(), tensor.dtype);
            return Err(ModelError::MixedDtypes { tensor, expected, found: dtype });
        }
        assert_eq!(
            bytes.len() as u64,
            tensor.bytes,
            "{}: a source answers with the shape asked for",
            tensor.name
        );
        tensor.digest = Some(write_hashed(sink, &bytes)?.to_hex().to_string());
    }
    Ok(())
}

/// Writes and hashes at the same time.
fn write_hashed(sink: &mut (impl Write + Send), bytes: &[u8]) -> std::io::Result<blake3::Hash> {
    std::thread::scope(|scope| {
        let written = scope.spawn(|| sink.write_all(bytes));
        let hash = blake3::hash(bytes);
        written.join().expect("writing does not panic")?;
        Ok(hash)
    })
}
