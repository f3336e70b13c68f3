//! Published claims against the numbers that came out, as they are. Knows CSVs and the provenance beside them; tunes nothing.

use std::collections::{BTreeMap, BTreeSet};

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use crate::csv::Csv;
use crate::error::{Error, Result, hint};
use crate::files::{FORMAT, publish, publish_json, read_json};
use crate::quantile::quantile;
use crate::report;
use crate::spec::Labels;

/// `check.json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckSpec {
    #[serde(rename = "format")]
    _format: u64,
    claims: Vec<Claim>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claim {
    name: String,
    source: String,
    csv: Utf8PathBuf,
    value: String,
    numerator: Labels,
    denominator: Labels,
    #[serde(default)]
    over: Option<String>,
    /// The ratio must be as published at every value of `over`, not in the median.
    #[serde(default)]
    all: bool,
    /// Repeats of the same name are divided, and the median of their ratios counts, instead of the ratio of their medians.
    #[serde(default)]
    paired: bool,
    published: f64,
    tolerance: f64,
}

impl Claim {
    fn verdict(&self, got: &Ratio) -> Verdict {
        Verdict::of(got.value, self.published, self.tolerance)
    }
}

/// How a claim fared, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Verdict {
    /// Within the tolerance of what was published.
    #[serde(rename = "reproduced")]
    Reproduced,
    /// On the same side of 1.
    #[serde(rename = "direction only")]
    DirectionOnly,
    /// Neither.
    #[serde(rename = "not reproduced")]
    NotReproduced,
}

impl Verdict {
    /// Of a ratio; `None` is a ratio without bound, the denominator being 0.
    pub fn of(got: Option<f64>, published: f64, tolerance: f64) -> Self {
        let side = |ratio: f64| ratio.partial_cmp(&1.0);
        match got {
            Some(got) if (got / published - 1.0).abs() <= tolerance => Self::Reproduced,
            got if side(got.unwrap_or(f64::INFINITY)) == side(published) => Self::DirectionOnly,
            _ => Self::NotReproduced,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Reproduced => "reproduced",
            Self::DirectionOnly => "direction only",
            Self::NotReproduced => "not reproduced",
        }
    }
}

/// A ratio and what it may be when both its parts move over their error bars, independently.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ratio {
    /// The value of `over`, if the claim is over several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Absent where the denominator is 0: without bound.
    pub value: Option<f64>,
    /// Lowest numerator over highest denominator.
    pub low: Option<f64>,
    /// Highest numerator over lowest denominator; absent where that is 0.
    pub high: Option<f64>,
}

/// How many values of `over` have a ratio within the tolerance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Those that do.
    pub held: usize,
    /// All that the figure has, those without a number among them.
    pub of: usize,
}

/// One claim and what came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// What is claimed.
    pub name: String,
    /// Where.
    pub source: String,
    /// Simulated or measured.
    pub provenance: String,
    /// The published ratio.
    pub published: f64,
    /// Relative tolerance.
    pub tolerance: f64,
    /// What came out: the ratio, or the median of `ratios`.
    pub got: Ratio,
    /// How it fared: `got`, or where the claim is about all ratios, the worst of them.
    pub verdict: Verdict,
    /// Of a claim about all ratios.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all: Option<Held>,
    /// Whether a ratio is the median of its repeats' ratios.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub paired: bool,
    /// One for each value of `over`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ratios: Vec<Ratio>,
}

/// Checks the claims of a specification, publishes NAME.json, NAME.md and NAME.txt; gives the printed table.
pub fn check(spec_path: &Utf8Path, out: &Utf8Path, name: &str) -> Result<String> {
    let spec: CheckSpec = read_json(spec_path)?;
    let findings = spec.claims.iter().map(find).collect::<Result<Vec<_>>>()?;
    let mut words: Vec<&str> = findings.iter().map(|f| f.provenance.as_str()).collect();
    words.sort_unstable();
    words.dedup();
    let provenance = words.join(" and ");
    let text = table(&findings, &provenance);
    publish(&out.join(format!("{name}.txt")), text.as_bytes())?;
    publish(&out.join(format!("{name}.md")), markdown(&findings, &provenance).as_bytes())?;
    let json = serde_json::json!({ "format": FORMAT, "kind": "check", "provenance": provenance, "claims": findings });
    publish_json(&out.join(format!("{name}.json")), &json)?;
    Ok(text)
}

