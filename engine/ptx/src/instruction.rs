//! Instructions as data, and which operands each takes. Knows neither their text nor their effect.

/// How bits are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bits,
    Unsigned,
    Signed,
    Float,
    Predicate,
}

/// Type of an instruction or register, such as `s32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Type {
    pub(crate) kind: Kind,
    pub(crate) bits: u32,
}

impl Type {
    /// Of its name; `f32` is the only float.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        if name == "pred" {
            return Some(Self { kind: Kind::Predicate, bits: 1 });
        }
        let (kind, bits) = name.split_at_checked(1)?;
        let kind = match kind {
            "b" => Kind::Bits,
            "u" => Kind::Unsigned,
            "s" => Kind::Signed,
            "f" if bits == "32" => Kind::Float,
            _ => return None,
        };
        let bits = bits.parse().ok().filter(|bits| [8, 16, 32, 64].contains(bits))?;
        Some(Self { kind, bits })
    }

    pub(crate) fn is_integer(self) -> bool {
        matches!(self.kind, Kind::Unsigned | Kind::Signed)
    }

    pub(crate) fn bytes(self) -> usize {
        self.bits as usize / 8
    }

    /// The lowest bits as a number of this type, with its sign.
    pub(crate) fn extend(self, value: u64) -> i128 {
        let value = i128::from(value & mask(self.bits));
        let is_negative = self.kind == Kind::Signed && value >> (self.bits - 1) != 0;
        if is_negative { value - (1 << self.bits) } else { value }
    }
}

