//! Limits at their bounds and one beyond, for each protocol, over an in-memory stream.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{COOKIE, HOST};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{SendRequest, handshake};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::listener::lane::tests::{Echo, LONG, Line, PEER, connect, get, limits};

/// What hyper answers, and goes on answering on its connection.
const POST: &str = "POST /post HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
/// The end of an echo of a GET.
const END: &str = " 0";

/// Who reads a head over HTTP/1.1.
#[derive(Debug, Clone, Copy)]
enum Reader {
    Lane,
    Hyper,
}

const READERS: [Reader; 2] = [Reader::Lane, Reader::Hyper];

async fn connected(reader: Reader, limits: ConnectionLimits) -> Line {
    let mut line = connect(limits);
    if let Reader::Hyper = reader {
        line.send(POST).await;
        line.until("POST /post 0").await;
    }
    line
}

/// What a connection answers to a head, everything until it closes.
async fn answer_to(reader: Reader, limits: ConnectionLimits, head: &str) -> String {
    let mut line = connected(reader, limits).await;
    line.send(head).await;
    let answer = line.rest().await;
    if !answer.starts_with("HTTP/1.1 200 ") {
        assert!(answer.to_ascii_lowercase().contains("\r\nconnection: close\r\n"), "{answer}");
        let before = if let Reader::Hyper = reader { 1 } else { 0 };
        assert_eq!(line.echo.asked.load(Ordering::SeqCst), before, "a refused request is not asked");
    }
    answer
}

fn with_fields(count: usize) -> String {
    // `Host` and `Connection` are two.
    get("/a", &format!("Connection: close\r\n{}", "A: b\r\n".repeat(count - 2)))
}

fn with_bytes(bytes: usize) -> String {
    let bare = get("/a", "Connection: close\r\nA: \r\n").len();
    get("/a", &format!("Connection: close\r\nA: {}\r\n", "b".repeat(bytes - bare)))
}

#[tokio::test]
async fn fields_of_a_head_are_counted_over_http1() {
    // Below and above what the lane has room for.
    for bound in [5, 64, 100] {
        let limits = ConnectionLimits { headers_max: bound, ..limits() };
        for reader in READERS {
            let answer = answer_to(reader, limits, &with_fields(bound)).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{reader:?} {bound}: {answer}");
            let answer = answer_to(reader, limits, &with_fields(bound + 1)).await;
            assert!(answer.starts_with("HTTP/1.1 431 "), "{reader:?} {bound}: {answer}");
        }
    }
}

#[tokio::test]
async fn bytes_of_a_whole_head_are_counted_over_http1() {
    for bound in [8192, 20_000] {
        let limits = ConnectionLimits { header_bytes_max: bound, ..limits() };
        for reader in READERS {
            let answer = answer_to(reader, limits, &with_bytes(bound)).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{reader:?} {bound}: {answer}");
            let answer = answer_to(reader, limits, &with_bytes(bound + 1)).await;
            assert!(answer.starts_with("HTTP/1.1 431 "), "{reader:?} {bound}: {answer}");
        }
    }
}

/// A target that takes up the whole head is what is too long, not the fields (RFC 9112 §3).
#[tokio::test]
async fn a_target_without_end_is_414() {
    let answer = answer_to(Reader::Lane, limits(), &get(&format!("/{}", "a".repeat(9000)), "")).await;
    assert!(answer.starts_with("HTTP/1.1 414 "), "{answer}");
}

