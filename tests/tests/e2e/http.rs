//! HTTP as clients and caches see it: wrong URLs, ranges, methods, beacons, reloads, TLS and HTTP/2.

use std::sync::Arc;

use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::client::eventually;
use bildkante_tests::rig::{Plan, Rig, Tls};
use bildkante_tests::tls::connect;
use bytes::Bytes;
use http::header::{ACCEPT, IF_RANGE, RANGE};
use http::{Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Any path and query get an answer or a problem that names its cause, no panic, and no generation.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_urls_are_problems_and_never_reach_the_node() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    for (path, status, named) in [
        ("/i/studio/hero?product=teapot", 400, "product"),
        ("/i/studio/hero?flavour=mint", 400, "flavour"),
        ("/i/studio/hero?w=-1", 400, "w"),
        ("/i/studio/hero?w=9999999", 400, "w"),
        ("/i/studio/hero?w=320&w=640", 400, "w"),
        ("/i/studio/hero?fm=bmp", 400, "fm"),
        ("/i/studio/hero?q=37", 400, "q"),
        ("/i/studio/hero?h=10", 400, "h"),
        ("/i/studio/attic", 404, "slot"),
        ("/i/spring/hero", 404, "campaign"),
    ] {
        let reply = rig.http.image(rig.public(), path).await?;
        assert_eq!(reply.status.as_u16(), status, "{path}: {}", reply.text());
        assert_eq!(reply.content_type(), "application/problem+json", "{path}");
        let problem = reply.json()?;
        assert_eq!(problem["parameter"], named, "{path}: {problem}");
        assert_eq!(problem["status"], status);
        assert_eq!(reply.header("vary"), "Accept", "{path}");
    }
    assert_eq!(control.calls(), 0, "a wrong URL reached the node");
    let token = "[a-z0-9&=%+;/?._~!$'()*,:@-]{0,40}";
    let paths = prop_oneof![
        token.prop_map(|rest| format!("/i/{rest}")),
        token.prop_map(|rest| format!("/i/studio/hero?{rest}")),
        ("[a-zA-Z-]{1,12}", "[ -~]{0,20}").prop_map(|(name, value)| {
            let value: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
            format!("/i/studio/thumb?{name}={value}")
        }),
    ];
    let handle = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() }).run(&paths, |path| {
            if path.parse::<http::Uri>().is_err() {
                return Ok(());
            }
            let calls = control.calls();
            let reply = handle
                .block_on(rig.http.image(rig.public(), &path))
                .map_err(|e| TestCaseError::fail(format!("{e:#}")))?;
            let is_image = reply.status == StatusCode::OK && reply.content_type().starts_with("image/");
            let is_problem = reply.status.is_client_error() && reply.content_type() == "application/problem+json";
            prop_assert!(is_image || control.calls() == calls, "{path} reached the node");
            prop_assert!(is_image || is_problem, "{path}: {} {}", reply.status, reply.content_type());
            Ok(())
        })
    })?;
    rig.stop().await;
    Ok(())
}

#[tokio::test]
async fn ranges_are_cut_from_the_whole_and_if_range_is_honoured() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    let path = "/i/studio/thumb?fm=webp";
    let whole = rig.http.image(rig.public(), path).await?;
    let part = rig.http.get(rig.public(), path, &[(RANGE, "bytes=10-19")]).await?;
    assert_eq!(part.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.body, whole.body.slice(10..20));
    assert_eq!(part.header("content-range"), format!("bytes 10-19/{}", whole.body.len()));
    let changed = rig.http.get(rig.public(), path, &[(RANGE, "bytes=10-19"), (IF_RANGE, "\"other\"")]).await?;
    assert_eq!((changed.status, changed.body), (StatusCode::OK, whole.body.clone()));
    let beyond = rig.http.get(rig.public(), path, &[(RANGE, "bytes=99999999-")]).await?;
    assert_eq!(beyond.status, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(beyond.header("content-range"), format!("bytes */{}", whole.body.len()));
    assert_eq!((beyond.header("cache-control"), beyond.header("cdn-cache-control")), ("no-store", "no-store"));
    rig.stop().await;
    Ok(())
}

