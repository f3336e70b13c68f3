//! Number columns of a CSV with a header, found by name; other columns are ignored.

use camino::Utf8Path;

use super::WorkloadError;

/// Rows of the named columns.
#[derive(Debug)]
pub(super) struct Table<'a> {
    file: &'a str,
    text: String,
    columns: &'a [&'a str],
    places: Vec<usize>,
}

/// One row: the fields of the named columns, in the order named.
#[derive(Debug)]
pub(super) struct Row<'a> {
    file: &'a str,
    line: u64,
    columns: &'a [&'a str],
    fields: Vec<&'a str>,
}

impl<'a> Table<'a> {
    pub(super) fn read(dir: &Utf8Path, file: &'a str, columns: &'a [&'a str]) -> Result<Self, WorkloadError> {
        let text = fs_err::read_to_string(dir.join(file))?;
        let header: Vec<&str> = split(text.lines().next().unwrap_or_default()).collect();
        let place = |column: &&str| header.iter().position(|name| name == column);
        let Some(places) = columns.iter().map(place).collect() else {
            let message = format!(
                "expected a header with the columns {}, found '{}'",
                columns.join(","),
                header.join(",")
            );
            return Err(WorkloadError::File { file: file.to_owned(), line: 1, message });
        };
        Ok(Self { file, text, columns, places })
    }

    /// The first `count` rows; an error if there are fewer.
    pub(super) fn rows(&self, count: usize) -> Result<Vec<Row<'_>>, WorkloadError> {
        let lines = (1_u64..).zip(self.text.lines()).skip(1);
        let rows: Vec<Row<'_>> = lines
            .filter(|(_, text)| !text.trim().is_empty())
            .take(count)
            .map(|(line, text)| self.row(line, text))
            .collect();
        if rows.len() == count {
            return Ok(rows);
        }
        let message = format!("expected at least {count} rows (workload.requests), found {}", rows.len());
        Err(WorkloadError::File {
            file: self.file.to_owned(),
            line: self.text.lines().count() as u64,
            message,
        })
    }

    fn row<'b>(&'b self, line: u64, text: &'b str) -> Row<'b> {
        let fields: Vec<&str> = split(text).collect();
        let field = |&place: &usize| fields.get(place).copied().unwrap_or_default();
        Row { file: self.file, line, columns: self.columns, fields: self.places.iter().map(field).collect() }
    }
}

impl Row<'_> {
    /// A column as seconds, at least 0.
    pub(super) fn seconds(&self, column: usize) -> Result<f64, WorkloadError> {
        let parsed = self.fields[column].parse().ok().filter(|secs: &f64| secs.is_finite() && *secs >= 0.0);
        parsed.ok_or_else(|| self.expected(column, "seconds of at least 0"))
    }

    /// A column as a number of tokens, at least 1.
    pub(super) fn tokens(&self, column: usize) -> Result<u32, WorkloadError> {
        let parsed = self.fields[column].parse().ok().filter(|&tokens| tokens >= 1);
        parsed.ok_or_else(|| self.expected(column, "a whole number of at least 1"))
    }

    pub(super) fn error(&self, message: impl Into<String>) -> WorkloadError {
        WorkloadError::File { file: self.file.to_owned(), line: self.line, message: message.into() }
    }

    fn expected(&self, column: usize, what: &str) -> WorkloadError {
        let (name, found) = (self.columns[column], self.fields[column]);
        self.error(format!("{name}: expected {what}, found '{found}'"))
    }
}

fn split(line: &str) -> impl Iterator<Item = &str> {
    line.trim_start_matches('\u{feff}').split(',').map(str::trim)
}
