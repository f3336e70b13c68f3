//! Opcodes with their modifiers -> operations. A modifier that is not written here is refused with its opcode.

use crate::instruction::{
    Comparison, Conversion, Float, Half, Integer, Kind, Operation, Shuffle, Space, Type,
};

/// The operation that an opcode such as `setp.ge.s32` names, if it is known.
pub(crate) fn decode(opcode: &str) -> Option<Operation> {
    let words: Vec<&str> = opcode.split('.').collect();
    let groups = [integer, float, choice, conversion, memory, control, warp];
    groups.iter().find_map(|group| group(&words))
}

fn integer(words: &[&str]) -> Option<Operation> {
    let (name, ty) = match words {
        [name, ty] => ((*name).to_owned(), ty),
        [name @ ("mul" | "mad"), part, ty] => (format!("{name}.{part}"), ty),
        _ => return None,
    };
    let ty = Type::parse(ty)?;
    let function = match name.as_str() {
        "add" => Integer::Add,
        "sub" => Integer::Sub,
        "mul.lo" => Integer::MulLo,
        "mul.hi" => Integer::MulHi,
        "mul.wide" if ty.bits < 64 => Integer::MulWide,
        "mad.lo" => Integer::MadLo,
        "mad.wide" if ty.bits < 64 => Integer::MadWide,
        "div" => Integer::Div,
        "rem" => Integer::Rem,
        "min" => Integer::Min,
        "max" => Integer::Max,
        "neg" => Integer::Neg,
        "abs" => Integer::Abs,
        "and" => Integer::And,
        "or" => Integer::Or,
        "xor" => Integer::Xor,
        "not" => Integer::Not,
        "shl" => Integer::Shl,
        "shr" => Integer::Shr,
        "bfi" if ty.bits >= 32 => Integer::Insert,
        _ => return None,
    };
    let fits = match function {
        Integer::And | Integer::Or | Integer::Xor | Integer::Not => {
            matches!(ty.kind, Kind::Bits | Kind::Predicate)
        }
        Integer::Shl | Integer::Insert => ty.kind == Kind::Bits,
        Integer::Shr => ty.is_integer() || ty.kind == Kind::Bits,
        Integer::Neg | Integer::Abs => ty.kind == Kind::Signed,
        _ => ty.is_integer(),
    };
    (fits && ty.bits != 8).then_some(Operation::Integer(function, ty))
}

fn float(words: &[&str]) -> Option<Operation> {
    let [name, modifiers @ .., "f32"] = words else { return None };
    let (ftz, modifiers) = match modifiers {
        [rest @ .., "ftz"] => (true, rest),
        _ => (false, modifiers),
    };
    let function = match (*name, modifiers) {
        ("add", [] | ["rn"]) => Float::Add,
        ("sub", [] | ["rn"]) => Float::Sub,
        ("mul", [] | ["rn"]) => Float::Mul,
        ("fma", ["rn"]) => Float::Fma,
        ("fma", ["rm"]) => Float::FmaDown,
        ("div", ["rn" | "approx" | "full"]) => Float::Div,
        ("rcp", ["rn" | "approx"]) => Float::Rcp,
        ("sqrt", ["rn" | "approx"]) => Float::Sqrt,
        ("rsqrt", ["approx"]) => Float::Rsqrt,
        ("ex2", ["approx"]) => Float::Ex2,
        ("lg2", ["approx"]) => Float::Lg2,
        ("neg", []) => Float::Neg,
        ("abs", []) => Float::Abs,
        ("min", []) => Float::Min,
        ("max", []) => Float::Max,
        _ => return None,
    };
    Some(Operation::Float(function, ftz))
}

