//! What joins the log lines of one request: its id, and its place in a trace (W3C Trace Context, level 1).
//!
//! Both come from outside as header fields, so both are parsed to types that cannot be wrong: bounded, and of characters
//! that need no escaping in a log line, a header or JSON. Ids need to differ, not to be secret: they are made of a counter
//! and a key of the process, without a system call.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Header fields, in the lower case of HTTP/2.
pub const REQUEST_ID: &str = "x-request-id";
pub const TRACEPARENT: &str = "traceparent";
pub const TRACESTATE: &str = "tracestate";

/// Longest request id that is taken over: room for a UUID, a ULID and what load balancers write.
pub const REQUEST_ID_BYTES_MAX: usize = 128;
/// Longest `tracestate` that is handed on; §3.3.1.5 asks for at least this much.
pub const TRACESTATE_BYTES_MAX: usize = 512;

/// `00-` trace id `-` parent id `-` flags, in bytes.
const TRACEPARENT_BYTES: usize = 55;
const SAMPLED: u8 = 1;

/// Why a header field is not taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    #[error("a request id has 1 to {REQUEST_ID_BYTES_MAX} letters, digits and `-_.:=+/@`")]
    RequestId,
    #[error(
        "`traceparent` is `00-`, 32 hexadecimal digits, `-`, 16 of them, `-`, 2 of them, in lower case and not all zero"
    )]
    Traceparent,
    #[error("`tracestate` has at most {TRACESTATE_BYTES_MAX} printable characters")]
    Tracestate,
}

/// Names one request: given by a proxy that is trusted, or made here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Box<str>);

impl RequestId {
    /// A new one: 32 hexadecimal digits.
    #[must_use]
    pub fn make() -> Self {
        let [high, low] = draw();
        Self(format!("{high:016x}{low:016x}").into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RequestId {
    type Err = TraceError;

    fn from_str(text: &str) -> Result<Self, TraceError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:=+/@".contains(&byte);
        if (1..=REQUEST_ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_plain) {
            Ok(Self(text.into()))
        } else {
            Err(TraceError::RequestId)
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A trace; never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// One step of a trace; never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(u64);

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// `traceparent`: the trace, the step that asks, and whether it is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Traceparent {
    pub trace: TraceId,
    pub span: SpanId,
    flags: u8,
}

impl Traceparent {
    /// The first step of a new trace. It is not marked as recorded: nothing here exports spans.
    #[must_use]
    pub fn start() -> Self {
        let [high, low] = draw();
        let trace = TraceId((u128::from(high) << 64 | u128::from(low)).max(1));
        Self { trace, span: new_span(), flags: 0 }
    }

    /// The next step of the same trace (§3.2.2.4: the trace and its flags stay, the parent id is the own step).
    #[must_use]
    pub fn step(self) -> Self {
        Self { span: new_span(), ..self }
    }

    #[must_use]
    pub const fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }
}

impl FromStr for Traceparent {
    type Err = TraceError;

    /// §3.2: lower case, no version `ff`, neither id all zero. A later version may append members and is read as this one;
    /// of the flags only the one that version 00 knows is kept.
    fn from_str(text: &str) -> Result<Self, TraceError> {
        parse_traceparent(text.as_bytes()).ok_or(TraceError::Traceparent)
    }
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace, self.span, self.flags)
    }
}

fn parse_traceparent(text: &[u8]) -> Option<Traceparent> {
    let (known, rest) = text.split_at_checked(TRACEPARENT_BYTES)?;
    let version = hex(&known[..2])?;
    let is_bounded = match version {
        0 => rest.is_empty(),
        0xff => return None,
        _ => rest.is_empty() || rest[0] == b'-',
    };
    if !is_bounded || [2, 35, 52].iter().any(|&at| known[at] != b'-') {
        return None;
    }
    let trace = hex(&known[3..35]).filter(|id| *id != 0)?;
    let span = hex(&known[36..52]).filter(|id| *id != 0)?;
    let flags = hex(&known[53..])?;
    Some(Traceparent {
        trace: TraceId(trace),
        span: SpanId(u64::try_from(span).ok()?),
        flags: u8::try_from(flags).ok()? & SAMPLED,
    })
}

/// At most 32 digits in lower case.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |value: u128, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

/// `tracestate`: what other systems want to find again. It is handed on and not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracestate(Box<str>);

impl Tracestate {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tracestate {
    type Err = TraceError;

    fn from_str(text: &str) -> Result<Self, TraceError> {
        let text = text.trim_matches([' ', '\t']);
        let is_printable = |byte: u8| byte == b'\t' || (b' '..=b'~').contains(&byte);
        if (1..=TRACESTATE_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_printable) {
            Ok(Self(text.into()))
        } else {
            Err(TraceError::Tracestate)
        }
    }
}

/// What goes along with a request from one program to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    pub request: RequestId,
    /// The step that this program makes.
    pub parent: Traceparent,
    pub state: Option<Tracestate>,
}

impl TraceContext {
    /// A new request in a new trace.
    #[must_use]
    pub fn start() -> Self {
        Self { request: RequestId::make(), parent: Traceparent::start(), state: None }
    }

