//! What driver and workers say to each other: plain data, one frame a message. Knows no socket and no process.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};

use camino::Utf8PathBuf;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::step::{Head, Step};
use crate::backend::BackendName;
use crate::comm::{Doing, Links, Seen};
use crate::executor::Operation;
use crate::model::{KvSpec, LayerTimes, ModelConfig};
use crate::selftest::Check;
use crate::shard::{Dtype, Parallel};

/// Frames are not longer; a length above it is no frame of ours.
const FRAME_BYTES_MAX: u32 = 1 << 30;

/// All that a worker is told before it connects; JSON on its stdin.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Setup {
    /// What differs between workers.
    pub seat: Seat,
    /// Where the driver listens.
    pub driver: SocketAddr,
    /// Where this rank listens for its peers.
    pub address: IpAddr,
    /// Proves to driver and peers that this worker belongs to the run, in hexadecimal.
    pub secret: String,
    /// What the rank computes on.
    pub backend: BackendName,
    /// Whether to tell what each operation took, where the backend can.
    pub operations: bool,
    /// Ranks.
    pub parallel: Parallel,
    /// Where the rank's weights come from.
    pub weights: Weights,
    /// Blocks of the KV cache.
    pub kv: KvSpec,
    /// The first of them, whose memory is found while loading.
    pub blocks_touched: u32,
    /// Longest sequence, in tokens.
    pub max_model_len: u32,
    /// Largest batch, in tokens.
    pub batch_tokens: u32,
    /// A file of shared memory through which ranks of this host talk; otherwise they do over TCP.
    pub shared_memory: Option<Utf8PathBuf>,
    /// Whether there is a core of this host for each thread of all ranks.
    pub own_cores: bool,
    /// Links to emulate.
    pub links: Option<Links>,
    /// A call between ranks fails if a peer has not answered by then.
    pub peer_timeout_s: f64,
    /// A rank gives up on its GPU that takes longer than this for what it has all it needs for.
    pub gpu_patience_s: f64,
}

/// One worker's place.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Seat {
    /// Which: stage * tp + rank in its TP group.
    pub rank: u32,
    /// Compute threads.
    pub threads: usize,
    /// Thread i runs on `cores[i]`; absent: wherever the operating system puts it.
    pub cores: Option<Vec<usize>>,
}

/// Where a rank's weights come from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weights {
    /// A `weights.json` that `chariot-engine shard` wrote, with the ranks' files beside it.
    Shards(Utf8PathBuf),
    /// A Hugging Face folder, from which each rank takes its part.
    HuggingFace(Utf8PathBuf),
    /// Made up from a seed, in memory.
    Dummy {
        /// The model.
        config: Box<ModelConfig>,
        /// Of all values.
        seed: u64,
        /// Type of all values.
        dtype: Dtype,
    },
}

/// Driver to worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Tell the time, at once.
    Clock,
    /// All have connected: where each rank's peers reach it, in order of ranks. Empty with shared memory.
    Join(Vec<SocketAddr>),
    /// Run a batch, whose lists follow.
    Step(Head),
    /// Exchange made-up values with some ranks, often, and tell how long it takes.
    Exchange(Exchange),
    /// Exchange values with all ranks, and tell how far what comes is from what they are known to send. The type is that of the weights.
    CheckExchanges(Dtype),
    /// Time products and attention of layers on a batch, which was the last step, too, and whose lists follow: the first rank of the last stage.
    /// The others do nothing.
    Layers(Head),
    /// Tell how fast the core was.
    Speed,
    /// Tell what is free in the backend's own memory.
    Memory,
    /// Say goodbye and end.
    Stop,
}

impl Order {
    /// What a rank does that carries it out.
    pub(super) fn doing(&self) -> Doing {
        match self {
            Self::Step(head) => Doing::Computing { batch: head.batch },
            _ => Doing::Answering,
        }
    }
}

/// What ranks exchange to be timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExchangeKind {
    /// A sum among all of them.
    AllReduce,
    /// All get what each has.
    AllGather,
    /// From the first of two to the second and back; half the way counts.
    SendRecv,
}

/// Exchanges of one size among some ranks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// How.
    pub kind: ExchangeKind,
    /// Who, in ascending order; the others do nothing.
    pub ranks: Vec<u32>,
    /// Values of a message.
    pub values: u32,
    /// Exchanges that are asked for at once, before they are waited for: what asking takes is spread over them.
    pub in_a_row: u32,
    /// How often such a row is timed.
    pub times: u32,
}

