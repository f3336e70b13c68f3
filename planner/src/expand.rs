//! Sweeps: every target to its instances, `${}` filled in and decoded. Pure.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::decode::decode;
use crate::diagnostic::{Mistake, Span};
use crate::node::{Entry, Node, Value};
use crate::pipeline::{Outline, TOP_PARAMS, Target, is_path_segment};
use crate::recipe::Recipe;
use crate::scope::{Choice, Scope};

/// Instances that one target may have.
pub const INSTANCES_MAX: usize = 100_000;

/// A target at one point of its sweep.
#[derive(Debug)]
pub struct Instance {
    /// Index in [`Outline::targets`].
    pub target: usize,
    /// Its name under the target; `None` without a sweep.
    pub name: Option<Rc<str>>,
    /// The sweep's variables and the names of their values, in the order written.
    pub labels: Vec<(Rc<str>, Rc<str>)>,
    /// What it does.
    pub recipe: Recipe,
}

/// A sweep's variable and its values.
struct Axis {
    name: Rc<str>,
    span: Span,
    choices: Vec<Choice>,
}

/// One choice for every axis.
type Point = Vec<(Rc<str>, Choice)>;

/// All instances of all targets, in the order written, the last axis of a sweep fastest.
pub fn expand(outline: &Outline) -> Result<Vec<Instance>, Vec<Mistake>> {
    let used = RefCell::new(BTreeSet::new());
    let mut instances = Vec::new();
    let mut mistakes = Vec::new();
    for (index, target) in outline.targets.iter().enumerate() {
        match expand_target(&outline.params, target, index, &used) {
            Ok(of_target) => instances.extend(of_target),
            Err(of_target) => mistakes.extend(of_target),
        }
    }
    if mistakes.is_empty() {
        mistakes.extend(unused_params(outline, &used.into_inner()));
    }
    if mistakes.is_empty() { Ok(instances) } else { Err(mistakes) }
}

fn expand_target(
    params: &BTreeMap<Rc<str>, Entry>,
    target: &Target,
    index: usize,
    used: &RefCell<BTreeSet<Rc<str>>>,
) -> Result<Vec<Instance>, Vec<Mistake>> {
    let outer = Scope::new(params, &[], used);
    let axes = axes(&outer, target).map_err(|m| vec![m])?;
    let points = points(&outer, target, &axes).map_err(|m| vec![m])?;
    let referred = RefCell::new(BTreeSet::new());
    let mut names: BTreeMap<Rc<str>, Point> = BTreeMap::new();
    let mut instances = Vec::with_capacity(points.len());
    for point in points {
        let name = instance_name(&Scope::new(params, &point, used), target, &point).map_err(|m| vec![m])?;
        let scope = Scope::new(params, &point, &referred);
        if let Some(name) = &name
            && let Some(first) = names.insert(Rc::clone(name), point.clone())
        {
            return Err(vec![same_name(target, name, &first, &point)]);
        }
        let recipe =
            fill_and_decode(&scope, target).map_err(|found| noted(found, target, name.as_deref()))?;
        let labels = point.into_iter().map(|(axis, choice)| (axis, choice.name)).collect();
        instances.push(Instance { target: index, name, labels, recipe });
    }
    let referred = referred.into_inner();
    if let Some(axis) = axes.iter().find(|axis| !referred.contains(&axis.name)) {
        return Err(vec![unused_axis(target, axis)]);
    }
    let of_params = referred.into_iter().filter(|name| axes.iter().all(|axis| axis.name != *name));
    used.borrow_mut().extend(of_params);
    Ok(instances)
}

fn fill_and_decode(scope: &Scope<'_>, target: &Target) -> Result<Recipe, Vec<Mistake>> {
    let body = scope.fill(&target.body).map_err(|m| vec![m])?;
    decode(&body, target.span)
}

/// The mistakes of one instance of many, saying which.
fn noted(mistakes: Vec<Mistake>, target: &Target, name: Option<&str>) -> Vec<Mistake> {
    let Some(name) = name else { return mistakes };
    let at = |note: Option<String>| match note {
        Some(note) => format!("{note}, for `{}/{name}`", target.name),
        None => format!("for `{}/{name}`", target.name),
    };
    mistakes.into_iter().map(|m| Mistake { note: Some(at(m.note)), ..m }).collect()
}

fn axes(scope: &Scope<'_>, target: &Target) -> Result<Vec<Axis>, Mistake> {
    let Some(entry) = &target.sweep else { return Ok(Vec::new()) };
    let sweep = scope.shallow(&entry.value)?;
    let entries = sweep.entries().ok_or_else(|| {
        let title = format!("expected a map of variables and their values, found {}", sweep.describe());
        Mistake::new(entry.value.span, title).help("write `for: {batch: [8, 16]}`")
    })?;
    if entries.is_empty() {
        return Err(empty(entry.key_span, "the sweep has no variable"));
    }
    entries.iter().map(|entry| axis(scope, entry)).collect()
}

