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

/// Compute capabilities of the cards that kernels are compiled for. Tests interpret the first one's PTX.
pub(crate) const CARDS: [u32; 4] = [80, 86, 89, 90];

/// In a child: the folder with `kernels.cu`, where `CARD.ptx` goes.
const FOLDER: &str = "CHARIOT_PTX_FOLDER";
/// In a child: the dtype as kernels name it.
const ELEMENT: &str = "CHARIOT_PTX_ELEMENT";
/// In a child: the cards, with commas between.
const FOR: &str = "CHARIOT_PTX_CARDS";

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
    compiled_for(&CARDS[..1], source, element).map(|mut texts| texts.remove(0))
}

/// Like [`compiled`], a text a card.
pub(crate) fn compiled_for(cards: &[u32], source: &str, element: Element) -> Option<Vec<String>> {
    let library = library_folder()?;
    let folder = tempfile::tempdir().unwrap();
    fs_err::write(folder.path().join("kernels.cu"), format!("{PRELUDE}\n{source}")).unwrap();
    let names: Vec<String> = cards.iter().map(u32::to_string).collect();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "nvrtc::every_kernel_parses_and_is_the_same_for_every_card", "--nocapture"]);
    child.env("LD_LIBRARY_PATH", library).env(FOLDER, folder.path());
    child.env(ELEMENT, element.name()).env(FOR, names.join(","));
    let output = child.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = |card| fs_err::read_to_string(folder.path().join(format!("{card}.ptx"))).unwrap();
    Some(names.iter().map(text).collect())
}

fn compile_in_child(folder: &Path, element: &str, cards: &str) {
    let text = fs_err::read_to_string(folder.join("kernels.cu")).unwrap();
    for card in cards.split(',') {
        let options = CompileOptions {
            options: vec![format!("-arch=compute_{card}"), format!("-DELEMENT={element}")],
            ..CompileOptions::default()
        };
        let ptx = compile_ptx_with_opts(&text, options).unwrap();
        fs_err::write(folder.join(format!("{card}.ptx")), ptx.to_src()).unwrap();
    }
}

/// Lines of a text but for the one that names its card.
fn body(ptx: &str) -> Vec<&str> {
    ptx.lines().filter(|line| !line.starts_with(".target ")).collect()
}

/// All kernels, which the tests beside this one run as the first card gets them: what they show holds for the others.
#[test]
fn every_kernel_parses_and_is_the_same_for_every_card() {
    if let (Some(folder), Ok(element)) = (std::env::var_os(FOLDER), std::env::var(ELEMENT)) {
        return compile_in_child(Path::new(&folder), &element, &std::env::var(FOR).unwrap());
    }
    let sources = [
        (ATTENTION, &["causal_softmax", "combine", "paged_decode"][..]),
        (ELEMENTWISE, &["add", "gelu", "silu_mul", "to_f32"]),
        (EMBEDDING, &["embed", "gather_rows"]),
        (FLASH, &["flash_prefill_128", "flash_prefill_64"]),
        (NORM, &["layer_norm", "rms_norm"]),
        (ROTARY, &["gather_kv", "rotate_store"]),
        (SAMPLING, &["argmax", "draw"]),
    ];
    for (source, kernels) in sources {
        for element in Element::ALL {
            if source == FLASH && element == Element::F32 {
                continue;
            }
            let Some(texts) = compiled_for(&CARDS, source, element) else { return };
            let module = parse(&texts[0]).unwrap();
            assert_eq!(module.kernels().collect::<Vec<_>>(), kernels);
            for (card, text) in CARDS.iter().zip(&texts) {
                assert!(text.contains(&format!("\n.target sm_{card}\n")), "{kernels:?}: not for {card}");
                let (first, other) = (body(&texts[0]), body(text));
                let apart = first.iter().zip(&other).find(|(first, other)| first != other);
                assert_eq!(apart, None, "{kernels:?} in {element:?} on {card}");
                assert_eq!(first.len(), other.len(), "{kernels:?} in {element:?} on {card}");
            }
        }
    }
}
