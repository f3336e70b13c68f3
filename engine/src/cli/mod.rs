//! Command line of `chariot-engine`. Reads and writes the files of docs/formats.md; decides nothing about trials.

mod bench;
mod bench_model;
mod choice;
mod cluster;
mod cores;
mod devices;
mod exchanges;
mod files;
mod generate;
mod gpu_selftest;
mod nodes;
mod plan;
mod profile;
mod ranks;
mod serve;
mod shard;
mod simulate;
mod weights;
mod worker;
mod yaml;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Serving engine of Chariot, and its simulator.
///
/// A pipeline calls it in this order; by hand it works the same:
///
///   chariot-engine cluster --platform pipelines/platforms/azure-nc96ads-a100-v4-x2.yaml --out cluster.json
///   chariot-engine shard --cluster cluster.json --model pipelines/models/falcon-180b.yaml --tp 4 --pp 2 --out weights.json
///   chariot-engine simulate --cluster cluster.json --weights weights.json --config config.json --out trial
///
/// Exit codes: 0 done, 1 failed, 2 wrong input, 3 a bug of ours.
#[derive(Debug, Parser)]
#[command(name = "chariot-engine", version, verbatim_doc_comment)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Cluster(cluster::Args),
    Devices(devices::Args),
    GpuSelftest(gpu_selftest::Args),
    Shard(shard::Args),
    Simulate(simulate::Args),
    Bench(bench::Args),
    BenchModel(bench_model::Args),
    Generate(generate::Args),
    Profile(profile::Args),
    Serve(serve::Args),
    #[command(hide = true)]
    GpuSelftestRank(gpu_selftest::RankArgs),
    #[command(hide = true)]
    Worker(worker::Args),
}

/// Runs one command.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Cluster(args) => cluster::run(args)?,
        Command::Devices(args) => devices::run(args)?,
        Command::GpuSelftest(args) => return gpu_selftest::run(args),
        Command::GpuSelftestRank(args) => gpu_selftest::run_rank(args)?,
        Command::Shard(args) => shard::run(args)?,
        Command::Simulate(args) => simulate::run(args)?,
        Command::Bench(args) => bench::run(args)?,
        Command::BenchModel(args) => bench_model::run(args)?,
        Command::Generate(args) => generate::run(args)?,
        Command::Profile(args) => profile::run(args)?,
        Command::Serve(args) => serve::run(args)?,
        Command::Worker(args) => return worker::run(args),
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether an error is the user's to mend.
pub(crate) fn is_mistake(error: &anyhow::Error) -> bool {
    error.is::<files::Mistake>()
}

/// Says what went wrong, on stderr.
pub(crate) fn complain(error: &anyhow::Error) {
    // Nobody is left to tell if stderr is closed.
    let _ = writeln!(std::io::stderr(), "error: {error:#}");
}

/// One line for people, on stdout.
fn say(line: std::fmt::Arguments<'_>) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
