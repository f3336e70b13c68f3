//! Figures and checks: `chariot-results figure` and `check`, and the specifications they read.

use std::collections::{BTreeMap, BTreeSet};

use camino::Utf8PathBuf;
use serde_json::{Value, json};

use super::{FORMAT, json_input, output, own, step};
use crate::decode::Spanned;
use crate::diagnostic::Mistake;
use crate::quantity::Statistic;
use crate::recipe::{Axis, Check, Claim, Figure, FigureKind, Recipe, TimeUnit};
use crate::resolve::Site;
use crate::step::{ActionTemplate, Step, Work};
use crate::value::{Names, Text};

/// What a summary can be asked for, and in which unit: our own metrics, then the published artifact's, then those of batches.
const METRICS: [(&str, &str); 34] = [
    ("ttft", "s"),
    ("tbt", "s"),
    ("tbt_decode_only", "s"),
    ("scheduling_delay", "s"),
    ("output_throughput", "tokens/s"),
    ("request_e2e_time", "s"),
    ("request_e2e_time_normalized", "s/token"),
    ("request_e2e_time_piecewise_normalized", "s/token"),
    ("request_scheduling_delay", "s"),
    ("request_execution_time", "s"),
    ("request_preemption_time", "s"),
    ("request_execution_plus_preemption_time", "s"),
    ("request_execution_plus_preemption_time_normalized", "s/token"),
    ("prefill_e2e_time", "s"),
    ("prefill_e2e_time_normalized", "s/token"),
    ("prefill_e2e_time_piecewise_normalized", "s/token"),
    ("prefill_time_execution_plus_preemption", "s"),
    ("prefill_time_execution_plus_preemption_normalized", "s/token"),
    ("decode_time_execution_plus_preemption_normalized", "s/token"),
    ("decode_token_execution_plus_preemption_time", "s"),
    ("request_inter_arrival_delay", "s"),
    ("request_num_tokens", "tokens"),
    ("request_num_prefill_tokens", "tokens"),
    ("request_num_decode_tokens", "tokens"),
    ("request_pd_ratio", "1"),
    ("request_num_restarts", "1"),
    ("request_num_pauses", "1"),
    ("request_num_ignored", "1"),
    ("batch_num_tokens", "tokens"),
    ("batch_num_prefill_tokens", "tokens"),
    ("batch_num_decode_tokens", "tokens"),
    ("batch_size", "sequences"),
    ("batch_execution_time", "s"),
    ("inter_batch_delay", "s"),
];

/// What a summary holds of each metric.
const STATISTICS: [&str; 11] =
    ["p25", "p50", "p75", "p90", "p95", "p99", "p99.9", "mean", "std", "min", "max"];

/// Where a figure's numbers come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Numbers {
    Trials,
    Capacities,
}

pub(super) fn figure(site: &Site<'_>, recipe: &Figure) -> Result<Step, Mistake> {
    let rows = sources(site, &recipe.from)?;
    let numbers = numbers(&recipe.from, &rows)?;
    one_row_a_bar(recipe, &rows)?;
    two_series_of_parity(recipe, &rows)?;
    let mut action = report(site, "figure", &["csv", "json", "png", "svg", "txt"]);
    let mut listed = Vec::with_capacity(rows.len());
    for (index, row) in rows.iter().enumerate() {
        let (part, file) = match numbers {
            Numbers::Trials => (1, "summary.json"),
            Numbers::Capacities => (0, "capacity.json"),
        };
        let path = format!("inputs/{index}/{file}");
        let labels: BTreeMap<&str, &str> = row.instance.labels.iter().map(|(a, n)| (&**a, &**n)).collect();
        listed.push(json!({"labels": labels, "file": path}));
        action.inputs.insert(path.into(), output(row.step(part), file));
    }
    let mut spec = spec(recipe, &rows, numbers)?;
    spec["rows"] = Value::Array(listed);
    action.inputs.insert("figure.json".into(), json_input(&spec));
    Ok(printed(site, "figure", action))
}

