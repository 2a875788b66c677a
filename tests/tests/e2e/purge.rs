//! Taking images out of circulation, over the admin API: hard and soft, across restarts and with a node that is gone.

use std::sync::Arc;

use bildkante_edge::admin::token::{TokenConfig, TokenScope, hash};
use bildkante_edge::config::Config;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::client::{Reply, eventually};
use bildkante_tests::rig::{Plan, Rig};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

pub(crate) const TOKEN: &str = "bk_0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const READER: &str = "bk_fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";
const PURGES: &str = "/admin/v1/purges";

pub(crate) fn with_tokens(config: &mut Config) {
    use TokenScope::{Audit, Gate, Import, Kill, Purge, Read, Review, State, Warm};
    let token = |name: &str, text, scopes| TokenConfig { name: name.to_owned(), hash: hash(text), scopes };
    config.admin.tokens = vec![
        token("tests", TOKEN, vec![Read, Purge, Warm, Kill, Review, Audit, State, Gate, Import]),
        token("reader", READER, vec![TokenScope::Read]),
    ];
}

pub(crate) async fn admin(rig: &Rig, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Reply> {
    ask(
        rig,
        method,
        path,
        &[(AUTHORIZATION.as_str(), &format!("Bearer {TOKEN}")), JSON],
        body.map(|body| body.to_string()),
    )
    .await
}

const JSON: (&str, &str) = ("content-type", "application/json");

async fn ask(
    rig: &Rig,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<String>,
) -> anyhow::Result<Reply> {
    let mut request = Request::builder().method(method).uri(format!("http://{}{path}", rig.admin()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    rig.http.send(request.body(Full::new(Bytes::from(body.unwrap_or_default())))?).await
}

async fn purge(rig: &Rig, body: Value) -> anyhow::Result<Value> {
    let reply = admin(rig, Method::POST, PURGES, Some(body)).await?;
    anyhow::ensure!(reply.status == StatusCode::OK, "{} {}", reply.status, reply.text());
    reply.json()
}

async fn outcome(rig: &Rig, path: &str) -> anyhow::Result<String> {
    Ok(rig.http.image(rig.public(), path).await?.outcome().to_owned())
}

/// Until it is answered from memory, twice: the second time from the front map.
async fn warm(rig: &Rig, path: &str) -> anyhow::Result<()> {
    eventually("it is in memory", async || {
        Ok(outcome(rig, path).await? == "memory" && outcome(rig, path).await? == "memory")
    })
    .await
}

/// For each scope: the images that it names are rendered again, others are not, and no node is asked.
#[tokio::test]
async fn a_hard_purge_takes_what_it_names_and_nothing_else() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let mut rig = Rig::start(Plan { edge: with_tokens, ..Plan::painted(&control) }).await?;
    let (hit, other) = ("/i/studio/thumb?product=vase&fm=webp", "/i/studio/thumb?product=cube&fm=webp");
    for path in [hit, other] {
        warm(&rig, path).await?;
    }
    let tags = rig.http.image(rig.public(), hit).await?.header("cache-tag").to_owned();
    let tag = |kind: &str| tags.split(',').find(|tag| tag.starts_with(kind)).unwrap_or_default().to_owned();
    for scope in [
        json!({ "url": "/i/studio/thumb?product=vase&fm=webp" }),
        json!({ "variant": "studio/thumb?product=vase" }),
        json!({ "tag": tag("recipe:") }),
        json!({ "tag": tag("master:") }),
    ] {
        purge(&rig, scope.clone()).await?;
        assert_eq!(outcome(&rig, hit).await?, "rendered", "{scope}");
        assert_eq!(outcome(&rig, other).await?, "memory", "{scope}");
        warm(&rig, hit).await?;
    }
    for scope in [json!({ "campaign": "studio" }), json!({ "tag": "slot:studio/thumb" }), json!({ "everything": true })]
    {
        purge(&rig, scope.clone()).await?;
        assert_eq!(outcome(&rig, hit).await?, "rendered", "{scope}");
        assert_eq!(outcome(&rig, other).await?, "rendered", "{scope}");
        for path in [hit, other] {
            warm(&rig, path).await?;
        }
    }
    purge(&rig, json!({ "campaign": "another" })).await?;
    assert_eq!(outcome(&rig, hit).await?, "memory");
    assert_eq!(control.calls(), 2, "a master that is there is never drawn again");

    // Images on disk are purged like those in memory, also after a restart.
    purge(&rig, json!({ "campaign": "studio", "why": "a test" })).await?;
    rig.stop_edge().await;
    rig.start_edge().await?;
    assert_eq!(outcome(&rig, hit).await?, "rendered");
    let listed = admin(&rig, Method::GET, PURGES, None).await?.json()?;
    let newest = &listed["purges"][0];
    assert_eq!((&newest["by"], &newest["why"]), (&json!("tests"), &json!("a test")));
    let one = admin(&rig, Method::GET, &format!("{PURGES}/{}", newest["id"]), None).await?.json()?;
    assert_eq!(&one, newest);
    rig.stop().await;
    Ok(())
}

/// A soft purge: every reader gets the stale image at once and the fresh one a moment later, and none gets an error.
#[tokio::test]
async fn a_soft_purge_serves_stale_while_it_revalidates() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_tokens, ..Plan::painted(&control) }).await?;
    let path = "/i/studio/thumb?product=vase&fm=webp";
    warm(&rig, path).await?;
    let before = rig.http.image(rig.public(), path).await?;
    purge(&rig, json!({ "variant": "studio/thumb?product=vase", "kind": "soft" })).await?;
    let stale = rig.http.image(rig.public(), path).await?;
    assert_eq!(stale.outcome(), "stale", "{:?}", stale.headers);
    assert!(
        stale.header("cache-status").starts_with("bildkante; hit; ttl=-0; ")
            || stale.header("cache-status").contains("hit; ttl=-")
    );
    assert_eq!((stale.header("cache-control"), stale.body.clone()), ("no-cache", before.body.clone()));
    assert_eq!(stale.header("cdn-cache-control"), "max-age=5, stale-while-revalidate=30");
    assert_eq!(stale.header("x-robots-tag"), "");
    eventually("it is fresh again, without ever being absent", async || {
        let outcome = outcome(&rig, path).await?;
        anyhow::ensure!(matches!(outcome.as_str(), "stale" | "memory"), "{outcome}");
        Ok(outcome == "memory")
    })
    .await?;
    assert_eq!(rig.http.image(rig.public(), path).await?.header("etag"), before.header("etag"));
    assert_eq!(control.calls(), 1);
    rig.http.counts(rig.admin(), "bildkante_edge_refreshes_total{outcome=\"done\"}", 1.0).await?;
    rig.stop().await;
    Ok(())
}

