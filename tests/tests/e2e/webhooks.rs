//! Webhooks: signed, in order, delivered in spite of failures and restarts, given up and sent again.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use bildkante_edge::config::{Config, ConfigFile};
use bildkante_edge::shared_state::FollowConfig;
use bildkante_edge::webhooks::{EventKind, WebhookEndpoint};
use bildkante_gpu_node::testing::FakeControl;
use bildkante_shared::testing::write_secret;
use bildkante_tests::client::{Http, eventually};
use bildkante_tests::pki::{Authority, Identity};
use bildkante_tests::rig::{Plan, Rig};
use bildkante_tests::{program, repository};
use bytes::Bytes;
use data_encoding::BASE64;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use ring::hmac;
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider as ring_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::process::Command;
use tokio_rustls::TlsAcceptor;

use crate::processes::serves;
use crate::purge::{TOKEN, admin, with_tokens};
use crate::reviews::{make, reviewed};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// How old a message may be for a receiver, as libraries of the standard have it.
const TOLERANCE_S: u64 = 300;

/// A message as it arrived.
#[derive(Debug, Clone)]
struct Message {
    id: String,
    at_unix_s: u64,
    signature: String,
    body: String,
}

/// A receiver of messages, which refuses while it is told to.
#[derive(Debug, Default)]
struct Desk {
    status: Mutex<u16>,
    messages: Mutex<Vec<Message>>,
    /// Calls that were refused.
    refused: Mutex<usize>,
}

impl Desk {
    async fn start() -> anyhow::Result<(Arc<Self>, String)> {
        Self::behind(None).await
    }

    /// Behind TLS, where an identity is shown.
    async fn behind(identity: Option<&Identity>) -> anyhow::Result<(Arc<Self>, String)> {
        let desk = Arc::new(Self { status: Mutex::new(204), ..Self::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let tls = identity.map(acceptor).transpose()?;
        let url = match tls {
            Some(_) => format!("https://localhost:{}/hook", listener.local_addr()?.port()),
            None => format!("http://{}/hook", listener.local_addr()?),
        };
        let serving = Arc::clone(&desk);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (desk, tls) = (Arc::clone(&serving), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => desk.serve(tls.accept(stream).await?).await,
                        None => desk.serve(stream).await,
                    }
                });
            }
        });
        Ok((desk, url))
    }

    async fn serve(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> anyhow::Result<()> {
        let service = hyper::service::service_fn(move |request| Arc::clone(&self).take(request));
        Ok(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await?)
    }

    async fn take(self: Arc<Self>, request: Request<Incoming>) -> anyhow::Result<Response<Full<Bytes>>> {
        let field = |name: &str| {
            request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        let (id, signature) = (field("webhook-id"), field("webhook-signature"));
        let at_unix_s = field("webhook-timestamp").parse()?;
        let body = String::from_utf8(request.into_body().collect().await?.to_bytes().to_vec())?;
        let status = *self.status.lock();
        if status == 204 {
            self.messages.lock().push(Message { id, at_unix_s, signature, body });
        } else {
            *self.refused.lock() += 1;
        }
        Ok(Response::builder().status(status).body(Full::default())?)
    }

    fn answers(&self, status: u16) {
        *self.status.lock() = status;
    }

    fn kinds(&self) -> Vec<String> {
        let kind = |message: &Message| {
            let body: Value = serde_json::from_str(&message.body).unwrap_or_default();
            format!("{} {}", body["type"].as_str().unwrap_or("?"), body["data"]["why"].as_str().unwrap_or(""))
        };
        self.messages.lock().iter().map(kind).collect()
    }
}

fn acceptor(identity: &Identity) -> anyhow::Result<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(&identity.certificate)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&identity.key)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A receiver as the standard asks for: the signature, the age, and each id once.
#[derive(Debug, Default)]
struct Verifier {
    seen: HashSet<String>,
}

impl Verifier {
    fn admits(&mut self, message: &Message, now_unix_s: u64) -> bool {
        let key = BASE64.decode(SECRET.trim_start_matches("whsec_").as_bytes()).unwrap_or_default();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let signed = format!("{}.{}.{}", message.id, message.at_unix_s, message.body);
        let tag = BASE64.decode(message.signature.trim_start_matches("v1,").as_bytes()).unwrap_or_default();
        hmac::verify(&key, signed.as_bytes(), &tag).is_ok()
            && now_unix_s.abs_diff(message.at_unix_s) <= TOLERANCE_S
            && self.seen.insert(message.id.clone())
    }
}

