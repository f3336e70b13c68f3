//! What the lanes of a warp do together: shuffles, barriers of the warp, tiles for tensor cores. Knows not how lanes meet.

use super::{Block, Thread, WARP, convert, elements};
use crate::error::Fault;
use crate::instruction::{Half, Instruction, Operand, Operation, Shuffle, Space};

/// Executes an instruction for all of these threads, lanes of one warp in order. An error comes with the thread's place in `threads`.
pub(crate) fn together(
    block: &mut Block<'_>,
    threads: &mut [&mut Thread],
    instruction: &Instruction,
) -> Result<(), (usize, Fault)> {
    let operands = instruction.operands.as_slice();
    match instruction.operation {
        Operation::WarpBarrier => threads.iter_mut().for_each(|thread| thread.warp_epoch += 1),
        Operation::Shuffle(mode) => shuffle(block, threads, mode, operands)?,
        Operation::MultiplyTiles(half) => multiply_tiles(block, threads, half, operands)?,
        Operation::LoadTiles { count, transposed } => {
            load_tiles(block, threads, count, transposed, operands)?
        }
        _ => unreachable!("a thread does it alone"),
    }
    Ok(())
}

/// The lane whose value a lane takes, and whether it is within the segment; otherwise it is the lane itself.
fn source(mode: Shuffle, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (by, segments) = (b & 31, c >> 8 & 31);
    let limit = lane & segments | c & 31 & !segments;
    let (from, is_inside) = match mode {
        Shuffle::Butterfly => (lane ^ by, lane ^ by <= limit),
        Shuffle::Down => (lane + by, lane + by <= limit),
        Shuffle::Up => (lane.wrapping_sub(by), lane as i32 - by as i32 >= limit as i32),
        Shuffle::Index => {
            let from = lane & segments | by & !segments;
            (from, from <= limit)
        }
    };
    if is_inside { (from, true) } else { (lane, false) }
}

fn shuffle(
    block: &mut Block<'_>,
    threads: &mut [&mut Thread],
    mode: Shuffle,
    operands: &[Operand],
) -> Result<(), (usize, Fault)> {
    let mut sources = Vec::new();
    for (place, thread) in threads.iter().enumerate() {
        let values: [u64; 4] = block.sources(thread, operands).map_err(|fault| (place, fault))?;
        sources.push(values);
    }
    let lanes: Vec<u32> = threads.iter().map(|thread| thread.number % WARP).collect();
    for (place, thread) in threads.iter_mut().enumerate() {
        let [_, b, c, mask] = sources[place].map(|value| value as u32);
        let (from, is_inside) = source(mode, lanes[place], b, c);
        let Some(other) = lanes.iter().position(|lane| *lane == from) else {
            return Err((place, Fault::AbsentLane { lane: from, mask }));
        };
        thread.write(&operands[0], sources[other][0], block.registers);
        if let Operand::Pair(_, predicate) = operands[0] {
            thread.registers[predicate] = Some(u64::from(is_inside));
        }
    }
    Ok(())
}

/// Row and column in A[16, 16] of a lane's value `i` of 8.
fn place_in_a(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + i / 2 % 2 * 8, lane % 4 * 2 + i % 2 + i / 4 * 8)
}

/// Row and column in B[16, 8] of a lane's value `i` of 4.
fn place_in_b(lane: usize, i: usize) -> (usize, usize) {
    (lane % 4 * 2 + i % 2 + i / 2 * 8, lane / 4)
}

/// Row and column in C and D[16, 8] of a lane's value `i` of 4.
fn place_in_c(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2)
}

/// D = A B + C. A lane's registers hold two values of A or B each, the first lower, or one of C and D. The sum is computed in f64 and
/// rounded once: PTX leaves order and rounding of the sum open.
fn multiply_tiles(
    block: &mut Block<'_>,
    threads: &mut [&mut Thread],
    half: Half,
    operands: &[Operand],
) -> Result<(), (usize, Fault)> {
    let (mut a, mut b, mut c) = ([[0.0; 16]; 16], [[0.0; 8]; 16], [[0.0; 8]; 16]);
    let value = |registers: &[u64], i: usize| {
        f64::from(convert::widen(half, (registers[i / 2] >> (i % 2 * 16)) as u16))
    };
    for (lane, thread) in threads.iter().enumerate() {
        let read = |operand| block.read_all(thread, operand).map_err(|fault| (lane, fault));
        let [in_a, in_b, in_c] = [read(&operands[1])?, read(&operands[2])?, read(&operands[3])?];
        for i in 0..8 {
            let (row, column) = place_in_a(lane, i);
            a[row][column] = value(&in_a, i);
        }
        for (i, bits) in in_c.iter().enumerate() {
            let (row, column) = place_in_b(lane, i);
            b[row][column] = value(&in_b, i);
            let (row, column) = place_in_c(lane, i);
            c[row][column] = f64::from(f32::from_bits(*bits as u32));
        }
    }
    for (lane, thread) in threads.iter_mut().enumerate() {
        for (i, target) in elements(&operands[0]).iter().enumerate() {
            let (row, column) = place_in_c(lane, i);
            let sum: f64 = (0..16).map(|k| a[row][k] * b[k][column]).sum::<f64>() + c[row][column];
            thread.write(target, u64::from((sum as f32).to_bits()), block.registers);
        }
    }
    Ok(())
}

/// Lane 8 t + r has the address of row r of tile t, 8 values of 16 bits. Of each tile a lane gets two values side by side in a row,
/// row by row; transposed, side by side in a column, column by column. The lane that gets a value is the one that reads it.
fn load_tiles(
    block: &mut Block<'_>,
    threads: &mut [&mut Thread],
    count: usize,
    transposed: bool,
    operands: &[Operand],
) -> Result<(), (usize, Fault)> {
    let mut rows = Vec::new();
    for (lane, thread) in threads.iter().enumerate().take(8 * count) {
        let address = block.read(thread, &operands[1]).map_err(|fault| (lane, fault))?;
        let (region, offset) = block.region(Space::Shared, address, 16).map_err(|fault| (lane, fault))?;
        region.check(offset, 16).map_err(|fault| (lane, fault))?;
        rows.push(address);
    }
    for (lane, thread) in threads.iter_mut().enumerate() {
        for (tile, target) in elements(&operands[0]).iter().enumerate() {
            let mut both = 0;
            for i in 0..2 {
                let (across, along) = (lane / 4, lane % 4 * 2 + i);
                let (row, column) = if transposed { (along, across) } else { (across, along) };
                let (address, by) = (rows[8 * tile + row] + 2 * column as u64, block.access(thread));
                let value =
                    block.region(Space::Shared, address, 2).and_then(|(region, at)| region.load(at, 2, by));
                both |= value.map_err(|fault| (lane, fault))? << (16 * i);
            }
            thread.write(target, both, block.registers);
        }
    }
    Ok(())
}
