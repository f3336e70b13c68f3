//! The two list columns of `records.parquet`, page by page.
//!
//! All tokens of a batch leave at once, so most gaps of a batch are the same number, and the number of the batch tells
//! where it stands in the dictionary: one comparison a gap, where a general writer hashes each. Levels are runs (a row
//! begins, then goes on), so they cost a few bytes a row. Layouts follow the Parquet format, data page version 2.

use std::collections::{HashMap, VecDeque};
use std::io::Write;

use parquet::basic::{Compression, Encoding};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::Result;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::writer::{SerializedPageWriter, SerializedRowGroupWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

use super::rows::{BatchRow, RequestRow};

/// No dictionary entry.
const NONE: u32 = u32::MAX;

/// The list columns of a row group, ready to be written. Buffers are reused.
#[derive(Debug, Default)]
pub(super) struct GapLists {
    rows: u32,
    levels: Levels,
    /// Distinct gaps, in order of first appearance.
    dictionary: Vec<u64>,
    entry_of_gap: HashMap<u64, u32>,
    batches: Vec<BatchEnd>,
    /// Per gap: its dictionary entry.
    entries: Vec<u32>,
    /// Per gap: whether its batch carried no prompt token.
    decode_only: Vec<bool>,
}

/// What a gap needs to know of the batch that ended it.
#[derive(Debug, Clone, Copy)]
struct BatchEnd {
    end: u64,
    /// Dictionary entry of the last gap that it ended.
    entry: u32,
    decode_only: bool,
}

/// Repetition and definition levels of lists without nulls.
#[derive(Debug, Default)]
struct Levels {
    /// 0 begins a row, 1 goes on.
    repetition: Runs,
    /// 0 is an empty list, 1 a value.
    definition: Runs,
    empty_lists: u32,
}

/// Values of one bit, run-length encoded.
#[derive(Debug, Default)]
struct Runs {
    bytes: Vec<u8>,
    value: u8,
    length: u64,
}

impl GapLists {
    /// Takes the gaps of `rows`. Entry 0 of `history` is batch number `first_batch`.
    pub(super) fn fill(&mut self, rows: &[RequestRow], history: &VecDeque<BatchRow>, first_batch: u32) {
        self.clear(rows);
        self.batches.extend(history.iter().map(|batch| BatchEnd {
            end: batch.end,
            entry: NONE,
            decode_only: batch.prefill_tokens == 0,
        }));
        for row in rows {
            let Some((first, rest)) = row.tokens.split_first() else {
                self.levels.push_list(0);
                continue;
            };
            self.levels.push_list(rest.len() as u64);
            let mut previous = self.batches[(first - first_batch) as usize].end;
            for id in rest {
                let place = (id - first_batch) as usize;
                let BatchEnd { end, entry, decode_only } = self.batches[place];
                let gap = end - previous;
                let known = self.dictionary.get(entry as usize) == Some(&gap);
                let entry = if known { entry } else { self.look_up(place, gap) };
                self.entries.push(entry);
                self.decode_only.push(decode_only);
                previous = end;
            }
        }
        self.levels.finish();
    }

    fn clear(&mut self, rows: &[RequestRow]) {
        self.rows = rows.len() as u32;
        self.levels.clear();
        self.dictionary.clear();
        self.entry_of_gap.clear();
        self.batches.clear();
        self.entries.clear();
        self.decode_only.clear();
        let tokens = rows.iter().map(|row| row.tokens.len()).sum();
        self.entries.reserve(tokens);
        self.decode_only.reserve(tokens);
    }

    /// The dictionary entry of a gap other than the last that batch `place` ended.
    fn look_up(&mut self, place: usize, gap: u64) -> u32 {
        let next = self.dictionary.len() as u32;
        let entry = *self.entry_of_gap.entry(gap).or_insert(next);
        if entry == next {
            self.dictionary.push(gap);
        }
        self.batches[place].entry = entry;
        entry
    }

    /// Writes the gaps as the group's next column.
    pub(super) fn write_gaps<W: Write + Send>(
        &self,
        group: &mut SerializedRowGroupWriter<'_, W>,
        column: ColumnDescPtr,
    ) -> Result<()> {
        let width = (u32::BITS - (self.dictionary.len() as u32).saturating_sub(1).leading_zeros()).max(1);
        let groups_of_eight = self.entries.len().div_ceil(8);
        let mut data = self.levels.bytes(groups_of_eight * width as usize + 16);
        data.push(width as u8);
        push_varint(&mut data, (groups_of_eight as u64) << 1 | 1);
        pack(&mut data, &self.entries, width);
        let dictionary: Vec<u8> = self.dictionary.iter().flat_map(|gap| gap.to_le_bytes()).collect();
        let dictionary = Page::DictionaryPage {
            buf: dictionary.into(),
            num_values: self.dictionary.len() as u32,
            encoding: Encoding::PLAIN,
            is_sorted: false,
        };
        append(group, column, Some(dictionary), self.data_page(data, Encoding::RLE_DICTIONARY), self.rows)
    }

    /// Writes the flags as the group's next column.
    pub(super) fn write_decode_only<W: Write + Send>(
        &self,
        group: &mut SerializedRowGroupWriter<'_, W>,
        column: ColumnDescPtr,
    ) -> Result<()> {
        let mut data = self.levels.bytes(self.decode_only.len().div_ceil(8));
        let byte = |flags: &[bool]| flags.iter().rev().fold(0, |byte, &flag| byte << 1 | u8::from(flag));
        data.extend(self.decode_only.chunks(8).map(byte));
        append(group, column, None, self.data_page(data, Encoding::PLAIN), self.rows)
    }

    /// A page of levels and values.
    fn data_page(&self, data: Vec<u8>, encoding: Encoding) -> Page {
        Page::DataPageV2 {
            buf: data.into(),
            num_values: self.entries.len() as u32 + self.levels.empty_lists,
            encoding,
            num_nulls: self.levels.empty_lists,
            num_rows: self.rows,
            def_levels_byte_len: self.levels.definition.bytes.len() as u32,
            rep_levels_byte_len: self.levels.repetition.bytes.len() as u32,
            is_compressed: false,
            statistics: None,
        }
    }
}

impl Levels {
    fn clear(&mut self) {
        self.repetition.bytes.clear();
        self.definition.bytes.clear();
        self.empty_lists = 0;
    }

    fn push_list(&mut self, length: u64) {
        self.repetition.push(0, 1);
        if length == 0 {
            self.definition.push(0, 1);
            self.empty_lists += 1;
        } else {
            self.repetition.push(1, length - 1);
            self.definition.push(1, length);
        }
    }

    /// Both, as a page begins, with room for `more` bytes.
    fn bytes(&self, more: usize) -> Vec<u8> {
        let (repetition, definition) = (&self.repetition.bytes, &self.definition.bytes);
        let mut bytes = Vec::with_capacity(repetition.len() + definition.len() + more);
        bytes.extend_from_slice(repetition);
        bytes.extend_from_slice(definition);
        bytes
    }

    fn finish(&mut self) {
        self.repetition.finish();
        self.definition.finish();
    }
}

impl Runs {
    fn push(&mut self, value: u8, length: u64) {
        if value != self.value {
            self.finish();
            self.value = value;
        }
        self.length += length;
    }

    fn finish(&mut self) {
        if self.length > 0 {
            push_varint(&mut self.bytes, self.length << 1);
            self.bytes.push(self.value);
            self.length = 0;
        }
    }
}

/// Seven bits a byte, the lowest first; the top bit says that more follow.
fn push_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Packs values of `width` bits, the lowest bit first, filled up with zeros to groups of eight values.
fn pack(bytes: &mut Vec<u8>, values: &[u32], width: u32) {
    let packed_bytes = values.len().div_ceil(8) * width as usize;
    let end = bytes.len() + packed_bytes;
    bytes.reserve(packed_bytes + 4);
    let (mut pending, mut bits) = (0_u64, 0);
    for &value in values {
        pending |= u64::from(value) << bits;
        bits += width;
        if bits >= 32 {
            bytes.extend_from_slice(&(pending as u32).to_le_bytes());
            pending >>= 32;
            bits -= 32;
        }
    }
    bytes.extend_from_slice(&(pending as u32).to_le_bytes());
    bytes.resize(end, 0);
}

/// Appends a column chunk of one data page.
fn append<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    column: ColumnDescPtr,
    dictionary: Option<Page>,
    data: Page,
    rows: u32,
) -> Result<()> {
    let (num_values, encoding) = (i64::from(data.num_values()), data.encoding());
    let page_bytes = |page: &Page| page.buffer().len() + 64;
    let capacity = page_bytes(&data) + dictionary.as_ref().map_or(0, page_bytes);
    let mut sink = TrackedWrite::new(Vec::with_capacity(capacity));
    let mut pages = SerializedPageWriter::new(&mut sink);
    let mut write = |page: Page| {
        let size = page.buffer().len();
        pages.write_page(CompressedPage::new(page, size))
    };
    let has_dictionary = dictionary.is_some();
    let dictionary_bytes = dictionary.map(&mut write).transpose()?.map_or(0, |page| page.bytes_written);
    write(data)?;
    let chunk = sink.into_inner()?;
    let metadata = ColumnChunkMetaData::builder(column)
        .set_compression(Compression::UNCOMPRESSED)
        .set_encodings(vec![Encoding::PLAIN, Encoding::RLE, encoding])
        .set_num_values(num_values)
        .set_total_compressed_size(chunk.len() as i64)
        .set_total_uncompressed_size(chunk.len() as i64)
        .set_dictionary_page_offset(has_dictionary.then_some(0))
        .set_data_page_offset(dictionary_bytes as i64)
        .build()?;
    let close = ColumnCloseResult {
        bytes_written: chunk.len() as u64,
        rows_written: u64::from(rows),
        metadata,
        bloom_filter: None,
        column_index: None,
        offset_index: None,
    };
    group.append_column(&bytes::Bytes::from(chunk), close)
}
