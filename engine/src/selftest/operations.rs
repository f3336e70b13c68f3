//! Every operation on rows, at a few odd shapes, with the error that rounding explains. Knows two backends by their trait alone.

use super::bed::{Bed, span};
use super::sample::{EPSILON, Sample, largest, made_up, narrowing, sums};
use crate::backend::{Backend, Draw};

/// Computes samples; what they are hangs on the type alone.
pub(super) type Run<B> = fn(&mut Bed<'_, B>) -> Result<Vec<Sample>, <B as Backend>::Error>;

/// Without these two no other can be looked at.
pub(super) const TRANSFER: &str = "embed_head, logits";

/// Operations by name, those first without which others cannot be looked at.
pub(super) fn cases<B: Backend>() -> [(&'static str, Run<B>); 10] {
    [
        (TRANSFER, transfer),
        ("take_rows", take_rows),
        ("embed", embed),
        ("norm", norms),
        ("product", products),
        ("gelu", gelu),
        ("silu_mul", silu_mul),
        ("add", add),
        ("greedy", logits_of_ranks),
        ("draw", draws),
    ]
}

/// Up and down again: every value must be what it was.
fn transfer<B: Backend>(bed: &mut Bed<'_, B>) -> Result<Vec<Sample>, B::Error> {
    let mut samples = Vec::new();
    for (rows, width) in [(1, 1), (3, 37), (2, 300)] {
        let tensor = bed.upload(&made_up(1, rows * width, 1.0), width)?;
        let values = bed.download(&tensor, rows, width)?;
        samples.push(exact(TRANSFER, format!("[{rows}, {width}]"), values));
    }
    Ok(samples)
}

fn exact(operation: &'static str, shape: String, values: Vec<f32>) -> Sample {
    Sample { operation, shape, values, allowed: 0.0 }
}

fn take_rows<B: Backend>(bed: &mut Bed<'_, B>) -> Result<Vec<Sample>, B::Error> {
    let (width, rows) = (37, [4, 0, 2, 2]);
    let x = bed.upload(&made_up(2, 5 * width, 1.0), width)?;
    let mut out = bed.backend.tensor();
    bed.backend.take_rows(&x, &rows, &mut out)?;
    let values = bed.download(&out, rows.len(), width)?;
    Ok(vec![exact("take_rows", format!("4 of [5, {width}]"), values)])
}

/// A rank that has tokens 3 to 6 alone.
fn embed<B: Backend>(bed: &mut Bed<'_, B>) -> Result<Vec<Sample>, B::Error> {
    let (width, tokens) = (37, [5, 0, 3, 6, 7, 2]);
    let part = bed.part(&made_up(3, 4 * width, 1.0), width);
    let table = bed.backend.embedding(3, &part)?;
    let head = bed.backend.linear(&[part])?;
    let spans = [span(tokens.len())];
    let batch = bed.backend.begin(&spans, &tokens)?;
    let mut samples = Vec::new();
    for operation in ["embed", "embed_head"] {
        let mut out = bed.backend.tensor();
        match operation {
            "embed" => bed.backend.embed(&table, &batch, &mut out)?,
            _ => bed.backend.embed_head(&head, 3, &batch, &mut out)?,
        }
        let values = bed.download(&out, tokens.len(), width)?;
        samples.push(exact(operation, format!("6 tokens of [4, {width}]"), values));
    }
    Ok(samples)
}

fn norms<B: Backend>(bed: &mut Bed<'_, B>) -> Result<Vec<Sample>, B::Error> {
    let mut samples = Vec::new();
    for (rows, width) in [(2, 33), (1, 300)] {
        let (weight, bias) = (made_up(5, width, 1.0), made_up(6, width, 1.0));
        for (bias, has_summand) in
            [(Some(&bias[..]), false), (None, false), (Some(&bias[..]), true), (None, true)]
        {
            let mut x = bed.upload(&made_up(4, rows * width, 2.0), width)?;
            let norm = bed.backend.norm(&weight, bias, 1e-5)?;
            let mut y = bed.backend.tensor();
            // Of one scale: the sums, too, are in every type.
            let summand = bed.upload(&made_up(13, rows * width, 2.0), width)?;
            match has_summand {
                true => bed.backend.add_norm(&norm, &mut x, &summand, &mut y)?,
                false => bed.backend.apply_norm(&norm, &x, &mut y)?,
            }
            let values = bed.download(&y, rows, width)?;
            let operation = if bias.is_some() { "layer norm" } else { "RMS norm" };
            // Mean and mean square are sums of the width; both scale the value, which a few roundings then finish.
            let size = largest(&values) + largest(&weight) + bias.map_or(0.0, largest);
            let allowed = sums(2 * width + 8, size) + narrowing(bed.dtype) * largest(&values);
            let shape = format!("[{rows}, {width}]{}", if has_summand { " of a sum" } else { "" });
            samples.push(Sample { operation, shape, values, allowed });
            if has_summand {
                let values = bed.download(&x, rows, width)?;
                samples.push(exact(operation, format!("[{rows}, {width}], the sum"), values));
            }
        }
    }
    Ok(samples)
}

/// Rows, outputs and inputs: odd and even ones, few rows and many, a long sum for few outputs, and a matrix of several tiles.
const PRODUCTS: [[usize; 3]; 7] =
    [[1, 1, 1], [1, 9, 33], [3, 17, 64], [2, 24, 40], [5, 21, 1030], [1, 40, 4544], [65, 130, 512]];

fn products<B: Backend>(bed: &mut Bed<'_, B>) -> Result<Vec<Sample>, B::Error> {
    let mut samples = Vec::new();
    for [m, n, k] in PRODUCTS {
        let (x, w) = (made_up(7, m * k, 1.0), made_up(8, n * k, 0.125));
        let tensor = bed.upload(&x, k)?;
        // A weight is one matrix or several, one below the other.
        let (one, other) = w.split_at(n / 2 * k);
        let parts = [bed.part(one, k), bed.part(other, k)];
        let weight = bed.backend.linear(if one.is_empty() { &parts[1..] } else { &parts })?;
        let mut y = bed.backend.tensor();
        bed.backend.product(&weight, &tensor, &mut y)?;
        let values = bed.download(&y, m, n)?;
        // A product may be cut along k, and its parts rounded before they are added: four roundings of the type in all.
        let allowed = sums(k + 1, absolute(&x, &w, k)) + 4.0 * narrowing(bed.dtype) * largest(&values);
        samples.push(Sample { operation: "product", shape: format!("m {m}, n {n}, k {k}"), values, allowed });
    }
    Ok(samples)
}

/// The largest sum of absolute products of a row of `x` and one of `w`.
fn absolute(x: &[f32], w: &[f32], k: usize) -> f32 {
    let sum = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| (x * w).abs()).sum::<f32>();
    let all = x.chunks_exact(k).flat_map(|x| w.chunks_exact(k).map(move |w| sum(x, w)));
    all.fold(0.0, f32::max)
}

/// A function of single values: a few roundings, and the error of the function on either side.
const FUNCTION: f32 = 16.0 * EPSILON;
/// Error of the CPU's GELU (docs/cpu-backend.md).
const GELU: f32 = 1e-6;

fn gelu<B: Backend>(bed: &mut Bed<'_, B>) -> Result<Vec<Sample>, B::Error> {
    let (rows, width) = (3, 171);
    let mut x = bed.upload(&made_up(9, rows * width, 4.0), width)?;
    bed.backend.gelu(&mut x)?;
    let values = bed.download(&x, rows, width)?;
    let allowed = GELU + (FUNCTION + narrowing(bed.dtype)) * largest(&values);
    Ok(vec![Sample { operation: "gelu", shape: format!("[{rows}, {width}]"), values, allowed }])
}

fn silu_mul<B: Backend>(bed: &mut Bed<'_, B>) -> Result<Vec<Sample>, B::Error> {
    let (rows, f) = (3, 87);
    let x = bed.upload(&made_up(10, rows * 2 * f, 4.0), 2 * f)?;
    let mut out = bed.backend.tensor();
    bed.backend.silu_mul(&x, f, &mut out)?;
    let values = bed.download(&out, rows, f)?;
    let allowed = (FUNCTION + narrowing(bed.dtype)) * largest(&values);
    Ok(vec![Sample { operation: "silu_mul", shape: format!("[{rows}, 2 x {f}]"), values, allowed }])
}

fn add<B: Backend>(bed: &mut Bed<'_, B>) -> Result<Vec<Sample>, B::Error> {
    let (rows, width) = (3, 171);
    let mut x = bed.upload(&made_up(11, rows * width, 1.0), width)?;
    let y = bed.upload(&made_up(12, rows * width, 0.25), width)?;
    bed.backend.add(&mut x, &y)?;
    let values = bed.download(&x, rows, width)?;
    // The sums are exact in f32.
    let allowed = narrowing(bed.dtype) * largest(&values);
    Ok(vec![Sample { operation: "add", shape: format!("[{rows}, {width}]"), values, allowed }])
}

/// Logits and likeliest tokens of one rank and of two, the last of which is padded with the largest value of all; with equal logits.
fn logits_of_ranks<B: Backend>(bed: &mut Bed<'_, B>) -> Result<Vec<Sample>, B::Error> {
    let mut samples = Vec::new();
    for [ranks, rows, held, vocab] in [[1, 2, 301, 301], [2, 2, 5, 9]] {
        let mut all = made_up(13, ranks * rows * held, 1.0);
        // Row 0 has its largest twice, in the last rank's part again.
        all[3] = 2.0;
        all[(ranks - 1) * rows * held + held - 2] = 2.0;
        pad(&mut all, [rows, held, vocab], 4.0);
        let mut tensor = bed.upload(&all, held)?;
        let shape = format!("{ranks} x [{rows}, {held}], {vocab} tokens");
        let (mut logits, mut tokens) = (Vec::new(), Vec::new());
        bed.backend.logits(&tensor, ranks, rows, held, vocab, &mut logits)?;
        samples.push(exact("logits", shape.clone(), logits));
        bed.backend.keep_largest(&mut tensor, 0, ranks, vocab)?;
        bed.backend.greedy(&tensor, ranks, rows, held, vocab, &mut tokens)?;
        samples.push(exact("greedy", shape, tokens.iter().map(|&token| token as f32).collect()));
    }
    Ok(samples)
}

/// Tokens drawn from logits of one rank and of three, the last of which has none, in ways that keep all, some and one of them.
fn draws<B: Backend>(bed: &mut Bed<'_, B>) -> Result<Vec<Sample>, B::Error> {
    let mut samples = Vec::new();
    for [ranks, rows, held, vocab] in [[1, 12, 301, 301], [3, 12, 50, 90]] {
        let mut all = made_up(14, ranks * rows * held, 4.0);
        pad(&mut all, [rows, held, vocab], 8.0);
        let tensor = bed.upload(&all, held)?;
        let way = |row: usize| {
            let random = (row as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            Draw::new([0.5, 1.0, 1.7, 0.0][row % 4], [1.0, 0.9, 0.3][row % 3], random)
        };
        let (how, mut tokens): (Vec<Draw>, _) = ((0..rows).map(way).collect(), Vec::new());
        bed.backend.draw(&tensor, ranks, held, vocab, &how, &mut tokens)?;
        let shape = format!("{ranks} x [{rows}, {held}], {vocab} tokens");
        samples.push(exact("draw", shape, tokens.iter().map(|&token| token as f32).collect()));
    }
    Ok(samples)
}

/// Fills what of the ranks' parts `[ranks, rows, held]` is beyond the vocabulary.
fn pad(all: &mut [f32], [rows, held, vocab]: [usize; 3], padding: f32) {
    for (index, part) in all.chunks_exact_mut(held).enumerate() {
        let first = index / rows * held;
        part[vocab.saturating_sub(first).min(held)..].fill(padding);
    }
}
