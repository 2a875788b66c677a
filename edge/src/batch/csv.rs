//! CSV (RFC 4180), read row by row and written: separators of commas or, as spreadsheets in Europe write, semicolons.
//!
//! Invariants: a reader holds one row; cells and columns are bounded; a row has the number that a spreadsheet shows,
//! the header 1. A written cell that a spreadsheet would take for a formula begins with an apostrophe.

use std::borrow::Cow;

/// Most columns of a row.
pub(super) const COLUMNS_MAX: usize = 64;
/// Longest cell.
pub(super) const CELL_BYTES_MAX: usize = 2_048;

/// Why a row cannot be read. What follows it cannot be either.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CsvError {
    #[error("it is no text in UTF-8")]
    NotUtf8,
    #[error("a quoted cell does not end")]
    Open,
    #[error("a quoted cell ends before its column does")]
    BehindQuote,
    #[error("a cell has more than {CELL_BYTES_MAX} bytes")]
    LongCell,
    #[error("a row has more than {COLUMNS_MAX} columns")]
    ManyColumns,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Rows<'t> {
    rest: &'t str,
    separator: u8,
    /// Of the row that was read last.
    number: u64,
}

impl<'t> Rows<'t> {
    /// # Errors
    /// When it is no text.
    pub(super) fn of(bytes: &'t [u8]) -> Result<Self, CsvError> {
        let text = std::str::from_utf8(bytes).map_err(|_| CsvError::NotUtf8)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let columns = |separator| match (Self { rest: text, separator, number: 0 }).next() {
            Ok(Some(cells)) => cells.len(),
            Err(CsvError::ManyColumns) => COLUMNS_MAX + 1,
            Ok(None) | Err(_) => 0,
        };
        // The one that the header has more columns with.
        let separator = if columns(b';') > columns(b',') { b';' } else { b',' };
        Ok(Self { rest: text, separator, number: 0 })
    }

    /// Of the row that was read last.
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// The cells of the next row; `None` behind the last. Rows without a word are passed over, and counted.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub(super) fn next(&mut self) -> Result<Option<Vec<Cow<'t, str>>>, CsvError> {
        while !self.rest.is_empty() {
            self.number += 1;
            let cells = self.row()?;
            if cells.iter().any(|cell| !cell.is_empty()) {
                return Ok(Some(cells));
            }
        }
        Ok(None)
    }

    fn row(&mut self) -> Result<Vec<Cow<'t, str>>, CsvError> {
        let mut cells = Vec::new();
        loop {
            if cells.len() == COLUMNS_MAX {
                return Err(CsvError::ManyColumns);
            }
            let cell = if self.rest.starts_with('"') { self.quoted()? } else { self.plain() };
            if cell.len() > CELL_BYTES_MAX {
                return Err(CsvError::LongCell);
            }
            cells.push(cell);
            let end = self.rest.as_bytes();
            let (skipped, is_last) = match end {
                [separator, ..] if *separator == self.separator => (1, false),
                [b'\r', b'\n', ..] => (2, true),
                [b'\n' | b'\r', ..] => (1, true),
                [] => (0, true),
                _ => return Err(CsvError::BehindQuote),
            };
            self.rest = &self.rest[skipped..];
            if is_last {
                return Ok(cells);
            }
        }
    }

    fn plain(&mut self) -> Cow<'t, str> {
        let end = self.rest.bytes().position(|byte| byte == self.separator || matches!(byte, b'\r' | b'\n'));
        let (cell, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        Cow::Borrowed(cell.trim())
    }

    fn quoted(&mut self) -> Result<Cow<'t, str>, CsvError> {
        let text = &self.rest[1..];
        let (mut from, mut has_quotes) = (0, false);
        let end = loop {
            let quote = from + text[from..].find('"').ok_or(CsvError::Open)?;
            if !text[quote + 1..].starts_with('"') {
                break quote;
            }
            (from, has_quotes) = (quote + 2, true);
        };
        self.rest = &text[end + 1..];
        let cell = text[..end].trim();
        Ok(if has_quotes { Cow::Owned(cell.replace("\"\"", "\"")) } else { Cow::Borrowed(cell) })
    }
}

/// The cells of all rows; `None` where one cannot be read. For fuzzing.
pub(crate) fn table_of(bytes: &[u8]) -> Option<Vec<Vec<String>>> {
    let mut rows = Rows::of(bytes).ok()?;
    let mut table = Vec::new();
    let mut before = 0;
    while let Some(cells) = rows.next().ok()? {
        assert!(rows.number() > before && cells.len() <= COLUMNS_MAX, "rows are numbered in order, and bounded");
        before = rows.number();
        table.push(cells.into_iter().map(Cow::into_owned).collect());
    }
    Some(table)
}

