//! A buffer for activations that begins on a cache line: panels of a product then end where lines do, so that no line is written by
//! two threads and no vector lies across two lines.

use std::ops::{Deref, DerefMut};

use bytemuck::{Pod, Zeroable};

/// Values of a cache line.
const LINE: usize = 16;

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// Values `[rows, width]`; how many, its user says before each use.
#[derive(Debug, Clone, Default)]
pub struct Activations {
    lines: Vec<Line>,
    rows: usize,
    width: usize,
}

impl Activations {
    /// Makes room for `[rows, width]` values, which are what was left there, or zeros. Room is kept, so that batches of changing sizes
    /// fill none anew.
    pub fn reshape(&mut self, rows: usize, width: usize) {
        let lines = (rows * width).div_ceil(LINE);
        if lines > self.lines.len() {
            self.lines.resize(lines, Line::zeroed());
        }
        (self.rows, self.width) = (rows, width);
    }

    /// Rows, one a token.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values of a row.
    pub fn width(&self) -> usize {
        self.width
    }
}

impl Deref for Activations {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.lines)[..self.rows * self.width]
    }
}

impl DerefMut for Activations {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.rows * self.width]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_in_order_and_begin_on_a_line() {
        let mut buffer = Activations::default();
        assert!(buffer.is_empty());
        for (rows, width) in [(1, 1), (3, 5), (2, 8), (17, 1), (25, 12)] {
            let before = buffer.to_vec();
            buffer.reshape(rows, width);
            assert_eq!((buffer.rows(), buffer.width(), buffer.len()), (rows, width, rows * width));
            assert_eq!(buffer[..before.len()], before[..]);
            assert_eq!(buffer.as_ptr().align_offset(64), 0);
            buffer.iter_mut().enumerate().for_each(|(index, value)| *value = index as f32);
        }
        buffer.reshape(3, 11);
        assert!(buffer.iter().enumerate().all(|(index, &value)| value == index as f32));
    }
}
