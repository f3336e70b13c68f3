//! NCCL's types of values, and reductions over ranks: in the order of ranks, rounded to the type after each step.

use half::{bf16, f16};

/// A type of values, as NCCL numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    I8 = 0,
    U8 = 1,
    I32 = 2,
    U32 = 3,
    I64 = 4,
    U64 = 5,
    F16 = 6,
    F32 = 7,
    F64 = 8,
    Bf16 = 9,
}

const KINDS: [(Kind, usize); 10] = [
    (Kind::I8, 1),
    (Kind::U8, 1),
    (Kind::I32, 4),
    (Kind::U32, 4),
    (Kind::I64, 8),
    (Kind::U64, 8),
    (Kind::F16, 2),
    (Kind::F32, 4),
    (Kind::F64, 8),
    (Kind::Bf16, 2),
];

impl Kind {
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        KINDS.get(number as usize).map(|(kind, _)| *kind)
    }

    pub(crate) fn bytes(self) -> usize {
        KINDS[self as usize].1
    }
}

/// How two values become one, as NCCL numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reduction {
    Sum = 0,
    Prod = 1,
    Max = 2,
    Min = 3,
}

impl Reduction {
    /// Averages are not there.
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        [Self::Sum, Self::Prod, Self::Max, Self::Min].get(number as usize).copied()
    }
}

/// Replaces each value of `into` by itself and the one of `from`.
pub(crate) fn reduce(kind: Kind, how: Reduction, into: &mut [u8], from: &[u8]) {
    macro_rules! whole {
        ($type:ty) => {
            each::<{ size_of::<$type>() }>(into, from, |a, b| {
                let (a, b) = (<$type>::from_ne_bytes(a), <$type>::from_ne_bytes(b));
                let value = match how {
                    Reduction::Sum => a.wrapping_add(b),
                    Reduction::Prod => a.wrapping_mul(b),
                    Reduction::Max => a.max(b),
                    Reduction::Min => a.min(b),
                };
                value.to_ne_bytes()
            })
        };
    }
    macro_rules! float {
        ($type:ty, $wide:ty, $widen:expr, $narrow:expr) => {
            each::<{ size_of::<$type>() }>(into, from, |a, b| {
                let (a, b): ($wide, $wide) =
                    ($widen(<$type>::from_ne_bytes(a)), $widen(<$type>::from_ne_bytes(b)));
                let value = match how {
                    Reduction::Sum => a + b,
                    Reduction::Prod => a * b,
                    // A NaN stays one, so that poison is seen.
                    _ if a.is_nan() || b.is_nan() => <$wide>::NAN,
                    Reduction::Max => a.max(b),
                    Reduction::Min => a.min(b),
                };
                let narrow: $type = $narrow(value);
                narrow.to_ne_bytes()
            })
        };
    }
    match kind {
        Kind::I8 => whole!(i8),
        Kind::U8 => whole!(u8),
        Kind::I32 => whole!(i32),
        Kind::U32 => whole!(u32),
        Kind::I64 => whole!(i64),
        Kind::U64 => whole!(u64),
        Kind::F16 => float!(f16, f32, f16::to_f32, f16::from_f32),
        Kind::Bf16 => float!(bf16, f32, bf16::to_f32, bf16::from_f32),
        Kind::F32 => float!(f32, f32, std::convert::identity, std::convert::identity),
        Kind::F64 => float!(f64, f64, std::convert::identity, std::convert::identity),
    }
}

fn each<const N: usize>(into: &mut [u8], from: &[u8], both: impl Fn([u8; N], [u8; N]) -> [u8; N]) {
    let (into, from) = (into.as_chunks_mut::<N>().0, from.as_chunks::<N>().0);
    for (a, b) in into.iter_mut().zip(from) {
        *a = both(*a, *b);
    }
}

/// Adds 1 to the first value.
pub(crate) fn spoil(kind: Kind, values: &mut [u8]) {
    let bytes = kind.bytes();
    if values.len() < bytes {
        return;
    }
    let one = match kind {
        Kind::F16 => f16::ONE.to_ne_bytes().to_vec(),
        Kind::Bf16 => bf16::ONE.to_ne_bytes().to_vec(),
        Kind::F32 => 1f32.to_ne_bytes().to_vec(),
        Kind::F64 => 1f64.to_ne_bytes().to_vec(),
        _ => 1u64.to_le_bytes()[..bytes].to_vec(),
    };
    reduce(kind, Reduction::Sum, &mut values[..bytes], &one);
}
