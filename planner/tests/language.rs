//! The language of pipelines: what a pipeline becomes, and what is said of each mistake.

#[path = "language/expansion.rs"]
mod expansion;
#[path = "language/figure_8.rs"]
mod figure_8;
#[path = "language/measured.rs"]
mod measured;
#[path = "language/mistakes.rs"]
mod mistakes;
#[path = "language/mistakes_in_recipes.rs"]
mod mistakes_in_recipes;
#[path = "language/mistakes_in_references.rs"]
mod mistakes_in_references;
#[path = "language/pipelines.rs"]
mod pipelines;
#[path = "language/properties.rs"]
mod properties;
#[path = "language/schema.rs"]
mod schema;

use camino::Utf8Path;
use chariot::diagnostic::PipelineErrors;
use chariot::load::compile;
use chariot::resolve::{Presets, Surroundings};
use chariot::step::Steps;

/// The repository's root.
fn root() -> &'static Utf8Path {
    Utf8Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in a folder")
}

/// The presets that the tests' pipelines name; their content plays no part here.
fn presets() -> Presets {
    let folder = |folder: &'static str, names: &[&str]| {
        let path = |name: &str| (name.to_owned(), format!("pipelines/{folder}/{name}.yaml").into());
        (folder, names.iter().map(|name| path(name)).collect())
    };
    Presets::from([
        folder("platforms", &["azure-nc96ads-a100-v4-x2", "constant-x8"]),
        folder("models", &["falcon-180b", "falcon-7b", "llama-2-70b"]),
        folder("lengths", &["arxiv_summarization", "openchat_sharegpt4"]),
    ])
}

/// A pipeline's text to steps, with `--set name=value`.
fn compiled(text: &str, sets: &[(&str, &str)]) -> Result<Steps, PipelineErrors> {
    let sets: Vec<(String, String)> = sets.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let presets = presets();
    let list = |folder: &Utf8Path| match folder.as_str() {
        "models/tiny" => ["README.md", "config.json", "model.safetensors"].map(str::to_owned).to_vec(),
        _ => Vec::new(),
    };
    let surroundings = Surroundings { presets: &presets, list: &list };
    compile(Utf8Path::new("pipelines/x.yaml"), text.to_owned(), &sets, surroundings).map(|(steps, ..)| steps)
}

/// The addresses of all steps.
fn addresses(steps: &Steps) -> Vec<&str> {
    steps.steps.iter().map(|step| step.address.as_str()).collect()
}
