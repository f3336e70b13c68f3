//! `chariot-engine devices`: the GPUs of this machine, and what is missing to use them.

use chariot_engine::backend::cuda::library;

/// List GPUs, their links and CUDA's libraries, and say what is missing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Prints; a machine without GPUs is no failure.
pub(crate) fn run() -> anyhow::Result<()> {
    library::describe().iter().try_for_each(|line| super::say(format_args!("{line}")))
}
