//! Arithmetic of f32. What PTX rounds exactly is exact here; what it approximates (`approx`, `full`) is computed in f64 and rounded
//! once, closer than a GPU's result.

use crate::instruction::Float;

/// PTX's only NaN.
const NAN: u32 = 0x7fff_ffff;

/// Bits of the result of up to three sources. `ftz`: subnormal sources and results are zeros of their sign.
pub(super) fn compute(function: Float, ftz: bool, sources: [f32; 3]) -> u64 {
    let flush = |x: f32| if ftz && x.is_subnormal() { 0.0_f32.copysign(x) } else { x };
    let [a, b, c] = sources.map(flush);
    let in_f64 = |function: fn(f64) -> f64| function(f64::from(a)) as f32;
    let value = match function {
        Float::Add => a + b,
        Float::Sub => a - b,
        Float::Mul => a * b,
        Float::Fma => a.mul_add(b, c),
        Float::FmaDown => fma_down(a, b, c),
        Float::Div => a / b,
        Float::Rcp => 1.0 / a,
        Float::Sqrt => a.sqrt(),
        Float::Rsqrt => in_f64(|a| 1.0 / a.sqrt()),
        Float::Ex2 => in_f64(f64::exp2),
        Float::Lg2 => in_f64(f64::log2),
        Float::Neg => -a,
        Float::Abs => a.abs(),
        Float::Min | Float::Max => extreme(a, b, function == Float::Max),
    };
    u64::from(if value.is_nan() { NAN } else { flush(value).to_bits() })
}

/// The larger or smaller; the other of a NaN; -0 is less than 0.
fn extreme(a: f32, b: f32, is_max: bool) -> f32 {
    if a.is_nan() || b.is_nan() {
        return if a.is_nan() { b } else { a };
    }
    let is_a = if is_max { a.total_cmp(&b).is_ge() } else { a.total_cmp(&b).is_le() };
    if is_a { a } else { b }
}

/// a b + c, rounded once, towards minus infinity.
fn fma_down(a: f32, b: f32, c: f32) -> f32 {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    if !sum.is_finite() {
        return sum as f32;
    }
    if sum == 0.0 && product.is_sign_negative() != c.is_sign_negative() {
        return -0.0;
    }
    // The product is exact in f64; sum and rest together are the exact result (Knuth's TwoSum).
    let without = sum - product;
    let rest = (product - (sum - without)) + (c - without);
    let nearest = sum as f32;
    let is_above = f64::from(nearest) > sum || (f64::from(nearest) == sum && rest < 0.0);
    if is_above { nearest.next_down() } else { nearest }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(function: Float, ftz: bool, sources: [f32; 3]) -> u32 {
        compute(function, ftz, sources) as u32
    }

    #[test]
    fn fma_rounds_once() {
        let (a, tiny) = (1.0 + f32::EPSILON, 2.0_f32.powi(-60));
        // (1 + e)^2 - 1 - 2 e = e^2, which a product rounded by itself loses.
        let exact = f32::EPSILON * f32::EPSILON;
        assert_eq!(bits(Float::Fma, false, [a, a, -1.0 - 2.0 * f32::EPSILON]), exact.to_bits());
        assert_eq!(bits(Float::Fma, false, [1.0, 1.0, -tiny]), 1.0_f32.to_bits());
        assert_eq!(bits(Float::FmaDown, false, [1.0, 1.0, -tiny]), 1.0_f32.next_down().to_bits());
        assert_eq!(bits(Float::FmaDown, false, [1.0, 1.0, tiny]), 1.0_f32.to_bits());
        assert_eq!(bits(Float::FmaDown, false, [-1.0, 1.0, -tiny]), (-1.0_f32).next_down().to_bits());
        // Neither nearest nor in f64: 1 + 2^-24 + 2^-60.
        assert_eq!(
            bits(Float::FmaDown, false, [2.0_f32.powi(-24), 1.0 + 2.0_f32.powi(-20), 1.0]),
            1.0_f32.to_bits()
        );
        assert_eq!(bits(Float::FmaDown, false, [f32::MAX, 2.0, 0.0]), f32::MAX.to_bits());
        assert_eq!(bits(Float::FmaDown, false, [-f32::MAX, 2.0, 0.0]), f32::NEG_INFINITY.to_bits());
        assert_eq!(bits(Float::FmaDown, false, [1.0, 1.0, -1.0]), (-0.0_f32).to_bits());
        assert_eq!(bits(Float::FmaDown, false, [0.0, 1.0, 0.0]), 0);
    }

    #[test]
    fn nan_zeros_and_subnormals() {
        let (nan, small) = (f32::NAN, f32::from_bits(3));
        assert_eq!(bits(Float::Add, false, [nan, 1.0, 0.0]), NAN);
        assert_eq!(bits(Float::Sub, false, [f32::INFINITY, f32::INFINITY, 0.0]), NAN);
        assert_eq!(bits(Float::Max, false, [nan, -1.0, 0.0]), (-1.0_f32).to_bits());
        assert_eq!(bits(Float::Min, false, [2.0, nan, 0.0]), 2.0_f32.to_bits());
        assert_eq!(bits(Float::Max, false, [-0.0, 0.0, 0.0]), 0);
        assert_eq!(bits(Float::Min, false, [0.0, -0.0, 0.0]), 1 << 31);
        assert_eq!(bits(Float::Mul, false, [small, 1.0, 0.0]), 3);
        assert_eq!(bits(Float::Mul, true, [-small, 1.0, 0.0]), 1 << 31);
        assert_eq!(bits(Float::Ex2, true, [-127.0, 0.0, 0.0]), 0);
        assert_eq!(bits(Float::Ex2, false, [-127.0, 0.0, 0.0]), 0x0040_0000);
    }

    #[test]
    fn roots_quotients_and_powers() {
        let cases = [
            (Float::Div, [1.0, 3.0, 0.0], 1.0_f32 / 3.0),
            (Float::Rcp, [4.0, 0.0, 0.0], 0.25),
            (Float::Sqrt, [2.0, 0.0, 0.0], std::f32::consts::SQRT_2),
            (Float::Rsqrt, [16.0, 0.0, 0.0], 0.25),
            (Float::Ex2, [-3.0, 0.0, 0.0], 0.125),
            (Float::Ex2, [f32::NEG_INFINITY, 0.0, 0.0], 0.0),
            (Float::Lg2, [8.0, 0.0, 0.0], 3.0),
            (Float::Neg, [1.0, 0.0, 0.0], -1.0),
            (Float::Abs, [-1.0, 0.0, 0.0], 1.0),
        ];
        for (function, sources, expected) in cases {
            assert_eq!(bits(function, false, sources), expected.to_bits(), "{function:?}");
        }
    }
}
