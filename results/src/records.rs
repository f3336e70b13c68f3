//! A trial's raw records: its description, its requests, token gaps and batches. Derives nothing.

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::columns::{ColumnsFile, Lists};
use crate::error::{Error, Result};
use crate::files::read_json;

/// `trial.json`, as far as results depend on it.
#[derive(Debug, Clone, Deserialize)]
pub struct TrialInfo {
    /// Simulated or measured.
    pub provenance: Provenance,
    /// The predicate that could no longer hold, if the trial was stopped for one.
    pub stopped: Option<String>,
    /// When the trial ended.
    pub end_ns: i64,
    /// Whose rules: `honest` or `sarathi`.
    pub compat: Compat,
    /// The configuration as run.
    #[serde(default)]
    pub config: Value,
    /// Which model.
    pub model: Option<String>,
    /// On which platform.
    pub platform: Option<String>,
}

impl TrialInfo {
    /// "falcon-180b on a100-2x4", as far as the trial says.
    pub fn setting(&self) -> Option<String> {
        Some(format!("{} on {}", self.model.as_ref()?, self.platform.as_ref()?))
    }
}

/// Where a number comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provenance {
    /// Computed by the simulator.
    Simulated,
    /// Timed on a machine.
    Measured,
}

impl Provenance {
    /// The word shown beside every number.
    pub fn word(self) -> &'static str {
        match self {
            Self::Simulated => "simulated",
            Self::Measured => "measured",
        }
    }
}

/// Which rules a trial ran under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compat {
    /// Every request counts as what it is.
    Honest,
    /// The artifact's request life cycle and metrics.
    Sarathi,
}

impl TrialInfo {
    /// Reads `trial.json`.
    pub fn read(path: &Utf8Path) -> Result<Self> {
        read_json(path)
    }

    /// The trial's time limit, if its configuration names one.
    pub fn time_limit_ns(&self) -> Option<i64> {
        let seconds = self.config.get("time_limit_s")?.as_f64()?;
        Some((seconds * 1e9).round() as i64)
    }
}

/// The columns of `records.parquet` that say when things happened to a request. One entry a request, in arrival order.
#[derive(Debug, Clone)]
pub struct Lives {
    /// Planned arrival, ns.
    pub arrival: Vec<i64>,
    /// Refused: kept out of every metric.
    pub ignored: Vec<bool>,
    /// First scheduled, ns.
    pub scheduled: Vec<Option<i64>>,
    /// First output token, ns.
    pub first_token: Vec<Option<i64>>,
    /// Newest output token, ns.
    pub last_token: Vec<Option<i64>>,
    /// Last output token when all were produced, ns.
    pub completed: Vec<Option<i64>>,
    /// Output tokens asked for.
    pub output_tokens: Vec<i32>,
    /// Output tokens produced.
    pub tokens_out: Vec<i32>,
}

/// The columns of `records.parquet` that say what was done for a request.
#[derive(Debug, Clone)]
pub struct Works {
    /// Prompt tokens.
    pub prompt_tokens: Vec<i32>,
    /// End of the batch that finished the prompt, ns.
    pub prefill_end: Vec<Option<i64>>,
    /// Time in batches, ns.
    pub execution: Vec<i64>,
    /// Time out of batches since first scheduled, ns.
    pub preemption: Vec<i64>,
    /// Preemptions with recomputation.
    pub restarts: Vec<i32>,
    /// Times left out of a batch while allocated.
    pub pauses: Vec<i32>,
}

/// `batches.parquet`: one entry a batch, in order of scheduling.
#[derive(Debug, Clone)]
pub struct Batches {
    /// When its first stage began, ns.
    pub start: Vec<i64>,
    /// When it left the last stage, ns.
    pub end: Vec<i64>,
    /// Sequences in it.
    pub sequences: Vec<i32>,
    /// Prompt tokens in it.
    pub prefill_tokens: Vec<i32>,
    /// Decode tokens in it.
    pub decode_tokens: Vec<i32>,
}

/// An open `records.parquet`.
pub struct Records {
    path: Utf8PathBuf,
    file: ColumnsFile,
}

