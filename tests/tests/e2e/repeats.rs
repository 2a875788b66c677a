//! Orders that are repeated with their `Idempotency-Key`, and refusals that a follower passes on: whichever edge is asked, the answer is
//! the same.

use std::net::SocketAddr;
use std::sync::Arc;

use bildkante_edge::listener::tls::AdminTlsConfig;
use bildkante_edge::shared_state::FollowConfig;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_shared::testing::write_secret;
use bildkante_tests::client::{Reply, eventually};
use bildkante_tests::pki::Authority;
use bildkante_tests::proxy::{Fault, Proxy};
use bildkante_tests::rig::{Plan, Rig};
use http::header::AUTHORIZATION;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::followers::follower;
use crate::purge::{TOKEN, with_tokens};
use crate::reviews::{make, reviewed, warming};

pub(crate) async fn order(rig: &Rig, to: SocketAddr, (path, key): (&str, &str), body: &Value) -> anyhow::Result<Reply> {
    let request = Request::builder().method(Method::POST).uri(format!("http://{to}/admin/v1/{path}"));
    let request = request.header("authorization", format!("Bearer {TOKEN}")).header("idempotency-key", key);
    rig.http.send(request.header("content-type", "application/json").body(Full::from(body.to_string()))?).await
}

async fn standing(rig: &Rig, to: SocketAddr) -> anyhow::Result<Value> {
    let bearer = format!("Bearer {TOKEN}");
    rig.http.get(to, "/admin/v1/state", &[(AUTHORIZATION, &bearer)]).await?.json()
}

fn kind(reply: &Reply) -> String {
    reply.json().ok().and_then(|problem| problem["type"].as_str().map(str::to_owned)).unwrap_or_default()
}

/// On the primary and on a follower: the same order has the same answer, another order with its key is refused, and a follower passes on
/// what the primary refuses.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_carried_out_once_whichever_edge_is_asked() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_tokens, manifest: reviewed, ..Plan::painted(&control) }).await?;
    let case = make(&rig).await?;
    let other = follower(&rig, "other", format!("http://{}", rig.admin())).await?;
    for (name, edge) in [("primary", rig.admin()), ("follower", other.admin)] {
        let key = |order: &str| format!("{name}-{order}");
        let (tag, elsewhere) = (json!({ "tag": "campaign:studio" }), json!({ "tag": "slot:studio/hero" }));
        let first = order(&rig, edge, ("purges", &key("purge")), &tag).await?;
        assert_eq!(first.status, StatusCode::OK, "{name}: {}", first.text());
        let again = order(&rig, edge, ("purges", &key("purge")), &tag).await?;
        assert_eq!(
            (again.status, again.json()?["id"].clone()),
            (StatusCode::OK, first.json()?["id"].clone()),
            "{name}"
        );
        let reused = order(&rig, edge, ("purges", &key("purge")), &elsewhere).await?;
        assert_eq!(reused.status, StatusCode::UNPROCESSABLE_ENTITY, "{name}: {}", reused.text());
        assert_eq!(kind(&reused), "/problems/key-reused", "{name}");

        let kill = json!({ "slot": "studio/hero", "why": "a test" });
        let killed = order(&rig, edge, ("kills", &key("kill")), &kill).await?;
        assert_eq!(killed.status, StatusCode::CREATED, "{name}: {}", killed.text());
        let again = order(&rig, edge, ("kills", &key("kill")), &kill).await?;
        assert_eq!((again.status, &again.json()?["seq"]), (StatusCode::OK, &killed.json()?["seq"]), "{name}");
        let reused = order(&rig, edge, ("kills", &key("kill")), &json!({ "slot": "studio/thumb", "why": "x" })).await?;
        assert_eq!((reused.status, kind(&reused).as_str()), (StatusCode::UNPROCESSABLE_ENTITY, "/problems/key-reused"));
        assert!(reused.json()?["detail"].as_str().is_some_and(|it| it.contains("belongs to another order")), "{name}");

        // Without `seen`: it means what it meant, although the case has moved on since.
        let path = format!("decisions/{}", case["id"]);
        let reject = json!({ "decision": "reject", "why": name });
        let rejected = order(&rig, edge, (&path, &key("reject")), &reject).await?;
        assert_eq!(rejected.status, StatusCode::OK, "{name}: {}", rejected.text());
        let changes = json!({ "decision": "request_changes", "why": name });
        let moved_on = order(&rig, edge, (&path, &key("changes")), &changes).await?;
        assert_eq!(moved_on.status, StatusCode::OK, "{name}: {}", moved_on.text());
        let again = order(&rig, edge, (&path, &key("reject")), &reject).await?;
        assert_eq!(again.status, StatusCode::OK, "{name}: {}", again.text());
        let reused = order(&rig, edge, (&path, &key("reject")), &json!({ "decision": "pause", "why": name })).await?;
        assert_eq!((reused.status, kind(&reused).as_str()), (StatusCode::UNPROCESSABLE_ENTITY, "/problems/key-reused"));
        // The moment's refusal, not a gateway's.
        let late = json!({ "decision": "reject", "why": "late", "seen": case["seen"] });
        let late = order(&rig, edge, (&path, &key("late")), &late).await?;
        assert_eq!(late.status, StatusCode::CONFLICT, "{name}: {}", late.text());
    }
    other.shut_down().await;
    rig.stop().await;
    Ok(())
}

