//! `weights.json`: a model divided over the ranks of a cluster, and what of each device's memory that takes.
//! Knows no file's content.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::model::ModelConfig;
use crate::shape::ModelShape;
use crate::shard::{Division, Dtype, Dtypes, Parallel, ShardError, Tensor};
use crate::sim::cluster::{Cluster, Provenance};

/// Version of `weights.json`.
pub const FORMAT: u32 = 1;

/// The content of `weights.json`. A trial reads all but `stages`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this file.
    pub format: u32,
    /// Where it comes from.
    pub provenance: Provenance,
    /// Name of the platform it was divided for.
    pub platform: String,
    /// Name of the model.
    pub model: String,
    /// Over what.
    pub parallel: Parallel,
    /// The undivided model.
    pub shape: ModelShape,
    /// All ranks together.
    pub total_bytes: u64,
    /// What the fullest device holds, and has room for.
    pub memory: Memory,
    /// What real weights are; absent where they are only reckoned with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<Weights>,
    /// First stage first. Left out when a trial reads it.
    #[serde(skip_deserializing)]
    pub stages: Vec<Stage>,
}

/// What of `weights.json` a rank or a later `shard` reads: what stands in the rank files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Contents {
    /// First stage first.
    pub stages: Vec<Stage>,
}

impl Contents {
    /// Every rank's.
    pub fn into_ranks(self) -> impl Iterator<Item = Rank> {
        self.stages.into_iter().flat_map(|stage| stage.ranks)
    }
}

/// Weights that stand in rank files beside the manifest, or are made up by each rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// What the model computes.
    pub config: ModelConfig,
    /// Type of the layers' projections and of the KV cache; a tensor of another type says so itself.
    pub dtype: Dtype,
    /// Where the values come from.
    pub origin: Origin,
    /// Tensors that were read -> BLAKE3 of each; none for a dummy.
    pub inputs: BTreeMap<String, String>,
    /// There are no rank files: each rank makes its values from the seed when it starts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_memory: bool,
}

/// Where a model's values come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Made up from a seed.
    Dummy {
        /// Of all values.
        seed: u64,
    },
    /// A Hugging Face folder.
    HuggingFace,
}

/// Memory of the fullest device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// All of it.
    pub gpu_bytes: u64,
    /// Weights.
    pub weight_bytes_max: u64,
    /// One token's keys and values.
    pub kv_bytes_per_token: u64,
}

/// A contiguous range of layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Which, from 0.
    pub stage: u32,
    /// Its first layer.
    pub first_layer: u32,
    /// Its layers.
    pub layers: u32,
    /// One for each device of its TP group.
    pub ranks: Vec<Rank>,
}

/// What one device holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rank {
    /// Which, from 0 over all stages.
    pub rank: u32,
    /// Where.
    pub device: u32,
    /// In which machine.
    pub node: u32,
    /// Sum over its tensors.
    pub bytes: u64,
    /// Digest of all that decides its file, where it has one: [`rank_file`] of its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Everything it holds.
    pub tensors: Vec<Tensor>,
}

/// The name of a rank's file, beside `weights.json`.
pub fn rank_file(rank: u32) -> String {
    format!("rank-{rank:03}.safetensors")
}

/// Why a model cannot be laid out on a cluster.
#[derive(Debug, Error)]
pub enum LayoutError {
    /// It does not divide.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// More ranks than devices.
    #[error(
        "expected tp x pp of at most {devices}, the devices of {platform}, found {tp} x {pp} = {}",
        u64::from(*tp) * u64::from(*pp)
    )]
    TooManyRanks {
        /// Of the platform.
        devices: u32,
        /// Its name.
        platform: String,
        /// Ranks of a stage.
        tp: u32,
        /// Stages.
        pp: u32,
    },
    /// Weights larger than a device.
    #[error(
        "expected each rank's weights to fit the {:.2} GB of a device, found {:.2} GB at tp={tp} pp={pp}",
        *gpu_bytes as f64 / 1e9,
        *weight_bytes as f64 / 1e9
    )]
    TooLarge {
        /// Memory of a device.
        gpu_bytes: u64,
        /// Weights of the fullest rank.
        weight_bytes: u64,
        /// Ranks of a stage.
        tp: u32,
        /// Stages.
        pp: u32,
    },
}

impl Manifest {
    /// Lays a model out over a cluster: rank r on device r, the ranks of a stage side by side.
    pub fn new(
        cluster: &Cluster,
        shape: ModelShape,
        parallel: Parallel,
        dtypes: &Dtypes,
    ) -> Result<Self, LayoutError> {
        let Parallel { tp, pp } = parallel;
        let devices = cluster.devices.len() as u32;
        if u64::from(tp) * u64::from(pp) > u64::from(devices) {
            return Err(LayoutError::TooManyRanks { devices, platform: cluster.platform.clone(), tp, pp });
        }
        let division = Division::new(&shape, parallel)?;
        let stages: Vec<Stage> =
            (0..pp).map(|stage| Stage::new(cluster, &shape, &division, stage, dtypes)).collect();
        let bytes = || stages.iter().flat_map(|stage| &stage.ranks).map(|rank| rank.bytes);
        let memory = Memory {
            gpu_bytes: cluster.preset.gpu_memory_bytes(),
            weight_bytes_max: bytes().max().unwrap_or(0),
            kv_bytes_per_token: division.kv_bytes_per_token(&shape, dtypes.main),
        };
        if memory.weight_bytes_max > memory.gpu_bytes {
            let (gpu_bytes, weight_bytes) = (memory.gpu_bytes, memory.weight_bytes_max);
            return Err(LayoutError::TooLarge { gpu_bytes, weight_bytes, tp, pp });
        }
        Ok(Self {
            format: FORMAT,
            provenance: cluster.provenance,
            platform: cluster.platform.clone(),
            model: shape.name.clone(),
            parallel,
            total_bytes: bytes().sum(),
            memory,
            weights: None,
            stages,
            shape,
        })
    }
}

impl Stage {
    fn new(cluster: &Cluster, shape: &ModelShape, division: &Division, stage: u32, dtypes: &Dtypes) -> Self {
        let tensors = division.tensors(shape, stage, dtypes.main).into_iter();
        let of_own_dtype = |tensor: Tensor| {
            let dtype = dtypes.of(&tensor.name);
            tensor.of_dtype(dtype)
        };
        let tensors: Vec<Tensor> = tensors.map(of_own_dtype).collect();
        let bytes = tensors.iter().map(|tensor| tensor.bytes).sum();
        let rank = |rank: u32| {
            let device = cluster.devices[rank as usize];
            Rank {
                rank,
                device: device.device,
                node: device.node,
                bytes,
                key: None,
                tensors: tensors.clone(),
            }
        };
        let layers = division.layer_range(stage);
        Self {
            stage,
            first_layer: layers.start,
            layers: layers.end - layers.start,
            ranks: division.parallel.stage_ranks(stage).into_iter().map(rank).collect(),
        }
    }
}
