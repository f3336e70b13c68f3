//! The recipe of a user's own command.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::decode::Spanned;
use crate::quantity::Time;
use crate::value::{Count, LocalPath, Text};

/// Runs a command of your own.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The command and its arguments. The command is looked up in `PATH`, or is a path in the project.
    #[schemars(length(min = 1))]
    pub argv: Spanned<Vec<Text>>,
    /// Files laid in the command's directory: path there -> a file of the project, or `TARGET:OUTPUT`.
    #[serde(default)]
    pub inputs: BTreeMap<LocalPath, Spanned<String>>,
    /// Files it leaves in its directory.
    #[schemars(length(min = 1))]
    pub outputs: Spanned<Vec<Spanned<LocalPath>>>,
    /// Its environment, beside `PATH`.
    #[serde(default)]
    pub env: BTreeMap<String, Text>,
    /// What it occupies. Default: one CPU slot.
    pub resources: Option<Occupies>,
    /// Killed after this long. Default: never.
    pub timeout: Option<Time>,
    /// Further tries after a failure. Default: 0.
    pub retries: Option<u32>,
    /// Facts about the host that the result depends on, such as `hostname`.
    #[serde(default)]
    pub facts: Vec<String>,
    /// Text outputs printed at the end of a run.
    #[serde(default)]
    pub show: Vec<Spanned<LocalPath>>,
}

/// What a command occupies.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Occupies {
    /// CPU slots. Default: 1.
    pub cpu: Option<Count>,
    /// GPUs. Default: 0.
    pub gpu: Option<u32>,
    /// Nothing else may run beside it. Default: false.
    pub exclusive: Option<bool>,
}
