//! Integers and bits: exact, then the lowest bits of the result.

use crate::error::Fault;
use crate::instruction::{Integer, Type};

/// Of up to four sources; the rest are 0.
pub(super) fn compute(function: Integer, ty: Type, sources: [u64; 4]) -> Result<u64, Fault> {
    let [a, b, c, _] = sources.map(|source| ty.extend(source));
    let wide = Type { bits: (2 * ty.bits).min(64), ..ty };
    if matches!(function, Integer::Div | Integer::Rem) && b == 0 {
        return Err(Fault::DivisionByZero);
    }
    // A shift by more than all bits shifts by all bits.
    let by = (sources[1] as u32).min(ty.bits);
    let value = match function {
        Integer::Add => a + b,
        Integer::Sub => a - b,
        Integer::MulLo | Integer::MulWide => a.wrapping_mul(b),
        Integer::MulHi => high(a, b, ty),
        Integer::MadLo => a.wrapping_mul(b).wrapping_add(c),
        Integer::MadWide => a * b + wide.extend(sources[2]),
        Integer::Div => a / b,
        Integer::Rem => a % b,
        Integer::Min => a.min(b),
        Integer::Max => a.max(b),
        Integer::Neg => -a,
        Integer::Abs => a.abs(),
        Integer::And => a & b,
        Integer::Or => a | b,
        Integer::Xor => a ^ b,
        Integer::Not => !a,
        Integer::Shl => a << by,
        Integer::Shr => a >> by,
        Integer::Insert => i128::from(insert(sources, ty.bits)),
    };
    Ok(value as u64)
}

/// The first source's bits in the second, from the third on, as many as the fourth says and fit; of both the lowest 8 bits count.
fn insert([from, into, start, count]: [u64; 4], bits: u32) -> u64 {
    let (start, count) = (start as u8, count as u8);
    let is_replaced = |bit: &u32| (u32::from(start)..u32::from(start) + u32::from(count)).contains(bit);
    let place = |whole: u64, bit: u32| whole & !(1 << bit) | (from >> (bit - u32::from(start)) & 1) << bit;
    (0..bits).filter(is_replaced).fold(into, place)
}

/// The upper half of a product. Two unsigned numbers of 64 bits overflow an `i128`, but not the bits.
fn high(a: i128, b: i128, ty: Type) -> i128 {
    let product = a.wrapping_mul(b);
    match a < 0 || b < 0 {
        true => product >> ty.bits,
        false => (product as u128 >> ty.bits) as i128,
    }
}