async fn rig(url: &str, change: impl FnOnce(&mut WebhookEndpoint)) -> anyhow::Result<Rig> {
    rig_of(url, |text| text, change).await
}

async fn rig_of(
    url: &str,
    manifest: fn(String) -> String,
    change: impl FnOnce(&mut WebhookEndpoint),
) -> anyhow::Result<Rig> {
    let control = Arc::new(FakeControl::default());
    let mut rig = Rig::start(Plan { edge: with_tokens, manifest, ..Plan::painted(&control) }).await?;
    let file = rig.dir.path().join("webhook.secret");
    write_secret(&file, SECRET)?;
    let mut endpoint: WebhookEndpoint = serde_json::from_value(json!({
        "name": "desk", "url": url, "secret_file": file, "allow_private": true, "retry_backoff_ms_min": 20,
    }))?;
    change(&mut endpoint);
    rig.stop_edge().await;
    rig.reconfigure(move |config: &mut Config| config.webhooks = vec![endpoint.clone()]);
    rig.start_edge().await?;
    // From now on: what was before the endpoint was known is not told.
    eventually("the endpoint is known", async || Ok(listed(&rig).await?["pending"] == 0)).await?;
    Ok(rig)
}

async fn listed(rig: &Rig) -> anyhow::Result<Value> {
    Ok(admin(rig, Method::GET, "/admin/v1/webhooks", None).await?.json()?["webhooks"][0].clone())
}

async fn kill(rig: &Rig, product: &str, why: &str) -> anyhow::Result<u64> {
    let order = json!({ "value": format!("studio?product={product}"), "why": why });
    let reply = admin(rig, Method::POST, "/admin/v1/kills", Some(order)).await?;
    anyhow::ensure!(reply.status == StatusCode::CREATED, "{} {}", reply.status, reply.text());
    Ok(reply.json()?["seq"].as_u64().unwrap_or_default())
}

async fn lift(rig: &Rig, seq: u64, why: &str) -> anyhow::Result<()> {
    let reply = admin(rig, Method::DELETE, &format!("/admin/v1/kills/{seq}"), Some(json!({ "why": why }))).await?;
    anyhow::ensure!(reply.status == StatusCode::OK, "{} {}", reply.status, reply.text());
    Ok(())
}

/// An endpoint that fails is told everything when it is back, in order and across a restart; what is edited or sent twice is
/// refused by who verifies it.
#[tokio::test]
async fn what_is_decided_arrives_signed_and_in_order_across_a_restart() -> anyhow::Result<()> {
    let (desk, url) = Desk::start().await?;
    let mut rig = rig(&url, |_| {}).await?;
    desk.answers(503);
    let seq = kill(&rig, "vase", "one").await?;
    lift(&rig, seq, "two").await?;
    kill(&rig, "vase", "three").await?;
    eventually("it was tried", async || Ok(*desk.refused.lock() > 1)).await?;
    assert_eq!(listed(&rig).await?["pending"], 3);
    rig.stop_edge().await;
    rig.start_edge().await?;
    desk.answers(204);
    eventually("all has arrived", async || Ok(desk.kinds().len() == 3)).await?;
    assert_eq!(desk.kinds(), ["kill.placed one", "kill.lifted two", "kill.placed three"]);

    let (messages, mut verifier) = (desk.messages.lock().clone(), Verifier::default());
    let now = messages[0].at_unix_s;
    assert!(messages.iter().all(|message| verifier.admits(message, now)));
    assert!(!verifier.admits(&messages[0], now), "sent again");
    for edited in [
        Message { body: messages[0].body.replace("one", "own"), ..messages[0].clone() },
        Message { id: "msg_other".to_owned(), ..messages[0].clone() },
        Message { at_unix_s: now + 1, ..messages[0].clone() },
    ] {
        assert!(!Verifier::default().admits(&edited, now), "{edited:?}");
    }
    assert!(!Verifier::default().admits(&messages[0], now + TOLERANCE_S + 1), "kept, and sent later");
    let line = "bildkante_edge_webhook_calls_total{endpoint=\"desk\",outcome=\"delivered\"}";
    rig.http.counts(rig.admin(), line, 3.0).await?;
    Ok(())
}

