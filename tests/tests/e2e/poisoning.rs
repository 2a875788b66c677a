//! Cache poisoning: other fields of a request than URL and `Accept` change neither its own answer nor the answer to later
//! requests.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::client::{CHROME, Reply, eventually};
use bildkante_tests::raw::Connection;
use bildkante_tests::rig::{Plan, Rig};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// A URL without a format: the only kind whose answer depends on a request field, `Accept`.
const PLAIN: &str = "/i/studio/thumb?product=mug&colour=red";

/// Fields that have poisoned other caches and frameworks, and those that a browser adds by itself.
const FIELDS: &[(&str, &str)] = &[
    ("X-Forwarded-Host", "evil.example"),
    ("X-Forwarded-Server", "evil.example"),
    ("X-Forwarded-Scheme", "http"),
    ("X-Forwarded-Proto", "nothttps"),
    ("X-Forwarded-Port", "123"),
    ("X-Forwarded-Prefix", "/evil"),
    ("X-Forwarded-Path", "/i/studio/hero"),
    ("X-Forwarded-For", "203.0.113.9"),
    ("X-Forwarded-SSL", "on"),
    ("Forwarded", "for=203.0.113.9;host=evil.example;proto=http"),
    ("X-Host", "evil.example"),
    ("X-HTTP-Host-Override", "evil.example"),
    ("X-Original-Host", "evil.example"),
    ("X-Original-URL", "/i/studio/hero"),
    ("X-Rewrite-URL", "/i/studio/hero"),
    ("X-Original-URI", "/i/studio/hero?colour=blue"),
    ("X-HTTP-Method-Override", "POST"),
    ("X-HTTP-Method", "HEAD"),
    ("X-Method-Override", "DELETE"),
    ("True-Client-IP", "203.0.113.9"),
    ("X-Real-IP", "203.0.113.9"),
    ("X-Client-IP", "203.0.113.9"),
    ("CF-Connecting-IP", "203.0.113.9"),
    ("Fastly-Client-IP", "203.0.113.9"),
    ("Via", "1.1 evil.example"),
    ("Surrogate-Capability", "abc=\"Surrogate/1.0 ESI/1.0\""),
    ("CDN-Loop", "evil"),
    ("X-Wap-Profile", "http://evil.example/wap.xml"),
    ("Accept-Encoding", "gzip, br, zstd"),
    ("Accept-Encoding", "identity;q=0"),
    ("Accept-Language", "de-DE,de;q=0.9"),
    ("Accept-Charset", "utf-7"),
    ("Accept-Datetime", "Thu, 31 May 2007 20:35:00 GMT"),
    ("Cookie", "session=1; colour=blue"),
    ("Authorization", "Bearer abc"),
    ("Proxy-Authorization", "Basic YTpi"),
    ("Origin", "https://evil.example"),
    ("Referer", "https://evil.example/?colour=blue"),
    ("User-Agent", "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X)"),
    ("Save-Data", "on"),
    ("ECT", "2g"),
    ("Downlink", "0.1"),
    ("RTT", "3000"),
    ("DPR", "3"),
    ("Width", "2000"),
    ("Viewport-Width", "400"),
    ("Device-Memory", "0.25"),
    ("Sec-CH-DPR", "3"),
    ("Sec-CH-Width", "2000"),
    ("Sec-CH-Viewport-Width", "400"),
    ("Sec-CH-UA", "\"Evil\";v=\"1\""),
    ("Sec-CH-UA-Mobile", "?1"),
    ("Sec-CH-UA-Platform", "\"Android\""),
    ("Sec-CH-Prefers-Color-Scheme", "dark"),
    ("Sec-Fetch-Dest", "document"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Site", "cross-site"),
    ("Sec-Purpose", "prefetch"),
    ("Purpose", "prefetch"),
    ("Priority", "u=7, i"),
    ("Cache-Control", "no-cache"),
    ("Cache-Control", "no-store, max-age=0"),
    ("Cache-Control", "only-if-cached"),
    ("Pragma", "no-cache"),
    ("If-Modified-Since", "Fri, 31 Dec 2100 23:59:59 GMT"),
    ("If-Unmodified-Since", "Sat, 01 Jan 2000 00:00:00 GMT"),
    ("TE", "trailers"),
    ("Content-Type", "text/html"),
    ("DNT", "1"),
    ("Upgrade-Insecure-Requests", "1"),
    ("Range-Unit", "bytes"),
    ("X-Requested-With", "XMLHttpRequest"),
    ("X-Amz-Website-Redirect-Location", "https://evil.example"),
    ("X-Cache-Key", "/i/studio/hero"),
    ("X-Accel-Redirect", "/etc/passwd"),
    ("X-Sendfile", "/etc/passwd"),
    ("Trace-Parent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
];

/// Another host beside `:authority` is refused over HTTP/2 (RFC 9113 §8.3.1); the others are about the connection, which
/// HTTP/2 has no fields for.
const FIELDS_OF_HTTP1: &[(&str, &str)] = &[
    ("Host", "evil.example"),
    ("Host", "evil.example:8080"),
    ("Connection", "x-forwarded-host"),
    ("Connection", "accept, cache-control"),
    ("Keep-Alive", "timeout=5"),
    ("Proxy-Connection", "keep-alive"),
    ("Upgrade", "h2c"),
];

/// Both ways in, each on one connection that is kept.
struct Ways {
    one: Connection,
    two: SendRequest<Empty<Bytes>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Http1,
    Http2,
}

impl Ways {
    async fn open(to: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        let (two, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { one: Connection::open(to).await?, two })
    }

    /// With Chrome's `Accept` and perhaps one field more.
    async fn get(&mut self, way: Way, target: &str, field: Option<(&str, &str)>) -> anyhow::Result<Reply> {
        let mut fields = vec![("accept", CHROME)];
        fields.extend(field);
        match way {
            Way::Http1 => self.one.get(target, &fields).await,
            Way::Http2 => self.get_over_http2(target, &fields).await,
        }
        .with_context(|| format!("{way:?} {target} {field:?}"))
    }

    async fn get_over_http2(&mut self, target: &str, fields: &[(&str, &str)]) -> anyhow::Result<Reply> {
        let mut request = Request::get(format!("http://localhost{target}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let response = self.two.send_request(request.body(Empty::new())?).await?;
        let (parts, body) = response.into_parts();
        Ok(Reply { status: parts.status, headers: parts.headers, body: body.collect().await?.to_bytes() })
    }
}

/// An answer without the fields that name its time.
fn same(reply: &Reply, original: &Reply, what: &str) {
    let settled = |reply: &Reply| {
        let mut headers = reply.headers.clone();
        for name in ["date", "server-timing"] {
            headers.remove(name);
        }
        headers
    };
    assert_eq!(reply.status, original.status, "{what}");
    assert_eq!(reply.header("etag"), original.header("etag"), "{what}");
    assert_eq!(reply.header("vary"), original.header("vary"), "{what}");
    assert_eq!(settled(reply), settled(original), "{what}");
    assert!(reply.body == original.body, "{what}: other bytes");
}

/// The plain request's final answer from memory.
async fn warmed(rig: &Rig) -> anyhow::Result<Reply> {
    let mut last = None;
    eventually("the plain URL is final and in memory", async || {
        let reply = rig.http.image(rig.public(), PLAIN).await?;
        let is_final = !matches!(reply.header("cache-control"), "public, max-age=30" | "no-cache");
        let is_settled = is_final && reply.status == StatusCode::OK && reply.outcome() == "memory";
        last = Some(reply);
        Ok(is_settled)
    })
    .await?;
    last.context("an answer")
}

/// Each field with the warmed URL and with a new spelling, once and again, then the same without it.
#[tokio::test]
async fn no_request_field_but_accept_changes_an_answer() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    let original = warmed(&rig).await?;
    let calls = control.calls();
    assert_eq!((calls, original.header("vary")), (1, "Accept"));
    let mut ways = Ways::open(rig.public()).await?;
    for way in [Way::Http1, Way::Http2] {
        let only_here: &[_] = if way == Way::Http1 { FIELDS_OF_HTTP1 } else { &[] };
        for (number, field) in FIELDS.iter().chain(only_here).copied().enumerate() {
            let cold = format!("{PLAIN}&utm_source={way:?}-{number}");
            for (step, target, field) in [
                ("warmed", PLAIN, Some(field)),
                ("warmed, again", PLAIN, Some(field)),
                ("cold", &*cold, Some(field)),
                ("cold, again", &*cold, Some(field)),
                ("cold, then without it", &*cold, None),
                ("then without it", PLAIN, None),
            ] {
                let reply = ways.get(way, target, field).await?;
                same(&reply, &original, &format!("{way:?}, {step}: {field:?}"));
            }
        }
    }
    let contradicted = ways.get(Way::Http2, PLAIN, Some(("host", "evil.example"))).await?;
    assert_eq!(contradicted.status, StatusCode::BAD_REQUEST, "one request, two hosts");
    assert_eq!(control.calls(), calls, "a request field drew a picture");
    same(&rig.http.image(rig.public(), PLAIN).await?, &original, "at last");
    rig.stop().await;
    Ok(())
}

/// Every spelling gets the same answer. An ambiguous one is refused, and the refusal is not kept.
#[tokio::test]
async fn no_spelling_of_a_url_changes_an_answer() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    let original = warmed(&rig).await?;
    let calls = control.calls();
    let mut ways = Ways::open(rig.public()).await?;
    for (target, status) in [
        ("/i/studio/thumb?colour=red&product=mug", StatusCode::OK),
        ("/i/studio/thumb?PRODUCT=mug&Colour=red", StatusCode::OK),
        ("/i/studio/thumb?%70roduct=mug&colour=red", StatusCode::OK),
        ("/i/studio/thumb?product=%6d%75g&colour=r%65%64", StatusCode::OK),
        ("/i/studio/th%75mb?product=mug&colour=red", StatusCode::OK),
        ("/i/%73tudio/thumb?product=mug&colour=red", StatusCode::OK),
        ("/i/studio/thumb?product=mug&colour=red&utm_source=mail&utm_campaign=%3Cscript%3E", StatusCode::OK),
        ("/i/studio/thumb?gclid=a&product=mug&fbclid=b&colour=red&msclkid=c", StatusCode::OK),
        ("/i/studio/thumb?utm_source=a&utm_source=b&product=mug&colour=red", StatusCode::OK),
        ("/i/studio/thumb?&product=mug&&colour=red&", StatusCode::OK),
        ("/i/studio/thumb/a-red-mug?product=mug&colour=red", StatusCode::OK),
        ("/i/studio/thumb?product=mug&colour=red&w=90&dpr=1", StatusCode::OK),
        ("/i/studio/thumb?product=mug&colour=red&colour=red", StatusCode::BAD_REQUEST),
        ("/i/studio/thumb?product=mug&colour=red&colour=blue", StatusCode::BAD_REQUEST),
        ("/i/studio/thumb?product=mug&colour=red&COLOUR=blue", StatusCode::BAD_REQUEST),
        ("/i/studio/thumb?product=mug&colour=red&%63olour=blue", StatusCode::BAD_REQUEST),
        ("/i/studio/thumb?product=mug&colour=red&fm=webp&format=jpeg", StatusCode::BAD_REQUEST),
        ("/i/studio/thumb?product=mug&colour=red;colour=blue", StatusCode::BAD_REQUEST),
        ("/i/studio/thumb?product=mug&colour=red&callback=evil", StatusCode::BAD_REQUEST),
    ] {
        for way in [Way::Http1, Way::Http2, Way::Http1, Way::Http2] {
            let reply = ways.get(way, target, None).await?;
            assert_eq!(reply.status, status, "{way:?} {target}: {}", reply.text());
            if status == StatusCode::OK {
                same(&reply, &original, target);
            } else {
                assert_eq!((reply.header("cache-control"), reply.header("vary")), ("no-store", "Accept"), "{target}");
            }
            same(&ways.get(way, PLAIN, None).await?, &original, target);
        }
    }
    assert_eq!(control.calls(), calls, "a spelling drew a picture");
    rig.stop().await;
    Ok(())
}
