//! Bytes that no browser sends, on a raw socket: requests smuggled behind doubtful framing, and slow clients.

use std::sync::Arc;

use bildkante_edge::config::Config;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::client::{eventually, within};
use bildkante_tests::raw::exchange;
use bildkante_tests::rig::{Plan, Rig, Tls};
use bildkante_tests::{h2, judge};
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
                let statuses: Vec<u16> = answers.iter().map(|answer| answer.status.as_u16()).collect();
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

/// How its connection ends, what it sends, and the one limit that it meets.
type SlowClient<'a> = (&'static str, &'a [u8], fn(&mut Config));

/// No connection ends by a deadline.
fn patient(config: &mut Config) {
    config.limits.first_byte_ms = 120_000;
    config.limits.header_ms = 120_000;
    config.limits.idle_ms = 120_000;
    config.limits.write_stall_ms = 120_000;
}

/// A client that says nothing, sends half a head, or reads nothing is closed, and the metric names that reason.
#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_closed() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let many = HIDDEN.repeat(9000);
    // One limit at a time: on a busy machine a client may be slow to begin, too.
    let clients: [SlowClient<'_>; 4] = [
        ("first_byte", b"", |config| config.limits.first_byte_ms = 500),
        ("head", b"GET /rum.js HTTP/1.1\r\nHost: x\r\nA: ", |config| config.limits.header_ms = 500),
        ("idle", HIDDEN.as_bytes(), |config| config.limits.idle_ms = 500),
        ("write_stall", many.as_bytes(), |config| config.limits.write_stall_ms = 500),
    ];
    let rig = Rig::start(Plan { edge: patient, ..Plan::painted(&control) }).await?;
    for (end, bytes, edit) in clients {
        let edge = rig.another_edge(end, edit).await?;
        let line = format!("bildkante_edge_connections_total{{end=\"{end}\"}}");
        let mut stream = TcpStream::connect(edge.http).await?;
        let (mut from, mut to) = stream.split();
        let write = async { drop(to.write_all(bytes).await) };
        let closed = async {
            // The client itself sees that it is closed, unless it is the one that does not read. Only then are the metrics
            // asked for, over a connection that has limits, too.
            if end != "write_stall" {
                let _ = within("the connection is closed", from.read_to_end(&mut Vec::new())).await?;
            }
            eventually(end, async || Ok(rig.http.metric(edge.admin, &line).await? >= 1.0)).await
        };
        let (closed, ()) = futures_util::join!(closed, write);
        closed?;
        edge.shut_down().await;
    }
    rig.stop().await;
    Ok(())
}

/// Resting connections do not keep others from being answered, and when they go, they leave nothing behind.
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

/// A flood of frames ends its connection with GOAWAY. Other connections are answered meanwhile, and no stream is left behind.
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
        let until_closed = within("the connection ends", from.read_to_end(&mut read));
        let others = rig.http.get(rig.public(), "/rum.js", &[]);
        let (closed, (), other) = futures_util::join!(until_closed, write, others);
        assert!(closed.is_ok(), "{name}: the connection goes on, {:?}", h2::Heard::parse(&read).goaways);
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

/// Says `frames` behind the opening and listens until `enough` was heard or the server closes.
async fn say(rig: &Rig, frames: &[u8], enough: impl Fn(&h2::Heard) -> bool) -> anyhow::Result<h2::Heard> {
    let mut stream = TcpStream::connect(rig.public()).await?;
    let _ = stream.write_all(&[&h2::opening(), frames].concat()).await;
    let mut read = Vec::new();
    let listen =
        async { while !enough(&h2::Heard::parse(&read)) && stream.read_buf(&mut read).await.unwrap_or(0) > 0 {} };
    within("an answer or an end", listen).await?;
    Ok(h2::Heard::parse(&read))
}

/// What becomes of a wrong frame.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// GOAWAY with one of these codes. The h2 crate often says `PROTOCOL_ERROR`, the code for errors without one of their own
    /// (§7), where there is one.
    Ended(&'static [u32]),
    /// The stream ends with this code, or with it the connection, which an endpoint may choose (§5.4).
    Reset(u32, u32),
    /// The stream is answered.
    Answered(u32),
}

