//! The picture in a form that a browser posts (RFC 7578): the part named `picture`, as a slice of the body.
//!
//! Any bytes are an answer. Nothing is copied.

use bytes::Bytes;

/// Name of the form's field.
pub(crate) const FIELD: &str = "picture";
/// Longest boundary (RFC 2046 §5.1.1).
const BOUNDARY_BYTES_MAX: usize = 70;
/// Longest header of a part, and most parts that are looked at.
const HEADER_BYTES_MAX: usize = 4096;
const PARTS_MAX: usize = 16;

/// The boundary in a `Content-Type` of a form.
pub(crate) fn boundary(content_type: &str) -> Option<&str> {
    let parameters = content_type.split(';').skip(1);
    let value = parameters.filter_map(|parameter| parameter.split_once('=')).find_map(|(name, value)| {
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"'))
    })?;
    let is_boundary = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte);
    ((1..=BOUNDARY_BYTES_MAX).contains(&value.len()) && value.bytes().all(is_boundary)).then_some(value)
}

/// What the part of that name holds; `None` where there is none, or the form is damaged.
pub(crate) fn picture(body: &Bytes, boundary: &str) -> Option<Bytes> {
    part(body, boundary, FIELD)
}

/// The same of a part with another name.
pub(crate) fn part(body: &Bytes, boundary: &str, name: &str) -> Option<Bytes> {
    let delimiter = format!("--{boundary}");
    let mut at = find(body, delimiter.as_bytes(), 0)? + delimiter.len();
    let between = format!("\r\n--{boundary}");
    for _ in 0..PARTS_MAX {
        let rest = body.get(at..)?;
        if !rest.starts_with(b"\r\n") {
            // `--` ends the form.
            return None;
        }
        let head = rest.get(..HEADER_BYTES_MAX.min(rest.len()))?;
        let head_end = find(head, b"\r\n\r\n", 0)?;
        let start = at + head_end + 4;
        let end = find(body, between.as_bytes(), start)?;
        if is_named(&rest[2..head_end.max(2)], name) {
            return Some(body.slice(start..end));
        }
        at = end + between.len();
    }
    None
}

fn is_named(head: &[u8], wanted: &str) -> bool {
    let head = String::from_utf8_lossy(head);
    let mut fields = head.split("\r\n").filter_map(|line| line.split_once(':'));
    fields.any(|(name, value)| {
        name.eq_ignore_ascii_case("content-disposition")
            && value.split(';').any(|parameter| {
                let parameter = parameter.trim();
                parameter.strip_prefix("name=").is_some_and(|name| name.trim_matches('"') == wanted)
            })
    })
}

fn find(bytes: &[u8], wanted: &[u8], from: usize) -> Option<usize> {
    let first = *wanted.first()?;
    let mut at = from;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == first)?;
        if bytes[at..].starts_with(wanted) {
            return Some(at);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn form(parts: &[(&str, &[u8])]) -> Bytes {
        let mut body = Vec::new();
        for (name, value) in parts {
            body.extend_from_slice(b"--xYz\r\nContent-Disposition: form-data; name=\"");
            body.extend_from_slice(name.as_bytes());
            body.extend_from_slice(b"\"; filename=\"a.png\"\r\nContent-Type: image/png\r\n\r\n");
            body.extend_from_slice(value);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"--xYz--\r\n");
        body.into()
    }

    #[test]
    fn the_picture_is_found_among_other_fields() {
        let body = form(&[("lang", b"de"), ("picture", b"\x89PNG\r\n\x1a\n--xY")]);
        assert_eq!(picture(&body, "xYz").as_deref(), Some(&b"\x89PNG\r\n\x1a\n--xY"[..]));
        assert_eq!(part(&body, "xYz", "lang").as_deref(), Some(&b"de"[..]));
        assert_eq!(picture(&form(&[("lang", b"de")]), "xYz"), None);
        assert_eq!(picture(&form(&[("picture", b"")]), "xYz").as_deref(), Some(&b""[..]));
        assert_eq!(picture(&body, "other"), None);
        assert_eq!(picture(&body.slice(..body.len() - 12), "xYz"), None, "it breaks off");
    }

    #[test]
    fn boundaries_are_those_of_the_standard() {
        assert_eq!(boundary("multipart/form-data; boundary=----WebKit7"), Some("----WebKit7"));
        assert_eq!(boundary("multipart/form-data; charset=utf-8; Boundary=\"a b\""), Some("a b"));
        for wrong in ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=ä"] {
            assert_eq!(boundary(wrong), None, "{wrong}");
        }
        assert_eq!(boundary(&format!("multipart/form-data; boundary={}", "x".repeat(71))), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_bytes_are_an_answer(body in proptest::collection::vec(any::<u8>(), 0..400), text in "(--xYz|\r\n|:|;| |name=|picture|\"){0,40}") {
            let _ = picture(&body.into(), "xYz");
            let _ = picture(&Bytes::from(text), "xYz");
        }

        #[test]
        fn whatever_a_picture_holds_comes_back(value in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assume!(find(&value, b"--xYz", 0).is_none());
            let body = form(&[("picture", &value)]);
            prop_assert_eq!(picture(&body, "xYz"), Some(Bytes::from(value)));
        }
    }
}
