//! Columns of a Parquet file as plain vectors, each checked for its type. Knows Parquet; knows no column's meaning.

use std::cell::Cell;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};

use camino::{Utf8Path, Utf8PathBuf};
use parquet::column::reader::get_typed_column_reader;
use parquet::data_type::{BoolType, DataType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;

use crate::error::{Error, Result, hint};
use crate::files::cause;

/// One list a row: row `i` holds `values[starts[i]..starts[i + 1]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lists<T> {
    starts: Vec<usize>,
    values: Vec<T>,
}

impl<T> Lists<T> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.starts.len() - 1
    }

    /// The list of a row.
    pub fn row(&self, row: usize) -> &[T] {
        &self.values[self.starts[row]..self.starts[row + 1]]
    }

    /// All values, row after row.
    pub fn values(&self) -> &[T] {
        &self.values
    }
}

/// An open Parquet file; columns are read when asked for.
pub struct ColumnsFile {
    path: Utf8PathBuf,
    reader: SerializedFileReader<File>,
    rows: usize,
}

thread_local! {
    static READING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside the Parquet decoder, whose panics are the file's fault and become errors.
pub fn is_reading() -> bool {
    READING.get()
}

/// Runs a read of `path`; an error or a panic of the decoder becomes an error that names the file.
fn guard<T>(
    path: &Utf8Path,
    what: &str,
    read: impl FnOnce() -> std::result::Result<T, ParquetError>,
) -> Result<T> {
    READING.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(read));
    READING.set(false);
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Error::file(path, format!("{what}, found {error}"))),
        Err(_) => Err(Error::file(path, format!("{what}, found a damaged one"))),
    }
}

/// What a column's levels and values say, before they are interpreted.
struct Raw<T> {
    values: Vec<T>,
    def: Vec<i16>,
    rep: Vec<i16>,
}

