//! Which devices exchange values to measure a link class. Pure.

/// Every aligned block of `span` of `devices` devices with at least two of them: the ranks that an all-reduce over the class joins.
pub(super) fn blocks(span: u32, devices: u32) -> Vec<Vec<u32>> {
    let block = |first: u32| (first..(first.saturating_add(span)).min(devices)).collect::<Vec<u32>>();
    (0..devices).step_by(span as usize).map(block).filter(|block| block.len() > 1).collect()
}

/// Of every block the first device and the nearest one that the class of `narrower` devices does not join it with.
pub(super) fn pairs(span: u32, narrower: u32, devices: u32) -> Vec<Vec<u32>> {
    let pair = |block: Vec<u32>| Some(vec![block[0], *block.get(narrower as usize)?]);
    blocks(span, devices).into_iter().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_and_of_two_at_least() {
        assert_eq!(blocks(2, 5), [[0, 1], [2, 3]]);
        assert_eq!(blocks(4, 6), [vec![0, 1, 2, 3], vec![4, 5]]);
        assert_eq!(blocks(8, 2), [[0, 1]]);
        assert_eq!(blocks(1, 4), [[0; 0]; 0]);
    }

    #[test]
    fn pairs_lie_beyond_the_narrower_class() {
        assert_eq!(pairs(2, 1, 4), [[0, 1], [2, 3]]);
        assert_eq!(pairs(4, 2, 8), [[0, 2], [4, 6]]);
        // The second block ends before another pair begins.
        assert_eq!(pairs(4, 2, 6), [[0, 2]]);
        assert_eq!(pairs(8, 4, 8), [[0, 4]]);
    }
}
