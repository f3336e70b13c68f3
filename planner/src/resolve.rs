//! References between targets, and names of presets: each to what it means, or to the nearest name. Pure.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::rc::Rc;

use camino::{Utf8Path, Utf8PathBuf};
use globset::GlobBuilder;

use crate::decode::Spanned;
use crate::diagnostic::{Mistake, Sources, Span};
use crate::expand::Instance;
use crate::node::Entry;
use crate::pipeline::Target;
use crate::recipe::{On, Recipe};
use crate::step::{Location, StepId};

/// The presets that names can stand for: folder (`platforms`) -> name -> path in the project.
pub type Presets = BTreeMap<&'static str, BTreeMap<String, Utf8PathBuf>>;

/// What a pipeline can name beside its own targets.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// Presets.
    pub presets: &'a Presets,
    /// Names of the files in a folder of the project; none where it cannot be read.
    pub list: &'a dyn Fn(&Utf8Path) -> Vec<String>,
}

/// Everything a reference can mean.
pub struct Book<'a> {
    /// The pipeline's name.
    pub pipeline: &'a str,
    targets: &'a [Target],
    instances: &'a [Instance],
    /// Target -> its instances, which stand together.
    by_target: HashMap<&'a str, Range<usize>>,
    /// `target/instance` -> instance.
    by_name: HashMap<String, usize>,
    /// Recipe -> its instances.
    by_kind: BTreeMap<&'static str, Vec<usize>>,
    /// The first step of each instance.
    first_step: Vec<u32>,
    params: &'a BTreeMap<Rc<str>, Entry>,
    surroundings: Surroundings<'a>,
    sources: &'a Sources,
    /// Files of the project that were named, and where.
    files: RefCell<Vec<(Utf8PathBuf, Span)>>,
}

/// How many steps an instance becomes: a trial has its summary beside it.
fn steps_of(recipe: &Recipe) -> u32 {
    match recipe {
        Recipe::Trial(_) => 2,
        _ => 1,
    }
}

impl<'a> Book<'a> {
    /// A book of all instances; O(instances).
    pub fn new(
        pipeline: &'a str,
        (targets, instances): (&'a [Target], &'a [Instance]),
        params: &'a BTreeMap<Rc<str>, Entry>,
        surroundings: Surroundings<'a>,
        sources: &'a Sources,
    ) -> Self {
        let mut by_target: HashMap<&str, Range<usize>> = HashMap::new();
        let mut by_name = HashMap::with_capacity(instances.len());
        let mut by_kind: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        let mut first_step = Vec::with_capacity(instances.len());
        let mut next = 0;
        for (index, instance) in instances.iter().enumerate() {
            let target = &*targets[instance.target].name;
            by_target.entry(target).or_insert(index..index).end = index + 1;
            if let Some(name) = &instance.name {
                by_name.insert(format!("{target}/{name}"), index);
            }
            by_kind.entry(instance.recipe.kind()).or_default().push(index);
            first_step.push(next);
            next += steps_of(&instance.recipe);
        }
        let files = RefCell::default();
        Self {
            pipeline,
            targets,
            instances,
            by_target,
            by_name,
            by_kind,
            first_step,
            params,
            surroundings,
            sources,
            files,
        }
    }

