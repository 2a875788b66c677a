//! The lane over an in-memory stream, with a responder that knows one prepared answer and says of the rest what it was
//! asked.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bildkante_shared::shutdown;
use http::{Response, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::listener::http::{Alpn, ConnectionEnd, ConnectionLimits, PriorKnowledge, Protocols};
use crate::listener::io::Deadlines;
use crate::service::Body;

pub(in crate::listener) const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
pub(in crate::listener) const LONG: Duration = Duration::from_secs(60);

/// Echoes method, target and whether a body came along.
#[derive(Debug, Default)]
pub(in crate::listener) struct Echo {
    pub(in crate::listener) asked: AtomicUsize,
}

impl Respond for Echo {
    type Prepared = std::convert::Infallible;

    fn refused(&self, _request: &Request<()>, problem: &Problem, _peer: SocketAddr) -> Response<Body> {
        let mut response = Response::new(Full::new(problem.to_json().into()));
        *response.status_mut() = StatusCode::from_u16(problem.status).unwrap();
        response
    }

    async fn respond(&self, request: Request<RequestBody>, _peer: SocketAddr) -> Response<Body> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if request.uri().path() == "/empty" {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::NO_CONTENT;
            return response;
        }
        let (parts, body) = request.into_parts();
        let body = http_body_util::BodyExt::collect(body).await.map(|body| body.to_bytes().len()).unwrap_or(0);
        let size = parts.uri.query().and_then(|query| query.parse().ok()).unwrap_or(0);
        let text = format!("{} {} {body}{}", parts.method, parts.uri, "x".repeat(size));
        Response::new(Full::new(text.into()))
    }
}

pub(in crate::listener) fn limits() -> ConnectionLimits {
    let deadlines = Deadlines { first_byte: LONG, head: LONG, idle: LONG, write_stall: LONG };
    ConnectionLimits {
        deadlines,
        header_bytes_max: 8192,
        headers_max: 64,
        requests_max: 1000,
        prior_knowledge: PriorKnowledge::Taken,
        streams_max: 10,
        stream_window_bytes: 65_536,
        connection_window_bytes: 65_536,
        ping_interval: LONG,
        ping_timeout: LONG,
        drain_grace: Duration::from_millis(50),
    }
}

pub(in crate::listener) struct Line {
    pub(in crate::listener) far: DuplexStream,
    pub(in crate::listener) served: tokio::task::JoinHandle<ConnectionEnd>,
    trigger: shutdown::ShutdownTrigger,
    pub(in crate::listener) echo: Arc<Echo>,
}

pub(in crate::listener) fn connect(limits: ConnectionLimits) -> Line {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (trigger, ends) = shutdown::channel();
    let echo = Arc::new(Echo::default());
    let respond = Arc::clone(&echo);
    let served = tokio::spawn(async move {
        Protocols::new(limits).serve(near, Alpn::None, PEER, respond, ends, Arc::new(Progress::new())).await
    });
    Line { far, served, trigger, echo }
}

impl Line {
    /// Never told to shut down, which dropping the trigger would do.
    pub(in crate::listener) fn keep(self) -> (DuplexStream, tokio::task::JoinHandle<ConnectionEnd>) {
        std::mem::forget(self.trigger);
        (self.far, self.served)
    }

    pub(in crate::listener) async fn send(&mut self, text: &str) {
        self.far.write_all(text.as_bytes()).await.unwrap();
    }

    /// Everything until the other side closes.
    pub(in crate::listener) async fn rest(&mut self) -> String {
        let mut text = String::new();
        tokio::time::timeout(LONG, self.far.read_to_string(&mut text)).await.unwrap().unwrap();
        text
    }

    /// Until the text read so far ends so.
    pub(in crate::listener) async fn until(&mut self, end: &str) -> String {
        let mut text = Vec::new();
        let read = async {
            while !text.ends_with(end.as_bytes()) {
                text.push(self.far.read_u8().await.unwrap());
            }
        };
        tokio::time::timeout(LONG, read).await.unwrap();
        String::from_utf8(text).unwrap()
    }
}

pub(in crate::listener) fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: x\r\n{fields}\r\n")
}

#[tokio::test]
async fn requests_are_answered_in_their_order_however_they_arrive() {
    let mut line = connect(limits());
    let text = [get("/a", ""), get("/b", ""), get("/empty", ""), get("/c", "Connection: close\r\n"), get("/d", "")];
    let text = text.concat();
    for piece in text.as_bytes().chunks(7) {
        // The other side stops reading at the close.
        let _ = line.far.write_all(piece).await;
        tokio::task::yield_now().await;
    }
    let answers = line.rest().await;
    let order: Vec<_> = ["GET /a 0", "GET /b 0", "204 No Content", "connection: close", "GET /c 0"]
        .map(|part| answers.find(part).unwrap_or_else(|| panic!("{part} in {answers}")))
        .into();
    assert!(order.is_sorted(), "{answers}");
    assert!(!answers.contains("/d"), "nothing is answered behind a close");
    assert_eq!(answers.matches("content-length: 8\r\n").count(), 3);
    drop(line.far);
    assert_eq!(line.served.await.unwrap(), ConnectionEnd::Done);
}

