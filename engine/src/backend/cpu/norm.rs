//! A norm's vectors, which say which norm it is.

use super::Cpu;

/// Of a layer norm, or without a bias of an RMS norm.
#[derive(Debug, Clone)]
pub struct Norm {
    /// `[hidden]`.
    weight: Vec<f32>,
    /// `[hidden]`.
    bias: Option<Vec<f32>>,
    epsilon: f32,
}

impl Norm {
    /// Vectors are `[hidden]`; `epsilon` is added to the variance or mean square.
    pub fn new(weight: &[f32], bias: Option<&[f32]>, epsilon: f32) -> Self {
        Self { weight: weight.to_vec(), bias: bias.map(<[f32]>::to_vec), epsilon }
    }
}

impl Cpu {
    /// `y[rows, hidden]`: the norm of each row of `x`.
    pub fn norm(&self, norm: &Norm, x: &[f32], y: &mut [f32]) {
        match &norm.bias {
            Some(bias) => self.layer_norm(x, &norm.weight, bias, norm.epsilon, y),
            None => self.rms_norm(x, &norm.weight, norm.epsilon, y),
        }
    }
}
