//! What can be said on the command line.

use camino::Utf8PathBuf;
use clap::{Parser, Subcommand, ValueEnum};

const AFTER_HELP: &str = "\
Targets are paths: a pipeline, a target in it, an instance of a sweep, a part of that; or patterns over them.
  chariot run figure-8                       the whole pipeline
  chariot run figure-8/latency               all latency trials
  chariot run 'figure-8/latency/tp8-*'       those of TP8 (quoted, so that the shell leaves the star alone)
  chariot run figure-8 --set chunk=1024      with a parameter of the pipeline changed
  chariot explain figure-8/figure-8a         why it would run, or why not

Exit codes: 0 done; 1 an action failed; 2 a mistake in the pipeline or the command; 3 a bug in chariot;
130 interrupted (run the same command again: what was finished is not repeated).";

/// make for LLM-serving experiments: declare an experiment in YAML, run it, rerun only what changed
#[derive(Debug, Parser)]
#[command(name = "chariot", version, after_help = AFTER_HELP, subcommand_required = true, arg_required_else_help = true)]
pub(super) struct Args {
    /// Work in the project that DIR lies in
    #[arg(short = 'C', long = "directory", value_name = "DIR", default_value = ".", global = true)]
    pub(super) directory: Utf8PathBuf,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run targets and all that they need; what is up to date is not run again
    Run(Run),
    /// Say what `run` would do and why, and do nothing
    Plan(Targets),
    /// Say of every step whether it is done, stale or was never run, when, how long and where
    Status(Targets),
    /// Say why targets will run or not: which input, parameter or tool changed, old and new
    Explain(Named),
    /// Print the steps and what they need as a graph
    Graph(GraphArgs),
    /// Print the newest log of a target, or of any action below it such as a probe
    Log {
        /// Address of a step or of a probe
        target: String,
    },
    /// List pipelines and their targets
    List,
    /// Remove what was laid out in out/ and what is left of actions that were running; results stay in the store
    Clean(Wait),
    /// Remove results that no pipeline needs any more and that are older than some days
    Gc(Gc),
    /// Print the JSON Schema of pipelines, for editors
    Schema,
}

#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// What to run, e.g. figure-8, figure-8/latency, 'figure-8/latency/tp8-*'
    #[arg(required = true, value_name = "TARGET")]
    pub(super) targets: Vec<String>,
    /// CPU slots for actions; default: as many as there are processors
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) jobs: Option<u32>,
    /// GPUs for actions; default: as many as the NVIDIA driver shows
    #[arg(long, value_name = "N")]
    pub(super) gpus: Option<u32>,
    /// Say what would be done and why, and do nothing
    #[arg(short = 'n', long)]
    pub(super) dry_run: bool,
    /// After a failure, go on with all that does not need what failed
    #[arg(short, long)]
    pub(super) keep_going: bool,
    /// Run the named targets although they are up to date; what they need is not forced
    #[arg(long)]
    pub(super) force: bool,
    #[command(flatten)]
    pub(super) set: Set,
    #[command(flatten)]
    pub(super) wait: Wait,
}

#[derive(Debug, clap::Args)]
pub(super) struct Set {
    /// Change a parameter of the pipeline; may be given several times
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = parse_set)]
    sets: Vec<(String, String)>,
    /// What runs the trials of clusters that do not say it: simulator, cpu for processes of this host, or cuda for GPUs
    #[arg(long, value_name = "WHERE", value_parser = ["simulator", "cpu", "cuda"])]
    on: Option<String>,
}

impl Set {
    /// All that is changed.
    pub(super) fn all(&self) -> Vec<(String, String)> {
        let on = self.on.iter().map(|on| ("on".to_owned(), on.clone()));
        self.sets.iter().cloned().chain(on).collect()
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Wait {
    /// Fail at once if another chariot is running in this project
    #[arg(long)]
    pub(super) no_wait: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Targets {
    /// Targets; default: all pipelines
    #[arg(value_name = "TARGET")]
    pub(super) targets: Vec<String>,
    #[command(flatten)]
    pub(super) set: Set,
}

#[derive(Debug, clap::Args)]
pub(super) struct Named {
    /// Targets, e.g. figure-8/figure-8a
    #[arg(required = true, value_name = "TARGET")]
    pub(super) targets: Vec<String>,
    #[command(flatten)]
    pub(super) set: Set,
}

#[derive(Debug, clap::Args)]
pub(super) struct GraphArgs {
    #[command(flatten)]
    pub(super) named: Named,
    /// For Graphviz (dot -Tsvg), or for Markdown
    #[arg(long, value_enum, default_value_t = Format::Dot)]
    pub(super) format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Format {
    Dot,
    Mermaid,
}

#[derive(Debug, clap::Args)]
pub(super) struct Gc {
    /// Keep what was made within the last N days, whether a pipeline needs it or not
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub(super) keep_days: u32,
    /// Say what would be removed, and remove nothing
    #[arg(short = 'n', long)]
    pub(super) dry_run: bool,
    /// Read everything in the store and look for damage; remove nothing
    #[arg(long)]
    pub(super) verify: bool,
    #[command(flatten)]
    pub(super) wait: Wait,
}

fn parse_set(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("expected NAME=VALUE, found {text:?}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Args::command().debug_assert();
    }
}
