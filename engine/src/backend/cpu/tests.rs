//! The fast kernels against plain loops, on every instruction set of this machine.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use half::{bf16, f16};
use proptest::prelude::*;

use super::linear::widen;
use super::pool::Pool;
use super::{Cpu, Dtype, Isa, Linear};

/// `values` as little-endian bytes of `dtype`.
fn bytes(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    let one = |&v: &f32| match dtype {
        Dtype::F32 => v.to_le_bytes().to_vec(),
        Dtype::F16 => f16::from_f32(v).to_le_bytes().to_vec(),
        Dtype::Bf16 => bf16::from_f32(v).to_le_bytes().to_vec(),
    };
    values.iter().flat_map(one).collect()
}

/// A fixed sequence in -1 .. 1.
fn noise(seed: u32, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// The plain product: one chain of fused multiply-adds an output.
fn reference(w: &[f32], columns: usize, x: &[f32]) -> Vec<f32> {
    let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).fold(0.0, |sum, (x, w): (&f32, _)| x.mul_add(*w, sum));
    x.chunks_exact(columns).flat_map(|x| w.chunks_exact(columns).map(move |w| dot(x, w))).collect()
}

fn check_linear(dtype: Dtype, threads: usize, m: usize, rows: usize, columns: usize) {
    let bytes = bytes(dtype, &noise(1, rows * columns));
    let (weight, x) = (Linear::pack(dtype, rows, columns, &bytes), noise(2, m * columns));
    let expected = reference(&widen(dtype, &bytes), columns, &x);
    for isa in Isa::available() {
        let mut y = vec![f32::NAN; m * rows];
        Cpu::with_isa(threads, None, isa).unwrap().linear(&weight, &x, &mut y);
        assert_eq!(y, expected, "{isa:?} {dtype:?} m={m} rows={rows} columns={columns} threads={threads}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn linear_is_the_plain_product_bit_for_bit(
        dtype in prop::sample::select(vec![Dtype::F32, Dtype::F16, Dtype::Bf16]),
        threads in 1..5_usize,
        m in 1..71_usize,
        rows in 1..100_usize,
        columns in 1..90_usize,
    ) {
        check_linear(dtype, threads, m, rows, columns);
    }
}

#[test]
fn passes_over_many_inputs_join_without_a_seam() {
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        check_linear(dtype, 2, 13, 70, 1537);
    }
}

#[test]
fn every_task_runs_once_in_many_forks() {
    let pool = Pool::new(4, None).unwrap();
    for tasks in (0..2000).map(|fork| fork % 9) {
        let counts: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        pool.run(tasks, &|task| {
            counts[task].fetch_add(1, Ordering::Relaxed);
        });
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
    }
}

#[test]
fn a_task_that_panics_panics_the_caller_and_the_pool_lives_on() {
    let pool = Pool::new(3, None).unwrap();
    for bad in 0..20 {
        let run = || pool.run(20, &|task| assert_ne!(task, bad, "told to"));
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
    }
    let done = AtomicUsize::new(0);
    pool.run(20, &|_| {
        done.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(done.into_inner(), 20);
}
