//! A buffer for activations that begins on a cache line: panels of a product then end where lines do, so that no line is written by
//! two threads and no vector lies across two lines.

use std::ops::{Deref, DerefMut};

use bytemuck::{Pod, Zeroable};

/// Values of a cache line.
const LINE: usize = 16;

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// Values `[tokens, width]`; how many, its user says before each use.
#[derive(Debug, Clone, Default)]
pub struct Activations {
    lines: Vec<Line>,
    len: usize,
}

impl Activations {
    /// Makes room for `len` values, of which those are new that were not there before, and mean nothing.
    pub fn resize(&mut self, len: usize) {
        self.lines.resize(len.div_ceil(LINE), Line::zeroed());
        self.len = len;
    }

    /// Forgets all values; the room is kept.
    pub fn clear(&mut self) {
        self.resize(0);
    }

    /// Adds values at the end.
    pub fn extend_from_slice(&mut self, values: &[f32]) {
        let start = self.len;
        self.resize(start + values.len());
        self[start..].copy_from_slice(values);
    }
}

impl Deref for Activations {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl DerefMut for Activations {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_in_order_and_begin_on_a_line() {
        let (mut buffer, mut expected) = (Activations::default(), Vec::new());
        for count in [0, 1, 15, 16, 17, 300] {
            let values: Vec<f32> = (0..count).map(|value| value as f32).collect();
            buffer.extend_from_slice(&values);
            expected.extend(values);
            assert_eq!(buffer[..], expected[..]);
            assert_eq!(buffer.as_ptr().align_offset(64), 0);
        }
        buffer.resize(33);
        assert_eq!(buffer[..], expected[..33]);
        buffer.clear();
        assert!(buffer.is_empty());
    }
}
