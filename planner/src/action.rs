//! A resolved command: what runs, on what, and the key its results are found by. Knows nothing of when it runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use camino::Utf8PathBuf;
use chariot_cache::{Digest, Manifest};

use crate::step::{ActionTemplate, Resources, Tool};

/// Changes with the meaning of a key's fields.
const KEY_FORMAT: u32 = 1;

/// An executable that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolFile {
    /// Where it is.
    pub path: Utf8PathBuf,
    /// BLAKE3 of its bytes.
    pub digest: Digest,
}

/// An input whose content is known.
#[derive(Debug, Clone)]
pub struct Input {
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// Where the bytes are.
    pub origin: Origin,
}

/// Where an input's bytes are until the action runs.
#[derive(Debug, Clone)]
pub enum Origin {
    /// In the store, put there by the action that made them.
    Store,
    /// A file of the project.
    File(Utf8PathBuf),
    /// Made by the planner.
    Bytes(Arc<[u8]>),
}

/// One command with everything it depends on.
#[derive(Debug, Clone)]
pub struct Action {
    /// What people call it.
    pub address: String,
    /// The executable.
    pub program: Utf8PathBuf,
    /// Arguments after the executable.
    pub args: Vec<String>,
    /// Declared environment.
    pub env: BTreeMap<String, String>,
    /// One of Chariot's own tools, whose exit code 2 says that what it was given is wrong, and will be.
    pub is_own: bool,
    /// It computes on GPUs, as its fact `gpu` says, and sees what of the environment such programs need.
    pub sees_gpus: bool,
    /// Path in the action's directory -> content.
    pub inputs: BTreeMap<Utf8PathBuf, Input>,
    /// Files it must leave.
    pub outputs: Vec<Utf8PathBuf>,
    /// What it occupies.
    pub resources: Resources,
    /// Killed after this long.
    pub timeout: Option<Duration>,
    /// Further tries after a failure.
    pub retries: u32,
    /// What its results are found by.
    pub key: Key,
    /// Where it may end early: the same command's key if it does not, and the output that says whether it did.
    pub uncut: Option<(Key, Utf8PathBuf)>,
}

/// A key and what it is made of.
#[derive(Debug, Clone)]
pub struct Key {
    /// The digest of `manifest`.
    pub digest: Digest,
    /// Every field the result depends on.
    pub manifest: Manifest,
}

impl Key {
    fn new(manifest: Manifest) -> Self {
        Self { digest: manifest.digest(), manifest }
    }
}

impl Action {
    /// Puts a template together with what was found for it. `facts` holds a value for every fact the template names.
    pub fn new(
        address: String,
        template: &ActionTemplate,
        tool: ToolFile,
        inputs: BTreeMap<Utf8PathBuf, Input>,
        facts: &BTreeMap<String, String>,
    ) -> Self {
        let key_of = |args: &[String]| Key::new(manifest(template, args, &tool, &inputs, facts));
        let uncut = template.cutoff.as_ref().map(|cutoff| (key_of(&template.args), cutoff.marker.clone()));
        let mut args = template.args.clone();
        args.extend(template.cutoff.iter().flat_map(|cutoff| cutoff.args.iter().cloned()));
        let key = key_of(&args);
        Self {
            address,
            program: tool.path,
            args,
            env: template.env.clone(),
            is_own: matches!(template.tool, Tool::Own(_)),
            sees_gpus: template.facts.iter().any(|fact| fact == "gpu"),
            inputs,
            outputs: template.outputs.clone(),
            resources: template.resources,
            timeout: template.timeout,
            retries: template.retries,
            key,
            uncut,
        }
    }

    /// The same action with further inputs.
    pub fn with_inputs(mut self, inputs: impl IntoIterator<Item = (Utf8PathBuf, Input)>) -> Self {
        for (path, input) in inputs {
            let keys = std::iter::once(&mut self.key).chain(self.uncut.iter_mut().map(|(key, _)| key));
            keys.for_each(|key| key.manifest.field("input", path.as_str(), input.digest));
            self.inputs.insert(path, input);
        }
        let keys = std::iter::once(&mut self.key).chain(self.uncut.iter_mut().map(|(key, _)| key));
        keys.for_each(|key| key.digest = key.manifest.digest());
        self
    }

    /// The keys whose results answer for this action, best first: a whole result also answers for a cut one.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.uncut.iter().map(|(key, _)| key).chain(std::iter::once(&self.key))
    }

    /// The command as a person would type it.
    pub fn command(&self) -> String {
        let quoted = self.args.iter().map(|arg| quote(arg));
        std::iter::once(quote(self.program.as_str())).chain(quoted).collect::<Vec<_>>().join(" ")
    }
}