impl Records {
    /// Opens the file; reads no column yet.
    pub fn open(path: &Utf8Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), file: ColumnsFile::open(path)? })
    }

    /// Reads when things happened, and checks the order of events.
    pub fn lives(&self) -> Result<Lives> {
        let lives = Lives {
            arrival: self.file.i64("arrival_ns")?,
            ignored: self.file.bool("ignored")?,
            scheduled: self.file.optional_i64("scheduled_ns")?,
            first_token: self.file.optional_i64("first_token_ns")?,
            last_token: self.file.optional_i64("last_token_ns")?,
            completed: self.file.optional_i64("completed_ns")?,
            output_tokens: self.file.i32("output_tokens")?,
            tokens_out: self.file.i32("tokens_out")?,
        };
        for i in 0..lives.arrival.len() {
            let arrival = Some(lives.arrival[i]);
            self.in_order(i, "arrival_ns", Some(0), arrival)?;
            self.in_order(i, "scheduled_ns", arrival, lives.scheduled[i])?;
            self.in_order(i, "first_token_ns", lives.scheduled[i].or(arrival), lives.first_token[i])?;
            self.in_order(i, "last_token_ns", lives.first_token[i], lives.last_token[i])?;
            self.in_order(i, "completed_ns", lives.last_token[i].or(arrival), lives.completed[i])?;
        }
        Ok(lives)
    }

    /// Reads what was done, and checks it against the times in `lives`.
    pub fn works(&self, lives: &Lives) -> Result<Works> {
        let works = Works {
            prompt_tokens: self.file.i32("prompt_tokens")?,
            prefill_end: self.file.optional_i64("prefill_end_ns")?,
            execution: self.file.i64("execution_ns")?,
            preemption: self.file.i64("preemption_ns")?,
            restarts: self.file.i32("restarts")?,
            pauses: self.file.i32("pauses")?,
        };
        for i in 0..works.prefill_end.len() {
            self.in_order(
                i,
                "prefill_end_ns",
                lives.scheduled[i].or(Some(lives.arrival[i])),
                works.prefill_end[i],
            )?;
            self.in_order(i, "completed_ns", works.prefill_end[i], lives.completed[i])?;
            self.in_order(i, "execution_ns", Some(0), Some(works.execution[i]))?;
            self.in_order(i, "preemption_ns", Some(0), Some(works.preemption[i]))?;
        }
        Ok(works)
    }

    /// Reads the gaps between each request's output tokens, ns, and checks their number.
    pub fn gaps(&self, lives: &Lives) -> Result<Lists<i64>> {
        let gaps = self.file.i64_lists("tbt_ns")?;
        for i in 0..gaps.rows() {
            let expected = usize::try_from(lives.tokens_out[i] - 1).unwrap_or(0);
            if gaps.row(i).len() != expected {
                let found = gaps.row(i).len();
                return Err(self.bad(i, format!("expected {expected} values in `tbt_ns`, found {found}")));
            }
        }
        match gaps.values().iter().find(|gap| **gap < 0) {
            None => Ok(gaps),
            Some(gap) => {
                Err(Error::file(&self.path, format!("column `tbt_ns`: expected gaps >= 0 ns, found {gap}")))
            }
        }
    }

    /// Reads, for each gap, whether the batch that ended it carried no prompt token.
    pub fn decode_only(&self, gaps: &Lists<i64>) -> Result<Lists<bool>> {
        let flags = self.file.bool_lists("tbt_decode_only")?;
        match (0..flags.rows()).find(|i| flags.row(*i).len() != gaps.row(*i).len()) {
            None => Ok(flags),
            Some(i) => Err(self.bad(i, "expected as many values in `tbt_decode_only` as in `tbt_ns`")),
        }
    }

    fn in_order(&self, row: usize, column: &str, earlier: Option<i64>, later: Option<i64>) -> Result<()> {
        match (earlier, later) {
            (Some(earlier), Some(later)) if later < earlier => {
                Err(self.bad(row, format!("expected `{column}` >= {earlier}, found {later}")))
            }
            _ => Ok(()),
        }
    }

    fn bad(&self, row: usize, message: impl std::fmt::Display) -> Error {
        Error::file(&self.path, format!("row {row}: {message}"))
    }
}

impl Batches {
    /// Reads `batches.parquet`.
    pub fn read(path: &Utf8Path) -> Result<Self> {
        let file = ColumnsFile::open(path)?;
        let batches = Self {
            start: file.i64("start_ns")?,
            end: file.i64("end_ns")?,
            sequences: file.i32("sequences")?,
            prefill_tokens: file.i32("prefill_tokens")?,
            decode_tokens: file.i32("decode_tokens")?,
        };
        match (0..file.rows()).find(|i| batches.end[*i] < batches.start[*i]) {
            None => Ok(batches),
            Some(i) => Err(Error::file(path, format!("row {i}: expected `end_ns` >= `start_ns`"))),
        }
    }
}