fn find(claim: &Claim) -> Result<Finding> {
    let bad = |message: String| Error::Input(format!("claim `{}`: {message}", claim.name));
    if !(claim.published > 0.0 && claim.tolerance >= 0.0) {
        return Err(bad(format!(
            "expected published > 0 and tolerance >= 0, found {} and {}",
            claim.published, claim.tolerance
        )));
    }
    if claim.all && claim.over.is_none() {
        return Err(bad("expected `over` with `all`, found none".into()));
    }
    let csv = Csv::read(&claim.csv)?;
    let figure: Drawn = read_json(&claim.csv.with_extension("json"))?;
    let numerators = select(&csv, claim, &claim.numerator).map_err(bad)?;
    let denominators = select(&csv, claim, &claim.denominator).map_err(bad)?;
    let mut ratios = ratios(&numerators, &denominators);
    if claim.paired {
        if !claim.value.starts_with("value_") {
            return Err(bad(format!("expected a column of values with `paired`, found `{}`", claim.value)));
        }
        let sides = [&claim.numerator, &claim.denominator];
        let paired = ratios.iter().map(|ratio| figure.paired(claim, sides, ratio));
        let paired: Option<Vec<Option<Ratio>>> = paired.collect();
        let without =
            || bad(format!("expected a figure with repeats for `paired`, found none in {}", claim.csv));
        ratios = paired.ok_or_else(without)?.into_iter().flatten().collect();
    }
    let got = match (&claim.over, ratios.as_slice()) {
        (_, []) => {
            return Err(bad(
                "expected rows for both parts of the ratio, found none that share a value".into()
            ));
        }
        (None, [ratio]) => ratio.clone(),
        _ => median(&ratios),
    };
    let (verdict, all) = if claim.all {
        let places: BTreeSet<_> = numerators.iter().chain(&denominators).map(|(at, _)| at).collect();
        let (verdict, held) = all_of(claim, &ratios, places.len());
        (verdict, Some(held))
    } else {
        (claim.verdict(&got), None)
    };
    Ok(Finding {
        name: claim.name.clone(),
        source: claim.source.clone(),
        provenance: figure.provenance,
        published: claim.published,
        tolerance: claim.tolerance,
        got,
        verdict,
        all,
        paired: claim.paired,
        ratios: if claim.over.is_some() { ratios } else { Vec::new() },
    })
}

/// The worst of `of` ratios, and how many hold; one that is not there has not been reproduced.
fn all_of(claim: &Claim, ratios: &[Ratio], of: usize) -> (Verdict, Held) {
    let verdicts: Vec<Verdict> = ratios.iter().map(|ratio| claim.verdict(ratio)).collect();
    let worst = verdicts.iter().max().copied().filter(|_| ratios.len() == of);
    let held = verdicts.iter().filter(|verdict| **verdict == Verdict::Reproduced).count();
    (worst.unwrap_or(Verdict::NotReproduced), Held { held, of })
}

/// At every value of `over` at which both parts have a number.
fn ratios(numerators: &[Selected], denominators: &[Selected]) -> Vec<Ratio> {
    let found = |(at, numerator): &Selected| {
        let (_, denominator) = denominators.iter().find(|(other, triple)| other == at && triple.is_some())?;
        Some(ratio(at.clone(), numerator.as_ref()?, denominator.as_ref()?))
    };
    numerators.iter().filter_map(found).collect()
}

/// What a figure's JSON, which lies beside its CSV, says beyond it.
#[derive(Debug, Deserialize)]
struct Drawn {
    /// Whether the numbers are simulated.
    provenance: String,
    #[serde(default)]
    points: Vec<DrawnPoint>,
}

#[derive(Debug, Deserialize)]
struct DrawnPoint {
    labels: BTreeMap<String, String>,
    metric: String,
    value: Option<f64>,
    #[serde(default)]
    repeats: BTreeMap<String, Option<f64>>,
}

impl Drawn {
    /// The ratio of each repeat that both sides have, as their median between the lowest and the highest: none where they have none in common. `None`:
    /// a side is no median of repeats.
    fn paired(&self, claim: &Claim, sides: [&Labels; 2], at: &Ratio) -> Option<Option<Ratio>> {
        let at = &at.at;
        let [above, below] = sides.map(|wanted| self.repeats(claim, wanted, at.as_deref()));
        let below = below?;
        let of_repeat = |(name, number): (&String, &Option<f64>)| {
            let both = number.zip(below.get(name).copied().flatten());
            both.map(|(above, below)| ratio(None, &[above; 3], &[below; 3]))
        };
        let ratios: Vec<Ratio> = above?.iter().filter_map(of_repeat).collect();
        let all: Vec<f64> = ratios.iter().map(|ratio| ratio.value.unwrap_or(f64::INFINITY)).collect();
        let end = |pick: fn(f64, f64) -> f64| all.iter().copied().reduce(pick).filter(|end| end.is_finite());
        if all.is_empty() {
            return Some(None);
        }
        let Ratio { value, .. } = median(&ratios);
        Some(Some(Ratio { at: at.clone(), value, low: end(f64::min), high: end(f64::max) }))
    }

