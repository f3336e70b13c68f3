//! Text -> module: directives, registers, variables, labels, operands. Whatever is not understood is an error with its line.

use std::collections::BTreeMap;

use crate::decode::decode;
use crate::error::ParseError;
use crate::instruction::{Instruction, Operand, Slot, Special, Type};
use crate::module::{Kernel, Module, Register, Variable};
use crate::text::{Token, number, tokens};

type Parsed<T> = Result<T, ParseError>;

/// Between variables in shared memory, so that an access beyond one hits no other.
const GAP: u64 = 256;
/// Where a kernel's first shared variable lies; not 0, which is null.
const SHARED_START: u64 = 1024;
/// Where shared memory of a size that the launch gives lies, beyond all that a block can have.
const DYNAMIC_START: u64 = 1 << 24;

/// Reads a text of PTX as NVRTC writes it, with or without its closing 0.
pub fn parse(text: &str) -> Result<Module, ParseError> {
    let lines = text.lines().map(str::trim).collect();
    let mut parser = Parser { tokens: tokens(text), at: 0, lines, shared: Vec::new() };
    let mut kernels = BTreeMap::new();
    while let Some(token) = parser.tokens.get(parser.at).copied() {
        parser.at += 1;
        match token.text {
            ".version" | ".target" | ".address_size" => parser.at += 1,
            ".visible" | ".extern" => {}
            ".shared" => {
                let before = parser.shared.clone();
                let variable = parser.shared_variable(&before)?;
                parser.shared.push(variable);
            }
            ".entry" => {
                let kernel = parser.kernel()?;
                kernels.insert(kernel.name.clone(), kernel);
            }
            other => return Err(ParseError::new(token.line, format!("unknown directive `{other}`"))),
        }
    }
    Ok(Module { kernels })
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    lines: Vec<&'a str>,
    /// Declared outside of kernels.
    shared: Vec<Variable>,
}

