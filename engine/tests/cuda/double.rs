//! The real binary on the double of CUDA's libraries.

use std::process::{Command, Output, Stdio};

/// A folder of CUDA's libraries, all but those called `without`, that are the double.
pub(crate) struct Double {
    folder: tempfile::TempDir,
    /// What the double is told.
    variables: Vec<(&'static str, String)>,
}

impl Double {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        chariot_cuda_double::links(&chariot_cuda_double::library().unwrap(), folder.path()).unwrap();
        Self { folder, variables: vec![("CHARIOT_DOUBLE_DEVICES", "8".to_owned())] }
    }

    /// Without the libraries whose names begin with `name`.
    pub(crate) fn without(self, name: &str) -> Self {
        for link in chariot_cuda_double::LINKS.iter().filter(|link| link.starts_with(name)) {
            fs_err::remove_file(self.folder.path().join(link)).unwrap();
        }
        self
    }

    /// With the names that NVRTC and cuBLAS have in CUDA 13, and no others.
    pub(crate) fn of_cuda_13(self) -> Self {
        for library in ["libnvrtc.so", "libcublas.so"] {
            let name = |version| self.folder.path().join(format!("{library}.{version}"));
            fs_err::rename(name("12"), name("13")).unwrap();
        }
        self
    }

    pub(crate) fn with(mut self, variable: &'static str, value: &str) -> Self {
        self.variables.push((variable, value.to_owned()));
        self
    }

    /// `chariot-engine` with these arguments. Kernels that were compiled stay for the next test.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chariot-engine"));
        command.args(arguments).stdin(Stdio::null()).env("LD_LIBRARY_PATH", self.folder.path());
        command.env_remove("VIRTUAL_ENV").env_remove("CONDA_PREFIX").env_remove("CUDA_VISIBLE_DEVICES");
        command.env("XDG_CACHE_HOME", concat!(env!("CARGO_TARGET_TMPDIR"), "/double"));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }
}
