//! What the CPU adds to its kernels as a model's backend: parts below one another, rows that are taken, logits of several ranks.

use std::borrow::Cow;

use super::super::{Activations, Cpu};
use super::noise;
use crate::backend::draw::{Draw, draw};
use crate::backend::{Backend, Part};
use crate::shard::Dtype;

fn cpu() -> Cpu {
    Cpu::new(1, None).unwrap()
}

fn tensor(rows: usize, width: usize, values: &[f32]) -> Activations {
    let mut tensor = Activations::default();
    tensor.reshape(rows, width);
    tensor.copy_from_slice(values);
    tensor
}

fn part(dtype: Dtype, rows: u32, columns: u32, seed: u32) -> Part<'static> {
    let values = noise(seed, (rows * columns) as usize);
    let bytes = |value: f32| match dtype {
        Dtype::Float32 => value.to_le_bytes().to_vec(),
        Dtype::Float16 => half::f16::from_f32(value).to_le_bytes().to_vec(),
        Dtype::Bfloat16 => half::bf16::from_f32(value).to_le_bytes().to_vec(),
    };
    let bytes = values.into_iter().flat_map(bytes).collect();
    Part { dtype, shape: vec![rows, columns], bytes: Cow::Owned(bytes) }
}

#[test]
fn parts_lie_one_below_the_other_whatever_their_types() {
    use Dtype::{Bfloat16, Float16, Float32};
    let cpu = cpu();
    let x = tensor(2, 6, &noise(1, 12));
    for (first, second, held) in
        [(Float16, Float16, Float16), (Float32, Float32, Float32), (Float16, Bfloat16, Float32)]
    {
        let parts = [part(first, 5, 6, 2), part(second, 3, 6, 3)];
        let w = Backend::linear(&cpu, &parts).unwrap();
        assert_eq!(cpu.linear_dtype(&w), held);
        let mut y = Activations::default();
        cpu.product(&w, &x, &mut y).unwrap();
        let rows = parts.iter().flat_map(Part::widen).collect::<Vec<_>>();
        assert_eq!((y.rows(), y.width()), (2, 8));
        for (x, y) in x.chunks(6).zip(y.chunks(8)) {
            for (w, y) in rows.chunks(6).zip(y) {
                let expected: f32 = w.iter().zip(x).map(|(w, x)| w * x).sum();
                assert!((y - expected).abs() < 1e-6, "{first:?} {second:?}: {y} {expected}");
            }
        }
    }
}

#[test]
fn rows_come_in_the_order_asked_for() {
    let mut out = tensor(1, 1, &[9.0]);
    cpu().take_rows(&tensor(3, 2, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), &[2, 0], &mut out).unwrap();
    assert_eq!((out.rows(), out.width(), &out[..]), (2, 2, &[4.0, 5.0, 0.0, 1.0][..]));
}

/// Three ranks of two tokens for a vocabulary of three: the second has one token, the third none, and their padding is larger than any
/// logit.
#[test]
fn logits_and_the_largest_know_no_padding() {
    let cpu = cpu();
    let all = tensor(6, 2, &[-3.0, -1.0, -2.0, -2.0, -1.0, 0.0, -1.5, 0.0, 0.0, 0.0, 0.0, 0.0]);
    let (mut logits, mut tokens) = (vec![7.0], vec![7]);
    cpu.logits(&all, 3, 2, 2, 3, &mut logits).unwrap();
    assert_eq!(logits, [-3.0, -1.0, -1.0, -2.0, -2.0, -1.5]);
    cpu.greedy(&all, 3, 2, 2, 3, &mut tokens).unwrap();
    assert_eq!(tokens, [1, 2], "of equals the first, on whichever rank");
    for part in 0..16 {
        let how = [0.9, 2.0].map(|temperature| Draw::new(temperature, 1.0, part << 60));
        cpu.draw(&all, 3, 2, 3, &how, &mut tokens).unwrap();
        let from_row = |(row, how)| draw(std::iter::once(row), how, &mut Vec::new());
        let rows = [[-3.0, -1.0, -1.0], [-2.0, -2.0, -1.5]];
        let expected: Vec<u32> = rows.iter().map(|row| &row[..]).zip(&how).map(from_row).collect();
        assert_eq!(tokens, expected);
    }
    cpu.logits(&tensor(0, 2, &[]), 3, 0, 2, 3, &mut logits).unwrap();
    cpu.greedy(&tensor(0, 2, &[]), 3, 0, 2, 3, &mut tokens).unwrap();
    assert!(logits.is_empty() && tokens.is_empty(), "no row is asked for");
    tokens.push(7);
    cpu.draw(&tensor(0, 2, &[]), 3, 2, 3, &[], &mut tokens).unwrap();
    assert!(logits.is_empty() && tokens.is_empty(), "no row is asked for");
}
