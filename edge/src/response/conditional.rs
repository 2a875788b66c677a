//! Conditional and range requests (RFC 9110 §13, §14) for representations that have a strong entity tag and no
//! modification date.

use http::{HeaderMap, HeaderName, header};

use crate::fields;

/// What a request's conditions ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precondition {
    Proceed,
    NotModified,
    Failed,
}

/// RFC 9110 §13.2.2 for a representation that has an entity tag and no modification date.
#[must_use]
pub(crate) fn precondition(request: &HeaderMap, etag: &str) -> Precondition {
    if request.contains_key(header::IF_MATCH) {
        let matches = tags_match(request, &header::IF_MATCH, etag, Comparison::Strong);
        if !matches {
            return Precondition::Failed;
        }
    }
    if request.contains_key(header::IF_NONE_MATCH)
        && tags_match(request, &header::IF_NONE_MATCH, etag, Comparison::Weak)
    {
        return Precondition::NotModified;
    }
    Precondition::Proceed
}

/// Whether a single `If-None-Match` line names `etag`: for callers who have no header map.
#[must_use]
pub(crate) fn none_match(field: &[u8], etag: &str) -> bool {
    tag_matches(&String::from_utf8_lossy(field), etag, Comparison::Weak)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

fn tags_match(request: &HeaderMap, name: &HeaderName, etag: &str, comparison: Comparison) -> bool {
    request.get_all(name).iter().any(|field| tag_matches(&fields::text(field), etag, comparison))
}

fn tag_matches(field: &str, etag: &str, comparison: Comparison) -> bool {
    field.trim() == "*"
        || EntityTags(field).any(|(weak, tag)| tag == etag && !(weak && comparison == Comparison::Strong))
}

/// The entity tags of a field value as (weak, quoted tag); stops at the first thing that is none. A comma
/// may stand inside the quotes.
struct EntityTags<'a>(&'a str);

impl<'a> Iterator for EntityTags<'a> {
    type Item = (bool, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.0.trim_start_matches([' ', '\t', ',']);
        let (weak, rest) = rest.strip_prefix("W/").map_or((false, rest), |rest| (true, rest));
        let end = rest.strip_prefix('"')?.find('"')? + 2;
        self.0 = &rest[end..];
        Some((weak, &rest[..end]))
    }
}

/// The part of a representation a request asks for; both ends are inside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestedRange {
    Whole,
    Part { first: usize, last: usize },
    Unsatisfiable,
}

/// The range of a GET, with `If-Range` honoured.
#[must_use]
pub(crate) fn requested_range(request: &HeaderMap, etag: &str, length: usize) -> RequestedRange {
    let Some(range) = request.get(header::RANGE).map(fields::text) else { return RequestedRange::Whole };
    if let Some(condition) = request.get(header::IF_RANGE) {
        // Only a strong match lets a client combine parts; a date never matches, for we send none.
        if condition.as_bytes() != etag.as_bytes() {
            return RequestedRange::Whole;
        }
    }
    parse_range(&range, length)
}

/// A single byte range (RFC 9110 §14.1.2); several, another unit or a malformed one is answered in whole.
fn parse_range(field: &str, length: usize) -> RequestedRange {
    let Some((unit, set)) = field.split_once('=') else { return RequestedRange::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
        return RequestedRange::Whole;
    }
    let Some((first, last)) = set.trim().split_once('-') else { return RequestedRange::Whole };
    match (position(first), position(last)) {
        // The last `suffix` bytes.
        (Position::Absent, Position::At(suffix)) if suffix > 0 && length > 0 => {
            RequestedRange::Part { first: length.saturating_sub(suffix), last: length - 1 }
        }
        (Position::Absent, Position::At(_)) => RequestedRange::Unsatisfiable,
        (Position::Malformed, _) | (_, Position::Malformed) => RequestedRange::Whole,
        (Position::At(first), Position::At(last)) if last < first => RequestedRange::Whole,
        (Position::At(first), _) if first >= length => RequestedRange::Unsatisfiable,
        (Position::At(first), Position::Absent) => RequestedRange::Part { first, last: length - 1 },
        (Position::At(first), Position::At(last)) => RequestedRange::Part { first, last: last.min(length - 1) },
        (Position::Absent, Position::Absent) => RequestedRange::Whole,
    }
}

enum Position {
    Absent,
    At(usize),
    Malformed,
}

