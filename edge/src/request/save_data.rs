//! `Save-Data`: whether a client asks for fewer bytes.
//!
//! Source: Save Data API (WICG): the value is a list of tokens between semicolons, of which `on` is the one that has a meaning.
//!
//! Invariant: it is read for URLs that opt in by `save-data=auto` and for no others, because it multiplies what caches keep.

use http::{HeaderMap, HeaderName};

/// The request field, and what `Vary` names.
pub const SAVE_DATA: HeaderName = HeaderName::from_static("save-data");

/// Longest value read; real ones have two characters.
const VALUE_BYTES_MAX: usize = 64;

/// `save-data`: whose wish decides about bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum SavingAsk {
    /// The URL's alone.
    #[default]
    Url,
    /// `save-data=auto`: the client's too.
    Client,
}

/// What a client said of its data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DataUse {
    #[default]
    Usual,
    /// `Save-Data: on`.
    Saving,
}

impl DataUse {
    /// A field that stands on two lines is as good as none, as with the client's other hints.
    #[must_use]
    pub fn read(headers: &HeaderMap) -> Self {
        let mut lines = headers.get_all(SAVE_DATA).iter();
        let value = lines.next().filter(|_| lines.next().is_none()).and_then(|value| value.to_str().ok());
        let value = value.filter(|value| value.len() <= VALUE_BYTES_MAX).unwrap_or_default();
        if value.split(';').any(|token| token.trim().eq_ignore_ascii_case("on")) { Self::Saving } else { Self::Usual }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(lines: &[&str]) -> DataUse {
        let line = |value: &&str| (SAVE_DATA, HeaderValue::from_str(value).expect("a legal value"));
        DataUse::read(&lines.iter().map(line).collect())
    }

    #[test]
    fn only_on_saves() {
        for value in ["on", "On", " on ", "foo; on", "on;x=1"] {
            assert_eq!(of(&[value]), DataUse::Saving, "{value}");
        }
        for value in ["", "off", "1", "true", "?1", "onn", "\"on\"", "foo,on"] {
            assert_eq!(of(&[value]), DataUse::Usual, "{value}");
        }
        assert_eq!(of(&[]), DataUse::Usual);
        assert_eq!(of(&["on", "on"]), DataUse::Usual);
        assert_eq!(of(&[&format!("{}; on", "x".repeat(64))]), DataUse::Usual);
    }
}
