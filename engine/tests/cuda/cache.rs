//! A compiled kernel is kept, and read back instead of being compiled again.

use chariot_engine::backend::cuda::compile::{Element, SOURCES, cached};

#[test]
fn a_cubin_is_compiled_once() {
    if !crate::nvrtc() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let folder = camino::Utf8Path::from_path(directory.path()).unwrap();
    let get = |element, capability| cached(folder, SOURCES[2], element, capability).unwrap();
    let files = || {
        let files = fs_err::read_dir(folder).unwrap();
        files.map(|file| file.unwrap().path()).collect::<Vec<_>>()
    };
    let first = get(Element::F32, 80);
    assert!(first.starts_with(b"\x7fELF"));
    assert_eq!(files().len(), 1);
    fs_err::write(&files()[0], b"kept").unwrap();
    assert_eq!(get(Element::F32, 80), b"kept");
    get(Element::Bf16, 80);
    get(Element::F32, 90);
    assert_eq!(files().len(), 3, "each dtype and card has a file of its own");
}
