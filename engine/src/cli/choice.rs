//! Which backend a command computes on, by its user's word or by what the machine has.

use std::io::Write as _;

use chariot_engine::backend::{BackendName, cuda};
use chariot_engine::sim::platform;

use super::files::wrong;

/// What a user may say of it.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Choice {
    /// What ranks compute on
    #[arg(long = "backend", value_name = "NAME", default_value = "auto")]
    name: Name,
    /// On GPUs: launch kernel by kernel, not as CUDA graphs
    #[arg(long)]
    no_graphs: bool,
    /// On GPUs: attend to prompts by products and a softmax, not by the flash kernel
    #[arg(long)]
    no_flash: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Name {
    /// GPUs if there are enough and their libraries are installed, else the CPU; says which
    Auto,
    /// Threads of this host
    Cpu,
    /// An NVIDIA GPU a rank
    Cuda,
}

impl Choice {
    /// For so many ranks on this host. What keeps GPUs from being used is told on stderr if nobody asked for them, and is an error otherwise.
    pub(super) fn choose(self, ranks: u32) -> anyhow::Result<BackendName> {
        let Self { name, no_graphs, no_flash } = self;
        if name == Name::Cpu {
            return Ok(BackendName::Cpu);
        }
        match cuda::check(ranks) {
            Ok(()) => Ok(BackendName::Cuda { graphs: !no_graphs, flash: !no_flash }),
            Err(missing) if name == Name::Auto => {
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
        platform::Backend::Cuda => BackendName::Cuda { graphs: runtime.graphs, flash: runtime.flash },
    }
}
