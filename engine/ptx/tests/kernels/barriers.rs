//! Without any one of its barriers a kernel races, which its test finds, but for those after which nothing is written.

use chariot_ptx::{Fault, LaunchError};

use crate::attention::shares_of_a_chunk;
use crate::card::{Card, Element};
use crate::norms::norm;
use crate::nvrtc::{ATTENTION, NORM, SAMPLING, compiled};
use crate::sampling::{drawn, largest_logits};

const BARRIER: &str = "bar.sync \t0;";

/// Runs the test without each barrier of the kernel in turn: true where it finds a race.
fn races(
    source: &str,
    kernel: &str,
    element: Element,
    test: impl Fn(&mut Card) -> Result<(), LaunchError>,
) -> Vec<bool> {
    let Some(ptx) = compiled(source, element) else { return Vec::new() };
    let start = ptx.find(&format!(".entry {kernel}(")).unwrap();
    let end = start + ptx[start..].find("\n}").unwrap();
    let without = |(at, barrier): (usize, &str)| {
        let lacking = format!("{}{}", &ptx[..start + at], &ptx[start + at + barrier.len()..]);
        match test(&mut Card::of(&lacking, element)) {
            Ok(()) => false,
            Err(LaunchError::Fault { fault: Fault::Race { .. } | Fault::Unwritten { .. }, .. }) => true,
            Err(other) => panic!("expected a race, found {other}"),
        }
    };
    ptx[start..end].match_indices(BARRIER).map(without).collect()
}

#[test]
fn every_barrier_is_missed() {
    for element in Element::ALL {
        // The last barrier of block_sum or block_max lets room be written again, which nothing does any more.
        let found = [
            races(NORM, "layer_norm", element, |card| norm(card, true, true, 64)),
            races(NORM, "rms_norm", element, |card| norm(card, false, true, 64)),
            races(ATTENTION, "causal_softmax", element, |card| shares_of_a_chunk(card, 64, 3.0)),
            races(SAMPLING, "argmax", element, |card| largest_logits(card, 96)),
            races(SAMPLING, "draw", element, |card| drawn(card, 12, [2, 100, 197], 64)),
        ];
        if found.iter().all(Vec::is_empty) {
            return;
        }
        // Nor does anything write what block_max has read; where all tokens are kept, room of block_sum is written again.
        let draw: &[bool] = &[true, false, true, true, true, true, true, true, true];
        let expected: [&[bool]; 5] =
            [&[true, true, true, false], &[true, false], &[true, true, true, false], &[true], draw];
        assert_eq!(found, expected, "{element:?}");
    }
}
