//! Norms, activations and sums, row by row.

use super::Cpu;

impl Cpu {
    /// `y = (x - mean) / sqrt(variance + eps) * weight + bias` of each row; `weight` and `bias` have a row's width.
    pub fn layer_norm(&self, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
        let width = weight.len();
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let mean = x.iter().sum::<f32>() / width as f32;
            let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / width as f32;
            let scale = 1.0 / (variance + eps).sqrt();
            for ((y, x), (weight, bias)) in y.iter_mut().zip(x).zip(weight.iter().zip(bias)) {
                *y = (x - mean) * scale * weight + bias;
            }
        }
    }

    /// `y = x / sqrt(mean of squares + eps) * weight` of each row.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
        let width = weight.len();
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let square = x.iter().map(|x| x * x).sum::<f32>() / width as f32;
            let scale = 1.0 / (square + eps).sqrt();
            for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
                *y = x * scale * weight;
            }
        }
    }

    /// `x = x Phi(x)`, by the error function.
    pub fn gelu(&self, x: &mut [f32]) {
        for x in x {
            *x = 0.5 * *x * (1.0 + libm::erff(*x * std::f32::consts::FRAC_1_SQRT_2));
        }
    }

    /// `out[m, f] = silu(gate) up`, where a row of `gate_up[m, 2 f]` is the gate's f values, then up's.
    pub fn silu_mul(&self, gate_up: &[f32], f: usize, out: &mut [f32]) {
        for (gate_up, out) in gate_up.chunks_exact(2 * f).zip(out.chunks_exact_mut(f)) {
            let (gate, up) = gate_up.split_at(f);
            for (out, (gate, up)) in out.iter_mut().zip(gate.iter().zip(up)) {
                *out = gate / (1.0 + (-gate).exp()) * up;
            }
        }
    }

    /// `x += y`.
    pub fn add(&self, x: &mut [f32], y: &[f32]) {
        assert_eq!(x.len(), y.len(), "expected equal lengths");
        for (x, y) in x.iter_mut().zip(y) {
            *x += y;
        }
    }
}