/// A kernel while its body is read.
struct Body<'a> {
    kernel: Kernel,
    /// Registers by name, a map for each brace that is open.
    scopes: Vec<BTreeMap<String, usize>>,
    labels: BTreeMap<&'a str, usize>,
    /// Instructions that jump, with the label's name and line.
    jumps: Vec<(usize, Token<'a>)>,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> &'a str {
        self.tokens.get(self.at).map_or("", |token| token.text)
    }

    fn line(&self) -> usize {
        self.tokens.get(self.at).map_or(self.lines.len(), |token| token.line)
    }

    fn next(&mut self) -> Parsed<Token<'a>> {
        let token = self.tokens.get(self.at).copied();
        self.at += 1;
        token.ok_or_else(|| ParseError::new(self.lines.len(), "unexpected end of the text"))
    }

    fn take(&mut self, expected: &str) -> bool {
        let is_there = self.peek() == expected;
        self.at += usize::from(is_there);
        is_there
    }

    fn expect(&mut self, expected: &str) -> Parsed<()> {
        let token = self.next()?;
        match token.text == expected {
            true => Ok(()),
            false => Err(wrong(token, &format!("`{expected}`"))),
        }
    }

    fn number(&mut self) -> Parsed<u64> {
        let token = self.next()?;
        number(token.text).ok_or_else(|| wrong(token, "a number"))
    }

    fn ty(&mut self) -> Parsed<Type> {
        let token = self.next()?;
        let name = token.text.strip_prefix('.').and_then(Type::parse);
        name.ok_or_else(|| wrong(token, "a type"))
    }

    /// Alignment, type, name, size, as after `.shared` and `.param`. None: `[]`.
    fn declaration(&mut self) -> Parsed<(&'a str, u64, Option<usize>)> {
        let align = match self.take(".align") {
            true => Some(self.number()?),
            false => None,
        };
        let bytes = self.ty()?.bytes();
        let name = self.next()?.text;
        let align = align.unwrap_or(bytes as u64);
        if !self.take("[") {
            return Ok((name, align, Some(bytes)));
        }
        if self.take("]") {
            return Ok((name, align, None));
        }
        let count = self.number()? as usize;
        self.expect("]")?;
        Ok((name, align, Some(bytes * count)))
    }

    fn shared_variable(&mut self, before: &[Variable]) -> Parsed<Variable> {
        let (name, align, bytes) = self.declaration()?;
        self.expect(";")?;
        let last = before.iter().rfind(|variable| variable.bytes.is_some());
        let free = last.map_or(SHARED_START, |last| last.start + last.bytes.unwrap_or(0) as u64 + GAP);
        let start = if bytes.is_some() { free.next_multiple_of(align.max(16)) } else { DYNAMIC_START };
        Ok(Variable { name: name.to_owned(), start, bytes })
    }

    fn parameters(&mut self) -> Parsed<Vec<Variable>> {
        let mut parameters = Vec::new();
        let mut end = 0_u64;
        self.expect("(")?;
        while !self.take(")") {
            self.expect(".param")?;
            let (name, align, bytes) = self.declaration()?;
            let start = end.next_multiple_of(align);
            end = start + bytes.unwrap_or(0) as u64;
            parameters.push(Variable { name: name.to_owned(), start, bytes });
            self.take(",");
        }
        Ok(parameters)
    }

    /// From the name to the closing brace.
    fn kernel(&mut self) -> Parsed<Kernel> {
        let name = self.next()?.text.to_owned();
        let parameters = self.parameters()?;
        // Such as `.maxntid 128, 1, 1`: a hint to ptxas, and a limit that launches keep.
        while self.peek() != "{" {
            let token = self.next()?;
            let is_hint = [".maxntid", ".minnctapersm", ".reqntid", ","].contains(&token.text);
            if !is_hint && number(token.text).is_none() {
                return Err(wrong(token, "`{`"));
            }
        }
        let shared = self.shared.clone();
        let kernel = Kernel { name, parameters, registers: Vec::new(), shared, instructions: Vec::new() };
        let mut body = Body { kernel, scopes: Vec::new(), labels: BTreeMap::new(), jumps: Vec::new() };
        loop {
            self.statement(&mut body)?;
            if body.scopes.is_empty() {
                return body.finish();
            }
        }
    }

    fn statement(&mut self, body: &mut Body<'a>) -> Parsed<()> {
        let line = self.line();
        match self.next()?.text {
            "{" => body.scopes.push(BTreeMap::new()),
            "}" => drop(body.scopes.pop()),
            ".reg" => self.registers(body)?,
            ".shared" => {
                let variable = self.shared_variable(&body.kernel.shared)?;
                body.kernel.shared.push(variable);
            }
            ".pragma" => self.at += 2,
            "@" => {
                let expected = !self.take("!");
                let name = self.next()?;
                let register = body.register(name)?;
                let opcode = self.next()?;
                self.instruction(body, opcode, Some((register, expected)))?;
            }
            label if self.peek() == ":" => {
                self.at += 1;
                if body.labels.insert(label, body.kernel.instructions.len()).is_some() {
                    return Err(ParseError::new(line, format!("`{label}` stands here a second time")));
                }
            }
            other if other.starts_with('.') => {
                return Err(ParseError::new(line, format!("unknown directive `{other}`")));
            }
            opcode => self.instruction(body, Token { text: opcode, line }, None)?,
        }
        Ok(())
    }

    /// `.reg .b32 %r<9>, a;`
    fn registers(&mut self, body: &mut Body<'a>) -> Parsed<()> {
        let bits = self.ty()?.bits;
        loop {
            let name = self.next()?.text;
            if self.take("<") {
                let count = self.number()?;
                self.expect(">")?;
                (0..count).for_each(|i| body.declare(format!("{name}{i}"), bits));
            } else {
                body.declare(name.to_owned(), bits);
            }
            if !self.take(",") {
                return self.expect(";");
            }
        }
    }

    fn instruction(
        &mut self,
        body: &mut Body<'a>,
        opcode: Token<'a>,
        guard: Option<(usize, bool)>,
    ) -> Parsed<()> {
        let line = opcode.line;
        let operation = decode(opcode.text)
            .ok_or_else(|| ParseError::new(line, format!("unknown instruction `{}`", opcode.text)))?;
        let slots = operation.slots();
        let mut operands = Vec::new();
        for (index, slot) in slots.iter().enumerate() {
            if matches!(slot, Slot::LastSource(_)) && self.peek() == ";" {
                break;
            }
            if index > 0 {
                self.expect(",")?;
            }
            let token = self.tokens.get(self.at).copied();
            let operand = self.operand(body, *slot)?;
            if !body.fits(*slot, &operand) {
                let found = token.map_or("", |token| token.text);
                let mistake =
                    format!("`{}`, operand {index}: expected {slot:?}, found `{found}`", opcode.text);
                return Err(ParseError::new(line, mistake));
            }
            operands.push(operand);
        }
        self.expect(";")?;
        let text = self.lines[line - 1].to_owned();
        body.kernel.instructions.push(Instruction { line, text, guard, operation, operands });
        Ok(())
    }

    fn operand(&mut self, body: &mut Body<'a>, slot: Slot) -> Parsed<Operand> {
        if slot == Slot::Label {
            body.jumps.push((body.kernel.instructions.len(), self.next()?));
            return Ok(Operand::Label(usize::MAX));
        }
        if self.take("[") {
            return self.address(body);
        }
        if self.take("{") {
            let mut values = Vec::new();
            loop {
                values.push(self.value(body)?);
                if !self.take(",") {
                    self.expect("}")?;
                    return Ok(Operand::Vector(values));
                }
            }
        }
        let value = self.value(body)?;
        let Operand::Register(register) = value else { return Ok(value) };
        if !self.take("|") {
            return Ok(value);
        }
        let predicate = self.next()?;
        Ok(Operand::Pair(register, body.register(predicate)?))
    }

    /// A register, special register, number, or a variable's address.
    fn value(&mut self, body: &Body<'a>) -> Parsed<Operand> {
        if self.take("-") {
            return Ok(Operand::Immediate(self.number()?.wrapping_neg()));
        }
        let token = self.next()?;
        if let Some(value) = number(token.text) {
            return Ok(Operand::Immediate(value));
        }
        if let Some(special) = special(token.text) {
            return Ok(Operand::Special(special));
        }
        match body.variable(token.text) {
            Some(start) => Ok(Operand::Immediate(start)),
            None => Ok(Operand::Register(body.register(token)?)),
        }
    }

    /// Behind `[`.
    fn address(&mut self, body: &Body<'a>) -> Parsed<Operand> {
        let token = self.tokens.get(self.at).copied();
        let (base, mut offset) = match self.value(body)? {
            Operand::Register(register) => (Some(register), 0),
            Operand::Immediate(value) => (None, value as i64),
            _ => return Err(wrong(token.expect("there was one"), "an address")),
        };
        if self.take("+") {
            let is_negative = self.take("-");
            let distance = self.number()? as i64;
            offset += if is_negative { -distance } else { distance };
        }
        self.expect("]")?;
        Ok(Operand::Address(base, offset))
    }
}

