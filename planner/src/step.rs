//! What expansion hands to the planner: steps as plain data. Knows no file system, clock or process, and no recipe's meaning.

use std::collections::BTreeMap;
use std::time::Duration;

use camino::Utf8PathBuf;

/// Index of a step in [`Steps::steps`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId(pub u32);

/// A place in a pipeline file, for messages: 1-based line and column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The pipeline file as the user named it.
    pub file: Utf8PathBuf,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
}

/// A whole pipeline after expansion, every step listed after no particular order; the graph sorts them.
#[derive(Debug, Clone, PartialEq)]
pub struct Steps {
    /// Name of the pipeline: the file's stem.
    pub pipeline: String,
    /// All steps; `StepId` indexes this.
    pub steps: Vec<Step>,
}

/// One node of the DAG: an action, or a search whose actions are found while running.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// `pipeline/target[/instance][/part]`, unique.
    pub address: String,
    /// What progress and counts call it: "trial", "summary", "figure", ...
    pub kind: &'static str,
    /// Where the target is declared.
    pub location: Location,
    /// What it does.
    pub work: Work,
    /// Where its outputs are shown to people, relative to `out/`; `None`: not shown.
    pub place: Option<Utf8PathBuf>,
    /// Outputs (text files) printed at the end of a run that asked for this step.
    pub show: Vec<Utf8PathBuf>,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// One command.
    Action(ActionTemplate),
    /// A capacity search: probes are actions made from the templates at each rate.
    Search(SearchTemplate),
}

/// An action before its inputs' digests are known.
#[derive(Debug, Clone, PartialEq)]
pub struct ActionTemplate {
    /// The executable.
    pub tool: Tool,
    /// Arguments after the executable.
    pub args: Vec<String>,
    /// Environment; the child sees these and `PATH`, and with the fact `gpu` what programs on GPUs need.
    pub env: BTreeMap<String, String>,
    /// Files laid in the action's directory before it runs: path in that directory -> where the bytes come from.
    pub inputs: BTreeMap<Utf8PathBuf, Source>,
    /// Files it must leave in its directory.
    pub outputs: Vec<Utf8PathBuf>,
    /// What it occupies while it runs.
    pub resources: Resources,
    /// Killed after this long.
    pub timeout: Option<Duration>,
    /// Further tries after a failure.
    pub retries: u32,
    /// Names of host facts the result depends on (`hostname`, `cpu`, `kernel`, ...); empty for a function of its inputs.
    pub facts: Vec<String>,
    /// Arguments that may end the command early; see [`Cutoff`].
    pub cutoff: Option<Cutoff>,
}

/// Extra arguments under which the command may end early, with less than the whole result.
/// A run that did not end early is as good as one without the arguments and answers for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Cutoff {
    /// Appended to the arguments.
    pub args: Vec<String>,
    /// A JSON output whose member `stopped` is non-null when the run ended early.
    pub marker: Utf8PathBuf,
}

/// An executable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    /// One of Chariot's own, found beside the `chariot` executable: `chariot-engine`, `chariot-results`.
    Own(&'static str),
    /// A user's command: looked up in `PATH`, or a path relative to the project.
    User(String),
}

/// Where an input's bytes come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A file of the project, relative to its root (or absolute).
    File(Utf8PathBuf),
    /// An output of another step: this is an edge of the DAG.
    Output {
        /// The producing step.
        step: StepId,
        /// Its output's path.
        path: Utf8PathBuf,
    },
    /// Bytes made by the planner, such as a configuration.
    Inline(Vec<u8>),
}

/// What an action occupies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// CPU slots, out of `-j`.
    pub cpu: u32,
    /// GPUs of the platform.
    pub gpu: u32,
    /// Nothing else may run beside it.
    pub exclusive: bool,
}

/// A capacity search: for each repeat, the highest rate at which the judge passes.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchTemplate {
    /// Names the searched thing in `capacity.json`.
    pub labels: BTreeMap<String, String>,
    /// Where and how finely to look.
    pub rates: Rates,
    /// One search each, in order; the first bracket is where the next ones start.
    pub repeats: Vec<Repeat>,
    /// The predicates, as given to the judge; part of `capacity.json`.
    pub slo: Vec<String>,
}

/// The rates a search may ask for.
#[derive(Debug, Clone, PartialEq)]
pub struct Rates {
    /// First guess, requests per second.
    pub start: f64,
    /// Relative width of the final bracket, e.g. 0.025.
    pub granularity: f64,
    /// Never below this.
    pub min: f64,
    /// Never above this.
    pub max: f64,
}

/// One repetition of a search.
#[derive(Debug, Clone, PartialEq)]
pub struct Repeat {
    /// Names it in `capacity.json`, e.g. seed and band. Values are JSON scalars.
    pub labels: BTreeMap<String, serde_json::Value>,
    /// The trial at a rate: `trial` with the rate's place in its configuration still open.
    pub trial: RateTemplate,
    /// The judge: reads the trial's outputs and writes `verdict.json` with a boolean member `pass`.
    /// Inputs that come from the trial are named in `judge_inputs`.
    pub judge: ActionTemplate,
    /// Path in the judge's directory -> output of the trial.
    pub judge_inputs: BTreeMap<Utf8PathBuf, Utf8PathBuf>,
}

/// An action with one number still open: the rate.
#[derive(Debug, Clone, PartialEq)]
pub struct RateTemplate {
    /// The action; `config_path` is absent from its inputs until the rate is known.
    pub action: ActionTemplate,
    /// The input that holds the configuration.
    pub config_path: Utf8PathBuf,
    /// The configuration without the rate.
    pub config: serde_json::Value,
    /// JSON pointer of the rate within `config`, e.g. `/workload/arrivals/qps`.
    pub rate_pointer: String,
}
