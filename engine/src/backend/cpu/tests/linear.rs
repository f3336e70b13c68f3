//! Products: exact where arithmetic is f32, within a bound where inputs are rounded.

use half::{bf16, f16};
use proptest::prelude::*;

use super::super::{Dtype, Embedding, Isa, Linear};
use super::{DTYPES, all, noise, rounded};

/// `values` as little-endian bytes of `dtype`.
fn bytes(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    let one = |&v: &f32| match dtype {
        Dtype::F32 => v.to_le_bytes().to_vec(),
        Dtype::F16 => f16::from_f32(v).to_le_bytes().to_vec(),
        Dtype::Bf16 => bf16::from_f32(v).to_le_bytes().to_vec(),
    };
    values.iter().flat_map(one).collect()
}

/// `columns` products a row of x and of w, handed to `one`.
fn plain<T>(w: &[f32], columns: usize, x: &[f32], one: impl Fn(&[f32], &[f32]) -> T) -> Vec<T> {
    let mut y = Vec::new();
    for x in x.chunks_exact(columns) {
        y.extend(w.chunks_exact(columns).map(|w| one(x, w)));
    }
    y
}

/// One chain of fused multiply-adds.
fn chain(x: &[f32], w: &[f32]) -> f32 {
    x.iter().zip(w).fold(0.0, |sum, (x, w)| x.mul_add(*w, sum))
}

/// In f64: the product of rounded inputs, of exact ones, and the sum of the products' sizes.
fn exact(x: &[f32], w: &[f32]) -> [f64; 3] {
    let [mut of_rounded, mut of_exact, mut size] = [0.0; 3];
    for (&x, &w) in x.iter().zip(w) {
        of_rounded += f64::from(rounded(Dtype::Bf16, x)) * f64::from(w);
        of_exact += f64::from(x) * f64::from(w);
        size += f64::from(x * w).abs();
    }
    [of_rounded, of_exact, size]
}

/// What the CPU's documentation promises of `Isa::Avx512Bf16` with bf16 weights.
fn check_rounded(y: &[f32], expected: &[[f64; 3]], columns: usize, what: &str) {
    for (&y, &[of_rounded, of_exact, size]) in y.iter().zip(expected) {
        // Each sum is rounded once a product; 2^-8 is half a unit in the last place of a bf16 at 1.
        let sums = (columns + 2) as f64 * f64::from(f32::EPSILON) * size + 1e-30;
        let (to_rounded, to_exact) = ((f64::from(y) - of_rounded).abs(), (f64::from(y) - of_exact).abs());
        assert!(to_rounded <= sums, "{what}: {to_rounded} from the product of rounded inputs, limit {sums}");
        assert!(to_exact <= size / 256.0 + sums, "{what}: {to_exact} from the product, sizes {size}");
    }
}

/// Rows of a packed weight are those of the table that it was packed from.
#[test]
fn a_packed_weight_embeds_as_its_table_does() {
    for (rows, columns) in [(1, 1), (64, 7), (70, 32), (33, 9)] {
        for dtype in DTYPES {
            let bytes = bytes(dtype, &noise(3, rows * columns));
            let table = Embedding::new(dtype, 5, columns, &bytes);
            let packed = Linear::pack(dtype, rows, columns, &bytes);
            // Some before and after the rank's own.
            let tokens: Vec<u32> = (0..rows as u32 + 10).rev().collect();
            let [mut expected, mut found] = [0, 1].map(|_| vec![f32::NAN; tokens.len() * columns]);
            let (_, cpu) = all(1).last().unwrap();
            cpu.embed(&table, &tokens, &mut expected);
            cpu.embed_packed(&packed, 5, &tokens, &mut found);
            assert_eq!(found, expected, "{dtype:?} [{rows}, {columns}]");
        }
    }
}

fn check_linear(dtype: Dtype, threads: usize, m: usize, rows: usize, columns: usize) {
    let (values, x) = (noise(1, rows * columns), noise(2, m * columns));
    let weight = Linear::pack(dtype, rows, columns, &bytes(dtype, &values));
    let w: Vec<f32> = values.iter().map(|&value| rounded(dtype, value)).collect();
    for (isa, cpu) in all(threads) {
        let what = format!("{isa:?} {dtype:?} m={m} rows={rows} columns={columns} threads={threads}");
        let mut y = vec![f32::NAN; m * rows];
        cpu.linear(&weight, &x, &mut y);
        if isa == Isa::Avx512Bf16 && dtype == Dtype::Bf16 {
            check_rounded(&y, &plain(&w, columns, &x, exact), columns, &what);
        } else {
            assert_eq!(y, plain(&w, columns, &x, chain), "{what}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn linear_is_the_plain_product(
        dtype in prop::sample::select(DTYPES.to_vec()),
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
    for dtype in DTYPES {
        check_linear(dtype, 2, 13, 70, 1537);
        check_linear(dtype, 1, 12, 33, 1029);
    }
}

#[test]
fn blocks_of_rows_join_without_a_seam() {
    for dtype in DTYPES {
        check_linear(dtype, 2, 301, 40, 37);
    }
}

/// Beside any other rows, a row's result is the same bit for bit: also where inputs are rounded.
#[test]
fn a_row_does_not_depend_on_the_rows_beside_it() {
    let (rows, columns) = (75, 701);
    for dtype in DTYPES {
        let weight = Linear::pack(dtype, rows, columns, &bytes(dtype, &noise(3, rows * columns)));
        let x = noise(4, 160 * columns);
        for (isa, cpu) in all(2) {
            let mut alone = vec![0.0; rows];
            cpu.linear(&weight, &x[..columns], &mut alone);
            for m in [2, 3, 5, 12, 13, 47, 160] {
                let mut y = vec![0.0; m * rows];
                cpu.linear(&weight, &x[..m * columns], &mut y);
                assert_eq!(y[..rows], alone, "{isa:?} {dtype:?} m={m}");
            }
        }
    }
}
