//! Activations, sums and casts.

use chariot_ptx::Argument::{Buffer, I32, I64};
use half::{bf16, f16};

use crate::card::{Card, Element, wide};
use crate::nvrtc::{ELEMENTWISE, NARROW};

mod elements {
    use super::{ELEMENTWISE, add, gelu, silu_mul, widening};
    use crate::card::in_each;
    in_each!(ELEMENTWISE, gelu, silu_mul, add, widening);
}

mod narrowed {
    use super::{NARROW, narrowing, narrowing_at_the_edges};
    use crate::card::in_each;
    in_each!(NARROW, narrowing, narrowing_at_the_edges);
}

/// The error function by its series; from -5 to 5 it has more than the digits of f32.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..120 {
        let n = f64::from(n);
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

fn gelu(mut card: Card) {
    let mut x: Vec<f32> = card.element.noise(1, 203).iter().map(|x| 4.0 * x).collect();
    x.extend([0.0, -0.0, 100.0, -100.0, f32::NAN]);
    let there = card.put(&x);
    card.run("gelu", [4, 1, 1], 64, &[Buffer(there), I64(x.len() as i64)]);
    let exact = |x: f64| {
        let share = if x.abs() > 6.0 { x.signum() } else { erf(x * std::f64::consts::FRAC_1_SQRT_2) };
        0.5 * x * (1.0 + share)
    };
    card.near(there, &wide(&x).into_iter().map(exact).collect::<Vec<_>>(), 1.0);
}

fn silu_mul(mut card: Card) {
    let (rows, f) = (3, 25);
    let count = rows * f;
    let mut gate_up: Vec<f32> = card.element.noise(2, 2 * count).iter().map(|x| 4.0 * x).collect();
    // exp(-x) overflows, and vanishes.
    (gate_up[0], gate_up[1], gate_up[2]) = (-128.0, 128.0, f32::NAN);
    let (there, out) = (card.put(&gate_up), card.room(count));
    card.run("silu_mul", [2, 1, 1], 64, &[Buffer(out), Buffer(there), I32(f as i32), I64(count as i64)]);
    let silu = |x: f64| x / (1.0 + (-x).exp());
    let one = |i: usize| {
        let row = &gate_up[i / f * 2 * f..];
        silu(f64::from(row[i % f])) * f64::from(row[f + i % f])
    };
    card.near(out, &(0..count).map(one).collect::<Vec<_>>(), 1.0);
}

fn add(mut card: Card) {
    let (mut x, y) = (card.element.noise(3, 75), card.element.noise(4, 75));
    x[74] = f32::NAN;
    let [sum, y_there] = [&x, &y].map(|values| card.put(values));
    card.run("add", [2, 1, 1], 64, &[Buffer(sum), Buffer(y_there), I64(75)]);
    let expected: Vec<f32> = x.iter().zip(&y).map(|(x, y)| card.element.round(x + y)).collect();
    let found = card.take(sum);
    assert_eq!(found[..74], expected[..74]);
    assert!(found[74].is_nan());
}

fn widening(mut card: Card) {
    let x = card.element.noise(5, 75);
    let (there, out) = (card.put(&x), card.memory.room(75 * 4));
    card.run("to_f32", [3, 1, 1], 32, &[Buffer(out), Buffer(there), I64(75)]);
    assert_eq!(card.memory.take::<f32>(out).unwrap(), x);
}

fn narrowing(mut card: Card) {
    let finer = Element::F32.noise(6, 75);
    let (there, out) = (card.memory.put(&finer), card.room(75));
    card.run("narrow_all", [3, 1, 1], 32, &[Buffer(out), Buffer(there), I64(75)]);
    let expected: Vec<f32> = finer.iter().map(|value| card.element.round(*value)).collect();
    assert_eq!(card.take(out), expected);
}

/// Ties, carries into the exponent and beyond the largest, subnormals, infinities, NaN: bit by bit.
fn narrowing_at_the_edges(mut card: Card) {
    let bits: [u32; 26] = [
        0,
        0x8000_0000,
        0x3f80_8000,
        0x3f81_8000,
        0x3f80_8001,
        0x3f80_7fff,
        0x3fff_8000,
        0x7f7f_8000,
        0x7f7f_7fff,
        0xff7f_ffff,
        0x7f80_0000,
        0xff80_0000,
        0x7f80_0001,
        0x7fc0_0000,
        0xffff_ffff,
        0x0000_0001,
        0x0000_8000,
        0x0001_8000,
        // Of f16: ties in the last bit, beyond the largest, and among the subnormals.
        0x3f80_1000,
        0x3f80_3000,
        0x477f_efff,
        0x477f_f000,
        0x387f_f000,
        0x3300_0000,
        0x3300_0001,
        0xb440_0000,
    ];
    let (there, out) = (card.memory.put(&bits), card.room(bits.len()));
    card.run("narrow_all", [1, 1, 1], 32, &[Buffer(out), Buffer(there), I64(bits.len() as i64)]);
    if card.element == Element::F32 {
        return assert_eq!(card.memory.take::<u32>(out).unwrap(), bits);
    }
    let round = |bits: u32| match f32::from_bits(bits) {
        value if value.is_nan() => 0x7fff,
        value if card.element == Element::F16 => f16::from_f32(value).to_bits(),
        value => bf16::from_f32(value).to_bits(),
    };
    assert_eq!(card.memory.take::<u16>(out).unwrap(), bits.map(round));
}
