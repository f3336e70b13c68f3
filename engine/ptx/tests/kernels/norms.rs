//! Norms, with and without a residual.

use chariot_ptx::Argument::{self, Buffer, F32, I32, Null};
use chariot_ptx::LaunchError;

use crate::card::{Card, Element, in_each, wide};
use crate::nvrtc::NORM;

in_each!(NORM, layer_norm, rms_norm);

const ROWS: usize = 4;
const WIDTH: usize = 301;
/// Of a block: one warp, and so many that their sums are added four at a time with a rest, twice a value each and beyond the row.
const THREADS: [u32; 4] = [32, 64, 224, 352];
/// Large enough to be seen in bf16.
const EPS: f32 = 0.0625;

fn layer_norm(mut card: Card) {
    for threads in THREADS {
        norm(&mut card, true, false, threads).unwrap();
        norm(&mut card, true, true, threads).unwrap();
    }
}

fn rms_norm(mut card: Card) {
    for threads in THREADS {
        norm(&mut card, false, false, threads).unwrap();
        norm(&mut card, false, true, threads).unwrap();
    }
}

/// Launches, and checks x and y. The last row has a NaN.
pub(crate) fn norm(
    card: &mut Card,
    is_layer_norm: bool,
    has_residual: bool,
    threads: u32,
) -> Result<(), LaunchError> {
    let noise = |seed, count| card.element.noise(seed, count);
    let (mut x, residual) = (noise(1, ROWS * WIDTH), noise(2, ROWS * WIDTH));
    // f32 in all dtypes: finer than the dtype.
    let (weight, bias) = (Element::F32.noise(3, WIDTH), Element::F32.noise(4, WIDTH));
    x[ROWS * WIDTH - 7] = f32::NAN;
    let sum = |(x, residual): (&f32, &f32)| {
        if has_residual { card.element.round(x + residual) } else { *x }
    };
    let sums: Vec<f32> = x.iter().zip(&residual).map(sum).collect();
    let [x_there, residual] = [&x, &residual].map(|values| Buffer(card.put(values)));
    let [weight_there, bias_there] = [&weight, &bias].map(|values| Buffer(card.memory.put(values)));
    let (y, x_buffer) = (card.room(ROWS * WIDTH), x_there);
    let residual = if has_residual { residual } else { Null };
    let mut arguments: Vec<Argument> = vec![Buffer(y), x_buffer, residual, weight_there];
    arguments.extend(is_layer_norm.then_some(bias_there));
    arguments.extend([F32(EPS), I32(WIDTH as i32)]);
    let kernel = if is_layer_norm { "layer_norm" } else { "rms_norm" };
    card.try_run(kernel, [ROWS as u32, 1, 1], threads, &arguments)?;
    let Buffer(x_there) = x_there else { unreachable!("made above") };
    card.near(x_there, &wide(&sums), 0.0);
    let mut expected = Vec::new();
    for row in wide(&sums).chunks(WIDTH) {
        let mean = if is_layer_norm { row.iter().sum::<f64>() / WIDTH as f64 } else { 0.0 };
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / WIDTH as f64;
        let scale = (variance + f64::from(EPS)).sqrt();
        let bias = |i: usize| if is_layer_norm { f64::from(bias[i]) } else { 0.0 };
        expected.extend((0..WIDTH).map(|i| (row[i] - mean) / scale * f64::from(weight[i]) + bias(i)));
    }
    card.near(y, &expected, 1.0);
    Ok(())
}
