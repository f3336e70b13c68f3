//! The free blocks of the paged KV cache. Knows counts and identities, not whose blocks they are.

use crate::units::BlockId;

/// Hands blocks out and takes them back; the one returned last is handed out first.
#[derive(Debug, Clone)]
pub struct BlockManager {
    block_size: u32,
    total: u32,
    free: Vec<BlockId>,
}

impl BlockManager {
    /// All `total` blocks of `block_size` tokens free; the lowest is handed out first.
    pub fn new(total: u32, block_size: u32) -> Self {
        Self { block_size, total, free: (0..total).rev().map(BlockId).collect() }
    }

    /// Blocks that hold `tokens` tokens.
    pub fn blocks_for(&self, tokens: u32) -> u32 {
        tokens.div_ceil(self.block_size)
    }

    /// How many are free.
    pub fn free(&self) -> u32 {
        self.free.len() as u32
    }

    /// How many there are.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// Grows `table` until it holds `tokens` tokens. False, and nothing taken, if the free blocks do not suffice.
    #[inline]
    pub(crate) fn grow(&mut self, table: &mut Vec<BlockId>, tokens: u32) -> bool {
        // Most decodes end here: a product where `blocks_for` divides.
        if table.len() as u64 * u64::from(self.block_size) >= u64::from(tokens) {
            return true;
        }
        let missing = (self.blocks_for(tokens) as usize).saturating_sub(table.len());
        let Some(kept) = self.free.len().checked_sub(missing) else { return false };
        table.extend(self.free.drain(kept..).rev());
        true
    }

    /// Takes all blocks of `table` back.
    pub(crate) fn release(&mut self, table: &mut Vec<BlockId>) {
        self.free.extend(table.drain(..).rev());
    }
}
