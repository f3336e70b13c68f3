//! The command line of `chariot`: arguments in, text and exit codes out.

mod args;
mod inspect;
mod run;
mod tidy;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use camino::Utf8Path;
use clap::Parser;

use crate::cli::args::{Args, Command};
use crate::diagnostic::PipelineErrors;
use crate::graph::{Graph, GraphError, nearest};
use crate::load;
use crate::project::{Project, ProjectError};
use crate::session::SessionError;

/// Everything went well.
const DONE: u8 = 0;
/// An action failed, or the system did.
const FAILED: u8 = 1;
/// The user's mistake.
const MISTAKE: u8 = 2;
/// Our bug.
const BUG: u8 = 3;
/// A signal ended the run.
const INTERRUPTED: u8 = 130;

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
enum CliError {
    /// The user can mend it.
    #[error("{0}")]
    Mistake(String),
    /// Something failed.
    #[error("{0}")]
    Failed(String),
    /// The pipeline is wrong; the text is a whole report.
    #[error("{0}")]
    Pipeline(String),
    /// Whoever reads our output has gone; no one is left to tell.
    #[error("nobody reads the output")]
    Closed,
}

impl CliError {
    fn code(&self) -> u8 {
        match self {
            Self::Mistake(_) | Self::Pipeline(_) => MISTAKE,
            Self::Failed(_) => FAILED,
            Self::Closed => DONE,
        }
    }
}

impl From<GraphError> for CliError {
    fn from(error: GraphError) -> Self {
        Self::Mistake(error.to_string())
    }
}

impl From<ProjectError> for CliError {
    fn from(error: ProjectError) -> Self {
        match error {
            ProjectError::NotFound { .. } => Self::Mistake(error.to_string()),
            ProjectError::Store { .. } | ProjectError::Busy { .. } => Self::Failed(error.to_string()),
        }
    }
}

impl From<SessionError> for CliError {
    fn from(error: SessionError) -> Self {
        if error.is_users() { Self::Mistake(error.to_string()) } else { Self::Failed(error.to_string()) }
    }
}

impl From<chariot_cache::Error> for CliError {
    fn from(error: chariot_cache::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<PipelineErrors> for CliError {
    fn from(errors: PipelineErrors) -> Self {
        Self::Pipeline(
            errors.render(anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never),
        )
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { MISTAKE } else { DONE });
        }
    };
    ExitCode::from(guarded(|| dispatch(args)))
}

/// The exit code of a command, whatever becomes of it; says what went wrong.
fn guarded(command: impl FnOnce() -> Result<u8, CliError>) -> u8 {
    match catch_unwind(AssertUnwindSafe(command)) {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            match &error {
                CliError::Closed => {}
                CliError::Pipeline(report) => say(report.trim_end()),
                other => say(&format!("error: {other}")),
            }
            error.code()
        }
        Err(_) => {
            say(
                "error: this is a bug in chariot; the lines above say where. Please report it with the command you ran",
            );
            BUG
        }
    }
}

fn dispatch(args: Args) -> Result<u8, CliError> {
    let from = args.directory;
    match args.command {
        Command::Schema => inspect::schema(),
        Command::Run(run) => run::run(&Project::find(&from)?, &run),
        Command::Plan(targets) => inspect::plan(&Project::find(&from)?, &targets),
        Command::Status(targets) => inspect::status(&Project::find(&from)?, &targets),
        Command::Explain(targets) => inspect::explain(&Project::find(&from)?, &targets),
        Command::Graph(graph) => inspect::graph(&Project::find(&from)?, &graph),
        Command::List => inspect::list(&Project::find(&from)?),
        Command::Log { target } => tidy::log(&Project::find(&from)?, &target),
        Command::Clean(wait) => tidy::clean(&Project::find(&from)?, &wait),
        Command::Gc(gc) => tidy::gc(&Project::find(&from)?, &gc),
    }
}

/// A line to the person, on stderr.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A line of what was asked for, on stdout.
fn print(text: &str) -> Result<(), CliError> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// The graph of a pipeline.
fn load_graph(project: &Project, pipeline: &str, sets: &[(String, String)]) -> Result<Graph, CliError> {
    let names = project.pipelines()?;
    if !names.iter().any(|name| name == pipeline) {
        let near = nearest(pipeline, names.iter().map(String::as_str));
        let help = match near.as_slice() {
            [] if names.is_empty() => "there is none; add pipelines/NAME.yaml".to_owned(),
            [] => format!("there are {}", names.join(", ")),
            near => format!("did you mean `{}`?", near.join("`, `")),
        };
        return Err(CliError::Mistake(format!(
            "no pipeline `{pipeline}` in {}/pipelines\n  help: {help}",
            project.root
        )));
    }
    Ok(Graph::new(load::load(&project.root, pipeline, sets)?)?)
}

/// Targets by pipeline, in the order named; none named: all pipelines.
fn by_pipeline(project: &Project, targets: &[String]) -> Result<Vec<(String, Vec<String>)>, CliError> {
    let all = if targets.is_empty() { project.pipelines()? } else { Vec::new() };
    let mut grouped: Vec<(String, Vec<String>)> = Vec::new();
    for target in targets.iter().chain(&all) {
        if let Some(mistake) = named_by_path(project, target)? {
            return Err(mistake);
        }
        let pipeline = target.split('/').next().unwrap_or(target);
        match grouped.iter_mut().find(|(name, _)| name == pipeline) {
            Some((_, group)) => group.push(target.clone()),
            None => grouped.push((pipeline.to_owned(), vec![target.clone()])),
        }
    }
    Ok(grouped)
}

/// A target that is the path of a file: what to say instead.
fn named_by_path(project: &Project, target: &str) -> Result<Option<CliError>, CliError> {
    let path = Utf8Path::new(target);
    if !matches!(path.extension(), Some("yaml" | "yml")) {
        return Ok(None);
    }
    let stem = path.file_stem().unwrap_or(target);
    let help = match project.pipelines()?.iter().any(|name| name == stem) {
        true => format!("say `{stem}`"),
        false => format!("put the file into {}/pipelines and say `{stem}`", project.root),
    };
    let found = format!("expected a pipeline or PIPELINE/TARGET by name, found the path `{target}`");
    Ok(Some(CliError::Mistake(format!("{found}\n  help: {help}"))))
}

/// A path as the user would name it: relative to the working directory where that is shorter.
fn shown(path: &Utf8Path) -> String {
    let here = std::env::current_dir().ok();
    let relative = here.as_deref().and_then(|here| path.as_std_path().strip_prefix(here).ok());
    relative.map_or_else(|| path.to_string(), |path| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_exit_code() {
        assert_eq!(guarded(|| Ok(DONE)), 0);
        assert_eq!(guarded(|| Err(CliError::Failed("an action failed".to_owned()))), 1);
        assert_eq!(guarded(|| Err(CliError::Mistake("no such target".to_owned()))), 2);
        assert_eq!(guarded(|| panic!("on purpose")), 3);
        assert_eq!(guarded(|| Err(CliError::Closed)), 0);
    }
}
