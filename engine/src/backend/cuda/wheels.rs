//! CUDA's libraries in the Python wheels of an active environment, where the system does not look. Loads nothing.

use camino::{Utf8Path, Utf8PathBuf};

/// Variables that name an active environment.
const ENVIRONMENTS: [&str; 2] = ["VIRTUAL_ENV", "CONDA_PREFIX"];

/// The folder that all wheels of CUDA 13 share.
pub(super) const CUDA_13: &str = "cu13";

/// Files of the wheel `nvidia/<wheel>` whose names begin with one of `names`, in the order of `names`: one that others need comes first.
pub(super) fn files(wheel: &str, names: &[&str]) -> Vec<Utf8PathBuf> {
    let environments = ENVIRONMENTS.iter().filter_map(|name| std::env::var(name).ok());
    environments.flat_map(|folder| in_environment(Utf8Path::new(&folder), wheel, names)).collect()
}

fn in_environment(environment: &Utf8Path, wheel: &str, names: &[&str]) -> Vec<Utf8PathBuf> {
    let pythons = entries(&environment.join("lib"), "python3");
    let folders: Vec<Utf8PathBuf> =
        pythons.iter().map(|python| python.join("site-packages/nvidia").join(wheel).join("lib")).collect();
    names.iter().flat_map(|name| folders.iter().flat_map(|folder| entries(folder, name))).collect()
}

/// What lies in a folder under names that begin so, sorted; nothing where there is no such folder.
fn entries(folder: &Utf8Path, beginning: &str) -> Vec<Utf8PathBuf> {
    let Ok(found) = folder.read_dir_utf8() else { return Vec::new() };
    let mut paths: Vec<Utf8PathBuf> = found
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().starts_with(beginning))
        .map(|entry| entry.into_path())
        .collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_need_comes_first_and_other_wheels_do_not_come() {
        let folder = tempfile::tempdir().unwrap();
        let environment = Utf8Path::from_path(folder.path()).unwrap();
        let wheels = environment.join("lib/python3.12/site-packages/nvidia");
        for file in ["cublas/lib/libcublas.so.12", "cublas/lib/libcublasLt.so.12", "nccl/lib/libnccl.so.2"] {
            let path = wheels.join(file);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, "").unwrap();
        }
        let found = in_environment(environment, "cublas", &["libcublasLt.so", "libcublas.so"]);
        let names: Vec<_> = found.iter().filter_map(|path| path.file_name()).collect();
        assert_eq!(names, ["libcublasLt.so.12", "libcublas.so.12"]);
        for file in
            ["cu13/lib/libnvrtc.so.13", "cu13/lib/libnvrtc-builtins.so.13.0", "cu13/lib/libcublas.so.13"]
        {
            let path = wheels.join(file);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, "").unwrap();
        }
        let found = in_environment(environment, CUDA_13, &["libnvrtc-builtins.so", "libnvrtc.so"]);
        let names: Vec<_> = found.iter().filter_map(|path| path.file_name()).collect();
        assert_eq!(names, ["libnvrtc-builtins.so.13.0", "libnvrtc.so.13"]);
        assert!(in_environment(environment, "cuda_nvrtc", &["libnvrtc.so"]).is_empty());
        assert!(in_environment(&environment.join("none"), "nccl", &["libnccl.so"]).is_empty());
    }
}