/// The same as text, each cell quoted. For fuzzing.
pub(crate) fn text_of(table: &[Vec<String>]) -> String {
    let quoted = |cell: &String| format!("\"{}\"", cell.replace('"', "\"\""));
    let row = |cells: &Vec<String>| cells.iter().map(quoted).collect::<Vec<_>>().join(",");
    table.iter().map(row).collect::<Vec<_>>().join("\r\n")
}

/// A row as text, with its end.
pub(super) fn write<'c>(into: &mut String, cells: impl IntoIterator<Item = Cow<'c, str>>) {
    for (at, cell) in cells.into_iter().enumerate() {
        if at > 0 {
            into.push(',');
        }
        let is_formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']) && cell.parse::<f64>().is_err();
        if is_formula || cell.contains([',', '"', '\r', '\n']) {
            into.push('"');
            into.push_str(if is_formula { "'" } else { "" });
            into.push_str(&cell.replace('"', "\"\""));
            into.push('"');
        } else {
            into.push_str(&cell);
        }
    }
    into.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    type Numbered = (u64, Vec<String>);

    fn read(text: &str) -> Result<Vec<Numbered>, (u64, CsvError)> {
        let mut rows = Rows::of(text.as_bytes()).map_err(|error| (0, error))?;
        let mut found = Vec::new();
        while let Some(cells) = rows.next().map_err(|error| (rows.number(), error))? {
            found.push((rows.number(), cells.into_iter().map(Cow::into_owned).collect()));
        }
        Ok(found)
    }

    fn row(number: u64, cells: &[&str]) -> Numbered {
        (number, cells.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn rows_are_read_as_spreadsheets_write_them() {
        let text = "\u{feff}campaign,slot\r\nstudio,\"he\"\"ro\"\r\n\r\n,\nlast,\"a,\nb\"";
        let expected = [row(1, &["campaign", "slot"]), row(2, &["studio", "he\"ro"]), row(5, &["last", "a,\nb"])];
        assert_eq!(read(text).unwrap(), expected);
        assert_eq!(read("\"a;\nb\",c\n").unwrap(), [row(1, &["a;\nb", "c"])]);
        assert_eq!(read("a;b\n1; 2 \n").unwrap(), [row(1, &["a", "b"]), row(2, &["1", "2"])]);
        assert_eq!(read("").unwrap(), []);
    }

    #[test]
    fn what_cannot_be_read_says_where() {
        assert_eq!(read("a\n\"b").unwrap_err(), (2, CsvError::Open));
        assert_eq!(read("a\n\"b\"c").unwrap_err(), (2, CsvError::BehindQuote));
        assert_eq!(read(&format!("a\n\n{}", "x".repeat(CELL_BYTES_MAX + 1))).unwrap_err(), (3, CsvError::LongCell));
        assert_eq!(read(&",".repeat(COLUMNS_MAX)).unwrap_err(), (1, CsvError::ManyColumns));
        assert_eq!(Rows::of(b"a\n\xff").unwrap_err(), CsvError::NotUtf8);
    }

    #[test]
    fn what_is_written_is_read_again_and_no_formula() {
        let mut text = String::new();
        write(&mut text, ["a", "b,c", "say \"no\"", "=1+1", "-2.5", "@x"].map(Cow::from));
        let cells = &read(&text).unwrap()[0].1;
        assert_eq!(cells, &["a", "b,c", "say \"no\"", "'=1+1", "-2.5", "'@x"].map(str::to_owned));
    }

    proptest::proptest! {
        /// Its rows are numbered in order, none is without a word, and written anew they are read as the same.
        #[test]
        fn any_text_is_refused_or_read_as_rows(text in "[a,;\"\\r\\n ü]{0,60}") {
            let Ok(rows) = read(&text) else { return Ok(()) };
            proptest::prop_assert!(rows.iter().is_sorted_by(|(one, _), (next, _)| one < next), "{:?}", rows);
            let table: Vec<Vec<String>> = rows.into_iter().map(|(_, cells)| cells).collect();
            proptest::prop_assert!(table.iter().all(|cells| cells.iter().any(|cell| !cell.is_empty())), "{:?}", table);
            proptest::prop_assert_eq!(table_of(text_of(&table).as_bytes()), Some(table));
        }
    }
}
