//! Finds a pipeline and reads it: the one part of the language that touches files.

use camino::{Utf8Path, Utf8PathBuf};

use crate::diagnostic::{PipelineErrors, Sources};
use crate::step::Steps;

/// Reads the pipeline `name_or_path` of the project and expands it to steps; `sets` are `--set name=value`.
///
/// A name is looked up as `pipelines/NAME.yaml` under the root; anything with a slash or ending in `.yaml` is a path,
/// relative to the root.
pub fn load(
    project_root: &Utf8Path,
    name_or_path: &str,
    sets: &[(String, String)],
) -> Result<Steps, PipelineErrors> {
    let _ = sets;
    let path = pipeline_path(name_or_path);
    let text = fs_err::read_to_string(project_root.join(&path))
        .map_err(|e| PipelineErrors::outside(e.to_string(), None))?;
    let mut sources = Sources::default();
    sources.add(&path, text);
    Ok(Steps { pipeline: path.file_stem().unwrap_or_default().to_owned(), steps: Vec::new() })
}

fn pipeline_path(name_or_path: &str) -> Utf8PathBuf {
    match name_or_path.contains('/') || name_or_path.ends_with(".yaml") {
        true => Utf8PathBuf::from(name_or_path),
        false => Utf8Path::new("pipelines").join(format!("{name_or_path}.yaml")),
    }
}