/// The action of a report: reads `WHAT.json`, writes `NAME.END` for each end.
fn report(site: &Site<'_>, what: &str, ends: &[&str]) -> ActionTemplate {
    let (name, spec) = (site.file_stem(), format!("{what}.json"));
    let mut action = own("chariot-results", [what, "--spec", &spec, "--out", ".", "--name", &name]);
    action.outputs = ends.iter().map(|end| Utf8PathBuf::from(format!("{name}.{end}"))).collect();
    action
}

/// A report lies straight in `out/PIPELINE/`, and its text is printed at the end of a run.
fn printed(site: &Site<'_>, kind: &'static str, action: ActionTemplate) -> Step {
    let show = vec![Utf8PathBuf::from(format!("{}.txt", site.file_stem()))];
    let place = Some(Utf8PathBuf::from(site.book.pipeline));
    Step { place, show, ..step(site, kind, Work::Action(action)) }
}

fn sources<'a>(site: &Site<'a>, from: &Names) -> Result<Vec<Site<'a>>, Mistake> {
    let mut rows: Vec<Site<'a>> = Vec::new();
    for name in &from.0 {
        rows.extend(site.book.all(name)?);
    }
    if rows.is_empty() { Err(site.mistake("expected `from` to name at least one target")) } else { Ok(rows) }
}

fn numbers(from: &Names, rows: &[Site<'_>]) -> Result<Numbers, Mistake> {
    let span = from.0[0].span;
    let kind = |site: &Site<'_>| match site.instance.recipe {
        Recipe::Trial(_) => Ok(Numbers::Trials),
        Recipe::Capacity(_) => Ok(Numbers::Capacities),
        ref other => {
            let title = format!(
                "expected trials or capacities, found `{}` with `recipe: {}`",
                site.short_name(),
                other.kind()
            );
            Err(Mistake::new(span, title).also(site.target.span, "declared here"))
        }
    };
    let first = kind(&rows[0])?;
    for row in rows {
        if kind(row)? != first {
            return Err(Mistake::new(span, "expected trials alone or capacities alone, found both"));
        }
    }
    Ok(first)
}

/// Every row has all variables, and no two rows make the same bar unless they are repeats.
fn one_row_a_bar(recipe: &Figure, rows: &[Site<'_>]) -> Result<(), Mistake> {
    let mut bars: BTreeMap<(&str, &str, Option<&str>), String> = BTreeMap::new();
    for row in rows {
        let repeat = recipe.repeats.as_ref().map(|repeats| variable(row, repeats)).transpose()?;
        let bar = (variable(row, &recipe.x.variable)?, variable(row, &recipe.series.variable)?, repeat);
        if let Some(other) = bars.insert(bar, row.short_name()) {
            let title = format!("`{other}` and `{}` would be the same bar", row.short_name());
            return Err(Mistake::new(recipe.from.0[0].span, title)
                .note(format!(
                    "both have {} {} and {} {}",
                    recipe.x.variable.value, bar.0, recipe.series.variable.value, bar.1
                ))
                .help("narrow `from` by a glob such as `target/*-strict`, or name the variable in which repeats differ: `repeats: VARIABLE`"));
        }
    }
    Ok(())
}

/// A point has two coordinates.
fn two_series_of_parity(recipe: &Figure, rows: &[Site<'_>]) -> Result<(), Mistake> {
    let variable = &recipe.series.variable;
    let values = order(rows, &variable.value);
    if recipe.kind != Some(FigureKind::Parity) || values.len() == 2 {
        return Ok(());
    }
    let title = format!("expected a variable with two values, found {}: {}", values.len(), values.join(", "));
    Err(Mistake::new(variable.span, title)
        .help("`kind: parity` draws the first value's numbers over the second's; narrow `from` to two"))
}

fn variable<'a>(row: &Site<'a>, name: &Spanned<String>) -> Result<&'a str, Mistake> {
    row.label(&name.value).ok_or_else(|| {
        let title = format!("`{}` is no variable of `{}`", name.value, row.target.name);
        let variables = row.instance.labels.iter().map(|(axis, _)| &**axis);
        Mistake::new(name.span, title).suggest(&name.value, "variables", variables)
    })
}

