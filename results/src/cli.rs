//! The command line: arguments in, files and an exit code out. Computes nothing.

use std::io::Write;
use std::process::ExitCode;

use camino::Utf8PathBuf;
use clap::{Parser, Subcommand};

use crate::columns::is_reading;
use crate::error::{Error, Result};
use crate::files::publish_json;
use crate::{check, compare, figure, judge, predicate, report, summary};

/// Summaries, verdicts, figures, claim checks and comparisons from the records of trials.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Exit codes: 0 done, 1 it failed or a comparison fell short, 2 the input is wrong, 3 a bug."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Derive every metric's statistics from a trial's records; print them and write summary.json.
    #[command(after_help = "Example:\n  chariot-results summarize --trial trial --out summary")]
    Summarize {
        /// Directory with records.parquet, batches.parquet and trial.json.
        #[arg(long, value_name = "DIR")]
        trial: Utf8PathBuf,
        /// Directory for summary.json.
        #[arg(long, value_name = "DIR")]
        out: Utf8PathBuf,
    },
    /// Judge a trial by its SLO; the exit code does not tell the verdict, the file does.
    #[command(
        after_help = "Example:\n  chariot-results judge --trial trial --slo 'p99(tbt) <= 1.0 s' --slo 'p50(scheduling_delay) <= 2' --out verdict.json"
    )]
    Judge {
        /// Directory with records.parquet and trial.json.
        #[arg(long, value_name = "DIR")]
        trial: Utf8PathBuf,
        /// QUANTILE(METRIC) <= LIMIT, of tbt, ttft or scheduling_delay; repeatable.
        #[arg(long, value_name = "PREDICATE", required = true)]
        slo: Vec<String>,
        /// File for the verdict.
        #[arg(long, value_name = "FILE")]
        out: Utf8PathBuf,
    },
    /// Draw a figure: NAME.svg, NAME.png, NAME.csv, NAME.json and NAME.txt.
    #[command(
        after_help = "Example:\n  chariot-results figure --spec figure.json --out figures --name figure-8a"
    )]
    Figure {
        /// What to draw: see docs/formats.md.
        #[arg(long, value_name = "FILE")]
        spec: Utf8PathBuf,
        /// Directory for the figure's files.
        #[arg(long, value_name = "DIR")]
        out: Utf8PathBuf,
        /// Their name without extension.
        #[arg(long)]
        name: String,
    },
    /// Hold published claims against figures' CSVs: NAME.json, NAME.md and NAME.txt; the exit code does not tell the verdicts, the files do.
    #[command(after_help = "Example:\n  chariot-results check --spec check.json --out claims --name claims")]
    Check {
        /// The claims: see docs/formats.md.
        #[arg(long, value_name = "FILE")]
        spec: Utf8PathBuf,
        /// Directory for the files.
        #[arg(long, value_name = "DIR")]
        out: Utf8PathBuf,
        /// Their name without extension.
        #[arg(long)]
        name: String,
    },
    /// Compare two summaries or two figures' JSON; exit 1 if a number changed by more than the tolerance.
    #[command(
        after_help = "Example:\n  chariot-results compare --baseline old/summary.json --now new/summary.json --tolerance 5%"
    )]
    Compare {
        /// The file to compare with.
        #[arg(long, value_name = "FILE")]
        baseline: Utf8PathBuf,
        /// The file to judge.
        #[arg(long, value_name = "FILE")]
        now: Utf8PathBuf,
        /// Largest relative change that is accepted, such as 5% or 0.05.
        #[arg(long, value_parser = compare::parse_tolerance)]
        tolerance: f64,
    },
}

/// Runs the tool on the process's arguments.
pub fn main() -> ExitCode {
    quiet_decoder();
    let arguments = Arguments::parse();
    match std::panic::catch_unwind(|| run(&arguments.command)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::from(error.exit_code())
        }
        Err(_) => ExitCode::from(3),
    }
}

/// A panic of the Parquet decoder becomes an error about the file; only others are ours to show.
fn quiet_decoder() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !is_reading() {
            default(info);
        }
    }));
}

fn run(command: &Command) -> Result<()> {
    match command {
        Command::Summarize { trial, out } => {
            let summary = summary::summarize(trial)?;
            print(&report::trial_table(&summary))?;
            publish_json(&out.join("summary.json"), &summary)
        }
        Command::Judge { trial, slo, out } => {
            let predicates = slo.iter().map(|text| predicate::parse(text)).collect::<Result<Vec<_>>>()?;
            publish_json(out, &judge::judge(trial, &predicates)?)
        }
        Command::Figure { spec, out, name } => print(&figure::figure(spec, out, name)?),
        Command::Check { spec, out, name } => print(&check::check(spec, out, name)?),
        Command::Compare { baseline, now, tolerance } => {
            let (text, within) = compare::compare(baseline, now, *tolerance)?;
            print(&text)?;
            if within {
                Ok(())
            } else {
                Err(Error::FellShort("a number changed by more than the tolerance".into()))
            }
        }
    }
}

fn print(text: &str) -> Result<()> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}