/// Everything the result depends on; timeouts, retries and resources are not among it.
fn manifest(
    template: &ActionTemplate,
    args: &[String],
    tool: &ToolFile,
    inputs: &BTreeMap<Utf8PathBuf, Input>,
    facts: &BTreeMap<String, String>,
) -> Manifest {
    let mut manifest = Manifest::new();
    manifest.field("format", "key", KEY_FORMAT);
    manifest.field("tool", tool_name(&template.tool), tool.digest);
    manifest.list("argv", args);
    template.env.iter().for_each(|(name, value)| manifest.field("env", name, value));
    inputs.iter().for_each(|(path, input)| manifest.field("input", path.as_str(), input.digest));
    facts.iter().for_each(|(name, value)| manifest.field("fact", name, value));
    manifest.list("output", &template.outputs);
    manifest
}

/// The name of a tool, the same on every machine.
pub fn tool_name(tool: &Tool) -> &str {
    match tool {
        Tool::Own(name) => name,
        Tool::User(name) => name,
    }
}

fn quote(arg: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !arg.is_empty() && arg.chars().all(plain) {
        return arg.to_owned();
    }
    format!("'{}'", arg.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::Cutoff;

    fn template() -> ActionTemplate {
        ActionTemplate {
            tool: Tool::User("sh".to_owned()),
            args: vec!["-c".to_owned(), "true".to_owned()],
            env: BTreeMap::from([("A".to_owned(), "1".to_owned())]),
            inputs: BTreeMap::new(),
            outputs: vec!["o".into()],
            resources: Resources { cpu: 1, gpu: 0, exclusive: false },
            timeout: None,
            retries: 0,
            facts: vec!["os".to_owned()],
            cutoff: None,
        }
    }

    fn resolve(template: &ActionTemplate, tool: &[u8], input: &[u8], os: &str) -> Action {
        let tool = ToolFile { path: "/bin/sh".into(), digest: Digest::of(tool) };
        let input = Input { digest: Digest::of(input), origin: Origin::Store };
        let facts = BTreeMap::from([("os".to_owned(), os.to_owned())]);
        Action::new("p/a".to_owned(), template, tool, BTreeMap::from([("in".into(), input)]), &facts)
    }

    fn key(change: impl FnOnce(&mut ActionTemplate)) -> Digest {
        let mut template = template();
        change(&mut template);
        resolve(&template, b"tool", b"input", "linux").key.digest
    }

    #[test]
    fn the_key_covers_what_a_result_depends_on() {
        let same = key(|_| {});
        let others = [
            key(|t| t.args.push("x".to_owned())),
            key(|t| t.env.insert("A".to_owned(), "2".to_owned()).map_or((), drop)),
            key(|t| t.outputs.push("p".into())),
            key(|t| t.tool = Tool::User("bash".to_owned())),
            resolve(&template(), b"other tool", b"input", "linux").key.digest,
            resolve(&template(), b"tool", b"other input", "linux").key.digest,
            resolve(&template(), b"tool", b"input", "other os").key.digest,
        ];
        for (index, other) in others.iter().enumerate() {
            assert_ne!(*other, same, "change {index}");
        }
    }

    #[test]
    fn the_key_leaves_out_how_the_action_is_run() {
        let same = key(|_| {});
        assert_eq!(key(|t| t.retries = 3), same);
        assert_eq!(key(|t| t.timeout = Some(Duration::from_secs(1))), same);
        assert_eq!(key(|t| t.resources.cpu = 2), same);
    }

    #[test]
    fn a_cut_command_has_the_uncut_commands_key_too() {
        let mut cut = template();
        cut.cutoff = Some(Cutoff { args: vec!["--stop".to_owned()], marker: "trial.json".into() });
        let cut = resolve(&cut, b"tool", b"input", "linux");
        let keys: Vec<Digest> = cut.keys().map(|key| key.digest).collect();
        assert_eq!(keys, [key(|_| {}), key(|t| t.args.push("--stop".to_owned()))]);
        assert_eq!(cut.args, ["-c", "true", "--stop"]);
    }

    #[test]
    fn a_command_reads_as_it_would_be_typed() {
        let mut template = template();
        template.args = vec!["-c".to_owned(), "echo 'hi' > o".to_owned(), String::new()];
        let shown = resolve(&template, b"", b"", "").command();
        assert_eq!(shown, r"/bin/sh -c 'echo '\''hi'\'' > o' ''");
    }
}
