//! Tests of the workload: published quantiles, common random numbers, the same bits everywhere, clear mistakes.

use camino::Utf8Path;
use expect_test::expect;

use super::*;

/// Where the presets are.
const PRESETS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines/lengths");

fn fixed() -> Lengths {
    Lengths::Fixed { prompt: 3, output: 2 }
}

fn generate(requests: u32, arrivals: Arrivals, lengths: Lengths, seed: u64) -> Vec<Request> {
    Workload { requests, arrivals, lengths }.generate(Utf8Path::new(PRESETS), seed, false).unwrap()
}

fn preset(requests: u32, name: &str, seed: u64) -> Vec<Request> {
    let lengths = Lengths::Quantiles { file: format!("{name}.yaml"), total_max: None };
    generate(requests, Arrivals::Static { qps: 1.0 }, lengths, seed)
}

fn gaps(arrivals: Arrivals) -> Vec<f64> {
    let times = generate(200_000, arrivals, fixed(), 7);
    times.windows(2).map(|pair| (pair[1].arrival - pair[0].arrival).as_secs_f64()).collect()
}

fn mean_and_std(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let square = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / values.len() as f64;
    (mean, square.sqrt())
}

/// Quantile, linear between sorted values.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let below = at as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * at.fract()
}

#[track_caller]
fn assert_close(found: f64, expected: f64, tolerance: f64, what: &str) {
    assert!((found - expected).abs() <= expected * tolerance, "{what}: expected {expected}, found {found}");
}

/// A published quantile is met if its tokens are within 1 % (half a token for short ones) at a share no further away
/// than `share_slack`: where the distribution is steep, the noise of the share alone is more than a percent of tokens.
#[track_caller]
fn assert_quantiles(mut draws: Vec<f64>, published: &[(f64, f64)], share_slack: f64, what: &str) {
    draws.sort_by(f64::total_cmp);
    for &(share, tokens) in &published[1..published.len() - 1] {
        let found = quantile(&draws, share);
        let allowed = (tokens * 0.01).max(0.5);
        let (low, high) = (quantile(&draws, share - share_slack), quantile(&draws, share + share_slack));
        assert!(
            (low - allowed..=high + allowed).contains(&tokens),
            "{what} P{}: published {tokens}, found {found}",
            share * 100.0
        );
    }
}

fn check_preset(name: &str, share_slack: f64, means: Option<(f64, f64)>) {
    let draws = preset(1_000_000, name, 42);
    let table = QuantileTable::read(Utf8Path::new(PRESETS), &format!("{name}.yaml")).unwrap();
    let prompts: Vec<f64> = draws.iter().map(|r| f64::from(r.prompt_tokens)).collect();
    let outputs: Vec<f64> = draws.iter().map(|r| f64::from(r.output_tokens)).collect();
    if let Some((prompt, output)) = means {
        assert_close(mean_and_std(&prompts).0, prompt, 0.01, "prompt mean");
        assert_close(mean_and_std(&outputs).0, output, 0.01, "output mean");
    }
    assert_quantiles(prompts, &table.prompt, share_slack, "prompt");
    assert_quantiles(outputs, &table.output, share_slack, "output");
    let total_max = table.total_max.unwrap_or(u32::MAX);
    assert!(draws.iter().all(|r| r.prompt_tokens + r.output_tokens <= total_max));
}

#[test]
fn openchat_meets_the_published_quantiles_and_means() {
    check_preset("openchat_sharegpt4", 0.0, Some((2340.0, 438.7)));
}

#[test]
fn azure_meets_the_published_quantiles() {
    check_preset("azure_conversation_2023", 0.001, None);
}

#[test]
fn arxiv_meets_its_points_and_the_published_spread() {
    check_preset("arxiv_summarization", 0.001, None);
    let draws = preset(1_000_000, "arxiv_summarization", 42);
    let prompts: Vec<f64> = draws.iter().map(|r| f64::from(r.prompt_tokens)).collect();
    let outputs: Vec<f64> = draws.iter().map(|r| f64::from(r.output_tokens)).collect();
    assert_close(mean_and_std(&prompts).1, 3638.0, 0.01, "prompt standard deviation");
    assert_close(mean_and_std(&outputs).1, 265.0, 0.02, "output standard deviation");
}

#[test]
fn gaps_have_the_mean_and_spread_asked_for() {
    for (arrivals, cv) in [
        (Arrivals::Poisson { qps: 2.0 }, 1.0),
        (Arrivals::Gamma { qps: 2.0, cv: 0.5 }, 0.5),
        (Arrivals::Gamma { qps: 2.0, cv: 3.0 }, 3.0),
        (Arrivals::Static { qps: 2.0 }, 0.0),
    ] {
        let (mean, std) = mean_and_std(&gaps(arrivals));
        assert_close(mean, 0.5, 0.02, "mean gap");
        assert!((std / mean - cv).abs() < 0.03 * (1.0 + cv), "cv: expected {cv}, found {}", std / mean);
    }
}

