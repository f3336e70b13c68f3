//! Rows to Parquet columns, without the arrow crates. Same rows, same bytes: no time and no version is written.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;

use parquet::data_type::{BoolType, DataType, Int32Type, Int64Type};
use parquet::errors::Result;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use super::gaps::GapLists;
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
    gaps: GapLists,
}

impl<W: Write + Send> RequestWriter<W> {
    pub(super) fn new(sink: W) -> Result<Self> {
        Ok(Self { file: open(sink, REQUEST_SCHEMA)?, gaps: GapLists::default() })
    }

    /// Writes one row group. Row 0 has number `first_request`, entry 0 of `history` number `first_batch`.
    pub(super) fn write(
        &mut self,
        rows: &[RequestRow],
        first_request: u32,
        history: &VecDeque<BatchRow>,
        first_batch: u32,
    ) -> Result<()> {
        self.gaps.fill(rows, history, first_batch);
        let lists = [15, 16].map(|index| self.file.schema_descr().column(index));
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
        times(&mut group, rows, |row| end_of(row.tokens.last()))?;
        times(&mut group, rows, |row| row.completed)?;
        ints(&mut group, rows, |row| row.tokens.len() as u32)?;
        longs(&mut group, rows, |row| row.execution)?;
        longs(&mut group, rows, |row| row.preemption)?;
        ints(&mut group, rows, |row| row.restarts)?;
        ints(&mut group, rows, |row| row.pauses)?;
        let [tbt_ns, tbt_decode_only] = lists;
        self.gaps.write_gaps(&mut group, tbt_ns)?;
        self.gaps.write_decode_only(&mut group, tbt_decode_only)?;
        group.close()?;
        Ok(())
    }

    pub(super) fn close(self) -> Result<W> {
        self.file.into_inner()
    }
}

/// Writes `batches.parquet`.
pub(super) struct BatchWriter<W: Write + Send> {
    file: SerializedFileWriter<W>,
}

impl<W: Write + Send> BatchWriter<W> {
    pub(super) fn new(sink: W) -> Result<Self> {
        Ok(Self { file: open(sink, BATCH_SCHEMA)? })
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

/// Numbers as differences in as many bits as they need; no index of pages, since most columns have one.
fn open<W: Write + Send>(sink: W, schema: &str) -> Result<SerializedFileWriter<W>> {
    let properties = WriterProperties::builder()
        .set_created_by("chariot-engine".to_owned())
        .set_writer_version(WriterVersion::PARQUET_2_0)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true);
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
    column::<_, Int64Type>(group, &values, Some(&definitions))
}

fn required<W: Write + Send, T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[T::T],
) -> Result<()> {
    column::<W, T>(group, values, None)
}

/// Writes the next column of the schema.
fn column<W: Write + Send, T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[T::T],
    definitions: Option<&[i16]>,
) -> Result<()> {
    let mut column = group.next_column()?.expect("the columns are written in the schema's order");
    column.typed::<T>().write_batch(values, definitions, None)?;
    column.close()
}
