//! httplint reads our messages as they are on the wire, and finds none that is bad.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::client::{CHROME, eventually};
use bildkante_tests::raw::{Connection, request};
use bildkante_tests::rig::{Plan, Rig};
use bildkante_tests::{judge, repository};
use http::Method;
use serde_json::json;

use crate::purge::{TOKEN, admin as admin_call, with_tokens};

const TEST: &str = "no_message_is_bad_to_httplint";
const IMAGE: &str = "/i/studio/thumb?product=mug";
const MARKUP: &str = "/p/studio/thumb?product=mug";

/// Notes that do not blame the answer: the test asks for a 414, and its note is about the URL that was sent.
const EXPECTED: [(&str, &str); 1] = [("too-long", "STATUS_URI_TOO_LONG")];

/// One exchange: file name, expected status, method, target, fields.
type Class<'a> = (&'static str, u16, &'static str, &'a str, &'a [(&'static str, &'a str)]);

/// Sends each request and writes both messages down.
async fn record(connection: &mut Connection, folder: &Path, classes: &[Class<'_>]) -> anyhow::Result<()> {
    for (name, status, method, target, fields) in classes {
        let mut fields = fields.to_vec();
        if !fields.iter().any(|(name, _)| *name == "accept") {
            fields.push(("accept", CHROME));
        }
        let text = request(method, target, &fields);
        let answer = connection.send(&text).await?;
        assert_eq!(answer.reply.status.as_u16(), *status, "{name}: {}", answer.reply.text());
        std::fs::write(folder.join(format!("{name}.request")), text)?;
        std::fs::write(folder.join(format!("{name}.response")), answer.bytes)?;
    }
    Ok(())
}

#[tokio::test]
async fn no_message_is_bad_to_httplint() -> anyhow::Result<()> {
    let Some(python) = judge::named("BILDKANTE_HTTPLINT", "httplint", TEST)? else { return Ok(()) };
    let control = Arc::new(FakeControl::default());
    let impatient: fn(String) -> String = |text| text.replace("wait_ms = 20000", "wait_ms = 100");
    let rig = Rig::start(Plan { manifest: impatient, edge: with_tokens, ..Plan::painted(&control) }).await?;
    let folder = tempfile::tempdir()?;
    let mut public = Connection::open(rig.public()).await?;

    control.hold();
    let classes: &[Class<'_>] = &[("stand-in", 200, "GET", "/i/studio/hero?product=ring", &[])];
    record(&mut public, folder.path(), classes).await?;
    control.release();

    let mut etag = String::new();
    eventually("the image is in memory", async || {
        let reply = rig.http.image(rig.public(), IMAGE).await?;
        reply.header("etag").clone_into(&mut etag);
        Ok(reply.outcome() == "memory" && reply.header("cache-control") != "public, max-age=30")
    })
    .await?;
    let unsatisfiable = [("range", "bytes=99999999-")];
    let (matching, other) = ([("if-none-match", etag.as_str())], [("if-match", "\"other\"")]);
    let preflight = [
        ("origin", "https://shop.example"),
        ("access-control-request-method", "GET"),
        ("access-control-request-headers", "range"),
    ];
    let long = format!("/i/studio/thumb?colour={}", "a".repeat(5000));
    let classes: &[Class<'_>] = &[
        ("final", 200, "GET", IMAGE, &[]),
        ("final-long-way", 200, "GET", "/i/studio/thumb?product=mug&utm_source=x", &[]),
        ("explicit", 200, "GET", "/i/studio/thumb?product=mug&fm=webp", &[]),
        ("hints", 200, "GET", "/i/studio/thumb?product=mug&w=auto", &[("sec-ch-dpr", "2")]),
        ("saving", 200, "GET", "/i/studio/thumb?product=mug&save-data=auto", &[("save-data", "on")]),
        ("head", 200, "HEAD", IMAGE, &[]),
        ("partial", 206, "GET", IMAGE, &[("range", "bytes=10-19")]),
        ("not-modified", 304, "GET", IMAGE, &matching),
        ("bad-request", 400, "GET", "/i/studio/thumb?flavour=mint", &[]),
        ("forbidden", 403, "GET", "/i/studio/thumb?w=96&kid=no&s=AAAAAAAAAAAAAAAAAAAAAA", &[]),
        ("not-found", 404, "GET", "/i/studio/attic", &[]),
        ("nothing-here", 404, "GET", "/", &[]),
        ("method", 405, "DELETE", IMAGE, &[]),
        ("precondition", 412, "GET", IMAGE, &other),
        ("too-long", 414, "GET", &long, &[]),
        ("range", 416, "GET", IMAGE, &unsatisfiable),
        ("preflight", 204, "OPTIONS", IMAGE, &preflight),
        ("options", 204, "OPTIONS", IMAGE, &[]),
        ("script", 200, "GET", "/rum.js", &[]),
        ("script-brotli", 200, "GET", "/rum.js", &[("accept-encoding", "br")]),
        ("script-head", 200, "HEAD", "/rum.js", &[]),
        ("markup", 200, "GET", MARKUP, &[("accept", "text/html")]),
        ("markup-brotli", 200, "GET", MARKUP, &[("accept-encoding", "br")]),
        ("markup-head", 200, "HEAD", MARKUP, &[]),
        ("markup-matching", 304, "GET", MARKUP, &[("if-none-match", "*")]),
        ("markup-undrawn", 200, "GET", "/p/studio/hero?product=lamp&fm=json", &[]),
        ("markup-bad-request", 400, "GET", "/p/studio/thumb?w=96", &[]),
    ];
    record(&mut public, folder.path(), classes).await?;
    let mut admin = Connection::open(rig.admin()).await?;
    let classes: &[Class<'_>] = &[
        ("admin-metrics", 200, "GET", "/metrics", &[("accept", "text/plain")]),
        ("admin-ready", 200, "GET", "/readyz", &[("accept", "application/json")]),
        ("admin-method", 405, "POST", "/metrics", &[("content-length", "0")]),
    ];
    record(&mut admin, folder.path(), classes).await?;
    // After a request that the lane does not take, hyper answers the rest of the connection.
    let mut hyper = Connection::open(rig.public()).await?;
    let classes: &[Class<'_>] = &[
        ("hyper-final", 200, "GET", IMAGE, &[("content-length", "0")]),
        ("hyper-partial", 206, "GET", IMAGE, &[("range", "bytes=10-19")]),
        ("hyper-not-modified", 304, "GET", IMAGE, &matching),
        ("hyper-not-found", 404, "GET", "/i/studio/attic", &[]),
        ("beacon-method", 405, "GET", "/rum", &[]),
        ("beacon-malformed", 400, "POST", "/rum", &[("content-length", "0")]),
        ("beacon-options", 204, "OPTIONS", "/rum", &[]),
        ("no-host", 400, "GET", IMAGE, &[("host", "a b")]),
    ];
    record(&mut hyper, folder.path(), classes).await?;
    let bearer = format!("Bearer {TOKEN}");
    let mut api = Connection::open(rig.admin()).await?;
    let classes: &[Class<'_>] = &[
        ("api-anonymous", 401, "GET", "/admin/v1/purges", &[]),
        ("api-list", 200, "GET", "/admin/v1/purges", &[("authorization", &bearer)]),
        ("api-nothing", 404, "GET", "/admin/v1/nothing", &[("authorization", &bearer)]),
        ("api-empty", 415, "POST", "/admin/v1/purges", &[("authorization", &bearer), ("content-length", "0")]),
    ];
    record(&mut api, folder.path(), classes).await?;
    control.hold();
    admin_call(&rig, Method::POST, "/admin/v1/purges", Some(json!({ "url": IMAGE, "kind": "soft" }))).await?;
    let mut public = Connection::open(rig.public()).await?;
    let classes: &[Class<'_>] = &[("stale", 200, "GET", IMAGE, &[])];
    record(&mut public, folder.path(), classes).await?;
    control.release();
    rig.stop().await;

    let lint = repository().join("tests/setup/httplint/lint.py");
    let verdict = judge::run(&python, &[lint.to_str().context("a path in UTF-8")?], folder.path())?;
    let lines: Vec<serde_json::Value> = verdict.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let read = lines.iter().filter(|line| line["status"].is_u64() && line["notes"].as_u64() > Some(0)).count();
    let recorded = std::fs::read_dir(folder.path())?.count() / 2;
    assert_eq!((read, recorded), (44, 44), "each message was read: {verdict}");
    let text = |line: &serde_json::Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let bad: Vec<_> = lines.iter().filter(|line| line["level"] == "bad").collect();
    let named: Vec<_> = bad.iter().map(|line| (text(line, "name"), text(line, "note"))).collect();
    let expected: Vec<_> = EXPECTED.iter().map(|(name, note)| ((*name).to_owned(), (*note).to_owned())).collect();
    assert_eq!(named, expected, "{bad:#?}");
    Ok(())
}