#[test]
fn clipped_gaps_are_at_most_three_means() {
    let workload = Workload { requests: 100_000, arrivals: Arrivals::Poisson { qps: 2.0 }, lengths: fixed() };
    let times = workload.generate(Utf8Path::new(""), 7, true).unwrap();
    let gaps: Vec<f64> = times.windows(2).map(|p| (p[1].arrival - p[0].arrival).as_secs_f64()).collect();
    assert!(gaps.iter().all(|&gap| gap <= 1.5 + 1e-8));
    // E min(X, 3) = 1 - e^-3: the true rate is 5.2 % above the stated one.
    assert_close(mean_and_std(&gaps).0, 0.5 * (1.0 - libm::exp(-3.0)), 0.01, "mean clipped gap");
}

#[test]
fn the_same_seed_gives_the_same_lengths_and_scaled_gaps_at_every_rate() {
    let lengths = || Lengths::Quantiles { file: "openchat_sharegpt4.yaml".to_owned(), total_max: None };
    let slow = generate(500, Arrivals::Poisson { qps: 0.5 }, lengths(), 42);
    let fast = generate(500, Arrivals::Poisson { qps: 4.0 }, lengths(), 42);
    for (s, f) in slow.iter().zip(&fast) {
        assert_eq!((s.prompt_tokens, s.output_tokens), (f.prompt_tokens, f.output_tokens));
        assert!(s.arrival.0.abs_diff(8 * f.arrival.0) <= 8);
    }
    let prefix = generate(100, Arrivals::Poisson { qps: 0.5 }, lengths(), 42);
    assert_eq!(prefix, slow[..100], "fewer requests are the first ones");
    let other = generate(500, Arrivals::Poisson { qps: 0.5 }, lengths(), 43);
    assert!(other != slow, "another seed gives another workload");
}

