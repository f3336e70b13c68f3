//! How long requests are: prompts and outputs from two streams.

use std::collections::VecDeque;

use camino::Utf8Path;
use serde::Deserialize;

use super::WorkloadError;
use super::config::Lengths;
use super::csv::Table;
use super::stream::{Purpose, Stream};

/// Longest total that totals drawn by rank may span.
const RANKS_MAX: u32 = 1 << 22;

/// An output that does not fit beside its prompt is kept for a later one at most this many times before it is cut.
const REDRAWS_MAX: u32 = 64;

/// Prompt and output lengths.
type Length = (u32, u32);

/// Published quantiles of prompt and output lengths, linear in between.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantileTable {
    /// What the lengths are of.
    pub name: String,
    /// Where they were published, and what was derived.
    pub source: String,
    /// Prompt plus output stay within it, if given.
    #[serde(default)]
    pub total_max: Option<u32>,
    /// `[share, tokens]`, both ascending, from share 0 to share 1.
    pub prompt: Vec<(f64, f64)>,
    /// The same of outputs.
    pub output: Vec<(f64, f64)>,
}

pub(super) fn generate(
    lengths: &Lengths,
    count: usize,
    dir: &Utf8Path,
    seed: u64,
) -> Result<Vec<Length>, WorkloadError> {
    let mut stream = Stream::new(seed, Purpose::Prompts);
    match *lengths {
        Lengths::Quantiles { ref file, total_max } => {
            let table = QuantileTable::read(dir, file)?;
            Ok(table.draw(count, seed, total_max.or(table.total_max).unwrap_or(u32::MAX)))
        }
        Lengths::Trace { ref file } => trace(dir, file, count),
        Lengths::Fixed { prompt, output } => {
            at_least("lengths.prompt", 1, prompt)?;
            at_least("lengths.output", 1, output)?;
            Ok(vec![(prompt, output); count])
        }
        Lengths::Uniform { total_min, total_max, prompt_to_output } => {
            let span = span(total_min, total_max)?;
            let split = splitter(prompt_to_output)?;
            Ok((0..count).map(|_| split(total_min + (stream.uniform() * f64::from(span)) as u32)).collect())
        }
        Lengths::Zipf { total_min, total_max, theta, prompt_to_output } => {
            let ranks = cumulative_zipf(span(total_min, total_max)?, theta)?;
            let split = splitter(prompt_to_output)?;
            let rank = |share: f64| ranks.partition_point(|&below| below < share).min(ranks.len() - 1) as u32;
            Ok((0..count).map(|_| split(total_min + rank(stream.uniform()))).collect())
        }
    }
}

fn trace(dir: &Utf8Path, file: &str, count: usize) -> Result<Vec<Length>, WorkloadError> {
    let table = Table::read(dir, file, &["num_prefill_tokens", "num_decode_tokens"])?;
    table.rows(count)?.iter().map(|row| Ok((row.tokens(0)?, row.tokens(1)?))).collect()
}

impl QuantileTable {
    /// Reads and checks a table; `file` is looked up in `dir`.
    pub fn read(dir: &Utf8Path, file: &str) -> Result<Self, WorkloadError> {
        let text = fs_err::read_to_string(dir.join(file))?;
        let wrong = |line, message| WorkloadError::File { file: file.to_owned(), line, message };
        let table: Self = serde_saphyr::from_str(&text).map_err(|error| {
            let line = error.location().map_or(1, |place| place.line());
            wrong(line, error.without_snippet().to_string())
        })?;
        for (name, points) in [("prompt", &table.prompt), ("output", &table.output)] {
            let line = text.lines().position(|line| line.starts_with(name)).unwrap_or(0) as u64 + 1;
            check_points(points).map_err(|message| wrong(line, format!("{name}: {message}")))?;
        }
        Ok(table)
    }

