//! A capacity search over its repeats: which probes it wants, what they said, and `capacity.json`. Pure.
//!
//! The first repeat searches alone; the others start from what it found and go on side by side.

use std::collections::BTreeMap;

use camino::Utf8PathBuf;
use serde_json::{Map, Value, json};

use crate::search::{BadRates, Outcome, Search};
use crate::step::{ActionTemplate, RateTemplate, Rates, Repeat, SearchTemplate, Source};

/// The output of a search.
pub const CAPACITY: &str = "capacity.json";
/// The output of a judge.
pub const VERDICT: &str = "verdict.json";
/// Version of `capacity.json`.
const FORMAT: u32 = 1;

/// A probe of a search: which repeat, at which rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Index of the repeat.
    pub repeat: usize,
    /// Requests per second.
    pub rate: f64,
}

/// What is wrong with a search or an answer to it.
#[derive(Debug, thiserror::Error)]
pub enum ProbesError {
    /// The rates are no range.
    #[error("{0}")]
    Rates(#[from] BadRates),
    /// The rate has no place in the configuration.
    #[error("expected an object at the parent of {pointer} in the trial's configuration, found none")]
    Pointer {
        /// Where the rate should go.
        pointer: String,
    },
    /// A verdict without an answer.
    #[error("expected a JSON object with a boolean member `pass` in {VERDICT}, found {found}")]
    Verdict {
        /// What was there.
        found: String,
    },
}

/// The searches of all repeats.
#[derive(Debug)]
pub struct Probes {
    rates: Rates,
    repeats: Vec<Repeated>,
}

#[derive(Debug, Default)]
struct Repeated {
    /// `None`: waits for the first repeat.
    search: Option<Search>,
    /// Verdicts by the bits of their rate.
    verdicts: BTreeMap<u64, Value>,
}

impl Probes {
    /// At the beginning of a search.
    pub fn new(template: &SearchTemplate) -> Result<Self, ProbesError> {
        for repeat in &template.repeats {
            trial_at(&repeat.trial, template.rates.start)?;
        }
        let mut repeats: Vec<Repeated> = template.repeats.iter().map(|_| Repeated::default()).collect();
        let first = Search::new(&template.rates, None)?;
        if let Some(repeat) = repeats.first_mut() {
            repeat.search = Some(first);
        }
        Ok(Self { rates: template.rates.clone(), repeats })
    }

    /// The probes whose answers are needed now; none: the search is over.
    pub fn wanted(&self) -> Vec<Point> {
        self.searches().filter_map(|(repeat, search)| Some(Point { repeat, rate: search.next()? })).collect()
    }

    /// Probes that may be needed soon, the likeliest of every repeat first.
    pub fn ahead(&self, count: usize) -> Vec<Point> {
        let mut ranked: Vec<(usize, Point)> = Vec::new();
        for (repeat, search) in self.searches() {
            let later = search.wanted(count + 1).into_iter().enumerate().skip(1);
            ranked.extend(later.map(|(rank, rate)| (rank, Point { repeat, rate })));
        }
        ranked.sort_by_key(|(rank, point)| (*rank, point.repeat));
        ranked.truncate(count);
        ranked.into_iter().map(|(_, point)| point).collect()
    }

    fn searches(&self) -> impl Iterator<Item = (usize, &Search)> {
        self.repeats.iter().enumerate().filter_map(|(index, repeat)| Some((index, repeat.search.as_ref()?)))
    }

    /// Takes in the verdict on a wanted probe; says whether it passed.
    pub fn observe(&mut self, point: Point, verdict: &[u8]) -> Result<bool, ProbesError> {
        let (verdict, pass) = parse_verdict(verdict)?;
        let repeated = &mut self.repeats[point.repeat];
        if let Some(search) = &mut repeated.search {
            search.observe(point.rate, pass);
            repeated.verdicts.insert(point.rate.to_bits(), verdict);
        }
        if point.repeat == 0 {
            self.start_others()?;
        }
        Ok(pass)
    }

    fn start_others(&mut self) -> Result<(), BadRates> {
        let first = self.repeats[0].search.as_ref().and_then(Search::outcome);
        let Some(outcome) = first else { return Ok(()) };
        let hint = match outcome {
            Outcome::Bracketed { highest_pass, .. } | Outcome::AboveRange { highest_pass } => highest_pass,
            Outcome::BelowRange { lowest_fail } => lowest_fail,
        };
        for repeat in &mut self.repeats[1..] {
            repeat.search = Some(Search::new(&self.rates, Some(hint))?);
        }
        Ok(())
    }

