//! The bytes of keys and values.
//!
//! A [`Form`] is a type that redb knows. redb writes its name down beside the table and refuses a table of another one, so a
//! table's forms never change. [`Key`] and [`Value`] translate between a form and the room's own type. A value is given
//! its key, so that a seal covers both: a record that was copied under another key is not read.
//!
//! A sealed record is its schema's version (one byte), a checksum over key and content (8 bytes), and the content: JSON, or bytes
//! of a form that is another standard's.

use serde::Serialize;
use serde::de::DeserializeOwned;

const CHECKSUM_BYTES: usize = 8;
/// A byte below is a schema's version; JSON begins above.
const TEXT_BEGINS: u8 = b' ';

/// A type that redb knows, owned.
pub(crate) trait Form: 'static {
    type Redb: redb::Value + 'static;

    fn lend(&self) -> Lent<'_, Self>;
}

/// A form within a page.
pub(crate) type Lent<'a, F> = <<F as Form>::Redb as redb::Value>::SelfType<'a>;

impl<const N: usize> Form for [u8; N] {
    type Redb = [u8; N];

    fn lend(&self) -> [u8; N] {
        *self
    }
}

impl Form for u64 {
    type Redb = u64;

    fn lend(&self) -> u64 {
        *self
    }
}

impl Form for String {
    type Redb = &'static str;

    fn lend(&self) -> &str {
        self
    }
}

impl Form for Vec<u8> {
    type Redb = &'static [u8];

    fn lend(&self) -> &[u8] {
        self
    }
}

/// What rows are found by. Rows are ordered by the key's form.
pub(crate) trait Key: Sized {
    type Form: Form<Redb: redb::Key>;

    fn encode(&self) -> Self::Form;

    /// # Errors
    /// Says why it is no such key.
    fn decode(form: Lent<'_, Self::Form>) -> Result<Self, String>;

    /// What an error calls the row.
    fn name(form: &Lent<'_, Self::Form>) -> String {
        format!("{form:?}")
    }
}

/// What a row holds, under keys of type `K`.
pub(crate) trait Value<K>: Sized {
    type Form: Form;

    /// # Errors
    /// When it has no such form.
    fn encode(&self, key: &K) -> Result<Self::Form, serde_json::Error>;

    /// # Errors
    /// Says why it is no such value, or none of this key.
    fn decode(key: &K, form: Lent<'_, Self::Form>) -> Result<Self, String>;
}

impl Key for u64 {
    type Form = Self;

    fn encode(&self) -> Self {
        *self
    }

    fn decode(form: Self) -> Result<Self, String> {
        Ok(form)
    }
}

impl Key for String {
    type Form = Self;

    fn encode(&self) -> Self {
        self.clone()
    }

    fn decode(form: &str) -> Result<Self, String> {
        Ok(form.to_owned())
    }
}

impl<K> Value<K> for u64 {
    type Form = Self;

    fn encode(&self, _: &K) -> Result<Self, serde_json::Error> {
        Ok(*self)
    }

    fn decode(_: &K, form: Self) -> Result<Self, String> {
        Ok(form)
    }
}

/// A value from the JSON that it was written as.
///
/// # Errors
/// Says what is wrong with it.
pub(crate) fn from_json<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    serde_json::from_slice(json).map_err(|error| error.to_string())
}

/// The schema's version that a record bears; `None` for JSON, which bears none, and for an empty record.
pub(crate) fn version(record: &[u8]) -> Option<u8> {
    record.first().copied().filter(|first| *first < TEXT_BEGINS)
}

/// A sealed record.
///
/// # Errors
/// When `value` has no JSON form.
pub(crate) fn seal(version: u8, key: &[u8], value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    Ok(seal_bytes(version, key, &serde_json::to_vec(value)?))
}

/// A sealed record of bytes that are no JSON.
pub(crate) fn seal_bytes(version: u8, key: &[u8], bytes: &[u8]) -> Vec<u8> {
    debug_assert!(version < TEXT_BEGINS);
    [&[version], &checksum(key, bytes)[..], bytes].concat()
}

/// What was sealed under `key`.
///
/// # Errors
/// When the record is of another version, another key, or damaged.
pub(crate) fn unseal<T: DeserializeOwned>(own: u8, key: &[u8], record: &[u8]) -> Result<T, String> {
    from_json(unseal_bytes(own, key, record)?)
}

/// The bytes that were sealed under `key`.
///
/// # Errors
/// As [`unseal`].
pub(crate) fn unseal_bytes<'r>(own: u8, key: &[u8], record: &'r [u8]) -> Result<&'r [u8], String> {
    match record.split_first() {
        None => Err("it is empty".to_owned()),
        Some((&version, sealed)) if version == own => match sealed.split_first_chunk::<CHECKSUM_BYTES>() {
            Some((seal, bytes)) if *seal == checksum(key, bytes) => Ok(bytes),
            _ => Err("its checksum is wrong".to_owned()),
        },
        Some((version, _)) => Err(format!("it is of version {version}, this build reads {own}")),
    }
}

fn checksum(key: &[u8], bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key).update(bytes);
    let mut short = [0; CHECKSUM_BYTES];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..CHECKSUM_BYTES]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_record_is_read_under_its_own_key_and_version_only() {
        let record = seal(2, b"key", &"value").unwrap();
        assert_eq!(version(&record), Some(2));
        assert_eq!(unseal::<String>(2, b"key", &record).unwrap(), "value");
        assert!(unseal::<String>(2, b"kez", &record).unwrap_err().contains("checksum"));
        assert!(unseal::<String>(1, b"key", &record).unwrap_err().contains("version 2"));
        assert!(unseal::<String>(2, b"key", b"").unwrap_err().contains("empty"));
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal::<String>(2, b"key", &damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn json_bears_no_version() {
        assert_eq!((version(br#"{"a":1}"#), version(b""), version(&[1, b'{'])), (None, None, Some(1)));
    }
}