    /// Independent prompts and outputs with `prompt + output <= total_max`.
    ///
    /// A prompt too long for even the shortest output is drawn again. An output that does not fit beside its prompt is
    /// kept for the next prompt that it fits, so that the outputs keep their distribution; only which prompt they meet
    /// changes.
    pub fn draw(&self, count: usize, seed: u64, total_max: u32) -> Vec<Length> {
        let (mut prompts, mut outputs) =
            (Stream::new(seed, Purpose::Prompts), Stream::new(seed, Purpose::Outputs));
        let shortest = length(&self.output, 0.0);
        let mut kept = VecDeque::new();
        let mut one = |_| {
            let prompt =
                fitting(total_max.saturating_sub(shortest), || length(&self.prompt, prompts.uniform()));
            let room = total_max.saturating_sub(prompt).max(1);
            if let Some(place) = kept.iter().position(|&output| output <= room) {
                return (prompt, kept.remove(place).unwrap_or(1));
            }
            let output = fitting(room, || {
                let output = length(&self.output, outputs.uniform());
                if output > room {
                    kept.push_back(output);
                }
                output
            });
            (prompt, output)
        };
        (0..count).map(&mut one).collect()
    }
}

/// Draws until a value is at most `most`; after many draws, cuts it.
fn fitting(most: u32, mut draw: impl FnMut() -> u32) -> u32 {
    let found = (0..REDRAWS_MAX).map(|_| draw()).find(|&value| value <= most);
    found.unwrap_or(most).max(1)
}

/// The length at `share` of a table, linear between its points, to the nearest token.
fn length(points: &[(f64, f64)], share: f64) -> u32 {
    let above = points.partition_point(|point| point.0 <= share).clamp(1, points.len() - 1);
    let ((x0, y0), (x1, y1)) = (points[above - 1], points[above]);
    let exact = y0 + (y1 - y0) * (share - x0) / (x1 - x0);
    (exact.round() as u32).max(1)
}

fn check_points(points: &[(f64, f64)]) -> Result<(), String> {
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return Err("expected [share, tokens] points, found none".to_owned());
    };
    if first.0 != 0.0 || last.0 != 1.0 {
        return Err(format!("expected shares from 0 to 1, found {} to {}", first.0, last.0));
    }
    if !points.iter().all(|&(_, tokens)| (1.0..4e9).contains(&tokens)) {
        return Err("expected lengths of at least 1 token".to_owned());
    }
    for pair in points.windows(2) {
        let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
        if !(x0 < x1 && y0 <= y1) {
            return Err(format!("expected ascending points, found [{x1}, {y1}] after [{x0}, {y0}]"));
        }
    }
    Ok(())
}

/// How many totals lie between two bounds, both included.
fn span(total_min: u32, total_max: u32) -> Result<u32, WorkloadError> {
    at_least("lengths.total_min", 2, total_min)?;
    at_least("lengths.total_max", total_min, total_max)?;
    Ok(total_max - total_min + 1)
}

/// Divides a total into prompt and output, at least one token each.
fn splitter(prompt_to_output: f64) -> Result<impl Fn(u32) -> Length, WorkloadError> {
    if !(prompt_to_output.is_finite() && prompt_to_output >= 0.0) {
        let message = format!("expected a number of at least 0, found {prompt_to_output}");
        return Err(WorkloadError::field("lengths.prompt_to_output", message));
    }
    Ok(move |total: u32| {
        let output = ((f64::from(total) / (1.0 + prompt_to_output)).round() as u32).clamp(1, total - 1);
        (total - output, output)
    })
}

/// Cumulative probabilities of the ranks 1..=span.
fn cumulative_zipf(span: u32, theta: f64) -> Result<Vec<f64>, WorkloadError> {
    if !(theta.is_finite() && theta >= 0.0) {
        let message = format!("expected a number of at least 0, found {theta}");
        return Err(WorkloadError::field("lengths.theta", message));
    }
    if span > RANKS_MAX {
        let message = format!("expected at most {RANKS_MAX} different totals, found {span}");
        return Err(WorkloadError::field("lengths.total_max", message));
    }
    let mut sum = 0.0;
    let mut cumulative: Vec<f64> = (1..=span)
        .map(|rank| {
            sum += libm::pow(f64::from(rank), -theta);
            sum
        })
        .collect();
    cumulative.iter_mut().for_each(|below| *below /= sum);
    Ok(cumulative)
}

fn at_least(field: &'static str, least: u32, found: u32) -> Result<(), WorkloadError> {
    if found >= least {
        return Ok(());
    }
    Err(WorkloadError::field(field, format!("expected at least {least}, found {found}")))
}
