//! Which backend a command computes on, by its user's word or by what the machine has.

use std::io::Write as _;

use chariot_engine::backend::{BackendName, cuda};
use chariot_engine::sim::platform;

use super::files::wrong;

/// What a user may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Choice {
    /// GPUs if there are enough and their libraries are installed, else the CPU; says which
    Auto,
    /// Threads of this host
    Cpu,
    /// An NVIDIA GPU a rank
    Cuda,
}

impl Choice {
    /// For so many ranks on this host. What keeps GPUs from being used is told on stderr if nobody asked for them, and is an error otherwise.
    pub(super) fn choose(self, ranks: u32, graphs: bool) -> anyhow::Result<BackendName> {
        if self == Self::Cpu {
            return Ok(BackendName::Cpu);
        }
        match cuda::check(ranks) {
            Ok(()) => Ok(BackendName::Cuda { graphs }),
            Err(missing) if self == Self::Auto => {
                // Nobody is left to tell if stderr is closed.
                let _ = writeln!(std::io::stderr(), "computing on the CPU: {missing}");
                Ok(BackendName::Cpu)
            }
            Err(missing) => Err(wrong(format_args!("--backend cuda: {missing}"))),
        }
    }
}

/// A platform's word for it.
pub(super) fn of_platform(runtime: &platform::Runtime) -> BackendName {
    match runtime.backend {
        platform::Backend::Cpu => BackendName::Cpu,
        platform::Backend::Cuda => BackendName::Cuda { graphs: runtime.graphs },
    }
}
