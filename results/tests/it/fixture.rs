//! Writes trials as docs/formats.md describes them, for tests.

use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use parquet::data_type::{BoolType, Int32Type, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};

/// One row of records.parquet.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Request {
    pub(crate) arrival: i64,
    pub(crate) prompt: i32,
    pub(crate) output: i32,
    pub(crate) ignored: bool,
    pub(crate) scheduled: Option<i64>,
    pub(crate) prefill_end: Option<i64>,
    pub(crate) first_token: Option<i64>,
    pub(crate) last_token: Option<i64>,
    pub(crate) completed: Option<i64>,
    pub(crate) tokens_out: i32,
    pub(crate) execution: i64,
    pub(crate) preemption: i64,
    pub(crate) restarts: i32,
    pub(crate) pauses: i32,
    pub(crate) tbt: Vec<i64>,
    pub(crate) decode_only: Vec<bool>,
}

/// One row of batches.parquet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchRow {
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) sequences: i32,
    pub(crate) prefill: i32,
    pub(crate) decode: i32,
}

const RECORDS: &str = "message records {
  required int32 request_id; required int64 arrival_ns; required int32 prompt_tokens; required int32 output_tokens;
  required boolean ignored; optional int64 scheduled_ns; optional int64 prefill_end_ns; optional int64 first_token_ns;
  optional int64 last_token_ns; optional int64 completed_ns; required int32 tokens_out; required int64 execution_ns;
  required int64 preemption_ns; required int32 restarts; required int32 pauses;
  required group tbt_ns (LIST) { repeated group list { required int64 element; } }
  required group tbt_decode_only (LIST) { repeated group list { required boolean element; } }
}";

const BATCHES: &str = "message batches {
  required int32 batch_id; required int64 scheduled_ns; required int64 start_ns; required int64 end_ns;
  required int32 sequences; required int32 prefill_tokens; required int32 decode_tokens; required int32 preemptions;
}";

type Group<'a> = SerializedRowGroupWriter<'a, Vec<u8>>;

fn i32s(group: &mut Group<'_>, values: impl Iterator<Item = i32>) {
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int32Type>().write_batch(&values.collect::<Vec<_>>(), None, None).unwrap();
    column.close().unwrap();
}

fn i64s(group: &mut Group<'_>, values: impl Iterator<Item = i64>) {
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&values.collect::<Vec<_>>(), None, None).unwrap();
    column.close().unwrap();
}

fn optional(group: &mut Group<'_>, values: impl Iterator<Item = Option<i64>>) {
    let values: Vec<_> = values.collect();
    let def: Vec<i16> = values.iter().map(|v| i16::from(v.is_some())).collect();
    let present: Vec<i64> = values.into_iter().flatten().collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&present, Some(&def), None).unwrap();
    column.close().unwrap();
}

/// Definition and repetition levels of lists of these lengths.
fn levels(lengths: impl Iterator<Item = usize>) -> (Vec<i16>, Vec<i16>) {
    let (mut def, mut rep) = (Vec::new(), Vec::new());
    for length in lengths {
        def.extend(std::iter::repeat_n(i16::from(length > 0), length.max(1)));
        rep.push(0);
        rep.extend(std::iter::repeat_n(1, length.saturating_sub(1)));
    }
    (def, rep)
}

/// The bytes of records.parquet, in row groups of `per_group` rows.
pub(crate) fn records(rows: &[Request], per_group: usize) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(RECORDS).unwrap());
    let mut file =
        SerializedFileWriter::new(Vec::new(), schema, Arc::new(WriterProperties::builder().build())).unwrap();
    for (chunk_index, rows) in rows.chunks(per_group.max(1)).enumerate() {
        let mut g = file.next_row_group().unwrap();
        let base = (chunk_index * per_group) as i32;
        i32s(&mut g, (0..rows.len() as i32).map(|i| base + i));
        i64s(&mut g, rows.iter().map(|r| r.arrival));
        i32s(&mut g, rows.iter().map(|r| r.prompt));
        i32s(&mut g, rows.iter().map(|r| r.output));
        let ignored: Vec<bool> = rows.iter().map(|r| r.ignored).collect();
        let mut column = g.next_column().unwrap().unwrap();
        column.typed::<BoolType>().write_batch(&ignored, None, None).unwrap();
        column.close().unwrap();
        optional(&mut g, rows.iter().map(|r| r.scheduled));
        optional(&mut g, rows.iter().map(|r| r.prefill_end));
        optional(&mut g, rows.iter().map(|r| r.first_token));
        optional(&mut g, rows.iter().map(|r| r.last_token));
        optional(&mut g, rows.iter().map(|r| r.completed));
        i32s(&mut g, rows.iter().map(|r| r.tokens_out));
        i64s(&mut g, rows.iter().map(|r| r.execution));
        i64s(&mut g, rows.iter().map(|r| r.preemption));
        i32s(&mut g, rows.iter().map(|r| r.restarts));
        i32s(&mut g, rows.iter().map(|r| r.pauses));
        let (def, rep) = levels(rows.iter().map(|r| r.tbt.len()));
        let values: Vec<i64> = rows.iter().flat_map(|r| r.tbt.iter().copied()).collect();
        let mut column = g.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&values, Some(&def), Some(&rep)).unwrap();
        column.close().unwrap();
        let (def, rep) = levels(rows.iter().map(|r| r.decode_only.len()));
        let values: Vec<bool> = rows.iter().flat_map(|r| r.decode_only.iter().copied()).collect();
        let mut column = g.next_column().unwrap().unwrap();
        column.typed::<BoolType>().write_batch(&values, Some(&def), Some(&rep)).unwrap();
        column.close().unwrap();
        g.close().unwrap();
    }
    file.into_inner().unwrap()
}

