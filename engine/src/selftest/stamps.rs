//! What a passed test is remembered by: a file named by a digest of all that decides how a GPU computes. Knows no test.

use std::io;
use std::path::Path;

use camino::{Utf8Path, Utf8PathBuf};

use crate::backend::cuda::kernel_folder;
use crate::backend::cuda::library::{Missing, identity};

/// Changes when the test does, beside the executable.
const FORMAT: &str = "chariot self-test 1";

/// Where stamps are: beside the compiled kernels.
pub fn folder() -> Utf8PathBuf {
    kernel_folder().with_file_name("selftest")
}

/// The stamps of one executable.
#[derive(Debug)]
pub struct Stamps {
    folder: Utf8PathBuf,
    program: String,
}

impl Stamps {
    /// Of the executable at `program`, in `folder`.
    pub fn of(program: &Path, folder: &Utf8Path) -> io::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(fs_err::File::open(program)?)?;
        Ok(Self { folder: folder.to_owned(), program: hasher.finalize().to_hex().to_string() })
    }

    /// Of these GPUs of this host, in this order: of one for what it computes, of several for what they exchange.
    pub fn stamp(&self, gpus: &[usize]) -> Result<Stamp, Missing> {
        let identities: Result<Vec<String>, Missing> = gpus.iter().map(|&gpu| identity(gpu)).collect();
        Ok(self.named(&identities?))
    }

    /// Of GPUs of several hosts, for what they exchange: what each of them said to [`Stamps::identity`] there, and where that is, in order of ranks.
    pub fn across(&self, ranks: &[String]) -> Stamp {
        self.named(ranks)
    }

    /// All that decides how a GPU of this host computes, in a line.
    pub fn identity(&self, gpu: usize) -> Result<String, Missing> {
        Ok(format!("executable {}, {}", self.program, identity(gpu)?))
    }

    fn named(&self, identities: &[String]) -> Stamp {
        let text = format!("{FORMAT}\nexecutable {}\n{}\n", self.program, identities.join("\n"));
        let key = blake3::hash(text.as_bytes()).to_hex();
        Stamp { path: self.folder.join(key.as_str()), text }
    }
}

/// The stamp of a GPU, or of several that exchange values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    path: Utf8PathBuf,
    /// What it stands for, for people.
    text: String,
}

impl Stamp {
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
            Stamps { folder: folder.clone(), program: program.to_owned() }.named(&gpus)
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
        let of = |bytes: &str| {
            let path = directory.path().join("program");
            fs_err::write(&path, bytes).unwrap();
            Stamps::of(&path, &folder).unwrap().named(&[])
        };
        assert!(of("one") == of("one") && of("one") != of("two"), "the executable's bytes are in the key");
        fs_err::write(&one.path, "something else").unwrap();
        assert!(!one.is_there());
    }
}
