//! What comes before trials: clusters, profiles of hosts, and weights.

use camino::Utf8PathBuf;

use super::{measured, output, own, step};
use crate::decode::Spanned;
use crate::diagnostic::Mistake;
use crate::recipe::{Cluster, On, Profile, Recipe, Shard, Weights};
use crate::resolve::Site;
use crate::step::{ActionTemplate, Source, Step, Work};

/// Ranks that a model may be divided over.
const RANKS_MAX: u64 = 4096;

pub(super) fn cluster(site: &Site<'_>, recipe: &Cluster) -> Result<Step, Mistake> {
    let mut action =
        own("chariot-engine", ["cluster", "--platform", "platform.yaml", "--out", "cluster.json"]);
    let platform = match &recipe.profile {
        Some(name) if recipe.platform.is_none() => {
            output(site.book.one_of(name, "profile")?.step(0), "platform.yaml")
        }
        Some(name) => {
            let both = Mistake::new(name.span, "expected either `platform` or `profile`, found both");
            return Err(both.help("a profile has its platform's devices and links; remove one of the two"));
        }
        None => platform(site, recipe.platform.as_ref())?,
    };
    action.inputs.insert("platform.yaml".into(), platform);
    action.outputs.push("cluster.json".into());
    let on = on(site, recipe)?;
    if on.is_measured() {
        action.args.extend(["--on", on.name()].map(str::to_owned));
    }
    // The links between GPUs are measured when they are brought up.
    let action = if on == On::Cuda { measured(action, on) } else { action };
    Ok(step(site, "cluster", Work::Action(action)))
}

/// The platform that a target names, or the pipeline's.
fn platform(site: &Site<'_>, named: Option<&Spanned<String>>) -> Result<Source, Mistake> {
    let platform = match named {
        Some(platform) => platform.clone(),
        None => site.book.platform(site.target.span)?,
    };
    Ok(Source::File(site.book.preset("platforms", &platform)?))
}

/// What runs the trials of a cluster.
fn on(site: &Site<'_>, recipe: &Cluster) -> Result<On, Mistake> {
    recipe.on.map_or_else(|| site.book.on(), Ok)
}

pub(super) fn profile(site: &Site<'_>, recipe: &Profile) -> Result<Step, Mistake> {
    let (model, file) = model(site, &recipe.model)?;
    let Some(parallels) = Some(&recipe.parallels.value).filter(|all| !all.is_empty()) else {
        let none = "expected at least one way of dividing the model, found none";
        return Err(Mistake::new(recipe.parallels.span, none).help("write `parallels: [{tp: 2, pp: 1}]`"));
    };
    let parallels: Vec<String> = parallels.iter().map(|p| format!("{}x{}", p.tp.0, p.pp.0)).collect();
    let mut action = own("chariot-engine", ["profile", "--platform", "preset.yaml", "--model", model]);
    action.args.extend(["--parallel".to_owned(), parallels.join(",")]);
    if let Some(dtype) = recipe.dtype {
        action.args.extend(["--dtype", dtype.name()].map(str::to_owned));
    }
    if let Some(seed) = recipe.seed {
        action.args.extend(["--seed".to_owned(), seed.to_string()]);
    }
    if let Some(tokens) = recipe.max_tokens {
        action.args.extend(["--max-tokens".to_owned(), tokens.0.to_string()]);
    }
    if let Some(time) = recipe.time {
        action.args.extend(["--seconds".to_owned(), time.seconds.to_string()]);
    }
    action.args.extend(["--out", "platform.yaml"].map(str::to_owned));
    action.inputs.insert("preset.yaml".into(), platform(site, recipe.platform.as_ref())?);
    action.inputs.insert(model.into(), file);
    action.outputs.push("platform.yaml".into());
    // Whether it computes on GPUs stands in the platform, which is the engine's to read.
    Ok(step(site, "profile", Work::Action(measured(action, On::Cuda))))
}

pub(super) fn shard(site: &Site<'_>, recipe: &Shard) -> Result<Step, Mistake> {
    let (cluster, on) = cluster_of(site, recipe)?;
    let (model, file) = model(site, &recipe.model)?;
    let (tp, pp) = (recipe.parallel.tp.0.to_string(), recipe.parallel.pp.0.to_string());
    let mut action = own("chariot-engine", ["shard", "--cluster", "cluster.json", "--model", model]);
    action.args.extend(["--tp", &tp, "--pp", &pp, "--out", "weights.json"].map(str::to_owned));
    action.inputs.insert("cluster.json".into(), output(cluster.step(0), "cluster.json"));
    action.inputs.insert(model.into(), file);
    action.outputs.push("weights.json".into());
    if on.is_measured() {
        action.outputs.extend(rank_files(site, recipe, on)?);
        if let Some(weights) = &recipe.weights {
            values(site, weights, &mut action)?;
        }
        if in_memory(recipe, on) {
            action.args.push("--in-memory".to_owned());
        }
    }
    Ok(step(site, "shard", Work::Action(action)))
}

