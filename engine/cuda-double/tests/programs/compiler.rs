//! The compiler and what the library offers to find it.
#![expect(unsafe_code, reason = "loads libraries")]

use crate::{cubin, passes};

#[test]
fn errors_of_the_compiler_are_told() {
    passes("compiler::errors_of_the_compiler_are_told", || {
        let log = cubin(r#"extern "C" __global__ void k() { nothing_like_it(); }"#, &[]).unwrap_err();
        assert!(log.contains("kernel.cu:1") && log.contains("nothing_like_it"), "{log}");
    });
}

#[test]
fn every_library_is_found() {
    passes("compiler::every_library_is_found", || {
        // SAFETY: the double has no initialisers.
        let found = unsafe {
            [
                cudarc::driver::sys::is_culib_present(),
                cudarc::nvrtc::sys::is_culib_present(),
                cudarc::cublas::sys::is_culib_present(),
                cudarc::nccl::sys::is_culib_present(),
            ]
        };
        assert_eq!(found, [true; 4]);
    });
}
