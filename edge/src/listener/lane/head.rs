//! Heads of requests the lane answers itself: GET and HEAD over HTTP/1.1 without a body and without anything special.
//!
//! What is not wholly plain is [`Parsed::Other`] and becomes hyper's: malformed lines, HTTP/1.0, bodies, upgrades,
//! `Expect`, hop-by-hop options, a missing or second `Host`. So there is one opinion on what is an error (hyper's), and
//! no request whose framing is in doubt is ever read here (RFC 9112 §6.3, §11.2).

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use crate::listener::http::is_host;
use crate::service::{Persistence, PlainHead, PlainMethod, RequestBody, Special};

/// Fields the lane has room for; where more are allowed, hyper decides about them.
pub(super) const FIELDS_MAX: usize = 64;

/// What the first bytes of a connection, or of its next request, are.
#[derive(Debug)]
pub(super) enum Parsed<'b> {
    /// More bytes are needed.
    Partial,
    /// A request and how many bytes it takes.
    Plain(PlainHead<'b>, usize),
    /// More fields than were allowed.
    TooManyFields,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Accept,
    IfNoneMatch,
    Special,
    Host,
    Connection,
    Body,
    Other,
}

/// Reads one head of at most `fields_max` fields from the front of `bytes`.
pub(super) fn parse(bytes: &[u8], fields_max: usize) -> Parsed<'_> {
    let mut headers = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let headers = &mut headers[..fields_max.min(FIELDS_MAX)];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(bytes, headers) {
        Ok(httparse::Status::Complete(length)) => length,
        // An HTTP/2 preface and everything malformed are told at once; the rest may yet become a request.
        Ok(httparse::Status::Partial) => return Parsed::Partial,
        Err(httparse::Error::TooManyHeaders) => return Parsed::TooManyFields,
        Err(_) => return Parsed::Other,
    };
    plain(&request, &bytes[..length]).map_or(Parsed::Other, |head| Parsed::Plain(head, length))
}

/// The same head as a request for the long way round; its values share `head`. `None` where `http` is stricter than
/// the parser about a target.
pub(super) fn to_request(head: &Bytes) -> Option<Request<RequestBody>> {
    let mut headers = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    parsed.parse_with_uninit_headers(head, &mut headers).ok()?;
    let mut request = Request::new(RequestBody::Empty);
    *request.method_mut() = Method::from_bytes(parsed.method?.as_bytes()).ok()?;
    *request.uri_mut() = Uri::from_maybe_shared(head.slice_ref(parsed.path?.as_bytes())).ok()?;
    *request.version_mut() = Version::HTTP_11;
    let mut fields = HeaderMap::with_capacity(parsed.headers.len());
    for header in parsed.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        fields.append(name, HeaderValue::from_maybe_shared(head.slice_ref(header.value)).ok()?);
    }
    *request.headers_mut() = fields;
    Some(request)
}

fn plain<'b>(request: &httparse::Request<'_, 'b>, bytes: &'b [u8]) -> Option<PlainHead<'b>> {
    let method = match request.method? {
        "GET" => PlainMethod::Get,
        "HEAD" => PlainMethod::Head,
        _ => return None,
    };
    // A fragment has no place in a request (RFC 9112 §3.2); hyper drops it.
    let target = request.path.filter(|target| target.starts_with('/') && !target.contains('#'))?;
    if request.version != Some(1) {
        return None;
    }
    let mut head = PlainHead {
        bytes,
        method,
        target,
        accept: None,
        if_none_match: None,
        special: Special::None,
        persistence: Persistence::KeepAlive,
    };
    let mut hosts = 0;
    for header in request.headers.iter() {
        match known(header.name) {
            Known::Other => {}
            Known::Accept => head.single(header.value, |head| &mut head.accept),
            Known::IfNoneMatch => head.single(header.value, |head| &mut head.if_none_match),
            Known::Special => head.special = Special::Some,
            Known::Host if is_host(header.value) => hosts += 1,
            Known::Host => return None,
            // Several lines are one list, and `close` in it is never undone (RFC 9112 §9.3).
            Known::Connection if head.persistence == Persistence::KeepAlive => {
                head.persistence = persistence(header.value)?;
            }
            Known::Connection => _ = persistence(header.value)?,
            Known::Body => return None,
        }
    }
    (hosts == 1).then_some(head)
}

impl<'b> PlainHead<'b> {
    /// The request with every field, for a line of a log.
    #[must_use]
    pub fn to_request(&self) -> Option<Request<()>> {
        to_request(&Bytes::copy_from_slice(self.bytes)).map(|request| request.map(drop))
    }

    fn single(&mut self, value: &'b [u8], place: impl FnOnce(&mut Self) -> &mut Option<&'b [u8]>) {
        if place(self).replace(value).is_some() {
            self.special = Special::Some;
        }
    }
}

/// `Connection` where it is one of the two words every client sends.
fn persistence(value: &[u8]) -> Option<Persistence> {
    let value = value.trim_ascii();
    if value.eq_ignore_ascii_case(b"keep-alive") {
        Some(Persistence::KeepAlive)
    } else if value.eq_ignore_ascii_case(b"close") {
        Some(Persistence::Close)
    } else {
        None
    }
}

