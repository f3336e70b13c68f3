//! The middle of some times. Pure.

/// The middle value, or between the two of an even number; 0 of none.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    (sorted[last / 2] + sorted[last.div_ceil(2)]) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_an_even_number_lies_between_two() {
        assert_eq!((median(&[4.0, 1.0, 3.0]), median(&[4.0, 1.0]), median(&[])), (3.0, 2.5, 0.0));
    }
}