fn position(text: &str) -> Position {
    if text.is_empty() {
        return Position::Absent;
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Position::Malformed;
    }
    // More digits than fit are past every end.
    Position::At(text.parse().unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    const ETAG: &str = "\"abc\"";

    fn with(name: HeaderName, text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(text).expect("a header value"));
        headers
    }

    #[test]
    fn if_none_match_takes_lists_weak_tags_and_the_asterisk() {
        let answer = |text: &str| precondition(&with(header::IF_NONE_MATCH, text), ETAG);
        for text in ["\"abc\"", "W/\"abc\"", "*", "\"x\", \"abc\"", "\"a,b\" , W/\"abc\"", ",, \"abc\""] {
            assert_eq!(answer(text), Precondition::NotModified, "{text}");
        }
        for text in ["\"abcd\"", "abc", "\"ab", "\"x\"", "", "W/"] {
            assert_eq!(answer(text), Precondition::Proceed, "{text}");
        }
    }

    #[test]
    fn if_match_compares_strongly_and_goes_first() {
        let answer = |text: &str| precondition(&with(header::IF_MATCH, text), ETAG);
        assert_eq!(answer("\"abc\""), Precondition::Proceed);
        assert_eq!(answer("*"), Precondition::Proceed);
        assert_eq!(answer("W/\"abc\""), Precondition::Failed);
        let mut both = with(header::IF_MATCH, "\"x\"");
        both.insert(header::IF_NONE_MATCH, HeaderValue::from_static("\"abc\""));
        assert_eq!(precondition(&both, ETAG), Precondition::Failed);
    }

    #[test]
    fn a_tag_with_bytes_beyond_ascii_is_a_tag_like_any_other() {
        let field = b"\"caf\xe9\", \"abc\"";
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, HeaderValue::from_bytes(field).expect("obs-text"));
        assert_eq!(precondition(&headers, ETAG), Precondition::NotModified);
        assert!(none_match(field, ETAG));
        assert!(!none_match(b"\"caf\xe9\"", ETAG));
    }

    #[test]
    fn several_fields_count_as_one_list() {
        let mut headers = with(header::IF_NONE_MATCH, "\"x\"");
        headers.append(header::IF_NONE_MATCH, HeaderValue::from_static("\"abc\""));
        assert_eq!(precondition(&headers, ETAG), Precondition::NotModified);
    }

    #[test]
    fn single_ranges_are_cut_and_the_rest_is_whole() {
        use RequestedRange::{Part, Unsatisfiable, Whole};
        for (field, expected) in [
            ("bytes=0-0", Part { first: 0, last: 0 }),
            ("bytes=0-", Part { first: 0, last: 99 }),
            ("BYTES=10-19", Part { first: 10, last: 19 }),
            ("bytes=90-200", Part { first: 90, last: 99 }),
            ("bytes=-10", Part { first: 90, last: 99 }),
            ("bytes=-1000", Part { first: 0, last: 99 }),
            ("bytes=99999999999999999999999-", Unsatisfiable),
            ("bytes=100-", Unsatisfiable),
            ("bytes=100-200", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=20-10", Whole),
            ("bytes=0-1,5-6", Whole),
            ("bytes=", Whole),
            ("bytes=-", Whole),
            ("bytes=a-b", Whole),
            ("bytes=+1-2", Whole),
            ("items=0-1", Whole),
            ("nonsense", Whole),
        ] {
            assert_eq!(requested_range(&with(header::RANGE, field), ETAG, 100), expected, "{field}");
        }
    }

    #[test]
    fn if_range_needs_the_very_tag() {
        let answer = |condition: &'static str| {
            let mut headers = with(header::RANGE, "bytes=0-1");
            headers.insert(header::IF_RANGE, HeaderValue::from_static(condition));
            requested_range(&headers, ETAG, 100)
        };
        assert_eq!(answer("\"abc\""), RequestedRange::Part { first: 0, last: 1 });
        for condition in ["W/\"abc\"", "\"abd\"", "Sun, 06 Nov 1994 08:49:37 GMT"] {
            assert_eq!(answer(condition), RequestedRange::Whole, "{condition}");
        }
    }

    proptest! {
        #[test]
        fn any_range_lies_inside_the_body(field in "[ -~]{0,40}", length in 0usize..2000) {
            if let Ok(value) = HeaderValue::from_str(&field) {
                let mut headers = HeaderMap::new();
                headers.insert(header::RANGE, value);
                if let RequestedRange::Part { first, last } = requested_range(&headers, ETAG, length) {
                    prop_assert!(first <= last && last < length);
                }
            }
        }

        #[test]
        fn no_tag_list_panics(field in "[ -~]{0,60}") {
            if let Ok(value) = HeaderValue::from_str(&field) {
                let mut headers = HeaderMap::new();
                headers.insert(header::IF_NONE_MATCH, value);
                let _ = precondition(&headers, ETAG);
            }
        }
    }
}
