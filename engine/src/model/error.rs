//! What can be wrong with a model's files. Each message names the file, the tensor, what was expected and what was found.

use camino::Utf8PathBuf;
use thiserror::Error;

use crate::shape::ShapeError;
use crate::shard::{Dtype, ShardError};

/// Why a model's weights cannot be used.
#[derive(Debug, Error)]
pub enum ModelError {
    /// The configuration asks for what is not supported.
    #[error(transparent)]
    Config(#[from] ShapeError),
    /// The model does not divide.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// The backend could not take a weight or make room; its message says what it lacked.
    #[error(transparent)]
    Backend(Box<dyn std::error::Error + Send + Sync>),
    /// The backend's attention has no room for such heads.
    #[error("expected heads of at most {most} values, found {found}")]
    HeadDim {
        /// What there is room for.
        most: usize,
        /// The model's.
        found: u32,
    },
    /// The operating system refused; its message names the file.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// No such file.
    #[error("{file}: expected a file, found none")]
    NoFile {
        /// Where it should be.
        file: Utf8PathBuf,
    },
    /// A manifest that does not say what a rank holds.
    #[error("{file}: expected what rank {rank} holds, found {found}")]
    Manifest {
        /// Where.
        file: Utf8PathBuf,
        /// Which rank.
        rank: u32,
        /// What is wrong.
        found: String,
    },
    /// No safetensors header, or a broken one.
    #[error("{file}: expected a safetensors header, found {found}")]
    Header {
        /// Where.
        file: Utf8PathBuf,
        /// What is wrong.
        found: String,
    },
    /// The file ends early, or too late.
    #[error("{file}: expected {expected} bytes, as its header says, found {found}")]
    Length {
        /// Where.
        file: Utf8PathBuf,
        /// Header and values.
        expected: u64,
        /// Size of the file.
        found: u64,
    },
    /// An index of shards that is none.
    #[error("{file}: expected an index with a weight_map, found {found}")]
    Index {
        /// Where.
        file: Utf8PathBuf,
        /// What is wrong.
        found: String,
    },
    /// A folder without weights.
    #[error("{folder}: expected model.safetensors or model.safetensors.index.json, found neither")]
    NoWeights {
        /// Where.
        folder: Utf8PathBuf,
    },
    /// An index that names a file that is not there.
    #[error("{index}: expected {file}, which holds {tensor}, found no such file")]
    MissingFile {
        /// Who says so.
        index: Utf8PathBuf,
        /// The file.
        file: Utf8PathBuf,
        /// A tensor that it should hold.
        tensor: String,
    },
    /// A tensor that the model needs.
    #[error("{file}: expected tensor {tensor}, found none of that name")]
    MissingTensor {
        /// Where.
        file: Utf8PathBuf,
        /// Its name there.
        tensor: String,
    },
    /// A tensor of another shape.
    #[error("{file}: expected {tensor} of shape {expected:?}, found {found:?}")]
    TensorShape {
        /// Where.
        file: Utf8PathBuf,
        /// Its name there.
        tensor: String,
        /// What the configuration says.
        expected: Vec<u64>,
        /// What the file says.
        found: Vec<u64>,
    },
    /// A tensor in a rank's file that is not what was written.
    #[error("{file}: expected {tensor} of digest {expected}, found {found}")]
    Digest {
        /// Where.
        file: Utf8PathBuf,
        /// Its name there.
        tensor: String,
        /// What the manifest says.
        expected: String,
        /// Of its bytes.
        found: String,
    },
    /// A tensor in a rank's file that says it is of another type than was written.
    #[error("{file}: expected {tensor} of dtype {expected:?}, found {found:?}")]
    WrittenDtype {
        /// Where.
        file: Utf8PathBuf,
        /// Its name there.
        tensor: String,
        /// What the manifest says.
        expected: Dtype,
        /// What the file says.
        found: Dtype,
    },
    /// Values of a type that the engine does not compute with.
    #[error("{file}: expected {tensor} of dtype F32, F16 or BF16, found {found}")]
    UnknownDtype {
        /// Where.
        file: Utf8PathBuf,
        /// Its name there.
        tensor: String,
        /// What the file says.
        found: String,
    },
    /// A source whose tensor has become another type since it was asked for the types of all.
    #[error("expected {tensor} of dtype {expected:?}, as it was a moment ago, found {found:?}")]
    OtherDtype {
        /// Its name.
        tensor: String,
        /// As it was.
        expected: Dtype,
        /// As it is.
        found: Dtype,
    },
    /// A source that does not know the name.
    #[error("expected a tensor of the model, found the name `{0}`")]
    UnknownTensor(String),
    /// Sequences longer than the model attends to.
    #[error("expected sequences of at most {window} tokens, the model's attention window, found {positions}")]
    Window {
        /// Tokens that a token sees.
        window: u32,
        /// Longest sequence asked for.
        positions: u32,
    },
    /// No such rank.
    #[error("expected {what} below {count}, found {found}")]
    OutOfRange {
        /// Stage or rank.
        what: &'static str,
        /// How many there are.
        count: u32,
        /// Which was asked for.
        found: u32,
    },
}

impl ModelError {
    /// Whether a file is not what whoever wrote it left: it is gone, changed or cut short, or another model's.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::NoFile { .. }
                | Self::Manifest { .. }
                | Self::Header { .. }
                | Self::Length { .. }
                | Self::Index { .. }
                | Self::NoWeights { .. }
                | Self::MissingFile { .. }
                | Self::MissingTensor { .. }
                | Self::TensorShape { .. }
                | Self::Digest { .. }
                | Self::WrittenDtype { .. }
        )
    }

    /// Whether the user can mend it: what was given is at fault, not the machine and not this program.
    pub fn is_mistake(&self) -> bool {
        !matches!(self, Self::Backend(_) | Self::Io(_) | Self::UnknownTensor(_) | Self::OutOfRange { .. })
    }
}