/// A soft purge of masters while no node can draw: the old image is shown until a node is back.
#[tokio::test]
async fn stale_if_error_outlasts_a_node() -> anyhow::Result<()> {
    fn no_revalidation(config: &mut Config) {
        with_tokens(config);
        config.purge.stale_while_revalidate_s = 0;
    }
    let control = Arc::new(FakeControl::default());
    let mut rig = Rig::start(Plan { edge: no_revalidation, ..Plan::painted(&control) }).await?;
    let path = "/i/studio/hero?product=vase&fm=webp";
    warm(&rig, path).await?;
    rig.stop_node().await;
    purge(&rig, json!({ "campaign": "studio", "kind": "soft", "reach": "masters" })).await?;
    let stale = rig.http.image(rig.public(), path).await?;
    assert_eq!(stale.outcome(), "stale", "{:?}", stale.headers);
    rig.start_node().await?;
    rig.ready().await?;
    eventually("it is fresh again", async || Ok(outcome(&rig, path).await? == "memory")).await?;
    // A hard purge leaves nothing to show.
    rig.stop_node().await;
    purge(&rig, json!({ "campaign": "studio", "reach": "masters" })).await?;
    let gone = rig.http.image(rig.public(), path).await?;
    assert!(gone.outcome().starts_with("placeholder"), "{:?}", gone.headers);
    rig.stop().await;
    Ok(())
}

