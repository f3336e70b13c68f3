//! `chariot-engine`: brings platforms up, divides models, runs trials. Exit codes: 0 done, 1 failed, 2 the user's mistake, 3 a bug.

mod cli;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // clap ends with 0 for help and 2 for arguments it refuses.
    let args = cli::Args::parse();
    match catch_unwind(AssertUnwindSafe(|| cli::run(&args))) {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            cli::complain(&error);
            ExitCode::from(if cli::is_mistake(&error) { 2 } else { 1 })
        }
        // The panic's own message is on stderr already.
        Err(_) => ExitCode::from(3),
    }
}