/// A warming that is repeated is the job that it began, and a picture that is posted again is the candidate that it became.
#[tokio::test]
async fn warmings_and_imports_are_carried_out_once() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_tokens, ..Plan::painted(&control) }).await?;
    let first = order(&rig, rig.admin(), ("warm", "job"), &warming()).await?;
    assert_eq!(first.status, StatusCode::ACCEPTED, "{}", first.text());
    let again = order(&rig, rig.admin(), ("warm", "job"), &warming()).await?;
    assert_eq!((again.status, again.json()?["id"].clone()), (StatusCode::ACCEPTED, first.json()?["id"].clone()));
    let other = json!({ "campaign": "studio", "slot": "hero", "formats": ["webp"] });
    let reused = order(&rig, rig.admin(), ("warm", "job"), &other).await?;
    assert_eq!((reused.status, kind(&reused).as_str()), (StatusCode::UNPROCESSABLE_ENTITY, "/problems/key-reused"));

    let post = async |product: &str, key: &str| {
        let variant = format!("studio/thumb%3Fproduct%3D{product}");
        let uri = format!("http://{}/admin/v1/imports?variant={variant}&source=digitalCapture", rig.admin());
        let request = Request::post(uri).header("authorization", format!("Bearer {TOKEN}"));
        let request = request.header("idempotency-key", key).header("content-type", "image/png");
        rig.http.send(request.body(Full::from(picture()?))?).await
    };
    let stored = post("vase", "picture").await?;
    assert_eq!(stored.status, StatusCode::CREATED, "{}", stored.text());
    let again = post("vase", "picture").await?;
    assert_eq!((again.status, again.json()?), (StatusCode::OK, stored.json()?));
    let reused = post("ring", "picture").await?;
    assert_eq!((reused.status, kind(&reused).as_str()), (StatusCode::UNPROCESSABLE_ENTITY, "/problems/key-reused"));
    rig.stop().await;
    Ok(())
}

fn picture() -> anyhow::Result<Vec<u8>> {
    let mut png = std::io::Cursor::new(Vec::new());
    let pixels = image::RgbImage::from_fn(256, 256, |x, y| image::Rgb([x as u8, y as u8, 90]));
    pixels.write_to(&mut png, image::ImageFormat::Png)?;
    Ok(png.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_is_made_once() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let mut rig = Rig::start(Plan { edge: with_tokens, ..Plan::painted(&control) }).await?;
    let proxy = Proxy::start(rig.admin()).await?;
    let heir = follower(&rig, "heir", proxy.url()).await?;
    let early = order(&rig, rig.admin(), ("state/promote", "early"), &Value::Null).await?;
    assert_eq!((early.status, kind(&early).as_str()), (StatusCode::CONFLICT, "/problems/already-primary"));
    eventually("it was heard", async || {
        let standing = standing(&rig, heir.admin).await?;
        Ok(standing["is_stale"] == false)
    })
    .await?;
    proxy.set(Fault::Refuse);
    rig.stop_edge().await;
    let first = order(&rig, heir.admin, ("state/promote", "once"), &Value::Null).await?;
    assert_eq!(first.status, StatusCode::OK, "{}", first.text());
    let again = order(&rig, heir.admin, ("state/promote", "once"), &Value::Null).await?;
    assert_eq!((again.status, again.json()?), (StatusCode::OK, first.json()?));
    let second = order(&rig, heir.admin, ("state/promote", "twice"), &Value::Null).await?;
    assert_eq!(second.status, StatusCode::CONFLICT, "{}", second.text());
    heir.shut_down().await;
    rig.stop().await;
    Ok(())
}

/// A follower whose certificate is another authority's, and a primary whose authority the follower does not believe.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_certificate_is_named() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_tokens, ..Plan::painted(&control) }).await?;
    let dir = rig.dir.path();
    let (ours, theirs) = (Authority::new(dir, "ours")?, Authority::new(dir, "theirs")?);
    let (server, member, stranger) =
        (ours.identity(dir, "server")?, ours.identity(dir, "member")?, theirs.identity(dir, "stranger")?);
    let (certificate, key) = (server.certificate, server.key);
    let tls = AdminTlsConfig { certificate, key, client_ca: Some(ours.file.clone()), reload_ms: 1_000 };
    let primary = rig.another_edge("primary", move |config| config.listen.admin_tls = Some(tls)).await?;
    let token_file = dir.join("tls.token");
    write_secret(&token_file, TOKEN)?;
    let url = format!("https://localhost:{}", primary.admin.port());
    for (name, ca, shown, is_followed) in [
        ("member", &ours, &member, true),
        ("stranger", &ours, &stranger, false),
        ("distrustful", &theirs, &member, false),
    ] {
        let follow: FollowConfig = toml::from_str(&format!(
            "primary = \"{url}\"\ntoken_file = {token_file:?}\ntls = {{ ca = {:?}, certificate = {:?}, key = {:?} }}",
            ca.file, shown.certificate, shown.key
        ))?;
        let edge = rig.another_edge(name, move |config| config.state.follow = Some(follow)).await?;
        let mut trouble = Value::Null;
        let found = eventually("it follows, or says why not", async || {
            let standing = standing(&rig, edge.admin).await?;
            trouble = standing["trouble"].clone();
            let says = trouble.as_str().unwrap_or_default().to_lowercase();
            // Which of the two hears of it first is by chance: the alert, or a broken pipe.
            let is_named = says.contains("certificate") || says.contains("unknownca");
            Ok(if is_followed { standing["is_stale"] == false } else { is_named })
        });
        found.await.map_err(|error| error.context(format!("{name}: {trouble}")))?;
        edge.shut_down().await;
    }
    primary.shut_down().await;
    rig.stop().await;
    Ok(())
}
