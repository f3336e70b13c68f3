//! Figures, claims and comparisons from small files, and the exit codes of the binary.

use std::process::Command;

use camino::{Utf8Path, Utf8PathBuf};
use chariot_results::check::check;
use chariot_results::compare::compare;
use chariot_results::figure::figure;
use expect_test::{expect, expect_file};
use serde_json::{Value, json};

use crate::fixture::{four_requests, three_batches, trial, trial_json, write};

fn directory() -> (tempfile::TempDir, Utf8PathBuf) {
    let guard = tempfile::tempdir().unwrap();
    let dir = Utf8PathBuf::from_path_buf(guard.path().to_owned()).unwrap();
    (guard, dir)
}

fn read(path: &Utf8Path) -> String {
    fs_err::read_to_string(path).unwrap()
}

fn search(seed: u32, band: &str, outcome: &str, pass: Option<f64>) -> Value {
    json!({
        "repeat": {"seed": seed, "band": band}, "outcome": outcome, "highest_pass": pass, "lowest_fail": pass.map(|p| p * 1.02),
        "probes": [{"rate": 1.0, "pass": pass.is_some(), "verdict": {"format": 1, "provenance": "simulated", "setting": "m on p", "pass": pass.is_some()}}],
    })
}

/// Four capacities: none, a bracket with a spread, the search's limit, and a row that is absent.
fn capacities(dir: &Utf8Path) -> Value {
    let files = [
        vec![search(1, "central", "below_range", None)],
        vec![
            search(1, "central", "bracketed", Some(1.0)),
            search(2, "central", "bracketed", Some(1.2)),
            search(3, "central", "bracketed", Some(1.1)),
            search(1, "low", "bracketed", Some(1.5)),
            search(1, "high", "bracketed", Some(0.5)),
        ],
        vec![search(1, "central", "above_range", Some(2.0))],
    ];
    for (index, searches) in files.iter().enumerate() {
        let file = json!({"format": 1, "rate_unit": "qps", "target": "capacity/x", "labels": {}, "searches": searches});
        write(&dir.join(format!("c{index}.json")), file.to_string().as_bytes());
    }
    json!({
        "format": 1, "kind": "grouped_bars", "source": "capacity", "title": "Capacity <by> system", "x": "slo", "series": "system",
        "x_label": "SLO", "y_label": "capacity", "series_order": ["b", "a"], "names": {"a": "system A", "b": "system B"},
        "rows": [
            {"labels": {"system": "a", "slo": "strict"}, "file": dir.join("c0.json")},
            {"labels": {"system": "b", "slo": "strict"}, "file": dir.join("c1.json")},
            {"labels": {"system": "b", "slo": "relaxed"}, "file": dir.join("c2.json")},
        ],
    })
}

fn drawn(dir: &Utf8Path, spec: &Value) -> Result<String, String> {
    write(&dir.join("figure.json"), spec.to_string().as_bytes());
    let said = figure(&dir.join("figure.json"), &dir.join("out"), "fig");
    said.map_err(|error| {
        assert_eq!(error.exit_code(), 2);
        error.to_string().replace(dir.as_str(), "DIR")
    })
}

#[test]
fn a_capacity_figure_with_none_and_at_least() {
    let (_guard, dir) = directory();
    let table = drawn(&dir, &capacities(&dir)).unwrap();
    expect_file!["golden/capacity.txt"].assert_eq(&table);
    expect_file!["golden/capacity.svg"].assert_eq(&read(&dir.join("out/fig.svg")));
    expect_file!["golden/capacity.csv"].assert_eq(&read(&dir.join("out/fig.csv")));
    for name in ["fig.svg", "fig.json", "fig.txt"] {
        assert!(read(&dir.join("out").join(name)).contains("simulated"), "{name}");
    }
}

#[test]
fn the_png_is_the_same_bytes_everywhere() {
    let (_guard, dir) = directory();
    drawn(&dir, &capacities(&dir)).unwrap();
    let png = fs_err::read(dir.join("out/fig.png")).unwrap();
    assert!(png.starts_with(b"\x89PNG"));
    let fnv = png
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    expect_file!["golden/capacity.png.fnv"].assert_eq(&format!("{fnv:016x}\n"));
}

