//! The test command and its Python: where tests would be skipped for want of packages it fails, unless it is told that they may.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

const CI: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../.ci");

/// A project with the test command, and first in `PATH` a folder for stubs.
struct Project(tempfile::TempDir);

/// Exit code, stdout, stderr.
type Said = (Option<i32>, String, String);

impl Project {
    /// `python3` runs these lines; `cargo` writes down what it is asked for.
    fn new(python: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for sub in [".ci", "bin"] {
            fs_err::create_dir(folder.path().join(sub)).unwrap();
        }
        for name in ["run", "python.sh", "requirements.txt"] {
            fs_err::copy(format!("{CI}/{name}"), folder.path().join(".ci").join(name)).unwrap();
        }
        let project = Self(folder);
        stub(&project.path("bin/python3"), python);
        stub(&project.path("bin/cargo"), &format!("echo \"$@\" >>{}", project.path("asked").display()));
        project
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, name: &str, variables: &[(&str, &str)]) -> Said {
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(self.path(".ci").join(name));
        command.env_remove("CHARIOT_PYTHON").env_remove("CHARIOT_ALLOW_SKIP").env("PATH", path);
        let output = command.envs(variables.iter().copied()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// What the test command asked of `cargo`.
    fn asked(&self) -> String {
        fs_err::read_to_string(self.path("asked")).unwrap_or_default()
    }
}

/// An executable that runs these lines.
fn stub(path: &Path, lines: &str) {
    fs_err::write(path, format!("#!/bin/sh\n{lines}\n")).unwrap();
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// A `python3` that makes an environment whose `pip` ends so.
fn making(pip: &str) -> String {
    format!("mkdir -p \"$3/bin\"; printf '#!/bin/sh\\n{pip}\\n' >\"$3/bin/pip\"; chmod +x \"$3/bin/pip\"")
}

const ALLOWED: (&str, &str) = ("CHARIOT_ALLOW_SKIP", "1");
const NOT_INSTALLED: &str = "error: the packages of .ci/requirements.txt could not be installed into target/venv, \
    and tests that need them would be skipped; CHARIOT_ALLOW_SKIP=1 allows that\n";

#[test]
fn packages_that_cannot_be_installed_end_the_test_command() {
    for python in ["exit 1".to_owned(), making("exit 1")] {
        let project = Project::new(&python);
        assert_eq!(project.command("run", &[]), (Some(1), String::new(), NOT_INSTALLED.to_owned()));
        assert_eq!(project.asked(), "", "tests ran");
        let (code, _, said) = project.command("run", &[ALLOWED]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.starts_with("warning: the packages of .ci/requirements.txt could not be"), "{said}");
        assert!(project.asked().contains("nextest run --workspace\n"), "{}", project.asked());
    }
}

#[test]
fn packages_are_installed_once() {
    let project = Project::new(&making("exit 0"));
    let python = (Some(0), format!("{}\n", project.path("target/venv/bin/python").display()), String::new());
    assert_eq!(project.command("python.sh", &[]), python);
    stub(&project.path("bin/python3"), "exit 1");
    assert_eq!(project.command("python.sh", &[]), python);
    fs_err::write(project.path(".ci/requirements.txt"), "another==1\n").unwrap();
    assert_eq!(project.command("python.sh", &[]).0, Some(1));
}

/// What is said of an interpreter that `CHARIOT_PYTHON` names and that runs these lines.
fn named(project: &Project, lines: &str, variables: &[(&str, &str)]) -> (Said, String) {
    let path = project.path("bin/named");
    stub(&path, lines);
    let name = path.to_str().unwrap().to_owned();
    let variables = [&[("CHARIOT_PYTHON", name.as_str())][..], variables].concat();
    (project.command("python.sh", &variables), name)
}

#[test]
fn a_python_that_is_named_must_have_the_packages() {
    let project = Project::new("exit 1");
    fs_err::write(project.path(".ci/requirements.txt"), "# Both of them.\nfirst-one==1\nsecond==2.0\n")
        .unwrap();
    let found = Command::new("sh").args(["-c", "command -v python3"]).output().unwrap();
    let real = String::from_utf8(found.stdout).unwrap();
    let lines = format!("exec env PYTHONPATH=packages {} -S \"$@\"", real.trim());
    let install = |name: &str| {
        let folder = project.path("packages").join(format!("{name}-1.dist-info"));
        fs_err::create_dir_all(&folder).unwrap();
        fs_err::write(folder.join("METADATA"), format!("Metadata-Version: 2.1\nName: {name}\nVersion: 1\n"))
            .unwrap();
    };
    install("second");
    let ((code, out, said), name) = named(&project, &lines, &[]);
    let lacks =
        format!("error: CHARIOT_PYTHON={name} lacks packages of .ci/requirements.txt (first-one), and ");
    assert_eq!((code, out.as_str()), (Some(1), ""), "{said}");
    assert!(said.starts_with(&lacks), "{said}");
    let ((code, out, said), _) = named(&project, &lines, &[ALLOWED]);
    assert_eq!((code, out.as_str()), (Some(0), ""), "{said}");
    assert!(said.starts_with(&lacks.replace("error", "warning").replace(", and ", "")), "{said}");
    install("first_one");
    let ((code, out, said), _) = named(&project, &lines, &[]);
    assert_eq!((code, out, said.as_str()), (Some(0), format!("{name}\n"), ""));
}

#[test]
fn a_python_that_is_named_must_run() {
    let ((code, out, said), name) = named(&Project::new("exit 1"), "exit 1", &[]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(said.starts_with(&format!("error: CHARIOT_PYTHON={name} does not run, so there ")), "{said}");
}
