//! Typed, complete reading of TOML tables.
//!
//! `serde` stops at the first error and cannot say where a wrong *combination* stands. This reader walks the
//! spanned document instead: every getter notes a fault with its place and goes on, and [`TableReader::finish`]
//! refuses keys that were not asked for, with those that exist. Tables keep the order of the file.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{SourceText, listing};
use crate::signing::moment::unix_s;

/// Keys named in a fault about an unknown one.
const KEYS_LISTED_MAX: usize = 24;

/// A string and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Text<'a> {
    pub(crate) value: &'a str,
    pub(crate) span: Range<usize>,
}

/// An entry that is a string, or a table with more to say.
#[derive(Debug)]
pub(crate) enum TextOrTable<'a, 'i> {
    Text(Text<'a>),
    Table(TableReader<'a, 'i>),
}

/// A table being read: knows its name in the file, and which keys were asked for.
#[derive(Debug)]
pub(crate) struct TableReader<'a, 'i> {
    source: &'a SourceText<'i>,
    table: &'a DeTable<'i>,
    span: Range<usize>,
    path: String,
    asked: RefCell<Vec<&'static str>>,
    /// Keys that are required and not there, each with what is said about it. [`Self::finish`] says it, because a key that
    /// is there under a misspelt name is one fault, not two.
    missing: RefCell<Vec<(&'static str, String)>>,
    is_refused: Cell<bool>,
}

/// Parses a document; its syntax errors become faults.
pub(crate) fn parse<'i>(source: &SourceText<'i>) -> Option<Spanned<DeTable<'i>>> {
    let (document, errors) = DeTable::parse_recoverable(source.text());
    // What a parser finds behind the first error follows from it more often than not.
    if let Some(error) = errors.first() {
        let reason = error.message().replace('\n', ", ");
        source.fault(&error.span().unwrap_or(0..0), format!("not valid TOML: {reason}"));
    }
    errors.is_empty().then_some(document)
}

impl<'a, 'i> TableReader<'a, 'i> {
    pub(crate) fn of_document(source: &'a SourceText<'i>, document: &'a Spanned<DeTable<'i>>) -> Self {
        Self::new(source, document.get_ref(), 0..0, String::new())
    }

    const fn new(source: &'a SourceText<'i>, table: &'a DeTable<'i>, span: Range<usize>, path: String) -> Self {
        Self {
            source,
            table,
            span,
            path,
            asked: RefCell::new(Vec::new()),
            missing: RefCell::new(Vec::new()),
            is_refused: Cell::new(false),
        }
    }

    pub(crate) const fn span(&self) -> &Range<usize> {
        &self.span
    }

    pub(crate) fn fault(&self, span: &Range<usize>, reason: impl Into<String>) {
        self.is_refused.set(true);
        self.source.fault(span, reason);
    }

    /// As [`SourceText::recurring_fault`].
    pub(crate) fn recurring_fault(&self, span: &Range<usize>, reason: impl Into<String>) {
        self.is_refused.set(true);
        self.source.recurring_fault(span, reason);
    }

    /// Notes that a required key is not there.
    pub(crate) fn missing(&self, key: &'static str, reason: impl Into<String>) {
        self.is_refused.set(true);
        self.missing.borrow_mut().push((key, reason.into()));
    }

    /// Whether this table had a fault so far, those of tables in it not counted: what it lacks may be what was refused.
    pub(crate) fn is_refused(&self) -> bool {
        self.is_refused.get()
    }

    /// `slots.hero.ratio` for `ratio` in `[slots.hero]`.
    fn name_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn get(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'i>>> {
        self.asked.borrow_mut().push(key);
        self.table.get(key)
    }

    /// The value of a key, or a fault that it is missing.
    fn require(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'i>>> {
        let value = self.get(key);
        if value.is_none() {
            self.missing(key, format!("`{}` is missing", self.name_of(key)));
        }
        value
    }

    fn wrong(&self, key: &str, value: &Spanned<DeValue<'i>>, expected: &str) {
        let found = type_name(value.get_ref());
        self.fault(&value.span(), format!("`{}` is {expected}, not {found}", self.name_of(key)));
    }

