//! The product with a packed weight: GFLOP/s and weight bytes a second by rows and dtype, against the plain loop. Then draws from logits.
//!
//! Each figure is the median of interleaved rounds. Weights of 64 MiB or more are cold: they exceed the last cache.
#![expect(clippy::print_stdout, reason = "a benchmark reports on stdout")]

use std::hint::black_box;

use chariot_engine::backend::cpu::{Activations, Cpu, Dtype, Isa, Linear};
use chariot_engine::backend::draw::{Draw, draw};

const ROWS: usize = 6144;
const COLUMNS: usize = 3072;
const ROUNDS: usize = 7;

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn seconds(work: impl FnOnce()) -> f64 {
    let start = std::time::Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Bytes a second that `threads` threads read from a buffer larger than the caches, the best of the rounds.
fn read_bandwidth(threads: usize) -> f64 {
    let words = vec![1_u64; 32 << 20];
    let sum = |part: &[u64]| {
        black_box(part.as_chunks::<32>().0.iter().fold([0_u64; 32], |mut sums, chunk| {
            sums.iter_mut().zip(chunk).for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
            sums
        }));
    };
    let pass = || {
        std::thread::scope(|scope| {
            words.chunks(words.len() / threads).for_each(|part| drop(scope.spawn(move || sum(part))));
        });
    };
    let best = (0..ROUNDS).map(|_| seconds(pass)).fold(f64::INFINITY, f64::min);
    (words.len() * 8) as f64 / best
}

fn plain(w: &[f32], x: &[f32], y: &mut [f32]) {
    for (x, y) in x.chunks_exact(COLUMNS).zip(y.chunks_exact_mut(ROWS)) {
        for (row, y) in w.chunks_exact(COLUMNS).zip(y) {
            *y = row.iter().zip(x).map(|(w, x)| w * x).sum();
        }
    }
}

fn main() {
    let bandwidth = read_bandwidth(2);
    println!("read bandwidth of two threads: {:.1} GB/s", bandwidth / 1e9);
    println!(
        "| dtype | isa | M | GFLOP/s | weight GB/s | share of read bandwidth | times the plain loop, one thread |"
    );
    println!("|---|---|---|---|---|---|---|");
    let values: Vec<f32> = (0..ROWS * COLUMNS).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect();
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let bytes: Vec<u8> = match dtype {
            Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            _ => values.iter().flat_map(|v| [v.to_le_bytes()[2], v.to_le_bytes()[3]]).collect(),
        };
        let weight = Linear::pack(dtype, ROWS, COLUMNS, &bytes);
        // The last of them has nothing of its own for f32.
        let is_apart = |isa: &Isa| *isa != Isa::Portable && (dtype == Dtype::Bf16 || *isa != Isa::Avx512Bf16);
        for isa in Isa::available().into_iter().filter(is_apart) {
            let cpu = Cpu::with_isa(2, None, isa).expect("threads start");
            for m in [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 14, 16, 24, 32, 128, 512] {
                row(&cpu, isa, &weight, &values, m, bandwidth);
            }
        }
    }
    draws();
}

/// Draws from rows of which few logits are large, one thread.
fn draws() {
    println!("| logits | top_p | ms a draw |");
    println!("|---|---|---|");
    for count in [65_024_u32, 131_072] {
        let noise = |token: u32| (token.wrapping_mul(0x9e37_79b9) >> 8) as f32 / (1 << 24) as f32;
        let logits: Vec<f32> = (0..count).map(|token| 20.0 * noise(token).powi(8)).collect();
        for top_p in [1.0, 0.9] {
            let mut room = Vec::new();
            let mut one = |round: u64| {
                let how = Draw::new(1.0, top_p, round.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                seconds(|| _ = black_box(draw(std::iter::once(black_box(&logits[..])), &how, &mut room)))
            };
            println!("| {count} | {top_p} | {:.2} |", 1e3 * median((0..101).map(&mut one).collect()));
        }
    }
}

fn row(cpu: &Cpu, isa: Isa, weight: &Linear, values: &[f32], m: usize, bandwidth: f64) {
    let x: Vec<f32> = (0..m * COLUMNS).map(|i| (i % 17) as f32 / 17.0).collect();
    let mut y = Activations::default();
    y.reshape(m, ROWS);
    let (mut fast, mut naive) = (Vec::new(), Vec::new());
    cpu.linear(weight, &x, &mut y);
    for round in 0..ROUNDS {
        fast.push(seconds(|| cpu.linear(weight, black_box(&x), &mut y)));
        if round < 2 {
            // The plain loop's time is proportional to the rows: one is enough.
            naive.push(m as f64 * seconds(|| plain(values, black_box(&x[..COLUMNS]), &mut y[..ROWS])));
        }
    }
    let (fast, naive) = (median(fast), naive.into_iter().fold(f64::INFINITY, f64::min));
    let read = (ROWS * COLUMNS * weight.dtype().bytes()) as f64 / fast;
    println!(
        "| {:?} | {isa:?} | {m} | {:.0} | {:.1} | {:.0} % | {:.0} |",
        weight.dtype(),
        2.0 * (m * ROWS * COLUMNS) as f64 / fast / 1e9,
        read / 1e9,
        100.0 * read / bandwidth,
        naive / fast,
    );
}
