//! One line: what it says of an answer, and how that is written down.
//!
//! Everything a client sent is cut to a bound and escaped for the format, so that no request can forge a line.

use std::io::Write as _;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use bildkante_shared::trace::TraceContext;
use http::{HeaderMap, HeaderName, Method, Version};
use serde::Serialize;

use super::{LineFormat, ShownClient};
use crate::request::parameter_name;
use crate::request::parameters::{self, Parameter};
use crate::words::Outcome;

const TARGET_CHARS_MAX: usize = 2048;
const FIELD_CHARS_MAX: usize = 512;
/// Stands for the value of a signature.
pub(crate) const REDACTED: &str = "redacted";

/// One answer.
#[derive(Debug)]
pub struct Line<'a> {
    pub time: SystemTime,
    pub client: IpAddr,
    pub method: &'a Method,
    /// Path and query as sent.
    pub target: &'a str,
    pub version: Version,
    pub fields: &'a HeaderMap,
    pub status: u16,
    /// Of the body.
    pub bytes: u64,
    /// Until the answer was ready to be written.
    pub duration: Duration,
    /// As in `Cache-Status`; none for what is no image.
    pub outcome: Option<Outcome>,
    pub campaign: Option<&'a str>,
    pub slot: Option<&'a str>,
    pub trace: &'a TraceContext,
    /// The share of such answers that is logged.
    pub share: f64,
}

#[derive(Serialize)]
struct Json<'a> {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<IpAddr>,
    method: &'a str,
    target: String,
    protocol: &'static str,
    status: u16,
    bytes: u64,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    campaign: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slot: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    referer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<String>,
    request_id: &'a str,
    trace_id: String,
    share: f64,
}

impl Line<'_> {
    /// The line with its end.
    #[must_use]
    pub fn to_text(&self, format: LineFormat, client: ShownClient) -> Vec<u8> {
        let mut text = Vec::with_capacity(512);
        match format {
            LineFormat::Json => self.write_json(&mut text, client),
            LineFormat::Combined => self.write_combined(&mut text, client),
        }
        text.push(b'\n');
        text
    }

    fn write_json(&self, text: &mut Vec<u8>, client: ShownClient) {
        let line = Json {
            time: iso(self.time),
            client: client.of(self.client),
            method: method(self.method),
            target: cut(&without_signature(self.target), TARGET_CHARS_MAX),
            protocol: protocol(self.version),
            status: self.status,
            bytes: self.bytes,
            duration_ms: milliseconds(self.duration),
            cache: self.outcome.map(Outcome::as_str),
            campaign: self.campaign,
            slot: self.slot,
            referer: self.referer(),
            user_agent: self.user_agent(),
            request_id: self.trace.request.as_str(),
            trace_id: self.trace.parent.trace.to_string(),
            share: self.share,
        };
        // Text and finite numbers always have a JSON form, and a Vec takes everything.
        let _ = serde_json::to_writer(text, &line);
    }

    fn write_combined(&self, text: &mut Vec<u8>, client: ShownClient) {
        let client = client.of(self.client).map_or_else(|| "-".to_owned(), |address| address.to_string());
        let target = cut(&without_signature(self.target), TARGET_CHARS_MAX);
        // Writing to a Vec cannot fail.
        let _ = write!(
            text,
            "{client} - - [{}] \"{} {} {}\" {} {} \"{}\" \"{}\"",
            clf(self.time),
            method(self.method),
            escaped(&target),
            protocol(self.version),
            self.status,
            self.bytes,
            escaped(self.referer().as_deref().unwrap_or("-")),
            escaped(self.user_agent().as_deref().unwrap_or("-")),
        );
    }

    /// Where the picture is shown, without the query: that may hold what a person typed, or a token.
    fn referer(&self) -> Option<String> {
        let text = self.field(&http::header::REFERER)?;
        let end = text.find(['?', '#']).unwrap_or(text.len());
        let (scheme, rest) = text[..end].split_once("://").unwrap_or(("", &text[..end]));
        let authority_end = rest.find('/').unwrap_or(rest.len());
        // Names and passwords before a host.
        let host_at = rest[..authority_end].rfind('@').map_or(0, |at| at + 1);
        let scheme = if scheme.is_empty() { String::new() } else { format!("{scheme}://") };
        Some(cut(&format!("{scheme}{}", &rest[host_at..]), FIELD_CHARS_MAX))
    }

    fn user_agent(&self) -> Option<String> {
        Some(cut(&self.field(&http::header::USER_AGENT)?, FIELD_CHARS_MAX))
    }

    fn field(&self, name: &HeaderName) -> Option<String> {
        self.fields.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    }
}

