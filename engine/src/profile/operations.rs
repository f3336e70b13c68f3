//! Single operations: matrix products of one rank, all-reduces of a stage. For people, who want to know where a stage's time goes.

use super::ProfileError;
use super::fit::digits;
use super::median::median;
use crate::backend::BackendName;
use crate::backend::cpu::{Cpu, Linear};
use crate::clock::monotonic_ns;
use crate::runtime::{Loss, Plan, RuntimeExecutor};
use crate::shape::ModelShape;
use crate::shard::{Division, Dtype, Parallel};
use crate::sim::curve::Curve;
use crate::sim::measured::Product;

/// Rows of products, and tokens of all-reduces.
const ROWS: [u32; 4] = [1, 8, 64, 512];
/// All copies of a weight together are larger than a cache, so that each use reads it from memory.
const COLD_BYTES: u64 = 64 << 20;
const COPIES_MAX: u64 = 32;
/// Each product is repeated for this long, and this often at least.
const REPEAT_NS: u64 = 30_000_000;
const REPEATS_MIN: usize = 3;
/// All-reduces of one size.
const ALL_REDUCES: u32 = 30;

/// Every product of a layer, and that of the head; none on GPUs, whose products are not the driver's to run.
pub(super) fn products(
    plan: &Plan,
    shape: &ModelShape,
    dtype: Dtype,
    tokens_max: u32,
) -> Result<Vec<Product>, ProfileError> {
    if plan.backend != BackendName::Cpu {
        return Ok(Vec::new());
    }
    let rank = Division::new(shape, plan.parallel)?.rank;
    let cpu = Cpu::new(plan.threads, None)?;
    let (hidden, heads) = (shape.hidden_size, rank.query_heads * shape.head_dim);
    let mut sizes = vec![
        (hidden, heads + 2 * rank.kv_heads * shape.head_dim),
        (heads, hidden),
        (hidden, rank.ffn_size * shape.family.ffn_inputs()),
        (rank.ffn_size, hidden),
        (hidden, rank.vocab_rows),
    ];
    sizes.sort_unstable();
    sizes.dedup();
    Ok(sizes.into_iter().map(|(k, n)| product(&cpu, k, n, dtype, tokens_max)).collect())
}

fn product(cpu: &Cpu, k: u32, n: u32, dtype: Dtype, tokens_max: u32) -> Product {
    let bytes = u64::from(k) * u64::from(n) * dtype.bytes();
    // Any values do; zeros are not slower or faster than others.
    let values = vec![0; bytes as usize];
    let pack = |_| Linear::pack(dtype.into(), n as usize, k as usize, &values);
    let weights: Vec<Linear> = (0..COLD_BYTES.div_ceil(bytes).min(COPIES_MAX)).map(pack).collect();
    let point = |rows: u32| [f64::from(rows), digits(median(&times(cpu, &weights, rows as usize)))];
    let rows = ROWS.into_iter().filter(|rows| *rows <= tokens_max.max(1));
    Product { k, n, rows_us: Curve(rows.map(point).collect()) }
}

/// Microseconds of each repetition.
fn times(cpu: &Cpu, weights: &[Linear], rows: usize) -> Vec<f64> {
    let x = vec![1.0; rows * weights[0].columns()];
    let mut y = vec![0.0; rows * weights[0].rows()];
    let began = monotonic_ns();
    let mut times = Vec::new();
    for weight in weights.iter().cycle() {
        let start = monotonic_ns();
        cpu.linear(weight, &x, &mut y);
        times.push((monotonic_ns() - start) as f64 / 1e3);
        if times.len() >= REPEATS_MIN && monotonic_ns() - began > REPEAT_NS {
            break;
        }
    }
    times
}

/// By stage, all-reduces of the hidden states of so many tokens.
pub(super) fn all_reduces(
    executor: &mut RuntimeExecutor,
    shape: &ModelShape,
    parallel: Parallel,
    tokens_max: u32,
) -> Result<Vec<Curve>, Loss> {
    if parallel.tp == 1 {
        return Ok(Vec::new());
    }
    let mut curves = vec![Curve::default(); parallel.pp as usize];
    for rows in ROWS.into_iter().filter(|rows| *rows <= tokens_max.max(1)) {
        let values = rows * shape.hidden_size;
        let stages = executor.all_reduces(values, ALL_REDUCES)?;
        for (curve, times) in curves.iter_mut().zip(stages) {
            let times: Vec<f64> = times.into_iter().map(|ns| ns as f64 / 1e3).collect();
            curve.0.push([f64::from(values), digits(median(&times))]);
        }
    }
    Ok(curves)
}
