//! Text -> PTX by the real NVRTC. It must be found by its name, so a child with its folder in `LD_LIBRARY_PATH` compiles: this test,
//! run again.

use std::path::Path;
use std::process::Command;

use chariot_ptx::parse;
use cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};

use crate::card::Element;

pub(crate) const PRELUDE: &str = include_str!("../../../src/backend/cuda/kernels/prelude.cu");
pub(crate) const ATTENTION: &str = include_str!("../../../src/backend/cuda/kernels/attention.cu");
pub(crate) const ELEMENTWISE: &str = include_str!("../../../src/backend/cuda/kernels/elementwise.cu");
pub(crate) const EMBEDDING: &str = include_str!("../../../src/backend/cuda/kernels/embedding.cu");
pub(crate) const FLASH: &str = include_str!("../../../src/backend/cuda/kernels/flash.cu");
/// A kernel of tests alone.
pub(crate) const NARROW: &str = include_str!("../../../cuda-double/tests/programs/kernels/narrow.cu");
pub(crate) const NORM: &str = include_str!("../../../src/backend/cuda/kernels/norm.cu");
pub(crate) const ROTARY: &str = include_str!("../../../src/backend/cuda/kernels/rotary.cu");
pub(crate) const SAMPLING: &str = include_str!("../../../src/backend/cuda/kernels/sampling.cu");

/// In a child: the folder with `kernels.cu`, where `kernels.ptx` goes.
const FOLDER: &str = "CHARIOT_PTX_FOLDER";
/// In a child: the dtype as kernels name it.
const ELEMENT: &str = "CHARIOT_PTX_ELEMENT";

/// NVRTC's folder in the packages of `CHARIOT_PYTHON`.
fn library_folder() -> Option<String> {
    let Ok(python) = std::env::var("CHARIOT_PYTHON") else {
        eprintln!("SKIPPED: no CHARIOT_PYTHON, so no NVRTC");
        return None;
    };
    let find = "import nvidia.cuda_nvrtc as n; print(list(n.__path__)[0])";
    let output = Command::new(python).args(["-c", find]).output().unwrap();
    if !output.status.success() {
        eprintln!("SKIPPED: CHARIOT_PYTHON lacks nvidia-cuda-nvrtc-cu12");
        return None;
    }
    Some(format!("{}/lib", String::from_utf8(output.stdout).unwrap().trim()))
}

/// PTX of the prelude and a source, if there is an NVRTC.
pub(crate) fn compiled(source: &str, element: Element) -> Option<String> {
    let library = library_folder()?;
    let folder = tempfile::tempdir().unwrap();
    fs_err::write(folder.path().join("kernels.cu"), format!("{PRELUDE}\n{source}")).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "nvrtc::all_kernels_compile_and_parse", "--nocapture"]);
    child.env("LD_LIBRARY_PATH", library).env(FOLDER, folder.path()).env(ELEMENT, element.name());
    let output = child.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(fs_err::read_to_string(folder.path().join("kernels.ptx")).unwrap())
}

fn compile_in_child(folder: &Path, element: &str) {
    let text = fs_err::read_to_string(folder.join("kernels.cu")).unwrap();
    let options = CompileOptions {
        arch: Some("compute_80"),
        options: vec![format!("-DELEMENT={element}")],
        ..CompileOptions::default()
    };
    let ptx = compile_ptx_with_opts(text, options).unwrap();
    fs_err::write(folder.join("kernels.ptx"), ptx.to_src()).unwrap();
}

/// All kernels, which the tests beside this one run.
#[test]
fn all_kernels_compile_and_parse() {
    if let (Some(folder), Ok(element)) = (std::env::var_os(FOLDER), std::env::var(ELEMENT)) {
        return compile_in_child(Path::new(&folder), &element);
    }
    let sources = [
        (ATTENTION, &["causal_softmax", "combine", "paged_decode"][..]),
        (ELEMENTWISE, &["add", "gelu", "silu_mul", "to_f32"]),
        (EMBEDDING, &["embed", "gather_rows"]),
        (FLASH, &["flash_prefill_128", "flash_prefill_64"]),
        (NORM, &["layer_norm", "rms_norm"]),
        (ROTARY, &["gather_kv", "rotate_store"]),
        (SAMPLING, &["argmax"]),
    ];
    for (source, kernels) in sources {
        for element in Element::ALL {
            if source == FLASH && element == Element::F32 {
                continue;
            }
            let Some(text) = compiled(source, element) else { return };
            let module = parse(&text).unwrap();
            assert_eq!(module.kernels().collect::<Vec<_>>(), kernels);
        }
    }
}
