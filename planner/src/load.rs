//! Finds a pipeline, its presets and its files: the one part of the language that touches the disk.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};

use crate::diagnostic::{Mistake, PipelineErrors, SourceId, Sources, Span, nearest};
use crate::expand::expand;
use crate::lower::lower;
use crate::node::Node;
use crate::pipeline::Outline;
use crate::resolve::{Book, Presets, Surroundings};
use crate::step::Steps;
use crate::yaml;

/// Folder of pipelines under a project's root.
pub const PIPELINES: &str = "pipelines";
/// Folders of presets in [`PIPELINES`].
pub const PRESETS: [&str; 3] = ["platforms", "models", "lengths"];
/// Bytes a pipeline may have.
const FILE_MAX: u64 = 4 << 20;

/// Reads `pipelines/NAME.yaml` of the project and expands it to steps; `sets` are `--set name=value`.
pub fn load(project_root: &Utf8Path, name: &str, sets: &[(String, String)]) -> Result<Steps, PipelineErrors> {
    let path = Utf8Path::new(PIPELINES).join(format!("{name}.yaml"));
    let text = read(project_root, &path)?;
    let presets = presets(project_root);
    let list = |folder: &Utf8Path| listing(&project_root.join(folder));
    let surroundings = Surroundings { presets: &presets, list: &list };
    let (steps, sources, files) = compile(&path, text, sets, surroundings)?;
    let missing: Vec<Mistake> =
        files.into_iter().filter_map(|(file, at)| missing(project_root, &file, at)).collect();
    if missing.is_empty() { Ok(steps) } else { Err(PipelineErrors::new(sources, missing)) }
}

/// Project files that a pipeline names, and where it does.
pub type Files = Vec<(Utf8PathBuf, Span)>;

/// A pipeline's text to steps. Pure: all it may name is in `surroundings`, and whether [`Files`] exist is not asked.
pub fn compile(
    path: &Utf8Path,
    text: String,
    sets: &[(String, String)],
    surroundings: Surroundings<'_>,
) -> Result<(Steps, Sources, Files), PipelineErrors> {
    let mut sources = Sources::default();
    match stages(path, text, sets, surroundings, &mut sources) {
        Ok((steps, files)) => Ok((steps, sources, files)),
        Err(mistakes) => Err(PipelineErrors::new(sources, mistakes)),
    }
}

fn stages(
    path: &Utf8Path,
    text: String,
    sets: &[(String, String)],
    surroundings: Surroundings<'_>,
    sources: &mut Sources,
) -> Result<(Steps, Files), Vec<Mistake>> {
    let source = sources.add(path, text);
    let root = yaml::parse(source, sources.text(source))?;
    let mut outline = Outline::read(&root)?;
    let mut mistakes = Vec::new();
    for (name, value) in sets {
        if let Err(found) = set(&mut outline, name, value, sources) {
            mistakes.extend(found);
        }
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let instances = expand(&outline)?;
    let pipeline = path.file_stem().unwrap_or_default().to_owned();
    let book = Book::new(&pipeline, (&outline.targets, &instances), &outline.params, surroundings, sources);
    let steps = lower(&book)?;
    let files = book.into_files();
    Ok((Steps { pipeline, steps }, files))
}

/// One `--set name=value`: the value is YAML, and its places are those in `name=value`.
fn set(outline: &mut Outline, name: &str, value: &str, sources: &mut Sources) -> Result<(), Vec<Mistake>> {
    let source: SourceId = sources.add(Utf8Path::new("--set"), format!("{name}={value}"));
    let at = Span { source, start: name.len() as u32 + 1, end: (name.len() + 1 + value.len()) as u32 };
    let node = if value.trim().is_empty() {
        Node::scalar("", true, at)
    } else {
        yaml::parse(source, &(" ".repeat(name.len() + 1) + value))?
    };
    outline.set(name, node, source).map_err(|mistake| vec![mistake])
}

fn read(root: &Utf8Path, path: &Utf8Path) -> Result<String, PipelineErrors> {
    let file = root.join(path);
    match fs_err::metadata(&file) {
        Ok(metadata) if metadata.len() > FILE_MAX => {
            let title = format!(
                "expected a pipeline of at most {FILE_MAX} bytes, found {} in {path}",
                metadata.len()
            );
            return Err(PipelineErrors::outside(title, None));
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(unknown_pipeline(root, path));
        }
        Err(error) => return Err(PipelineErrors::outside(error.to_string(), None)),
    }
    let bytes = fs_err::read(&file).map_err(|error| PipelineErrors::outside(error.to_string(), None))?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        PipelineErrors::outside(
            format!("{path}:{line}: expected UTF-8, found another byte at offset {at}"),
            None,
        )
    })
}

fn unknown_pipeline(root: &Utf8Path, path: &Utf8Path) -> PipelineErrors {
    let folder = path.parent().unwrap_or(Utf8Path::new(""));
    let names: Vec<String> = listing(&root.join(folder))
        .into_iter()
        .filter(|name| name.ends_with(".yaml"))
        .map(|name| name.trim_end_matches(".yaml").to_owned())
        .collect();
    let wrong = path.file_stem().unwrap_or_default();
    let help = match nearest(wrong, names.iter().map(String::as_str)) {
        Some(name) => Some(format!("did you mean `{name}`?")),
        None if names.is_empty() => Some(format!("there is no pipeline in `{folder}/`")),
        None => Some(format!("pipelines: {}", names.join(", "))),
    };
    PipelineErrors::outside(format!("there is no pipeline `{wrong}`: no file {path}"), help)
}

/// Names of presets and their files.
fn presets(root: &Utf8Path) -> Presets {
    let of_folder = |folder: &'static str| {
        let path = Utf8Path::new(PIPELINES).join(folder);
        let mut names = BTreeMap::new();
        for file in listing(&root.join(&path)) {
            if let Some(name) = file.strip_suffix(".yaml") {
                names.insert(name.to_owned(), path.join(&file));
            }
        }
        (folder, names)
    };
    PRESETS.into_iter().map(of_folder).collect()
}

/// Names in a folder, sorted; none if it cannot be read.
fn listing(folder: &Utf8Path) -> Vec<String> {
    let Ok(entries) = fs_err::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn missing(root: &Utf8Path, file: &Utf8Path, at: Span) -> Option<Mistake> {
    if root.join(file).is_file() {
        return None;
    }
    let folder = file.parent().unwrap_or(Utf8Path::new(""));
    let names = listing(&root.join(folder));
    let mistake = Mistake::new(at, format!("there is no file `{file}` in the project"));
    let near = nearest(file.file_name().unwrap_or_default(), names.iter().map(String::as_str));
    Some(match near {
        Some(name) => mistake.help(format!("did you mean `{}`?", folder.join(name))),
        None => mistake.help("paths are relative to the project's root"),
    })
}