    /// Highest rate that passed and lowest that failed, so far.
    pub fn bracket(&self, repeat: usize) -> (Option<f64>, Option<f64>) {
        let probes = self.repeats[repeat].search.as_ref().map_or(&[][..], Search::probes);
        let of = |pass| probes.iter().filter(move |probe| probe.pass == pass).map(|probe| probe.rate);
        (of(true).reduce(f64::max), of(false).reduce(f64::min))
    }

    /// How many probes were answered.
    pub fn answered(&self) -> usize {
        self.searches().map(|(_, search)| search.probes().len()).sum()
    }

    /// The result of a search that is over.
    pub fn capacity_json(&self, template: &SearchTemplate, target: &str) -> Vec<u8> {
        let searches: Vec<Value> = template
            .repeats
            .iter()
            .zip(&self.repeats)
            .map(|(repeat, repeated)| search_json(repeat, repeated))
            .collect();
        let capacity = json!({
            "format": FORMAT,
            "rate_unit": "qps",
            "target": target,
            "labels": template.labels,
            "slo": template.slo,
            "searches": searches,
        });
        let mut bytes = format!("{capacity:#}").into_bytes();
        bytes.push(b'\n');
        bytes
    }
}

fn search_json(repeat: &Repeat, repeated: &Repeated) -> Value {
    let search = repeated.search.as_ref();
    let outcome =
        search.and_then(Search::outcome).expect("a search is written down when all its repeats are over");
    let (name, highest_pass, lowest_fail) = match outcome {
        Outcome::Bracketed { highest_pass, lowest_fail } => {
            ("bracketed", Some(highest_pass), Some(lowest_fail))
        }
        Outcome::BelowRange { lowest_fail } => ("below_range", None, Some(lowest_fail)),
        Outcome::AboveRange { highest_pass } => ("above_range", Some(highest_pass), None),
    };
    let probes: Vec<Value> = search
        .map_or(&[][..], Search::probes)
        .iter()
        .map(|probe| {
            let verdict = repeated.verdicts.get(&probe.rate.to_bits());
            json!({"rate": probe.rate, "pass": probe.pass, "verdict": verdict})
        })
        .collect();
    json!({
        "repeat": repeat.labels,
        "outcome": name,
        "highest_pass": highest_pass,
        "lowest_fail": lowest_fail,
        "probes": probes,
    })
}

fn parse_verdict(bytes: &[u8]) -> Result<(Value, bool), ProbesError> {
    let verdict: Option<Value> = serde_json::from_slice(bytes).ok();
    let pass = verdict.as_ref().and_then(|verdict| verdict.get("pass")).and_then(Value::as_bool);
    match (verdict, pass) {
        (Some(verdict), Some(pass)) => Ok((verdict, pass)),
        _ => {
            let found = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
            Err(ProbesError::Verdict { found: if found.is_empty() { "nothing".to_owned() } else { found } })
        }
    }
}

/// The address of a probe: the search's, the repeat's labels, the rate.
pub fn address(search: &str, template: &SearchTemplate, point: Point) -> String {
    format!("{search}/{}/{}qps", repeat_name(&template.repeats[point.repeat]), point.rate)
}

/// A repeat's labels: `band=central,seed=42`.
pub fn repeat_name(repeat: &Repeat) -> String {
    let label = |(name, value): (&String, &Value)| match value {
        Value::String(text) => format!("{name}={text}"),
        other => format!("{name}={other}"),
    };
    repeat.labels.iter().map(label).collect::<Vec<_>>().join(",")
}

/// The trial at a rate.
pub fn trial_at(template: &RateTemplate, rate: f64) -> Result<ActionTemplate, ProbesError> {
    let mut config = template.config.clone();
    let pointer = &template.rate_pointer;
    let place = pointer.rsplit_once('/').and_then(|(parent, name)| {
        let members: &mut Map<String, Value> = config.pointer_mut(parent)?.as_object_mut()?;
        Some((members, name.to_owned()))
    });
    let (members, name) = place.ok_or_else(|| ProbesError::Pointer { pointer: pointer.clone() })?;
    members.insert(name, json!(rate));
    let mut action = template.action.clone();
    action
        .inputs
        .insert(Utf8PathBuf::from(&template.config_path), Source::Inline(config.to_string().into_bytes()));
    Ok(action)
}

#[cfg(test)]
mod tests;
