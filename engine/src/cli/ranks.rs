//! Ranks are started, and what they cannot load is told as the user's to mend. Knows no command.

use anyhow::Context;
use chariot_engine::runtime::{LaunchError, Loss, Plan, RuntimeExecutor};

use super::files::wrong;

/// Starts the workers of this executable.
pub(super) fn start(plan: &Plan) -> anyhow::Result<RuntimeExecutor> {
    let program = std::env::current_exe().context("find this executable")?;
    RuntimeExecutor::launch(&program, plan).map_err(blame)
}

/// A rank holds what it loads to digests while it reads: only then is a damaged file found.
pub(super) fn blame(error: LaunchError) -> anyhow::Error {
    match error {
        LaunchError::Lost(Loss { rank, how, of_input: true, .. }) => {
            wrong(format_args!("rank {rank}: {how}"))
        }
        other => other.into(),
    }
}