    /// Goes on with what header fields say. What is missing, several, or malformed is begun anew; a `tracestate` belongs to
    /// its `traceparent` and goes with it (§4.3).
    #[must_use]
    pub fn from_fields(request: Option<&str>, traceparent: Option<&str>, tracestate: Option<&str>) -> Self {
        let request = request.and_then(|text| text.parse().ok());
        let parent: Option<Traceparent> = traceparent.and_then(|text| text.parse().ok());
        Self {
            request: request.unwrap_or_else(RequestId::make),
            parent: parent.map_or_else(Traceparent::start, Traceparent::step),
            state: parent.and(tracestate).and_then(|text| text.parse().ok()),
        }
    }
}

fn new_span() -> SpanId {
    SpanId(draw()[0].max(1))
}

/// 128 bits that differ each time: a keyed hash (SipHash) of a counter, with a key of this process.
fn draw() -> [u64; 2] {
    static KEYS: LazyLock<[RandomState; 2]> = LazyLock::new(|| [RandomState::new(), RandomState::new()]);
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let count = NEXT.fetch_add(1, Ordering::Relaxed);
    // Two states of one thread have keys that follow each other; the second half of the input tells their hashes apart.
    [KEYS[0].hash_one((count, 0_u8)), KEYS[1].hash_one((count, 1_u8))]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn parsed(text: &str) -> Option<String> {
        text.parse::<Traceparent>().ok().map(|parent| parent.to_string())
    }

    #[test]
    fn a_traceparent_is_read_and_written_as_the_specification_shows_it() {
        let parent: Traceparent = GOOD.parse().unwrap();
        assert_eq!(parent.to_string(), GOOD);
        assert_eq!(parent.trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(parent.is_sampled());
        let next = parent.step();
        assert_eq!((next.trace, next.is_sampled()), (parent.trace, true));
        assert_ne!(next.span, parent.span);
    }

    #[test]
    fn a_malformed_traceparent_begins_a_new_trace() {
        for text in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "0g-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "é0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(parsed(text), None, "{text}");
            let context = TraceContext::from_fields(None, Some(text), Some("a=b"));
            assert_eq!(context.state, None, "a state without its parent");
        }
    }

    #[test]
    fn a_later_version_is_read_as_this_one_and_its_flags_are_not_invented() {
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff-what-the-future-brings";
        assert_eq!(parsed(later).as_deref(), Some(GOOD));
        assert_eq!(parsed(&GOOD.replace("-01", "-02")).unwrap(), GOOD.replace("-01", "-00"));
    }

    #[test]
    fn a_request_id_needs_no_escaping_anywhere() {
        let longest = "a".repeat(REQUEST_ID_BYTES_MAX);
        for good in ["7b1f", "123e4567-e89b-12d3-a456-426614174000", "Root=1-67891233-abcdef", "a+b/c==", &longest] {
            assert_eq!(good.parse::<RequestId>().unwrap().as_str(), good);
        }
        for bad in ["", " a", "a b", "a\"b", "a\\b", "a\r\nSet-Cookie: x", "ä", "<b>", &format!("{longest}a")] {
            assert_eq!(bad.parse::<RequestId>(), Err(TraceError::RequestId), "{bad}");
        }
    }

    #[test]
    fn what_fields_say_goes_on_and_the_rest_begins() {
        let context = TraceContext::from_fields(Some("from-the-proxy"), Some(GOOD), Some("congo=t61rcWkgMzE"));
        assert_eq!(context.request.as_str(), "from-the-proxy");
        assert_eq!(context.parent.trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.state.unwrap().as_str(), "congo=t61rcWkgMzE");
        let fresh = TraceContext::from_fields(Some("not one"), None, Some("a=b"));
        assert_eq!((fresh.request.as_str().len(), fresh.state), (32, None));
        let long = "a=b,".repeat(200);
        assert_eq!(TraceContext::from_fields(None, Some(GOOD), Some(&long)).state, None);
    }

    #[test]
    fn ids_differ() {
        let ids: HashSet<_> = (0..10_000).map(|_| RequestId::make()).collect();
        let traces: HashSet<_> = (0..10_000).map(|_| Traceparent::start().trace).collect();
        assert_eq!((ids.len(), traces.len()), (10_000, 10_000));
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_so_that_it_is_read_again(text in "[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}.{0,4}") {
            if let Ok(parent) = text.parse::<Traceparent>() {
                prop_assert_eq!(parent.to_string().parse::<Traceparent>(), Ok(parent));
            }
        }

        #[test]
        fn no_text_panics(text in ".{0,80}") {
            let context = TraceContext::from_fields(Some(&text), Some(&text), Some(&text));
            prop_assert!(context.request.as_str().len() <= REQUEST_ID_BYTES_MAX);
        }
    }
}
