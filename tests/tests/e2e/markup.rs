//! `/p/{campaign}/{slot}` as pages and caches see it: what it says of a picture, for how long, and to whom.

use std::sync::Arc;

use anyhow::{Context, ensure};
use bildkante_edge::request::{IgnoredParameters, MarkupRequest};
use bildkante_edge::signing::SigningKeys;
use bildkante_edge::words::clock::Clock;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::client::Reply;
use bildkante_tests::rig::{Plan, Rig};
use http::header::{ACCEPT, ACCEPT_ENCODING, IF_NONE_MATCH};
use http::{HeaderName, Method, StatusCode};
use serde_json::{Value, json};

use crate::kills::VASE;
use crate::purge::{admin, with_tokens};
use crate::reviews::{make, reviewed, ruled};
use crate::signing::{keys_file, signed, with_keys};

const MARKUP: &str = "/p/studio/thumb?product=vase";

async fn document(rig: &Rig, url: &str) -> anyhow::Result<(Reply, Value)> {
    let separator = if url.contains('?') { '&' } else { '?' };
    let reply = rig.http.get(rig.public(), &format!("{url}{separator}fm=json"), &[]).await?;
    ensure!(reply.status == StatusCode::OK, "{} {}", reply.status, reply.text());
    let document = reply.json()?;
    Ok((reply, document))
}

/// Every URL of the edge in a text, as a browser reads it from HTML.
fn urls(rig: &Rig, html: &str) -> Vec<String> {
    let origin = format!("http://{}", rig.public());
    let ends = |c: char| c == ' ' || c == '"' || c == ',' || c == '>';
    let found = html.split(origin.as_str()).skip(1).map(|rest| rest.split(ends).next().unwrap_or_default());
    found.map(|url| url.replace("&amp;", "&")).collect()
}

#[tokio::test]
async fn a_fragment_names_pictures_that_are_answered() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    let (reply, undrawn) = document(&rig, MARKUP).await?;
    assert_eq!((&undrawn["live"], &undrawn["state"]), (&json!(false), &json!("undrawn")));
    assert_eq!((undrawn.get("image_object"), undrawn.get("pinned_url")), (None, None));
    assert_eq!(reply.header("cache-control"), "no-cache", "{:?}", reply.headers);
    assert_eq!(control.calls(), 0, "nothing is drawn for markup");

    let html = rig.http.get(rig.public(), MARKUP, &[(ACCEPT, "text/html")]).await?;
    assert_eq!(html.content_type(), "text/html; charset=utf-8");
    let urls = urls(&rig, &html.text());
    assert_eq!(urls.len(), 13, "{}", html.text());
    for url in &urls {
        let picture = rig.http.image(rig.public(), url).await?;
        assert_eq!(picture.status, StatusCode::OK, "{url}: {}", picture.text());
    }
    let (reply, drawn) = document(&rig, MARKUP).await?;
    assert_eq!((&drawn["live"], &drawn["markup"]), (&json!(true), &json!(html.text())));
    assert_eq!(reply.header("cache-control"), "public, max-age=60, must-revalidate");
    assert!(reply.header("cdn-cache-control").starts_with("max-age=300"), "{:?}", reply.headers);
    let picture = rig.http.image(rig.public(), VASE).await?;
    for field in ["cache-tag", "surrogate-key"] {
        assert_eq!(reply.header(field), picture.header(field), "purges reach both by the same tags");
    }
    let pinned = drawn["pinned_url"].as_str().context("it is live")?;
    let pinned = rig.http.image(rig.public(), pinned.split_once(&rig.public().to_string()).context("ours")?.1).await?;
    assert_eq!(pinned.status, StatusCode::OK);
    rig.stop().await;
    Ok(())
}