fn wrong(token: Token<'_>, expected: &str) -> ParseError {
    ParseError::new(token.line, format!("expected {expected}, found `{}`", token.text))
}

fn special(name: &str) -> Option<Special> {
    if name == "%laneid" {
        return Some(Special::Lane);
    }
    let (name, axis) = name.split_once('.')?;
    let axis = ["x", "y", "z"].iter().position(|known| *known == axis)?;
    match name {
        "%tid" => Some(Special::Thread(axis)),
        "%ntid" => Some(Special::Threads(axis)),
        "%ctaid" => Some(Special::Block(axis)),
        "%nctaid" => Some(Special::Blocks(axis)),
        _ => None,
    }
}

impl Body<'_> {
    fn declare(&mut self, name: String, bits: u32) {
        let scope = self.scopes.last_mut().expect("a body is open");
        scope.insert(name.clone(), self.kernel.registers.len());
        self.kernel.registers.push(Register { name, bits });
    }

    fn register(&self, token: Token<'_>) -> Parsed<usize> {
        let found = self.scopes.iter().rev().find_map(|scope| scope.get(token.text)).copied();
        found.ok_or_else(|| ParseError::new(token.line, format!("unknown name `{}`", token.text)))
    }

    fn variable(&self, name: &str) -> Option<u64> {
        let mut all = self.kernel.parameters.iter().chain(&self.kernel.shared);
        all.find(|variable| variable.name == name).map(|variable| variable.start)
    }

    fn is_register(&self, operand: &Operand, fits: impl Fn(u32) -> bool) -> bool {
        matches!(operand, Operand::Register(register) if fits(self.kernel.registers[*register].bits))
    }

    fn is_source(&self, operand: &Operand, fits: impl Fn(u32) -> bool) -> bool {
        match operand {
            Operand::Immediate(_) => true,
            Operand::Special(_) => fits(32),
            _ => self.is_register(operand, fits),
        }
    }

    fn fits(&self, slot: Slot, operand: &Operand) -> bool {
        let are = |values: &[Operand], count: usize, bits: u32, is_target: bool| {
            let is_one = |value| match is_target {
                true => self.is_register(value, |found| found >= bits),
                false => self.is_source(value, |found| found >= bits),
            };
            values.len() == count && values.iter().all(is_one)
        };
        match (slot, operand) {
            (Slot::PackedTarget(bits), Operand::Vector(values)) => values
                .iter()
                .all(|value| self.is_register(value, |found| found * values.len() as u32 == bits)),
            (Slot::PackedSource(bits), Operand::Vector(values)) => {
                values.iter().all(|value| self.is_source(value, |found| found * values.len() as u32 == bits))
            }
            (Slot::Targets(count, bits), Operand::Vector(values)) => are(values, count, bits, true),
            (Slot::Sources(count, bits), Operand::Vector(values)) => are(values, count, bits, false),
            (Slot::Targets(1, bits) | Slot::WideTarget(bits), _) => {
                self.is_register(operand, |found| found >= bits)
            }
            (Slot::Sources(1, bits) | Slot::WideSource(bits), _) => {
                self.is_source(operand, |found| found >= bits)
            }
            (Slot::Target(bits) | Slot::PackedTarget(bits), _) => {
                self.is_register(operand, |found| found == bits)
            }
            (Slot::Source(bits) | Slot::PackedSource(bits) | Slot::LastSource(bits), _) => {
                self.is_source(operand, |found| found == bits)
            }
            (Slot::Pair(bits), Operand::Pair(register, predicate)) => {
                let bits_of = |register: usize| self.kernel.registers[register].bits;
                bits_of(*register) == bits && bits_of(*predicate) == 1
            }
            (Slot::Pair(bits), _) => self.is_register(operand, |found| found == bits),
            (Slot::Address, Operand::Address(base, _)) => {
                base.is_none_or(|base| self.kernel.registers[base].bits >= 32)
            }
            (Slot::Number(allowed), Operand::Immediate(value)) => allowed.contains(value),
            (Slot::Label, Operand::Label(_)) => true,
            _ => false,
        }
    }

    /// Labels become places.
    fn finish(mut self) -> Parsed<Kernel> {
        for (at, label) in self.jumps {
            let Some(target) = self.labels.get(label.text) else {
                return Err(ParseError::new(label.line, format!("unknown name `{}`", label.text)));
            };
            self.kernel.instructions[at].operands[0] = Operand::Label(*target);
        }
        Ok(self.kernel)
    }
}