/// What is never taken is a dead letter, and is sent again by its id when a person asks; an endpoint that is gone is called no more.
#[tokio::test]
async fn dead_letters_are_kept_and_sent_again_and_410_ends_it() -> anyhow::Result<()> {
    let (desk, url) = Desk::start().await?;
    let rig = rig(&url, |endpoint| endpoint.retry_for_s = 1).await?;
    desk.answers(500);
    kill(&rig, "vase", "unheard").await?;
    eventually("it is given up", async || Ok(listed(&rig).await?["dead"] == 1)).await?;
    let dead = admin(&rig, Method::GET, "/admin/v1/webhooks/dead-letters", None).await?.json()?;
    let letter = &dead["dead_letters"][0];
    assert_eq!((&letter["type"], &letter["last_error"]), (&json!("kill.placed"), &json!("it answers 500")));
    desk.answers(204);
    let path = "/admin/v1/webhooks/desk/replay";
    let replayed = admin(&rig, Method::POST, path, Some(json!({ "why": "it is back" }))).await?.json()?;
    assert_eq!(replayed["replayed"], 1);
    eventually("it has arrived", async || Ok(desk.kinds() == ["kill.placed unheard"])).await?;
    assert_eq!(letter["id"], json!(desk.messages.lock()[0].id));
    let unknown = admin(&rig, Method::POST, "/admin/v1/webhooks/none/replay", Some(json!({ "why": "x" }))).await?;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);

    desk.answers(410);
    kill(&rig, "ring", "the last").await?;
    eventually("it is gone", async || Ok(listed(&rig).await?["is_gone"] == true)).await?;
    let calls = *desk.refused.lock();
    let seq = kill(&rig, "cube", "unsent").await?;
    lift(&rig, seq, "unsent").await?;
    let tested = admin(&rig, Method::POST, "/admin/v1/webhooks/desk/test", None).await?.json()?;
    assert_eq!((&tested["delivered"], &tested["error"]), (&json!(false), &json!("it answers 410")));
    assert_eq!(*desk.refused.lock(), calls + 1, "the test alone called");
    Ok(())
}

/// A picture is put before reviewers, a role lets its deadline pass, and a person approves: each is told, and what goes live by it.
#[tokio::test]
async fn a_review_is_told_from_its_beginning_to_the_picture_that_is_live() -> anyhow::Result<()> {
    let (desk, url) = Desk::start().await?;
    let rig = rig_of(&url, reviewed, |_| {}).await?;
    rig.ready().await?;
    let case = make(&rig).await?;
    let path = format!("/admin/v1/decisions/{}", case["id"]);
    let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    for (order, count) in [
        (json!({ "decision": "escalate", "to": "legal", "by_unix_ms": now + 1_500, "why": "is it ours?" }), 3),
        (json!({ "decision": "approve", "why": "it is" }), 5),
    ] {
        let reply = admin(&rig, Method::POST, &path, Some(order)).await?;
        anyhow::ensure!(reply.status == StatusCode::OK, "{} {}", reply.status, reply.text());
        eventually("it is told, and what time brings", async || Ok(desk.kinds().len() == count)).await?;
    }
    let kinds = desk.kinds();
    let kinds: Vec<&str> = kinds.iter().filter_map(|kind| kind.split(' ').next()).collect();
    let expected =
        ["decision.needs_review", "decision.decided", "decision.overdue", "decision.decided", "decision.live"];
    assert_eq!(kinds, expected);
    let last: Value = serde_json::from_str(&desk.messages.lock()[4].body)?;
    assert_eq!((&last["data"]["master"], &last["data"]["case"]), (&case["master"], &case["id"]));
    Ok(())
}