    /// Repeats of the point with these labels.
    fn repeats(
        &self,
        claim: &Claim,
        wanted: &Labels,
        at: Option<&str>,
    ) -> Option<&BTreeMap<String, Option<f64>>> {
        let has = |point: &DrawnPoint, name: &str, value: &str| match name {
            "metric" => point.metric == value,
            _ => point.labels.get(name).is_some_and(|label| label == value),
        };
        let point = self.points.iter().find(|point| {
            point.value.is_some()
                && wanted.iter().all(|(name, label)| has(point, name, &label.0))
                && claim.over.iter().zip(at).all(|(over, at)| has(point, over, at))
        })?;
        Some(&point.repeats).filter(|repeats| !repeats.is_empty())
    }
}

/// Value, low, high.
type Triple = [f64; 3];

/// A row's value of `over`, and its numbers: none where the figure drew no bar, since nothing was sampled.
type Selected = (Option<String>, Option<Triple>);

/// The rows that satisfy `wanted`, in the CSV's order.
fn select(csv: &Csv, claim: &Claim, wanted: &Labels) -> std::result::Result<Vec<Selected>, String> {
    let column = |name: &str| {
        let near = || hint(name, csv.header.iter().map(String::as_str));
        csv.column(name)
            .ok_or_else(|| format!("expected a column `{name}` in {}, found none{}", claim.csv, near()))
    };
    let value = column(&claim.value)?;
    let [low, high] = ["low", "high"].map(|end| csv.column(&beside(&claim.value, end)).unwrap_or(value));
    let over = claim.over.as_deref().map(column).transpose()?;
    let equalities = wanted
        .iter()
        .map(|(name, label)| Ok((column(name)?, label.0.as_str())))
        .collect::<std::result::Result<Vec<_>, String>>()?;
    let mut found: Vec<Selected> = Vec::new();
    for (index, row) in csv.rows.iter().enumerate() {
        if !equalities.iter().all(|(column, label)| row[*column] == *label) {
            continue;
        }
        let at = over.map(|column| row[column].clone());
        if row[value].is_empty() {
            found.push((at, None));
            continue;
        }
        let number = |column: usize| {
            let value: Option<f64> = row[column].parse().ok().filter(|v: &f64| v.is_finite() && *v >= 0.0);
            value.ok_or_else(|| {
                format!("row {} of {}: expected a number >= 0, found `{}`", index + 1, claim.csv, row[column])
            })
        };
        let triple = [number(value)?, number(low)?, number(high)?];
        if found.iter().any(|(other, triple)| *other == at && triple.is_some()) {
            return Err(format!("expected one row where {}, found several", describe(wanted)));
        }
        found.push((at, Some(triple)));
    }
    if found.iter().all(|(_, triple)| triple.is_none()) {
        return Err(format!("expected a row where {} in {}, found none", describe(wanted), claim.csv));
    }
    Ok(found)
}

/// `low_ms` beside `value_ms`, `low_qps` beside `capacity_qps`.
fn beside(value: &str, end: &str) -> String {
    value.split_once('_').map_or_else(|| end.to_owned(), |(_, unit)| format!("{end}_{unit}"))
}

fn describe(wanted: &Labels) -> String {
    wanted.iter().map(|(name, label)| format!("{name} = {}", label.0)).collect::<Vec<_>>().join(" and ")
}

fn ratio(at: Option<String>, numerator: &Triple, denominator: &Triple) -> Ratio {
    let over = |a: f64, b: f64| (b > 0.0).then(|| a / b);
    Ratio {
        at,
        value: over(numerator[0], denominator[0]),
        low: over(numerator[1], denominator[2]),
        high: over(numerator[2], denominator[1]),
    }
}

/// Medians of the ratios, of their lows and of their highs; a ratio without bound counts as larger than all.
fn median(ratios: &[Ratio]) -> Ratio {
    let of = |pick: fn(&Ratio) -> Option<f64>| {
        let mut values: Vec<f64> = ratios.iter().map(|r| pick(r).unwrap_or(f64::INFINITY)).collect();
        quantile(&mut values, 0.5).filter(|v| v.is_finite())
    };
    Ratio { at: None, value: of(|r| r.value), low: of(|r| r.low), high: of(|r| r.high) }
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "unbounded".to_owned(), |v| format!("{v:.2}"))
}

