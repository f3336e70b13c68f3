//! Which cores ranks' threads run on: `--cores` of commands that know no platform, and whether this host lets them.

use anyhow::Context;
use chariot_engine::backend::BackendName;

use super::files::wrong;

/// What a user may say of it.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Cores {
    /// A core for each thread of each rank (CPU), separated by commas: rank 0's, then rank 1's, ...; default: wherever the system puts them
    #[arg(long = "cores", value_name = "LIST", value_delimiter = ',')]
    list: Vec<usize>,
}

impl Cores {
    /// Each rank's; none: nothing was said.
    pub(super) fn of_ranks(
        &self,
        backend: BackendName,
        ranks: u32,
        threads: u32,
    ) -> anyhow::Result<Vec<Vec<usize>>> {
        let Self { list } = self;
        if list.is_empty() {
            return Ok(Vec::new());
        }
        if backend != BackendName::Cpu {
            return Err(wrong("--cores: expected none with GPUs, which leave a rank's thread to the system"));
        }
        let expected = ranks as usize * threads as usize;
        if list.len() != expected {
            let found = list.len();
            let what = format_args!("one for each of {threads} threads of {ranks} ranks");
            return Err(wrong(format_args!("--cores: expected {expected} cores, {what}, found {found}")));
        }
        let cores: Vec<Vec<usize>> = list.chunks(threads as usize).map(<[usize]>::to_vec).collect();
        for (rank, own) in cores.iter().enumerate() {
            if (1..own.len()).any(|thread| own[..thread].contains(&own[thread])) {
                let what = format_args!("a core of its own for each thread of rank {rank}");
                return Err(wrong(format_args!("--cores: expected {what}, found {own:?}")));
            }
        }
        match missing(list)? {
            None => Ok(cores),
            Some(what) => Err(wrong(format_args!("--cores: {what}"))),
        }
    }
}

/// What was expected and found, if some of these are cores that this process may not use.
pub(super) fn missing(cores: &[usize]) -> anyhow::Result<Option<String>> {
    let own =
        nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).context("ask for this host's cores")?;
    let may = |core: usize| own.is_set(core).unwrap_or(false);
    let Some(missing) = cores.iter().find(|core| !may(**core)) else { return Ok(None) };
    let there: Vec<String> =
        (0..nix::sched::CpuSet::count()).filter(|core| may(*core)).map(|core| core.to_string()).collect();
    let there = there.join(", ");
    Ok(Some(format!("expected cores that this host lets the process use ({there}), found {missing}")))
}