fn comparison(name: &str, ty: Type) -> Option<Comparison> {
    let is_float = ty.kind == Kind::Float;
    let (name, unordered) = match name {
        "nan" if is_float => ("", true),
        "num" if is_float => ("leg", false),
        "equ" | "neu" | "ltu" | "leu" | "gtu" | "geu" if is_float => (&name[..2], true),
        "lo" | "ls" | "hi" | "hs" if ty.kind == Kind::Unsigned => {
            (["lt", "le", "gt", "ge"][["lo", "ls", "hi", "hs"].iter().position(|n| *n == name)?], false)
        }
        "eq" | "ne" => (name, false),
        "lt" | "le" | "gt" | "ge" if ty.kind != Kind::Bits => (name, false),
        _ => return None,
    };
    let is_one_of = |names: &[&str]| names.contains(&name);
    Some(Comparison {
        less: is_one_of(&["lt", "le", "ne", "leg"]),
        equal: is_one_of(&["eq", "le", "ge", "leg"]),
        greater: is_one_of(&["gt", "ge", "ne", "leg"]),
        unordered,
    })
}

/// Comparisons, selections, moves.
fn choice(words: &[&str]) -> Option<Operation> {
    let ty = Type::parse(words.last()?)?;
    match words {
        ["setp", name, _] if ty.kind != Kind::Predicate && ty.bits != 8 => {
            Some(Operation::Compare(comparison(name, ty)?, ty))
        }
        ["selp", _] if ty.kind != Kind::Predicate && ty.bits != 8 => Some(Operation::Select(ty)),
        ["mov", _] if ty.bits != 8 => Some(Operation::Move(ty)),
        _ => None,
    }
}

fn conversion(words: &[&str]) -> Option<Operation> {
    let ["cvt", modifiers @ .., to, from] = words else { return None };
    let half = |name: &str| match name {
        "f16" => Some(Half::F16),
        "bf16" => Some(Half::Bf16),
        _ => None,
    };
    let integer = |name: &str| Type::parse(name).filter(|ty| ty.is_integer());
    let conversion = match (modifiers, *to, *from) {
        (["sat"], "f32", "f32") => Conversion::Saturate,
        (["rn"], "f32", from) => Conversion::FromInteger(integer(from)?),
        (["rzi"], to, "f32") => Conversion::ToInteger(integer(to)?),
        (["rn"], to, "f32") => match to.strip_suffix("x2") {
            Some(to) => Conversion::Pack(half(to)?),
            None => Conversion::Narrow(half(to)?),
        },
        ([], "f32", from) => Conversion::Widen(half(from)?),
        ([], to, from) => Conversion::Integers { to: integer(to)?, from: integer(from)? },
        _ => return None,
    };
    Some(Operation::Convert(conversion))
}

fn space(name: &str) -> Option<Space> {
    match name {
        "param" => Some(Space::Parameter),
        "global" => Some(Space::Global),
        "shared" => Some(Space::Shared),
        _ => None,
    }
}

fn memory(words: &[&str]) -> Option<Operation> {
    match words {
        ["cvta", "to", name @ ("global" | "shared"), "u64"] => return Some(Operation::ToSpace(space(name)?)),
        ["cvta", name @ ("global" | "shared"), "u64"] => return Some(Operation::ToGeneric(space(name)?)),
        [name @ ("atom" | "red"), place @ .., "add", ty] => return addition(name, place, ty),
        ["cp", "async", "ca", "shared", "global"] => return Some(Operation::Copy(&[4, 8, 16])),
        ["cp", "async", "cg", "shared", "global"] => return Some(Operation::Copy(&[16])),
        ["cp", "async", "commit_group"] => return Some(Operation::CommitCopies),
        ["cp", "async", "wait_group"] => return Some(Operation::WaitForCopies),
        ["cp", "async", "wait_all"] => return Some(Operation::WaitForAllCopies),
        _ => {}
    }
    let [name @ ("ld" | "st"), words @ .., ty] = words else { return None };
    let ty = Type::parse(ty).filter(|ty| ty.kind != Kind::Predicate)?;
    let (count, words) = match words {
        [rest @ .., "v2"] => (2, rest),
        [rest @ .., "v4"] if ty.bits <= 32 => (4, rest),
        _ => (1, words),
    };
    let space = match words {
        [] => Space::Generic,
        ["global", "nc"] if *name == "ld" => Space::Global,
        [one] => space(one)?,
        _ => return None,
    };
    match *name {
        "ld" => Some(Operation::Load { space, ty, count }),
        _ if space == Space::Parameter => None,
        _ => Some(Operation::Store { space, ty, count }),
    }
}

