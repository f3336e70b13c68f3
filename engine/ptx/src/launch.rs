//! Launches: blocks one after another, a block's threads each until it ends or must meet others. Knows no instruction's effect.

use crate::error::{Fault, LaunchError};
use crate::execute::{Block, Copies, Flow, Thread, WARP, together};
use crate::instruction::{Instruction, Operand, Operation};
use crate::memory::{Buffer, Memory, SharedMemory};
use crate::module::{Kernel, Module};

/// Instructions after which a launch counts as endless.
const STEPS_MAX: u64 = 50_000_000;

/// An argument of a kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs, reason = "named as their types")]
pub enum Argument {
    Buffer(Buffer),
    Null,
    I32(i32),
    U32(u32),
    I64(i64),
    F32(f32),
}

/// How many blocks and threads, x first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Blocks of the grid.
    pub blocks: [u32; 3],
    /// Threads of a block, at most 1024 in all.
    pub threads: [u32; 3],
    /// Bytes of `extern __shared__` memory.
    pub shared_bytes: usize,
}

impl Argument {
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Buffer(buffer) => buffer.address().to_le_bytes().to_vec(),
            Self::Null => vec![0; 8],
            Self::I32(value) => value.to_le_bytes().to_vec(),
            Self::U32(value) => value.to_le_bytes().to_vec(),
            Self::I64(value) => value.to_le_bytes().to_vec(),
            Self::F32(value) => value.to_le_bytes().to_vec(),
        }
    }
}

impl Module {
    /// Runs a kernel to its end. After an error the buffers are as the error left them.
    pub fn launch(
        &self,
        name: &str,
        shape: Shape,
        arguments: &[Argument],
        memory: &mut Memory,
    ) -> Result<(), LaunchError> {
        let kernel = self.kernels.get(name).ok_or_else(|| LaunchError::NoKernel(name.to_owned()))?;
        let parameters = parameters(kernel, arguments)?;
        let count = |counts: [u32; 3]| counts.iter().map(|count| u64::from(*count)).product::<u64>();
        if !(1..=1024).contains(&count(shape.threads)) || count(shape.blocks) == 0 {
            return Err(LaunchError::Shape { kernel: name.to_owned() });
        }
        memory.forget_accesses();
        let mut steps = 0;
        for number in 0..count(shape.blocks) as u32 {
            let block = Block {
                registers: &kernel.registers,
                parameters: &parameters,
                global: memory,
                shared: SharedMemory::new(kernel.shared.iter().map(|one| one.place(shape.shared_bytes))),
                number,
                place: place(number, shape.blocks),
                blocks: shape.blocks,
                threads: shape.threads,
                epoch: 0,
            };
            Run::new(kernel, block, count(shape.threads) as u32, &mut steps).run()?;
        }
        Ok(())
    }
}

/// The bytes of parameter space.
fn parameters(kernel: &Kernel, arguments: &[Argument]) -> Result<Vec<u8>, LaunchError> {
    let (expected, found) = (kernel.parameters.len(), arguments.len());
    if expected != found {
        return Err(LaunchError::Arguments { kernel: kernel.name.clone(), expected, found });
    }
    let mut bytes = Vec::new();
    for (index, (parameter, argument)) in kernel.parameters.iter().zip(arguments).enumerate() {
        let (expected, argument) = (parameter.bytes.unwrap_or(0), argument.bytes());
        if argument.len() != expected {
            let (kernel, found) = (kernel.name.clone(), argument.len());
            return Err(LaunchError::Argument { kernel, index, expected, found });
        }
        bytes.resize(parameter.start as usize, 0);
        bytes.extend(argument);
    }
    Ok(bytes)
}

fn place(number: u32, counts: [u32; 3]) -> [u32; 3] {
    [number % counts[0], number / counts[0] % counts[1], number / counts[0] / counts[1]]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    /// Before a barrier of the block.
    AtBarrier,
    /// Before an instruction of lanes with these numbers' bits.
    InWarp(u32),
    Ended,
}

/// One block on its way.
struct Run<'a> {
    kernel: &'a Kernel,
    block: Block<'a>,
    threads: Vec<Thread>,
    states: Vec<State>,
    steps: &'a mut u64,
}

impl<'a> Run<'a> {
    fn new(kernel: &'a Kernel, block: Block<'a>, count: u32, steps: &'a mut u64) -> Self {
        let thread = |number| Thread {
            number,
            place: place(number, block.threads),
            at: 0,
            registers: vec![None; kernel.registers.len()],
            warp_epoch: 0,
            copies: Copies::default(),
        };
        let threads = (0..count).map(thread).collect();
        Self { kernel, block, threads, states: vec![State::Ready; count as usize], steps }
    }

    fn run(mut self) -> Result<(), LaunchError> {
        loop {
            for warp in 0..self.threads.len().div_ceil(WARP as usize) {
                self.run_warp(warp)?;
            }
            if self.states.iter().all(|state| *state == State::Ended) {
                return Ok(());
            }
            self.pass_barrier()?;
        }
    }

    fn fault(&self, thread: usize, fault: Fault) -> LaunchError {
        let at = self.threads[thread].at;
        let (line, text) = self.kernel.instructions.get(at).map_or((0, ""), |i| (i.line, i.text.as_str()));
        LaunchError::Fault {
            kernel: self.kernel.name.clone(),
            block: self.block.number,
            thread: thread as u32,
            line,
            text: text.to_owned(),
            fault,
        }
    }

    /// One thread meets others that do not come, such as this one.
    fn divergence(&self, thread: usize, other: usize) -> LaunchError {
        let instruction = self.instruction(other);
        let place = match (self.states[other], instruction) {
            (State::Ended, _) | (_, None) => "has returned".to_owned(),
            (_, Some(instruction)) => format!("waits in line {} `{}`", instruction.line, instruction.text),
        };
        self.fault(thread, Fault::Divergence { thread: other as u32, place })
    }

