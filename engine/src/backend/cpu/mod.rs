//! The CPU backend: what a transformer's stage computes, on the threads of one rank.
//!
//! Activations are f32, row-major, one row a token. Weights stay in their own dtype and are widened where they are used.
//! Knows nothing of layers' order, sequences or other ranks.

mod attention;
mod elementwise;
mod embedding;
mod kv_cache;
mod linear;
mod rotary;

pub use attention::{AttentionShape, Span};
pub use embedding::Embedding;
pub use kv_cache::KvCache;
pub use linear::Linear;
pub use rotary::RotaryTable;

/// Type of stored values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// 4 bytes.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
}

impl Dtype {
    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// The threads of one rank, and the operations that run on them.
#[derive(Debug)]
pub struct Cpu {
    threads: usize,
}

impl Cpu {
    /// A backend of `threads` threads, the caller's own among them; with `cores`, thread i runs on `cores[i]` alone.
    pub fn new(threads: usize, cores: Option<&[usize]>) -> std::io::Result<Self> {
        assert!(threads > 0, "expected at least one thread");
        assert!(cores.is_none_or(|cores| cores.len() == threads), "expected one core a thread");
        Ok(Self { threads })
    }

    /// How many threads work.
    pub fn threads(&self) -> usize {
        self.threads
    }
}
