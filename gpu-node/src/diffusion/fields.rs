//! Architectures as the checkpoint's own `config.json` files describe them.
//!
//! Each configuration is read field by field: a field that is absent takes the default of the constructor it
//! was saved from (diffusers 0.42, transformers 5), and a field whose value changes the network in a way this
//! implementation does not know is an error that names it. Every reader ends with [`Fields::finish`]: a key that was
//! neither read nor stands in the reader's table of keys without effect is refused by name, so none is passed over.
//! Nothing here touches a tensor.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// Largest JSON file read from a checkpoint's configuration.
pub(crate) const CONFIG_BYTES_MAX: u64 = 1024 * 1024;
/// Most resolution levels of a network.
pub(crate) const LEVELS_MAX: usize = 8;
/// Most layers of one kind in a block.
pub(crate) const LAYERS_MAX: i64 = 64;
/// Most channels or features of one tensor.
pub(crate) const WIDTH_MAX: i64 = 65_536;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the file holds no JSON object")]
    NotAnObject,
    #[error("`{field}` is missing")]
    Missing { field: &'static str },
    #[error("`{field}` is {value}, but {expected}")]
    Invalid { field: &'static str, value: String, expected: String },
    #[error("`{field}` is {value}, which is not supported; supported: {supported}")]
    Unsupported { field: &'static str, value: String, supported: String },
    #[error("`{field}` is {value}, but no such key is known here: what it changes cannot be told")]
    Unknown { field: String, value: String },
}

/// Keys that change no picture, by the reason why.
pub(crate) type WithoutEffect<'t> = &'t [(&'t str, &'t [&'t str])];

/// Whether a key may be passed over: it stands in the table, or is private to the program that wrote the file
/// (`_name_or_path`). Null is a value like others: it may ask for something that the default does not
/// (`force_zeros_for_empty_prompt`).
pub(crate) fn is_without_effect(field: &str, tables: &[WithoutEffect<'_>]) -> bool {
    field.starts_with('_') || tables.iter().copied().flatten().any(|(_, fields)| fields.contains(&field))
}

/// The error of a key that is not known.
pub(crate) fn unknown(field: &str, value: &Value) -> ConfigError {
    ConfigError::Unknown { field: field.chars().take(80).collect(), value: shown(value) }
}

/// Why a JSON file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum JsonFileError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is larger than the {bytes_max} bytes such a file may have")]
    TooLarge { path: PathBuf, bytes_max: u64 },
    #[error("{path} is not valid JSON: {source}")]
    Json { path: PathBuf, source: serde_json::Error },
}

/// Reads a JSON file of at most `bytes_max` bytes, in Python's dialect: a bare `NaN`, `Infinity` or `-Infinity`, which
/// JSON does not have and diffusers writes (`"lambda_min_clipped": -Infinity`), becomes the string of that name.
pub(crate) fn read_json(path: &Path, bytes_max: u64) -> Result<Value, JsonFileError> {
    let text = read_text(path, bytes_max)?;
    let parsed = serde_json::from_slice(&text).or_else(|error| match quote_non_numbers(&text) {
        Some(text) => serde_json::from_slice(&text),
        None => Err(error),
    });
    parsed.map_err(|source| JsonFileError::Json { path: path.to_owned(), source })
}

/// `text` with quotes around Python's non-numbers, `None` where it has none.
fn quote_non_numbers(text: &[u8]) -> Option<Vec<u8>> {
    const NON_NUMBERS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
    let mut quoted = Vec::with_capacity(text.len());
    let (mut at, mut in_string, mut found) = (0, false, false);
    while at < text.len() {
        let rest = &text[at..];
        let non_number = NON_NUMBERS.iter().find(|name| !in_string && rest.starts_with(name));
        let taken = match (non_number, rest[0]) {
            (Some(name), _) => name.len(),
            // An escaped character never ends a string.
            (None, b'\\') if in_string => 2.min(rest.len()),
            (None, byte) => {
                in_string ^= byte == b'"';
                1
            }
        };
        let quote: &[u8] = if non_number.is_some() { b"\"" } else { b"" };
        quoted.extend([quote, &rest[..taken], quote].concat());
        found |= non_number.is_some();
        at += taken;
    }
    found.then_some(quoted)
}

/// Reads a file of at most `bytes_max` bytes, however large it claims to be.
pub(crate) fn read_text(path: &Path, bytes_max: u64) -> Result<Vec<u8>, JsonFileError> {
    let io_error = |source| JsonFileError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io_error)?;
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(io_error)?;
    if bytes.len() as u64 > bytes_max {
        return Err(JsonFileError::TooLarge { path: path.to_owned(), bytes_max });
    }
    Ok(bytes)
}

/// Typed reading of one configuration object; every error names the field.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    object: &'a Map<String, Value>,
    read: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(json: &'a Value) -> Result<Self, ConfigError> {
        let object = json.as_object().ok_or(ConfigError::NotAnObject)?;
        Ok(Self { object, read: RefCell::default() })
    }

    pub(crate) fn get(&self, field: &'static str) -> Option<&'a Value> {
        self.read.borrow_mut().insert(field);
        self.object.get(field)
    }

    /// The keys that nothing has read.
    pub(crate) fn unread(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let read = self.read.borrow().clone();
        self.object.iter().map(|(field, value)| (field.as_str(), value)).filter(move |(field, _)| !read.contains(field))
    }

    /// Ends reading.
    ///
    /// # Errors
    /// At the first key that was not read and is not known to be without effect.
    pub(crate) fn finish(&self, tables: &[WithoutEffect<'_>]) -> Result<(), ConfigError> {
        let mut passed_over = self.unread().filter(|(field, _)| !is_without_effect(field, tables));
        passed_over.next().map_or(Ok(()), |(field, value)| Err(unknown(field, value)))
    }

    /// A whole number from 1 to `max`.
    pub(crate) fn count(&self, field: &'static str, default: Option<i64>, max: i64) -> Result<i64, ConfigError> {
        match (self.get(field), default) {
            (Some(value), _) => count_of(field, value, max),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(ConfigError::Missing { field }),
        }
    }

    /// One whole number for all levels, or a list with one per level.
    pub(crate) fn count_per_level(
        &self,
        field: &'static str,
        default: i64,
        levels: usize,
        max: i64,
    ) -> Result<Vec<i64>, ConfigError> {
        match self.get(field) {
            None => Ok(vec![default; levels]),
            Some(Value::Array(items)) => {
                let counts = items.iter().map(|item| count_of(field, item, max)).collect::<Result<Vec<_>, _>>()?;
                self.check_levels(field, counts.len(), levels)?;
                Ok(counts)
            }
            Some(value) => Ok(vec![count_of(field, value, max)?; levels]),
        }
    }

    /// The list of channels that defines the levels.
    pub(crate) fn channels(&self, field: &'static str) -> Result<Vec<i64>, ConfigError> {
        let value = self.get(field).ok_or(ConfigError::Missing { field })?;
        let items = value.as_array().filter(|items| (1..=LEVELS_MAX).contains(&items.len()));
        let items = items.ok_or_else(|| invalid(field, value, format!("it lists 1 to {LEVELS_MAX} levels")))?;
        items.iter().map(|item| count_of(field, item, WIDTH_MAX)).collect()
    }

    pub(crate) fn check_levels(&self, field: &'static str, found: usize, levels: usize) -> Result<(), ConfigError> {
        if found == levels {
            return Ok(());
        }
        let value = self.get(field).unwrap_or(&Value::Null);
        Err(invalid(field, value, format!("`block_out_channels` has {levels} levels")))
    }

    /// Yes or no. Python's `None`, which Stable Diffusion XL's files have, counts as no.
    pub(crate) fn flag(&self, field: &'static str, default: bool) -> Result<bool, ConfigError> {
        match self.get(field) {
            None => Ok(default),
            Some(Value::Null) => Ok(false),
            Some(value) => flag_of(field, value),
        }
    }

    pub(crate) fn flag_per_level(
        &self,
        field: &'static str,
        default: bool,
        levels: usize,
    ) -> Result<Vec<bool>, ConfigError> {
        match self.get(field) {
            None => Ok(vec![default; levels]),
            Some(Value::Array(items)) => {
                self.check_levels(field, items.len(), levels)?;
                items.iter().map(|item| flag_of(field, item)).collect()
            }
            Some(value) => Ok(vec![flag_of(field, value)?; levels]),
        }
    }

    /// A finite number within `bounds`.
    pub(crate) fn number(&self, field: &'static str, default: f64, bounds: (f64, f64)) -> Result<f64, ConfigError> {
        let Some(value) = self.get(field) else { return Ok(default) };
        let number = value.as_f64().filter(|number| (bounds.0..=bounds.1).contains(number));
        number.ok_or_else(|| invalid(field, value, format!("it is a number from {} to {}", bounds.0, bounds.1)))
    }

    /// A list of `count` finite numbers within `bounds`; none where the file has none.
    pub(crate) fn numbers(
        &self,
        field: &'static str,
        count: usize,
        bounds: (f64, f64),
    ) -> Result<Option<Vec<f64>>, ConfigError> {
        let Some(value) = self.get(field).filter(|value| !value.is_null()) else { return Ok(None) };
        let number = |item: &Value| item.as_f64().filter(|number| (bounds.0..=bounds.1).contains(number));
        let numbers = value.as_array().and_then(|items| items.iter().map(number).collect::<Option<Vec<_>>>());
        let numbers = numbers.filter(|numbers| numbers.len() == count);
        let expected = || format!("it is a list of {count} numbers from {} to {}", bounds.0, bounds.1);
        numbers.map(Some).ok_or_else(|| invalid(field, value, expected()))
    }

    /// A name out of a closed list of supported ones.
    pub(crate) fn name<T: Copy>(
        &self,
        field: &'static str,
        default: T,
        supported: &[(Option<&str>, T)],
    ) -> Result<T, ConfigError> {
        let Some(value) = self.get(field) else { return Ok(default) };
        name_of(field, value, supported)
    }

    /// A list of names, one per level, out of a closed list of supported ones.
    pub(crate) fn names<T: Copy>(
        &self,
        field: &'static str,
        levels: usize,
        supported: &[(Option<&str>, T)],
    ) -> Result<Vec<T>, ConfigError> {
        let value = self.get(field).ok_or(ConfigError::Missing { field })?;
        let items = value.as_array().ok_or_else(|| invalid(field, value, "it is a list of names".into()))?;
        self.check_levels(field, items.len(), levels)?;
        items.iter().map(|item| name_of(field, item, supported)).collect()
    }

    /// Refuses any value of `field` but the one whose behaviour is implemented.
    pub(crate) fn only(&self, field: &'static str, supported: &Value) -> Result<(), ConfigError> {
        match self.get(field) {
            Some(value) if !same(value, supported) => {
                Err(ConfigError::Unsupported { field, value: shown(value), supported: supported.to_string() })
            }
            _ => Ok(()),
        }
    }

    /// A side or a `[height, width]` pair, in the order height, width; none where the file says none.
    pub(crate) fn size(&self, field: &'static str) -> Result<Option<(i64, i64)>, ConfigError> {
        let Some(value) = self.get(field).filter(|value| !value.is_null()) else { return Ok(None) };
        match value.as_array().map(Vec::as_slice) {
            Some([height, width]) => {
                Ok(Some((count_of(field, height, WIDTH_MAX)?, count_of(field, width, WIDTH_MAX)?)))
            }
            Some(_) => Err(invalid(field, value, "a list has a height and a width".into())),
            None => count_of(field, value, WIDTH_MAX).map(|side| Some((side, side))),
        }
    }
}

fn count_of(field: &'static str, value: &Value, max: i64) -> Result<i64, ConfigError> {
    let count = value.as_i64().filter(|count| (1..=max).contains(count));
    count.ok_or_else(|| invalid(field, value, format!("it is a whole number from 1 to {max}")))
}

fn flag_of(field: &'static str, value: &Value) -> Result<bool, ConfigError> {
    value.as_bool().ok_or_else(|| invalid(field, value, "it is true or false".into()))
}

fn name_of<T: Copy>(field: &'static str, value: &Value, supported: &[(Option<&str>, T)]) -> Result<T, ConfigError> {
    let found = supported.iter().find(|(name, _)| match name {
        Some(name) => value.as_str() == Some(name),
        None => value.is_null(),
    });
    found.map(|(_, choice)| *choice).ok_or_else(|| {
        let names: Vec<&str> = supported.iter().map(|(name, _)| name.unwrap_or("null")).collect();
        ConfigError::Unsupported { field, value: shown(value), supported: names.join(", ") }
    })
}

/// JSON equality in which `1` and `1.0` are the same number.
fn same(left: &Value, right: &Value) -> bool {
    match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => left == right,
        _ => left == right,
    }
}

fn invalid(field: &'static str, value: &Value, expected: String) -> ConfigError {
    ConfigError::Invalid { field, value: shown(value), expected }
}

/// A value as an error shows it: configurations come from outside, so its length is bounded.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 80 { text } else { text.chars().take(80).chain("…".chars()).collect() }
}

/// Refuses channels that do not divide into groups or heads.
pub(crate) fn check_divides(field: &'static str, parts: i64, channels: i64) -> Result<(), ConfigError> {
    if channels % parts == 0 {
        return Ok(());
    }
    Err(ConfigError::Invalid {
        field,
        value: parts.to_string(),
        expected: format!("it must divide {channels} channels"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pythons_non_numbers_become_strings_and_strings_stay() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("config.json");
        std::fs::write(&path, r#"{"a": -Infinity, "b": [NaN,Infinity], "c": "NaN \" -Infinity", "d\\": 1}"#)?;
        let expected =
            serde_json::json!({"a": "-Infinity", "b": ["NaN", "Infinity"], "c": "NaN \" -Infinity", "d\\": 1});
        assert_eq!(read_json(&path, 1000)?, expected);
        for broken in [r#"{"a": Nan}"#, r#"{"a": -Infinity"#, "", "\"\\", r#"{"a": 1NaN}"#] {
            std::fs::write(&path, broken)?;
            assert!(matches!(read_json(&path, 1000), Err(JsonFileError::Json { .. })), "{broken}");
        }
        Ok(())
    }

    #[test]
    fn a_file_is_read_up_to_its_bound() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("config.json");
        std::fs::write(&path, "[1]")?;
        assert!(read_json(&path, 3).is_ok());
        let error = read_json(&path, 2).map_or_else(|error| error.to_string(), |_| "accepted".into());
        assert!(error.contains("config.json") && error.contains("2 bytes"), "{error}");
        assert!(read_json(&dir.path().join("absent.json"), 2).is_err());
        Ok(())
    }
}