    fn instruction(&self, thread: usize) -> Option<&'a Instruction> {
        self.kernel.instructions.get(self.threads[thread].at)
    }

    /// Until no lane can go on alone or with its warp.
    fn run_warp(&mut self, warp: usize) -> Result<(), LaunchError> {
        let lanes = warp * WARP as usize..self.threads.len().min((warp + 1) * WARP as usize);
        loop {
            for thread in lanes.clone() {
                if self.states[thread] == State::Ready {
                    self.states[thread] =
                        self.run_thread(thread).map_err(|fault| self.fault(thread, fault))?;
                }
            }
            let mut any_met = false;
            for thread in lanes.clone() {
                if let State::InWarp(mask) = self.states[thread] {
                    any_met |= self.meet(lanes.clone(), thread, mask)?;
                }
            }
            if !any_met {
                return Ok(());
            }
        }
    }

    /// Until the thread ends or must wait for others.
    fn run_thread(&mut self, number: usize) -> Result<State, Fault> {
        loop {
            let Some(instruction) = self.instruction(number) else { return Ok(State::Ended) };
            *self.steps += 1;
            if *self.steps > STEPS_MAX {
                return Err(Fault::Endless(STEPS_MAX));
            }
            let thread = &mut self.threads[number];
            if !self.block.is_let(thread, instruction)? {
                thread.at += 1;
                continue;
            }
            if instruction.operation == Operation::Barrier {
                return Ok(State::AtBarrier);
            }
            if instruction.operation.is_of_warp() {
                return Ok(State::InWarp(self.mask(number, instruction)?));
            }
            match self.block.alone(&mut self.threads[number], instruction)? {
                Flow::Next => self.threads[number].at += 1,
                Flow::Jump(target) => self.threads[number].at = target,
                Flow::End => return Ok(State::Ended),
            }
        }
    }

    /// The lanes that must execute a warp's instruction together: those of its mask, or all.
    fn mask(&self, number: usize, instruction: &Instruction) -> Result<u32, Fault> {
        let operand = match instruction.operation {
            Operation::WarpBarrier => &instruction.operands[0],
            Operation::Shuffle(_) => &instruction.operands[4],
            _ => &Operand::Immediate(u32::MAX as u64),
        };
        let mask = self.block.read(&self.threads[number], operand)? as u32;
        let (lane, first) = (number % WARP as usize, number / WARP as usize * WARP as usize);
        let lanes = (self.threads.len() - first).min(WARP as usize) as u32;
        let is_possible = mask >> lane & 1 == 1 && u64::from(mask) >> lanes == 0;
        // A race is told by warps, not by sets of lanes.
        let is_whole = instruction.operation != Operation::WarpBarrier || mask.count_ones() == lanes;
        if is_possible && is_whole { Ok(mask) } else { Err(Fault::Lanes { mask }) }
    }

    /// Executes a warp's instruction if all lanes of its mask wait before it.
    fn meet(&mut self, lanes: std::ops::Range<usize>, number: usize, mask: u32) -> Result<bool, LaunchError> {
        let at = self.threads[number].at;
        let is_asked = |thread: &usize| mask >> (thread % WARP as usize) & 1 == 1;
        let is_there =
            |thread: usize| self.states[thread] == State::InWarp(mask) && self.threads[thread].at == at;
        let members: Vec<usize> = lanes.clone().filter(is_asked).collect();
        if !members.iter().all(|thread| is_there(*thread)) {
            return Ok(false);
        }
        let instruction = &self.kernel.instructions[at];
        let warp = &mut self.threads[lanes];
        let of_mask = |thread: &&mut Thread| mask >> (thread.number % WARP) & 1 == 1;
        let mut threads: Vec<&mut Thread> = warp.iter_mut().filter(of_mask).collect();
        let done = together(&mut self.block, &mut threads, instruction);
        done.map_err(|(place, fault)| self.fault(members[place], fault))?;
        for member in members {
            self.threads[member].at += 1;
            self.states[member] = State::Ready;
        }
        Ok(true)
    }

    /// All threads wait before the same barrier, or one of them waits in vain.
    fn pass_barrier(&mut self) -> Result<(), LaunchError> {
        let waits_in_warp = |thread: &usize| matches!(self.states[*thread], State::InWarp(_));
        if let Some(thread) = (0..self.threads.len()).find(waits_in_warp) {
            let State::InWarp(mask) = self.states[thread] else { unreachable!("just found") };
            let first = thread / WARP as usize * WARP as usize;
            let is_asked = |other: &usize| mask >> (other - first) & 1 == 1;
            let is_absent = |other: &usize| {
                self.states[*other] != self.states[thread]
                    || self.threads[*other].at != self.threads[thread].at
            };
            let end = self.threads.len().min(first + WARP as usize);
            let other = (first..end).filter(is_asked).find(is_absent).expect("otherwise they had met");
            return Err(self.divergence(thread, other));
        }
        let waits = |thread: &usize| self.states[*thread] == State::AtBarrier;
        let thread = (0..self.threads.len()).find(waits).expect("who has not ended waits");
        let is_elsewhere =
            |other: &usize| !waits(other) || self.threads[*other].at != self.threads[thread].at;
        if let Some(other) = (0..self.threads.len()).find(is_elsewhere) {
            return Err(self.divergence(thread, other));
        }
        self.block.epoch += 1;
        for (thread, state) in self.threads.iter_mut().zip(&mut self.states) {
            thread.at += 1;
            *state = State::Ready;
        }
        Ok(())
    }
}
