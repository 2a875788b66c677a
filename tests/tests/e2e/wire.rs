//! Bytes no browser sends, on a raw socket: requests smuggled behind doubtful framing, and clients that take their time.

use std::sync::Arc;
use std::time::Duration;

use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::client::eventually;
use bildkante_tests::h2;
use bildkante_tests::raw::exchange;
use bildkante_tests::rig::{Plan, Rig};
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The request an attacker hides: its answer holds [`MARK`], and no other answer does.
const HIDDEN: &str = "GET /rum.js HTTP/1.1\r\nHost: x\r\n\r\n";
const MARK: &[u8] = b"onLCP";
/// Ends a connection that is still in step: 404.
const LAST: &str = "GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
const OPEN: &str = "bildkante_edge_connections_open";

/// Each case: the answers in order, then a closed connection. `404` at the end is [`LAST`]'s.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_smuggled() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    let hidden_length = HIDDEN.len();
    let chunk = format!("{hidden_length:x}\r\n{HIDDEN}\r\n0\r\n\r\n");
    let post = |fields: &str, body: &str| format!("POST /rum HTTP/1.1\r\nHost: x\r\n{fields}\r\n{body}");
    let exact = format!("Content-Length: {hidden_length}\r\n");
    let te = "Transfer-Encoding: chunked\r\n";
    let cases: Vec<(&str, String, &[u16])> = vec![
        ("exact length", post(&exact, HIDDEN), &[400, 404]),
        ("the same length twice", post(&format!("{exact}{exact}"), HIDDEN), &[400, 404]),
        ("two lengths", post(&format!("{exact}Content-Length: 0\r\n"), HIDDEN), &[400]),
        ("two lengths in one line", post("Content-Length: 0, 5\r\n", HIDDEN), &[400]),
        ("+5", post("Content-Length: +5\r\n", HIDDEN), &[400]),
        ("-1", post("Content-Length: -1\r\n", HIDDEN), &[400]),
        ("5x", post("Content-Length: 5x\r\n", HIDDEN), &[400]),
        ("0x5", post("Content-Length: 0x5\r\n", HIDDEN), &[400]),
        ("empty length", post("Content-Length:\r\n", HIDDEN), &[400]),
        ("beyond 64 bits", post("Content-Length: 18446744073709551617\r\n", HIDDEN), &[400]),
        ("chunked", post(te, &chunk), &[400]),
        ("Chunked", post("Transfer-Encoding: Chunked\r\n", &chunk), &[400]),
        ("length 0, then chunked", post(&format!("Content-Length: 0\r\n{te}"), &chunk), &[400]),
        ("chunked, then length 0", post(&format!("{te}Content-Length: 0\r\n"), &chunk), &[400]),
        ("CL.TE", post(&format!("{exact}{te}"), &format!("0\r\n\r\n{HIDDEN}")), &[400]),
        ("TE.CL", post(&format!("{te}{exact}"), &format!("0\r\n\r\n{HIDDEN}")), &[400]),
        ("chunked, identity", post("Transfer-Encoding: chunked, identity\r\n", &chunk), &[400]),
        ("xchunked", post("Transfer-Encoding: xchunked\r\n", &chunk), &[400]),
        ("folded encoding", post("Transfer-Encoding:\r\n chunked\r\n", &chunk), &[400]),
        ("space before the colon", post("Transfer-Encoding : chunked\r\n", &chunk), &[400]),
        ("NUL in a value", post(&format!("A: b\0c\r\n{exact}"), HIDDEN), &[400]),
        ("chunk extension", post(te, &format!("1;a=b\r\nx\r\n0\r\n\r\n{HIDDEN}")), &[400]),
        ("no chunk size", post(te, &format!("zz\r\n{HIDDEN}")), &[400]),
        ("a negative chunk", post(te, &format!("-1\r\n{HIDDEN}")), &[400]),
        ("a huge chunk", post(te, &format!("fffffffffffffffff\r\n{HIDDEN}")), &[400]),
        ("chunked in HTTP/1.0", format!("POST /rum HTTP/1.0\r\n{te}\r\n{chunk}"), &[400]),
        ("GET with a body", format!("GET /no HTTP/1.1\r\nHost: x\r\n{exact}\r\n{HIDDEN}"), &[404, 404]),
        ("GET in chunks", format!("GET /no HTTP/1.1\r\nHost: x\r\n{te}\r\n{chunk}"), &[404]),
        ("bare line feeds", "GET /no HTTP/1.1\nHost: x\n\n".to_owned(), &[404, 404]),
        ("absolute form", "GET http://x/no HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), &[404, 404]),
        ("no host", "GET /no HTTP/1.1\r\n\r\n".to_owned(), &[400]),
        ("two hosts", "GET /no HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n".to_owned(), &[400]),
        ("expectation", post(&format!("Expect: 100-continue\r\n{exact}"), HIDDEN), &[100, 400, 404]),
        (
            "pipelined behind a body",
            format!("{}GET /no HTTP/1.1\r\nHost: x\r\n\r\n", post(&exact, HIDDEN)),
            &[400, 404, 404],
        ),
    ];
    let mut wrong = Vec::new();
    for (name, bytes, expected) in cases {
        match exchange(rig.public(), format!("{bytes}{LAST}").as_bytes()).await {
            Ok(answers) => {
                let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
                let is_marked = |body: &[u8]| body.windows(MARK.len()).any(|window| window == MARK);
                if statuses != expected || answers.iter().any(|answer| is_marked(&answer.body)) {
                    wrong.push(format!("{name}: {statuses:?} instead of {expected:?}"));
                }
            }
            Err(error) => wrong.push(format!("{name}: {error:#}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let shown = exchange(rig.public(), format!("{HIDDEN}{LAST}").as_bytes()).await?;
    assert!(shown[0].body.windows(MARK.len()).any(|window| window == MARK), "the mark marks nothing");
    rig.stop().await;
    Ok(())
}

/// Whoever says nothing, half a head, or reads nothing is closed, and for that reason.
#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_closed() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let plan = Plan {
        edge: |config| {
            config.limits.first_byte_ms = 500;
            config.limits.header_ms = 500;
            config.limits.idle_ms = 500;
            config.limits.write_stall_ms = 500;
        },
        ..Plan::painted(&control)
    };
    let rig = Rig::start(plan).await?;
    let many = HIDDEN.repeat(9000);
    let clients: [(&str, &[u8]); 4] = [
        ("first_byte", b""),
        ("head", b"GET /rum.js HTTP/1.1\r\nHost: x\r\nA: "),
        ("idle", HIDDEN.as_bytes()),
        ("write_stall", many.as_bytes()),
    ];
    for (end, bytes) in clients {
        let line = format!("bildkante_edge_connections_total{{end=\"{end}\"}}");
        let before = rig.http.metric(rig.admin(), &line).await?;
        let mut stream = TcpStream::connect(rig.public()).await?;
        let (_unread, mut out) = stream.split();
        let write = async { drop(out.write_all(bytes).await) };
        let closed = eventually(end, async || Ok(rig.http.metric(rig.admin(), &line).await? > before));
        let (closed, ()) = futures_util::join!(closed, write);
        closed?;
    }
    rig.stop().await;
    Ok(())
}

/// Connections that rest are no reason not to answer others; when they go, nothing of them stays.
#[tokio::test(flavor = "multi_thread")]
async fn resting_connections_do_not_hinder_others() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let plan = Plan { edge: |config| config.limits.first_byte_ms = 120_000, ..Plan::painted(&control) };
    let rig = Rig::start(plan).await?;
    let mut resting = Vec::new();
    for _ in 0..300 {
        resting.push(TcpStream::connect(rig.public()).await?);
    }
    eventually("all are open", async || Ok(rig.http.metric(rig.admin(), OPEN).await? >= 300.0)).await?;
    for _ in 0..50 {
        let reply = rig.http.get(rig.public(), "/rum.js", &[]).await?;
        assert_eq!(reply.status, StatusCode::OK);
    }
    assert!(rig.http.metric(rig.admin(), OPEN).await? >= 300.0, "the resting ones were closed");
    drop(resting);
    eventually("all are gone", async || Ok(rig.http.metric(rig.admin(), OPEN).await? < 20.0)).await?;
    rig.stop().await;
    Ok(())
}

/// Floods of frames end their connection with GOAWAY, others are answered meanwhile, and nothing of them stays.
#[tokio::test(flavor = "multi_thread")]
async fn floods_of_frames_end_their_connection() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    let get = h2::request(2, "/rum.js");
    let resets = (0..5000_u32).flat_map(|n| {
        let mut pair = h2::frame(h2::HEADERS, h2::END_STREAM | h2::END_HEADERS, 2 * n + 1, &get);
        pair.extend(h2::frame(h2::RST_STREAM, 0, 2 * n + 1, &8_u32.to_be_bytes()));
        pair
    });
    let mut continuations = h2::frame(h2::HEADERS, h2::END_STREAM, 1, &get);
    continuations.extend(h2::frame(h2::CONTINUATION, 0, 1, &[]).repeat(5000));
    let mut empty = h2::frame(h2::HEADERS, h2::END_HEADERS, 1, &h2::request(3, "/rum"));
    empty.extend(h2::frame(h2::DATA, 0, 1, &[]).repeat(100_000));
    for (name, flood) in [("resets", resets.collect()), ("continuations", continuations), ("empty data", empty)] {
        let mut stream = TcpStream::connect(rig.public()).await?;
        let (mut from, mut to) = stream.split();
        let mut read = Vec::new();
        let write = async {
            let _ = to.write_all(&h2::opening()).await;
            // A server that has said GOAWAY resets what comes still.
            let _ = to.write_all(&flood).await;
        };
        let until_closed = tokio::time::timeout(Duration::from_secs(60), from.read_to_end(&mut read));
        let others = rig.http.get(rig.public(), "/rum.js", &[]);
        let (closed, (), other) = futures_util::join!(until_closed, write, others);
        assert!(closed.is_ok(), "{name}: the connection goes on, {:?}", h2::goaways(&read));
        assert_eq!(other?.status, StatusCode::OK, "{name}");
    }
    eventually("all are gone", async || Ok(rig.http.metric(rig.admin(), OPEN).await? < 10.0)).await?;
    rig.stop().await;
    Ok(())
}