/// `Connection: close` comes with the last answer, of the lane or of hyper, and not before.
#[tokio::test]
async fn requests_of_a_connection_are_counted_across_both_readers() {
    let limits = ConnectionLimits { requests_max: 5, ..limits() };
    let mut line = connect(limits);
    for text in [get("/a", ""), get("/a", ""), POST.to_owned(), get("/b", "")] {
        line.send(&text).await;
        let answer = line.until(END).await;
        assert!(!answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
    }
    line.send(&get("/last", "")).await;
    let answer = line.rest().await;
    assert!(answer.to_ascii_lowercase().contains("connection: close") && answer.ends_with("GET /last 0"), "{answer}");
}

/// A head has `header_ms` from its first byte; between two requests `idle_ms` holds.
#[tokio::test]
async fn rest_between_requests_is_not_a_slow_head() {
    let short = Duration::from_millis(50);
    let deadlines = Deadlines { head: short, ..limits().deadlines };
    for reader in READERS {
        let mut line = connected(reader, ConnectionLimits { deadlines, ..limits() }).await;
        for _ in 0..2 {
            line.send(&get("/a", "")).await;
            line.until("GET /a 0").await;
            // Nothing is waited for: a deadline that ran would pass.
            tokio::time::sleep(4 * short).await;
        }
        line.send("GET /a HT").await;
        let end = tokio::time::timeout(LONG, line.served).await.unwrap().unwrap();
        assert_eq!(end, ConnectionEnd::Overdue(Overdue::Head), "{reader:?}");

        let idle = Deadlines { idle: short, ..limits().deadlines };
        let mut line = connected(reader, ConnectionLimits { deadlines: idle, ..limits() }).await;
        // It may be closed already.
        let _ = line.far.write_all(get("/a", "").as_bytes()).await;
        let end = tokio::time::timeout(LONG, line.served).await.unwrap().unwrap();
        assert_eq!(end, ConnectionEnd::Overdue(Overdue::Idle), "{reader:?}");
    }
}

struct Http2 {
    sender: SendRequest<Empty<Bytes>>,
    served: tokio::task::JoinHandle<ConnectionEnd>,
    client: tokio::task::JoinHandle<hyper::Result<()>>,
}

async fn http2(limits: ConnectionLimits) -> Http2 {
    let (far, served) = connect(limits).keep();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(far)).await.unwrap();
    Http2 { sender, served, client: tokio::spawn(connection) }
}

impl Http2 {
    async fn ask(&mut self, request: Request<Empty<Bytes>>) -> hyper::Result<u16> {
        let answer = async {
            self.sender.ready().await?;
            let response = self.sender.send_request(request).await?;
            let status = response.status().as_u16();
            response.into_body().collect().await?;
            Ok(status)
        };
        tokio::time::timeout(LONG, answer).await.unwrap()
    }