/// A method of a client's own making is as long as it likes.
fn method(method: &Method) -> &str {
    let text = method.as_str();
    // Tokens are ASCII.
    text.get(..32).unwrap_or(text)
}

const fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}

/// The target with the value of every `s` replaced, however its name is spelt. A later `?` begins a parameter as well:
/// senders append a second query without looking.
pub(crate) fn without_signature(target: &str) -> String {
    let Some((path, query)) = target.split_once('?') else { return target.to_owned() };
    let mut text = String::with_capacity(target.len());
    text.push_str(path);
    for (at, parameter) in query.split('&').enumerate() {
        text.push(if at == 0 { '?' } else { '&' });
        for (at, part) in parameter.split('?').enumerate() {
            if at > 0 {
                text.push('?');
            }
            match part.split_once('=') {
                // A signature goes on to the next `&`.
                Some((name, _)) if is_signature(name) => {
                    text.extend([name, "=", REDACTED]);
                    break;
                }
                _ => text.push_str(part),
            }
        }
    }
    text
}

/// As the reader of requests takes names; spaces around one are an error there and may still be a signature's.
fn is_signature(name: &str) -> bool {
    parameter_name(name).is_some_and(|name| parameters::lookup(name.trim()) == Some(Parameter::Signature))
}

fn cut(text: &str, chars_max: usize) -> String {
    text.chars().take(chars_max).collect()
}

/// As Apache writes what it does not trust: quotes, backslashes and everything that is not printable ASCII as `\xHH`.
fn escaped(text: &str) -> String {
    use std::fmt::Write as _;
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' | 0..=0x1f | 0x7f.. => {
                // Writing to a String cannot fail.
                let _ = write!(escaped, "\\x{byte:02x}");
            }
            _ => escaped.push(char::from(byte)),
        }
    }
    escaped
}

