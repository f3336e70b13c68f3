//! `chariot-engine worker`: one rank of a run; started by a driver, not by people.

use std::process::ExitCode;

use chariot_engine::runtime::run_worker;

/// One rank of a run (started by the other commands, not by hand)
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which; so that process listings tell ranks apart
    #[arg(long)]
    rank: u32,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::from(run_worker(args.rank, std::io::stdin())?))
}