/// PING and SETTINGS without reading the answers: the server stops reading, others are answered, and when the
/// attacker goes nothing stays.
#[tokio::test(flavor = "multi_thread")]
async fn unread_acknowledgements_are_bounded() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let plan = Plan { edge: |config| config.limits.write_stall_ms = 500, ..Plan::painted(&control) };
    let rig = Rig::start(plan).await?;
    let ended = "bildkante_edge_connections_total{end=\"write_stall\"}";
    for (kind, payload) in [(h2::PING, &[0_u8; 8][..]), (h2::SETTINGS, &[])] {
        let before = rig.http.metric(rig.admin(), ended).await?;
        let mut stream = TcpStream::connect(rig.public()).await?;
        let (_unread, mut to) = stream.split();
        let frames = h2::frame(kind, 0, 0, payload).repeat(2_000_000);
        let write = async {
            let _ = to.write_all(&h2::opening()).await;
            let _ = to.write_all(&frames).await;
        };
        let closed = eventually("closed", async || Ok(rig.http.metric(rig.admin(), ended).await? > before));
        let (closed, (), other) = futures_util::join!(closed, write, rig.http.get(rig.public(), "/rum.js", &[]));
        closed?;
        assert_eq!(other?.status, StatusCode::OK);
    }
    rig.stop().await;
    Ok(())
}