/// Worker to driver.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// Connected; where peers reach it, unless they talk through shared memory.
    Hello { rank: u32, peers_at: Option<SocketAddr> },
    /// CLOCK_MONOTONIC of its host.
    Clock { ns: u64 },
    /// Weights are loaded, all buffers are there.
    Ready { weight_bytes: u64, kv_bytes: u64 },
    /// Still there.
    Alive(Beat),
    /// A stage is done with a batch: when it began and ended, by CLOCK_MONOTONIC or the emulated device's clock. From the first rank of each
    /// stage; that of the last says what came out, too.
    Stage {
        batch: u32,
        stage: u32,
        start_ns: u64,
        end_ns: u64,
        operations: Vec<Operation>,
        output: Option<Output>,
    },
    /// What one exchange of each row took, from the first of its ranks.
    Exchanged { ns: Vec<u64> },
    /// How far what came from the others is from what they sent.
    Checked { checks: Vec<Check> },
    /// What products and attention took, a layer at a time.
    Layers { times: Vec<LayerTimes> },
    /// What checks of its core's speed took since the last time it was asked, nanoseconds; the last one was made now. None on GPUs.
    Speed { checks: Vec<u32> },
    /// Bytes that are free in the memory of the rank's backend; `None`: it has none of its own.
    Memory { free_bytes: Option<u64> },
    /// It cannot go on.
    Failed { message: String, fault: Fault },
    /// Its last words.
    Bye(Farewell),
}

impl Report {
    /// Whether it answers an order beside steps.
    pub(super) fn is_answer(&self) -> bool {
        matches!(
            self,
            Self::Exchanged { .. }
                | Self::Checked { .. }
                | Self::Layers { .. }
                | Self::Speed { .. }
                | Self::Memory { .. }
        )
    }
}

/// Whose fault it is that a rank cannot go on, as far as it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Fault {
    /// Its own, or its host's.
    Own,
    /// This rank's, which failed it.
    Peer(u32),
    /// Of what it was given to load: the user's to mend.
    Input,
}

/// What a worker says of itself several times a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Beat {
    /// Processor time of all its threads so far.
    pub(super) cpu_ns: u64,
    /// What the thread that computes is doing.
    pub(super) seen: Seen,
    /// That thread waits for a disk.
    pub(super) reads: bool,
}

/// What came out of a batch.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Output {
    /// In the order of the batch's sampled parts.
    pub(super) tokens: Vec<u32>,
    /// `[tokens, vocabulary]`, if asked for.
    pub(super) logits: Vec<f32>,
}

/// What a worker tells of its life when it ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Farewell {
    /// Messages over emulated links.
    pub(super) messages: u64,
    /// Time these should have taken.
    pub(super) planned_ns: u64,
    /// Time by which they were late.
    pub(super) late_ns: u64,
    /// The latest one.
    pub(super) worst_ns: u64,
    /// Steps that ran as recorded.
    pub(super) replays: u64,
}

/// The bytes of one message: its length, 4 bytes little-endian, and the message.
pub(super) fn frame(message: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame_into(message, &mut bytes);
    bytes
}

/// Makes `bytes`, which are kept from call to call, those of one message.
pub(super) fn frame_into(message: &impl Serialize, bytes: &mut Vec<u8>) {
    let mut own = std::mem::take(bytes);
    own.clear();
    own.extend([0; 4]);
    *bytes = postcard::to_extend(message, own).expect("a message is plain data in memory");
    seal(bytes);
}

/// The bytes of an order and of the lists of its step.
pub(super) fn frame_step(order: fn(Head) -> Order, step: &Step) -> Vec<u8> {
    let mut bytes = frame(&order(step.head()));
    step.write_lists(&mut bytes);
    seal(&mut bytes);
    bytes
}

/// Writes its length before a message.
fn seal(bytes: &mut [u8]) {
    let length = u32::try_from(bytes.len() - 4).expect("a message is shorter than 4 GiB");
    bytes[..4].copy_from_slice(&length.to_le_bytes());
}

/// Reads one message into `buffer`, which is kept from call to call.
pub(super) fn read_frame<T: DeserializeOwned>(source: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<T> {
    fill(source, buffer)?;
    parse(buffer)
}

/// Reads one order into `buffer`, which is kept from call to call; the order, and the bytes of its lists.
pub(super) fn read_order<'b>(
    source: &mut impl Read,
    buffer: &'b mut Vec<u8>,
) -> io::Result<(Order, &'b [u8])> {
    fill(source, buffer)?;
    postcard::take_from_bytes(buffer).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Reads a message without its length.
fn fill(source: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<()> {
    let mut length = [0; 4];
    source.read_exact(&mut length)?;
    buffer.resize(checked(length)?, 0);
    source.read_exact(buffer)
}

/// The first message of `bytes`, and what follows it; `None`: it is not whole yet.
pub(super) fn split_frame(bytes: &[u8]) -> io::Result<Option<(&[u8], &[u8])>> {
    let Some((length, rest)) = bytes.split_first_chunk() else { return Ok(None) };
    Ok(rest.split_at_checked(checked(*length)?))
}

/// A message without its length.
pub(super) fn parse<T: DeserializeOwned>(message: &[u8]) -> io::Result<T> {
    postcard::from_bytes(message).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn checked(length: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(length);
    if length > FRAME_BYTES_MAX {
        let what = format!("expected a message of at most {FRAME_BYTES_MAX} bytes, found {length}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(length as usize)
}
