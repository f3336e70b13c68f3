//! Whether a trial meets its SLO. Reads the columns its predicates need and no others.

use camino::Utf8Path;
use serde::Serialize;

use crate::error::Result;
use crate::files::FORMAT;
use crate::metric::{scheduling_delay, tbt, ttft};
use crate::predicate::{Predicate, Subject};
use crate::quantile::quantile;
use crate::records::{Lives, Provenance, Records, TrialInfo};

/// `verdict.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// Version of this file's meaning.
    pub format: u64,
    /// Simulated or measured.
    pub provenance: Provenance,
    /// Model and platform, as far as the trial says.
    pub setting: Option<String>,
    /// Every predicate holds, of a complete trial.
    pub pass: bool,
    /// The trial was not stopped as hopeless.
    pub complete: bool,
    /// In the order given.
    pub predicates: Vec<Finding>,
}

/// What one predicate came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// As it was written.
    pub predicate: String,
    /// The quantile; absent where there is no sample.
    pub value_s: Option<f64>,
    /// The limit.
    pub limit_s: f64,
    /// Whether it holds.
    pub pass: bool,
}

/// Judges the trial in a directory. Linear in the number of tokens.
pub fn judge(dir: &Utf8Path, slo: &[Predicate]) -> Result<Verdict> {
    let info = TrialInfo::read(&dir.join("trial.json"))?;
    let records = Records::open(&dir.join("records.parquet"))?;
    let lives = records.lives()?;
    let complete = info.stopped.is_none();
    let predicates =
        slo.iter().map(|predicate| find(predicate, &records, &lives, &info)).collect::<Result<Vec<_>>>()?;
    let pass = complete && predicates.iter().all(|finding| finding.pass);
    Ok(Verdict {
        format: FORMAT,
        provenance: info.provenance,
        setting: info.setting(),
        pass,
        complete,
        predicates,
    })
}

fn find(predicate: &Predicate, records: &Records, lives: &Lives, info: &TrialInfo) -> Result<Finding> {
    let mut samples = match predicate.subject {
        Subject::Tbt => tbt(lives, &records.gaps(lives)?, info.end_ns),
        Subject::Ttft => ttft(lives, info.end_ns),
        Subject::SchedulingDelay => scheduling_delay(lives, info.end_ns),
    };
    let value_s = quantile(&mut samples, predicate.quantile).map(|ns| ns / 1e9);
    // Nothing sampled passes only if nothing is owed: a trial in which no token ever came must not meet a limit on gaps.
    let nothing_owed =
        || (0..lives.arrival.len()).all(|i| !lives.counts(i, info.end_ns) || lives.completed[i].is_some());
    let pass = value_s.map_or_else(nothing_owed, |value| value <= predicate.limit_s);
    Ok(Finding { predicate: predicate.text.clone(), value_s, limit_s: predicate.limit_s, pass })
}
