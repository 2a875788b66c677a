//! Text answers: scripts, pages, metrics; compressed with Brotli for those who take it.

use std::io::Write;

use bildkante_shared::ids::Digest;
use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use super::conditional::{Precondition, precondition};
use super::{
    CACHE_TAG, CDN_CACHE_CONTROL, Lifetime, Negotiation, SURROGATE_KEY, X_ROBOTS_TAG, apply_cross_origin, cow_value,
    respond, value,
};
use crate::fields;
use crate::service::Body;

/// Below this a compressed answer saves no packet.
const COMPRESSED_FROM_BYTES: usize = 860;
/// Brotli's 0–11: 5 takes about a millisecond for a page.
const BROTLI_QUALITY: u32 = 5;
const BROTLI_WINDOW_BITS: u32 = 20;

/// What a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextKind {
    Html,
    Css,
    Script,
    Svg,
    Json,
    /// Structured data (JSON-LD 1.1).
    JsonLd,
    Xml,
    Plain,
    /// Prometheus' text exposition format.
    Metrics,
}

impl TextKind {
    const fn media_type(self) -> &'static str {
        match self {
            Self::Html => "text/html; charset=utf-8",
            Self::Css => "text/css; charset=utf-8",
            Self::Script => "text/javascript; charset=utf-8",
            Self::Svg => "image/svg+xml",
            Self::Json => "application/json",
            Self::JsonLd => "application/ld+json",
            Self::Xml => "application/xml; charset=utf-8",
            Self::Plain => "text/plain; charset=utf-8",
            Self::Metrics => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// 200 with a text.
#[must_use]
pub(crate) fn text(
    request: &HeaderMap,
    kind: TextKind,
    body: impl Into<Bytes>,
    cache_control: &'static str,
) -> Response<Body> {
    let mut body = body.into();
    let mut headers = HeaderMap::with_capacity(8);
    if body.len() >= COMPRESSED_FROM_BYTES {
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        if takes_brotli(request)
            && let Some(compressed) = brotli(&body)
        {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("br"));
            body = compressed;
        }
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind.media_type()));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache_control));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    respond(StatusCode::OK, headers, body)
}

/// A text that never changes: compressed once, with a validator, usable by pages of every origin.
#[derive(Debug)]
pub(crate) struct StaticText {
    kind: TextKind,
    plain: Bytes,
    compressed: Option<Bytes>,
    cache_control: &'static str,
    /// Weak: both encodings share it.
    etag: String,
}

impl StaticText {
    #[must_use]
    pub(crate) fn new(kind: TextKind, text: &'static str, cache_control: &'static str) -> Self {
        let digest = blake3::hash(text.as_bytes()).to_hex();
        let plain = Bytes::from_static(text.as_bytes());
        Self { kind, compressed: brotli(&plain), plain, cache_control, etag: format!("\"{}\"", &digest[..26]) }
    }

    /// 200, or 304 where the client has it.
    #[must_use]
    pub(crate) fn respond(&self, request: &HeaderMap) -> Response<Body> {
        let mut headers = HeaderMap::with_capacity(12);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(self.cache_control));
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        headers.insert(ETAG, value(&format!("W/{}", self.etag)));
        apply_cross_origin(&mut headers);
        if precondition(request, &self.etag) == Precondition::NotModified {
            return respond(StatusCode::NOT_MODIFIED, headers, Bytes::new());
        }
        let compressed = self.compressed.as_ref().filter(|_| takes_brotli(request));
        if compressed.is_some() {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("br"));
        }
        let body = compressed.unwrap_or(&self.plain).clone();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.kind.media_type()));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        respond(StatusCode::OK, headers, body)
    }
}

/// A text that is made for a request, with a validator and a lifetime, usable by pages of every origin.
#[derive(Debug)]
pub(crate) struct MadeText<'a> {
    pub kind: TextKind,
    pub body: String,
    pub lifetime: Lifetime,
    /// Which request headers took part in choosing it, beside `Accept-Encoding`.
    pub negotiation: Negotiation,
    /// What purges know it by.
    pub tags: &'a [&'a str],
}

/// A text opened as a document may show pictures and run nothing.
const TEXT_CSP: HeaderValue = HeaderValue::from_static("default-src 'none'; img-src *; sandbox");

