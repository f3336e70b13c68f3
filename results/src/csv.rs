//! The CSV of a figure: writing it, and reading it back to check claims. Knows no figure.

use camino::Utf8Path;

use crate::error::{Error, Result};
use crate::files::cause;

/// A header and its rows, all cells as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Csv {
    /// Column names.
    pub header: Vec<String>,
    /// Cells, as many in each row as the header has.
    pub rows: Vec<Vec<String>>,
}

impl Csv {
    /// As text, lines ended by `\n`, cells quoted where they must be.
    pub fn to_text(&self) -> String {
        let line =
            |cells: &Vec<String>| cells.iter().map(|cell| quote(cell)).collect::<Vec<_>>().join(",") + "\n";
        std::iter::once(&self.header).chain(&self.rows).map(line).collect()
    }

    /// Reads a file.
    pub fn read(path: &Utf8Path) -> Result<Self> {
        let text = fs_err::read_to_string(path).map_err(|e| Error::file(path, cause(&e)))?;
        Self::parse(&text).map_err(|message| Error::file(path, message))
    }

    /// Parses text; an error says in which row.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let mut rows = split(text)?.into_iter();
        let header = rows.next().ok_or("expected a header, found an empty file")?;
        let rows: Vec<Vec<String>> = rows.collect();
        match rows.iter().position(|row| row.len() != header.len()) {
            None => Ok(Self { header, rows }),
            Some(at) => {
                Err(format!("row {}: expected {} cells, found {}", at + 1, header.len(), rows[at].len()))
            }
        }
    }

    /// Index of a column.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.header.iter().position(|column| column == name)
    }
}

fn quote(cell: &str) -> String {
    if cell.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

/// Splits into rows of cells by RFC 4180.
fn split(text: &str) -> std::result::Result<Vec<Vec<String>>, String> {
    let (mut rows, mut row, mut cell) = (Vec::new(), Vec::new(), String::new());
    let (mut quoted, mut begun) = (false, false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        begun = true;
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => cell.push('"'),
            '"' if quoted || cell.is_empty() => quoted = !quoted,
            ',' if !quoted => row.push(std::mem::take(&mut cell)),
            '\r' if !quoted && chars.peek() == Some(&'\n') => {}
            '\n' if !quoted => {
                row.push(std::mem::take(&mut cell));
                rows.push(std::mem::take(&mut row));
                begun = false;
            }
            c => cell.push(c),
        }
    }
    if quoted {
        return Err("expected a closing quote, found the end".to_owned());
    }
    if begun {
        row.push(cell);
        rows.push(row);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(rows in prop::collection::vec(prop::collection::vec("[a-z,\"\n\r ]{0,6}", 3), 0..5)) {
            let csv = Csv { header: vec!["a".into(), "b,c".into(), "d\"e".into()], rows };
            prop_assert_eq!(Csv::parse(&csv.to_text()).unwrap(), csv);
        }

        #[test]
        fn never_panics(text in "[a,\"\n\r]{0,30}") {
            let _ = Csv::parse(&text);
        }
    }
}
