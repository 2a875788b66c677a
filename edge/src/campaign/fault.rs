//! What is wrong with a file, where, and in one sentence why.
//!
//! Readers collect faults instead of stopping at the first one, so that an author sees them together. The
//! number kept is bounded: a thousand faults say no more than the first hundred.
//!
//! What follows from a fault is none: where an axis, a library, a table or a list was refused, what cannot be judged
//! without it is left alone until it is mended.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Most faults kept of one file.
pub const FAULTS_MAX: usize = 100;
/// Most lines that one fault lists beside its own.
const ALSO_LINES_SHOWN: usize = 8;

/// One fault: `file:line:column: reason`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub file: PathBuf,
    /// From 1; 0 where the fault is about the file as a whole.
    pub line: u32,
    /// In characters from 1; 0 where the fault is about the file as a whole.
    pub column: u32,
    pub reason: String,
    /// Further lines that have the same fault, such as the uses of one unknown name.
    pub also_lines: Vec<u32>,
}

impl Fault {
    /// A fault of the file as a whole, such as its absence.
    #[must_use]
    pub fn of_file(file: &Path, reason: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: 0, column: 0, reason: reason.into(), also_lines: Vec::new() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}", self.reason)?;
        for (index, line) in self.also_lines.iter().take(ALSO_LINES_SHOWN).enumerate() {
            write!(f, "{}{line}", if index == 0 { " (the same in line " } else { ", " })?;
        }
        match self.also_lines.len() {
            0 => Ok(()),
            1..=ALSO_LINES_SHOWN => f.write_str(")"),
            _ => f.write_str(", …)"),
        }
    }
}

/// Why there is no new snapshot: every fault found, in file order. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogErrors(Vec<Fault>);

impl CatalogErrors {
    /// `Ok` where there is no fault.
    ///
    /// # Errors
    /// The faults, sorted by place, where there are any.
    pub fn check(mut faults: Vec<Fault>) -> Result<(), Self> {
        if faults.is_empty() {
            return Ok(());
        }
        faults.sort_by(|a, b| (&a.file, a.line, a.column, &a.reason).cmp(&(&b.file, b.line, b.column, &b.reason)));
        faults.dedup();
        Err(Self(faults))
    }

    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        &self.0
    }
}

impl fmt::Display for CatalogErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for CatalogErrors {}

/// A text being read, and the faults found in it so far.
#[derive(Debug)]
pub(crate) struct SourceText<'i> {
    file: &'i Path,
    text: &'i str,
    faults: RefCell<Vec<Fault>>,
}

impl<'i> SourceText<'i> {
    pub(crate) const fn new(file: &'i Path, text: &'i str) -> Self {
        Self { file, text, faults: RefCell::new(Vec::new()) }
    }

    pub(crate) const fn text(&self) -> &'i str {
        self.text
    }

    /// Notes a fault at a byte range of the text.
    pub(crate) fn fault(&self, span: &Range<usize>, reason: impl Into<String>) {
        let mut faults = self.faults.borrow_mut();
        if faults.len() < FAULTS_MAX {
            let (line, column) = position(self.text, span.start);
            let (reason, also_lines) = (reason.into(), Vec::new());
            let fault = Fault { file: self.file.to_owned(), line, column, reason, also_lines };
            // Defaults are read once per slot that inherits them.
            if !faults.contains(&fault) {
                faults.push(fault);
            }
        }
    }

    /// Notes a fault that may stand in several places: they make one fault, at the first of them.
    pub(crate) fn recurring_fault(&self, span: &Range<usize>, reason: impl Into<String>) {
        let (line, _) = position(self.text, span.start);
        let reason = reason.into();
        if let Some(first) = self.faults.borrow_mut().iter_mut().find(|fault| fault.reason == reason) {
            if first.line != line && !first.also_lines.contains(&line) {
                first.also_lines.push(line);
            }
            return;
        }
        self.fault(span, reason);
    }

    pub(crate) fn has_faults(&self) -> bool {
        !self.faults.borrow().is_empty()
    }

    pub(crate) fn into_faults(self) -> Vec<Fault> {
        self.faults.into_inner()
    }
}

/// Line and column, both from 1, of a byte offset.
pub(crate) fn position(text: &str, offset: usize) -> (u32, u32) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let line = before.bytes().filter(|&byte| byte == b'\n').count() + 1;
    let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
    (saturate(line), saturate(column))
}

fn saturate(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// At most `count_max` words in a sentence: `a, b and c`.
pub(crate) fn listing<S: AsRef<str>>(words: &[S], count_max: usize) -> String {
    let mut text = String::new();
    for (index, word) in words.iter().enumerate() {
        if index == count_max {
            text.push_str(&format!(" and {} more", words.len() - count_max));
            break;
        }
        if index > 0 {
            text.push_str(if index + 1 == words.len() { " and " } else { ", " });
        }
        text.push('`');
        text.push_str(word.as_ref());
        text.push('`');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let text = "ä = 1\nüb = 2";
        assert_eq!(position(text, 0), (1, 1));
        assert_eq!(position(text, "ä = 1\nüb".len()), (2, 3));
        assert_eq!(position(text, 1), (1, 1), "inside a character");
        assert_eq!(position(text, 999), (2, 7), "past the end");
    }

    #[test]
    fn listings_read_as_sentences_and_end() {
        assert_eq!(listing(&["a"], 9), "`a`");
        assert_eq!(listing(&["a", "b", "c"], 9), "`a`, `b` and `c`");
        assert_eq!(listing(&["a", "b", "c"], 2), "`a`, `b` and 1 more");
    }

    #[test]
    fn faults_are_bounded_and_sorted() {
        let source = SourceText::new(Path::new("x.toml"), "a\nb");
        for number in 0..FAULTS_MAX + 10 {
            source.fault(&(2..3), format!("late {number}"));
            source.fault(&(2..3), format!("late {number}"));
        }
        assert_eq!(source.into_faults().len(), FAULTS_MAX);
        let late = Fault { file: "x".into(), line: 2, column: 1, reason: "l".into(), also_lines: Vec::new() };
        let early = Fault { line: 1, ..late.clone() };
        let errors = CatalogErrors::check(vec![late.clone(), early.clone(), late.clone()]);
        assert_eq!(errors, Err(CatalogErrors(vec![early, late])));
        assert_eq!(CatalogErrors::check(vec![]), Ok(()));
    }
}
