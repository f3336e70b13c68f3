//! What is wrong with a model's weights, told before anything is started. Knows no rank.

use camino::Utf8Path;
use chariot_engine::backend::BackendName;
use chariot_engine::model::{HuggingFace, ModelConfig, ModelError};
use chariot_engine::runtime::FETCH_AGAIN;
use chariot_engine::selftest::name;
use chariot_engine::shard::{Dtype, Parallel};

use super::files::{mistake, wrong};

/// Wrong weights are the user's to mend, a full disk is not.
pub(super) fn blame(error: ModelError) -> anyhow::Error {
    if error.is_mistake() { wrong(error) } else { error.into() }
}

/// Type of a model folder's matrices, which on GPUs all have; on the CPU that of most.
pub(super) fn type_of_matrices(
    backend: BackendName,
    folder: &Utf8Path,
    config: &ModelConfig,
    parallel: Parallel,
) -> anyhow::Result<Dtype> {
    let dtypes = HuggingFace::dtypes(folder, config, parallel).map_err(|error| match error.is_damage() {
        true => wrong(format_args!("{error}{FETCH_AGAIN}")),
        false => blame(error),
    })?;
    if backend != BackendName::Cpu {
        refuse_odd(folder, dtypes.main, dtypes.odd_matrix())?;
    }
    Ok(dtypes.main)
}

/// Refuses a matrix of another type than the layers' projections, for GPUs.
pub(super) fn refuse_odd(path: &Utf8Path, main: Dtype, odd: Option<(&str, Dtype)>) -> anyhow::Result<()> {
    let Some((tensor, found)) = odd else { return Ok(()) };
    let (main, found) = (name(main), name(found));
    Err(mistake(
        path,
        format_args!(
            "expected matrices of one type on GPUs, {main} as the layers' projections, found {tensor} in {found}; \
             store all of them in one type, or compute on the CPU (--backend cpu, or a cluster brought up --on cpu)"
        ),
    ))
}
