//! Names, locales and texts by locale, as manifests write them.

/// Longest name of a campaign, slot, axis, value or library.
pub const NAME_BYTES_MAX: usize = 48;

/// Whether a text is a name: `a-z`, `0-9` and `-`, starting with a letter or digit.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && !text.starts_with('-')
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Whether a text is a locale as campaigns write it: `de`, `de-DE`, `zh-Hant-TW`, `es-419` (BCP 47 language,
/// script and region in their usual case; no variants or extensions).
#[must_use]
pub fn is_locale(text: &str) -> bool {
    let mut parts = text.split('-');
    let language = parts.next().unwrap_or_default();
    if !(2..=3).contains(&language.len()) || !language.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return false;
    }
    let mut next = parts.next();
    if next.is_some_and(is_script) {
        next = parts.next();
    }
    next.is_none_or(is_region) && parts.next().is_none()
}

fn is_script(part: &str) -> bool {
    part.len() == 4
        && part
            .bytes()
            .enumerate()
            .all(|(at, byte)| if at == 0 { byte.is_ascii_uppercase() } else { byte.is_ascii_lowercase() })
}

fn is_region(part: &str) -> bool {
    let is = |len, of: fn(&u8) -> bool| part.len() == len && part.bytes().all(|byte| of(&byte));
    is(2, u8::is_ascii_uppercase) || is(3, u8::is_ascii_digit)
}

/// Whether a text of that locale or language is shown in a locale.
#[must_use]
pub fn serves(tag: &str, locale: &str) -> bool {
    tag == locale || locale.split('-').next() == Some(tag)
}

/// A text in several languages, by locale (`de-DE`) or language (`de`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Localized<T>(Vec<(String, T)>);

impl<T> Default for Localized<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Localized<T> {
    #[must_use]
    pub const fn new(texts: Vec<(String, T)>) -> Self {
        Self(texts)
    }

    /// The text of exactly this locale, or of its language.
    #[must_use]
    pub fn get(&self, locale: &str) -> Option<&T> {
        let language = locale.split('-').next().unwrap_or(locale);
        let find = |tag: &str| self.0.iter().find(|(known, _)| known == tag).map(|(_, text)| text);
        find(locale).or_else(|| find(language))
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0.iter().map(|(tag, text)| (tag.as_str(), text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_and_short() {
        for name in ["a", "studio-2", "0"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "-a", "A", "ä", "a_b", "a.b", "a b", &"a".repeat(49)] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn locales_are_language_script_and_region() {
        for locale in ["de", "de-DE", "gsw-CH", "zh-Hant-TW", "sr-Latn", "es-419"] {
            assert!(is_locale(locale), "{locale}");
        }
        for locale in ["", "d", "DE", "de-de", "de_DE", "de-", "de-DE-1996", "zh-HANT", "de-Latn-DE-x"] {
            assert!(!is_locale(locale), "{locale}");
        }
    }

    #[test]
    fn a_locale_falls_back_to_its_language() {
        let text = Localized::new(vec![("de".into(), "Becher"), ("de-CH".into(), "Tasse")]);
        assert_eq!(text.get("de-DE"), Some(&"Becher"));
        assert_eq!(text.get("de-CH"), Some(&"Tasse"));
        assert_eq!(text.get("en-GB"), None);
    }
}