/// RFC 9113, section by section: connection errors end the connection, stream errors the stream, the rest nothing.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_frames_end_what_the_standard_says() -> anyhow::Result<()> {
    use Fate::{Answered, Ended, Reset};
    const BOTH: u8 = h2::END_STREAM | h2::END_HEADERS;
    let control = Arc::new(FakeControl::default());
    let plan = Plan { edge: |config| config.limits.streams_max = 10, ..Plan::painted(&control) };
    let rig = Rig::start(plan).await?;
    let get = h2::request(2, "/rum.js");
    let with = |field: Vec<u8>| h2::frame(h2::HEADERS, BOTH, 1, &[get.clone(), field].concat());
    let ask = |stream| h2::frame(h2::HEADERS, BOTH, stream, &get);
    let window = |stream, by: u32| h2::frame(h2::WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    let setting = |name: u16, value: u32| {
        h2::frame(h2::SETTINGS, 0, 0, &[&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
    };
    let open_posts: Vec<u8> =
        (0..11).flat_map(|n| h2::frame(h2::HEADERS, h2::END_HEADERS, 2 * n + 1, &h2::request(3, "/rum"))).collect();
    let large: Vec<u8> = (0..600).flat_map(|n| h2::literal(&format!("x-{n}"), &"v".repeat(100))).collect();
    let mut parts = large.chunks(16_000).peekable();
    let mut large_head = h2::frame(h2::HEADERS, h2::END_STREAM, 1, &get);
    while let Some(part) = parts.next() {
        let flags = if parts.peek().is_none() { h2::END_HEADERS } else { 0 };
        large_head.extend(h2::frame(h2::CONTINUATION, flags, 1, part));
    }
    let made_resets: Vec<u8> = (0..2_000_u32).flat_map(|n| [ask(2 * n + 1), window(2 * n + 1, 0)].concat()).collect();
    let cases: Vec<(&str, Vec<u8>, Fate)> = vec![
        ("§4.2 a frame too large", h2::frame(h2::DATA, 0, 1, &[0; 20_000]), Ended(&[h2::FRAME_SIZE_ERROR])),
        (
            "§4.3 no HPACK",
            h2::frame(h2::HEADERS, BOTH, 1, &[0xff; 12]),
            Ended(&[h2::COMPRESSION_ERROR, h2::PROTOCOL_ERROR]),
        ),
        ("§5.1 data on an idle stream", h2::frame(h2::DATA, 0, 1, b"x"), Ended(&[h2::PROTOCOL_ERROR])),
        ("§5.1.1 an even stream", ask(2), Ended(&[h2::PROTOCOL_ERROR])),
        ("§5.1.1 streams backwards", [ask(5), ask(3)].concat(), Ended(&[h2::PROTOCOL_ERROR, h2::STREAM_CLOSED])),
        ("§5.1.2 too many streams", open_posts, Reset(21, h2::REFUSED_STREAM)),
        (
            "§6.3 priority is passed over",
            [h2::frame(h2::PRIORITY, 0, 1, &[0, 0, 0, 0, 9]), ask(1)].concat(),
            Answered(1),
        ),
        (
            "RFC 9218 a priority update",
            [h2::frame(h2::PRIORITY_UPDATE, 0, 0, b"\0\0\0\x01u=1"), ask(1)].concat(),
            Answered(1),
        ),
        ("§4.1 an unknown frame", [h2::frame(0xfa, 0, 0, b"x"), ask(1)].concat(), Answered(1)),
        (
            "§6.5 settings of five bytes",
            h2::frame(h2::SETTINGS, 0, 0, &[0; 5]),
            Ended(&[h2::FRAME_SIZE_ERROR, h2::PROTOCOL_ERROR]),
        ),
        ("§6.5 settings on a stream", h2::frame(h2::SETTINGS, 0, 1, &[]), Ended(&[h2::PROTOCOL_ERROR])),
        ("§6.5.2 push is 0 or 1", setting(2, 2), Ended(&[h2::PROTOCOL_ERROR])),
        ("§6.5.2 a window beyond 31 bits", setting(4, u32::MAX), Ended(&[h2::FLOW_CONTROL_ERROR, h2::PROTOCOL_ERROR])),
        ("§6.5.2 an unknown setting", [setting(0xabcd, 1), ask(1)].concat(), Answered(1)),
        ("§6.6 a push of the client's", h2::frame(h2::PUSH_PROMISE, 4, 1, &[0, 0, 0, 2]), Ended(&[h2::PROTOCOL_ERROR])),
        (
            "§6.7 a ping of seven bytes",
            h2::frame(h2::PING, 0, 0, &[0; 7]),
            Ended(&[h2::FRAME_SIZE_ERROR, h2::PROTOCOL_ERROR]),
        ),
        ("§6.9 no increment", window(0, 0), Ended(&[h2::PROTOCOL_ERROR])),
        (
            "§6.9.1 a window over its limit",
            window(0, 0x7fff_ffff),
            Ended(&[h2::FLOW_CONTROL_ERROR, h2::PROTOCOL_ERROR]),
        ),
        ("§6.10 a continuation of nothing", h2::frame(h2::CONTINUATION, 4, 1, &get), Ended(&[h2::PROTOCOL_ERROR])),
        ("§8.2.1 an upper-case name", with(h2::literal("Accept", "*/*")), Reset(1, h2::PROTOCOL_ERROR)),
        ("§8.2.2 a field of the connection", with(h2::literal("connection", "close")), Reset(1, h2::PROTOCOL_ERROR)),
        ("§8.2.2 an encoding", with(h2::literal("transfer-encoding", "chunked")), Reset(1, h2::PROTOCOL_ERROR)),
        ("§8.3 a second path", with(h2::literal(":path", "/")), Reset(1, h2::PROTOCOL_ERROR)),
        ("§8.3 an unknown pseudo-field", with(h2::literal(":x", "y")), Reset(1, h2::PROTOCOL_ERROR)),
        ("§8.3.1 no path, which is no image's", h2::frame(h2::HEADERS, BOTH, 1, &[0x82, 0x86]), Answered(1)),
        (
            "§8.1.1 a length that is another",
            [
                h2::frame(
                    h2::HEADERS,
                    h2::END_HEADERS,
                    1,
                    &[h2::request(3, "/rum"), h2::literal("content-length", "5")].concat(),
                ),
                h2::frame(h2::DATA, h2::END_STREAM, 1, b"123456"),
            ]
            .concat(),
            Reset(1, h2::PROTOCOL_ERROR),
        ),
        ("§10.5.1 a head too large", large_head, Answered(1)),
        (
            "CVE-2025-8671 resets the server is made to send",
            made_resets,
            Ended(&[h2::ENHANCE_YOUR_CALM, h2::PROTOCOL_ERROR]),
        ),
    ];
    let mut wrong = Vec::new();
    for (name, frames, fate) in cases {
        let heard = match fate {
            Ended(_) => say(&rig, &frames, |_| false).await,
            Reset(stream, _) => {
                say(&rig, &frames, |heard| {
                    !heard.goaways.is_empty() || heard.resets.iter().any(|(of, _)| *of == stream)
                })
                .await
            }
            Answered(stream) => say(&rig, &frames, |heard| heard.answered.contains(&stream)).await,
        };
        let fits = heard.as_ref().is_ok_and(|heard| match fate {
            Ended(codes) => heard.goaways.last().is_some_and(|code| codes.contains(code)),
            Reset(stream, code) => heard.resets.contains(&(stream, code)) || heard.goaways.contains(&code),
            Answered(stream) => heard.answered.contains(&stream) && heard.goaways.is_empty(),
        });
        if !fits {
            wrong.push(format!("{name}: {fate:?}, but {heard:?}"));
        }
        let other = rig.http.get(rig.public(), "/rum.js", &[]).await?;
        assert_eq!(other.status, StatusCode::OK, "{name} hinders others");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    rig.stop().await;
    Ok(())
}

/// A body a byte at a time, and a handshake that never comes.
#[tokio::test(flavor = "multi_thread")]
async fn slow_bodies_and_handshakes_are_cut() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let plan = Plan {
        edge: |config| {
            config.limits.handshake_ms = 500;
            config.limits.body_ms = 500;
        },
        tls: Tls::On,
        ..Plan::painted(&control)
    };
    let rig = Rig::start(plan).await?;
    let beacon = "POST /rum HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
    let answers = exchange(rig.public(), beacon.as_bytes()).await?;
    assert_eq!(answers.iter().map(|answer| answer.status.as_u16()).collect::<Vec<_>>(), [408]);
    let line = "bildkante_edge_connections_total{end=\"handshake_deadline\"}";
    let mut silent = TcpStream::connect(rig.https()?.0).await?;
    let mut nothing = Vec::new();
    within("it is closed", silent.read_to_end(&mut nothing)).await??;
    rig.http.counts(rig.admin(), line, 1.0).await?;
    rig.stop().await;
    Ok(())
}

/// h2load always has more streams to open than the edge allows: none of them fails. (Until a client has read the limit it assumes
/// a hundred, so a lower limit would refuse streams.)
#[tokio::test(flavor = "multi_thread")]
async fn more_streams_than_allowed_are_served_in_turn() -> anyhow::Result<()> {
    let Some(h2load) = judge::find("h2load", "more_streams_than_allowed")? else { return Ok(()) };
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    let url = format!("http://{}/rum.js", rig.public());
    let output = tokio::process::Command::new(h2load)
        .args(["-n", "3000", "-c", "4", "-m", "250", "-t", "1", url.as_str()])
        .output()
        .await?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("3000 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
    rig.stop().await;
    Ok(())
}
