//! What a draw computes, against sorting, exact fractions and f64.

use std::cmp::Reverse;

use proptest::prelude::*;

use crate::backend::draw::{Draw, HEAVIEST, TOKENS_MAX, draw, likeliest, weight};

/// How far off a weight may be, as a part of itself: its power of two, up to 39, has 24 bits.
const ROUNDING: f64 = 4e-6;

fn largest(logits: &[f32]) -> f32 {
    logits.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

fn weights(logits: &[f32], scale: f32) -> Vec<u64> {
    logits.iter().map(|&logit| weight(logit, largest(logits), scale)).collect()
}

/// Which tokens may be drawn: the likeliest, of equal ones the first, until they hold `top_p` 2^-64 of all.
fn kept(weights: &[u64], top_p: u64) -> Vec<bool> {
    let total: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    // Stable.
    order.sort_by_key(|&token| Reverse(weights[token]));
    let (mut kept, mut held) = (vec![false; weights.len()], 0_u128);
    for token in order {
        if held > 0 && held << 64 >= u128::from(top_p) * total {
            break;
        }
        kept[token] = true;
        held += u128::from(weights[token]);
    }
    kept
}

/// A draw in the plainest way.
fn slow(logits: &[f32], how: &Draw) -> u32 {
    let weights = weights(logits, how.scale);
    let kept = kept(&weights, how.top_p);
    let weigh = |token: usize| if kept[token] { u128::from(weights[token]) } else { 0 };
    let sum: u128 = (0..weights.len()).map(weigh).sum();
    let target = (u128::from(how.random) * sum) >> 64;
    let mut running = 0;
    let passed = (0..weights.len()).position(|token| {
        running += weigh(token);
        running > target
    });
    passed.unwrap() as u32
}

fn fast(logits: &[f32], how: &Draw) -> u32 {
    draw(std::iter::once(logits), how, &mut Vec::new())
}

/// Of few values, so that many are equal; or of any, some of them no numbers.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    let few = (-6..6_i32).prop_map(|value| value as f32 / 2.0);
    let special = prop_oneof![
        12 => -30.0..30.0_f32,
        1 => Just(f32::NEG_INFINITY),
        1 => Just(f32::INFINITY),
        1 => Just(f32::NAN),
        1 => Just(-0.0),
        1 => Just(f32::MAX),
    ];
    prop_oneof![
        proptest::collection::vec(few, 1..200),
        proptest::collection::vec(-30.0..30.0_f32, 1..200),
        proptest::collection::vec(special, 1..60),
    ]
}

fn draws() -> impl Strategy<Value = Draw> {
    let temperature = prop_oneof![
        4 => 0.05..2.0_f32,
        1 => prop_oneof![Just(0.0), Just(1e-40_f32), Just(1e-6), Just(1e6), Just(f32::MAX), Just(f32::NAN)],
    ];
    let top_p =
        prop_oneof![3 => 0.0..1.0_f32, 1 => prop_oneof![Just(0.0), Just(0.5), Just(1.0), Just(1e-30)]];
    let random = prop_oneof![4 => any::<u64>(), 1 => prop_oneof![Just(0), Just(u64::MAX)]];
    (temperature, top_p, random)
        .prop_map(|(temperature, top_p, random)| Draw::new(temperature, top_p, random))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_draw_is_what_sorting_and_exact_fractions_give(logits in logits(), how in draws(), held in 1..70_usize) {
        let expected = slow(&logits, &how);
        prop_assert_eq!(fast(&logits, &how), expected);
        // Parts of several ranks, in room that was used before.
        let mut room = vec![3; 500];
        prop_assert_eq!(draw(logits.chunks(held), &how, &mut room), expected);
        if how.is_greedy() {
            prop_assert_eq!(likeliest(logits.chunks(held)), expected);
        }
    }

    #[test]
    fn weights_are_those_of_the_exponential_function(
        largest in -30.0..30.0_f32,
        below in prop_oneof![0.0..1e-3_f32, 0.0..40.0_f32],
        temperature in 0.05..2.0_f32,
    ) {
        let logit = largest - below;
        let found = weight(logit, largest, Draw::new(temperature, 1.0, 0).scale);
        let exact = ((f64::from(logit) - f64::from(largest)) / f64::from(temperature)).exp() * HEAVIEST as f64;
        prop_assert!((found as f64 - exact).abs() <= ROUNDING * exact + 1.0, "{found} for {exact}");
        prop_assert!(found <= HEAVIEST);
    }
}

#[test]
fn a_row_of_equal_logits_keeps_the_first_of_them() {
    let logits = [0.25_f32; 8];
    for (top_p, count) in [(0.0, 1), (0.125, 1), (0.126, 2), (0.5, 4), (0.51, 5), (0.99, 8), (1.0, 8)] {
        for part in 0..count {
            // The first and the last of the random numbers that fall into this part.
            let [first, last] = [part, part + 1].map(|part| (u128::from(part) << 64).div_ceil(count.into()));
            for random in [first as u64, (last - 1) as u64] {
                let how = Draw::new(0.7, top_p, random);
                assert_eq!(u64::from(fast(&logits, &how)), part, "top_p {top_p}, random {random}");
            }
        }
    }
}

#[test]
fn what_is_no_number_is_never_drawn_unless_nothing_else_is_there() {
    let (nan, minus, plus) = (f32::NAN, f32::NEG_INFINITY, f32::INFINITY);
    let tokens = |logits: &[f32], temperature: f32| {
        let tokens = (0..64).map(|part| fast(logits, &Draw::new(temperature, 1.0, part << 58)));
        let mut tokens: Vec<u32> = tokens.collect();
        tokens.dedup();
        tokens
    };
    assert_eq!(tokens(&[nan, 1.0, minus, 1.0, nan], 1.0), [1, 3]);
    assert_eq!(tokens(&[nan, 1.0, plus, f32::MAX, plus], 1.0), [2, 4]);
    assert_eq!(tokens(&[nan, minus, nan], 1.0), [0, 1, 2]);
    assert_eq!(tokens(&[nan, minus, nan], 0.0), [0]);
    assert_eq!(tokens(&[nan, -1.0, 2.0, 2.0, nan], 0.0), [2]);
}

#[test]
fn the_coldest_temperature_takes_a_largest_logit_and_the_hottest_any() {
    let logits = [1.0, 3.0, 3.0 - 1e-6, 2.0];
    for part in 0..64_u64 {
        assert_eq!(fast(&logits, &Draw::new(f32::MIN_POSITIVE, 1.0, part << 58)), 1);
        assert_eq!(u64::from(fast(&logits, &Draw::new(f32::MAX, 1.0, part << 58))), part / 16);
    }
}

/// The largest row there may be, all of whose logits are equal: no sum overflows.
#[test]
fn the_longest_row_has_room_in_its_sums() {
    let logits = vec![0.5_f32; TOKENS_MAX];
    let last = fast(&logits, &Draw::new(1.0, 1.0, u64::MAX));
    assert_eq!(last as usize, TOKENS_MAX - 1);
    let middle = fast(&logits, &Draw::new(1.0, 0.5, u64::MAX));
    assert_eq!(middle as usize, TOKENS_MAX / 2 - 1);
}