    /// Every instance as a site.
    pub fn sites(&self) -> impl Iterator<Item = Site<'_>> {
        (0..self.instances.len()).map(|index| self.site(index))
    }

    /// The project files that were named, and where.
    pub fn into_files(self) -> Vec<(Utf8PathBuf, Span)> {
        self.files.into_inner()
    }

    fn site(&self, index: usize) -> Site<'_> {
        let instance = &self.instances[index];
        Site { book: self, instance, target: &self.targets[instance.target], index }
    }

    /// The one instance that `reference` names.
    pub fn one(&self, reference: &Spanned<String>) -> Result<Site<'_>, Mistake> {
        let all = self.all(reference)?;
        match &all[..] {
            [site] => Ok(*site),
            many => {
                let names: Vec<String> =
                    many.iter().take(4).map(|s| format!("`{}`", s.short_name())).collect();
                let title = format!("expected one instance, found {}: `{}`", many.len(), reference.value);
                Err(Mistake::new(reference.span, title)
                    .help(format!("name one, such as {}", names.join(", "))))
            }
        }
    }

    /// The one instance that `reference` names, which must be of recipe `kind`.
    pub fn one_of(&self, reference: &Spanned<String>, kind: &str) -> Result<Site<'_>, Mistake> {
        let site = self.one(reference)?;
        let found = site.instance.recipe.kind();
        if found == kind {
            return Ok(site);
        }
        let wrong = format!(
            "expected a target with `recipe: {kind}`, found `{}` with `recipe: {found}`",
            reference.value
        );
        let mistake = Mistake::new(reference.span, wrong).also(site.target.span, "declared here");
        Err(mistake.help(self.names_of(kind)))
    }

    /// The only instance of recipe `kind`.
    pub fn only(&self, kind: &str, at: Span, key: &str) -> Result<Site<'_>, Mistake> {
        match self.of_kind(kind) {
            [index] => Ok(self.site(*index)),
            [] => Err(Mistake::new(at, format!("there is no target with `recipe: {kind}`"))
                .help(format!("add one: `{kind}: {{recipe: {kind}}}`"))),
            _ => Err(Mistake::new(
                at,
                format!("the key `{key}` is missing, and there are several targets with `recipe: {kind}`"),
            )
            .help(self.names_of(kind))),
        }
    }

    fn of_kind(&self, kind: &str) -> &[usize] {
        self.by_kind.get(kind).map_or(&[], Vec::as_slice)
    }

    fn names_of(&self, kind: &str) -> String {
        let sites = self.of_kind(kind).iter().take(8).map(|index| self.site(*index));
        let names: Vec<String> = sites.map(|site| format!("`{}`", site.short_name())).collect();
        match names.is_empty() {
            true => format!("there is no target with `recipe: {kind}`"),
            false => format!("targets with `recipe: {kind}`: {}", names.join(", ")),
        }
    }

    /// All instances that `reference` names: a target, `target/instance`, or a glob over these.
    pub fn all(&self, reference: &Spanned<String>) -> Result<Vec<Site<'_>>, Mistake> {
        let name = reference.value.as_str();
        if let Some(range) = self.by_target.get(name) {
            return Ok(range.clone().map(|index| self.site(index)).collect());
        }
        if let Some(index) = self.by_name.get(name) {
            return Ok(vec![self.site(*index)]);
        }
        if name.contains(['*', '?', '[']) {
            return self.matching(reference);
        }
        let unknown = Mistake::new(reference.span, format!("unknown target `{name}`"));
        let (target, instance) = name.split_once('/').unwrap_or((name, ""));
        Err(match self.by_target.get(target) {
            Some(range) if !instance.is_empty() => {
                let names: Vec<String> = range.clone().map(|index| self.site(index).short_name()).collect();
                unknown.suggest(name, "instances", names.iter().map(String::as_str))
            }
            _ => {
                let prefixed = self.by_name.keys().map(String::as_str).filter(|_| !instance.is_empty());
                let mut names: Vec<&str> = self.targets.iter().map(|t| &*t.name).chain(prefixed).collect();
                names.sort_unstable();
                unknown.suggest(name, "targets", names)
            }
        })
    }

    fn matching(&self, reference: &Spanned<String>) -> Result<Vec<Site<'_>>, Mistake> {
        let glob = GlobBuilder::new(&reference.value).literal_separator(true).build();
        let matcher =
            glob.map_err(|error| Mistake::new(reference.span, error.to_string()))?.compile_matcher();
        let sites: Vec<Site<'_>> = self.sites().filter(|site| matcher.is_match(site.short_name())).collect();
        if sites.is_empty() {
            let names: Vec<&str> = self.targets.iter().map(|t| &*t.name).collect();
            let target = reference.value.split('/').next().unwrap_or_default();
            return Err(Mistake::new(reference.span, format!("`{}` matches no target", reference.value))
                .suggest(target, "targets", names));
        }
        Ok(sites)
    }

    /// A preset's file by its name, or a path as it is.
    pub fn preset(&self, folder: &'static str, reference: &Spanned<String>) -> Result<Utf8PathBuf, Mistake> {
        let name = reference.value.as_str();
        if is_path(name) {
            return Ok(self.file(name, reference.span));
        }
        let empty = BTreeMap::new();
        let presets = self.surroundings.presets.get(folder).unwrap_or(&empty);
        presets.get(name).cloned().ok_or_else(|| {
            let one = folder.trim_end_matches('s');
            let one = if folder == "lengths" { "table of lengths" } else { one };
            let unknown = Mistake::new(reference.span, format!("unknown {one} `{name}`"));
            let unknown = unknown.suggest(name, "presets", presets.keys().map(String::as_str));
            unknown.note(format!("presets are files of `pipelines/{folder}/`; a path begins with `./` or ends in `.yaml`, `.json` or `.csv`"))
        })
    }

    /// A file of the project, to be there when all is read.
    pub fn file(&self, name: &str, span: Span) -> Utf8PathBuf {
        let path = Utf8PathBuf::from(name.strip_prefix("./").unwrap_or(name));
        self.files.borrow_mut().push((path.clone(), span));
        path
    }

    /// The files of a model in a folder of the project: its configuration and its weights.
    pub fn folder(&self, folder: &Spanned<String>) -> Result<Vec<Utf8PathBuf>, Mistake> {
        let path = folder.value.trim_end_matches('/');
        let mut names = (self.surroundings.list)(Utf8Path::new(path));
        names.retain(|name| is_of_model(name));
        let has = |what: &str| names.iter().any(|name| name.ends_with(what));
        match [("config.json", has("config.json")), ("*.safetensors", has(".safetensors"))]
            .iter()
            .find(|(_, has)| !has)
        {
            Some((missing, _)) => {
                let title = format!(
                    "expected a folder with config.json and safetensors, found no {missing} in `{path}`"
                );
                Err(Mistake::new(folder.span, title).help("paths are relative to the project's root"))
            }
            None => Ok(names.iter().map(|name| self.file(&format!("{path}/{name}"), folder.span)).collect()),
        }
    }

    /// What runs the trials of clusters that do not say it.
    pub fn on(&self) -> Result<On, Mistake> {
        let Some(entry) = self.params.get("on") else { return Ok(On::Simulator) };
        let found = entry.value.text().and_then(|text| On::NAMES.iter().find(|(name, _)| *name == &**text));
        found.map(|(_, on)| *on).ok_or_else(|| {
            let title = format!("expected `simulator`, `cpu` or `cuda`, found {}", entry.value.describe());
            Mistake::new(entry.value.span, title).note("`on` says what runs the trials")
        })
    }

    /// The pipeline's platform.
    pub fn platform(&self, at: Span) -> Result<Spanned<String>, Mistake> {
        let entry = self.params.get("platform").ok_or_else(|| {
            Mistake::new(at, "no platform is given")
                .help("add `platform: NAME` here, or to the pipeline for all clusters")
        })?;
        match entry.value.text() {
            Some(text) => Ok(Spanned { value: text.to_string(), span: entry.value.span }),
            None => {
                let title = format!("expected a platform's name, found {}", entry.value.describe());
                Err(Mistake::new(entry.value.span, title))
            }
        }
    }
}