fn axis(scope: &Scope<'_>, entry: &Entry) -> Result<Axis, Mistake> {
    let referable = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    if entry.key.is_empty() || !entry.key.chars().all(referable) {
        return Err(Mistake::new(
            entry.key_span,
            format!("expected a variable's name, found `{}`", entry.key),
        ));
    }
    let values = scope.shallow(&entry.value)?;
    let choices = match &values.value {
        Value::Map(entries) => {
            entries.iter().map(|e| Choice { name: Rc::clone(&e.key), node: e.value.clone() }).collect()
        }
        Value::List(items) => {
            items.iter().map(|item| listed(scope, &entry.key, item)).collect::<Result<Vec<_>, _>>()?
        }
        Value::Scalar(_) => {
            let title = format!(
                "expected a list or a map of values for `{}`, found {}",
                entry.key,
                values.describe()
            );
            return Err(Mistake::new(entry.value.span, title).help(format!("write `{}: [...]`", entry.key)));
        }
    };
    if choices.is_empty() {
        let mistake =
            empty(entry.value.span, &format!("`{}` has no value, so the sweep is empty", entry.key));
        return Err(if values.span == entry.value.span {
            mistake
        } else {
            mistake.also(values.span, "given here")
        });
    }
    unique(&entry.key, &choices)?;
    Ok(Axis { name: Rc::clone(&entry.key), span: entry.key_span, choices })
}

fn listed(scope: &Scope<'_>, axis: &str, item: &Node) -> Result<Choice, Mistake> {
    let node = scope.fill(item)?;
    match node.text() {
        Some(name) => Ok(Choice { name: Rc::clone(name), node: node.clone() }),
        None => Err(Mistake::new(
            item.span,
            format!("expected a plain value for `{axis}`, found {}", node.describe()),
        )
        .help(format!("name such values: `{axis}: {{NAME: ..., NAME: ...}}`"))),
    }
}

fn unique(axis: &str, choices: &[Choice]) -> Result<(), Mistake> {
    let mut seen: BTreeMap<&str, Span> = BTreeMap::new();
    for choice in choices {
        if let Some(first) = seen.insert(&choice.name, choice.node.span) {
            return Err(Mistake::new(
                choice.node.span,
                format!("`{axis}` has the value `{}` twice", choice.name),
            )
            .also(first, "first given here")
            .help("remove one of the two"));
        }
    }
    Ok(())
}

fn empty(span: Span, title: &str) -> Mistake {
    Mistake::new(span, title).help("give it at least one value")
}

/// The product of the axes without what is excluded.
fn points(scope: &Scope<'_>, target: &Target, axes: &[Axis]) -> Result<Vec<Point>, Mistake> {
    let product = axes.iter().try_fold(1usize, |n, axis| n.checked_mul(axis.choices.len()));
    let sweep_span = target.sweep.as_ref().map_or(target.span, |e| e.key_span);
    let Some(count) = product.filter(|count| *count <= INSTANCES_MAX) else {
        let found = product.map_or("far more".to_owned(), |count| count.to_string());
        return Err(Mistake::new(
            sweep_span,
            format!("expected at most {INSTANCES_MAX} instances, found {found}"),
        ));
    };
    let excludes = excludes(scope, target, axes)?;
    let point = |number: usize| -> Point {
        let mut rest = number;
        let mut point: Point = Vec::with_capacity(axes.len());
        for axis in axes.iter().rev() {
            point.push((Rc::clone(&axis.name), axis.choices[rest % axis.choices.len()].clone()));
            rest /= axis.choices.len();
        }
        point.reverse();
        point
    };
    let excluded = |point: &Point| excludes.iter().any(|exclude| matches(exclude, point));
    let points: Vec<Point> = (0..count).map(point).filter(|point| !excluded(point)).collect();
    if points.is_empty() {
        return Err(Mistake::new(sweep_span, "`exclude` leaves nothing of the sweep").help("exclude less"));
    }
    Ok(points)
}

/// Axis -> names of values; a point is excluded if it has one of the names on each of the axes.
type Exclude = BTreeMap<Rc<str>, Vec<Rc<str>>>;

fn matches(exclude: &Exclude, point: &Point) -> bool {
    exclude
        .iter()
        .all(|(axis, names)| point.iter().any(|(a, choice)| a == axis && names.contains(&choice.name)))
}