#[test]
fn long_names_of_groups_are_broken_into_lines() {
    let (_guard, dir) = directory();
    let mut spec = capacities(&dir);
    spec["names"]["strict"] = json!("a group whose name is longer than its bars are wide");
    drawn(&dir, &spec).unwrap();
    let svg = read(&dir.join("out/fig.svg"));
    assert!(
        svg.contains(">a group whose name is longer<") && svg.contains(">than its bars are wide<"),
        "{svg}"
    );
}

/// Two summaries of the same trial, one of them with a band.
fn summaries(dir: &Utf8Path) -> Value {
    let (_guard, trial_dir) =
        trial(&four_requests(), &three_batches(), &trial_json(20_000_000_000, "honest"));
    let mut summary = serde_json::to_value(chariot_results::summary::summarize(&trial_dir).unwrap()).unwrap();
    write(&dir.join("s0.json"), summary.to_string().as_bytes());
    let mut low = summary["metrics"]["ttft"]["central"].clone();
    low["p50"] = json!(1.5);
    summary["metrics"]["ttft"]["low"] = low;
    write(&dir.join("s1.json"), summary.to_string().as_bytes());
    json!({
        "format": 1, "kind": "grouped_bars", "title": "TTFT", "x": "batch", "series": "parallel", "x_label": "batch", "y_label": "TTFT",
        "metrics": [{"metric": "ttft", "quantile": "p50", "label": "median"}, {"metric": "ttft", "quantile": "max"}],
        "scale": {"unit": "ms", "axis": "log"},
        "rows": [
            {"labels": {"parallel": "tp8", "batch": 8, "arm": "x"}, "file": dir.join("s0.json")},
            {"labels": {"parallel": "pp2", "batch": 8, "arm": "x"}, "file": dir.join("s1.json")},
        ],
    })
}

