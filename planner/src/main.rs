//! The `chariot` command; see `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    chariot::cli::main()
}
