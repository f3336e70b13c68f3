//! Made-up inputs, results with the errors that rounding explains, and their comparison. Knows no backend.

use half::{bf16, f16};

use super::Check;
use crate::shard::Dtype;

/// Half the distance of 1 and the next f32: the largest relative error of a rounding.
pub(super) const EPSILON: f32 = f32::EPSILON / 2.0;

/// What an operation gave, and by how much another backend's may differ.
pub(super) struct Sample {
    pub(super) operation: &'static str,
    pub(super) shape: String,
    pub(super) values: Vec<f32>,
    pub(super) allowed: f32,
}

impl Sample {
    /// The largest distance of `found` from this sample.
    pub(super) fn check(&self, found: &[f32], dtype: Dtype) -> Check {
        let apart = |(a, b): (&f32, &f32)| {
            let distance = (a - b).abs();
            if distance.is_finite() { distance } else { f32::MAX }
        };
        let error = match self.values.len() == found.len() {
            true => self.values.iter().zip(found).map(apart).fold(0.0, f32::max),
            false => f32::MAX,
        };
        let (operation, shape) = (self.operation.to_owned(), self.shape.clone());
        Check { operation, shape, dtype, error, allowed: self.allowed }
    }
}

/// The largest relative error of a rounding to `dtype`, where it is narrower than f32; f32's own is in the sums' bounds.
pub(super) fn narrowing(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::Float32 => 0.0,
        Dtype::Bfloat16 => 1.0 / 256.0,
        Dtype::Float16 => 1.0 / 2048.0,
    }
}

/// Sums of `terms` terms whose absolute values add up to `absolute`, of two backends that each round every step.
pub(super) fn sums(terms: usize, absolute: f32) -> f32 {
    2.0 * terms as f32 * EPSILON * absolute
}

/// `count` values from -`scale` to `scale`, which is a power of two: multiples of `scale / 128`, which all types have.
pub(super) fn made_up(seed: u64, count: usize, scale: f32) -> Vec<f32> {
    let value = |index: u64| {
        let word = mixed(seed.wrapping_mul(0x1_0000_0001).wrapping_add(index));
        scale * ((word >> 56) as f32 - 128.0) / 128.0
    };
    (0..count as u64).map(value).collect()
}

/// The finaliser of MurmurHash3 (Appleby 2008), over a step of the golden ratio.
fn mixed(word: u64) -> u64 {
    let word = word.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let word = (word ^ (word >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word ^ (word >> 33)
}

/// Little-endian values of `dtype`.
pub(super) fn encoded(values: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::Float32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Dtype::Float16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
        Dtype::Bfloat16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
    }
}

/// The largest absolute value; 0 of none.
pub(super) fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, value| most.max(value.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_values_are_exact_in_every_type_and_use_their_range() {
        for scale in [1.0, 4.0, 0.03125] {
            let values = made_up(7, 1000, scale);
            for value in &values {
                assert_eq!(bf16::from_f32(*value).to_f32(), *value);
                assert_eq!(f16::from_f32(*value).to_f32(), *value);
            }
            assert!(largest(&values) > 0.95 * scale && largest(&values) <= scale);
            let mean = values.iter().sum::<f32>() / 1000.0;
            assert!(mean.abs() < 0.1 * scale, "{mean}");
        }
        assert_ne!(made_up(1, 9, 1.0), made_up(2, 9, 1.0));
    }

    #[test]
    fn what_is_no_number_or_of_another_length_is_wrong() {
        let sample =
            Sample { operation: "add", shape: "3".to_owned(), values: vec![1.0, 2.0, 3.0], allowed: 0.25 };
        let check = |found: &[f32]| sample.check(found, Dtype::Float32);
        assert!(check(&[1.0, 2.25, 3.0]).is_right());
        assert_eq!(check(&[1.0, 2.5, 3.0]).error, 0.5);
        for found in [&[1.0, f32::NAN, 3.0][..], &[1.0, 2.0, f32::INFINITY], &[1.0, 2.0]] {
            assert_eq!(check(found).error, f32::MAX, "{found:?}");
        }
    }
}