impl MadeText<'_> {
    /// 200, or 304 where the client has it. Search engines are to find pages and pictures, and not what these are made with.
    #[must_use]
    pub(crate) fn respond(self, method: &Method, request: &HeaderMap) -> Response<Body> {
        let digest = blake3::hash(self.body.as_bytes()).to_hex();
        // Weak: all encodings share it.
        let etag = format!("\"{}\"", &digest[..26]);
        let mut headers = HeaderMap::with_capacity(16);
        headers.insert(CACHE_CONTROL, cow_value(self.lifetime.cache_control()));
        headers.insert(CDN_CACHE_CONTROL, cow_value(self.lifetime.cdn_cache_control()));
        let vary = match self.negotiation.vary() {
            Some(others) => format!("{others}, Accept-Encoding"),
            None => "Accept-Encoding".to_owned(),
        };
        headers.insert(VARY, value(&vary));
        headers.insert(ETAG, value(&format!("W/{etag}")));
        headers.insert(X_ROBOTS_TAG, HeaderValue::from_static("noindex"));
        if !self.tags.is_empty() {
            headers.insert(CACHE_TAG, value(&self.tags.join(",")));
            headers.insert(SURROGATE_KEY, value(&self.tags.join(" ")));
        }
        apply_cross_origin(&mut headers);
        if precondition(request, &etag) == Precondition::NotModified {
            return respond(StatusCode::NOT_MODIFIED, headers, Bytes::new());
        }
        let mut body = Bytes::from(self.body);
        if body.len() >= COMPRESSED_FROM_BYTES
            && takes_brotli(request)
            && let Some(compressed) = brotli(&body)
        {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("br"));
            body = compressed;
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.kind.media_type()));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CONTENT_SECURITY_POLICY, TEXT_CSP);
        respond(StatusCode::OK, headers, if *method == Method::HEAD { Bytes::new() } else { body })
    }
}

/// A file that is gzipped in itself: 200, or 304 where the client has it.
#[must_use]
pub(crate) fn gzip(
    method: &Method,
    request: &HeaderMap,
    (file, digest): (Vec<u8>, &Digest),
    lifetime: Lifetime,
) -> Response<Body> {
    let etag = format!("\"{}\"", &digest.to_hex()[..26]);
    let mut headers = HeaderMap::with_capacity(12);
    headers.insert(CACHE_CONTROL, cow_value(lifetime.cache_control()));
    headers.insert(CDN_CACHE_CONTROL, cow_value(lifetime.cdn_cache_control()));
    headers.insert(ETAG, value(&etag));
    headers.insert(X_ROBOTS_TAG, HeaderValue::from_static("noindex"));
    apply_cross_origin(&mut headers);
    if precondition(request, &etag) == Precondition::NotModified {
        return respond(StatusCode::NOT_MODIFIED, headers, Bytes::new());
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/gzip"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(file.len()));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    respond(StatusCode::OK, headers, if *method == Method::HEAD { Bytes::new() } else { file.into() })
}

/// `br` named with a weight above zero (RFC 9110 §12.5.3).
fn takes_brotli(request: &HeaderMap) -> bool {
    fields::list(request, &ACCEPT_ENCODING).is_some_and(|list| {
        list.split(',').any(|member| {
            let (coding, parameters) = member.split_once(';').unwrap_or((member, ""));
            let weight = parameters.trim().strip_prefix("q=").map_or(Ok(1.0), str::parse::<f32>);
            coding.trim().eq_ignore_ascii_case("br") && weight.is_ok_and(|weight| weight > 0.0)
        })
    })
}

fn brotli(body: &[u8]) -> Option<Bytes> {
    let mut compressed = Vec::with_capacity(body.len() / 3);
    let mut writer = ::brotli::CompressorWriter::new(&mut compressed, 4096, BROTLI_QUALITY, BROTLI_WINDOW_BITS);
    writer.write_all(body).ok()?;
    drop(writer);
    Some(compressed.into())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn with(accept_encoding: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(accept_encoding));
        headers
    }

    #[test]
    fn brotli_is_for_those_who_name_it() {
        for (field, takes) in [
            ("gzip, deflate, br, zstd", true),
            ("BR;q=0.1", true),
            ("br;q=0", false),
            ("gzip", false),
            ("*", false),
            ("br;q=x", false),
        ] {
            assert_eq!(takes_brotli(&with(field)), takes, "{field}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_bytes(b"\xff, br").expect("obs-text"));
        assert!(takes_brotli(&headers), "beside a member that is none");
    }

    #[test]
    fn what_is_compressed_comes_back() {
        let body = "a teal mug on a cream backdrop ".repeat(100);
        let compressed = brotli(body.as_bytes()).expect("in memory");
        assert!(compressed.len() < body.len() / 4);
        let mut text = String::new();
        ::brotli::Decompressor::new(&compressed[..], 4096).read_to_string(&mut text).expect("own output");
        assert_eq!(text, body);
    }

    #[test]
    fn both_forms_vary_and_small_ones_do_not() {
        let long = "x".repeat(2000);
        for request in [with("br"), with("gzip")] {
            let response = text(&request, TextKind::Plain, long.clone(), "no-store");
            assert_eq!(response.headers().get(VARY), Some(&HeaderValue::from_static("Accept-Encoding")));
        }
        assert!(!text(&with("br"), TextKind::Plain, "ok", "no-store").headers().contains_key(VARY));
    }
}