/// The model's own files.
fn is_of_model(name: &str) -> bool {
    matches!(Utf8Path::new(name).extension(), Some("json" | "safetensors"))
}

/// Names with these beginnings or ends are paths, all others are presets.
fn is_path(name: &str) -> bool {
    let extension = Utf8Path::new(name).extension();
    name.starts_with("./") || name.starts_with('/') || matches!(extension, Some("yaml" | "json" | "csv"))
}

/// An instance with all that can be said about where it stands.
#[derive(Clone, Copy)]
pub struct Site<'a> {
    /// What other sites there are.
    pub book: &'a Book<'a>,
    /// The instance.
    pub instance: &'a Instance,
    /// Its target.
    pub target: &'a Target,
    index: usize,
}

impl<'a> Site<'a> {
    /// `target` or `target/instance`.
    pub fn short_name(&self) -> String {
        match &self.instance.name {
            Some(name) => format!("{}/{name}", self.target.name),
            None => self.target.name.to_string(),
        }
    }

    /// `pipeline/target[/instance]`.
    pub fn address(&self) -> String {
        format!("{}/{}", self.book.pipeline, self.short_name())
    }

    /// `target` or `target-instance`: names the files of figures and checks, which lie side by side.
    pub fn file_stem(&self) -> String {
        self.short_name().replace('/', "-")
    }

    /// Where the target is declared.
    pub fn location(&self) -> Location {
        let (line, column) = self.book.sources.line_column(self.target.span);
        Location { file: self.book.sources.name(self.target.span.source).to_owned(), line, column }
    }

    /// The instance's step number `part`.
    pub fn step(&self, part: u32) -> StepId {
        StepId(self.book.first_step[self.index] + part)
    }

    /// A mistake of the target as a whole.
    pub fn mistake(&self, title: impl Into<String>) -> Mistake {
        Mistake::new(self.target.span, title)
    }

    /// The name of the sweep's value for `variable`.
    pub fn label(&self, variable: &str) -> Option<&'a str> {
        self.instance.labels.iter().find(|(axis, _)| &**axis == variable).map(|(_, name)| &**name)
    }
}
