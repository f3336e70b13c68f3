//! One instruction of one thread, or of one warp. Knows no other threads and not who runs when.

mod convert;
mod copy;
mod float;
mod integer;
mod space;
mod warp;

use std::cmp::Ordering;

use crate::error::Fault;
use crate::instruction::{Comparison, Instruction, Kind, Operand, Operation, Special, Type, mask};
use crate::memory::{Memory, SharedMemory};
use crate::module::Register;
use crate::race::Access;

pub(crate) use copy::Copies;
pub(crate) use warp::together;

pub(crate) const WARP: u32 = 32;

/// A thread of the block that runs.
pub(crate) struct Thread {
    /// In the block, x first.
    pub(crate) number: u32,
    pub(crate) place: [u32; 3],
    /// The next instruction.
    pub(crate) at: usize,
    /// None: not written yet.
    pub(crate) registers: Vec<Option<u64>>,
    /// Barriers of its warp so far.
    pub(crate) warp_epoch: u32,
    pub(crate) copies: Copies,
}

/// What threads of a block share.
pub(crate) struct Block<'a> {
    pub(crate) registers: &'a [Register],
    pub(crate) parameters: &'a [u8],
    pub(crate) global: &'a mut Memory,
    pub(crate) shared: SharedMemory,
    pub(crate) number: u32,
    pub(crate) place: [u32; 3],
    pub(crate) blocks: [u32; 3],
    pub(crate) threads: [u32; 3],
    /// Barriers of the block so far.
    pub(crate) epoch: u32,
}

/// Where a thread goes on.
pub(crate) enum Flow {
    Next,
    Jump(usize),
    End,
}

impl Thread {
    /// What the target register becomes.
    fn write(&mut self, target: &Operand, value: u64, registers: &[Register]) {
        let (Operand::Register(register) | Operand::Pair(register, _)) = target else {
            unreachable!("the parser lets only registers be targets");
        };
        self.registers[*register] = Some(value & mask(registers[*register].bits));
    }
}

