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
        // A step on a machine that does other things, too, may take the double many seconds.
        let variables = [("CHARIOT_DOUBLE_DEVICES", "8"), ("CHARIOT_GPU_PATIENCE", "100")];
        Self { folder, variables: variables.map(|(name, value)| (name, value.to_owned())).to_vec() }
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

    /// Ranks are as patient as they are unless somebody says otherwise.
    pub(crate) fn impatient(mut self) -> Self {
        self.variables.retain(|(name, _)| *name != "CHARIOT_GPU_PATIENCE");
        self
    }

    /// `chariot-engine` with these arguments.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chariot-engine"));
        command.args(arguments);
        self.lend(command)
    }

    /// A program on the double. Kernels that were compiled stay for the next test.
    pub(crate) fn lend(&self, mut command: Command) -> Command {
        command.stdin(Stdio::null()).env("LD_LIBRARY_PATH", self.folder.path());
        command.env_remove("VIRTUAL_ENV").env_remove("CONDA_PREFIX").env_remove("CUDA_VISIBLE_DEVICES");
        command.env_remove("CHARIOT_GPU_PATIENCE");
        command.env("XDG_CACHE_HOME", concat!(env!("CARGO_TARGET_TMPDIR"), "/double"));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The body of the test of this name, in a process of its own on the double.
    pub(crate) fn passes(self, test: &str, body: fn()) {
        if std::env::var_os("CHARIOT_DOUBLE_CHILD").is_some() {
            return body();
        }
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]).env("CHARIOT_DOUBLE_CHILD", "1");
        let output = self.lend(command).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("running 1 test"), "expected a test of that name: {said}");
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    }
}