fn spec(recipe: &Figure, rows: &[Site<'_>], numbers: Numbers) -> Result<Value, Mistake> {
    let mut spec = json!({
        "format": FORMAT,
        "kind": recipe.kind.unwrap_or(FigureKind::GroupedBars),
        "source": match numbers { Numbers::Trials => "summary", Numbers::Capacities => "capacity" },
        "title": recipe.title,
        "x": recipe.x.variable.value,
        "series": recipe.series.variable.value,
        "x_label": recipe.x.label.as_ref().unwrap_or(&recipe.x.variable.value),
        "y_label": y_label(recipe, numbers),
        "x_order": order(rows, &recipe.x.variable.value),
        "series_order": order(rows, &recipe.series.variable.value),
        "names": names(recipe, rows)?,
        "scale": {"axis": recipe.y.as_ref().and_then(|y| y.axis).unwrap_or(Axis::Linear)},
    });
    if let Some(repeats) = &recipe.repeats {
        spec["repeats"] = json!(repeats.value);
    }
    match numbers {
        Numbers::Capacities => {
            if let Some(metric) = recipe.metrics.iter().chain(&recipe.table).next() {
                return Err(Mistake::new(metric.span, "a capacity has one number and no metrics")
                    .help("remove `metrics` and `table`"));
            }
            if let Some(repeats) = &recipe.repeats {
                return Err(Mistake::new(
                    repeats.span,
                    "a capacity repeats its search for each of its `seeds`",
                )
                .help("remove `repeats`"));
            }
        }
        Numbers::Trials => {
            let Some(first) = recipe.metrics.first() else {
                return Err(Mistake::new(
                    recipe.from.0[0].span,
                    "the key `metrics` is missing: what is plotted of trials",
                )
                .help("add `metrics: [p50(tbt), p99(tbt)]`"));
            };
            let alike = recipe.metrics.iter().all(|m| m.value.metric == first.value.metric);
            spec["metrics"] = recipe.metrics.iter().map(|m| metric(m, alike)).collect::<Result<_, _>>()?;
            if !recipe.table.is_empty() {
                spec["table"] = recipe.table.iter().map(|m| metric(m, false)).collect::<Result<_, _>>()?;
            }
            if let Some(unit) = time_unit(recipe)? {
                spec["scale"]["unit"] = json!(unit);
            }
        }
    }
    Ok(spec)
}

fn y_label(recipe: &Figure, numbers: Numbers) -> &str {
    let default = match numbers {
        Numbers::Trials => "time",
        Numbers::Capacities => "capacity",
    };
    recipe.y.as_ref().and_then(|y| y.label.as_deref()).unwrap_or(default)
}

/// The unit of a figure of times; none of other metrics, which have their own.
fn time_unit(recipe: &Figure) -> Result<Option<TimeUnit>, Mistake> {
    let wanted = recipe.y.as_ref().and_then(|y| y.unit);
    let Some(first) = recipe.metrics.first() else { return Ok(wanted) };
    match (unit_of(first)?, wanted) {
        ("s", wanted) => Ok(Some(wanted.unwrap_or(TimeUnit::S))),
        (_, None) => Ok(None),
        (own, Some(_)) => {
            let title = format!("expected no `unit` for `{}`, which is in {own}", first.value.metric);
            Err(Mistake::new(first.span, title).help("only times can be shown in another unit"))
        }
    }
}

/// The metric's own unit.
fn unit_of(statistic: &Spanned<Statistic>) -> Result<&'static str, Mistake> {
    let metric = &statistic.value.metric;
    let known = METRICS.iter().find(|(name, _)| name == metric);
    known.map(|(_, unit)| *unit).ok_or_else(|| {
        let unknown = Mistake::new(statistic.span, format!("unknown metric `{metric}`"));
        unknown.suggest(metric, "metrics", METRICS.iter().map(|(name, _)| *name))
    })
}

/// A metric of the specification; its label leaves the metric's name out where all panels show the same.
fn metric(statistic: &Spanned<Statistic>, alike: bool) -> Result<Value, Mistake> {
    let Statistic { statistic: quantile, metric } = &statistic.value;
    unit_of(statistic)?;
    if !STATISTICS.contains(&quantile.as_str()) {
        let mistake = Mistake::new(statistic.span, format!("a summary does not hold `{quantile}`"));
        return Err(mistake.help(format!("it holds {}", STATISTICS.join(", "))));
    }
    let word = match quantile.as_str() {
        "p50" => "median".to_owned(),
        quantile if quantile.starts_with('p') => quantile.to_uppercase(),
        other => other.to_owned(),
    };
    let label = if alike { word } else { format!("{word} of {metric}") };
    Ok(json!({"metric": metric, "quantile": quantile, "label": label}))
}

