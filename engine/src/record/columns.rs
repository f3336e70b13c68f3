//! Rows to Parquet columns, without the arrow crates. Same rows, same bytes: no time and no version is written.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;

use parquet::basic::Encoding;
use parquet::data_type::{BoolType, DataType, Int32Type, Int64Type};
use parquet::errors::Result;
use parquet::file::properties::{
    EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterVersion,
};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;

use super::rows::{BatchRow, NEVER, RequestRow};

const REQUEST_SCHEMA: &str = "message records {
    required int32 request_id;
    required int64 arrival_ns;
    required int32 prompt_tokens;
    required int32 output_tokens;
    required boolean ignored;
    optional int64 scheduled_ns;
    optional int64 prefill_end_ns;
    optional int64 first_token_ns;
    optional int64 last_token_ns;
    optional int64 completed_ns;
    required int32 tokens_out;
    required int64 execution_ns;
    required int64 preemption_ns;
    required int32 restarts;
    required int32 pauses;
    required group tbt_ns (LIST) { repeated group list { required int64 element; } }
    required group tbt_decode_only (LIST) { repeated group list { required boolean element; } }
}";

const BATCH_SCHEMA: &str = "message batches {
    required int32 batch_id;
    required int64 scheduled_ns;
    required int64 start_ns;
    required int64 end_ns;
    required int32 sequences;
    required int32 prefill_tokens;
    required int32 decode_tokens;
    required int32 preemptions;
}";

/// Writes `records.parquet`.
pub(super) struct RequestWriter<W: Write + Send> {
    file: SerializedFileWriter<W>,
    gaps: Vec<i64>,
    decode_only: Vec<bool>,
    definitions: Vec<i16>,
    repetitions: Vec<i16>,
}

impl<W: Write + Send> RequestWriter<W> {
    pub(super) fn new(sink: W) -> Result<Self> {
        let list = |name: &str| ColumnPath::new(vec![name.into(), "list".into(), "element".into()]);
        let properties = properties()
            .set_column_dictionary_enabled(list("tbt_ns"), true)
            .set_column_dictionary_page_size_limit(list("tbt_ns"), 1 << 23)
            .set_column_encoding(list("tbt_decode_only"), Encoding::RLE)
            .set_column_statistics_enabled(list("tbt_ns"), EnabledStatistics::None)
            .set_column_statistics_enabled(list("tbt_decode_only"), EnabledStatistics::None);
        Ok(Self {
            file: open(sink, REQUEST_SCHEMA, properties)?,
            gaps: Vec::new(),
            decode_only: Vec::new(),
            definitions: Vec::new(),
            repetitions: Vec::new(),
        })
    }

    /// Writes one row group. Row 0 has number `first_request`, entry 0 of `history` number `first_batch`.
    pub(super) fn write(
        &mut self,
        rows: &[RequestRow],
        first_request: u32,
        history: &VecDeque<BatchRow>,
        first_batch: u32,
    ) -> Result<()> {
        self.fill_gaps(rows, history, first_batch);
        let end_of = |batch: Option<&u32>| batch.map_or(NEVER, |id| history[(id - first_batch) as usize].end);
        let mut group = self.file.next_row_group()?;
        let ids: Vec<i32> = (first_request as i32..).take(rows.len()).collect();
        required::<_, Int32Type>(&mut group, &ids)?;
        longs(&mut group, rows, |row| row.arrival)?;
        ints(&mut group, rows, |row| row.prompt_tokens)?;
        ints(&mut group, rows, |row| row.output_tokens)?;
        let ignored: Vec<bool> = rows.iter().map(|row| row.ignored).collect();
        required::<_, BoolType>(&mut group, &ignored)?;
        times(&mut group, rows, |row| row.scheduled)?;
        times(&mut group, rows, |row| row.prefill_end)?;
        times(&mut group, rows, |row| end_of(row.tokens.first()))?;
        times(&mut group, rows, |row| row.last_token)?;
        times(&mut group, rows, |row| row.completed)?;
        ints(&mut group, rows, |row| row.tokens.len() as u32)?;
        longs(&mut group, rows, |row| row.execution)?;
        longs(&mut group, rows, |row| row.preemption)?;
        ints(&mut group, rows, |row| row.restarts)?;
        ints(&mut group, rows, |row| row.pauses)?;
        let levels = (Some(self.definitions.as_slice()), Some(self.repetitions.as_slice()));
        column::<_, Int64Type>(&mut group, &self.gaps, levels.0, levels.1)?;
        column::<_, BoolType>(&mut group, &self.decode_only, levels.0, levels.1)?;
        group.close()?;
        Ok(())
    }

