//! A user's own command: argv, inputs, outputs, environment, resources.

use std::time::Duration;

use camino::Utf8PathBuf;

use super::serving::outputs_of_trial;
use super::{output, step};
use crate::decode::Spanned;
use crate::diagnostic::Mistake;
use crate::recipe::{Command, Recipe};
use crate::resolve::Site;
use crate::step::{ActionTemplate, Resources, Source, Step, Tool, Work};
use crate::value::LocalPath;

pub(super) fn command(site: &Site<'_>, recipe: &Command) -> Result<Step, Mistake> {
    let Some((tool, args)) = recipe.argv.value.split_first() else {
        return Err(Mistake::new(recipe.argv.span, "expected a command, found an empty list"));
    };
    let mut action = ActionTemplate {
        tool: Tool::User(tool.0.clone()),
        args: args.iter().map(|arg| arg.0.clone()).collect(),
        env: recipe.env.iter().map(|(name, value)| (name.clone(), value.0.clone())).collect(),
        inputs: Default::default(),
        outputs: outputs(recipe)?,
        resources: resources(recipe),
        timeout: recipe.timeout.map(|time| Duration::from_secs_f64(time.seconds.min(1e15))),
        retries: recipe.retries.unwrap_or(0),
        facts: recipe.facts.clone(),
        cutoff: None,
    };
    for (path, from) in &recipe.inputs {
        input(site, &path.0, from, &mut action)?;
    }
    let show = recipe.show.iter().map(|path| shown(path, &action.outputs)).collect::<Result<_, _>>()?;
    Ok(Step { show, ..step(site, "command", Work::Action(action)) })
}

fn resources(recipe: &Command) -> Resources {
    let occupies = recipe.resources.as_ref();
    Resources {
        cpu: occupies.and_then(|r| r.cpu).map_or(1, |cpu| cpu.0),
        gpu: occupies.and_then(|r| r.gpu).unwrap_or(0),
        exclusive: occupies.and_then(|r| r.exclusive).unwrap_or(false),
    }
}

fn outputs(recipe: &Command) -> Result<Vec<Utf8PathBuf>, Mistake> {
    if recipe.outputs.value.is_empty() {
        return Err(Mistake::new(recipe.outputs.span, "expected at least one output, found none")
            .help("a command without an output has nothing to keep; let it write a file"));
    }
    let mut outputs: Vec<Utf8PathBuf> = Vec::new();
    for path in &recipe.outputs.value {
        if outputs.contains(&path.value.0) {
            return Err(Mistake::new(path.span, format!("the output `{}` is given twice", path.value.0)));
        }
        outputs.push(path.value.0.clone());
    }
    Ok(outputs)
}

fn shown(path: &Spanned<LocalPath>, outputs: &[Utf8PathBuf]) -> Result<Utf8PathBuf, Mistake> {
    let path_there = &path.value.0;
    if outputs.contains(path_there) {
        return Ok(path_there.clone());
    }
    let unknown = Mistake::new(path.span, format!("`{path_there}` is no output of this command"));
    Err(unknown.suggest(path_there.as_str(), "outputs", outputs.iter().map(|o| o.as_str())))
}

/// A file of the project at `path`; or `TARGET:OUTPUT`: at `path` for one instance, below it by name for several.
fn input(
    site: &Site<'_>,
    path: &Utf8PathBuf,
    from: &Spanned<String>,
    action: &mut ActionTemplate,
) -> Result<(), Mistake> {
    let Some((target, file)) = from.value.split_once(':') else {
        let source = Source::File(site.book.file(&from.value, from.span));
        action.inputs.insert(path.clone(), source);
        return Ok(());
    };
    let reference = Spanned { value: target.to_owned(), span: from.span };
    let producers = site.book.all(&reference)?;
    let alone = producers.len() == 1 && !target.contains(['*', '?', '[']);
    for producer in producers {
        let place = match (&producer.instance.name, alone) {
            (Some(name), false) => path.join(&**name).join(file),
            (None, false) => path.join(&*producer.target.name).join(file),
            (_, true) => path.clone(),
        };
        action.inputs.insert(place, produced(&producer, file, from)?);
    }
    Ok(())
}

/// The output `file` of one of the producer's steps.
fn produced(producer: &Site<'_>, file: &str, from: &Spanned<String>) -> Result<Source, Mistake> {
    let parts = outputs_of(producer)?;
    if let Some(part) = parts.iter().position(|files| files.iter().any(|f| f == file)) {
        return Ok(output(producer.step(part as u32), file));
    }
    let unknown = Mistake::new(from.span, format!("`{}` has no output `{file}`", producer.short_name()));
    Err(unknown.suggest(file, "outputs", parts.iter().flatten().map(String::as_str)))
}

/// The outputs of an instance's steps, step by step.
fn outputs_of(site: &Site<'_>) -> Result<Vec<Vec<String>>, Mistake> {
    let named = |ends: &[&str]| ends.iter().map(|end| format!("{}.{end}", site.file_stem())).collect();
    let listed = |files: &[&str]| files.iter().map(|&file| file.to_owned()).collect::<Vec<String>>();
    Ok(match &site.instance.recipe {
        Recipe::Cluster(_) => vec![listed(&["cluster.json"])],
        Recipe::Profile(_) => vec![listed(&["platform.yaml"])],
        Recipe::Shard(_) => vec![listed(&["weights.json"])],
        Recipe::Trial(trial) => vec![listed(&outputs_of_trial(site, trial)?), listed(&["summary.json"])],
        Recipe::Capacity(_) => vec![listed(&["capacity.json"])],
        Recipe::Figure(_) => vec![named(&["csv", "json", "png", "svg", "txt"])],
        Recipe::Check(_) => vec![named(&["json", "md", "txt"])],
        Recipe::Command(command) => {
            vec![command.outputs.value.iter().map(|path| path.value.0.to_string()).collect()]
        }
    })
}
