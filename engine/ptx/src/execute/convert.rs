//! Conversions between integers, f32 and the floats of 16 bits.

use half::{bf16, f16};

use crate::instruction::{Conversion, Half, Kind};

/// To bits; the target register cuts what is too long, of a negative number too.
pub(super) fn convert(conversion: Conversion, sources: [u64; 2]) -> u64 {
    let float = f32::from_bits(sources[0] as u32);
    match conversion {
        // From the source's type into the target's, and from there on with its sign: the register may be longer.
        Conversion::Integers { to, from } => to.extend(from.extend(sources[0]) as u64) as u64,
        Conversion::FromInteger(from) => u64::from((from.extend(sources[0]) as f32).to_bits()),
        // `as` ends at i128's limits, and NaN is 0.
        Conversion::ToInteger(to) => {
            let [least, most] = match to.kind {
                Kind::Signed => [-(1 << (to.bits - 1)), (1 << (to.bits - 1)) - 1],
                _ => [0, (1 << to.bits) - 1],
            };
            (float as i128).clamp(least, most) as u64
        }
        Conversion::Saturate => {
            let value = if float.is_nan() { 0.0 } else { float.clamp(0.0, 1.0) };
            // PTX has +0 for -0.
            u64::from((value + 0.0).to_bits())
        }
        Conversion::Narrow(half) => u64::from(narrow(half, float)),
        Conversion::Pack(half) => {
            let low = f32::from_bits(sources[1] as u32);
            u64::from(narrow(half, float)) << 16 | u64::from(narrow(half, low))
        }
        Conversion::Widen(half) => u64::from(widen(half, sources[0] as u16).to_bits()),
    }
}

/// To the nearest, of two the even one; NaN is 0x7fff.
fn narrow(half: Half, value: f32) -> u16 {
    match half {
        _ if value.is_nan() => 0x7fff,
        Half::F16 => f16::from_f32(value).to_bits(),
        Half::Bf16 => bf16::from_f32(value).to_bits(),
    }
}

pub(super) fn widen(half: Half, bits: u16) -> f32 {
    match half {
        Half::F16 => f16::from_bits(bits).to_f32(),
        Half::Bf16 => bf16::from_bits(bits).to_f32(),
    }
}