fn got(ratio: &Ratio) -> String {
    if ratio.low == ratio.high {
        return number(ratio.value);
    }
    format!("{} [{}..{}]", number(ratio.value), number(ratio.low), number(ratio.high))
}

const MEANING: &str = "In brackets: the ratio when both parts move over their error bars, each on its own.";
const PAIRED: &str = "Of paired repeats: the median of their ratios, in brackets the lowest and the highest.";

/// What the brackets say of each kind of claim that there is.
fn meaning(findings: &[Finding]) -> String {
    let has = |paired: bool| findings.iter().any(|finding| finding.paired == paired);
    let sentences = [(MEANING, has(false)), (PAIRED, has(true))];
    sentences.into_iter().filter_map(|(words, said)| said.then_some(words)).collect::<Vec<_>>().join(" ")
}

fn cells(finding: &Finding) -> [String; 5] {
    let published = format!("{} ± {:.0} %", finding.published, finding.tolerance * 100.0);
    let held = finding.all.map_or_else(String::new, |all| format!(" ({} of {})", all.held, all.of));
    [
        finding.name.clone(),
        published,
        got(&finding.got),
        format!("{}{held}", finding.verdict.words()),
        finding.source.clone(),
    ]
}

fn header(provenance: &str) -> [String; 5] {
    ["claim".into(), "published".into(), format!("got ({provenance})"), "verdict".into(), "source".into()]
}

fn table(findings: &[Finding], provenance: &str) -> String {
    let mut rows = report::table(header(provenance).into(), 5);
    for finding in findings {
        rows.add_row(cells(finding));
        for each in &finding.ratios {
            rows.add_row([format!("  at {}", each.at.as_deref().unwrap_or("")), String::new(), got(each)]);
        }
    }
    format!(
        "Published claims and what came out ({provenance})\n\n{}\n{}\n",
        report::text(&rows),
        meaning(findings)
    )
}

fn markdown(findings: &[Finding], provenance: &str) -> String {
    let line =
        |cells: [String; 5]| format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | "));
    let mut text = format!("# Published claims and what came out ({provenance})\n\n");
    text.push_str(&line(header(provenance)));
    text.push_str("|---|---|---|---|---|\n");
    for finding in findings {
        text.push_str(&line(cells(finding)));
    }
    for finding in findings.iter().filter(|f| !f.ratios.is_empty()) {
        let each = finding.ratios.iter().map(|r| format!("{}: {}", r.at.as_deref().unwrap_or(""), got(r)));
        text.push_str(&format!(
            "\n{} ({}): {}.\n",
            finding.name,
            finding.provenance,
            each.collect::<Vec<_>>().join(", ")
        ));
    }
    text.push_str(&format!("\n{}\n", meaning(findings)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_keep_to_the_side_of_one() {
        for (got, published, expected) in [
            (Some(3.6), 3.6, Verdict::Reproduced),
            (Some(2.9), 3.6, Verdict::Reproduced),
            (Some(2.8), 3.6, Verdict::DirectionOnly),
            (Some(40.0), 3.6, Verdict::DirectionOnly),
            (Some(1.0), 3.6, Verdict::NotReproduced),
            (Some(0.5), 3.6, Verdict::NotReproduced),
            (Some(0.3), 0.5, Verdict::DirectionOnly),
            (None, 3.6, Verdict::DirectionOnly),
            (None, 0.5, Verdict::NotReproduced),
        ] {
            assert_eq!(Verdict::of(got, published, 0.2), expected, "{got:?} of {published}");
        }
    }

    #[test]
    fn a_ratio_takes_the_widest_interval() {
        let r = ratio(None, &[4.0, 3.0, 6.0], &[2.0, 1.0, 3.0]);
        assert_eq!((r.value, r.low, r.high), (Some(2.0), Some(1.0), Some(6.0)));
        let r = ratio(None, &[4.0, 3.0, 6.0], &[0.0, 0.0, 3.0]);
        assert_eq!((r.value, r.low, r.high), (None, Some(1.0), None));
        let all = median(&[ratio(None, &[1.0; 3], &[1.0; 3]), r, ratio(None, &[3.0; 3], &[1.0; 3])]);
        assert_eq!((all.value, all.low, all.high), (Some(3.0), Some(1.0), Some(3.0)));
    }
}
