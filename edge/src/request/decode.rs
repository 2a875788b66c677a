//! Strict percent-decoding.

use std::borrow::Cow;

/// A component decoded once; `None` for a malformed escape, invalid UTF-8 or a control character.
pub(super) fn component(text: &str) -> Option<Cow<'_, str>> {
    let decoded = if text.as_bytes().contains(&b'%') { Cow::Owned(unescape(text)?) } else { Cow::Borrowed(text) };
    if decoded.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return Some(decoded);
    }
    (!decoded.chars().any(char::is_control)).then_some(decoded)
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            bytes.push(hex_digit(rest.next()?)? << 4 | hex_digit(rest.next()?)?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

const fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// ASCII lower case, without a copy where it already is.
pub(super) fn lower_case(mut text: Cow<'_, str>) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        text.to_mut().make_ascii_lowercase();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_strictly() {
        assert_eq!(component("a%20%C3%A4+%2f"), Some("a ä+/".into()));
        assert!(matches!(component("plain"), Some(Cow::Borrowed("plain"))));
        for wrong in ["%", "%4", "%zz", "%+4", "a%c3", "%ff", "%00", "%0a", "a\u{7f}", "\u{85}"] {
            assert_eq!(component(wrong), None, "{wrong:?}");
        }
        assert_eq!(component("%2541"), Some("%41".into()), "decoded once only");
    }
}
