//! Writes `rank-000.safetensors`, ... beside a manifest: only those whose content would change.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::ScopedJoinHandle;

use camino::{Utf8Path, Utf8PathBuf};
use chariot_engine::manifest::{Contents, Manifest, Origin, Rank, Weights, rank_file};
use chariot_engine::model::{
    self, Dummy, HuggingFace, ModelConfig, ModelError, ShardFile, StagePlan, TensorSource,
};
use chariot_engine::shard::{Dtype, Dtypes, Parallel, Tensor};

use super::super::files::{LargeOutput, read};

/// Changes when the same inputs give another file.
const FORMAT: u32 = 1;

/// Where weights are to come from.
pub(super) enum Source {
    Dummy { seed: u64, dtype: Dtype },
    Folder(Utf8PathBuf),
}

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) written: u32,
    pub(super) written_bytes: u64,
    pub(super) kept: u32,
}

impl Source {
    /// Types of the whole model's tensors.
    pub(super) fn dtypes(&self, config: &ModelConfig, parallel: Parallel) -> Result<Dtypes, ModelError> {
        match self {
            Self::Dummy { dtype, .. } => Ok(Dtypes::uniform(*dtype)),
            Self::Folder(folder) => HuggingFace::dtypes(folder, config, parallel),
        }
    }
}

/// Makes the rank files beside `out` those of `manifest`, and notes in it what they hold. `dtype`: of most tensors.
pub(super) fn write(
    out: &Utf8Path,
    manifest: &mut Manifest,
    config: ModelConfig,
    dtype: Dtype,
    source: &Source,
) -> anyhow::Result<Done> {
    check_room(out, manifest)?;
    let mut inputs = BTreeMap::new();
    // A file is brought to the disk while the next one is made.
    let done = std::thread::scope(|scope| {
        let (filled, outputs) = sync_channel(1);
        let publishing = scope.spawn(move || outputs.iter().try_for_each(LargeOutput::publish));
        let mut files = Files { out, earlier: earlier_ranks(out), filled, done: Done::default() };
        let filling = fill(&mut files, manifest, &config, dtype, source, &mut inputs);
        let Files { done, filled, .. } = files;
        drop(filled);
        // Where publishing failed, filling stopped for it.
        publishing.join().expect("publishing does not panic")?;
        filling.map(|()| done)
    })?;
    let origin = match source {
        Source::Dummy { seed, .. } => Origin::Dummy { seed: *seed },
        Source::Folder(_) => Origin::HuggingFace,
    };
    manifest.weights = Some(Weights { config, dtype, origin, inputs, in_memory: false });
    Ok(done)
}

/// Fills every rank's file.
fn fill(
    files: &mut Files<'_>,
    manifest: &mut Manifest,
    config: &ModelConfig,
    dtype: Dtype,
    source: &Source,
    inputs: &mut BTreeMap<String, String>,
) -> anyhow::Result<()> {
    for stage in &mut manifest.stages {
        for rank in &mut stage.ranks {
            let plan = plan(config, manifest.parallel, stage.stage, rank.rank % manifest.parallel.tp);
            match source {
                Source::Dummy { seed, .. } => {
                    let dummy = Dummy::new(*seed, dtype, &plan)?;
                    rank.key = Some(key(&plan, dtype, [dummy.origin()])?);
                    files.fill(rank, &dummy)?;
                }
                Source::Folder(folder) => {
                    let folder = HuggingFace::open(folder, &plan)?;
                    let digests = digests(&folder, &rank.tensors, inputs)?;
                    let types = types(&folder, &rank.tensors, dtype)?;
                    rank.key = Some(key(&plan, dtype, digests.into_iter().chain(types))?);
                    for tensor in &mut rank.tensors {
                        tensor.digest = folder.same(tensor)?.and_then(|name| inputs.get(&name).cloned());
                    }
                    files.fill(rank, &folder)?;
                }
            }
        }
    }
    Ok(())
}

/// Refuses before the disk is full rather than when it is.
fn check_room(out: &Utf8Path, manifest: &Manifest) -> anyhow::Result<()> {
    let folder = out.parent().filter(|folder| !folder.as_str().is_empty()).unwrap_or(Utf8Path::new("."));
    // Where the system does not tell, it is tried.
    let Ok(disk) = rustix::fs::statvfs(folder.as_std_path()) else { return Ok(()) };
    let (free, wanted) = (disk.f_bavail * disk.f_frsize, manifest.total_bytes);
    anyhow::ensure!(
        free >= wanted,
        "expected {:.1} GB of free space in {folder} for the ranks' weights, found {:.1} GB",
        wanted as f64 / 1e9,
        free as f64 / 1e9
    );
    Ok(())
}

fn plan(config: &ModelConfig, parallel: Parallel, stage: u32, tp_rank: u32) -> StagePlan {
    StagePlan { config: config.clone(), parallel, stage, tp_rank, max_positions: 0, batch_tokens: 0 }
}

