//! Writes `rank-000.safetensors`, ... beside a manifest: only those whose content would change.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use chariot_engine::manifest::{Manifest, Origin, Rank, Stage, Weights, rank_file};
use chariot_engine::model::{
    self, Dummy, HuggingFace, ModelConfig, ModelError, ShardFile, StagePlan, TensorSource,
};
use chariot_engine::shard::{Dtype, Parallel, Tensor};
use serde::Deserialize;

use super::super::files::{Output, read};

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

/// An earlier manifest, as far as it tells what stands in the rank files.
#[derive(Deserialize)]
struct Earlier {
    stages: Vec<Stage>,
}

impl Source {
    /// Type of all tensors.
    pub(super) fn dtype(&self, config: &ModelConfig, parallel: Parallel) -> Result<Dtype, ModelError> {
        match self {
            Self::Dummy { dtype, .. } => Ok(*dtype),
            Self::Folder(folder) => HuggingFace::open(folder, &plan(config, parallel, 0, 0))?.dtype(),
        }
    }
}

/// Makes the rank files beside `out` those of `manifest`, and notes in it what they hold.
pub(super) fn write(
    out: &Utf8Path,
    manifest: &mut Manifest,
    config: ModelConfig,
    source: &Source,
) -> anyhow::Result<Done> {
    check_room(out, manifest)?;
    let earlier = earlier_ranks(out);
    let mut done = Done::default();
    let mut inputs = BTreeMap::new();
    let dtype = source.dtype(&config, manifest.parallel)?;
    for stage in &mut manifest.stages {
        for rank in &mut stage.ranks {
            let plan = plan(&config, manifest.parallel, stage.stage, rank.rank % manifest.parallel.tp);
            let path = out.with_file_name(rank_file(rank.rank));
            match source {
                Source::Dummy { seed, dtype } => {
                    let dummy = Dummy::new(*seed, *dtype, &plan)?;
                    rank.key = Some(key(&plan, dtype, [dummy.origin()])?);
                    write_rank(&path, rank, &earlier, &dummy, &mut done)?;
                }
                Source::Folder(folder) => {
                    let folder = HuggingFace::open(folder, &plan)?;
                    rank.key = Some(key(&plan, &dtype, digests(&folder, &rank.tensors, &mut inputs)?)?);
                    write_rank(&path, rank, &earlier, &folder, &mut done)?;
                }
            }
        }
    }
    let origin = match source {
        Source::Dummy { seed, .. } => Origin::Dummy { seed: *seed },
        Source::Folder(_) => Origin::HuggingFace,
    };
    manifest.weights = Some(Weights { config, dtype, origin, inputs });
    Ok(done)
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
    StagePlan { config: config.clone(), parallel, stage, tp_rank, max_positions: 0 }
}

/// What an earlier run says it wrote; nothing where there was none, or one of another version.
fn earlier_ranks(out: &Utf8Path) -> Vec<Rank> {
    let text = if out.exists() { read(out).ok() } else { None };
    let earlier = text.and_then(|text| serde_json::from_str::<Earlier>(&text).ok());
    earlier.into_iter().flat_map(|earlier| earlier.stages).flat_map(|stage| stage.ranks).collect()
}

/// Digests of the whole tensors that a rank's are cut from, each hashed once for all ranks.
fn digests(
    folder: &HuggingFace,
    tensors: &[Tensor],
    known: &mut BTreeMap<String, String>,
) -> Result<Vec<String>, ModelError> {
    let mut digests = Vec::new();
    for tensor in tensors {
        for (name, bytes) in folder.inputs(tensor)? {
            let digest =
                known.entry(name.clone()).or_insert_with(|| blake3::hash(bytes).to_hex().to_string());
            digests.push(format!("{name} {digest}"));
        }
    }
    Ok(digests)
}

/// Digest of all that decides a rank's file.
fn key(plan: &StagePlan, dtype: &Dtype, inputs: impl IntoIterator<Item = String>) -> anyhow::Result<String> {
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

fn write_rank(
    path: &Utf8Path,
    rank: &mut Rank,
    earlier: &[Rank],
    source: &dyn TensorSource,
    done: &mut Done,
) -> anyhow::Result<()> {
    let key = rank.key.as_deref().expect("the caller has set it");
    // The file itself must agree: a run that was killed has replaced files, but not the manifest.
    let same = earlier.iter().find(|other| other.rank == rank.rank && other.key.as_deref() == Some(key));
    if let Some(same) = same
        && path.exists()
        && ShardFile::open(path).is_ok_and(|file| file.key() == Some(key))
    {
        rank.tensors.clone_from(&same.tensors);
        done.kept += 1;
        return Ok(());
    }
    Output::create(path)?
        .publish_durably(|sink| Ok(model::rank_file::write(sink, key, source, &mut rank.tensors)?))?;
    done.written += 1;
    done.written_bytes += rank.bytes;
    Ok(())
}