/// What a person decides about the picture that is live is told as decided, and not as live once more; what goes live by its time
/// is told when that has come.
#[tokio::test]
async fn what_is_live_is_told_once_and_at_its_time() -> anyhow::Result<()> {
    let (desk, url) = Desk::start().await?;
    let rig = rig_of(&url, reviewed, |endpoint| {
        endpoint.events = vec![EventKind::Decided, EventKind::Live];
    })
    .await?;
    rig.ready().await?;
    let first = make(&rig).await?;
    let rule = async |case: &Value, order: Value| -> anyhow::Result<()> {
        let reply = admin(&rig, Method::POST, &format!("/admin/v1/decisions/{}", case["id"]), Some(order)).await?;
        anyhow::ensure!(reply.status == StatusCode::OK, "{} {}", reply.status, reply.text());
        Ok(())
    };
    let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    rule(&first, json!({ "decision": "approve", "why": "first" })).await?;
    // For another time, and still live.
    rule(&first, json!({ "decision": "approve", "until_unix_ms": now + 3_600_000, "why": "for an hour" })).await?;
    let order = json!({ "variant": "studio/thumb?product=vase", "seeds": [77], "why": "another one" });
    let drawn = admin(&rig, Method::POST, "/admin/v1/candidates", Some(order)).await?;
    anyhow::ensure!(drawn.status == StatusCode::ACCEPTED, "{}", drawn.text());
    let mut second = Value::Null;
    eventually("the candidate is before reviewers", async || {
        let page = admin(&rig, Method::GET, "/admin/v1/decisions?state=needs_review", None).await?.json()?;
        second = page["decisions"][0].clone();
        Ok(second.is_object())
    })
    .await?;
    let soon = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())? + 2_000;
    rule(&second, json!({ "decision": "approve", "from_unix_ms": soon, "why": "soon" })).await?;
    eventually("its time has come", async || Ok(desk.kinds().len() >= 5)).await?;
    // The first is not live any more: that it is taken away changes nothing of what is shown.
    rule(&first, json!({ "decision": "reject", "why": "away" })).await?;
    rule(&second, json!({ "decision": "pause", "why": "a question" })).await?;
    rule(&second, json!({ "decision": "resume", "why": "answered" })).await?;
    eventually("all is told", async || Ok(desk.kinds().len() >= 9)).await?;
    let expected = [
        "decision.decided first",
        "decision.live first",
        "decision.decided for an hour",
        "decision.decided soon",
        "decision.live ",
        "decision.decided away",
        "decision.decided a question",
        "decision.decided answered",
        "decision.live answered",
    ];
    assert_eq!(desk.kinds(), expected);
    let live: Value = serde_json::from_str(&desk.messages.lock()[4].body)?;
    assert_eq!((&live["data"]["case"], &live["data"]["master"]), (&second["id"], &second["master"]));
    rig.stop().await;
    Ok(())
}

/// A right that ends within the notice is told once, across a restart, too.
#[tokio::test]
async fn a_right_that_ends_soon_is_told_once() -> anyhow::Result<()> {
    fn ending(text: String) -> String {
        let days = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 86_400 + 10;
        let ends = bildkante_edge::words::calendar::Moment::from_unix_s(days * 86_400).map(|it| it.to_string());
        let day = ends.unwrap_or_default().chars().take(10).collect::<String>();
        text.replace("rights   = { creator", &format!("rights   = {{ ends = {day}, creator"))
    }
    let (desk, url) = Desk::start().await?;
    let mut rig = rig_of(&url, ending, |_| {}).await?;
    eventually("it is told", async || Ok(!desk.kinds().is_empty())).await?;
    rig.stop_edge().await;
    rig.start_edge().await?;
    kill(&rig, "vase", "behind it").await?;
    eventually("what comes behind it is told", async || Ok(desk.kinds().len() >= 2)).await?;
    assert_eq!(desk.kinds(), ["rights.expiring ", "kill.placed behind it"]);
    let told: Value = serde_json::from_str(&desk.messages.lock()[0].body)?;
    assert_eq!(told["data"]["campaign"], "studio");
    rig.stop().await;
    Ok(())
}