/// The lowest `bits` set.
pub(crate) fn mask(bits: u32) -> u64 {
    u64::MAX >> (64 - bits)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Integer {
    Add,
    Sub,
    MulLo,
    MulHi,
    /// To twice the bits.
    MulWide,
    MadLo,
    MadWide,
    Div,
    Rem,
    Min,
    Max,
    Neg,
    Abs,
    And,
    Or,
    Xor,
    Not,
    Shl,
    Shr,
    /// So many of the first's lowest bits into the second, from a bit on.
    Insert,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Float {
    Add,
    Sub,
    Mul,
    /// Rounded once, to the nearest.
    Fma,
    /// Rounded once, towards minus infinity.
    FmaDown,
    Div,
    Rcp,
    Sqrt,
    Rsqrt,
    Ex2,
    Lg2,
    Neg,
    Abs,
    Min,
    Max,
}

/// Which outcomes of a comparison are true; one operand NaN is unordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Comparison {
    pub(crate) less: bool,
    pub(crate) equal: bool,
    pub(crate) greater: bool,
    pub(crate) unordered: bool,
}

/// A float of 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    F16,
    Bf16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conversion {
    Integers {
        to: Type,
        from: Type,
    },
    /// To f32, the nearest.
    FromInteger(Type),
    /// Of f32, towards zero.
    ToInteger(Type),
    /// f32 into 0 to 1; NaN is 0.
    Saturate,
    Narrow(Half),
    /// Two f32, the first into the upper half.
    Pack(Half),
    Widen(Half),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    Parameter,
    Global,
    Shared,
    /// The address says whether global or shared.
    Generic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Butterfly,
    Up,
    Down,
    Index,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Integer(Integer, Type),
    /// With whether subnormals count as zeros.
    Float(Float, bool),
    Compare(Comparison, Type),
    Select(Type),
    Move(Type),
    Convert(Conversion),
    Load {
        space: Space,
        ty: Type,
        count: usize,
    },
    Store {
        space: Space,
        ty: Type,
        count: usize,
    },
    /// Atomic; whether a register gets what was there.
    Add {
        space: Space,
        ty: Type,
        returns: bool,
    },
    /// Asynchronous, from global to shared, of one of these numbers of bytes.
    Copy(&'static [u64]),
    CommitCopies,
    /// Until at most so many groups are left.
    WaitForCopies,
    WaitForAllCopies,
    /// To a space from generic.
    ToSpace(Space),
    /// To generic from a space.
    ToGeneric(Space),
    Branch,
    Return,
    Barrier,
    WarpBarrier,
    Shuffle(Shuffle),
    /// m16n8k16 of such inputs, f32 sums.
    MultiplyTiles(Half),
    /// 8 x 8 tiles of 16 bits.
    LoadTiles {
        count: usize,
        transposed: bool,
    },
}

/// What one operand must be; numbers are bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    Target(u32),
    /// A register of at least so many.
    WideTarget(u32),
    Source(u32),
    WideSource(u32),
    /// One register, or several that share the bits.
    PackedTarget(u32),
    PackedSource(u32),
    /// That many registers of at least so many bits.
    Targets(usize, u32),
    Sources(usize, u32),
    /// A register, and a predicate that may be absent.
    Pair(u32),
    Address,
    /// A number of the list.
    Number(&'static [u64]),
    /// May be absent, if it is the last.
    LastSource(u32),
    Label,
}

impl Operation {
    /// Whether the lanes of a warp do it together.
    pub(crate) fn is_of_warp(self) -> bool {
        matches!(self, Self::WarpBarrier | Self::Shuffle(_) | Self::MultiplyTiles(_) | Self::LoadTiles { .. })
    }

    /// Its operands, in order.
    pub(crate) fn slots(self) -> Vec<Slot> {
        use Slot::{
            Address, Label, LastSource, Number, PackedSource, PackedTarget, Pair, Source, Sources, Target,
            Targets, WideSource, WideTarget,
        };
        match self {
            Self::Integer(function, ty) => integer_slots(function, ty.bits),
            Self::Float(function, _) => {
                let mut slots = vec![Target(32)];
                slots.resize(1 + function.sources(), Source(32));
                slots
            }
            Self::Compare(_, ty) => vec![Target(1), Source(ty.bits), Source(ty.bits)],
            Self::Select(ty) => vec![Target(ty.bits), Source(ty.bits), Source(ty.bits), Source(1)],
            Self::Move(ty) => vec![PackedTarget(ty.bits), PackedSource(ty.bits)],
            Self::Convert(conversion) => match conversion {
                Conversion::Integers { to, from } => vec![WideTarget(to.bits), WideSource(from.bits)],
                Conversion::FromInteger(from) => vec![Target(32), WideSource(from.bits)],
                Conversion::ToInteger(to) => vec![WideTarget(to.bits), Source(32)],
                Conversion::Saturate => vec![Target(32), Source(32)],
                Conversion::Narrow(_) => vec![Target(16), Source(32)],
                Conversion::Pack(_) => vec![Target(32), Source(32), Source(32)],
                Conversion::Widen(_) => vec![Target(32), Source(16)],
            },
            Self::Load { ty, count, .. } => vec![Targets(count, ty.bits), Address],
            Self::Store { ty, count, .. } => vec![Address, Sources(count, ty.bits)],
            Self::Add { ty, returns: true, .. } => vec![Target(ty.bits), Address, Source(ty.bits)],
            Self::Add { ty, .. } => vec![Address, Source(ty.bits)],
            Self::Copy(sizes) => vec![Address, Address, Number(sizes), LastSource(32)],
            Self::CommitCopies | Self::WaitForAllCopies => Vec::new(),
            Self::WaitForCopies => vec![Source(32)],
            Self::ToSpace(_) | Self::ToGeneric(_) => vec![Target(64), Source(64)],
            Self::Branch => vec![Label],
            Self::Return => Vec::new(),
            Self::Barrier | Self::WarpBarrier => vec![Source(32)],
            Self::Shuffle(_) => vec![Pair(32), Source(32), Source(32), Source(32), Source(32)],
            Self::MultiplyTiles(_) => {
                vec![Targets(4, 32), Sources(4, 32), Sources(2, 32), Sources(4, 32)]
            }
            Self::LoadTiles { count, .. } => vec![Targets(count, 32), Address],
        }
    }
}

impl Float {
    fn sources(self) -> usize {
        match self {
            Self::Fma | Self::FmaDown => 3,
            Self::Add | Self::Sub | Self::Mul | Self::Div | Self::Min | Self::Max => 2,
            Self::Rcp | Self::Sqrt | Self::Rsqrt | Self::Ex2 | Self::Lg2 | Self::Neg | Self::Abs => 1,
        }
    }
}

fn integer_slots(function: Integer, bits: u32) -> Vec<Slot> {
    let (target, source) = (Slot::Target(bits), Slot::Source(bits));
    match function {
        Integer::MulWide => vec![Slot::Target(2 * bits), source, source],
        Integer::MadWide => vec![Slot::Target(2 * bits), source, source, Slot::Source(2 * bits)],
        Integer::MadLo => vec![target, source, source, source],
        Integer::Neg | Integer::Abs | Integer::Not => vec![target, source],
        Integer::Shl | Integer::Shr => vec![target, source, Slot::Source(32)],
        Integer::Insert => vec![target, source, source, Slot::Source(32), Slot::Source(32)],
        _ => vec![target, source, source],
    }
}

/// What a thread is, from the hardware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Special {
    Thread(usize),
    Threads(usize),
    Block(usize),
    Blocks(usize),
    Lane,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operand {
    /// Index into the kernel's registers.
    Register(usize),
    Immediate(u64),
    Special(Special),
    /// A register's value, or 0, and an offset.
    Address(Option<usize>, i64),
    Vector(Vec<Operand>),
    Pair(usize, usize),
    /// Index into the kernel's instructions.
    Label(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) line: usize,
    /// The line's text, for messages.
    pub(crate) text: String,
    /// A predicate, and what it must be for the instruction to be executed.
    pub(crate) guard: Option<(usize, bool)>,
    pub(crate) operation: Operation,
    pub(crate) operands: Vec<Operand>,
}
