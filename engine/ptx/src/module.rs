//! Kernels as data. Knows neither their text nor how they run.

use std::collections::BTreeMap;

use crate::instruction::Instruction;

/// A compiled file: kernels by name.
#[derive(Debug)]
pub struct Module {
    pub(crate) kernels: BTreeMap<String, Kernel>,
}

#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) name: String,
    pub(crate) parameters: Vec<Variable>,
    pub(crate) registers: Vec<Register>,
    pub(crate) shared: Vec<Variable>,
    pub(crate) instructions: Vec<Instruction>,
}

#[derive(Debug, Clone)]
pub(crate) struct Register {
    pub(crate) name: String,
    /// 1 for a predicate.
    pub(crate) bits: u32,
}

/// Bytes with a name, in parameter or shared space.
#[derive(Debug, Clone)]
pub(crate) struct Variable {
    pub(crate) name: String,
    /// Address in its space.
    pub(crate) start: u64,
    /// None: as large as the launch says.
    pub(crate) bytes: Option<usize>,
}

impl Variable {
    /// Name, address and bytes, where one of no size of its own gets `dynamic_bytes`.
    pub(crate) fn place(&self, dynamic_bytes: usize) -> (&str, u64, usize) {
        (&self.name, self.start, self.bytes.unwrap_or(dynamic_bytes))
    }
}

impl Module {
    /// Names of the kernels, in order.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.kernels.keys().map(String::as_str)
    }
}
