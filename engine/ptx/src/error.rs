//! What goes wrong, in words: a text that is not understood, a launch that does what it must not.

/// A text of PTX that is not understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line}: {mistake}")]
pub struct ParseError {
    /// Of the text, from 1.
    pub line: usize,
    /// What is wrong there.
    pub mistake: String,
}

impl ParseError {
    pub(crate) fn new(line: usize, mistake: impl Into<String>) -> Self {
        Self { line, mistake: mistake.into() }
    }
}

/// What a thread must not do.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum Fault {
    #[error("{size} bytes at offset {offset} are outside of {region} ({bytes} bytes)")]
    OutOfBounds { region: String, bytes: usize, offset: i64, size: usize },
    #[error("address {address:#x} is not a multiple of {size} bytes")]
    Misaligned { address: u64, size: usize },
    #[error("address {address:#x} belongs to no memory")]
    NoMemory { address: u64 },
    #[error("offset {offset} of {region} is read, but nobody wrote it")]
    Unwritten { region: String, offset: i64 },
    #[error("register {name} is read, but nobody wrote it")]
    UnwrittenRegister { name: String },
    #[error("race at offset {offset} of {region}: no barrier since thread {thread} of block {block} {did}")]
    Race { region: String, offset: i64, thread: u32, block: u32, did: &'static str },
    #[error("division by zero")]
    DivisionByZero,
    #[error("divergence: thread {thread} {place}")]
    Divergence { thread: u32, place: String },
    #[error("lanes {mask:#010x} must meet here, which is not a set of this warp's lanes with this one")]
    Lanes { mask: u32 },
    #[error("takes lane {lane}'s value, which is not among lanes {mask:#010x}")]
    AbsentLane { lane: u32, mask: u32 },
    #[error("the launch ran {0} instructions and did not end")]
    Endless(u64),
}

/// A launch that failed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum LaunchError {
    #[error("no kernel {0}")]
    NoKernel(String),
    #[error("kernel {kernel}: expected {expected} arguments, found {found}")]
    Arguments { kernel: String, expected: usize, found: usize },
    #[error("kernel {kernel}, argument {index}: expected {expected} bytes, found {found}")]
    Argument { kernel: String, index: usize, expected: usize, found: usize },
    #[error("kernel {kernel}: expected 1 to 1024 threads a block and at least one block")]
    Shape { kernel: String },
    #[error("kernel {kernel}, block {block}, thread {thread}, line {line} `{text}`: {fault}")]
    Fault { kernel: String, block: u32, thread: u32, line: usize, text: String, fault: Fault },
}
