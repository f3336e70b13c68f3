use expect_test::{Expect, expect};

use super::*;
use crate::step::{Resources, Tool};

fn action() -> ActionTemplate {
    ActionTemplate {
        tool: Tool::User("sh".to_owned()),
        args: Vec::new(),
        env: BTreeMap::new(),
        inputs: BTreeMap::new(),
        outputs: Vec::new(),
        resources: Resources { cpu: 1, gpu: 0, exclusive: false },
        timeout: None,
        retries: 0,
        facts: Vec::new(),
        cutoff: None,
    }
}

fn template(repeats: usize, config: Value, pointer: &str) -> SearchTemplate {
    let repeat = |seed: usize| Repeat {
        labels: BTreeMap::from([("seed".to_owned(), json!(seed)), ("band".to_owned(), json!("central"))]),
        trial: RateTemplate {
            action: action(),
            config_path: "config.json".into(),
            config: config.clone(),
            rate_pointer: pointer.to_owned(),
        },
        judge: action(),
        judge_inputs: BTreeMap::new(),
    };
    SearchTemplate {
        labels: BTreeMap::from([("system".to_owned(), "x".to_owned())]),
        rates: Rates { start: 1.0, granularity: 0.1, min: 0.1, max: 10.0 },
        repeats: (0..repeats).map(repeat).collect(),
        slo: vec!["p99(tbt) <= 1".to_owned()],
    }
}

/// Answers all that is wanted until the search is over; `capacity` by repeat.
fn search(template: &SearchTemplate, capacity: &[f64], backwards: bool) -> (Probes, usize) {
    let mut probes = Probes::new(template).unwrap();
    let mut widest = 0;
    loop {
        let mut wanted = probes.wanted();
        widest = widest.max(wanted.len());
        if wanted.is_empty() {
            return (probes, widest);
        }
        if backwards {
            wanted.reverse();
        }
        for point in wanted {
            let pass = point.rate <= capacity[point.repeat];
            probes.observe(point, json!({"pass": pass}).to_string().as_bytes()).unwrap();
        }
    }
}

#[test]
fn the_first_repeat_goes_alone_and_the_others_side_by_side() {
    let template = template(3, json!({}), "/qps");
    let (probes, widest) = search(&template, &[2.0, 2.0, 2.1], false);
    assert_eq!(widest, 2);
    let (low, high) = probes.bracket(0);
    assert!(low.unwrap() <= 2.0 && 2.0 < high.unwrap());
}

#[test]
fn the_file_does_not_depend_on_the_order_of_answers() {
    let template = template(3, json!({}), "/qps");
    let files = [false, true]
        .map(|backwards| search(&template, &[2.0, 1.9, 3.0], backwards).0.capacity_json(&template, "t"));
    assert_eq!(files[0], files[1]);
}

fn check_file(capacity: f64, expected: Expect) {
    let template = template(1, json!({}), "/qps");
    let (probes, _) = search(&template, &[capacity], false);
    let file: Value = serde_json::from_slice(&probes.capacity_json(&template, "capacity/x")).unwrap();
    let found = &file["searches"][0];
    let count = found["probes"].as_array().unwrap().len();
    let text = format!(
        "{} {} {} {} probes, {} {}",
        found["outcome"], found["highest_pass"], found["lowest_fail"], count, file["target"], found["repeat"]
    );
    expected.assert_eq(&text);
}

#[test]
fn every_outcome_is_an_answer() {
    check_file(
        2.0,
        expect![[r#""bracketed" 1.949 2.144 6 probes, "capacity/x" {"band":"central","seed":0}"#]],
    );
    check_file(
        0.01,
        expect![[r#""below_range" null 0.1015 4 probes, "capacity/x" {"band":"central","seed":0}"#]],
    );
    check_file(
        100.0,
        expect![[r#""above_range" 9.85 null 4 probes, "capacity/x" {"band":"central","seed":0}"#]],
    );
}

#[test]
fn the_rate_goes_where_the_pointer_says() {
    let template =
        template(1, json!({"workload": {"arrivals": {"kind": "poisson"}}}), "/workload/arrivals/qps");
    let trial = trial_at(&template.repeats[0].trial, 1.25).unwrap();
    let config = Source::Inline(br#"{"workload":{"arrivals":{"kind":"poisson","qps":1.25}}}"#.to_vec());
    assert_eq!(trial.inputs[camino::Utf8Path::new("config.json")], config);
    let point = Point { repeat: 0, rate: 1.25 };
    assert_eq!(address("p/capacity/x", &template, point), "p/capacity/x/band=central,seed=0/1.25qps");
}

#[test]
fn what_cannot_be_searched_is_refused() {
    let no_place = template(1, json!({}), "/workload/arrivals/qps");
    expect![
        "expected an object at the parent of /workload/arrivals/qps in the trial's configuration, found none"
    ]
    .assert_eq(&Probes::new(&no_place).unwrap_err().to_string());
    let mut probes = Probes::new(&template(1, json!({}), "/qps")).unwrap();
    let point = probes.wanted()[0];
    expect!["expected a JSON object with a boolean member `pass` in verdict.json, found {}"]
        .assert_eq(&probes.observe(point, b"{}").unwrap_err().to_string());
}
