//! That the memory of weights is what a kernel may assume of it.

use crate::backend::cpu::huge_pages::HugePages;
#[cfg(target_os = "linux")]
use crate::backend::cpu::{AttentionShape, Cpu, Dtype, KvCache, Span};

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

/// Pages that this thread had to be given, so far, because it used them.
#[cfg(target_os = "linux")]
fn faults() -> u64 {
    let stat = fs_err::read_to_string("/proc/thread-self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').nth(7).unwrap().parse().unwrap()
}

/// Pages that storing keys and values in blocks `blocks` of a cache asks for, the first `touched` of which were touched.
#[cfg(target_os = "linux")]
fn faults_of_storing(shape: &AttentionShape, touched: usize, blocks: std::ops::Range<u32>) -> u64 {
    const ALL: usize = 4096;
    let cpu = Cpu::new(1, None).unwrap();
    let mut kv = KvCache::new(shape, 2, ALL, 16, Dtype::F32);
    kv.touch(touched, ALL);
    let table: Vec<u32> = blocks.collect();
    let tokens = 16 * table.len();
    let qkv = vec![1.0; tokens * (shape.query_heads + 2 * shape.kv_heads) * shape.head_dim];
    let before = faults();
    for layer in 0..2 {
        cpu.store_kv(
            &mut kv,
            layer,
            shape,
            &qkv,
            &[Span { first_row: 0, tokens, context: 0, table: &table }],
        );
    }
    faults() - before
}

/// Huge pages or not: 512 blocks are 4 MiB of keys and as much of values in each of two layers.
#[test]
#[cfg(target_os = "linux")]
fn blocks_that_were_touched_have_their_memory() {
    let shape = AttentionShape { query_heads: 1, kv_heads: 2, head_dim: 64, scale: 1.0 };
    let found = faults_of_storing(&shape, 512, 0..512);
    assert!(found < 4, "expected no more than a stray page, found {found}");
    let found = faults_of_storing(&shape, 512, 1024..1536);
    assert!(found >= 8, "expected that other blocks were not touched, found {found}");
}
