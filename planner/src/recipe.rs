//! The step kinds a target can have, as typed structs: what a pipeline may say, key by key. Knows no command line.
//!
//! The doc comments become the descriptions in `pipelines/schema.json`.

mod cluster;
mod command;
mod report;
mod serving;

use schemars::JsonSchema;
use serde::Deserialize;

pub use cluster::{Cluster, Dtype, On, Parallel, Profile, Shard, Weights};
pub use command::{Command, Occupies};
pub use report::{Axis, Check, Claim, Figure, FigureKind, TimeUnit, Variable, Vertical};
pub use serving::{
    Arrivals, Band, Capacity, Chunk, ChunkSchedule, Compat, Lengths, Process, Rate, Scheduler, SearchBand,
    Serving, Trial,
};

/// What a target does.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Recipe {
    /// Brings a platform up.
    Cluster(Cluster),
    /// Measures what work costs on this host, for a simulation of it.
    Profile(Profile),
    /// Divides a model's weights over tensor-parallel ranks and pipeline stages.
    Shard(Shard),
    /// Runs one configuration at one load and summarises what was recorded.
    Trial(Box<Trial>),
    /// Searches for the highest rate at which an SLO holds.
    Capacity(Box<Capacity>),
    /// Draws a figure from trials or capacities.
    Figure(Figure),
    /// Compares published claims with what came out.
    Check(Check),
    /// Runs a command of your own.
    Command(Command),
}

impl Recipe {
    /// The name it has in a pipeline.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Cluster(_) => "cluster",
            Self::Profile(_) => "profile",
            Self::Shard(_) => "shard",
            Self::Trial(_) => "trial",
            Self::Capacity(_) => "capacity",
            Self::Figure(_) => "figure",
            Self::Check(_) => "check",
            Self::Command(_) => "command",
        }
    }
}
