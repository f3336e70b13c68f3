//! Wrong results on purpose: a card that computes wrongly, for tests of what finds one. Knows no kernel.
#![expect(unsafe_code, reason = "reads and writes raw memory")]

use crate::memory::{memory, opened};

/// The allocations that a kernel's arguments point to, as they were before it ran.
pub(crate) struct Before(Vec<(usize, Vec<u32>)>);

/// `len` words from `at`, which must lie in a live allocation that is open.
fn words(at: usize, len: usize) -> Vec<u32> {
    // SAFETY: the caller took the range from a live allocation and has memory open.
    (0..len).map(|i| unsafe { (at as *const u32).add(i).read_unaligned() }).collect()
}

impl Before {
    /// Of arguments of 8 bytes that are addresses of the device.
    pub(crate) fn of(arguments: &[Vec<u128>]) -> Self {
        let addresses = arguments.iter().filter_map(|a| a.first()).map(|a| *a as u64 as usize);
        let ranges: Vec<_> = addresses.filter_map(|at| Some((at, memory().rest(at)? / 4))).collect();
        Self(opened(|| ranges.into_iter().map(|(at, len)| (at, words(at, len))).collect()))
    }

    /// Adds 1, as f32, to the first word that has changed.
    pub(crate) fn spoil(&self) {
        opened(|| {
            for (at, before) in &self.0 {
                let after = words(*at, before.len());
                if let Some(word) = (0..before.len()).find(|i| before[*i] != after[*i]) {
                    let spoilt = f32::from_bits(after[word]) + 1.0;
                    // SAFETY: the word was read from there just now.
                    unsafe { (*at as *mut f32).add(word).write_unaligned(spoilt) };
                    return;
                }
            }
        });
    }
}
