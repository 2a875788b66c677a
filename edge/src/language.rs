//! The languages that pages for people are written in.

use http::HeaderMap;
use http::header::ACCEPT_LANGUAGE;

use crate::fields;

/// A language that the page is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    English,
    German,
}

impl Language {
    pub(crate) const ALL: [Self; 2] = [Self::English, Self::German];

    /// As `lang` and as the query have it.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::German => "de",
        }
    }

    /// As its speakers call it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::English => "English",
            Self::German => "Deutsch",
        }
    }

    pub(crate) const fn say(self, english: &'static str, german: &'static str) -> &'static str {
        match self {
            Self::English => english,
            Self::German => german,
        }
    }

    /// What the query names, or what the client prefers (RFC 9110 §12.5.4); English where neither says.
    pub(crate) fn of(query: Option<&str>, headers: &HeaderMap) -> Self {
        let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        let named = pairs.filter(|(name, _)| *name == "lang").find_map(|(_, value)| Self::named(value));
        named.unwrap_or_else(|| {
            let accepted = fields::list(headers, &ACCEPT_LANGUAGE);
            let accepted = accepted.as_deref().unwrap_or_default();
            if weight(accepted, "de") > weight(accepted, "en") { Self::German } else { Self::English }
        })
    }

    /// The language of this code.
    pub(crate) fn named(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|language| language.code() == code)
    }
}

/// The greatest weight of a range of that language.
fn weight(accepted: &str, code: &str) -> f32 {
    let weights = accepted.split(',').filter_map(|member| {
        let (range, parameters) = member.split_once(';').unwrap_or((member, ""));
        let primary = range.trim().split('-').next().unwrap_or_default();
        let weight = parameters.trim().strip_prefix("q=").map_or(Ok(1.0), str::parse::<f32>).ok()?;
        primary.eq_ignore_ascii_case(code).then_some(weight)
    });
    weights.filter(|weight| (0.0..=1.0).contains(weight)).fold(0.0, f32::max)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_query_wins_over_the_browser_and_english_over_silence() {
        let of = |query: Option<&str>, accepted: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_LANGUAGE, HeaderValue::from_static(accepted));
            Language::of(query, &headers)
        };
        assert_eq!(of(None, "de-AT,de;q=0.9,en;q=0.8"), Language::German);
        assert_eq!(of(None, "fr,en;q=0.8,de;q=0.7"), Language::English);
        assert_eq!(of(Some("x=1&lang=de"), "en"), Language::German);
        assert_eq!(of(Some("lang=xx"), "de;q=0.1"), Language::German);
        assert_eq!(of(None, "*, de;q=x"), Language::English);
        assert_eq!(Language::of(None, &HeaderMap::new()), Language::English);
    }
}
