//! That the memory of weights is what a kernel may assume of it.

use crate::backend::cpu::huge_pages::HugePages;

#[test]
fn values_are_zeros_and_begin_with_a_cache_line() {
    for len in [0, 1, 1000, 1 << 18, 300_000, 1 << 20] {
        let mut values = HugePages::<u32>::zeroed(len);
        assert_eq!(values.len(), len);
        assert!(values.iter().all(|&value| value == 0), "{len} values");
        assert_eq!(values.as_ptr().align_offset(64), 0, "{len} values");
        let is_large = len * 4 > 1 << 20;
        assert!(!is_large || values.as_ptr().align_offset(2 << 20) == 0, "{len} values");
        values.fill(7);
        assert!(values.iter().all(|&value| value == 7), "{len} values");
    }
}
