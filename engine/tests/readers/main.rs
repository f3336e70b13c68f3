//! A trial's records, as `simulate` writes them, opened by pandas, Polars, DuckDB and pyarrow: all read the same.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::process::Command;

use camino::{Utf8Path, Utf8PathBuf};
use fs_err::File;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{ListAccessor, RowAccessor};
use serde_json::{Map, Value};

const CONFIG: &str = r#"{
  "format": 1, "scheduler": {"policy": "sarathi", "chunk": 512, "batch_cap": 32},
  "workload": {"requests": 120, "arrivals": {"kind": "poisson", "qps": 0.5}, "lengths": {"kind": "fixed", "prompt": 900, "output": 30}},
  "max_model_len": 8192, "block_size": 16, "gpu_memory_utilization": 0.85,
  "seed": 7, "repetition": 0, "band": "central", "compat": "honest"
}"#;
/// Columns of records.parquet by their place, as docs/formats.md lists them.
const TOKENS_OUT: usize = 10;
const TBT_NS: usize = 15;

fn run(dir: &Utf8Path, args: &[&str]) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_chariot-engine")).args(args).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A trial's folder.
fn trial(dir: &Utf8Path) -> Utf8PathBuf {
    let pipelines = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines");
    let platform = format!("{pipelines}/platforms/azure-nc96ads-a100-v4-x2.yaml");
    let model = format!("{pipelines}/models/falcon-180b.yaml");
    fs_err::write(dir.join("config.json"), CONFIG).unwrap();
    run(dir, &["cluster", "--platform", &platform, "--out", "cluster.json"]);
    let shard = ["shard", "--cluster", "cluster.json", "--model", &model, "--tp", "4", "--pp", "2"];
    run(dir, &[&shard[..], &["--out", "weights.json"]].concat());
    let files = ["--cluster", "cluster.json", "--weights", "weights.json", "--config", "config.json"];
    run(dir, &[&["simulate"], &files[..], &["--out", "trial"]].concat());
    dir.join("trial")
}

/// What a reader makes of a trial.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Reading {
    rows: u64,
    tokens_out: u64,
    tbt_p99_ns: f64,
    batches: u64,
    batch_tokens: u64,
}

impl Reading {
    /// By this crate's own reader of Parquet.
    fn of(trial: &Utf8Path) -> Self {
        let open = |name: &str| {
            SerializedFileReader::new(File::open(trial.join(name)).unwrap().into_file()).unwrap()
        };
        let (records, batches) = (open("records.parquet"), open("batches.parquet"));
        let (mut rows, mut tokens_out, mut gaps) = (0, 0, Vec::new());
        for row in records.get_row_iter(None).unwrap() {
            let row = row.unwrap();
            rows += 1;
            tokens_out += row.get_int(TOKENS_OUT).unwrap() as u64;
            let list = row.get_list(TBT_NS).unwrap();
            gaps.extend((0..list.len()).map(|place| list.get_long(place).unwrap()));
        }
        gaps.sort_unstable();
        // Of n sorted samples at q (n - 1), between neighbours in a straight line.
        let place = 0.99 * (gaps.len() - 1) as f64;
        let (below, share) = (gaps[place as usize] as f64, place.fract());
        let tbt_p99_ns = below + (gaps[place.ceil() as usize] as f64 - below) * share;
        let (mut count, mut batch_tokens) = (0, 0);
        for row in batches.get_row_iter(None).unwrap() {
            let row = row.unwrap();
            count += 1;
            batch_tokens += (row.get_int(5).unwrap() + row.get_int(6).unwrap()) as u64;
        }
        Self { rows, tokens_out, tbt_p99_ns, batches: count, batch_tokens }
    }

    /// As read.py prints it.
    fn parse(json: &Value) -> Self {
        let count = |name: &str| json[name].as_u64().unwrap();
        Self {
            rows: count("rows"),
            tokens_out: count("tokens_out"),
            tbt_p99_ns: json["tbt_p99_ns"].as_f64().unwrap(),
            batches: count("batches"),
            batch_tokens: count("batch_tokens"),
        }
    }
}

#[test]
fn four_readers_agree_with_ours_and_with_the_trial() {
    let dir = tempfile::tempdir().unwrap();
    let trial = trial(Utf8Path::from_path(dir.path()).unwrap());
    let ours = Reading::of(&trial);
    let report: Value =
        serde_json::from_str(&fs_err::read_to_string(trial.join("trial.json")).unwrap()).unwrap();
    assert_eq!(report["requests"], ours.rows);
    assert_eq!((ours.rows, ours.tokens_out), (120, 120 * 30), "the trial has no time limit");
    // Every prompt token and every token but the last of each output goes through a batch.
    assert_eq!(ours.batch_tokens, 120 * (900 + 30 - 1));
    let Ok(python) = std::env::var("CHARIOT_PYTHON") else {
        let what =
            "SKIPPED: CHARIOT_PYTHON names no Python with the packages of .ci/requirements.txt; .ci/run does";
        eprintln!("{what}");
        return;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/readers/read.py");
    let output = Command::new(python).args([script, trial.as_str()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let readers: Map<String, Value> = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<&str> = readers.keys().map(String::as_str).collect();
    assert_eq!(names, ["duckdb", "pandas", "polars", "pyarrow"]);
    for (name, json) in &readers {
        let theirs = Reading::parse(json);
        assert!(
            (theirs.tbt_p99_ns / ours.tbt_p99_ns - 1.0).abs() < 1e-9,
            "{name}: {theirs:?}, ours {ours:?}"
        );
        assert_eq!(Reading { tbt_p99_ns: ours.tbt_p99_ns, ..theirs }, ours, "{name}");
    }
}
