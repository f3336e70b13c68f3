//! A safetensors file, mapped and checked against its own header. Knows no model.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use memmap2::Mmap;
use safetensors::tensor::Metadata;

use super::{ModelError, Part, TensorSource, mmap};
use crate::shard::{Dtype, Tensor};

/// Bytes before the header: its length.
const PREFIX: usize = 8;

/// A mapped file whose header fits its length.
#[derive(Debug)]
pub(super) struct SafetensorsFile {
    path: Utf8PathBuf,
    map: Mmap,
    /// Where the values start.
    data: usize,
    metadata: Metadata,
}

/// A tensor as it stands in a file.
#[derive(Debug)]
pub(super) struct Stored<'a> {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<u64>,
    pub(super) bytes: &'a [u8],
}

impl SafetensorsFile {
    pub(super) fn open(path: &Utf8Path) -> Result<Self, ModelError> {
        let map = mmap::map(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ModelError::NoFile { file: path.to_owned() },
            _ => error.into(),
        })?;
        let (data, metadata) = read_header(path, &map)?;
        Ok(Self { path: path.to_owned(), map, data, metadata })
    }

    pub(super) fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// Free text that the writer left in the header.
    pub(super) fn note(&self, name: &str) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(name).map(String::as_str)
    }

    pub(super) fn tensor(&self, name: &str) -> Result<Stored<'_>, ModelError> {
        let missing = || ModelError::MissingTensor { file: self.path.clone(), tensor: name.to_owned() };
        let info = self.metadata.info(name).ok_or_else(missing)?;
        let unknown = || ModelError::UnknownDtype {
            file: self.path.clone(),
            tensor: name.to_owned(),
            found: info.dtype.to_string(),
        };
        Ok(Stored {
            dtype: dtype(info.dtype).ok_or_else(unknown)?,
            shape: info.shape.iter().map(|&length| length as u64).collect(),
            bytes: &self.map[self.data + info.data_offsets.0..self.data + info.data_offsets.1],
        })
    }

    /// The tensor, which must have this shape.
    pub(super) fn tensor_of_shape(&self, name: &str, expected: &[u64]) -> Result<Stored<'_>, ModelError> {
        let stored = self.tensor(name)?;
        match stored.shape == expected {
            true => Ok(stored),
            false => Err(ModelError::TensorShape {
                file: self.path.clone(),
                tensor: name.to_owned(),
                expected: expected.to_vec(),
                found: stored.shape,
            }),
        }
    }
}

fn dtype(dtype: safetensors::Dtype) -> Option<Dtype> {
    match dtype {
        safetensors::Dtype::F16 => Some(Dtype::Float16),
        safetensors::Dtype::BF16 => Some(Dtype::Bfloat16),
        safetensors::Dtype::F32 => Some(Dtype::Float32),
        _ => None,
    }
}

/// Where the values start, and what the header says of them: contiguous tensors that end where the file does.
fn read_header(path: &Utf8Path, bytes: &[u8]) -> Result<(usize, Metadata), ModelError> {
    let broken = |found: String| ModelError::Header { file: path.to_owned(), found };
    let (prefix, rest) = bytes
        .split_first_chunk::<PREFIX>()
        .ok_or_else(|| broken(format!("a file of {} bytes", bytes.len())))?;
    let length = u64::from_le_bytes(*prefix);
    let header = usize::try_from(length).ok().and_then(|length| rest.get(..length));
    let header =
        header.ok_or_else(|| broken(format!("one of {length} bytes in a file of {} bytes", bytes.len())))?;
    let metadata: Metadata = serde_json::from_slice(header).map_err(|error| broken(error.to_string()))?;
    let data = PREFIX + header.len();
    let expected = (data as u64).saturating_add(metadata.data_len() as u64);
    match expected == bytes.len() as u64 {
        true => Ok((data, metadata)),
        false => Err(ModelError::Length { file: path.to_owned(), expected, found: bytes.len() as u64 }),
    }
}

/// A rank's file, as `chariot-engine shard` wrote it: exactly its tensors, by their own names.
#[derive(Debug)]
pub struct ShardFile {
    file: SafetensorsFile,
    /// Tensor -> what was written, with its digest.
    written: BTreeMap<String, Tensor>,
}

/// What a rank's file says of itself.
pub(super) const KEY: &str = "key";

impl ShardFile {
    /// Maps a file and checks its header.
    pub fn open(path: &Utf8Path) -> Result<Self, ModelError> {
        Ok(Self { file: SafetensorsFile::open(path)?, written: BTreeMap::new() })
    }

    /// Holds every tensor that is read to the dtype and the digest that `tensors` say.
    pub fn verified(self, tensors: Vec<Tensor>) -> Self {
        Self { written: tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect(), ..self }
    }

    /// Digest of all that decided its content.
    pub fn key(&self) -> Option<&str> {
        self.file.note(KEY)
    }

    /// The digest is of bytes alone: what they mean is the dtype's to say.
    fn verify(&self, tensor: &str, stored: &Stored<'_>) -> Result<(), ModelError> {
        let Some(Tensor { dtype, digest, .. }) = self.written.get(tensor) else { return Ok(()) };
        let (file, tensor) = (self.file.path.clone(), tensor.to_owned());
        if *dtype != stored.dtype {
            let (expected, found) = (*dtype, stored.dtype);
            return Err(ModelError::WrittenDtype { file, tensor, expected, found });
        }
        let Some(expected) = digest else { return Ok(()) };
        let found = blake3::hash(stored.bytes).to_hex().to_string();
        match *expected == found {
            true => Ok(()),
            false => Err(ModelError::Digest { file, tensor, expected: expected.clone(), found }),
        }
    }
}

impl TensorSource for ShardFile {
    fn tensor(&self, wanted: &Tensor) -> Result<Part<'_>, ModelError> {
        let shape: Vec<u64> = wanted.shape.iter().map(|&length| u64::from(length)).collect();
        let stored = self.file.tensor_of_shape(&wanted.name, &shape)?;
        self.verify(&wanted.name, &stored)?;
        Ok(Part { dtype: stored.dtype, shape: wanted.shape.clone(), bytes: Cow::Borrowed(stored.bytes) })
    }
}

/// Writes `{"__metadata__": ..., name: {dtype, shape, data_offsets}, ...}` with its length before it.
pub(super) fn header(tensors: &[Tensor], notes: HashMap<String, String>) -> Vec<u8> {
    let mut end = 0;
    let info = |tensor: &Tensor| {
        let start = end;
        end += tensor.bytes as usize;
        let dtype = match tensor.dtype {
            Dtype::Float16 => safetensors::Dtype::F16,
            Dtype::Bfloat16 => safetensors::Dtype::BF16,
            Dtype::Float32 => safetensors::Dtype::F32,
        };
        let shape = tensor.shape.iter().map(|&length| length as usize).collect();
        (tensor.name.clone(), safetensors::tensor::TensorInfo { dtype, shape, data_offsets: (start, end) })
    };
    let infos = tensors.iter().map(info).collect();
    let metadata =
        Metadata::new(Some(notes), infos).expect("tensors follow one another and have their sizes");
    let mut json = serde_json::to_vec(&metadata).expect("a header is plain data");
    // Values start at a multiple of 64 bytes.
    json.resize((PREFIX + json.len()).next_multiple_of(64) - PREFIX, b' ');
    let length = (json.len() as u64).to_le_bytes();
    [&length[..], &json].concat()
}