    /// Keys that another reader of the same table reads.
    pub(crate) fn expect(&self, keys: &[&'static str]) {
        self.asked.borrow_mut().extend_from_slice(keys);
    }

    pub(crate) fn has(&self, key: &'static str) -> bool {
        self.table.contains_key(key)
    }

    /// Whether the table has only these keys; any other will be refused.
    pub(crate) fn has_only(&self, known: &[&str]) -> bool {
        self.table.keys().all(|key| known.contains(&key.get_ref().as_ref()))
    }

    /// Whether a key that is not there stands here under a misspelt name, which will be refused as unknown.
    pub(crate) fn has_misspelt(&self, key: &str, known: &[&str]) -> bool {
        let mut keys = self.table.keys().map(|key| key.get_ref().as_ref());
        keys.any(|present: &str| !known.contains(&present) && is_like(present, key))
    }

    pub(crate) fn text(&self, key: &'static str) -> Option<Text<'a>> {
        let value = self.get(key)?;
        let text = as_text(value);
        if text.is_none() {
            self.wrong(key, value, "a string");
        }
        text
    }

    pub(crate) fn required_text_or_table(&self, key: &'static str) -> Option<TextOrTable<'a, 'i>> {
        self.require(key)?;
        self.text_or_table(key)
    }

    /// A string, or a table with more to say.
    pub(crate) fn text_or_table(&self, key: &'static str) -> Option<TextOrTable<'a, 'i>> {
        let value = self.get(key)?;
        match (as_text(value), value.get_ref()) {
            (Some(text), _) => Some(TextOrTable::Text(text)),
            (None, DeValue::Table(_)) => self.table_of(key, value, value.span()).map(TextOrTable::Table),
            (None, _) => {
                self.wrong(key, value, "a string or a table");
                None
            }
        }
    }

    pub(crate) fn required_text(&self, key: &'static str) -> Option<Text<'a>> {
        self.require(key)?;
        self.text(key)
    }

    pub(crate) fn flag(&self, key: &'static str) -> Option<bool> {
        let value = self.get(key)?;
        if let DeValue::Boolean(flag) = value.get_ref() {
            return Some(*flag);
        }
        self.wrong(key, value, "true or false");
        None
    }

    pub(crate) fn integer(&self, key: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        let value = self.get(key)?;
        self.integer_of(key, value, &range)
    }

    fn integer_of(&self, key: &str, value: &Spanned<DeValue<'i>>, range: &RangeInclusive<u32>) -> Option<u32> {
        let DeValue::Integer(integer) = value.get_ref() else {
            self.wrong(key, value, "a whole number");
            return None;
        };
        let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.and_then(|number| u32::try_from(number).ok()).filter(|number| range.contains(number));
        if number.is_none() {
            let (from, to) = (range.start(), range.end());
            self.fault(&value.span(), format!("`{}` is {from} to {to}, not {integer}", self.name_of(key)));
        }
        number
    }

    /// Seconds since 1970: the end of a day (UTC), or a moment.
    pub(crate) fn moment(&self, key: &'static str) -> Option<u64> {
        let value = self.get(key)?;
        let DeValue::Datetime(datetime) = value.get_ref() else {
            self.wrong(key, value, "a date such as 2027-06-30, without quotes");
            return None;
        };
        let Some(unix_s) = unix_s(datetime) else {
            self.fault(&value.span(), format!("`{}` lies before 1970, or has no date", self.name_of(key)));
            return None;
        };
        Some(if datetime.time.is_some() { unix_s } else { unix_s + 86_400 })
    }

    /// A day, or a moment with its offset, as RFC 3339 writes it.
    pub(crate) fn date(&self, key: &'static str) -> Option<String> {
        let value = self.get(key)?;
        let DeValue::Datetime(datetime) = value.get_ref() else {
            self.wrong(key, value, "a date such as 2026-11-29, without quotes");
            return None;
        };
        if datetime.date.is_none() || (datetime.time.is_some() && datetime.offset.is_none()) {
            self.fault(&value.span(), format!("`{}` is a day, or a moment with its offset", self.name_of(key)));
            return None;
        }
        Some(datetime.to_string())
    }

    pub(crate) fn number(&self, key: &'static str, range: RangeInclusive<f64>) -> Option<f64> {
        let value = self.get(key)?;
        self.number_of(key, value, &range)
    }

    fn number_of(&self, key: &str, value: &Spanned<DeValue<'i>>, range: &RangeInclusive<f64>) -> Option<f64> {
        let number = match value.get_ref() {
            DeValue::Float(float) => float.as_str().parse::<f64>().ok(),
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str().parse::<f64>().ok(),
            _ => {
                self.wrong(key, value, "a number");
                return None;
            }
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let (from, to) = (range.start(), range.end());
            self.fault(&value.span(), format!("`{}` is {from} to {to}", self.name_of(key)));
        }
        number
    }

    /// A string that parses, with the parser's own reason where it does not.
    pub(crate) fn parsed<T>(&self, key: &'static str) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        let text = self.text(key)?;
        match text.value.parse() {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                self.fault(&text.span, format!("`{}`: {error}", self.name_of(key)));
                None
            }
        }
    }

    /// A whole number that means something, or a string that parses to the same.
    pub(crate) fn integer_or_parsed<T>(
        &self,
        key: &'static str,
        range: RangeInclusive<u32>,
        meant: impl FnOnce(u32) -> Option<T>,
    ) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        let value = self.get(key)?;
        if as_text(value).is_some() { self.parsed(key) } else { meant(self.integer_of(key, value, &range)?) }
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(&self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(key)?;
        let choice = choices.iter().find(|(word, _)| *word == text.value).map(|(_, choice)| *choice);
        if choice.is_none() {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            let allowed = listing(&words, KEYS_LISTED_MAX);
            self.fault(&text.span, format!("`{}` is `{}`; allowed is {allowed}", self.name_of(key), text.value));
        }
        choice
    }

    fn array(&self, key: &'static str, count_max: usize) -> Option<(&'a [Spanned<DeValue<'i>>], Range<usize>)> {
        let value = self.get(key)?;
        let DeValue::Array(array) = value.get_ref() else {
            self.wrong(key, value, "an array");
            return None;
        };
        let span = value.span();
        if array.len() > count_max {
            self.fault(&span, format!("`{}` has {} entries, at most {count_max}", self.name_of(key), array.len()));
            return None;
        }
        Some((array, span))
    }

    pub(crate) fn texts(&self, key: &'static str, count_max: usize) -> Option<Vec<Text<'a>>> {
        let (array, _) = self.array(key, count_max)?;
        let texts: Vec<Text<'a>> = array.iter().filter_map(as_text).collect();
        if let Some(wrong) = array.iter().find(|value| as_text(value).is_none()) {
            self.wrong(key, wrong, "an array of strings");
            return None;
        }
        Some(texts)
    }

    /// Whole numbers with their places; `None` also where one of them is refused.
    pub(crate) fn integers(
        &self,
        key: &'static str,
        range: RangeInclusive<u32>,
        count_max: usize,
    ) -> Option<Vec<(u32, Range<usize>)>> {
        let (array, _) = self.array(key, count_max)?;
        let numbers = array.iter().map(|value| Some((self.integer_of(key, value, &range)?, value.span())));
        numbers.collect()
    }

    /// Numbers; `None` also where one of them is refused.
    pub(crate) fn numbers(&self, key: &'static str, range: RangeInclusive<f64>, count_max: usize) -> Option<Vec<f64>> {
        let (array, _) = self.array(key, count_max)?;
        array.iter().map(|value| self.number_of(key, value, &range)).collect()
    }

    pub(crate) fn table(&self, key: &'static str) -> Option<TableReader<'a, 'i>> {
        let value = self.get(key)?;
        self.table_of(key, value, value.span())
    }

    /// The tables of an array; anything else in it is a fault.
    pub(crate) fn list_of_tables(&self, key: &'static str, count_max: usize) -> Vec<TableReader<'a, 'i>> {
        let Some((array, _)) = self.array(key, count_max) else { return Vec::new() };
        array.iter().filter_map(|value| self.table_of(key, value, value.span())).collect()
    }

    fn table_of(&self, key: &str, value: &'a Spanned<DeValue<'i>>, span: Range<usize>) -> Option<TableReader<'a, 'i>> {
        if let DeValue::Table(table) = value.get_ref() {
            return Some(TableReader::new(self.source, table, span, self.name_of(key)));
        }
        self.wrong(key, value, "a table");
        None
    }

    /// Keys and values of a table whose keys are the author's, in file order.
    fn entries(&self) -> Vec<(Text<'a>, &'a Spanned<DeValue<'i>>)> {
        let mut entries: Vec<_> = self
            .table
            .iter()
            .map(|(key, value)| (Text { value: key.get_ref().as_ref(), span: key.span() }, value))
            .collect();
        entries.sort_by_key(|(key, _)| key.span.start);
        entries
    }

    /// The author's names, in file order.
    pub(crate) fn names(&self) -> Vec<Text<'a>> {
        self.entries().into_iter().map(|(name, _)| name).collect()
    }

    /// Sub-tables by the author's names, in file order; their faults point at the name.
    pub(crate) fn tables(&self, count_max: usize) -> Vec<(Text<'a>, TableReader<'a, 'i>)> {
        let entries = self.bounded_entries(count_max);
        let tables = entries.into_iter().filter_map(|(key, value)| {
            let table = self.table_of(key.value, value, key.span.clone())?;
            Some((key, table))
        });
        tables.collect()
    }

    /// Strings by the author's names, in file order.
    pub(crate) fn named_texts(&self, count_max: usize) -> Vec<(Text<'a>, Text<'a>)> {
        let entries = self.bounded_entries(count_max);
        let texts = entries.into_iter().filter_map(|(key, value)| {
            let text = as_text(value);
            if text.is_none() {
                self.wrong(key.value, value, "a string");
            }
            Some((key, text?))
        });
        texts.collect()
    }

    /// Whole numbers by the author's names, in file order.
    pub(crate) fn named_integers(&self, range: RangeInclusive<u32>, count_max: usize) -> Vec<(Text<'a>, u32)> {
        let entries = self.bounded_entries(count_max).into_iter();
        entries
            .filter_map(|(key, value)| Some((self.integer_of(key.value, value, &range)?, key)))
            .map(|(number, key)| (key, number))
            .collect()
    }

    /// Strings or sub-tables by the author's names, in file order; the faults of a sub-table point at its name.
    pub(crate) fn texts_or_tables(&self, count_max: usize) -> Vec<(Text<'a>, TextOrTable<'a, 'i>)> {
        let entries = self.bounded_entries(count_max).into_iter().filter_map(|(key, value)| {
            let found = match (as_text(value), value.get_ref()) {
                (Some(text), _) => TextOrTable::Text(text),
                (None, DeValue::Table(_)) => TextOrTable::Table(self.table_of(key.value, value, key.span.clone())?),
                (None, _) => {
                    self.wrong(key.value, value, "a string or a table");
                    return None;
                }
            };
            Some((key, found))
        });
        entries.collect()
    }

    /// Arrays of strings by the author's names, in file order.
    pub(crate) fn named_lists(&self, count_max: usize) -> Vec<(Text<'a>, Vec<Text<'a>>)> {
        let mut lists = Vec::new();
        for (key, value) in self.bounded_entries(count_max) {
            let list = match value.get_ref() {
                DeValue::Array(array) => array.iter().map(as_text).collect::<Option<Vec<_>>>(),
                _ => None,
            };
            match list {
                Some(list) => lists.push((key, list)),
                None => self.wrong(key.value, value, "an array of strings"),
            }
        }
        lists
    }

    fn bounded_entries(&self, count_max: usize) -> Vec<(Text<'a>, &'a Spanned<DeValue<'i>>)> {
        let mut entries = self.entries();
        if entries.len() > count_max {
            let count = entries.len();
            self.fault(&self.span, format!("`{}` has {count} entries, at most {count_max}", self.path));
            entries.truncate(count_max);
        }
        entries
    }

    /// Refuses every key that was not asked for.
    pub(crate) fn finish(&self, hint: impl Fn(&str) -> Option<String>) {
        let mut asked = self.asked.borrow().clone();
        asked.sort_unstable();
        asked.dedup();
        let mut missing = self.missing.take();
        for (key, _) in self.entries() {
            if asked.contains(&key.value) {
                continue;
            }
            missing.retain(|(required, _)| !is_like(key.value, required));
            let name = self.name_of(key.value);
            let help = hint(key.value).unwrap_or_else(|| format!("there are {}", listing(&asked, KEYS_LISTED_MAX)));
            self.fault(&key.span, format!("unknown key `{name}`; {help}"));
        }
        for (_, reason) in missing {
            self.fault(&self.span, reason);
        }
    }
}

/// No table that lacks something goes unfinished; should one, what it lacks is said all the same.
impl Drop for TableReader<'_, '_> {
    fn drop(&mut self) {
        for (_, reason) in self.missing.take() {
            self.source.fault(&self.span, reason);
        }
    }
}

/// Whether one key may be a misspelling of another.
pub(super) fn is_like(one: &str, other: &str) -> bool {
    let edits_max = match one.len().min(other.len()) {
        0..=2 => 0,
        3 => 1,
        _ => 2,
    };
    strsim::osa_distance(&one.to_lowercase(), other) <= edits_max
}

fn as_text<'a>(value: &'a Spanned<DeValue<'_>>) -> Option<Text<'a>> {
    match value.get_ref() {
        DeValue::String(text) => Some(Text { value: text.as_ref(), span: value.span() }),
        _ => None,
    }
}

const fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a decimal number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// No hint beyond the list of keys.
pub(crate) const fn no_hint(_: &str) -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn faults(text: &str, read: impl Fn(&TableReader<'_, '_>)) -> Vec<String> {
        let source = SourceText::new(Path::new("f.toml"), text);
        if let Some(document) = parse(&source) {
            let reader = TableReader::of_document(&source, &document);
            read(&reader);
            reader.finish(no_hint);
        }
        source.into_faults().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn all_faults_come_at_once_with_their_places() {
        let found = faults("a = 'x'\nb = 99\n\n[c]\nd = 1.5\n[e]\n", |reader| {
            reader.integer("a", 1..=9);
            reader.integer("b", 1..=9);
            reader.required_text("z");
            if let Some(table) = reader.table("c") {
                table.text("d");
                table.finish(no_hint);
            }
        });
        assert_eq!(
            found,
            [
                "f.toml:1:5: `a` is a whole number, not a string",
                "f.toml:2:5: `b` is 1 to 9, not 99",
                "f.toml:5:5: `c.d` is a string, not a decimal number",
                "f.toml:6:2: unknown key `e`; there are `a`, `b`, `c` and `z`",
                "f.toml:1:1: `z` is missing",
            ]
        );
    }

    #[test]
    fn a_key_under_a_misspelt_name_is_one_fault_and_one_that_is_missing_another() {
        let found = faults("ratoi = '16:9'\nwdths = 3\n", |reader| {
            reader.required_text("ratio");
            reader.required_text("widths");
            reader.required_text("alt");
        });
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].contains("unknown key `ratoi`") && found[1].contains("unknown key `wdths`"), "{found:?}");
        assert!(found[2].contains("`alt` is missing"), "{found:?}");
    }

    #[test]
    fn broken_syntax_is_a_fault_and_not_a_panic() {
        let found = faults("a = [1,\n", |_| {});
        assert!(found.first().is_some_and(|fault| fault.starts_with("f.toml:") && fault.contains("not valid TOML")));
    }

    #[test]
    fn tables_keep_the_order_of_the_file() {
        let text = "[t]\nzebra = 'z'\nant = 'a'\n";
        let source = SourceText::new(Path::new("f.toml"), text);
        let document = parse(&source).expect("valid");
        let reader = TableReader::of_document(&source, &document);
        let names: Vec<_> =
            reader.table("t").expect("a table").named_texts(9).into_iter().map(|(k, _)| k.value).collect();
        assert_eq!(names, ["zebra", "ant"]);
    }
}