/// What an earlier run says it wrote; nothing where there was none, or one of another version.
fn earlier_ranks(out: &Utf8Path) -> Vec<Rank> {
    let text = if out.exists() { read(out).ok() } else { None };
    let earlier = text.and_then(|text| serde_json::from_str::<Contents>(&text).ok());
    earlier.into_iter().flat_map(Contents::into_ranks).collect()
}

/// Digests of the whole tensors that a rank's are cut from, each hashed once for all ranks.
fn digests(
    folder: &HuggingFace,
    tensors: &[Tensor],
    known: &mut BTreeMap<String, String>,
) -> Result<Vec<String>, ModelError> {
    let mut inputs = Vec::new();
    for tensor in tensors {
        inputs.extend(folder.inputs(tensor)?);
    }
    let mut unknown: Vec<(&String, &[u8])> = inputs
        .iter()
        .filter(|(name, _)| !known.contains_key(name))
        .map(|(name, bytes)| (name, *bytes))
        .collect();
    unknown.sort_by_key(|(name, bytes)| (Reverse(bytes.len()), *name));
    known.extend(hash_all(&unknown));
    Ok(inputs.iter().map(|(name, _)| format!("{name} {}", known[name])).collect())
}

/// Types of the tensors that are not of `main`, and of what a tensor is cut from where that is of several.
fn types(folder: &HuggingFace, tensors: &[Tensor], main: Dtype) -> Result<Vec<String>, ModelError> {
    let others = tensors.iter().filter(|tensor| tensor.dtype != main);
    let mut types: Vec<String> =
        others.map(|Tensor { name, dtype, .. }| format!("{name} {dtype:?}")).collect();
    for tensor in tensors {
        types.extend(folder.widened(tensor)?.map(|parts| format!("{} of {parts:?}", tensor.name)));
    }
    Ok(types)
}

/// Names and digests, on all cores; the largest tensor should come first.
fn hash_all(tensors: &[(&String, &[u8])]) -> Vec<(String, String)> {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(tensors.len());
    let next = AtomicUsize::new(0);
    let work = || {
        let mine = std::iter::from_fn(|| tensors.get(next.fetch_add(1, Ordering::Relaxed)));
        mine.map(|(name, bytes)| ((*name).clone(), blake3::hash(bytes).to_hex().to_string())).collect()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let digests = |thread: ScopedJoinHandle<'_, Vec<_>>| thread.join().expect("hashing does not panic");
        threads.into_iter().flat_map(digests).collect()
    })
}

/// Digest of all that decides a rank's file.
fn key(plan: &StagePlan, dtype: Dtype, inputs: impl IntoIterator<Item = String>) -> anyhow::Result<String> {
    let StagePlan { config, parallel, stage, tp_rank, .. } = plan;
    // The name changes no value.
    let mut config = config.clone();
    config.shape.name.clear();
    let mut hasher = blake3::Hasher::new();
    let place = serde_json::to_string(&(FORMAT, &config, parallel, stage, tp_rank, dtype))?;
    hasher.update(place.as_bytes());
    for input in inputs {
        hasher.update(b"\n").update(input.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Whether a file still holds what was written: `bench` refuses a damaged one, and says to run `shard` again.
fn is_whole(file: ShardFile, tensors: &[Tensor]) -> bool {
    let file = file.verified(tensors.to_vec());
    tensors.iter().all(|tensor| file.tensor(tensor).is_ok())
}

/// The files on their way.
struct Files<'a> {
    /// The manifest, which they stand beside.
    out: &'a Utf8Path,
    earlier: Vec<Rank>,
    /// Takes those that are to be published.
    filled: SyncSender<LargeOutput>,
    done: Done,
}

impl Files<'_> {
    /// Writes a rank's tensors, or sees that an earlier run did.
    fn fill(&mut self, rank: &mut Rank, source: &dyn TensorSource) -> anyhow::Result<()> {
        let path = self.out.with_file_name(rank_file(rank.rank));
        let key = rank.key.as_deref().expect("the caller has set it");
        // The file itself must agree: a run that was killed has replaced files, but not the manifest.
        let is_same = |other: &&Rank| other.rank == rank.rank && other.key.as_deref() == Some(key);
        if let Some(same) = self.earlier.iter().find(is_same)
            && path.exists()
            && ShardFile::open(&path)
                .is_ok_and(|file| file.key() == Some(key) && is_whole(file, &same.tensors))
        {
            rank.tensors.clone_from(&same.tensors);
            self.done.kept += 1;
            return Ok(());
        }
        let mut output = LargeOutput::create(&path)?;
        model::rank_file::write(&mut output, key, source, &mut rank.tensors)?;
        self.done.written += 1;
        self.done.written_bytes += rank.bytes;
        // What is wrong with publishing, it says itself.
        self.filled
            .send(output)
            .map_err(|_| anyhow::anyhow!("expected to publish {path}, but an earlier file failed"))
    }
}