/// A model's file, and its name in an action's directory.
fn model(site: &Site<'_>, name: &Spanned<String>) -> Result<(&'static str, Source), Mistake> {
    let file = site.book.preset("models", name)?;
    let name = if file.extension() == Some("json") { "model.json" } else { "model.yaml" };
    Ok((name, Source::File(file)))
}

/// Where the values come from.
fn values(site: &Site<'_>, weights: &Spanned<Weights>, action: &mut ActionTemplate) -> Result<(), Mistake> {
    let Weights { dummy, dtype, folder } = &weights.value;
    match (dummy, folder) {
        (Some(seed), None) => action.args.extend(["--dummy".to_owned(), seed.to_string()]),
        (None, Some(folder)) if dtype.is_none() => {
            action.args.extend(["--weights", "weights"].map(str::to_owned));
            for file in site.book.folder(folder)? {
                let name = file.file_name().expect("a file of a folder has a name").to_owned();
                action.inputs.insert(Utf8PathBuf::from("weights").join(name), Source::File(file));
            }
        }
        _ => {
            return Err(Mistake::new(
                weights.span,
                "expected `dummy`, with or without `dtype`, or `folder` alone",
            )
            .help("write `weights: {dummy: 0, dtype: bf16}` or `weights: {folder: models/falcon}`"));
        }
    }
    if let Some(dtype) = dtype {
        action.args.extend(["--dtype", dtype.name()].map(str::to_owned));
    }
    Ok(())
}

/// Whether each rank makes its values up when it starts: a model of GPUs may be larger than the disk.
fn in_memory(recipe: &Shard, on: On) -> bool {
    on == On::Cuda && recipe.weights.as_ref().is_none_or(|weights| weights.value.folder.is_none())
}

/// The files of a model's ranks, as `chariot-engine shard` names them; none where values are made up in memory.
fn rank_files(site: &Site<'_>, recipe: &Shard, on: On) -> Result<Vec<Utf8PathBuf>, Mistake> {
    let ranks = recipe.parallel.ranks();
    if in_memory(recipe, on) {
        return Ok(Vec::new());
    }
    if ranks > RANKS_MAX {
        let (tp, pp) = (recipe.parallel.tp.0, recipe.parallel.pp.0);
        let title = format!("expected tp x pp of at most {RANKS_MAX}, found {tp} x {pp} = {ranks}");
        return Err(site.mistake(title));
    }
    Ok((0..ranks).map(|rank| format!("rank-{rank:03}.safetensors").into()).collect())
}

/// The cluster that a shard names, or the only one, and what runs its trials.
fn cluster_of<'a>(site: &Site<'a>, recipe: &Shard) -> Result<(Site<'a>, On), Mistake> {
    let cluster = match &recipe.cluster {
        Some(name) => site.book.one_of(name, "cluster")?,
        None => site.book.only("cluster", site.target.span, "cluster")?,
    };
    match &cluster.instance.recipe {
        Recipe::Cluster(recipe) => Ok((cluster, on(&cluster, recipe)?)),
        other => Err(site.mistake(format!("expected a cluster, found a {}", other.kind()))),
    }
}

/// What a trial runs with: its weights and where they lie.
pub(super) struct Ground<'a> {
    pub(super) weights: Site<'a>,
    pub(super) cluster: Site<'a>,
    pub(super) on: On,
    /// Files of the ranks, where there are any.
    pub(super) rank_files: Vec<Utf8PathBuf>,
}

impl<'a> Ground<'a> {
    /// Of the shard that a trial names.
    pub(super) fn of(site: &Site<'a>, name: &Spanned<String>) -> Result<Self, Mistake> {
        let weights = site.book.one_of(name, "shard")?;
        let Recipe::Shard(recipe) = &weights.instance.recipe else {
            return Err(site.mistake(format!("expected a shard, found a {}", weights.instance.recipe.kind())));
        };
        let (cluster, on) = cluster_of(&weights, recipe)?;
        let rank_files = match on {
            On::Simulator => Vec::new(),
            On::Cpu | On::Cuda => rank_files(&weights, recipe, on)?,
        };
        Ok(Self { weights, cluster, on, rank_files })
    }
}
