//! Header fields as text.
//!
//! A field's value may hold bytes beyond ASCII (`obs-text`, RFC 9110 §5.5). They mean nothing to us, and they are no reason
//! not to read what stands beside them: such a byte becomes U+FFFD, which spoils the member it stands in and no other.
//! Commas, quotes and spaces keep their places, for no byte of ASCII is ever part of what is replaced.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};

/// A value as text. Copies only what is not UTF-8.
#[must_use]
pub(crate) fn text(value: &HeaderValue) -> Cow<'_, str> {
    String::from_utf8_lossy(value.as_bytes())
}

/// A list field: several lines are one list (RFC 9110 §5.3). Nearly always there is one, and nothing is copied.
#[must_use]
pub(crate) fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, str>> {
    let mut lines = headers.get_all(name).iter().map(text);
    let first = lines.next()?;
    Some(lines.fold(first, |list, line| Cow::Owned(format!("{list}, {line}"))))
}

#[cfg(test)]
mod tests {
    use http::header::ACCEPT;

    use super::*;

    #[test]
    fn a_byte_beyond_ascii_spoils_its_member_only() {
        let mut headers = HeaderMap::new();
        headers.append(ACCEPT, HeaderValue::from_bytes(b"image/\xffx,image/avif").unwrap());
        headers.append(ACCEPT, HeaderValue::from_bytes(b"\xc3,image/webp;q=0.5").unwrap());
        assert_eq!(list(&headers, &ACCEPT).unwrap(), "image/\u{fffd}x,image/avif, \u{fffd},image/webp;q=0.5");
        assert_eq!(list(&HeaderMap::new(), &ACCEPT), None);
        let plain = HeaderValue::from_static("image/avif");
        assert!(matches!(text(&plain), Cow::Borrowed("image/avif")));
    }
}
