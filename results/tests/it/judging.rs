//! Verdicts, and errors about files that are not what they should be.

use camino::Utf8Path;
use chariot_results::error::Error;
use chariot_results::judge::{Verdict, judge};
use chariot_results::predicate::parse;
use chariot_results::summary::summarize;
use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::json;

use crate::fixture::{Request, batches, four_requests, records, three_batches, trial, trial_json, write};

const S: i64 = 1_000_000_000;

fn verdict(dir: &Utf8Path, slo: &[&str]) -> Result<Verdict, Error> {
    judge(dir, &slo.iter().map(|text| parse(text).unwrap()).collect::<Vec<_>>())
}

#[test]
fn a_limit_that_is_met_exactly_passes() {
    let (_guard, dir) = trial(&four_requests(), &three_batches(), &trial_json(20 * S, "honest"));
    let v =
        verdict(&dir, &["p50(tbt) <= 2.0", "p50(ttft) <= 2999 ms", "p100(scheduling_delay) <= 15"]).unwrap();
    let told: Vec<_> = v.predicates.iter().map(|p| (p.value_s, p.limit_s, p.pass)).collect();
    assert_eq!(told, [(Some(2.0), 2.0, true), (Some(3.0), 2.999, false), (Some(15.0), 15.0, true)]);
    assert!(v.complete && !v.pass);
    assert!(verdict(&dir, &["p50(tbt) <= 2.0"]).unwrap().pass);
}

#[test]
fn a_stopped_trial_fails_whatever_it_holds() {
    let mut info = trial_json(20 * S, "honest");
    info["stopped"] = json!("p99(tbt) <= 1.0");
    let (_guard, dir) = trial(&four_requests(), &three_batches(), &info);
    let v = verdict(&dir, &["p50(tbt) <= 100"]).unwrap();
    assert!(v.predicates[0].pass && !v.complete && !v.pass);
}

#[test]
fn no_token_at_all_does_not_meet_a_limit_on_gaps() {
    let waiting = Request { arrival: S, prompt: 10, output: 2, ..Request::default() };
    let (_guard, dir) = trial(&[waiting], &three_batches(), &trial_json(20 * S, "honest"));
    let v = verdict(&dir, &["p99(tbt) <= 1"]).unwrap();
    assert_eq!((v.predicates[0].value_s, v.pass), (None, false));
    let (_guard, dir) = trial(&four_requests()[3..4], &three_batches(), &trial_json(20 * S, "honest"));
    assert!(verdict(&dir, &["p99(tbt) <= 1"]).unwrap().pass, "nobody is owed anything");
}

#[test]
fn judge_and_summary_agree() {
    let (_guard, dir) = trial(&four_requests(), &three_batches(), &trial_json(20 * S, "honest"));
    let summary = summarize(&dir).unwrap();
    for (metric, quantile) in [("tbt", "p99"), ("ttft", "p90"), ("scheduling_delay", "p75"), ("tbt", "p99.9")]
    {
        let v = verdict(&dir, &[&format!("{quantile}({metric}) <= 1")]).unwrap();
        assert_eq!(v.predicates[0].value_s, summary.metrics[metric].central.get(quantile).unwrap());
    }
}

fn check(file: &str, bytes: Option<&[u8]>, expect: Expect) {
    let (_guard, dir) = trial(&four_requests(), &three_batches(), &trial_json(20 * S, "honest"));
    match bytes {
        Some(bytes) => write(&dir.join(file), bytes),
        None => fs_err::remove_file(dir.join(file)).unwrap(),
    }
    let error = summarize(&dir).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    expect.assert_eq(&error.to_string().replace(dir.as_str(), "DIR"));
}

#[test]
fn says_what_is_wrong_with_a_file() {
    let whole = records(&four_requests(), 10);
    check("trial.json", None, expect![[r#"DIR/trial.json: expected a file, found none"#]]);
    check("trial.json", Some(b"{\"format\": 2}"), expect![[r#"DIR/trial.json: expected format 1, found 2"#]]);
    check(
        "trial.json",
        Some(b"{"),
        expect!["DIR/trial.json: expected JSON, found EOF while parsing an object at line 1 column 1"],
    );
    check("records.parquet", None, expect!["DIR/records.parquet: expected a file, found none"]);
    check(
        "records.parquet",
        Some(b"hello, this is text"),
        expect![
            "DIR/records.parquet: expected a Parquet file, found Parquet error: Invalid Parquet file. Corrupt footer"
        ],
    );
    check(
        "records.parquet",
        Some(&whole[..whole.len() / 2]),
        expect![
            "DIR/records.parquet: expected a Parquet file, found Parquet error: Invalid Parquet file. Corrupt footer"
        ],
    );
    check(
        "records.parquet",
        Some(&batches(&three_batches())),
        expect!["DIR/records.parquet: expected a column `arrival_ns`, found none"],
    );
    check(
        "batches.parquet",
        Some(&whole),
        expect!["DIR/batches.parquet: expected a column `start_ns`, found none; did you mean `tbt_ns`?"],
    );
}

#[test]
fn says_which_row_cannot_be() {
    let mut rows = four_requests();
    rows[1].tbt.push(1);
    rows[1].decode_only.push(true);
    check(
        "records.parquet",
        Some(&records(&rows, 10)),
        expect!["DIR/records.parquet: row 1: expected 1 values in `tbt_ns`, found 2"],
    );
    let mut rows = four_requests();
    rows[0].scheduled = Some(1);
    check(
        "records.parquet",
        Some(&records(&rows, 10)),
        expect!["DIR/records.parquet: row 0: expected `scheduled_ns` >= 1000000000, found 1"],
    );
    let mut rows = four_requests();
    rows[0].tbt[1] = -5;
    check(
        "records.parquet",
        Some(&records(&rows, 10)),
        expect!["DIR/records.parquet: column `tbt_ns`: expected gaps >= 0 ns, found -5"],
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn damage_is_an_error_or_harmless_but_never_a_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = records(&four_requests(), 3);
        for (at, value) in &flips {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let (_guard, dir) = trial(&four_requests(), &three_batches(), &trial_json(20 * S, "honest"));
        write(&dir.join("records.parquet"), &bytes);
        for result in [summarize(&dir).err(), verdict(&dir, &["p99(tbt) <= 1"]).err()] {
            prop_assert!(result.is_none_or(|error| error.exit_code() == 2));
        }
    }
}