/// Endpoints are taken over from the file while the edge runs: another URL is called, and one that is gone no more.
#[tokio::test]
async fn endpoints_are_reloaded_without_a_restart() -> anyhow::Result<()> {
    let ((one, at_one), (other, at_other)) = (Desk::start().await?, Desk::start().await?);
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_tokens, ..Plan::painted(&control) }).await?;
    let (path, secret) = (rig.dir.path().join("edge.toml"), rig.dir.path().join("webhook.secret"));
    write_secret(&secret, SECRET)?;
    let text = |endpoints: &[(&str, &str)]| -> String {
        let table = |(name, url): &(&str, &str)| {
            format!(
                "[[webhooks]]\nname = \"{name}\"\nurl = \"{url}\"\nsecret_file = {secret:?}\nallow_private = true\n\
                 retry_backoff_ms_min = 20\n"
            )
        };
        let hash = bildkante_edge::admin::token::hash(TOKEN);
        let admin =
            format!("[admin]\ntokens = [{{ name = \"tests\", hash = \"{hash}\", scopes = [\"read\", \"kill\"] }}]\n");
        endpoints.iter().map(table).chain([admin]).collect()
    };
    std::fs::write(&path, text(&[]))?;
    let file = ConfigFile { path: path.clone(), text: String::new() };
    let edge = rig.another_edge("reloaded", move |config| config.file = Some(file)).await?;
    let order = async |product: &str| -> anyhow::Result<()> {
        let body = json!({ "value": format!("studio?product={product}"), "why": product });
        let request = Request::post(format!("http://{}/admin/v1/kills", edge.admin));
        let request =
            request.header("authorization", format!("Bearer {TOKEN}")).header("content-type", "application/json");
        let reply = rig.http.send(request.body(Full::from(body.to_string()))?).await?;
        anyhow::ensure!(reply.status == StatusCode::CREATED, "{} {}", reply.status, reply.text());
        Ok(())
    };
    let known = async |name: &str| {
        let metric = format!("bildkante_edge_webhook_letters{{endpoint=\"{name}\",state=\"pending\"}}");
        eventually("the endpoint is known", async || Ok(rig.http.metric(edge.admin, &metric).await.is_ok())).await
    };
    order("ring").await?;
    std::fs::write(&path, text(&[("one", &at_one)]))?;
    edge.reload().await;
    known("one").await?;
    order("vase").await?;
    eventually("the first endpoint is told", async || Ok(one.kinds().len() == 1)).await?;
    std::fs::write(&path, text(&[("other", &at_other)]))?;
    edge.reload().await;
    known("other").await?;
    order("cube").await?;
    eventually("the second endpoint is told", async || Ok(other.kinds().len() == 1)).await?;
    assert_eq!(
        (one.kinds(), other.kinds()),
        (vec!["kill.placed vase".to_owned()], vec!["kill.placed cube".to_owned()])
    );
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}

/// An endpoint of one's own authority is called where the configuration names that, and not otherwise.
#[tokio::test]
async fn an_endpoint_of_a_private_authority_is_called_where_it_is_named() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (ours, theirs) = (Authority::new(dir.path(), "ours")?, Authority::new(dir.path(), "theirs")?);
    let (desk, url) = Desk::behind(Some(&ours.identity(dir.path(), "desk")?)).await?;
    for (ca_file, is_believed) in [(Some(ours.file.clone()), true), (Some(theirs.file), false), (None, false)] {
        let rig = rig(&url, |endpoint| endpoint.ca_file = ca_file).await?;
        let tested = admin(&rig, Method::POST, "/admin/v1/webhooks/desk/test", None).await?.json()?;
        assert_eq!(tested["delivered"], is_believed, "{tested}");
        assert!(is_believed || tested["error"].as_str().is_some_and(|it| it.contains("TLS")), "{tested}");
        rig.stop().await;
    }
    assert_eq!(desk.kinds(), ["webhook.test "]);
    Ok(())
}

/// Without `allow_private` this machine is not called.
#[tokio::test]
async fn this_machine_is_called_only_where_that_is_allowed() -> anyhow::Result<()> {
    let (desk, url) = Desk::start().await?;
    let rig = rig(&url, |endpoint| endpoint.allow_private = false).await?;
    let tested = admin(&rig, Method::POST, "/admin/v1/webhooks/desk/test", None).await?.json()?;
    assert!(tested["error"].as_str().is_some_and(|error| error.contains("no public address")), "{tested}");
    assert!(desk.messages.lock().is_empty());
    Ok(())
}

/// What the primary could not deliver before it was lost, its heir delivers; what it had delivered has the same id again.
#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_edge_goes_on_and_repeats_ids_at_most() -> anyhow::Result<()> {
    let (desk, url) = Desk::start().await?;
    let mut rig = rig(&url, |_| {}).await?;
    let (primary, token_file) = (format!("http://{}", rig.admin()), rig.dir.path().join("state.token"));
    write_secret(&token_file, TOKEN)?;
    let secret_file = rig.dir.path().join("webhook.secret");
    let following = move |config: &mut Config| {
        with_tokens(config);
        config.state.follow = Some(FollowConfig { primary, token_file: Some(token_file), tls: None });
        let endpoint = json!({ "name": "desk", "url": url, "secret_file": secret_file, "allow_private": true,
            "retry_backoff_ms_min": 20 });
        config.webhooks = serde_json::from_value(json!([endpoint])).unwrap_or_default();
    };
    let heir = rig.another_edge("heir", following).await?;
    let first = kill(&rig, "vase", "delivered").await?;
    eventually("the first has arrived", async || Ok(desk.kinds().len() == 1)).await?;
    desk.answers(503);
    lift(&rig, first, "undelivered").await?;
    let at = |to| ask(&rig, to, Method::GET, "/admin/v1/state");
    let head = at(rig.admin()).await?["seq"].clone();
    eventually("the follower has all", async || Ok(at(heir.admin).await?["seq"] == head)).await?;
    rig.stop_edge().await;
    desk.answers(204);
    assert_eq!(ask(&rig, heir.admin, Method::POST, "/admin/v1/state/promote").await?["term"], 2);
    eventually("the heir has told the second", async || Ok(desk.kinds().iter().any(|it| it.contains("undelivered"))))
        .await?;
    let messages = desk.messages.lock().clone();
    let ids: HashSet<&String> = messages.iter().map(|message| &message.id).collect();
    let told: HashSet<String> = desk.kinds().into_iter().collect();
    assert_eq!(told, ["kill.placed delivered", "kill.lifted undelivered"].map(str::to_owned).into());
    assert_eq!(ids.len(), 2, "{messages:#?}");
    heir.shut_down().await;
    Ok(())
}