impl ColumnsFile {
    /// Opens a file and reads its footer.
    pub fn open(path: &Utf8Path) -> Result<Self> {
        let file = fs_err::File::open(path).map_err(|e| Error::file(path, cause(&e)))?;
        let (file, _) = file.into_parts();
        let bytes = file.metadata()?.len();
        let reader = guard(path, "expected a Parquet file", || SerializedFileReader::new(file))?;
        let rows = reader.metadata().file_metadata().num_rows();
        // A row costs a byte at the very least once it holds anything, but run-length encoding can hide thousands in one.
        let rows = usize::try_from(rows).ok().filter(|rows| *rows as u64 <= bytes.saturating_mul(1 << 16));
        let rows =
            rows.ok_or_else(|| Error::file(path, "expected a Parquet file, found an impossible row count"))?;
        Ok(Self { path: path.to_owned(), reader, rows })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// A column of integers without nulls.
    pub fn i32(&self, name: &str) -> Result<Vec<i32>> {
        self.required::<Int32Type>(name)
    }

    /// A column of integers without nulls.
    pub fn i64(&self, name: &str) -> Result<Vec<i64>> {
        self.required::<Int64Type>(name)
    }

    /// A column of truth values without nulls.
    pub fn bool(&self, name: &str) -> Result<Vec<bool>> {
        self.required::<BoolType>(name)
    }

    /// A column of integers that may be null.
    pub fn optional_i64(&self, name: &str) -> Result<Vec<Option<i64>>> {
        let (column, raw) = self.read::<Int64Type>(name, 0)?;
        if column.max_def_level() == 0 {
            return Ok(raw.values.into_iter().map(Some).collect());
        }
        let mut values = raw.values.into_iter();
        Ok(raw
            .def
            .iter()
            .map(|def| (*def == column.max_def_level()).then(|| values.next()).flatten())
            .collect())
    }

    /// A column of lists of integers.
    pub fn i64_lists(&self, name: &str) -> Result<Lists<i64>> {
        self.lists::<Int64Type>(name)
    }

    /// A column of lists of truth values.
    pub fn bool_lists(&self, name: &str) -> Result<Lists<bool>> {
        self.lists::<BoolType>(name)
    }

    fn required<T: DataType>(&self, name: &str) -> Result<Vec<T::T>> {
        let (_, raw) = self.read::<T>(name, 0)?;
        if raw.values.len() == self.rows {
            return Ok(raw.values);
        }
        Err(self
            .bad(name, format!("expected no nulls, found {}", self.rows.saturating_sub(raw.values.len()))))
    }

    fn lists<T: DataType>(&self, name: &str) -> Result<Lists<T::T>> {
        let (column, raw) = self.read::<T>(name, 1)?;
        let mut starts = Vec::with_capacity(self.rows + 1);
        let mut seen = 0;
        for (rep, def) in raw.rep.iter().zip(&raw.def) {
            if *rep == 0 {
                starts.push(seen);
            }
            if *def == column.max_def_level() {
                seen += 1;
            } else if *def >= column.repeated_ancestor_def_level() {
                return Err(self.bad(name, "expected lists without nulls, found a null in one"));
            }
        }
        starts.push(seen);
        if starts.len() != self.rows + 1 || seen != raw.values.len() {
            return Err(self.bad(name, format!("expected {} lists, found {}", self.rows, starts.len() - 1)));
        }
        Ok(Lists { starts, values: raw.values })
    }

    /// Reads a whole column of nesting depth `lists` (0: flat, 1: a list).
    fn read<T: DataType>(&self, name: &str, lists: i16) -> Result<(&ColumnDescriptor, Raw<T::T>)> {
        let index = self.find(name)?;
        let column = self.reader.metadata().file_metadata().schema_descr().columns()[index].as_ref();
        if column.max_rep_level() != lists || column.physical_type() != T::get_physical_type() {
            let expected = describe(T::get_physical_type(), lists);
            let found = describe(column.physical_type(), column.max_rep_level());
            return Err(self.bad(name, format!("expected {expected}, found {found}")));
        }
        let raw = guard(&self.path, &format!("column `{name}`: expected whole pages"), || {
            read_column::<T>(&self.reader, index)
        })?;
        let rows = if lists == 0 {
            raw.def.len().max(raw.values.len())
        } else {
            raw.rep.iter().filter(|r| **r == 0).count()
        };
        if rows != self.rows {
            return Err(self.bad(name, format!("expected {} rows, found {rows}", self.rows)));
        }
        Ok((column, raw))
    }

    fn find(&self, name: &str) -> Result<usize> {
        let columns = self.reader.metadata().file_metadata().schema_descr().columns();
        let names = || columns.iter().filter_map(|c| c.path().parts().first()).map(String::as_str);
        names().position(|found| found == name).ok_or_else(|| {
            Error::file(&self.path, format!("expected a column `{name}`, found none{}", hint(name, names())))
        })
    }

    fn bad(&self, column: &str, message: impl std::fmt::Display) -> Error {
        Error::file(&self.path, format!("column `{column}`: {message}"))
    }
}

fn describe(physical: parquet::basic::Type, lists: i16) -> String {
    let name = physical.to_string().to_lowercase();
    (0..lists).fold(name, |inner, _| format!("list<{inner}>"))
}

fn read_column<T: DataType>(
    reader: &SerializedFileReader<File>,
    index: usize,
) -> std::result::Result<Raw<T::T>, ParquetError> {
    let mut raw = Raw { values: Vec::new(), def: Vec::new(), rep: Vec::new() };
    for group in 0..reader.num_row_groups() {
        let mut column = get_typed_column_reader::<T>(reader.get_row_group(group)?.get_column_reader(index)?);
        loop {
            let (records, values, levels) =
                column.read_records(usize::MAX, Some(&mut raw.def), Some(&mut raw.rep), &mut raw.values)?;
            if records == 0 && values == 0 && levels == 0 {
                break;
            }
        }
    }
    Ok(raw)
}