fn known(name: &str) -> Known {
    // By length first: most fields of a browser are decided by one comparison.
    let is = |known: &str| name.eq_ignore_ascii_case(known);
    match name.len() {
        4 if is("host") => Known::Host,
        5 if is("range") => Known::Special,
        6 if is("accept") => Known::Accept,
        6 if is("expect") => Known::Body,
        7 if is("upgrade") => Known::Body,
        7 if is("trailer") => Known::Body,
        8 if is("if-match") || is("if-range") => Known::Special,
        10 if is("connection") => Known::Connection,
        13 if is("if-none-match") => Known::IfNoneMatch,
        14 if is("content-length") => Known::Body,
        16 if is("proxy-connection") => Known::Body,
        17 if is("transfer-encoding") => Known::Body,
        _ => Known::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_plain(text: &str) -> bool {
        matches!(parse(text.as_bytes(), FIELDS_MAX), Parsed::Plain(..))
    }

    #[test]
    fn what_browsers_send_is_plain() {
        let text = "GET /i/a/b?w=1 HTTP/1.1\r\nHost: x\r\nAccept: image/avif\r\nIf-None-Match: \"a\"\r\n\r\nGET";
        let Parsed::Plain(head, length) = parse(text.as_bytes(), FIELDS_MAX) else { panic!("{text}") };
        assert_eq!((head.target, head.accept, length), ("/i/a/b?w=1", Some(&b"image/avif"[..]), text.len() - 3));
        assert_eq!((head.if_none_match, head.special), (Some(&b"\"a\""[..]), Special::None));
        assert_eq!((head.method, head.persistence), (PlainMethod::Get, Persistence::KeepAlive));
        let request = to_request(&Bytes::copy_from_slice(&text.as_bytes()[..length])).unwrap();
        assert_eq!(request.uri(), "/i/a/b?w=1");
        assert_eq!(request.headers()["accept"], "image/avif");
    }

    #[test]
    fn doubtful_framing_and_everything_unusual_is_left_to_hyper() {
        for (line, fields) in [
            ("GET / HTTP/1.0", "Host: x\r\n"),
            ("POST / HTTP/1.1", "Host: x\r\n"),
            ("GET http://x/ HTTP/1.1", "Host: x\r\n"),
            ("OPTIONS * HTTP/1.1", "Host: x\r\n"),
            ("GET /a#b HTTP/1.1", "Host: x\r\n"),
            ("GET / HTTP/1.1", ""),
            ("GET / HTTP/1.1", "Host: x\r\nHost: x\r\n"),
            ("GET / HTTP/1.1", "Host: x y\r\n"),
            ("GET / HTTP/1.1", "Host: x/y\r\n"),
            ("GET / HTTP/1.1", "Host: a@b\r\n"),
            ("GET / HTTP/1.1", "Host: x\r\nContent-Length: 0\r\n"),
            ("GET / HTTP/1.1", "Host: x\r\nTransfer-Encoding: chunked\r\n"),
            ("GET / HTTP/1.1", "Host: x\r\nExpect: 100-continue\r\n"),
            ("GET / HTTP/1.1", "Host: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n"),
            ("GET / HTTP/1.1", "Host: x\r\nConnection: keep-alive, accept\r\n"),
            ("GET / HTTP/1.1", "Host : x\r\n"),
            ("GET / HTTP/1.1", "Host: x\r\n folded\r\n"),
            ("GET / HTTP/1.1", "Host: x\r\nA: b\0c\r\n"),
            ("get / HTTP/1.1", "Host: x\r\n"),
        ] {
            assert!(!is_plain(&format!("{line}\r\n{fields}\r\n")), "{line} {fields:?}");
        }
        assert!(matches!(parse(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", FIELDS_MAX), Parsed::Other));
    }

    #[test]
    fn every_start_of_a_request_is_partial() {
        let text = b"GET /i/a/b HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n";
        for end in 0..text.len() {
            assert!(matches!(parse(&text[..end], FIELDS_MAX), Parsed::Partial), "{end}");
        }
    }

    #[test]
    fn ranges_and_lists_in_several_lines_take_the_long_way() {
        for fields in ["Range: bytes=0-1\r\n", "If-Range: x\r\n", "If-Match: *\r\n", "Accept: a\r\nAccept: b\r\n"] {
            let text = format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
            let Parsed::Plain(head, _) = parse(text.as_bytes(), FIELDS_MAX) else { panic!("{text}") };
            assert_eq!(head.special, Special::Some, "{fields}");
        }
    }

    #[test]
    fn close_on_any_line_closes() {
        for (fields, expected) in [
            ("Connection: close\r\nConnection: keep-alive\r\n", Persistence::Close),
            ("Connection: keep-alive\r\nConnection: Close\r\n", Persistence::Close),
            ("Connection: keep-alive\r\nConnection: keep-alive\r\n", Persistence::KeepAlive),
        ] {
            let text = format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
            let Parsed::Plain(head, _) = parse(text.as_bytes(), FIELDS_MAX) else { panic!("{text}") };
            assert_eq!(head.persistence, expected, "{fields}");
        }
        assert!(!is_plain("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nConnection: upgrade\r\n\r\n"));
    }

    #[test]
    fn fields_are_counted_up_to_their_bound() {
        let text = |fields: usize| format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(fields - 1));
        for bound in [1, 7, FIELDS_MAX] {
            assert!(matches!(parse(text(bound).as_bytes(), bound), Parsed::Plain(..)), "{bound}");
            assert!(matches!(parse(text(bound + 1).as_bytes(), bound), Parsed::TooManyFields), "{bound}");
        }
        assert!(matches!(parse(text(FIELDS_MAX + 1).as_bytes(), 1000), Parsed::TooManyFields));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            if let Parsed::Plain(_, length) = parse(&bytes, FIELDS_MAX) {
                let _ = to_request(&Bytes::copy_from_slice(&bytes[..length]));
            }
        }
    }
}
