//! From a kernel's text to a cubin, by NVRTC: needs the library, not a device. Knows no launch.

use std::ffi::CString;

use camino::{Utf8Path, Utf8PathBuf};

use super::library::{Library, Missing, require};
use super::nvrtc::{NvrtcError, Program};

const PRELUDE: &str = include_str!("kernels/prelude.cu");

/// A file of kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// Without folder or ending.
    pub name: &'static str,
    text: &'static str,
}

/// The files of kernels that every dtype has.
pub const SOURCES: [Source; 6] = [
    Source { name: "attention", text: include_str!("kernels/attention.cu") },
    Source { name: "elementwise", text: include_str!("kernels/elementwise.cu") },
    Source { name: "embedding", text: include_str!("kernels/embedding.cu") },
    Source { name: "norm", text: include_str!("kernels/norm.cu") },
    Source { name: "rotary", text: include_str!("kernels/rotary.cu") },
    Source { name: "sampling", text: include_str!("kernels/sampling.cu") },
];

/// Attention by tensor cores, which bf16 and f16 have and f32 has not.
pub const FLASH: Source = Source { name: "flash", text: include_str!("kernels/flash.cu") };

/// All files of kernels that a dtype has.
pub fn sources(element: Element) -> impl Iterator<Item = Source> {
    SOURCES.into_iter().chain((element != Element::F32).then_some(FLASH))
}

/// Dtype of activations that a file is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// 4 bytes.
    F32,
    /// The upper half of an f32.
    Bf16,
    /// IEEE's binary16.
    F16,
}

impl Element {
    /// As the kernels name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}

/// What NVRTC makes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A cubin for devices of this compute capability, such as 80: what is loaded.
    Cubin(u32),
    /// PTX of this compute capability: for tests.
    Ptx(u32),
}

/// A compiled file.
#[derive(Debug)]
pub struct Compiled {
    /// The cubin, or PTX with a closing 0.
    pub code: Vec<u8>,
    /// What ptxas said: registers and spills of each kernel.
    pub log: String,
}

/// Why there is no code.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// No NVRTC.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// NVRTC refused.
    #[error("{source_name}.cu for {options}: nvrtc says {status}\n{log}")]
    Refused {
        /// File.
        source_name: &'static str,
        /// Of the compiler.
        options: String,
        /// NVRTC's code.
        status: String,
        /// NVRTC's words.
        log: String,
    },
    /// The cache's folder.
    #[error("the cache of kernels: {0}")]
    Cache(#[from] std::io::Error),
}

fn options(element: Element, target: Target) -> Vec<String> {
    let arch = match target {
        Target::Cubin(capability) => format!("-arch=sm_{capability}"),
        Target::Ptx(capability) => format!("-arch=compute_{capability}"),
    };
    let mut options = vec![arch, format!("-DELEMENT={}", element.name())];
    if matches!(target, Target::Cubin(_)) {
        options.push("--ptxas-options=-v".to_owned());
    }
    options
}

/// Prelude and file, as NVRTC gets them.
pub fn text(source: Source) -> String {
    format!("{PRELUDE}\n#line 1 \"{}.cu\"\n{}", source.name, source.text)
}

/// Digest of all that the code depends on: text, options, NVRTC's version.
fn key(text: &str, options: &[String], version: (i32, i32)) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let version = format!("{}.{}", version.0, version.1);
    for part in options.iter().map(String::as_str).chain([text, &version]) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize()
}

/// One file's code.
pub fn compile(source: Source, element: Element, target: Target) -> Result<Compiled, CompileError> {
    require(Library::Nvrtc)?;
    compile_text(source.name, &text(source), element, target)
}

/// Like [`compile`], of a text of choice, which tests change.
pub fn compile_text(
    source_name: &'static str,
    text: &str,
    element: Element,
    target: Target,
) -> Result<Compiled, CompileError> {
    require(Library::Nvrtc)?;
    let options = options(element, target);
    let refused = |error, log| match error {
        NvrtcError::Missing(missing) => missing.into(),
        NvrtcError::Refused(status) => {
            CompileError::Refused { source_name, options: options.join(" "), status, log }
        }
    };
    let text = CString::new(text).expect("the kernels' text has no 0 byte");
    let program = Program::new(&text).map_err(|error| refused(error, String::new()))?;
    let compiled = program.compile(&options);
    let log = program.log();
    compiled.map_err(|error| refused(error, log.clone()))?;
    let code = match target {
        Target::Cubin(_) => program.cubin(),
        Target::Ptx(_) => program.ptx(),
    };
    Ok(Compiled { code: code.map_err(|error| refused(error, log.clone()))?, log })
}

/// Like [`compile`] to a cubin, from `folder` if it is there; otherwise it will be.
pub fn cached(
    folder: &Utf8Path,
    source: Source,
    element: Element,
    capability: u32,
) -> Result<Vec<u8>, CompileError> {
    require(Library::Nvrtc)?;
    let target = Target::Cubin(capability);
    let key = key(&text(source), &options(element, target), super::library::nvrtc_version());
    let path: Utf8PathBuf = folder.join(format!("{}.cubin", key.to_hex()));
    match fs_err::read(&path) {
        Ok(code) => return Ok(code),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let code = compile(source, element, target)?.code;
    fs_err::create_dir_all(folder)?;
    // Ranks compile side by side: each writes a file of its own, and the last name wins, of equal contents.
    let unfinished = folder.join(format!("{}.{}", key.to_hex(), std::process::id()));
    fs_err::write(&unfinished, &code)?;
    fs_err::rename(&unfinished, &path)?;
    Ok(code)
}

/// Where compiled kernels are kept: `chariot/kernels` in the user's cache folder, or where temporary files go.
pub fn kernel_folder() -> Utf8PathBuf {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| value.starts_with('/'));
    let home = || variable("HOME").map(|home| format!("{home}/.cache"));
    let cache = variable("XDG_CACHE_HOME").or_else(home);
    let temporary = || std::env::temp_dir().to_string_lossy().into_owned();
    Utf8PathBuf::from(cache.unwrap_or_else(temporary)).join("chariot/kernels")
}