    pub(super) fn close(self) -> Result<W> {
        self.file.into_inner()
    }

    /// Lays out both list columns: definition level 0 is an empty list, repetition level 0 begins a row.
    fn fill_gaps(&mut self, rows: &[RequestRow], history: &VecDeque<BatchRow>, first_batch: u32) {
        self.gaps.clear();
        self.decode_only.clear();
        self.definitions.clear();
        self.repetitions.clear();
        for row in rows {
            let gaps = row.tokens.len().saturating_sub(1);
            if gaps == 0 {
                self.definitions.push(0);
                self.repetitions.push(0);
                continue;
            }
            self.definitions.resize(self.definitions.len() + gaps, 1);
            self.repetitions.push(0);
            self.repetitions.resize(self.definitions.len(), 1);
            let mut previous = history[(row.tokens[0] - first_batch) as usize].end;
            for &id in &row.tokens[1..] {
                let batch = &history[(id - first_batch) as usize];
                self.gaps.push((batch.end - previous) as i64);
                self.decode_only.push(batch.prefill_tokens == 0);
                previous = batch.end;
            }
        }
    }
}

/// Writes `batches.parquet`.
pub(super) struct BatchWriter<W: Write + Send> {
    file: SerializedFileWriter<W>,
}

impl<W: Write + Send> BatchWriter<W> {
    pub(super) fn new(sink: W) -> Result<Self> {
        Ok(Self { file: open(sink, BATCH_SCHEMA, properties())? })
    }

    /// Writes one row group.
    pub(super) fn write(&mut self, rows: &[BatchRow]) -> Result<()> {
        let mut group = self.file.next_row_group()?;
        ints(&mut group, rows, |row| row.id)?;
        longs(&mut group, rows, |row| row.scheduled)?;
        longs(&mut group, rows, |row| row.start)?;
        longs(&mut group, rows, |row| row.end)?;
        ints(&mut group, rows, |row| row.sequences)?;
        ints(&mut group, rows, |row| row.prefill_tokens)?;
        ints(&mut group, rows, |row| row.decode_tokens)?;
        ints(&mut group, rows, |row| row.preemptions)?;
        group.close()?;
        Ok(())
    }

    pub(super) fn close(self) -> Result<W> {
        self.file.into_inner()
    }
}

/// Numbers as differences in as many bits as they need; flags as runs.
fn properties() -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_created_by("chariot-engine".to_owned())
        .set_writer_version(WriterVersion::PARQUET_2_0)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::Chunk)
}

fn open<W: Write + Send>(
    sink: W,
    schema: &str,
    properties: WriterPropertiesBuilder,
) -> Result<SerializedFileWriter<W>> {
    SerializedFileWriter::new(sink, Arc::new(parse_message_type(schema)?), Arc::new(properties.build()))
}

fn ints<W: Write + Send, R>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    rows: &[R],
    value: impl Fn(&R) -> u32,
) -> Result<()> {
    let values: Vec<i32> = rows.iter().map(|row| value(row) as i32).collect();
    required::<_, Int32Type>(group, &values)
}

fn longs<W: Write + Send, R>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    rows: &[R],
    value: impl Fn(&R) -> u64,
) -> Result<()> {
    let values: Vec<i64> = rows.iter().map(|row| value(row) as i64).collect();
    required::<_, Int64Type>(group, &values)
}

/// An optional time; `NEVER` is null.
fn times<W: Write + Send, R>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    rows: &[R],
    value: impl Fn(&R) -> u64,
) -> Result<()> {
    let all = || rows.iter().map(&value);
    let values: Vec<i64> = all().filter(|&time| time != NEVER).map(|time| time as i64).collect();
    let definitions: Vec<i16> = all().map(|time| i16::from(time != NEVER)).collect();
    column::<_, Int64Type>(group, &values, Some(&definitions), None)
}

fn required<W: Write + Send, T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[T::T],
) -> Result<()> {
    column::<W, T>(group, values, None, None)
}

/// Writes the next column of the schema.
fn column<W: Write + Send, T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[T::T],
    definitions: Option<&[i16]>,
    repetitions: Option<&[i16]>,
) -> Result<()> {
    let mut column = group.next_column()?.expect("the columns are written in the schema's order");
    column.typed::<T>().write_batch(values, definitions, repetitions)?;
    column.close()
}