#[tokio::test]
async fn pipelined_requests_in_one_segment_are_all_answered() {
    let mut line = connect(limits());
    let text: String = (0..200).map(|number| get(&format!("/{number}"), "")).collect();
    line.send(&text).await;
    line.send(&get("/end", "Connection: close\r\n")).await;
    let answers = line.rest().await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 201);
    assert_eq!(line.echo.asked.load(Ordering::SeqCst), 201);
}

#[tokio::test]
async fn head_has_the_length_and_no_body() {
    let mut line = connect(limits());
    line.send("HEAD /a?100 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let answer = line.rest().await;
    assert!(answer.ends_with("\r\n\r\n") && answer.contains("content-length: 113\r\n"), "{answer}");
}

#[tokio::test]
async fn a_body_larger_than_the_pipe_arrives_whole() {
    let mut line = connect(limits());
    line.send(&get("/a?500000", "Connection: close\r\n")).await;
    let answer = line.rest().await;
    assert_eq!(answer.matches('x').count(), 500_000);
}

#[tokio::test]
async fn what_is_not_plain_goes_on_with_hyper_and_loses_nothing() {
    let mut line = connect(limits());
    line.send(&get("/a", "")).await;
    line.until("GET /a 0").await;
    let post = "POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello";
    line.send(&format!("{post}{}", get("/c", "Connection: close\r\n"))).await;
    let answers = line.rest().await;
    assert!(answers.contains("POST /b 5") && answers.ends_with("GET /c 0"), "{answers}");
}

#[tokio::test]
async fn malformed_requests_are_refused_and_the_connection_closed() {
    for text in [
        "GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        "\0\0\0\0",
        "GET / HTTP/3.0\r\nHost: x\r\n\r\n",
        "GARBAGE\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nno field\r\n\r\n",
        "GET /\x7f\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let mut line = connect(limits());
        line.send(text).await;
        let answer = line.rest().await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{text:?}: {answer:?}");
        assert_eq!(line.echo.asked.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test]
async fn a_head_without_end_is_refused_at_its_bound() {
    let mut line = connect(limits());
    line.send(&format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}", "a".repeat(9000))).await;
    let answer = line.rest().await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn a_connection_has_so_many_requests() {
    let mut line = connect(ConnectionLimits { requests_max: 3, ..limits() });
    line.send(&get("/a", "").repeat(5)).await;
    let answers = line.rest().await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3);
    assert_eq!(answers.matches("connection: close").count(), 1);
}

#[tokio::test]
async fn a_draining_connection_answers_what_crosses_the_shutdown_and_closes_when_it_rests() {
    let mut line = connect(ConnectionLimits { drain_grace: LONG, ..limits() });
    line.send(&get("/a", "")).await;
    line.until("GET /a 0").await;
    line.trigger.shut_down();
    // Both tasks share this thread: the connection hears of it before the request comes.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    line.send(&get("/b", "")).await;
    let answer = line.rest().await;
    assert!(answer.contains("connection: close\r\n") && answer.ends_with("GET /b 0"), "{answer}");

    let mut line = connect(limits());
    line.send(&get("/a", "")).await;
    line.until("GET /a 0").await;
    line.trigger.shut_down();
    assert_eq!(line.rest().await, "");
    assert_eq!(line.served.await.unwrap(), ConnectionEnd::Done);
}

#[tokio::test]
async fn deadlines_close_who_misses_them() {
    let short = Duration::from_millis(20);
    let deadlines = |deadlines| ConnectionLimits { deadlines, ..limits() };
    let long = limits().deadlines;
    for (limits, sent) in [
        (deadlines(Deadlines { first_byte: short, ..long }), String::new()),
        (deadlines(Deadlines { head: short, ..long }), "GET / HTTP/1.1\r\nHos".to_owned()),
        (deadlines(Deadlines { idle: short, ..long }), get("/a", "")),
        (deadlines(Deadlines { write_stall: short, ..long }), get("/a?500000", "")),
    ] {
        let mut line = connect(limits);
        line.send(&sent).await;
        let end = tokio::time::timeout(LONG, line.served).await.unwrap().unwrap();
        assert!(matches!(end, ConnectionEnd::Overdue(_)), "{sent:?}: {end:?}");
    }
}

#[tokio::test]
async fn a_peer_that_leaves_in_a_head_is_an_error_and_between_requests_none() {
    let mut line = connect(limits());
    line.send("GET / HT").await;
    drop(line.far);
    assert_eq!(line.served.await.unwrap(), ConnectionEnd::PeerError);
    let mut line = connect(limits());
    line.send(&get("/a", "")).await;
    line.until("GET /a 0").await;
    drop(line.far);
    assert_eq!(line.served.await.unwrap(), ConnectionEnd::Done);
}
