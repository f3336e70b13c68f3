//! What a passed test is remembered by: a file named by a digest of all that decides how a GPU computes. Knows no test.

use std::io;
use std::path::Path;

use camino::{Utf8Path, Utf8PathBuf};

use crate::backend::cuda::{kernel_folder, library};

/// Changes when the test does, beside the executable.
const FORMAT: &str = "chariot self-test 1";

/// Where stamps are: beside the compiled kernels.
pub fn folder() -> Utf8PathBuf {
    kernel_folder().with_file_name("selftest")
}

/// The stamp of a GPU, or of several that exchange values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    path: Utf8PathBuf,
    /// What it stands for, for people.
    text: String,
}

impl Stamp {
    /// Of these GPUs, in this order: one is for what it computes, several for what they exchange. `program` is the executable.
    pub fn of(folder: &Utf8Path, program: &Path, gpus: &[usize]) -> io::Result<Self> {
        let identities: Result<Vec<String>, _> = gpus.iter().map(|&gpu| library::identity(gpu)).collect();
        let identities = identities.map_err(io::Error::other)?;
        let program = blake3::hash(&fs_err::read(program)?);
        Ok(Self::new(folder, &program.to_hex(), &identities))
    }

    fn new(folder: &Utf8Path, program: &str, identities: &[String]) -> Self {
        let text = format!("{FORMAT}\nexecutable {program}\n{}\n", identities.join("\n"));
        let key = blake3::hash(text.as_bytes()).to_hex();
        Self { path: folder.join(key.as_str()), text }
    }

    /// Whether the test was passed. A file with other contents is none.
    pub fn is_there(&self) -> bool {
        fs_err::read_to_string(&self.path).is_ok_and(|text| text == self.text)
    }

    /// Remembers that the test was passed.
    pub fn put(&self) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Utf8Path::new("/"));
        fs_err::create_dir_all(folder)?;
        let unfinished = self.path.with_extension(std::process::id().to_string());
        fs_err::write(&unfinished, &self.text)?;
        fs_err::rename(&unfinished, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_of_one_executable_and_its_gpus() {
        let directory = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(directory.path()).unwrap().join("selftest");
        let stamp = |program: &str, gpus: &[&str]| {
            let gpus: Vec<String> = gpus.iter().map(|gpu| (*gpu).to_owned()).collect();
            Stamp::new(&folder, program, &gpus)
        };
        let one = stamp("a", &["x, driver 1"]);
        assert!(!one.is_there());
        one.put().unwrap();
        assert!(one.is_there() && stamp("a", &["x, driver 1"]).is_there());
        for other in
            [stamp("b", &["x, driver 1"]), stamp("a", &["x, driver 2"]), stamp("a", &["x, driver 1"; 2])]
        {
            assert!(!other.is_there(), "{other:?}");
        }
        fs_err::write(&one.path, "something else").unwrap();
        assert!(!one.is_there());
    }
}
