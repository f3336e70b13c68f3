//! Norms and activations against f64, and that their bits are the same everywhere.

use super::super::elementwise::{exp, gelu};
use super::super::{AttentionShape, Cpu, RotaryTable, Span};
use super::{all, noise};

/// Lengths around those of vectors, and one that threads share.
const WIDTHS: [usize; 8] = [1, 2, 15, 16, 17, 33, 100, 768];

#[test]
fn exp_is_within_two_units_in_the_last_place() {
    for step in 0..=1_750_000 {
        let x = -87.3 + step as f32 * 1e-4;
        let expected = f64::from(x).exp();
        let error = (f64::from(exp(x)) / expected - 1.0).abs();
        assert!(error <= 2.0 * f64::from(f32::EPSILON), "exp({x}) is {error} off");
    }
    assert_eq!([exp(0.0), exp(-88.0), exp(f32::NEG_INFINITY), exp(89.0)], [1.0, 0.0, 0.0, f32::INFINITY]);
    assert!(exp(f32::NAN).is_nan());
}

#[test]
fn gelu_is_within_a_millionth() {
    for step in 0..=200_000 {
        let x = (step - 100_000) as f32 * 1e-4;
        let wide = f64::from(x);
        let expected = 0.5 * wide * libm::erfc(-wide * std::f64::consts::FRAC_1_SQRT_2);
        let error = (f64::from(gelu(x)) - expected).abs();
        assert!(error <= 1e-6, "gelu({x}) is {error} off");
    }
    assert_eq!([gelu(0.0), gelu(-100.0), gelu(100.0)], [0.0, 0.0, 100.0]);
}

fn expect_near(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        let error = (f64::from(*found) - expected).abs();
        assert!(error <= 4e-6 * (1.0 + expected.abs()), "{what}: {found} for {expected}");
    }
}

/// `run` on every instruction set, with one thread and with three: near `expected`, and all the same bits.
fn check(what: &str, expected: &[f64], run: impl Fn(&Cpu) -> Vec<f32>) {
    let mut first = None;
    for threads in [1, 3] {
        for (isa, cpu) in all(threads) {
            let found = run(&cpu);
            expect_near(&found, expected, &format!("{what} {isa:?}"));
            let bits: Vec<u32> = found.iter().map(|value| value.to_bits()).collect();
            assert_eq!(&bits, first.get_or_insert_with(|| bits.clone()), "{what}: bits of {isa:?}");
        }
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

#[test]
fn norms_are_those_of_f64() {
    for width in WIDTHS {
        for rows in [1, 5, 40] {
            let (x, weight, bias) = (noise(1, rows * width), noise(2, width), noise(3, width));
            let mut layer = Vec::new();
            let mut rms = Vec::new();
            for x in wide(&x).chunks_exact(width) {
                let mean = x.iter().sum::<f64>() / width as f64;
                let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / width as f64;
                let square = x.iter().map(|x| x * x).sum::<f64>() / width as f64;
                for (x, (weight, bias)) in x.iter().zip(wide(&weight).into_iter().zip(wide(&bias))) {
                    layer.push((x - mean) / (variance + 1e-3).sqrt() * weight + bias);
                    rms.push(x / (square + 1e-3).sqrt() * weight);
                }
            }
            let run = |norm: &dyn Fn(&mut Vec<f32>)| {
                let mut y = vec![f32::NAN; rows * width];
                norm(&mut y);
                y
            };
            check("layer_norm", &layer, |cpu| run(&|y| cpu.layer_norm(&x, &weight, &bias, 1e-3, y)));
            check("rms_norm", &rms, |cpu| run(&|y| cpu.rms_norm(&x, &weight, 1e-3, y)));
        }
    }
}

#[test]
fn activations_and_sums_are_those_of_f64() {
    for width in WIDTHS {
        for rows in [1, 7, 30] {
            let gate_up: Vec<f32> = noise(4, rows * 2 * width).iter().map(|x| 8.0 * x).collect();
            let mut silu = Vec::new();
            for row in wide(&gate_up).chunks_exact(2 * width) {
                silu.extend((0..width).map(|i| row[i] / (1.0 + (-row[i]).exp()) * row[width + i]));
            }
            check("silu_mul", &silu, |cpu| {
                let mut out = vec![f32::NAN; rows * width];
                cpu.silu_mul(&gate_up, width, &mut out);
                out
            });
            let erf = |x: f64| 0.5 * x * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
            let expected: Vec<f64> = wide(&gate_up).into_iter().map(erf).collect();
            check("gelu", &expected, |cpu| {
                let mut x = gate_up.clone();
                cpu.gelu(&mut x);
                x
            });
            let y = noise(5, gate_up.len());
            let expected: Vec<f64> = wide(&gate_up).iter().zip(wide(&y)).map(|(x, y)| x + y).collect();
            check("add", &expected, |cpu| {
                let mut x = gate_up.clone();
                cpu.add(&mut x, &y);
                x
            });
        }
    }
}

/// Two sequences, one of them in the middle of its text; values are left alone.
#[test]
fn rotation_turns_queries_and_keys_by_their_positions() {
    for (tokens, head_dim) in [(1, 6), (9, 64), (90, 128)] {
        let shape = AttentionShape { query_heads: 3, kv_heads: 1, head_dim, scale: 1.0 };
        let spans = [(0, 0), (tokens, 50)].map(|(first_row, context)| Span {
            first_row,
            tokens,
            context,
            table: &[],
        });
        let width = 5 * head_dim;
        let qkv = noise(6, 2 * tokens * width);
        let mut expected = wide(&qkv);
        for (row, values) in expected.chunks_exact_mut(width).enumerate() {
            let position = if row < tokens { row } else { 50 + row - tokens };
            for head in values[..4 * head_dim].chunks_exact_mut(head_dim) {
                for i in 0..head_dim / 2 {
                    let angle = position as f64 / 1e4_f64.powf(2.0 * i as f64 / head_dim as f64);
                    let (low, high) = (head[i], head[i + head_dim / 2]);
                    head[i] = low * angle.cos() - high * angle.sin();
                    head[i + head_dim / 2] = high * angle.cos() + low * angle.sin();
                }
            }
        }
        let table = RotaryTable::new(1e4, head_dim, 200);
        check("rotate", &expected, |cpu| {
            let mut qkv = qkv.clone();
            cpu.rotate(&table, &shape, &mut qkv, &spans);
            qkv
        });
    }
}