impl Block<'_> {
    pub(crate) fn access(&self, thread: &Thread) -> Access {
        Access { block: self.number, thread: thread.number, epoch: self.epoch, warp_epoch: thread.warp_epoch }
    }

    fn register(&self, thread: &Thread, register: usize) -> Result<u64, Fault> {
        let unwritten = || Fault::UnwrittenRegister { name: self.registers[register].name.clone() };
        thread.registers[register].ok_or_else(unwritten)
    }

    pub(crate) fn read(&self, thread: &Thread, operand: &Operand) -> Result<u64, Fault> {
        match operand {
            Operand::Register(register) => self.register(thread, *register),
            Operand::Immediate(value) => Ok(*value),
            Operand::Special(special) => Ok(u64::from(match *special {
                Special::Thread(axis) => thread.place[axis],
                Special::Threads(axis) => self.threads[axis],
                Special::Block(axis) => self.place[axis],
                Special::Blocks(axis) => self.blocks[axis],
                Special::Lane => thread.number % WARP,
            })),
            Operand::Address(base, offset) => {
                let base = base.map_or(Ok(0), |base| self.register(thread, base))?;
                Ok(base.wrapping_add_signed(*offset))
            }
            Operand::Vector(_) | Operand::Pair(..) | Operand::Label(_) => {
                unreachable!("the parser lets none of these be read")
            }
        }
    }

    /// All of a vector, or the one.
    fn read_all(&self, thread: &Thread, operand: &Operand) -> Result<Vec<u64>, Fault> {
        elements(operand).iter().map(|one| self.read(thread, one)).collect()
    }

    /// The operands behind the target.
    fn sources<const N: usize>(&self, thread: &Thread, operands: &[Operand]) -> Result<[u64; N], Fault> {
        let mut sources = [0; N];
        for (source, operand) in sources.iter_mut().zip(&operands[1..]) {
            *source = self.read(thread, operand)?;
        }
        Ok(sources)
    }

    /// Whether a thread's guard lets it execute this.
    pub(crate) fn is_let(&self, thread: &Thread, instruction: &Instruction) -> Result<bool, Fault> {
        let Some((register, expected)) = instruction.guard else { return Ok(true) };
        Ok((self.register(thread, register)? != 0) == expected)
    }

    /// Executes what a thread does alone: all but barriers and what warps do.
    pub(crate) fn alone(&mut self, thread: &mut Thread, instruction: &Instruction) -> Result<Flow, Fault> {
        let operands = instruction.operands.as_slice();
        let value = match instruction.operation {
            Operation::Integer(function, ty) => {
                // Unary ones have no second operand, most have no third, and one has a fourth.
                let mut sources = [0; 4];
                for (source, operand) in sources.iter_mut().zip(&operands[1..]) {
                    *source = self.read(thread, operand)?;
                }
                integer::compute(function, ty, sources)?
            }
            Operation::Float(function, ftz) => {
                let sources: [u64; 3] = self.sources(thread, operands)?;
                float::compute(function, ftz, sources.map(|bits| f32::from_bits(bits as u32)))
            }
            Operation::Compare(comparison, ty) => {
                let [a, b] = self.sources(thread, operands)?;
                u64::from(compare(comparison, ty, a, b))
            }
            Operation::Select(_) => {
                let chosen = if self.read(thread, &operands[3])? != 0 { &operands[1] } else { &operands[2] };
                self.read(thread, chosen)?
            }
            Operation::Convert(conversion) => {
                let sources: [u64; 2] = self.sources(thread, operands)?;
                convert::convert(conversion, sources)
            }
            Operation::Move(_)
            | Operation::Load { .. }
            | Operation::Store { .. }
            | Operation::Add { .. }
            | Operation::Copy(_)
            | Operation::CommitCopies
            | Operation::WaitForCopies
            | Operation::WaitForAllCopies => {
                self.transfer(thread, instruction)?;
                return Ok(Flow::Next);
            }
            Operation::ToSpace(to) => space::to_space(to, self.read(thread, &operands[1])?)?,
            Operation::ToGeneric(from) => space::to_generic(from, self.read(thread, &operands[1])?),
            Operation::Branch => {
                let Operand::Label(target) = operands[0] else { unreachable!("the parser checks") };
                return Ok(Flow::Jump(target));
            }
            Operation::Return => return Ok(Flow::End),
            Operation::Barrier
            | Operation::WarpBarrier
            | Operation::Shuffle(_)
            | Operation::MultiplyTiles(_)
            | Operation::LoadTiles { .. } => unreachable!("threads do it together"),
        };
        thread.write(&operands[0], value, self.registers);
        Ok(Flow::Next)
    }

    /// Moves, and what touches memory: these write their targets themselves.
    fn transfer(&mut self, thread: &mut Thread, instruction: &Instruction) -> Result<(), Fault> {
        let operands = instruction.operands.as_slice();
        match instruction.operation {
            Operation::Move(ty) => self.unpack(thread, ty, operands),
            Operation::Load { space, ty, count } => self.load(thread, space, ty, count, operands),
            Operation::Store { space, ty, count } => self.store(thread, space, ty, count, operands),
            Operation::Add { space, ty, returns } => self.add(thread, space, ty, returns, operands),
            Operation::Copy(_) => self.copy(thread, operands),
            Operation::CommitCopies => {
                thread.copies.commit();
                Ok(())
            }
            Operation::WaitForCopies => {
                let left = self.read(thread, &operands[0])? as usize;
                self.wait_for_copies(thread, Some(left))
            }
            Operation::WaitForAllCopies => self.wait_for_copies(thread, None),
            _ => unreachable!("the caller has the others"),
        }
    }

    /// A move, which joins the parts of a vector, the first lowest, and takes apart into one.
    fn unpack(&self, thread: &mut Thread, ty: Type, operands: &[Operand]) -> Result<(), Fault> {
        let parts = self.read_all(thread, &operands[1])?;
        let bits = ty.bits / parts.len() as u32;
        let join = |whole, (i, part): (u32, &u64)| whole | (part & mask(bits)) << (i * bits);
        let whole = (0..).zip(&parts).fold(0, join);
        let targets = elements(&operands[0]);
        let bits = ty.bits / targets.len() as u32;
        for (i, target) in (0..).zip(targets) {
            thread.write(target, whole >> (i * bits), self.registers);
        }
        Ok(())
    }
}

fn elements(operand: &Operand) -> &[Operand] {
    match operand {
        Operand::Vector(elements) => elements,
        one => std::slice::from_ref(one),
    }
}

fn compare(comparison: Comparison, ty: Type, a: u64, b: u64) -> bool {
    let order = match ty.kind {
        Kind::Float => f32::from_bits(a as u32).partial_cmp(&f32::from_bits(b as u32)),
        _ => Some(ty.extend(a).cmp(&ty.extend(b))),
    };
    match order {
        Some(Ordering::Less) => comparison.less,
        Some(Ordering::Equal) => comparison.equal,
        Some(Ordering::Greater) => comparison.greater,
        None => comparison.unordered,
    }
}