fn excludes(scope: &Scope<'_>, target: &Target, axes: &[Axis]) -> Result<Vec<Exclude>, Mistake> {
    let Some(node) = &target.exclude else { return Ok(Vec::new()) };
    let node = scope.fill(node)?;
    let Value::List(items) = &node.value else {
        let title = format!("expected a list of what to exclude, found {}", node.describe());
        return Err(Mistake::new(node.span, title).help("write `exclude: [{variable: value}]`"));
    };
    items.iter().map(|item| exclude(item, axes)).collect()
}

fn exclude(item: &Node, axes: &[Axis]) -> Result<Exclude, Mistake> {
    let Some(entries) = item.entries().filter(|entries| !entries.is_empty()) else {
        let title = format!("expected a map of variables to exclude, found {}", item.describe());
        return Err(Mistake::new(item.span, title));
    };
    let mut exclude = Exclude::new();
    for entry in entries {
        let Some(axis) = axes.iter().find(|axis| axis.name == entry.key) else {
            let unknown =
                Mistake::new(entry.key_span, format!("`{}` is no variable of this sweep", entry.key));
            return Err(unknown.suggest(&entry.key, "variables", axes.iter().map(|a| &*a.name)));
        };
        let values = match &entry.value.value {
            Value::List(values) => values.to_vec(),
            _ => vec![entry.value.clone()],
        };
        let names = values.iter().map(|value| excluded_name(value, axis)).collect::<Result<Vec<_>, _>>()?;
        exclude.insert(Rc::clone(&axis.name), names);
    }
    Ok(exclude)
}

fn excluded_name(value: &Node, axis: &Axis) -> Result<Rc<str>, Mistake> {
    let found = value.text().and_then(|text| axis.choices.iter().find(|choice| choice.name == *text));
    found.map(|choice| Rc::clone(&choice.name)).ok_or_else(|| {
        let text = value.text().map_or_else(|| value.describe(), |text| text.to_string());
        Mistake::new(value.span, format!("`{}` never has the value `{text}`", axis.name)).suggest(
            &text,
            "values",
            axis.choices.iter().map(|c| &*c.name),
        )
    })
}

/// The template filled in; without one the values' names joined by `-`. No name without a sweep.
fn instance_name(scope: &Scope<'_>, target: &Target, point: &Point) -> Result<Option<Rc<str>>, Mistake> {
    if point.is_empty() {
        return match &target.instance_name {
            Some(node) => {
                Err(Mistake::new(node.span, "`name` names the instances of a sweep, and there is none")
                    .help("remove `name`, or add `for`"))
            }
            None => Ok(None),
        };
    }
    let (name, span): (Rc<str>, Span) = match &target.instance_name {
        Some(node) => {
            let Some(text) = node.text() else {
                return Err(Mistake::new(node.span, format!("expected a name, found {}", node.describe())));
            };
            (scope.write(node, text)?.into(), node.span)
        }
        None => {
            let names: Vec<&str> = point.iter().map(|(_, choice)| &*choice.name).collect();
            (names.join("-").into(), target.sweep.as_ref().map_or(target.span, |e| e.key_span))
        }
    };
    if !is_path_segment(&name) {
        return Err(Mistake::new(
            span,
            format!("expected an instance's name of letters, digits, `.`, `_`, `-`, found `{name}`"),
        )
        .help("name the values (`variable: {NAME: value}`), or give a template such as `name: b${batch}`"));
    }
    Ok(Some(name))
}

fn same_name(target: &Target, name: &str, first: &Point, second: &Point) -> Mistake {
    let written = |point: &Point| {
        let parts: Vec<String> =
            point.iter().map(|(axis, choice)| format!("{axis} {}", choice.name)).collect();
        parts.join(", ")
    };
    let differs = first.iter().zip(second).find(|(a, b)| a.1.name != b.1.name).map_or("", |(a, _)| &*a.0);
    let span = target.instance_name.as_ref().map_or(target.span, |node| node.span);
    Mistake::new(span, format!("two instances are named `{name}`"))
        .note(format!("one with {}; one with {}", written(first), written(second)))
        .help(format!("use `${{{differs}}}` in the name"))
}

fn unused_axis(target: &Target, axis: &Axis) -> Mistake {
    let title = format!(
        "nothing in `{}` refers to `${{{}}}`, so its instances would all be alike",
        target.name, axis.name
    );
    Mistake::new(axis.span, title).help(format!("refer to `${{{}}}`, or remove it from `for`", axis.name))
}

fn unused_params(outline: &Outline, used: &BTreeSet<Rc<str>>) -> Vec<Mistake> {
    let unused = outline.params.values().filter(|e| !used.contains(&e.key) && !TOP_PARAMS.contains(&&*e.key));
    let mistake = |entry: &Entry| {
        Mistake::new(entry.key_span, format!("nothing refers to the parameter `{}`", entry.key))
            .help(format!("refer to it by `${{{}}}`, or remove it", entry.key))
    };
    unused.map(mistake).collect()
}