    async fn get(&mut self, fields: impl IntoIterator<Item = (&'static str, String)>) -> u16 {
        let mut request = Request::get("http://x/a");
        for (name, value) in fields {
            request = request.header(name, value);
        }
        self.ask(request.body(Empty::new()).unwrap()).await.unwrap()
    }
}

#[tokio::test]
async fn fields_of_a_head_are_counted_over_http2() {
    let mut connection = http2(ConnectionLimits { headers_max: 7, ..limits() }).await;
    let fields = |count| (0..count).map(|_| ("a", "b".to_owned()));
    assert_eq!(connection.get(fields(7)).await, 200);
    assert_eq!(connection.get(fields(8)).await, 431);
    assert_eq!(connection.get(fields(7)).await, 200, "the connection goes on");
    let crumbs = (0..30).map(|number| (COOKIE.as_str(), format!("c={number}")));
    assert_eq!(connection.get(fields(6).chain(crumbs)).await, 200, "one cookie in many lines (RFC 9113 §8.2.3)");
}

/// As RFC 9113 §6.5.2 counts: 32 bytes more for each field, those with a colon too.
#[tokio::test]
async fn bytes_of_a_head_are_counted_over_http2() {
    let mut connection = http2(limits()).await;
    let bare: usize =
        [":methodGET", ":schemehttp", ":authorityx", ":path/a", "a"].iter().map(|field| field.len() + 32).sum();
    assert_eq!(connection.get([("a", "b".repeat(8192 - bare))]).await, 200);
    assert_eq!(connection.get([("a", "b".repeat(8192 - bare + 1))]).await, 431);
    assert_eq!(connection.get([]).await, 200, "the connection goes on");
}

#[tokio::test]
async fn requests_of_a_connection_are_counted_over_http2() {
    let mut connection = http2(ConnectionLimits { requests_max: 3, ..limits() }).await;
    for _ in 0..3 {
        assert_eq!(connection.get([]).await, 200);
    }
    // GOAWAY: the client's side ends in order, and nothing was refused.
    tokio::time::timeout(LONG, connection.client).await.unwrap().unwrap().unwrap();
    assert_eq!(tokio::time::timeout(LONG, connection.served).await.unwrap().unwrap(), ConnectionEnd::Done);

    let mut connection = http2(ConnectionLimits { requests_max: 3, ..limits() }).await;
    for _ in 0..2 {
        assert_eq!(connection.get([]).await, 200);
    }
    assert!(!connection.client.is_finished() && !connection.served.is_finished());
    assert_eq!(connection.get([]).await, 200);
}

/// The first bytes of a client, with a head that has begun (HEADERS without END_HEADERS, RFC 9113 §6.2).
fn begun() -> Vec<u8> {
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let headers = [0, 0, 2, 1, 0, 0, 0, 0, 1, 0x82, 0x86];
    [PREFACE, &settings, &headers].concat()
}

#[tokio::test]
async fn a_head_over_http2_has_its_time_and_rest_has_another() {
    let short = Duration::from_millis(50);
    let limits = ConnectionLimits { deadlines: Deadlines { head: short, ..limits().deadlines }, ..limits() };
    let (mut far, served) = connect(limits).keep();
    far.write_all(&begun()).await.unwrap();
    let end = tokio::time::timeout(LONG, served).await.unwrap().unwrap();
    assert_eq!(end, ConnectionEnd::Overdue(Overdue::Head));
    // Half a preface is a head, too.
    let (mut far, served) = connect(limits).keep();
    far.write_all(&PREFACE[..20]).await.unwrap();
    let end = tokio::time::timeout(LONG, served).await.unwrap().unwrap();
    assert_eq!(end, ConnectionEnd::Overdue(Overdue::Head));

    let mut connection = http2(limits).await;
    for _ in 0..2 {
        assert_eq!(connection.get([]).await, 200);
        // Nothing is waited for: a deadline that ran would pass.
        tokio::time::sleep(4 * short).await;
    }
    assert_eq!(connection.get([]).await, 200);
}

/// A body that waits for the client's window has not left: its connection is not one that rests.
#[tokio::test]
async fn an_answer_over_http2_is_under_way_until_its_body_has_left() {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (trigger, ends) = bildkante_shared::shutdown::channel();
    let progress = Arc::new(Progress::new());
    let watched = Arc::clone(&progress);
    tokio::spawn(async move {
        Protocols::new(limits()).serve(near, Alpn::None, PEER, Arc::new(Echo::default()), ends, watched).await
    });
    // The echo has eight bytes, the window four.
    let mut client = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    client.initial_stream_window_size(4).initial_connection_window_size(None);
    let (mut sender, connection) = client.handshake(TokioIo::new(far)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://x/a").body(Empty::<Bytes>::new()).unwrap();
    let response = tokio::time::timeout(LONG, sender.send_request(request)).await.unwrap().unwrap();
    assert_eq!((response.status(), progress.is_leaving()), (http::StatusCode::OK, true));
    assert!(!response.into_body().collect().await.unwrap().to_bytes().is_empty());
    let left = async {
        while progress.is_leaving() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, left).await.unwrap();
    drop(trigger);
}

/// RFC 9113 §8.3.1: a request names one authority.
#[tokio::test]
async fn an_authority_and_a_host_are_the_same_over_http2() {
    let mut connection = http2(limits()).await;
    for (uri, host, expected) in [
        ("http://img.example.com/a", None, 200),
        ("http://img.example.com/a", Some("img.example.com"), 200),
        ("http://img.example.com/a", Some("IMG.example.com:80"), 200),
        ("http://img.example.com:80/a", Some("img.example.com:"), 200),
        ("https://img.example.com/a", Some("img.example.com:443"), 200),
        ("http://img.example.com/a", Some("img.example.com:443"), 400),
        ("http://img.example.com:8080/a", Some("img.example.com"), 400),
        ("http://img.example.com/a", Some("other.example.com"), 400),
        ("http://img.example.com/a", Some(""), 400),
        ("http://user@img.example.com/a", None, 400),
        ("/a", Some("img.example.com"), 200),
        ("/a", Some("img example"), 400),
        ("/a", Some(""), 400),
        ("/a", None, 400),
    ] {
        let mut request = Request::get(uri);
        if let Some(host) = host {
            request = request.header(HOST, host);
        }
        let status = connection.ask(request.body(Empty::new()).unwrap()).await.unwrap();
        assert_eq!(status, expected, "{uri} {host:?}");
    }
    let twice = Request::get("http://x/a").header(HOST, "x").header(HOST, "x").body(Empty::new()).unwrap();
    assert_eq!(connection.ask(twice).await.unwrap(), 400);
}

/// RFC 9112 §3.2: `Host` may be missing in HTTP/1.0 and never comes twice.
#[tokio::test]
async fn hosts_of_http_1_0() {
    for (fields, expected) in [
        ("", "200"),
        ("Host: x\r\n", "200"),
        ("Host: x\r\nHost: x\r\n", "400"),
        ("Host: x\r\nHost: y\r\n", "400"),
        ("Host: x y\r\n", "400"),
    ] {
        let mut line = connect(limits());
        line.send(&format!("GET /a HTTP/1.0\r\n{fields}\r\n")).await;
        let answer = line.rest().await;
        assert!(answer.split(' ').nth(1) == Some(expected), "{fields:?}: {answer}");
    }
}

/// `close` on any line closes, and `keep-alive` on another does not undo it (RFC 9112 §9.3).
#[tokio::test]
async fn close_on_any_line_closes_for_both_readers() {
    for reader in READERS {
        for fields in [
            "Connection: close\r\nConnection: keep-alive\r\n",
            "Connection: keep-alive\r\nConnection: close\r\n",
            "Connection: close\r\nConnection: x-odd\r\n",
        ] {
            let answer = answer_to(reader, limits(), &get("/a", fields)).await;
            assert!(answer.to_ascii_lowercase().contains("\r\nconnection: close\r\n"), "{reader:?}: {answer}");
        }
    }
}

/// Prior knowledge is for the first bytes of a connection without TLS, and only where it is taken (RFC 9113 §3.2, §3.3).
#[tokio::test]
async fn a_preface_switches_at_the_start_or_never() {
    let preface = std::str::from_utf8(PREFACE).unwrap();
    let mut line = connect(limits());
    line.send(&get("/a", "")).await;
    line.until("GET /a 0").await;
    line.send(preface).await;
    let answer = line.rest().await;
    assert!(answer.starts_with("HTTP/1.1 505 "), "{answer}");
    let mut line = connected(Reader::Hyper, limits()).await;
    line.send(preface).await;
    assert_eq!(line.rest().await, "", "hyper closes");

    // Over TLS it is ALPN that says so.
    let (near, mut far) = tokio::io::duplex(4096);
    let (_trigger, ends) = bildkante_shared::shutdown::channel();
    let (protocols, echo) = (Protocols::new(limits()), Arc::new(Echo::default()));
    let served =
        tokio::spawn(
            async move { protocols.serve(near, Alpn::Http1, PEER, echo, ends, Arc::new(Progress::new())).await },
        );
    far.write_all(PREFACE).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(LONG, far.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 505 "), "{answer}");
    drop(far);
    assert_eq!(served.await.unwrap(), ConnectionEnd::Done);

    let refused = ConnectionLimits { prior_knowledge: PriorKnowledge::Refused, ..limits() };
    let mut line = connect(refused);
    line.send(preface).await;
    let answer = line.rest().await;
    assert!(answer.starts_with("HTTP/1.1 505 "), "{answer}");
    let answer = answer_to(Reader::Lane, refused, &get("/a", "Connection: close\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(http2(limits()).await.get([]).await, 200);
}