async fn ask(rig: &Rig, to: SocketAddr, method: Method, path: &str) -> anyhow::Result<Value> {
    let request = Request::builder().method(method).uri(format!("http://{to}{path}"));
    let request = request.header("authorization", format!("Bearer {TOKEN}"));
    rig.http.send(request.body(Full::default())?).await?.json()
}

/// The process is killed as soon as it has acknowledged, again and again: each kill is told once it runs.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_acknowledged_is_lost_where_the_process_is_killed() -> anyhow::Result<()> {
    const ROUNDS: usize = 5;
    let (desk, url) = Desk::start().await?;
    let dir = tempfile::tempdir()?;
    let (config, log) = (dir.path().join("edge.toml"), dir.path().join("edge.log"));
    let secret = dir.path().join("webhook.secret");
    write_secret(&secret, SECRET)?;
    let (hash, data) = (bildkante_edge::admin::token::hash(TOKEN), dir.path().join("edge"));
    let text = format!(
        "[listen]\nhttp = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n[cache]\ndisk_dir = {data:?}\n\
         [admin]\ntokens = [{{ name = \"tests\", hash = \"{hash}\", scopes = [\"read\", \"kill\"] }}]\n\
         [[webhooks]]\nname = \"desk\"\nurl = \"{url}\"\nsecret_file = {secret:?}\nallow_private = true\n\
         retry_backoff_ms_min = 20\n"
    );
    std::fs::write(&config, text)?;
    let (http, authorization) = (Http::default(), format!("Bearer {TOKEN}"));
    desk.answers(503);
    for round in 0..=ROUNDS {
        let mut process = Command::new(program("bildkante-edge")?)
            .args(["serve", "--config"])
            .arg(&config)
            .current_dir(repository())
            .env("RUST_LOG", "info")
            .stderr(std::fs::File::create(&log)?)
            .stdout(std::fs::File::create(dir.path().join("out.log"))?)
            .kill_on_drop(true)
            .spawn()?;
        let mut admin = None;
        eventually("it serves", async || {
            admin = serves(&log).ok();
            Ok(admin.is_some())
        })
        .await?;
        let admin = admin.context("it serves")?.1;
        let order = json!({ "value": "studio?product=vase", "why": format!("round {round}") });
        let request = |method: Method, path: String, body: Value| {
            let request = Request::builder().method(method).uri(format!("http://{admin}/admin/v1/{path}"));
            let request = request.header("authorization", &authorization).header("content-type", "application/json");
            request.body(Full::from(body.to_string()))
        };
        if round == 0 {
            eventually("the endpoint is known", async || {
                let path = "bildkante_edge_webhook_letters{endpoint=\"desk\",state=\"pending\"}";
                Ok(http.metric(admin, path).await.is_ok())
            })
            .await?;
        }
        let killed = http.send(request(Method::POST, "kills".to_owned(), order)?).await?.json()?;
        let lifted = json!({ "why": format!("end of round {round}") });
        let lifted = http.send(request(Method::DELETE, format!("kills/{}", killed["seq"]), lifted)?).await?;
        assert_eq!(lifted.status, StatusCode::OK, "{}", lifted.text());
        if round < ROUNDS {
            process.start_kill()?;
            process.wait().await?;
            continue;
        }
        desk.answers(204);
        eventually("all has arrived", async || Ok(desk.kinds().len() >= 2 * (ROUNDS + 1))).await?;
    }
    let expected = (0..=ROUNDS)
        .flat_map(|round| [format!("kill.placed round {round}"), format!("kill.lifted end of round {round}")]);
    assert_eq!(desk.kinds(), expected.collect::<Vec<_>>());
    Ok(())
}