#[test]
fn a_latency_figure_scales_and_carries_the_band() {
    let (_guard, dir) = directory();
    let mut spec = summaries(&dir);
    spec["table"] = json!([{"metric": "tbt", "quantile": "p50", "label": "median TBT"}]);
    drawn(&dir, &spec).unwrap();
    assert!(!read(&dir.join("out/fig.svg")).contains("median TBT"), "in the table alone");
    assert!(read(&dir.join("out/fig.txt")).contains("median TBT"));
    expect![[r#"
        parallel,batch,arm,metric,value_ms,low_ms,high_ms
        tp8,8,x,ttft_p50,3000,3000,3000
        tp8,8,x,ttft_max,15000,15000,15000
        tp8,8,x,tbt_p50,2000,2000,2000
        pp2,8,x,ttft_p50,3000,1500,3000
        pp2,8,x,ttft_max,15000,15000,15000
        pp2,8,x,tbt_p50,2000,2000,2000
    "#]]
    .assert_eq(&read(&dir.join("out/fig.csv")));
    assert!(read(&dir.join("out/fig.svg")).contains("simulated · falcon-180b on two-nodes"));
}

#[test]
fn a_parity_figure_draws_one_series_over_the_other() {
    let (_guard, dir) = directory();
    let mut spec = summaries(&dir);
    spec["kind"] = json!("parity");
    drawn(&dir, &spec).unwrap();
    expect_file!["golden/parity.svg"].assert_eq(&read(&dir.join("out/fig.svg")));
    spec["rows"][1]["labels"]["parallel"] = json!("tp8");
    spec["rows"][1]["labels"]["batch"] = json!(16);
    expect!["DIR/figure.json: expected two series with `kind: parity`, found 1"]
        .assert_eq(&drawn(&dir, &spec).unwrap_err());
}

/// Medians, and from the lowest to the highest.
#[test]
fn repeats_of_a_trial_make_one_bar() {
    let (_guard, dir) = directory();
    let mut spec = summaries(&dir);
    let rows = spec["rows"].as_array().unwrap().clone();
    spec["repeats"] = json!("repeat");
    let mut repeated = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let mut summary: Value = serde_json::from_str(&read(&dir.join(format!("s{index}.json")))).unwrap();
        let first = summary["metrics"]["ttft"]["central"]["p50"].as_f64().unwrap();
        for (repeat, factor) in [(0, 1.0), (1, 0.5 - 0.2 * index as f64), (2, 1.25)] {
            summary["metrics"]["ttft"]["central"]["p50"] = json!(first * factor);
            let file = dir.join(format!("s{index}-{repeat}.json"));
            write(&file, summary.to_string().as_bytes());
            let mut row = row.clone();
            row["labels"]["repeat"] = json!(repeat);
            row["file"] = json!(file);
            repeated.push(row);
        }
    }
    spec["rows"] = json!(repeated);
    drawn(&dir, &spec).unwrap();
    expect_file!["golden/repeats.txt"].assert_eq(&read(&dir.join("out/fig.txt")));
    expect_file!["golden/repeats.csv"].assert_eq(&read(&dir.join("out/fig.csv")));
    spec["kind"] = json!("parity");
    drawn(&dir, &spec).unwrap();
    expect_file!["golden/repeats.svg"].assert_eq(&read(&dir.join("out/fig.svg")));
    spec["rows"][1]["labels"]["repeat"] = json!(0);
    expect!["DIR/figure.json: rows[1]: expected one row a bar, found another for the bar of rows[0]"]
        .assert_eq(&drawn(&dir, &spec).unwrap_err());
    spec["repeats"] = json!("repeats");
    expect!["DIR/figure.json: rows[0]: expected a label `repeats`, found none; did you mean `repeat`?"]
        .assert_eq(&drawn(&dir, &spec).unwrap_err());
}

#[test]
fn says_what_is_wrong_with_a_figure() {
    let (_guard, dir) = directory();
    let wrong = |change: &dyn Fn(&mut Value)| {
        let mut spec = summaries(&dir);
        change(&mut spec);
        drawn(&dir, &spec).unwrap_err()
    };
    expect!["DIR/s0.json: expected a metric `tft`, found none; did you mean `tbt`?"]
        .assert_eq(&wrong(&|s| s["metrics"][0]["metric"] = json!("tft")));
    expect!["expected a quantile of mean, std, min, p25, p50, p75, p90, p95, p99, p99.9, max, found `p98`; did you mean `p90`?"].assert_eq(&wrong(&|s| s["metrics"][0]["quantile"] = json!("p98")));
    expect!["expected a unit of s for `ttft`, found `qps`"]
        .assert_eq(&wrong(&|s| s["scale"]["unit"] = json!("qps")));
    expect!["DIR/figure.json: rows[0]: expected a label `batches`, found none; did you mean `batch`?"]
        .assert_eq(&wrong(&|s| s["x"] = json!("batches")));
    expect!["DIR/figure.json: rows[1]: expected one row a bar, found another for the bar of rows[0]"]
        .assert_eq(&wrong(&|s| s["rows"][1] = s["rows"][0].clone()));
    expect!["DIR/figure.json: unknown field `titel`, expected one of `format`, `kind`, `source`, `title`, `x`, `series`, `repeats`, `x_label`, `y_label`, `x_order`, `series_order`, `names`, `metrics`, `table`, `scale`, `rows`"].assert_eq(&wrong(&|s| s["titel"] = json!("x")));
    expect!["nowhere.json: expected a file, found none"]
        .assert_eq(&wrong(&|s| s["rows"][0]["file"] = json!("nowhere.json")));
}

fn claims(dir: &Utf8Path) -> Value {
    write(
        &dir.join("a.csv"),
        b"parallel,batch,metric,value_ms,low_ms,high_ms\ntp8,8,m,10,8,12\ntp8,16,m,40,30,50\npp2,8,m,10,10,10\npp2,16,m,10,10,10\npp2,32,m,1,1,1\n",
    );
    write(&dir.join("a.json"), br#"{"format": 1, "provenance": "simulated"}"#);
    json!({"format": 1, "claims": [
        {"name": "TP8 is slower", "source": "section 5", "csv": dir.join("a.csv"), "value": "value_ms",
         "numerator": {"parallel": "tp8"}, "denominator": {"parallel": "pp2"}, "over": "batch", "published": 2.0, "tolerance": 0.2},
        {"name": "at 16", "source": "section 5", "csv": dir.join("a.csv"), "value": "value_ms",
         "numerator": {"parallel": "tp8", "batch": "16"}, "denominator": {"parallel": "pp2", "batch": 16}, "over": null, "published": 4.1, "tolerance": 0.2},
    ]})
}

fn checked(dir: &Utf8Path, spec: &Value) -> Result<String, String> {
    write(&dir.join("check.json"), spec.to_string().as_bytes());
    check(&dir.join("check.json"), &dir.join("out"), "claims").map_err(|error| {
        assert_eq!(error.exit_code(), 2);
        error.to_string().replace(dir.as_str(), "DIR")
    })
}

#[test]
fn claims_are_held_against_what_came_out() {
    let (_guard, dir) = directory();
    let text = checked(&dir, &claims(&dir)).unwrap();
    expect![[r#"
        Published claims and what came out (simulated)

        claim          published   got (simulated)    verdict         source
        TP8 is slower  2 ± 20 %    2.50 [1.90..3.10]  direction only  section 5
          at 8                     1.00 [0.80..1.20]
          at 16                    4.00 [3.00..5.00]
        at 16          4.1 ± 20 %  4.00 [3.00..5.00]  reproduced      section 5

        In brackets: the ratio when both parts move over their error bars, each on its own.
    "#]]
    .assert_eq(&text);
    expect![[r#"
        # Published claims and what came out (simulated)

        | claim | published | got (simulated) | verdict | source |
        |---|---|---|---|---|
        | TP8 is slower | 2 ± 20 % | 2.50 [1.90..3.10] | direction only | section 5 |
        | at 16 | 4.1 ± 20 % | 4.00 [3.00..5.00] | reproduced | section 5 |

        TP8 is slower (simulated): 8: 1.00 [0.80..1.20], 16: 4.00 [3.00..5.00].

        In brackets: the ratio when both parts move over their error bars, each on its own.
    "#]]
    .assert_eq(&read(&dir.join("out/claims.md")));
    assert!(read(&dir.join("out/claims.json")).contains("\"provenance\": \"simulated\""));
}

/// Of 1, 4 and no number at 32: the median holds, but not all of them.
#[test]
fn a_claim_about_all_ratios_hangs_on_each() {
    let (_guard, dir) = directory();
    let spec = |published: f64, tolerance: f64, all: bool, denominator: &str| {
        let mut spec = claims(&dir);
        spec["claims"].as_array_mut().unwrap().truncate(1);
        let claim = &mut spec["claims"][0];
        claim["denominator"] = json!({"parallel": denominator});
        (claim["published"], claim["tolerance"]) = (json!(published), json!(tolerance));
        if all {
            claim["all"] = json!(true);
        }
        spec
    };
    let verdict = |spec: &Value| {
        checked(&dir, spec).unwrap();
        let found: Value = serde_json::from_str(&read(&dir.join("out/claims.json"))).unwrap();
        let claim = &found["claims"][0];
        format!("{} {}", claim["verdict"].as_str().unwrap(), claim["all"])
    };
    // The ratios are 1 and 4; 32 has a row of one side alone.
    assert_eq!(verdict(&spec(2.5, 0.1, false, "pp2")), "reproduced null");
    assert_eq!(verdict(&spec(2.5, 0.1, true, "pp2")), r#"not reproduced {"held":0,"of":3}"#);
    assert_eq!(verdict(&spec(4.0, 0.1, true, "pp2")), r#"not reproduced {"held":1,"of":3}"#);
    assert_eq!(verdict(&spec(2.5, 0.9, true, "pp2")), r#"not reproduced {"held":2,"of":3}"#);
    // Of themselves: 1 and 1.
    assert_eq!(verdict(&spec(1.0, 0.1, true, "tp8")), r#"reproduced {"held":2,"of":2}"#);
    assert_eq!(verdict(&spec(1.2, 0.1, true, "tp8")), r#"not reproduced {"held":0,"of":2}"#);

    // Three more, at which only one is out of the tolerance, on the same side of 1.
    let csv = "parallel,batch,value_ms\ntp8,8,3\ntp8,16,3\ntp8,32,4\npp2,8,1\npp2,16,1\npp2,32,1\n";
    let checked_in = |csv: &str| {
        let spec = spec(3.0, 0.1, true, "pp2");
        write(&dir.join("a.csv"), csv.as_bytes());
        checked(&dir, &spec).unwrap()
    };
    let text = checked_in(csv);
    assert!(text.contains("direction only (2 of 3)"), "{text}");
    assert!(read(&dir.join("out/claims.md")).contains("| direction only (2 of 3) |"));
    let text = checked_in(&csv.replace("tp8,32,4", "tp8,32,3.1"));
    assert!(text.contains("reproduced (3 of 3)"), "{text}");
    let text = checked_in(&csv.replace("tp8,32,4", "tp8,32,"));
    assert!(text.contains("not reproduced (2 of 3)"), "a bar that was not drawn does not hold: {text}");
}

/// A figure of two ways in two places, three repeats each, and a claim about all ratios of their paired repeats.
fn paired(dir: &Utf8Path, repeats: &Value) -> Value {
    write(
        &dir.join("a.csv"),
        b"place,way,metric,value_ms\nhere,told,m,20\nhere,seen,m,10\nthere,told,m,3\nthere,seen,m,3\n",
    );
    let point = |place: &str, way: &str| json!({"labels": {"place": place, "way": way}, "metric": "m", "value": 1.0, "repeats": repeats[place][way]});
    let points =
        [point("here", "told"), point("here", "seen"), point("there", "told"), point("there", "seen")];
    write(
        &dir.join("a.json"),
        json!({"format": 1, "provenance": "measured", "points": points}).to_string().as_bytes(),
    );
    json!({"format": 1, "claims": [
        {"name": "told as seen", "source": "here", "csv": dir.join("a.csv"), "value": "value_ms", "numerator": {"way": "told", "metric": "m"},
         "denominator": {"way": "seen", "metric": "m"}, "over": "place", "published": 1.0, "tolerance": 0.15, "all": true},
    ]})
}

/// Machines wander: the medians of both ways are of different repeats.
#[test]
fn paired_repeats_are_divided_one_by_one() {
    let (_guard, dir) = directory();
    let repeats = json!({
        "here": {"told": {"0": 10.0, "1": 20.0, "2": 30.0}, "seen": {"0": 10.0, "1": 10.0, "2": 60.0}},
        "there": {"told": {"0": 3.0, "1": 3.0, "2": null}, "seen": {"0": 3.0, "1": 2.5, "3": 9.0}},
    });
    let mut spec = paired(&dir, &repeats);
    let text = checked(&dir, &spec).unwrap();
    assert!(text.contains("not reproduced (1 of 2)"), "20 / 10 and 3 / 3: {text}");
    spec["claims"][0]["paired"] = json!(true);
    expect![[r#"
        Published claims and what came out (measured)

        claim         published  got (measured)     verdict              source
        told as seen  1 ± 15 %   1.05 [0.75..1.60]  reproduced (2 of 2)  here
          at here                1.00 [0.50..2.00]
          at there               1.10 [1.00..1.20]

        Of paired repeats: the median of their ratios, in brackets the lowest and the highest.
    "#]]
    .assert_eq(&checked(&dir, &spec).unwrap());
    assert!(read(&dir.join("out/claims.json")).contains("\"paired\": true"));
    // Repeats that no two of which belong together: the ratio is one that is not there.
    for apart in [json!({"7": 3.0}), json!({"0": null, "7": 3.0})] {
        let mut repeats = repeats.clone();
        repeats["there"]["seen"] = apart;
        let mut spec = paired(&dir, &repeats);
        spec["claims"][0]["paired"] = json!(true);
        let text = checked(&dir, &spec).unwrap();
        assert!(text.contains("not reproduced (1 of 2)"), "{text}");
    }
    let mut repeats = repeats.clone();
    repeats["there"]["seen"] = json!({});
    let mut spec = paired(&dir, &repeats);
    spec["claims"][0]["paired"] = json!(true);
    expect!["claim `told as seen`: expected a figure with repeats for `paired`, found none in DIR/a.csv"]
        .assert_eq(&checked(&dir, &spec).unwrap_err());
    spec["claims"][0]["value"] = json!("low_ms");
    write(&dir.join("a.csv"), b"place,way,metric,low_ms\nhere,told,m,20\nhere,seen,m,10\n");
    expect!["claim `told as seen`: expected a column of values with `paired`, found `low_ms`"]
        .assert_eq(&checked(&dir, &spec).unwrap_err());
}

#[test]
fn says_what_is_wrong_with_a_claim() {
    let (_guard, dir) = directory();
    let wrong = |change: &dyn Fn(&mut Value)| {
        let mut spec = claims(&dir);
        change(&mut spec["claims"][1]);
        checked(&dir, &spec).unwrap_err()
    };
    expect!["claim `at 16`: expected a column `value_s` in DIR/a.csv, found none; did you mean `value_ms`?"]
        .assert_eq(&wrong(&|c| c["value"] = json!("value_s")));
    expect!["claim `at 16`: expected a row where batch = 64 and parallel = tp8 in DIR/a.csv, found none"]
        .assert_eq(&wrong(&|c| c["numerator"]["batch"] = json!("64")));
    expect!["claim `at 16`: expected one row where parallel = tp8, found several"]
        .assert_eq(&wrong(&|c| c["numerator"] = json!({"parallel": "tp8"})));
    expect!["claim `at 16`: expected published > 0 and tolerance >= 0, found 0 and 0.2"]
        .assert_eq(&wrong(&|c| c["published"] = json!(0)));
    expect!["claim `at 16`: expected `over` with `all`, found none"]
        .assert_eq(&wrong(&|c| c["all"] = json!(true)));
    let spec = claims(&dir);
    fs_err::remove_file(dir.join("a.json")).unwrap();
    expect!["DIR/a.json: expected a file, found none"].assert_eq(&checked(&dir, &spec).unwrap_err());
}

#[test]
fn a_comparison_tells_what_changed() {
    let (_guard, dir) = directory();
    summaries(&dir);
    let mut now: Value = serde_json::from_str(&read(&dir.join("s0.json"))).unwrap();
    now["metrics"]["ttft"]["central"]["p50"] = json!(3.1);
    write(&dir.join("now.json"), now.to_string().as_bytes());
    let (text, within) = compare(&dir.join("s0.json"), &dir.join("now.json"), 0.05).unwrap();
    expect![[r#"
        number    baseline    now   change
        ttft p50         3  3.100  +3.33 %

        (simulated) 407 numbers equal, 0 changed by more than 5 %
    "#]]
    .assert_eq(&text);
    assert!(within);
    assert!(!compare(&dir.join("s0.json"), &dir.join("now.json"), 0.03).unwrap().1);
    assert!(
        !compare(&dir.join("s0.json"), &dir.join("s1.json"), 0.5).unwrap().1,
        "numbers that one side lacks"
    );
}

#[test]
fn the_binary_s_exit_codes() {
    let (_guard, trial_dir) =
        trial(&four_requests(), &three_batches(), &trial_json(20_000_000_000, "honest"));
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_chariot-results"))
            .current_dir(&trial_dir)
            .args(arguments)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, said, _) = run(&["summarize", "--trial", ".", "--out", "out"]);
    assert_eq!(code, Some(0));
    expect_file!["golden/summarize.txt"].assert_eq(&said);
    assert_eq!(run(&["judge", "--trial", ".", "--slo", "p99(tbt) <= 1", "--out", "verdict.json"]).0, Some(0));
    expect![[r#"
        {
          "format": 1,
          "provenance": "simulated",
          "setting": "falcon-180b on two-nodes",
          "pass": false,
          "complete": true,
          "predicates": [
            {
              "predicate": "p99(tbt) <= 1",
              "value_s": 13.56,
              "limit_s": 1.0,
              "pass": false
            }
          ]
        }
    "#]]
    .assert_eq(&read(&trial_dir.join("verdict.json")));
    let (code, _, error) = run(&["judge", "--trial", ".", "--slo", "p99(tbx) <= 1", "--out", "v.json"]);
    assert_eq!(code, Some(2));
    expect![[r#"
        error: predicate `p99(tbx) <= 1`: expected one of tbt, ttft, scheduling_delay, found `tbx`; did you mean `tbt`?
    "#]].assert_eq(&error);
    assert!(!trial_dir.join("v.json").exists());
    assert_eq!(run(&["figure", "--spec", "nowhere.json", "--out", "out", "--name", "x"]).0, Some(2));
    assert_eq!(run(&["nonsense"]).0, Some(2));
    let other = read(&trial_dir.join("out/summary.json")).replace("\"p50\": 3.0", "\"p50\": 4.0");
    write(&trial_dir.join("now.json"), other.as_bytes());
    let compare = ["compare", "--baseline", "out/summary.json", "--now", "now.json", "--tolerance", "1%"];
    assert_eq!(run(&compare).0, Some(1));
}

#[test]
fn every_metric_is_documented_with_its_unit() {
    let page = include_str!("../../../docs/metrics.md");
    let units = chariot_results::metric::METRICS.iter().map(|m| (m.name, m.unit));
    for (name, unit) in units.chain(chariot_results::metric::BATCH_METRICS.iter().map(|m| (m.name, m.unit))) {
        let row =
            page.contains(&format!("| `{name}` | {unit} |")) || page.contains(&format!("`{name}` ({unit}):"));
        assert!(row, "expected `{name}` with unit {unit} in docs/metrics.md");
    }
}