#[tokio::test]
async fn forms_are_chosen_by_url_or_accept_and_kept_apart_by_caches() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    rig.http.image(rig.public(), VASE).await?;
    let get = async |url: &str, fields: &[(HeaderName, &str)]| rig.http.get(rig.public(), url, fields).await;
    for (accept, media_type) in [
        ("*/*", "text/html; charset=utf-8"),
        ("application/json", "application/json"),
        ("application/ld+json, text/html;q=0.5", "application/ld+json"),
    ] {
        let reply = get(MARKUP, &[(ACCEPT, accept)]).await?;
        assert_eq!((reply.content_type(), reply.header("vary")), (media_type, "Accept, Accept-Encoding"));
    }
    for (form, start) in [
        ("html", "<picture data-variant="),
        ("json", "{\"campaign\":\"studio\""),
        ("jsonld", "{\"@context\":\"https://schema.org\",\"@type\":\"ImageObject\""),
        // Of a lazy slot there is nothing to preload.
        ("preload", ""),
        ("meta", "<meta property=\"og:"),
        ("mail", "<img src=\"http://"),
    ] {
        let url = format!("{MARKUP}&fm={form}");
        let reply = get(&url, &[]).await?;
        assert!(reply.text().starts_with(start), "{form}: {}", reply.text());
        assert_eq!(reply.body.is_empty(), start.is_empty(), "{form}: {}", reply.text());
        assert_eq!(reply.header("vary"), "Accept-Encoding", "{form}");
        assert_eq!((reply.header("access-control-allow-origin"), reply.header("x-robots-tag")), ("*", "noindex"));
        assert!(
            !reply.headers.contains_key("set-cookie") && reply.header("content-security-policy").contains("sandbox")
        );
        let etag = reply.header("etag").to_owned();
        let again = get(&url, &[(IF_NONE_MATCH, &etag)]).await?;
        assert_eq!((again.status, again.body.len(), again.header("etag")), (StatusCode::NOT_MODIFIED, 0, &*etag));
        let head = rig.http.ask(Method::HEAD, rig.public(), &url, &[]).await?;
        assert_eq!((head.body.len(), head.header("content-length")), (0, reply.header("content-length")), "{form}");
        let packed = get(&url, &[(ACCEPT_ENCODING, "br")]).await?;
        let is_packed = packed.header("content-encoding") == "br" && packed.body.len() < reply.body.len();
        assert_eq!(is_packed, reply.body.len() >= 860, "{form}");
    }
    let hero = get("/p/studio/hero?product=vase&fm=preload", &[]).await?.text();
    assert!(hero.starts_with("<http://") && hero.contains("; rel=preload; as=image; "), "{hero}");
    rig.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_wrong_url_is_refused_with_what_is_allowed() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    for (url, status, kind, allowed) in [
        ("/p/studio/thumb?size=1", 400, "unknown-parameter", "v"),
        ("/p/studio/thumb?product=car", 400, "unknown-value", "vase"),
        ("/p/studio/thumb?w=96", 400, "parameter-of-images", "fm"),
        ("/p/studio/thumb?fm=avif", 400, "malformed-value", "preload"),
        ("/p/studio/poster", 404, "unknown-slot", "thumb"),
        ("/p/nothing/thumb", 404, "unknown-campaign", ""),
        ("/p/studio", 404, "not-markup", ""),
        ("/p/studio/thumb?s=x", 400, "incomplete-signature", ""),
        ("/p/studio/thumb?s=x&kid=y", 403, "signing-not-configured", ""),
    ] {
        let reply = rig.http.get(rig.public(), url, &[]).await?;
        let problem = reply.json()?;
        assert_eq!((reply.status.as_u16(), &problem["type"]), (status, &json!(format!("/problems/{kind}"))), "{url}");
        let listed = problem["allowed"].as_array().cloned().unwrap_or_default();
        assert!(allowed.is_empty() || listed.contains(&json!(allowed)), "{url}: {problem}");
    }
    let refused = rig.http.ask(Method::POST, rig.public(), MARKUP, &[]).await?;
    assert_eq!((refused.status, refused.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD, OPTIONS"));
    assert_eq!(rig.http.ask(Method::OPTIONS, rig.public(), MARKUP, &[]).await?.status, StatusCode::NO_CONTENT);
    rig.stop().await;
    Ok(())
}

#[tokio::test]
async fn what_people_did_not_approve_or_took_back_is_described_to_nobody() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let plan = Plan { edge: with_tokens, manifest: reviewed, ..Plan::painted(&control) };
    let rig = Rig::start(plan).await?;
    let (reply, awaited) = document(&rig, MARKUP).await?;
    assert_eq!((&awaited["live"], &awaited["state"]), (&json!(false), &json!("awaiting-decision")));
    assert_eq!((reply.header("cache-control"), awaited.get("image_object")), ("no-store", None));
    let case = make(&rig).await?;
    assert_eq!(document(&rig, MARKUP).await?.1["live"], false);

    ruled(&rig, &case, json!({ "decision": "approve", "seen": case["seen"] })).await?;
    let (_, live) = document(&rig, MARKUP).await?;
    assert_eq!((&live["live"], &live["markup"]), (&json!(true), &awaited["markup"]));
    assert_eq!(live["image_object"]["@type"], "ImageObject");
    assert_eq!(live["recipe"], case["recipe"]);

    let order = json!({ "slot": "studio/thumb", "why": "a test" });
    let killed = admin(&rig, Method::POST, "/admin/v1/kills", Some(order)).await?;
    assert_eq!(killed.status, StatusCode::CREATED, "{}", killed.text());
    let (reply, killed) = document(&rig, MARKUP).await?;
    assert_eq!((&killed["live"], killed.get("structured_data")), (&json!(false), None));
    assert_eq!((&killed["state"], reply.header("cdn-cache-control")), (&json!("killed"), "max-age=5"));
    rig.stop().await;
    Ok(())
}

fn signing_required(text: String) -> String {
    text.replace("signing = \"optional\"", "signing = \"required\"")
}

/// A signed request for markup gets URLs that end when its signature does; an unsigned one gets none.
#[tokio::test]
async fn markup_of_signed_campaigns_is_signed_and_hands_out_signed_urls() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_keys, manifest: signing_required, ..Plan::painted(&control) }).await?;
    let unsigned = rig.http.get(rig.public(), MARKUP, &[]).await?;
    assert_eq!(
        (unsigned.status, &unsigned.json()?["type"]),
        (StatusCode::FORBIDDEN, &json!("/problems/signature-required"))
    );

    let keys = SigningKeys::parse(&std::fs::read_to_string(keys_file(&rig))?)?;
    let now_s = Clock::System.unix_s();
    let request = MarkupRequest::parse("/p/studio/thumb", Some("product=vase&fm=html"), &IgnoredParameters::default())?;
    let url = keys.sign(&request, None, Some(now_s + 50), now_s)?.canonical();
    let reply = rig.http.get(rig.public(), &url, &[]).await?;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    let urls = urls(&rig, &reply.text());
    assert_eq!(urls.len(), 13, "{}", reply.text());
    for url in &urls {
        assert!(url.contains(&format!("expires={}", now_s + 50)), "{url}");
        assert_eq!(rig.http.image(rig.public(), url).await?.status, StatusCode::OK, "{url}");
    }
    // A signature of an image is none of its markup.
    let image = signed(&rig, "/i/studio/thumb?product=vase", None)?;
    let other = rig.http.get(rig.public(), &image.replacen("/i/", "/p/", 1), &[]).await?;
    assert_eq!((other.status, &other.json()?["type"]), (StatusCode::FORBIDDEN, &json!("/problems/wrong-signature")));
    rig.stop().await;
    Ok(())
}
