use super::*;
use expect_test::expect;
use proptest::prelude::*;

fn rates(start: f64, granularity: f64, min: f64, max: f64) -> Rates {
    Rates { start, granularity, min, max }
}

fn run(mut search: Search, mut oracle: impl FnMut(f64) -> bool) -> Search {
    while let Some(rate) = search.next() {
        search.observe(rate, oracle(rate));
    }
    search
}

fn run_below(capacity: f64, rates: &Rates, hint: Option<f64>) -> Search {
    run(Search::new(rates, hint).unwrap(), |rate| rate <= capacity)
}

/// A generator of noise that is a function of the rate alone, as a seeded trial is.
fn noise(rate: f64, seed: u64) -> f64 {
    let mut x = rate.to_bits() ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 32)) >> 11) as f64 / (1u64 << 53) as f64
}

#[test]
fn a_search_reads_like_this() {
    let shown = |search: &Search| {
        let probes =
            search.probes().iter().map(|p| format!("{} {}", p.rate, if p.pass { "pass" } else { "fail" }));
        probes.chain([format!("{:?}", search.outcome().unwrap())]).collect::<Vec<_>>().join("\n")
    };
    let figure = rates(1.6, 0.025, 0.01, 100.0);
    let first = run_below(0.97, &figure, None);
    expect![[r#"
        1.485 fail
        1 fail
        0.4538 pass
        0.6736 pass
        0.8207 pass
        0.906 pass
        0.9518 pass
        0.9756 fail
        Bracketed { highest_pass: 0.9518, lowest_fail: 0.9756 }"#]]
    .assert_eq(&shown(&first));
    let Some(Outcome::Bracketed { highest_pass, .. }) = first.outcome() else {
        panic!("{:?}", first.outcome())
    };
    expect![[r#"
        0.9518 pass
        0.9756 fail
        Bracketed { highest_pass: 0.9518, lowest_fail: 0.9756 }"#]]
    .assert_eq(&shown(&run_below(0.97, &figure, Some(highest_pass))));
    expect![[r#"
        0.9518 pass
        0.9756 pass
        1.025 pass
        1.131 fail
        1.077 fail
        1.051 fail
        Bracketed { highest_pass: 1.025, lowest_fail: 1.051 }"#]]
    .assert_eq(&shown(&run_below(1.03, &figure, Some(highest_pass))));
}

#[test]
fn the_range_ends_in_answers() {
    let narrow = rates(1.0, 0.1, 0.5, 2.0);
    assert_eq!(run_below(1e9, &narrow, None).outcome(), Some(Outcome::AboveRange { highest_pass: 1.949 }));
    assert_eq!(run_below(0.0, &narrow, None).outcome(), Some(Outcome::BelowRange { lowest_fail: 0.5132 }));
    let single = rates(7.0, 0.1, 1.0, 1.0);
    assert_eq!(run_below(1e9, &single, None).outcome(), Some(Outcome::AboveRange { highest_pass: 1.0 }));
    assert_eq!(run_below(0.0, &single, None).outcome(), Some(Outcome::BelowRange { lowest_fail: 1.0 }));
    let far = rates(500.0, 0.1, 0.5, 2.0);
    assert_eq!(
        Search::new(&far, None).unwrap().next(),
        Some(1.464),
        "a start outside the range is brought into it"
    );
    assert_eq!(Search::new(&rates(1e-9, 0.1, 0.5, 2.0), None).unwrap().next(), Some(0.5132));
}

#[test]
fn rates_that_make_no_search_are_refused() {
    let refused = |r: Rates| Search::new(&r, None).unwrap_err().to_string();
    expect!["expected granularity between 0.002 and 1, found 0.0001"]
        .assert_eq(&refused(rates(1.0, 1e-4, 0.1, 9.0)));
    expect!["expected 0 < min <= max, both finite, found min 0 and max 9"]
        .assert_eq(&refused(rates(1.0, 0.1, 0.0, 9.0)));
    expect!["expected 0 < min <= max, both finite, found min 9 and max 1"]
        .assert_eq(&refused(rates(1.0, 0.1, 9.0, 1.0)));
    expect!["expected 0 < min <= max, both finite, found min 9 and max inf"].assert_eq(&refused(rates(
        1.0,
        0.1,
        9.0,
        f64::INFINITY,
    )));
    expect!["expected a start above 0, found NaN"].assert_eq(&refused(rates(f64::NAN, 0.1, 1.0, 9.0)));
    expect!["expected a range that holds a rate of the search's lattice, found none between 1.02 and 1.03"]
        .assert_eq(&refused(rates(1.0, 0.1, 1.02, 1.03)));
}

#[test]
fn the_lattice_is_the_same_bits_everywhere() {
    let all: Vec<_> = Lattice::new(&rates(1.0, 0.025, 1e-3, 1e3)).unwrap().rates;
    let bits: Vec<u8> = all.iter().flat_map(|r| r.to_bits().to_le_bytes()).collect();
    expect!["559 rates, 5172fed2a151af2b7f702200167328ac703db6562b1bc9388ec4cc8328803d42"]
        .assert_eq(&format!("{} rates, {}", all.len(), blake3::hash(&bits).to_hex()));
    let text: Vec<_> = all.iter().map(f64::to_string).collect();
    assert!(
        text.iter().all(|t| t.trim_matches(['0', '.']).replace('.', "").len() <= 4),
        "four digits: {text:?}"
    );
    let back: Vec<f64> = text.iter().map(|t| t.parse().unwrap()).collect();
    assert_eq!(back, all, "through a configuration file and back");
}

#[test]
fn searches_from_different_starts_share_probes() {
    let asked = |start| -> BTreeSet<String> {
        let search = run_below(0.97, &rates(start, 0.025, 0.01, 100.0), None);
        search.probes().iter().map(|p| p.rate.to_string()).collect()
    };
    let first = asked(1.6);
    for start in [0.4, 0.8, 1.3, 2.2, 3.0] {
        let shared = asked(start).intersection(&first).count();
        assert!(shared >= 4, "from {start}: {shared} of {}", first.len());
    }
}

/// Granularity, limits, a start and a capacity inside or outside of the limits.
fn cases() -> impl Strategy<Value = (Rates, f64)> {
    (0.01..0.2, -4.0..2.0, 0.0..5.0, -5.0..5.0, -6.0..6.0).prop_map(
        |(granularity, low, width, start, capacity)| {
            let power = increasing;
            let min = power(low);
            (rates(power(start), granularity, min, (min * power(width)).max(min * 1.5)), power(capacity))
        },
    )
}

/// Some increasing map from exponents to rates; that it is 10^x plays no role.
fn increasing(exponent: f64) -> f64 {
    format!("{}e{}", 1.0 + 9.0 * (exponent - exponent.floor()), exponent.floor()).parse().unwrap()
}

fn check_bracket(search: &Search, rates: &Rates) {
    let answer = |rate: f64| search.probes().iter().find(|p| p.rate == rate).map(|p| p.pass);
    let lattice = Lattice::new(rates).unwrap().rates;
    match search.outcome().unwrap() {
        Outcome::Bracketed { highest_pass, lowest_fail } => {
            assert_eq!((answer(highest_pass), answer(lowest_fail)), (Some(true), Some(false)));
            assert!(highest_pass < lowest_fail);
            assert!(lowest_fail / highest_pass <= (1.0 + rates.granularity) * 1.001);
        }
        Outcome::BelowRange { lowest_fail } => {
            assert_eq!((answer(lowest_fail), lowest_fail), (Some(false), lattice[0]));
            assert!(lowest_fail <= rates.min * (1.0 + rates.granularity) * 1.001);
        }
        Outcome::AboveRange { highest_pass } => {
            assert_eq!((answer(highest_pass), highest_pass), (Some(true), *lattice.last().unwrap()));
            assert!(highest_pass >= rates.max / (1.0 + rates.granularity) / 1.001);
        }
    }
    let distinct: BTreeSet<_> = search.probes().iter().map(|p| p.rate.to_bits()).collect();
    assert_eq!(distinct.len(), search.probes().len(), "no rate is asked for twice");
    assert!(search.probes().iter().all(|p| (rates.min..=rates.max).contains(&p.rate)));
}

proptest! {
    #[test]
    fn a_monotone_oracle_is_bracketed((rates, capacity) in cases(), with_hint: bool) {
        let search = run_below(capacity, &rates, with_hint.then_some(rates.start));
        check_bracket(&search, &rates);
        let lattice = Lattice::new(&rates).unwrap();
        let is_right = match search.outcome().unwrap() {
            Outcome::Bracketed { highest_pass, lowest_fail } => highest_pass <= capacity && capacity < lowest_fail,
            Outcome::BelowRange { .. } => capacity < lattice.rates[0],
            Outcome::AboveRange { highest_pass } => highest_pass <= capacity,
        };
        prop_assert!(is_right, "{:?}", search.outcome());

        let distance = lattice.floor(rates.start).abs_diff(lattice.floor(capacity));
        let stride = if with_hint { 1 } else { first_stride(rates.granularity) };
        let bound = 2.0 * ((distance + 2 * stride) as f64).log2() + 3.0;
        prop_assert!(search.probes().len() as f64 <= bound, "{} probes, bound {bound}", search.probes().len());
    }

    #[test]
    fn a_noisy_oracle_still_ends_in_a_bracket((rates, capacity) in cases(), seed: u64, spread in 0.0..3.0) {
        let noisy = |rate: f64| rate <= capacity * (1.0 + spread * (noise(rate, seed) - 0.5));
        check_bracket(&run(Search::new(&rates, None).unwrap(), noisy), &rates);
    }

    #[test]
    fn speculation_changes_neither_outcome_nor_order(
        (rates, capacity) in cases(), seed: u64, n in 1..9usize, with_hint: bool,
    ) {
        let noisy = |rate: f64| rate <= capacity * (0.5 + noise(rate, seed));
        let hint = with_hint.then_some(rates.start);
        let plain = run(Search::new(&rates, hint).unwrap(), noisy);
        let mut search = Search::new(&rates, hint).unwrap();
        let mut rounds = 0;
        while let Some(needed) = search.next() {
            let mut wanted = search.wanted(n);
            prop_assert_eq!(wanted[0], needed);
            let distinct: BTreeSet<_> = wanted.iter().map(|r| r.to_bits()).collect();
            prop_assert!(distinct.len() == wanted.len() && wanted.len() <= n);
            // Answers come in any order, and only some of them before the search is asked again.
            let below_len = |salt| (noise(needed, seed ^ salt) * wanted.len() as f64) as usize;
            let (turn, skipped) = (below_len(1), below_len(2));
            wanted.rotate_left(turn);
            for &rate in wanted.iter().skip(skipped) {
                search.observe(rate, noisy(rate));
            }
            rounds += 1;
            prop_assert!(rounds < 10_000);
        }
        prop_assert_eq!(search.outcome(), plain.outcome());
        prop_assert_eq!(search.probes(), plain.probes());
        prop_assert!(search.wanted(n).is_empty());
    }

    #[test]
    fn an_equal_repeat_costs_two_probes((rates, capacity) in cases()) {
        let first = run_below(capacity, &rates, None);
        if let Some(Outcome::Bracketed { highest_pass, .. }) = first.outcome() {
            let second = run_below(capacity, &rates, Some(highest_pass));
            prop_assert_eq!(second.outcome(), first.outcome());
            prop_assert_eq!(second.probes().len(), 2);
        }
    }

    #[test]
    fn with_all_wanted_rates_at_once_rounds_shrink((rates, capacity) in cases()) {
        let mut search = Search::new(&rates, None).unwrap();
        let mut rounds = 0;
        while search.next().is_some() {
            for rate in search.wanted(3) {
                search.observe(rate, rate <= capacity);
            }
            rounds += 1;
        }
        // Three at once: the needed one and both that can follow it, so two steps a round.
        prop_assert!(rounds <= search.probes().len().div_ceil(2), "{rounds} rounds of {}", search.probes().len());
    }
}
