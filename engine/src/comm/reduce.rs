//! All-reduces over a wire: several ways to move the values, one order to sum them in. Knows no transport and no emulated link.
//!
//! The order is that of halving: the upper half of the ranks is added to the lower half, rank by rank, until one is left. Every
//! algorithm keeps to it, so that a sum has the same bits on every rank, over every transport and at every size.

use std::ops::Range;

use super::CommError;
use super::wire::Wire;

/// Values of one piece: what a rank sends to one peer before it receives stays within what a wire takes.
pub(super) const PIECE: usize = 1 << 14;

/// The ranks of one collective, as one of them sees them.
pub(super) struct Peers<'a> {
    pub(super) wire: &'a mut dyn Wire,
    /// Ranks of the mesh, in the group's order.
    pub(super) ranks: &'a [usize],
    /// Which of them is this one.
    pub(super) me: usize,
}

/// Where part `index` of `length` values in `parts` parts lies: the first parts take what is left over.
pub(super) fn part(length: usize, parts: usize, index: usize) -> Range<usize> {
    let (each, left) = (length / parts, length % parts);
    let start = index * each + index.min(left);
    start..start + each + usize::from(index < left)
}

/// The other members, each rank's neighbour first, so that not all talk to rank 0 at once.
pub(super) fn others(size: usize, me: usize) -> impl Iterator<Item = usize> {
    (1..size).map(move |step| (me + step) % size)
}

/// Sums rows of `width` values in the one order; row 0 becomes the sum, the others are used up.
pub(super) fn sum_rows(rows: &mut [f32], width: usize) {
    let mut count = rows.len().checked_div(width).unwrap_or(0);
    while count > 1 {
        let half = count.div_ceil(2);
        let (lower, upper) = rows[..count * width].split_at_mut(half * width);
        add(lower, upper);
        count = half;
    }
}

/// Adds as many values as `values` has.
pub(super) fn add(sum: &mut [f32], values: &[f32]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += value;
    }
}

impl Peers<'_> {
    fn send(&mut self, to: usize, values: &[f32]) -> Result<(), CommError> {
        self.wire.send(self.ranks[to], bytemuck::cast_slice(values))
    }

    fn recv(&mut self, from: usize, values: &mut [f32]) -> Result<(), CommError> {
        self.wire.recv(self.ranks[from], bytemuck::cast_slice_mut(values))
    }

    /// Every rank sums its part and gives it to all: two hops, `2 (k-1)` messages a rank, `2 (k-1)/k` of the data.
    pub(super) fn direct(&mut self, data: &mut [f32], scratch: &mut Vec<f32>) -> Result<(), CommError> {
        data.chunks_mut(PIECE).try_for_each(|piece| self.direct_piece(piece, scratch))
    }

    fn direct_piece(&mut self, data: &mut [f32], scratch: &mut Vec<f32>) -> Result<(), CommError> {
        let (size, me) = (self.ranks.len(), self.me);
        let length = data.len();
        let of = |index: usize| part(length, size, index);
        for peer in others(size, me) {
            self.send(peer, &data[of(peer)])?;
        }
        let width = of(me).len();
        scratch.resize(size * width, 0.0);
        scratch[me * width..][..width].copy_from_slice(&data[of(me)]);
        for peer in others(size, me) {
            self.recv(peer, &mut scratch[peer * width..][..width])?;
        }
        sum_rows(scratch, width);
        data[of(me)].copy_from_slice(&scratch[..width]);
        for peer in others(size, me) {
            self.send(peer, &data[of(me)])?;
        }
        for peer in others(size, me) {
            self.recv(peer, &mut data[of(peer)])?;
        }
        Ok(())
    }

    /// Ranks exchange all they have with one at half the distance each time: `log2 k` hops and messages, `log2 k` times the data.
    /// For groups of a power of two.
    pub(super) fn doubling(&mut self, data: &mut [f32], scratch: &mut Vec<f32>) -> Result<(), CommError> {
        let whole = 0..data.len();
        let mut distance = self.ranks.len() / 2;
        while distance > 0 {
            self.exchange(self.me ^ distance, data, whole.clone(), whole.clone(), Some(scratch))?;
            distance /= 2;
        }
        Ok(())
    }

    /// Ranks halve what they sum each time, and then double what they know: `2 log2 k` hops and messages, `2 (k-1)/k` of the data.
    /// For groups of a power of two.
    pub(super) fn halving(&mut self, data: &mut [f32], scratch: &mut Vec<f32>) -> Result<(), CommError> {
        let mut mine = 0..data.len();
        // Each halving gives one range away.
        let (mut given, mut halvings) = ([const { 0..0 }; usize::BITS as usize], 0);
        let mut distance = self.ranks.len() / 2;
        while distance > 0 {
            let middle = mine.start + mine.len() / 2;
            let (lower, upper) = (mine.start..middle, middle..mine.end);
            let (kept, other) = if self.me & distance == 0 { (lower, upper) } else { (upper, lower) };
            self.exchange(self.me ^ distance, data, other.clone(), kept.clone(), Some(scratch))?;
            given[halvings] = other;
            halvings += 1;
            mine = kept;
            distance /= 2;
        }
        let mut distance = 1;
        for other in given[..halvings].iter().rev() {
            self.exchange(self.me ^ distance, data, mine.clone(), other.clone(), None)?;
            mine = mine.start.min(other.start)..mine.end.max(other.end);
            distance *= 2;
        }
        Ok(())
    }

    /// Sends one range to a peer and takes another from it, piece by piece, so that no wire has to hold more. With `scratch`, what comes
    /// is added.
    fn exchange(
        &mut self,
        peer: usize,
        data: &mut [f32],
        sent: Range<usize>,
        received: Range<usize>,
        scratch: Option<&mut Vec<f32>>,
    ) -> Result<(), CommError> {
        let mut scratch = scratch;
        for at in (0..sent.len().max(received.len())).step_by(PIECE) {
            let within = |range: &Range<usize>| {
                let start = (range.start + at).min(range.end);
                start..(start + PIECE).min(range.end)
            };
            self.send(peer, &data[within(&sent)])?;
            let piece = within(&received);
            match &mut scratch {
                Some(scratch) => {
                    scratch.resize(piece.len(), 0.0);
                    self.recv(peer, scratch)?;
                    add(&mut data[piece], scratch);
                }
                None => self.recv(peer, &mut data[piece])?,
            }
        }
        Ok(())
    }

    /// Every rank gives its values to all.
    pub(super) fn gather(&mut self, mine: &[f32], all: &mut [f32]) -> Result<(), CommError> {
        let length = mine.len();
        all[self.me * length..][..length].copy_from_slice(mine);
        for at in (0..length).step_by(PIECE) {
            let piece = at..(at + PIECE).min(length);
            for peer in others(self.ranks.len(), self.me) {
                self.send(peer, &mine[piece.clone()])?;
            }
            for peer in others(self.ranks.len(), self.me) {
                self.recv(peer, &mut all[peer * length..][piece.clone()])?;
            }
        }
        Ok(())
    }
}