#[test]
fn draws_are_the_same_bits_on_every_machine() {
    let lengths = |total_max| Lengths::Zipf { total_min: 2, total_max, theta: 0.6, prompt_to_output: 4.0 };
    let one = |arrivals, lengths| {
        let last = *generate(1000, arrivals, lengths, 42).last().unwrap();
        format!("{} {} {}\n", last.arrival.0, last.prompt_tokens, last.output_tokens)
    };
    let openchat = Lengths::Quantiles { file: "openchat_sharegpt4.yaml".to_owned(), total_max: None };
    let uniform = Lengths::Uniform { total_min: 2, total_max: 900, prompt_to_output: 0.5 };
    let all = [
        one(Arrivals::Poisson { qps: 0.75 }, openchat),
        one(Arrivals::Gamma { qps: 0.75, cv: 2.0 }, lengths(4096)),
        one(Arrivals::Gamma { qps: 0.75, cv: 0.5 }, uniform),
    ];
    expect![[r#"
        1310419129431 6257 896
        1397903868965 2765 691
        1348471172454 280 560
    "#]]
    .assert_eq(&all.concat());
}

#[test]
fn totals_keep_bounds_and_split() {
    let uniform = Lengths::Uniform { total_min: 10, total_max: 99, prompt_to_output: 4.0 };
    let zipf = Lengths::Zipf { total_min: 10, total_max: 99, theta: 1.0, prompt_to_output: 4.0 };
    for (lengths, mean_expected) in [(uniform, 54.5), (zipf, 26.7)] {
        let draws = generate(100_000, Arrivals::Static { qps: 1.0 }, lengths, 1);
        let totals: Vec<f64> = draws.iter().map(|r| f64::from(r.prompt_tokens + r.output_tokens)).collect();
        assert!(totals.iter().all(|total| (10.0..=99.0).contains(total)));
        assert_close(mean_and_std(&totals).0, mean_expected, 0.01, "mean total");
        let prompts: f64 = draws.iter().map(|r| f64::from(r.prompt_tokens)).sum();
        assert_close(prompts / totals.iter().sum::<f64>(), 0.8, 0.01, "share of the prompt");
    }
}

fn trial_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        ("lengths.csv", "extra,num_prefill_tokens,num_decode_tokens\r\nx,10,2\r\ny,7,3\r\n"),
        ("swapped.csv", "prompt,num_decode_tokens\n1,2\n"),
        ("bad.csv", "num_prefill_tokens,num_decode_tokens\n10,2\n10,2.5\n"),
        ("zero.csv", "num_prefill_tokens,num_decode_tokens\n10,0\n10,1\n"),
        ("short.csv", "num_prefill_tokens,num_decode_tokens\n10,2\n10\n"),
        ("times.csv", "arrival_s\n0\n0.5\n\n"),
        ("back.csv", "arrival_s\n1\n0.5\n"),
        ("falling.yaml", "name: n\nsource: s\nprompt: [[0, 5], [1, 4]]\noutput: [[0, 1], [1, 2]]\n"),
        ("open.yaml", "name: n\nsource: s\nprompt: [[0, 4], [1, 4]]\noutput: [[0, 1], [0.5, 2]]\n"),
        ("typo.yaml", "name: n\nsource: s\npromt: [[0, 4], [1, 4]]\n"),
    ];
    for (name, text) in files {
        fs_err::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn from_files(arrivals: Arrivals, lengths: Lengths) -> Result<Vec<Request>, WorkloadError> {
    let dir = trial_dir();
    let workload = Workload { requests: 2, arrivals, lengths };
    workload.generate(Utf8Path::from_path(dir.path()).unwrap(), 1, false)
}

#[test]
fn traces_are_read_by_column_name() {
    let arrivals = Arrivals::Trace { file: "times.csv".to_owned(), scale: Some(2.0) };
    let lengths = Lengths::Trace { file: "lengths.csv".to_owned() };
    let requests = from_files(arrivals, lengths).unwrap();
    let request = |secs, prompt_tokens, output_tokens| Request {
        arrival: Nanos::from_secs_f64(secs),
        prompt_tokens,
        output_tokens,
    };
    assert_eq!(requests, [request(0.0, 10, 2), request(1.0, 7, 3)]);
}

#[test]
fn mistakes_name_place_expected_and_found() {
    let at_one = || Arrivals::Static { qps: 1.0 };
    let lengths = |file: &str| Lengths::Trace { file: file.to_owned() };
    let times = |file: &str| Arrivals::Trace { file: file.to_owned(), scale: None };
    let table = |file: &str| Lengths::Quantiles { file: file.to_owned(), total_max: None };
    let cases = [
        (at_one(), lengths("swapped.csv")),
        (at_one(), lengths("bad.csv")),
        (at_one(), lengths("zero.csv")),
        (at_one(), lengths("short.csv")),
        (times("back.csv"), fixed()),
        (times("lengths.csv"), fixed()),
        (at_one(), table("falling.yaml")),
        (at_one(), table("open.yaml")),
        (at_one(), table("typo.yaml")),
        (Arrivals::Poisson { qps: 0.0 }, fixed()),
        (Arrivals::Gamma { qps: 1.0, cv: f64::NAN }, fixed()),
        (Arrivals::Poisson { qps: 1e-300 }, fixed()),
        (at_one(), Lengths::Fixed { prompt: 1, output: 0 }),
        (at_one(), Lengths::Uniform { total_min: 9, total_max: 8, prompt_to_output: 1.0 }),
    ];
    let errors = cases.map(|(arrivals, lengths)| format!("{}\n", from_files(arrivals, lengths).unwrap_err()));
    expect![[r#"
        swapped.csv:1: expected a header with the columns num_prefill_tokens,num_decode_tokens, found 'prompt,num_decode_tokens'
        bad.csv:3: num_decode_tokens: expected a whole number of at least 1, found '2.5'
        zero.csv:2: num_decode_tokens: expected a whole number of at least 1, found '0'
        short.csv:3: num_decode_tokens: expected a whole number of at least 1, found ''
        back.csv:3: expected arrival_s in ascending order, found one earlier than the row before
        lengths.csv:1: expected a header with the columns arrival_s, found 'extra,num_prefill_tokens,num_decode_tokens'
        falling.yaml:3: prompt: expected ascending points, found [1, 4] after [0, 5]
        open.yaml:4: output: expected shares from 0 to 1, found 0 to 0.5
        typo.yaml:3: unknown field `promt`, expected one of name, source, total_max, prompt, output at line 3, column 1
        workload.arrivals.qps: expected a number above 0, found 0
        workload.arrivals.cv: expected a number above 0, found NaN
        workload.arrivals.qps: expected arrivals within 9e9 s, found one at 9.636721790010981e299 s
        workload.lengths.output: expected at least 1, found 0
        workload.lengths.total_max: expected at least 9, found 8
    "#]].assert_eq(&errors.concat());
}

#[test]
fn too_few_rows_are_told() {
    let dir = trial_dir();
    let lengths = Lengths::Trace { file: "lengths.csv".to_owned() };
    let workload = Workload { requests: 3, arrivals: Arrivals::Static { qps: 1.0 }, lengths };
    let error = workload.generate(Utf8Path::from_path(dir.path()).unwrap(), 1, false).unwrap_err();
    expect!["lengths.csv:3: expected at least 3 rows (workload.requests), found 2"]
        .assert_eq(&error.to_string());
}

#[test]
fn the_configuration_is_read_as_documented() {
    let text = r#"{"requests": 2048, "arrivals": {"kind": "poisson", "qps": 0.75},
        "lengths": {"kind": "quantiles", "file": "lengths.yaml"}}"#;
    let workload: Workload = serde_json::from_str(text).unwrap();
    let lengths = Lengths::Quantiles { file: "lengths.yaml".to_owned(), total_max: None };
    let expected = Workload { requests: 2048, arrivals: Arrivals::Poisson { qps: 0.75 }, lengths };
    assert_eq!(workload, expected);
    let unknown = text.replace("\"qps\"", "\"rate\"");
    expect!["unknown field `rate`, expected `qps` at line 1 column 64"]
        .assert_eq(&serde_json::from_str::<Workload>(&unknown).unwrap_err().to_string());
}
