//! Parameters that others append to URLs and that never change an image: click and campaign identifiers.
//!
//! The names come from two files in `tracking/`: `public.txt` is made from maintained public lists by the script beside
//! it, `ours.txt` adds what they lack. An operator adds more by `campaigns.ignored_parameters`. A rendition parameter and
//! an axis of the campaign beat all of them, so that a name that a list gains changes no URL that had a meaning.

use std::borrow::Cow;

/// Most patterns that an operator adds.
const PATTERNS_MAX: usize = 256;
/// One pattern a line; what follows `#` is for people.
const LISTS: [&str; 2] = [include_str!("tracking/public.txt"), include_str!("tracking/ours.txt")];

/// Says which parameters are dropped unread. Rendition parameters are never asked about.
pub trait ParameterNames {
    /// Whether a URL of this campaign loses the parameter of this lower-case name.
    fn is_ignored(&self, campaign: &str, name: &str) -> bool;
}

impl<F: Fn(&str, &str) -> bool> ParameterNames for F {
    fn is_ignored(&self, campaign: &str, name: &str) -> bool {
        self(campaign, name)
    }
}

/// As long as no campaign is known.
impl ParameterNames for IgnoredParameters {
    fn is_ignored(&self, _campaign: &str, name: &str) -> bool {
        self.matches(name)
    }
}

/// Names to drop: exact, or a prefix with `*` at its end. Always lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoredParameters {
    /// Sorted.
    exact: Vec<Cow<'static, str>>,
    prefixes: Vec<Cow<'static, str>>,
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
    /// The patterns of the built-in lists.
    pub fn listed() -> impl Iterator<Item = &'static str> {
        let lines = LISTS.into_iter().flat_map(str::lines);
        lines.map(|line| line.split('#').next().unwrap_or_default().trim()).filter(|pattern| !pattern.is_empty())
    }

    /// The built-in lists and these patterns.
    ///
    /// # Errors
    /// When a pattern is empty, has a `*` elsewhere than at its end, or covers a rendition parameter.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self, IgnoredParametersError> {
        if patterns.len() > PATTERNS_MAX {
            return Err(IgnoredParametersError::TooMany);
        }
        let mut ignored = Self::default();
        for pattern in patterns {
            let pattern = pattern.as_ref().to_ascii_lowercase();
            let stem = pattern.strip_suffix('*').unwrap_or(&pattern);
            if stem.is_empty() || stem.contains('*') {
                return Err(IgnoredParametersError::Pattern(pattern));
            }
            if super::parameters::lookup(stem).is_some() {
                return Err(IgnoredParametersError::Rendition(pattern));
            }
            ignored.add(pattern.into());
        }
        ignored.exact.sort_unstable();
        Ok(ignored)
    }

    fn add(&mut self, pattern: Cow<'static, str>) {
        match pattern.strip_suffix('*') {
            Some(stem) => self.prefixes.push(stem.to_owned().into()),
            None => self.exact.push(pattern),
        }
    }

    /// Whether a lower-case name is dropped where no axis has it.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.exact.binary_search_by(|exact| exact.as_ref().cmp(name)).is_ok()
            || self.prefixes.iter().any(|prefix| name.starts_with(prefix.as_ref()))
    }
}

impl Default for IgnoredParameters {
    fn default() -> Self {
        let mut ignored = Self { exact: Vec::new(), prefixes: Vec::new() };
        Self::listed().for_each(|pattern| ignored.add(pattern.into()));
        ignored.exact.sort_unstable();
        ignored
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::parameters::{self, NAMES};

    #[test]
    fn names_and_prefixes_match() {
        let ignored = IgnoredParameters::new(&["Partner_*", "promo"]).expect("valid");
        for name in ["utm_source", "utm_", "gclid", "fbclid", "msclkid", "srsltid", "igsh", "gad_campaignid", "gbraid"]
        {
            assert!(ignored.matches(name) && IgnoredParameters::default().matches(name), "{name}");
        }
        assert!(ignored.matches("partner_id") && ignored.matches("promo"));
        for name in ["utm", "colour", "gclid2", "product", "locale", "scene"] {
            assert!(!ignored.matches(name), "{name}");
        }
        assert!(!IgnoredParameters::default().matches("promo"));
    }

    #[test]
    fn the_lists_hold_patterns_in_lower_case_and_no_rendition_parameter() {
        assert!(IgnoredParameters::listed().count() > 200);
        for pattern in IgnoredParameters::listed() {
            let stem = pattern.strip_suffix('*').unwrap_or(pattern);
            let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.".contains(&byte);
            assert!(!stem.is_empty() && stem.bytes().all(is_plain), "{pattern}");
            assert_eq!(parameters::lookup(stem), None, "{pattern}");
        }
        let ignored = IgnoredParameters::default();
        assert!(NAMES.iter().all(|name| !ignored.matches(name)));
    }

    #[test]
    fn patterns_that_would_hide_a_parameter_are_refused() {
        assert_eq!(IgnoredParameters::new(&["W*"]), Err(IgnoredParametersError::Rendition("w*".into())));
        assert_eq!(IgnoredParameters::new(&["a*b"]), Err(IgnoredParametersError::Pattern("a*b".into())));
        assert_eq!(IgnoredParameters::new(&["*"]), Err(IgnoredParametersError::Pattern("*".into())));
    }
}
