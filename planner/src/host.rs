//! This machine and this project as actions see them: input files, tools, facts, the store. The impure half of planning.

use std::collections::BTreeMap;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use chariot_cache::{Digest, Lookup, Store};

use crate::action::{Action, Input, Origin, ToolFile, tool_name};
use crate::facts::{Facts, UnknownFact};
use crate::plan::{Found, Made, PlanError, View};
use crate::process;
use crate::step::{ActionTemplate, Location, Source, Step, Tool};

/// Why an action cannot be put together or looked up.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A declared input that is not there.
    #[error(
        "{location}: `{address}` needs file {path}, which cannot be read: {reason}\n  help: the path is relative to the project's root"
    )]
    Input {
        /// Where the step is declared.
        location: String,
        /// The action.
        address: String,
        /// The file, as declared.
        path: Utf8PathBuf,
        /// What the system said.
        reason: String,
    },
    /// An executable that is not there.
    #[error("{location}: `{address}` needs the tool `{tool}`, which was not found {looked}\n  help: {help}")]
    Tool {
        /// Where the step is declared.
        location: String,
        /// The action.
        address: String,
        /// Its name as declared.
        tool: String,
        /// Where it was looked for.
        looked: String,
        /// How to mend it.
        help: &'static str,
    },
    /// A fact that is none.
    #[error("{location}: `{address}`: {source}")]
    Fact {
        /// Where the step is declared.
        location: String,
        /// The action.
        address: String,
        /// Which, and what there is.
        source: UnknownFact,
    },
    /// An input names an output that its step does not have.
    #[error("{location}: `{address}` needs {path} of `{producer}`, which makes no such file")]
    Output {
        /// Where the step is declared.
        location: String,
        /// The action.
        address: String,
        /// The step that should make it.
        producer: String,
        /// The output.
        path: Utf8PathBuf,
    },
    /// A search that cannot be done.
    #[error(transparent)]
    Search(#[from] PlanError),
    /// The store could not be read or written.
    #[error(transparent)]
    Store(#[from] chariot_cache::Error),
}

impl HostError {
    /// Whether the user can mend it by changing the pipeline or the project.
    pub fn is_users(&self) -> bool {
        match self {
            Self::Search(error) => error.is_users(),
            Self::Store(_) => false,
            Self::Input { .. } | Self::Tool { .. } | Self::Fact { .. } | Self::Output { .. } => true,
        }
    }
}

/// The host's answers, each asked for once.
#[derive(Debug)]
pub struct Host {
    store: Arc<Store>,
    root: Utf8PathBuf,
    path: String,
    /// Whether what the planner makes itself is kept in the store; not so when only planning.
    keeps: bool,
    facts: Facts,
    tools: BTreeMap<Tool, ToolFile>,
    files: BTreeMap<Utf8PathBuf, Digest>,
}

impl Host {
    /// A view of the project at `root`; tools are looked up in `path`, the value of `PATH`.
    pub fn new(store: Arc<Store>, root: &Utf8Path, path: String, keeps: bool) -> Self {
        Self {
            store,
            root: root.to_owned(),
            path,
            keeps,
            facts: Facts::default(),
            tools: BTreeMap::new(),
            files: BTreeMap::new(),
        }
    }

    fn tool(&mut self, step: &Step, address: &str, tool: &Tool) -> Result<ToolFile, HostError> {
        if let Some(found) = self.tools.get(tool) {
            return Ok(found.clone());
        }
        let path = self.find_tool(tool).ok_or_else(|| no_tool(step, address, tool))?;
        let digest = self.store.files().digest(&path)?;
        let found = ToolFile { path, digest };
        self.tools.insert(tool.clone(), found.clone());
        Ok(found)
    }

    fn find_tool(&self, tool: &Tool) -> Option<Utf8PathBuf> {
        match tool {
            Tool::User(name) => process::look_up(name, &self.path, &self.root),
            Tool::Own(name) => {
                let own = Utf8PathBuf::from_path_buf(std::env::current_exe().ok()?).ok()?;
                process::look_up(own.parent()?.join(name).as_str(), "", &self.root)
            }
        }
    }

    fn input(
        &mut self,
        step: &Step,
        address: &str,
        source: &Source,
        made: Made<'_>,
    ) -> Result<Input, HostError> {
        match source {
            Source::Inline(bytes) => {
                Ok(Input { digest: Digest::of(bytes), origin: Origin::Bytes(bytes.as_slice().into()) })
            }
            Source::File(path) => {
                let digest = self.file(step, address, path)?;
                Ok(Input { digest, origin: Origin::File(self.root.join(path)) })
            }
            Source::Output { step: producer, path } => match made.output(*producer, path) {
                Some(digest) => Ok(Input { digest, origin: Origin::Store }),
                None => Err(HostError::Output {
                    location: place(&step.location),
                    address: address.to_owned(),
                    producer: made.address(*producer).to_owned(),
                    path: path.clone(),
                }),
            },
        }
    }

    /// Read once a run, so that all actions see the same content.
    fn file(&mut self, step: &Step, address: &str, path: &Utf8Path) -> Result<Digest, HostError> {
        if let Some(digest) = self.files.get(path) {
            return Ok(*digest);
        }
        let digest = self.store.files().digest(path).map_err(|error| HostError::Input {
            location: place(&step.location),
            address: address.to_owned(),
            path: path.to_owned(),
            reason: reason(&error),
        })?;
        self.files.insert(path.to_owned(), digest);
        Ok(digest)
    }

    fn facts(
        &mut self,
        step: &Step,
        address: &str,
        names: &[String],
    ) -> Result<BTreeMap<String, String>, HostError> {
        let mut values = BTreeMap::new();
        for name in names {
            let value = self.facts.get(name).map_err(|source| HostError::Fact {
                location: place(&step.location),
                address: address.to_owned(),
                source,
            })?;
            values.insert(name.clone(), value.to_owned());
        }
        Ok(values)
    }
}

impl View for Host {
    type Error = HostError;

    fn resolve(
        &mut self,
        step: &Step,
        address: String,
        template: &ActionTemplate,
        made: Made<'_>,
    ) -> Result<Action, HostError> {
        let tool = self.tool(step, &address, &template.tool)?;
        let facts = self.facts(step, &address, &template.facts)?;
        let mut inputs = BTreeMap::new();
        for (path, source) in &template.inputs {
            inputs.insert(path.clone(), self.input(step, &address, source, made)?);
        }
        Ok(Action::new(address, template, tool, inputs, &facts))
    }

    fn lookup(&mut self, action: &Action) -> Result<Option<Found>, HostError> {
        for key in action.keys() {
            if let Lookup::Hit(record) = self.store.lookup(&key.digest)? {
                let outputs = record.outputs.iter().map(|(path, blob)| (path.clone(), blob.digest)).collect();
                return Ok(Some(Found { key: key.digest, outputs, run: record.run }));
            }
        }
        Ok(None)
    }

    fn read(&mut self, blob: &Digest) -> Result<Vec<u8>, HostError> {
        Ok(self.store.cas().get(blob)?)
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<Digest, HostError> {
        match self.keeps {
            true => Ok(self.store.cas().put_bytes(bytes)?.digest),
            false => Ok(Digest::of(bytes)),
        }
    }
}

fn reason(error: &chariot_cache::Error) -> String {
    match error {
        chariot_cache::Error::Io(error) if error.kind() == std::io::ErrorKind::NotFound => {
            "there is no such file in the project".to_owned()
        }
        chariot_cache::Error::NotAFile { found, .. } => format!("it is {found}"),
        other => other.to_string(),
    }
}

fn no_tool(step: &Step, address: &str, tool: &Tool) -> HostError {
    let (looked, help) = match tool {
        Tool::Own(_) => ("beside the chariot executable", "build it with `cargo build --release`"),
        Tool::User(name) if name.contains('/') => (
            "in the project, or may not be executed",
            "check the path, and that the file may be executed (chmod +x)",
        ),
        Tool::User(_) => ("in PATH", "install it, or give its path relative to the project, with a slash"),
    };
    HostError::Tool {
        location: place(&step.location),
        address: address.to_owned(),
        tool: tool_name(tool).to_owned(),
        looked: looked.to_owned(),
        help,
    }
}

fn place(location: &Location) -> String {
    format!("{}:{}:{}", location.file, location.line, location.column)
}