#[tokio::test]
async fn methods_are_answered_as_they_should_be() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    let ask = async |method: Method, path: &str| rig.http.ask(method, rig.public(), path, &[]).await;
    let refused = ask(Method::POST, "/i/studio/hero").await?;
    assert_eq!(refused.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(refused.header("allow"), "GET, HEAD, OPTIONS");
    let preflight = ask(Method::OPTIONS, "/i/studio/hero").await?;
    assert_eq!(preflight.status, StatusCode::NO_CONTENT);
    assert_eq!(preflight.header("access-control-allow-origin"), "*");
    assert_eq!(ask(Method::GET, "/").await?.status, StatusCode::NOT_FOUND);
    let script = ask(Method::GET, "/rum.js").await?;
    assert!(script.content_type().starts_with("text/javascript"));
    assert!(script.text().contains("onLCP"));
    rig.stop().await;
    Ok(())
}

/// An edited manifest is served within moments; a broken one changes nothing and is reported.
#[tokio::test]
async fn a_campaign_is_reloaded_and_a_broken_one_is_not() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: |config| config.campaigns.reload_ms = 50, ..Plan::painted(&control) }).await?;
    let manifest = rig.dir.path().join("campaigns/studio.toml");
    let text = std::fs::read_to_string(&manifest)?;
    std::fs::write(&manifest, text.replace("[slots.thumb]", "[slots.stamp]"))?;
    eventually("the new slot is served", async || {
        Ok(rig.http.image(rig.public(), "/i/studio/stamp").await?.status.is_success())
    })
    .await?;
    std::fs::write(&manifest, "schema = \"broken")?;
    let valid = "bildkante_edge_catalog_valid";
    eventually("the broken manifest is reported", async || Ok(rig.http.metric(rig.admin(), valid).await? == 0.0))
        .await?;
    assert_eq!(rig.http.image(rig.public(), "/i/studio/stamp").await?.status, StatusCode::OK);
    rig.stop().await;
    Ok(())
}

/// Two variants whose URLs differ only in spelling share everything.
#[tokio::test]
async fn spellings_of_one_variant_share_one_rendition() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    let mut tags = std::collections::HashSet::new();
    for path in [
        "/i/studio/thumb?product=mug&colour=red&fm=webp",
        "/i/studio/thumb/a-red-mug?colour=red&product=mug&fm=webp",
        "/i/studio/thumb?COLOUR=red&FORMAT=webp&utm_source=mail&gclid=x",
        "/i/studio/thumb/red.webp?colour=red",
        "/i/studio/thumb?colour=red&fm=webp&w=90&dpr=1",
    ] {
        let reply = rig.http.get(rig.public(), path, &[(ACCEPT, "image/avif")]).await?;
        assert_eq!(reply.status, StatusCode::OK, "{path}: {}", reply.text());
        tags.insert(reply.header("etag").to_owned());
    }
    assert_eq!((tags.len(), control.calls()), (1, 1));
    rig.stop().await;
    Ok(())
}

/// Over TLS a client that offers HTTP/2 gets it; without TLS prior knowledge does. Both give the same bytes as HTTP/1.1.
#[tokio::test]
async fn http2_comes_by_alpn_and_by_prior_knowledge() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { tls: Tls::On, ..Plan::painted(&control) }).await?;
    let path = "/i/studio/thumb?fm=webp";
    let plain = rig.http.image(rig.public(), path).await?;

    let (address, certificate) = rig.https()?;
    let secure = connect(address, &[&certificate], None, b"h2").await?;
    assert_eq!(secure.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(get_over_http2(secure, "https", path).await?, plain.body);
    let older = connect(address, &[&certificate], None, b"http/1.1").await?;
    assert_eq!(older.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));

    let prior = TcpStream::connect(rig.public()).await?;
    assert_eq!(get_over_http2(prior, "http", path).await?, plain.body);
    rig.stop().await;
    Ok(())
}

async fn get_over_http2<T>(stream: T, scheme: &str, path: &str) -> anyhow::Result<Bytes>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(format!("{scheme}://localhost{path}")).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    assert_eq!((response.status(), response.version()), (StatusCode::OK, Version::HTTP_2));
    Ok(response.into_body().collect().await?.to_bytes())
}
