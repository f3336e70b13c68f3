//! How ranks are started, whatever they are for, and what they cannot load told as the user's to mend. Knows no trial.

use std::time::Duration;

use anyhow::Context;
use camino::Utf8Path;
use chariot_engine::backend::BackendName;
use chariot_engine::bring_up;
use chariot_engine::model::KvSpec;
use chariot_engine::runtime::{LaunchError, Loss, Plan, RuntimeExecutor};
use chariot_engine::shard::Parallel;
use chariot_engine::sim::platform::{Platform, Runtime, Transport};

use super::cores::missing;
use super::files::{mistake, wrong};
use super::nodes::places_of;

/// How long workers may take to load their weights.
pub(super) const READY_BY: Duration = Duration::from_secs(600);
/// How long a batch may take.
pub(super) const STEP_BY: Duration = Duration::from_secs(120);

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

/// A GPU each of the first `devices` devices, with next to nothing on it: to measure and to check what is between them.
pub(super) fn bare(platform: &Platform, devices: u32) -> Plan {
    let runtime = platform.runtime.clone().unwrap_or_default();
    Plan {
        backend: BackendName::Cuda { graphs: false, flash: false },
        operations: false,
        parallel: Parallel { tp: 1, pp: devices },
        threads: runtime.threads as usize,
        weights: bring_up::weights(devices),
        kv: KvSpec { blocks: 1, block_size: 1 },
        blocks_touched: 0,
        max_model_len: 1,
        batch_tokens: 1,
        places: places_of(platform),
        shared_memory: runtime.transport == Transport::SharedMemory,
        cores: cores_of(&runtime),
        links: None,
        ready_by: READY_BY,
        step_by: STEP_BY,
    }
}

/// Each rank's cores, if it has some of its own.
pub(super) fn cores_of(runtime: &Runtime) -> Vec<Vec<usize>> {
    runtime.cores.iter().map(|cores| cores.iter().map(|core| *core as usize).collect()).collect()
}

/// Refuses cores that this process may not use; workers beside it may use the same, and of others nothing is known here. `within`: where in the file `runtime` stands.
pub(super) fn check_cores(file: &Utf8Path, within: &str, runtime: &Runtime) -> anyhow::Result<()> {
    if !runtime.places.is_empty() {
        return Ok(());
    }
    match missing(&cores_of(runtime).concat())? {
        None => Ok(()),
        Some(what) => Err(mistake(file, format_args!("{within}runtime.cores: {what}"))),
    }
}
