//! Tables of texts: CSV (RFC 4180), a row for each text, a column for each locale.

use std::ops::Range;

/// Most rows of a table.
pub(super) const ROWS_MAX: usize = 10_000;

/// A field and where it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) text: String,
    pub(super) span: Range<usize>,
}

/// The rows of a file, blank ones left out, or where and why it is no table.
pub(super) fn rows(file: &str) -> Result<Vec<Vec<Field>>, (Range<usize>, &'static str)> {
    let bytes = file.as_bytes();
    let mut at = if file.starts_with('\u{feff}') { 3 } else { 0 };
    let mut rows = Vec::new();
    while at < bytes.len() {
        let mut row = Vec::new();
        loop {
            let field = field(file, at)?;
            at = field.span.end;
            row.push(field);
            match bytes.get(at) {
                Some(b',') => at += 1,
                Some(b'\r') if bytes.get(at + 1) == Some(&b'\n') => {
                    at += 2;
                    break;
                }
                Some(b'\n') => {
                    at += 1;
                    break;
                }
                None => break,
                Some(_) => return Err((at..at + 1, "a quoted field ends before a comma or the line's end")),
            }
        }
        if row.iter().any(|field| !field.text.trim().is_empty()) {
            rows.push(row);
        }
        if rows.len() > ROWS_MAX {
            return Err((at..at, "the table has more than 10000 rows"));
        }
    }
    Ok(rows)
}

fn field(file: &str, start: usize) -> Result<Field, (Range<usize>, &'static str)> {
    let rest = &file[start..];
    let Some(quoted) = rest.strip_prefix('"') else {
        let length = rest.find([',', '\r', '\n']).unwrap_or(rest.len());
        return Ok(Field { text: rest[..length].to_owned(), span: start..start + length });
    };
    let mut text = String::new();
    let mut at = 0;
    loop {
        let Some(next) = quoted[at..].find('"') else {
            return Err((start..start + 1, "a quoted field has no end"));
        };
        text.push_str(&quoted[at..at + next]);
        at += next + 1;
        if !quoted[at..].starts_with('"') {
            return Ok(Field { text, span: start..start + 1 + at });
        }
        text.push('"');
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &str) -> Vec<Vec<String>> {
        let rows = rows(file).expect("a table");
        rows.into_iter().map(|row| row.into_iter().map(|field| field.text).collect()).collect()
    }

    #[test]
    fn fields_are_plain_or_quoted() {
        assert_eq!(
            read("\u{feff}key,de\r\na,\"b, \"\"c\"\"\nd\"\r\n\r\n"),
            [vec!["key", "de"], vec!["a", "b, \"c\"\nd"]]
        );
        assert_eq!(read("a,\n,b"), [vec!["a", ""], vec!["", "b"]]);
        assert!(rows("a,\"b").is_err() && rows("\"a\"b").is_err());
        assert!(rows(&"a\n".repeat(ROWS_MAX + 1)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_table_or_is_refused(text in "[a\",\\r\\n\u{feff}ä]{0,40}") {
            if let Ok(rows) = rows(&text) {
                for field in rows.iter().flatten() {
                    proptest::prop_assert!(text.get(field.span.clone()).is_some());
                }
            }
        }
    }
}
