//! Whether ranks get from each other what was sent, wherever they run. Knows no link and no time.

use std::path::Path;

use super::{BringUpError, bare};
use crate::runtime::{Plan, RuntimeExecutor};
use crate::selftest::Check;
use crate::shard::Dtype;

/// How far what each rank got from all `devices` ranks was from what was sent, by rank: sums, gathers and messages, in each of these types. A rank
/// computes in one, so that each is a run of its own. `plan`: as for [`super::look`].
pub fn exchanges(
    program: &Path,
    plan: &Plan,
    devices: u32,
    dtypes: &[Dtype],
) -> Result<Vec<Vec<Check>>, BringUpError> {
    let mut found = vec![Vec::new(); devices as usize];
    for &dtype in dtypes {
        let mut executor = RuntimeExecutor::launch(program, &bare(plan.clone(), devices, dtype))?;
        let checks = executor.check_exchanges(dtype)?;
        assert_eq!(checks.len(), found.len(), "a rank a device");
        for (all, own) in found.iter_mut().zip(checks) {
            all.extend(own);
        }
        executor.finish()?;
    }
    Ok(found)
}
