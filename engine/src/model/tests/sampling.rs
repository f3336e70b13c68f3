use crate::model::sampler::{Sampling, sample};

#[test]
fn greedy_takes_the_first_of_equals() {
    assert_eq!(sample(&[0.0, 3.0, 3.0, 1.0], &Sampling::greedy(), 7), 1);
    assert_eq!(sample(&[2.0], &Sampling::greedy(), 0), 0);
}

#[test]
fn a_draw_depends_on_seed_and_position_alone() {
    let logits: Vec<f32> = (0..50).map(|i| (i % 7) as f32 / 3.0).collect();
    let draws = |seed| {
        let sampling = Sampling { temperature: 1.0, top_p: 0.9, seed };
        (0..64).map(|position| sample(&logits, &sampling, position)).collect::<Vec<_>>()
    };
    assert_eq!(draws(1), draws(1));
    assert_ne!(draws(1), draws(2));
    let backwards: Vec<u32> = {
        let sampling = Sampling { temperature: 1.0, top_p: 0.9, seed: 1 };
        let mut all: Vec<u32> = (0..64).rev().map(|position| sample(&logits, &sampling, position)).collect();
        all.reverse();
        all
    };
    assert_eq!(backwards, draws(1));
}

#[test]
fn draws_have_the_probabilities_of_the_softmax() {
    // Weights 1 : 2 : 4 at temperature 1, and their square roots at 2.
    let logits = [0.0, 2.0_f32.ln(), 4.0_f32.ln()];
    for (temperature, ratio) in [(1.0, 2.0_f64), (2.0, 2.0_f64.sqrt())] {
        let sampling = Sampling { temperature, top_p: 1.0, seed: 5 };
        let mut counts = [0_u32; 3];
        for position in 0..20_000 {
            counts[sample(&logits, &sampling, position) as usize] += 1;
        }
        let sum = 1.0 + ratio + ratio * ratio;
        for (count, power) in counts.iter().zip(0..) {
            let expected = 20_000.0 * ratio.powi(power) / sum;
            // Four standard deviations and more.
            assert!((f64::from(*count) - expected).abs() < 300.0, "{temperature}: {counts:?}");
        }
    }
}

#[test]
fn top_p_leaves_out_the_tail() {
    let logits = [8.0_f32.ln(), 4.0_f32.ln(), 2.0_f32.ln(), 1.0_f32.ln()];
    for (top_p, kept) in [(0.01, 1), (0.5, 1), (0.6, 2), (0.79, 2), (0.9, 3), (1.0, 4)] {
        let sampling = Sampling { temperature: 1.0, top_p, seed: 3 };
        let most = (0..2000).map(|position| sample(&logits, &sampling, position)).max();
        assert_eq!(most, Some(kept - 1), "top_p={top_p}");
    }
}
