//! Parameters that others append to URLs and that never change an image.

/// Most patterns.
const PATTERNS_MAX: usize = 256;

/// Names to drop: exact, or a prefix with `*` at its end. Always lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoredParameters {
    exact: Vec<String>,
    prefixes: Vec<String>,
}

/// A list of patterns that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IgnoredParametersError {
    #[error("`{0}` is no parameter pattern: a name, or the start of names with `*` at its end")]
    Pattern(String),
    #[error("`{0}` is a rendition parameter and cannot be ignored")]
    Rendition(String),
    #[error("more than {PATTERNS_MAX} patterns")]
    TooMany,
}

impl IgnoredParameters {
    /// Click and campaign identifiers of the large advertising and mailing systems.
    pub const DEFAULT_PATTERNS: [&'static str; 20] = [
        "utm_*",
        "gclid",
        "gclsrc",
        "gbraid",
        "wbraid",
        "dclid",
        "gad_source",
        "fbclid",
        "msclkid",
        "yclid",
        "twclid",
        "ttclid",
        "li_fat_id",
        "igshid",
        "mc_cid",
        "mc_eid",
        "_ga",
        "_gl",
        "_hsenc",
        "_hsmi",
    ];

    /// # Errors
    /// When a pattern is empty, has a `*` elsewhere than at its end, or covers a rendition parameter.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self, IgnoredParametersError> {
        if patterns.len() > PATTERNS_MAX {
            return Err(IgnoredParametersError::TooMany);
        }
        let mut ignored = Self { exact: Vec::new(), prefixes: Vec::new() };
        for pattern in patterns {
            let pattern = pattern.as_ref().to_ascii_lowercase();
            let stem = pattern.strip_suffix('*').unwrap_or(&pattern);
            if stem.is_empty() || stem.contains('*') {
                return Err(IgnoredParametersError::Pattern(pattern));
            }
            if super::parameters::lookup(stem).is_some() {
                return Err(IgnoredParametersError::Rendition(pattern));
            }
            let list = if stem.len() < pattern.len() { &mut ignored.prefixes } else { &mut ignored.exact };
            list.push(stem.to_owned());
        }
        Ok(ignored)
    }

    /// Whether a lower-case name is dropped.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.exact.iter().any(|exact| exact == name)
            || self.prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()))
    }
}

impl Default for IgnoredParameters {
    fn default() -> Self {
        // The defaults are valid; a unit test reads them.
        Self::new(&Self::DEFAULT_PATTERNS).unwrap_or(Self { exact: Vec::new(), prefixes: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_prefixes_match() {
        assert!(IgnoredParameters::new(&IgnoredParameters::DEFAULT_PATTERNS).is_ok());
        let ignored = IgnoredParameters::default();
        for name in ["utm_source", "utm_", "gclid", "fbclid", "msclkid"] {
            assert!(ignored.matches(name), "{name}");
        }
        for name in ["utm", "colour", "gclid2"] {
            assert!(!ignored.matches(name), "{name}");
        }
    }

    #[test]
    fn patterns_that_would_hide_a_parameter_are_refused() {
        assert_eq!(IgnoredParameters::new(&["W*"]), Err(IgnoredParametersError::Rendition("w*".into())));
        assert_eq!(IgnoredParameters::new(&["a*b"]), Err(IgnoredParametersError::Pattern("a*b".into())));
        assert_eq!(IgnoredParameters::new(&["*"]), Err(IgnoredParametersError::Pattern("*".into())));
    }
}