/// The names of a variable's values, in the order of the rows.
fn order(rows: &[Site<'_>], variable: &str) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let names = rows.iter().filter_map(|row| row.label(variable));
    names.filter(|name| seen.insert(*name)).map(str::to_owned).collect()
}

pub(super) fn check(site: &Site<'_>, recipe: &Check) -> Result<Step, Mistake> {
    if recipe.claims.value.is_empty() {
        return Err(Mistake::new(recipe.claims.span, "expected at least one claim, found none"));
    }
    let mut action = report(site, "check", &["json", "md", "txt"]);
    let claims = recipe
        .claims
        .value
        .iter()
        .map(|c| claim(site, recipe, c, &mut action))
        .collect::<Result<Vec<_>, _>>()?;
    action.inputs.insert("check.json".into(), json_input(&json!({"format": FORMAT, "claims": claims})));
    Ok(printed(site, "check", action))
}

fn claim(
    site: &Site<'_>,
    check: &Check,
    claim: &Claim,
    action: &mut ActionTemplate,
) -> Result<Value, Mistake> {
    let drawn = site.book.one_of(&claim.figure, "figure")?;
    let Recipe::Figure(figure) = &drawn.instance.recipe else {
        return Err(site.mistake("expected a figure"));
    };
    let rows = sources(&drawn, &figure.from)?;
    let (value, metric) = measured(claim, figure, numbers(&figure.from, &rows)?)?;
    let csv = format!("inputs/{}.csv", drawn.file_stem());
    for end in ["csv", "json"] {
        let file = format!("{}.{end}", drawn.file_stem());
        action.inputs.insert(format!("inputs/{file}").into(), output(drawn.step(0), file));
    }
    let (ratio, sides) = ratio(claim, &rows)?;
    let mut given = BTreeMap::new();
    for (name, value) in &claim.given {
        given.insert(name.clone(), chosen(&rows, &Spanned { value: name.clone(), span: value.span }, value)?);
    }
    let words = given.iter().map(|(name, value)| format!(", {name} {value}")).collect::<String>();
    given.extend(metric.map(|metric| ("metric".to_owned(), metric)));
    if let Some(each) = &claim.each {
        variable(&rows[0], each)?;
    }
    let of_all = claim.all.as_ref().filter(|all| all.value);
    if let (Some(all), None) = (of_all, &claim.each) {
        return Err(Mistake::new(all.span, "`all` of one ratio means nothing")
            .help("write `each: VARIABLE` beside it, or remove it"));
    }
    let paired = claim.paired.as_ref().filter(|paired| paired.value);
    if let (Some(paired), None) = (paired, &figure.repeats) {
        let title = format!("`{}` has no repeats to pair", claim.figure.value);
        return Err(Mistake::new(paired.span, title).also(drawn.target.span, "declared here").help(
            "name there the variable in which repeats differ, `repeats: VARIABLE`, or remove `paired`",
        ));
    }
    let side = |value: &String| {
        let own = std::iter::once((ratio.value.clone(), value.clone()));
        given.clone().into_iter().chain(own).collect::<BTreeMap<_, _>>()
    };
    let mut spec = json!({
        "name": claim.name.clone().unwrap_or_else(|| format!("{} / {}{words}", sides[0], sides[1])),
        "source": claim.source.as_ref().unwrap_or(&check.source),
        "csv": csv,
        "value": value,
        "numerator": side(&sides[0]),
        "denominator": side(&sides[1]),
        "over": claim.each.as_ref().map(|each| &each.value),
        "published": claim.published.0,
        "tolerance": claim.tolerance.unwrap_or(check.tolerance).fraction,
    });
    if of_all.is_some() {
        spec["all"] = json!(true);
    }
    if paired.is_some() {
        spec["paired"] = json!(true);
    }
    Ok(spec)
}

/// The variable of a ratio and its two values.
fn ratio(claim: &Claim, rows: &[Site<'_>]) -> Result<(Spanned<String>, [String; 2]), Mistake> {
    let span = claim.ratio.span;
    let mut variables = claim.ratio.value.iter();
    let (Some((name, values)), None) = (variables.next(), variables.next()) else {
        return Err(Mistake::new(span, format!("expected one variable, found {}", claim.ratio.value.len()))
            .help("write `ratio: {variable: [value, value]}`"));
    };
    let [above, below] = &values.value[..] else {
        return Err(Mistake::new(values.span, format!("expected two values, found {}", values.value.len()))
            .help(format!("write `{name}: [above, below]`")));
    };
    let name = Spanned { value: name.clone(), span };
    let sides = [chosen(rows, &name, above)?, chosen(rows, &name, below)?];
    Ok((name, sides))
}

/// The CSV's column, and for trials the metric's name in it.
fn measured(claim: &Claim, figure: &Figure, numbers: Numbers) -> Result<(String, Option<String>), Mistake> {
    match (numbers, &claim.metric) {
        (Numbers::Capacities, None) => Ok(("capacity_qps".to_owned(), None)),
        (Numbers::Capacities, Some(metric)) => {
            Err(Mistake::new(metric.span, "a capacity has one number and no metrics").help("remove `metric`"))
        }
        (Numbers::Trials, None) => {
            let title =
                format!("the key `metric` is missing: which of the numbers of `{}`", claim.figure.value);
            Err(Mistake::new(claim.figure.span, title))
        }
        (Numbers::Trials, Some(wanted)) => {
            let column = |s: &Statistic| format!("{}_{}", s.metric, s.statistic);
            let there: Vec<String> =
                figure.metrics.iter().chain(&figure.table).map(|m| column(&m.value)).collect();
            let name = column(&wanted.value);
            if !there.contains(&name) {
                let unknown =
                    Mistake::new(wanted.span, format!("`{}` does not hold `{name}`", claim.figure.value));
                return Err(unknown.suggest(&name, "its numbers", there.iter().map(String::as_str)));
            }
            let unit = match (time_unit(figure)?, figure.metrics.first()) {
                (None, Some(first)) => unit_of(first)?.replace('/', "_per_"),
                (unit, _) => json!(unit).as_str().unwrap_or_default().to_owned(),
            };
            Ok((format!("value_{unit}"), Some(name)))
        }
    }
}

/// A value of a variable, which the figure must have.
fn chosen(rows: &[Site<'_>], name: &Spanned<String>, value: &Spanned<Text>) -> Result<String, Mistake> {
    variable(&rows[0], name)?;
    let (name, wanted) = (&name.value, &value.value.0);
    let there = order(rows, name);
    if there.contains(wanted) {
        return Ok(wanted.clone());
    }
    let unknown = Mistake::new(value.span, format!("`{name}` never has the value `{wanted}`"));
    Err(unknown.suggest(wanted, "values", there.iter().map(String::as_str)))
}

/// What the figure calls the values of both variables.
fn names(recipe: &Figure, rows: &[Site<'_>]) -> Result<BTreeMap<String, String>, Mistake> {
    let mut names = BTreeMap::new();
    for variable in [&recipe.x, &recipe.series] {
        let there = order(rows, &variable.variable.value);
        for (value, name) in &variable.names {
            if !there.contains(value) {
                let title = format!(
                    "`{}` never has the value `{value}`, which `names` has a name for",
                    variable.variable.value
                );
                let unknown = Mistake::new(variable.variable.span, title);
                return Err(unknown.suggest(value, "values", there.iter().map(String::as_str)));
            }
            names.insert(value.clone(), name.0.clone());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::METRICS;

    #[test]
    fn the_metrics_are_those_of_the_page_with_their_units() {
        let page = include_str!("../../../docs/metrics.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
        let on_page: BTreeMap<&str, &str> =
            rows.filter_map(|(name, rest)| Some((name, rest.split(" |").next()?))).collect();
        let known = BTreeMap::from(METRICS);
        for (name, unit) in on_page {
            assert_eq!(known.get(name), Some(&unit), "{name}");
        }
        let words: BTreeSet<&str> = page.split('`').skip(1).step_by(2).collect();
        let missing: Vec<_> = known.keys().filter(|name| !words.contains(*name)).collect();
        assert!(missing.is_empty(), "expected {missing:?} in docs/metrics.md");
    }
}
