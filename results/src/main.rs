//! `chariot-results`: summaries, verdicts, figures, claim checks and comparisons from the records of trials.
use std::process::ExitCode;

fn main() -> ExitCode {
    chariot_results::cli::main()
}