/// 1,000 requests around purges: a request after an acknowledged purge never gets an image from before it.
#[tokio::test]
async fn nothing_from_before_an_acknowledged_purge_is_served_after_it() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_tokens, ..Plan::painted(&control) }).await?;
    let path = "/i/studio/thumb?product=vase&fm=webp";
    warm(&rig, path).await?;
    for round in 0..20 {
        let storm: Vec<_> = (0..25)
            .map(|_| {
                let (http, to) = (rig.http.clone(), rig.public());
                tokio::spawn(async move { http.image(to, path).await })
            })
            .collect();
        purge(&rig, json!({ "campaign": "studio" })).await?;
        let after = outcome(&rig, path).await?;
        // Rendered for this request, or for one of the storm that came after the purge too.
        let renders =
            "bildkante_edge_requests_total{campaign=\"studio\",format=\"webp\",outcome=\"rendered\",slot=\"thumb\"}";
        for reply in storm {
            assert_eq!(reply.await??.status, StatusCode::OK);
        }
        assert!(matches!(after.as_str(), "rendered" | "memory"), "{after}");
        let has_rendered = async || Ok(rig.http.metric(rig.admin(), renders).await? >= f64::from(round + 1));
        eventually("each purge costs a rendering", has_rendered).await?;
    }
    rig.stop().await;
    Ok(())
}

/// Each wrong request, and its answer.
#[tokio::test]
async fn wrong_requests_are_told_what_is_wrong() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_tokens, ..Plan::painted(&control) }).await?;
    let bearer = |token: &str| format!("Bearer {token}");
    let (ours, reader, unknown) = (bearer(TOKEN), bearer(READER), bearer("bk_00"));
    let post = async |token: &str, kind: &str, body: &str| {
        let headers = [(AUTHORIZATION.as_str(), token), (CONTENT_TYPE.as_str(), kind)];
        ask(&rig, Method::POST, PURGES, &headers, Some(body.to_owned())).await
    };
    let everything = r#"{"everything":true}"#;
    let refused = ask(&rig, Method::POST, PURGES, &[JSON], Some(everything.to_owned())).await?;
    assert_eq!((refused.status.as_u16(), refused.header("www-authenticate")), (401, "Bearer realm=\"bildkante\""));
    assert_eq!(refused.content_type(), "application/problem+json");
    assert_eq!(refused.header("cache-control"), "no-store");
    let refused = post(&unknown, "application/json", everything).await?;
    assert!(refused.status == 401 && refused.header("www-authenticate").contains("invalid_token"));
    let refused = post(&reader, "application/json", everything).await?;
    assert!(refused.status == 403 && refused.header("www-authenticate").contains("scope=\"purge\""));
    for (kind, body, status, parameter) in [
        ("text/plain", everything, 415, ""),
        ("application/json", "{", 400, ""),
        ("application/json", "[]", 422, ""),
        ("application/json", "{}", 422, "url"),
        ("application/json; charset=utf-8", r#"{"tag":"colour:teal"}"#, 422, "tag"),
        ("application/json", r#"{"tag":7}"#, 422, "tag"),
        ("application/json", r#"{"url":"/i/studio/nowhere"}"#, 422, "url"),
        ("application/json", r#"{"campaign":"a","everything":true}"#, 422, "everything"),
        ("application/json", r#"{"campaign":"a","kind":"gentle"}"#, 422, "kind"),
        ("application/json", r#"{"campaign":"a","campain":"b"}"#, 422, "campain"),
        ("application/json", &format!(r#"{{"campaign":"{}"}}"#, "a".repeat(70_000)), 413, ""),
    ] {
        let refused = post(&ours, kind, body).await?;
        let shown: String = body.chars().take(60).collect();
        assert_eq!(refused.status.as_u16(), status, "{shown}: {}", refused.text());
        let problem = refused.json()?;
        assert_eq!(problem["parameter"].as_str().unwrap_or_default(), parameter, "{shown}");
    }
    let refused = admin(&rig, Method::DELETE, PURGES, None).await?;
    assert_eq!((refused.status.as_u16(), refused.header("allow")), (405, "GET, HEAD, POST"));
    for path in ["/admin/v1/", "/admin/v1/nothing", "/admin/v1/purges/7", "/admin/v1/purges/x"] {
        assert_eq!(admin(&rig, Method::GET, path, None).await?.status, StatusCode::NOT_FOUND, "{path}");
    }
    let status =
        ask(&rig, Method::GET, "/admin/v1/status", &[(AUTHORIZATION.as_str(), &reader)], None).await?.json()?;
    assert_eq!(status["nodes"][0]["state"], "healthy");
    assert_eq!(status["purge"]["marks"], 0, "nothing of all that was carried out");
    rig.stop().await;

    let rig = Rig::start(Plan::painted(&control)).await?;
    let refused = admin(&rig, Method::POST, PURGES, Some(json!({ "everything": true }))).await?;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(refused.text().contains("bildkante-edge token"), "{}", refused.text());
    rig.stop().await;
    Ok(())
}
