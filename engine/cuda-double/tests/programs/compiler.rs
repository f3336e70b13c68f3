//! The compiler and what the library offers to find it.

use crate::{cubin, passes};

#[test]
fn errors_of_the_compiler_are_told() {
    passes("compiler::errors_of_the_compiler_are_told", || {
        let log = cubin(r#"extern "C" __global__ void k() { nothing_like_it(); }"#, &[]).unwrap_err();
        assert!(log.contains("kernel.cu:1") && log.contains("nothing_like_it"), "{log}");
    });
}