/// The bytes of batches.parquet.
pub(crate) fn batches(rows: &[BatchRow]) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(BATCHES).unwrap());
    let mut file =
        SerializedFileWriter::new(Vec::new(), schema, Arc::new(WriterProperties::builder().build())).unwrap();
    let mut g = file.next_row_group().unwrap();
    i32s(&mut g, 0..rows.len() as i32);
    i64s(&mut g, rows.iter().map(|r| r.start));
    i64s(&mut g, rows.iter().map(|r| r.start));
    i64s(&mut g, rows.iter().map(|r| r.end));
    i32s(&mut g, rows.iter().map(|r| r.sequences));
    i32s(&mut g, rows.iter().map(|r| r.prefill));
    i32s(&mut g, rows.iter().map(|r| r.decode));
    i32s(&mut g, rows.iter().map(|_| 0));
    g.close().unwrap();
    file.into_inner().unwrap()
}

/// `trial.json` of a simulated trial that ended at `end`.
pub(crate) fn trial_json(end: i64, compat: &str) -> Value {
    json!({
        "format": 1, "provenance": "simulated", "stopped": null, "end_ns": end, "platform": "two-nodes", "model": "falcon-180b",
        "parallel": {"tp": 8, "pp": 1}, "seed": 42, "repetition": 0, "band": "central", "requests": 4, "compat": compat,
        "kv_blocks": 100, "config": {"format": 1, "time_limit_s": 20.0},
    })
}

/// A directory with a trial in it; it lives as long as the guard.
pub(crate) fn trial(
    rows: &[Request],
    batch_rows: &[BatchRow],
    info: &Value,
) -> (tempfile::TempDir, Utf8PathBuf) {
    let guard = tempfile::tempdir().unwrap();
    let dir = Utf8PathBuf::from_path_buf(guard.path().to_owned()).unwrap();
    write(&dir.join("records.parquet"), &records(rows, 1000));
    write(&dir.join("batches.parquet"), &batches(batch_rows));
    write(&dir.join("trial.json"), info.to_string().as_bytes());
    (guard, dir)
}

pub(crate) fn write(path: &Utf8Path, bytes: &[u8]) {
    if let Some(dir) = path.parent() {
        fs_err::create_dir_all(dir).unwrap();
    }
    fs_err::write(path, bytes).unwrap();
}

const S: i64 = 1_000_000_000;

/// Four requests of a trial that ends at 20 s: one done, one stalled after its second token, one never scheduled, one ignored.
pub(crate) fn four_requests() -> Vec<Request> {
    vec![
        Request {
            arrival: S,
            prompt: 100,
            output: 4,
            scheduled: Some(2 * S),
            prefill_end: Some(4 * S),
            first_token: Some(4 * S),
            last_token: Some(10 * S),
            completed: Some(10 * S),
            tokens_out: 4,
            execution: 5 * S,
            preemption: 3 * S,
            restarts: 1,
            pauses: 2,
            tbt: vec![S, 2 * S, 3 * S],
            decode_only: vec![true, false, true],
            ..Request::default()
        },
        Request {
            arrival: 2 * S,
            prompt: 50,
            output: 10,
            scheduled: Some(4 * S),
            prefill_end: Some(5 * S),
            first_token: Some(5 * S),
            last_token: Some(6 * S),
            tokens_out: 2,
            execution: 2 * S,
            preemption: 14 * S,
            tbt: vec![S],
            decode_only: vec![true],
            ..Request::default()
        },
        Request { arrival: 5 * S, prompt: 10, output: 2, ..Request::default() },
        Request { arrival: 6 * S, prompt: 9000, output: 2, ignored: true, ..Request::default() },
        Request { arrival: 25 * S, prompt: 10, output: 2, ..Request::default() },
    ]
}

pub(crate) fn three_batches() -> Vec<BatchRow> {
    vec![
        BatchRow { start: 2 * S, end: 4 * S, sequences: 1, prefill: 100, decode: 0 },
        BatchRow { start: 4 * S, end: 5 * S, sequences: 2, prefill: 50, decode: 1 },
        BatchRow { start: 6 * S, end: 7 * S, sequences: 2, prefill: 0, decode: 2 },
    ]
}