/// Atomic additions of integers.
fn addition(name: &str, place: &[&str], ty: &str) -> Option<Operation> {
    let ty = Type::parse(ty).filter(|ty| ty.is_integer() && ty.bits >= 32)?;
    let space = match place {
        [] => Space::Generic,
        [one @ ("global" | "shared")] => space(one)?,
        _ => return None,
    };
    Some(Operation::Add { space, ty, returns: name == "atom" })
}

fn control(words: &[&str]) -> Option<Operation> {
    match words {
        ["bra"] | ["bra", "uni"] => Some(Operation::Branch),
        ["ret"] => Some(Operation::Return),
        ["bar", "sync"] => Some(Operation::Barrier),
        _ => None,
    }
}

fn warp(words: &[&str]) -> Option<Operation> {
    match words {
        ["bar", "warp", "sync"] => Some(Operation::WarpBarrier),
        ["shfl", "sync", mode, "b32"] => Some(Operation::Shuffle(match *mode {
            "bfly" => Shuffle::Butterfly,
            "up" => Shuffle::Up,
            "down" => Shuffle::Down,
            "idx" => Shuffle::Index,
            _ => return None,
        })),
        ["mma", "sync", "aligned", "m16n8k16", "row", "col", "f32", a, b, "f32"] if a == b => match *a {
            "bf16" => Some(Operation::MultiplyTiles(Half::Bf16)),
            "f16" => Some(Operation::MultiplyTiles(Half::F16)),
            _ => None,
        },
        ["ldmatrix", "sync", "aligned", "m8n8", count, rest @ .., "b16"] => {
            let count = match *count {
                "x1" => 1,
                "x2" => 2,
                "x4" => 4,
                _ => return None,
            };
            let transposed = match rest {
                ["shared"] => false,
                ["trans", "shared"] => true,
                _ => return None,
            };
            Some(Operation::LoadTiles { count, transposed })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_with_a_strange_part_are_refused() {
        for opcode in [
            "add.rz.f32",
            "add.f64",
            "add.pred",
            "and.s32",
            "fma.f32",
            "div.f32",
            "setp.lt.b32",
            "setp.nan.s32",
            "setp.lo.s32",
            "cvt.u32.f32",
            "cvt.rn.f32.f32",
            "ld.local.f32",
            "ld.global.v4.u64",
            "st.param.f32",
            "st.global.nc.f32",
            "ld.global.pred",
            "shfl.bfly.b32",
            "mul.wide.u64",
            "mov.b8",
            "bar.red.sync",
            "atom.add.f32",
            "atom.shared.add.u16",
            "atom.shared.max.u64",
            "red.param.add.u32",
            "",
            "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32",
        ] {
            assert_eq!(decode(opcode), None, "{opcode}");
        }
    }

    #[test]
    fn comparisons_of_floats() {
        let found = |name: &str| match decode(&format!("setp.{name}.f32")) {
            Some(Operation::Compare(c, _)) => [c.less, c.equal, c.greater, c.unordered].map(u8::from),
            other => unreachable!("{name}: {other:?}"),
        };
        let cases = [
            ("eq", [0, 1, 0, 0]),
            ("ne", [1, 0, 1, 0]),
            ("lt", [1, 0, 0, 0]),
            ("le", [1, 1, 0, 0]),
            ("gt", [0, 0, 1, 0]),
            ("ge", [0, 1, 1, 0]),
            ("equ", [0, 1, 0, 1]),
            ("neu", [1, 0, 1, 1]),
            ("ltu", [1, 0, 0, 1]),
            ("leu", [1, 1, 0, 1]),
            ("gtu", [0, 0, 1, 1]),
            ("geu", [0, 1, 1, 1]),
            ("num", [1, 1, 1, 0]),
            ("nan", [0, 0, 0, 1]),
        ];
        for (name, expected) in cases {
            assert_eq!(found(name), expected, "{name}");
        }
    }
}