/// Milliseconds, exact to the microsecond.
fn milliseconds(duration: Duration) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let micros = duration.as_micros() as f64;
    micros / 1e3
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` in its parts: day, month, year, time.
fn parts(date: &str) -> (&str, &str, &str, &str) {
    let part = |range: std::ops::Range<usize>| date.get(range).unwrap_or_default();
    (part(5..7), part(8..11), part(12..16), part(17..25))
}

/// `06/Nov/1994:08:49:37 +0000`.
fn clf(time: SystemTime) -> String {
    let date = httpdate::fmt_http_date(time);
    let (day, month, year, clock) = parts(&date);
    format!("{day}/{month}/{year}:{clock} +0000")
}

/// `1994-11-06T08:49:37.123Z` (RFC 3339).
fn iso(time: SystemTime) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let date = httpdate::fmt_http_date(time);
    let (day, name, year, clock) = parts(&date);
    let month = MONTHS.iter().position(|month| *month == name).map_or(0, |at| at + 1);
    let millis = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_millis();
    format!("{year}-{month:02}-{day}T{clock}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;
    use crate::request::{IgnoredParameters, ImageRequest};

    fn trace() -> TraceContext {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        TraceContext::from_fields(Some("of-the-proxy"), Some(parent), None)
    }

    fn text(format: LineFormat, client: ShownClient, target: &str, fields: &HeaderMap) -> String {
        let line = Line {
            time: UNIX_EPOCH + Duration::from_millis(784_111_777_123),
            client: "192.0.2.77".parse().unwrap(),
            method: &Method::GET,
            target,
            version: Version::HTTP_11,
            fields,
            status: 200,
            bytes: 1234,
            duration: Duration::from_micros(1_500),
            outcome: Some(Outcome::Memory),
            campaign: Some("studio"),
            slot: Some("hero"),
            trace: &trace(),
            share: 0.01,
        };
        String::from_utf8(line.to_text(format, client)).unwrap()
    }

    fn fields(referer: &str, agent: &str) -> HeaderMap {
        let mut fields = HeaderMap::new();
        fields.insert(http::header::REFERER, HeaderValue::from_bytes(referer.as_bytes()).unwrap());
        fields.insert(http::header::USER_AGENT, HeaderValue::from_bytes(agent.as_bytes()).unwrap());
        fields
    }

    #[test]
    fn a_line_has_its_fields() {
        let fields = fields("https://me:pw@shop.example/mugs?email=a@b.example#x", "Mozilla/5.0 \"x\"");
        let json = text(LineFormat::Json, ShownClient::Network, "/i/studio/hero?w=640", &fields);
        let line: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert!(json.ends_with("}\n") && json.matches('\n').count() == 1, "{json}");
        assert_eq!(
            line,
            serde_json::json!({
                "time": "1994-11-06T08:49:37.123Z", "client": "192.0.2.0", "method": "GET", "target": "/i/studio/hero?w=640",
                "protocol": "HTTP/1.1", "status": 200, "bytes": 1234, "duration_ms": 1.5, "cache": "memory",
                "campaign": "studio", "slot": "hero", "referer": "https://shop.example/mugs",
                "user_agent": "Mozilla/5.0 \"x\"", "request_id": "of-the-proxy",
                "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "share": 0.01
            })
        );
        assert_eq!(
            text(LineFormat::Combined, ShownClient::None, "/i/studio/hero?w=640", &fields),
            "- - - [06/Nov/1994:08:49:37 +0000] \"GET /i/studio/hero?w=640 HTTP/1.1\" 200 1234 \
             \"https://shop.example/mugs\" \"Mozilla/5.0 \\x22x\\x22\"\n"
        );
    }

    #[test]
    fn a_signature_never_gets_into_a_line() {
        let secret = "SECRETSECRET";
        let names = [
            "s",
            "S",
            "%73",
            "%53",
            "amp;s",
            "%61mp;s",
            "AMP;S",
            "amp;amp;s",
            "amp;AMP;%53",
            "?s",
            "???s",
            "?amp;s",
            "%20s",
            "x=1?s",
            "+s",
        ];
        for name in names {
            let target = format!("/i/studio/hero?w=640&{name}={secret}&kid=k1");
            for format in [LineFormat::Json, LineFormat::Combined] {
                let line = text(format, ShownClient::Network, &target, &HeaderMap::new());
                assert_eq!(line.contains(secret), name == "+s", "{line}");
                assert!(line.contains("kid=k1") && line.contains("w=640"), "{line}");
            }
        }
        assert_eq!(without_signature("/a?s=x=y&ss=1&s&b="), "/a?s=redacted&ss=1&s&b=");
        assert_eq!(without_signature("/a??s=x?y=z&kid=k"), "/a??s=redacted&kid=k");
        assert_eq!(without_signature("/a?w=1?utm=x&&?b"), "/a?w=1?utm=x&&?b");
        assert_eq!(without_signature("/a?"), "/a?");
    }

    /// Names that are that of the signature, or nearly, as hostile and careless senders write them.
    fn spelling() -> impl Strategy<Value = String> {
        let before = prop::sample::select(vec!["?", "amp;", "AMP;", "%61mp;", "a%4dp;", "%3F", " ", "x=", "?w=1"]);
        let name = prop::sample::select(vec!["s", "S", "%73", "%53"]);
        (prop::collection::vec(before, 0..5), name).prop_map(|(before, name)| before.concat() + name)
    }

    proptest! {
        #[test]
        fn what_the_reader_takes_for_a_signature_is_in_no_line(
            before in "(w=640&|&|[?]|utm_source=x&)?", name in spelling(), value in "[A-Za-z0-9_-]{20}",
        ) {
            let query = format!("{before}{name}={value}&kid=k1");
            let read = ImageRequest::parse("/i/studio/hero", Some(&query), &IgnoredParameters::default());
            if let Some(signature) = read.ok().and_then(|request| request.signature) {
                let logged = without_signature(&format!("/i/studio/hero?{query}"));
                prop_assert!(!logged.contains(&*signature.signature), "{query} {logged}");
            }
        }

        #[test]
        fn no_request_forges_a_line(target in "/[ -~]{0,3000}", agent in proptest::collection::vec(0x20_u8..=0xff, 0..2000)) {
            let mut fields = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(&agent) {
                fields.insert(http::header::USER_AGENT, value.clone());
                fields.insert(http::header::REFERER, value);
            }
            let json = text(LineFormat::Json, ShownClient::Network, &target, &fields);
            prop_assert!(serde_json::from_str::<serde_json::Value>(json.trim_end()).is_ok());
            let combined = text(LineFormat::Combined, ShownClient::Network, &target, &fields);
            prop_assert_eq!(combined.matches('"').count(), 6);
            for line in [json, combined] {
                prop_assert_eq!(line.matches('\n').count(), 1);
                prop_assert!(line.len() <= super::super::writer::LINE_BYTES_MAX);
            }
        }
    }
}
