//! The recipes that come before trials: `cluster`, `profile` and `shard`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::decode::Spanned;
use crate::quantity::Time;
use crate::value::Count;

/// Brings a platform up.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// A preset of `platforms/`, or a path. Default: the pipeline's `platform`.
    pub platform: Option<Spanned<String>>,
    /// A target with `recipe: profile`, whose measured costs are the platform's; in place of `platform`.
    pub profile: Option<Spanned<String>>,
    /// Whether its trials are simulated, or run on processes of this host or on GPUs. Default: the pipeline's `on`.
    pub on: Option<On>,
}

/// What runs the trials of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum On {
    /// The discrete-event simulator.
    Simulator,
    /// One CPU process a rank, on this host. Their numbers are measured.
    Cpu,
    /// An NVIDIA GPU a rank. Their numbers are measured, and so are the cluster's links.
    Cuda,
}

impl On {
    /// As pipelines and command lines spell it.
    pub const NAMES: [(&'static str, Self); 3] =
        [("simulator", Self::Simulator), ("cpu", Self::Cpu), ("cuda", Self::Cuda)];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, on)| *on == self).map_or("", |(name, _)| name)
    }

    /// Whether numbers come from real execution.
    pub fn is_measured(self) -> bool {
        self != Self::Simulator
    }
}

/// Measures what work costs on this host, for a simulation of it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// A preset of `platforms/`, or a path: its devices, links and `runtime` are kept, its costs are measured. Default: the pipeline's `platform`.
    pub platform: Option<Spanned<String>>,
    /// The model whose products and layers are timed: a preset of `models/`, or the path of a preset or of a Hugging Face `config.json`.
    pub model: Spanned<String>,
    /// The ways of dividing it that will be simulated.
    #[schemars(length(min = 1))]
    pub parallels: Spanned<Vec<Parallel>>,
    /// Type of the weights. Default: bf16.
    pub dtype: Option<Dtype>,
    /// Seed of the weights' values; tells repeats apart. Default: 0.
    pub seed: Option<u32>,
    /// The largest batch to measure, tokens. Default: 512.
    pub max_tokens: Option<Count>,
    /// How long to measure, about. Default: 60 s.
    pub time: Option<Time>,
}

/// Divides a model's weights over tensor-parallel ranks and pipeline stages.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// A target with `recipe: cluster`. Default: the only one there is.
    pub cluster: Option<Spanned<String>>,
    /// A preset of `models/`, or the path of a preset or of a Hugging Face `config.json`.
    pub model: Spanned<String>,
    /// Over how many ranks and stages.
    pub parallel: Parallel,
    /// Where the values come from, on a cluster that runs for real. Default: made up from seed 0, bf16.
    pub weights: Option<Spanned<Weights>>,
}

/// Where a model's values come from: `{dummy: SEED, dtype: TYPE}` or `{folder: PATH}`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// Made up from this seed.
    pub dummy: Option<u32>,
    /// Type of values that are made up. Default: bf16.
    pub dtype: Option<Dtype>,
    /// Folder of the project with `config.json` and safetensors, as Hugging Face lays it out.
    pub folder: Option<Spanned<String>>,
}

/// Type of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// The upper half of an f32.
    Bf16,
    /// IEEE half precision.
    F16,
    /// IEEE single precision.
    F32,
}

impl Dtype {
    /// As the command line spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }
}

/// A hybrid of tensor and pipeline parallelism.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parallel {
    /// Ranks that share each layer.
    #[schemars(range(min = 1))]
    pub tp: Count,
    /// Stages that the layers are divided over.
    #[schemars(range(min = 1))]
    pub pp: Count,
}

impl Parallel {
    /// All ranks.
    pub fn ranks(&self) -> u64 {
        u64::from(self.tp.0) * u64::from(self.pp.0)
    }
}
