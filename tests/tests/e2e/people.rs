//! People and their keys: who may do what, on every edge; sessions of browsers; and what the API says of itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bildkante_edge::admin::token::{TokenConfig, TokenScope, hash};
use bildkante_edge::config::Config;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::browser::Browser;
use bildkante_tests::client::{Reply, eventually};
use bildkante_tests::rig::{Plan, Rig};
use bildkante_tests::{judge, program, schema};
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::purge::{TOKEN, with_tokens};

const KEYS: &str = "/admin/v1/keys";
/// A token that gives keys and does nothing else.
const GIVER: &str = "bk_00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const ROLES: [&str; 4] = ["viewer", "reviewer", "approver", "operator"];

pub(crate) fn with_giver(config: &mut Config) {
    with_tokens(config);
    let scopes = vec![TokenScope::Keys];
    config.admin.tokens.push(TokenConfig { name: "giver".to_owned(), hash: hash(GIVER), scopes });
}

async fn plan(control: &Arc<FakeControl>) -> anyhow::Result<Rig> {
    Rig::start(Plan { edge: with_giver, ..Plan::painted(control) }).await
}

/// A request with these fields, and a body of JSON where there is one.
async fn ask(
    rig: &Rig,
    to: SocketAddr,
    (method, path): (Method, &str),
    fields: &[(&str, &str)],
    body: Option<&Value>,
) -> anyhow::Result<Reply> {
    let mut request = Request::builder().method(method).uri(format!("http://{to}{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    if body.is_some() {
        request = request.header("content-type", "application/json");
    }
    rig.http.send(request.body(Full::from(body.map(Value::to_string).unwrap_or_default()))?).await
}

pub(crate) async fn with_key(
    rig: &Rig,
    key: &str,
    what: (Method, &str),
    body: Option<&Value>,
) -> anyhow::Result<Reply> {
    ask(rig, rig.admin(), what, &[("authorization", &format!("Bearer {key}"))], body).await
}

fn order(name: &str, roles: &Value) -> anyhow::Result<Value> {
    let ends = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() + 3_600_000;
    Ok(json!({ "name": name, "roles": roles, "expires_unix_ms": u64::try_from(ends)?, "why": "a test" }))
}

/// The secret of a new key.
pub(crate) async fn give(rig: &Rig, name: &str, roles: &Value) -> anyhow::Result<String> {
    let given = with_key(rig, GIVER, (Method::POST, KEYS), Some(&order(name, roles)?)).await?;
    anyhow::ensure!(given.status == StatusCode::CREATED, "{} {}", given.status, given.text());
    Ok(given.json()?["secret"].as_str().unwrap_or_default().to_owned())
}

/// Each route that the API describes, asked for with every role, in all campaigns and in another one, and without a
/// key.
#[tokio::test]
async fn the_table_of_routes_is_walked_with_every_role() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = plan(&control).await?;
    let mut keys = BTreeMap::new();
    for role in ROLES {
        keys.insert(role, give(&rig, role, &json!({ "*": role })).await?);
    }
    let elsewhere = give(&rig, "elsewhere", &json!({ "elsewhere": "operator" })).await?;
    let document = with_key(&rig, TOKEN, (Method::GET, "/admin/v1/openapi.json"), None).await?.json()?;
    let mut walked = 0;
    for (template, item) in document["paths"].as_object().into_iter().flatten() {
        // No such thing: whoever is let in changes nothing.
        let path = match template.split_once('{') {
            Some((before, rest)) => format!("{before}none{}", rest.split_once('}').map_or("", |(_, after)| after)),
            None => template.clone(),
        };
        for (verb, operation) in item.as_object().into_iter().flatten() {
            let method: Method = verb.to_uppercase().parse()?;
            let row = format!("{method} {template}");
            let body = operation.get("requestBody").map(|_| json!({}));
            let asked = async |key: &str| with_key(&rig, key, (method.clone(), &path), body.as_ref()).await;
            let needed = operation["x-role"].as_str().and_then(|role| ROLES.iter().position(|it| *it == role));
            for (held, role) in ROLES.iter().enumerate() {
                let reply = asked(&keys[role]).await?;
                let is_in = !matches!(reply.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
                assert_eq!(is_in, needed.is_some_and(|needed| held >= needed), "{row} as {role}: {}", reply.text());
                assert!(reply.status.as_u16() < 500, "{row} as {role}: {}", reply.text());
            }
            let foreign = asked(&elsewhere).await?;
            if needed.is_none() || operation["x-reach"] == "edge" {
                assert_eq!(foreign.status, StatusCode::FORBIDDEN, "{row}: {}", foreign.text());
            }
            let without = ask(&rig, rig.admin(), (method.clone(), &path), &[], body.as_ref()).await?;
            assert_eq!(without.status, StatusCode::UNAUTHORIZED, "{row}");
            assert_eq!(without.content_type(), "application/problem+json", "{row}");
            assert!(without.header("www-authenticate").starts_with("Bearer"), "{row}");
            assert_eq!(
                asked(&format!("{}0", &GIVER[..GIVER.len() - 1])).await?.status,
                StatusCode::UNAUTHORIZED,
                "{row}"
            );
            walked += 1;
        }
    }
    assert!(walked >= 30, "{walked} routes");
    let unknown = with_key(&rig, TOKEN, (Method::PUT, KEYS), None).await?;
    assert_eq!((unknown.status, unknown.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD, POST"));
    rig.stop().await;
    Ok(())
}

/// A key that is given at one edge opens the others, until it is revoked at any of them. Its secret is shown once.
#[tokio::test]
async fn a_key_holds_on_every_edge_until_it_is_revoked() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = plan(&control).await?;
    let follower = crate::followers::follower(&rig, "follower", format!("http://{}", rig.admin())).await?;
    let secret = {
        let order = order("anna", &json!({ "studio": "operator" }))?;
        let asked = async |order: &Value| {
            let fields = [("authorization", &*format!("Bearer {GIVER}")), ("idempotency-key", "first")];
            ask(&rig, follower.admin, (Method::POST, KEYS), &fields, Some(order)).await
        };
        let given = asked(&order).await?;
        assert_eq!(given.status, StatusCode::CREATED, "{}", given.text());
        let again = asked(&order).await?;
        assert_eq!((again.status, &again.json()?["secret"]), (StatusCode::OK, &Value::Null), "{}", again.text());
        assert_eq!(again.json()?["id"], given.json()?["id"]);
        given.json()?["secret"].as_str().unwrap_or_default().to_owned()
    };
    let bearer = format!("Bearer {secret}");
    let me =
        async |to: SocketAddr| ask(&rig, to, (Method::GET, "/admin/v1/me"), &[("authorization", &bearer)], None).await;
    for edge in [rig.admin(), follower.admin] {
        eventually("the key is known", async || Ok(me(edge).await?.status == StatusCode::OK)).await?;
        assert_eq!(me(edge).await?.json()?["roles"], json!({ "studio": "operator" }));
    }
    let listed = with_key(&rig, GIVER, (Method::GET, &format!("{KEYS}?limit=1")), None).await?.json()?;
    let id = listed["keys"][0]["id"].as_str().unwrap_or_default().to_owned();
    assert_eq!((&listed["keys"][0]["name"], &listed["next"]), (&json!("anna"), &Value::Null));

    let kill = json!({ "value": "studio?product=vase", "why": "a test" });
    let killed =
        ask(&rig, follower.admin, (Method::POST, "/admin/v1/kills"), &[("authorization", &bearer)], Some(&kill))
            .await?;
    assert_eq!(killed.status, StatusCode::CREATED, "{}", killed.text());
    let gone =
        with_key(&rig, GIVER, (Method::DELETE, &format!("{KEYS}/{id}")), Some(&json!({ "why": "she left" }))).await?;
    assert_eq!(gone.status, StatusCode::OK, "{}", gone.text());
    for edge in [rig.admin(), follower.admin] {
        eventually("the key is over", async || Ok(me(edge).await?.status == StatusCode::UNAUTHORIZED)).await?;
    }
    let audit = with_key(&rig, TOKEN, (Method::GET, "/admin/v1/audit"), None).await?;
    assert!(!audit.text().contains(&secret), "no secret stands in the log");
    let audit = audit.json()?;
    let lines = audit["entries"].as_array().cloned().unwrap_or_default();
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            (line["entry"]["change"]["kind"].as_str().unwrap_or_default(), line["name"].as_str().unwrap_or_default())
        })
        .filter(|(kind, _)| *kind != "term")
        .collect();
    assert_eq!(told, [("key", "giver"), ("kill", "anna"), ("revoke", "giver")], "{audit:#}");
    follower.shut_down().await;
    rig.stop().await;
    Ok(())
}

/// An operator of one campaign acts on it and on nothing that may lie in another, and sees nothing of others.
#[tokio::test]
async fn a_role_reaches_into_its_campaign_alone() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = plan(&control).await?;
    let here = give(&rig, "here", &json!({ "studio": "operator" })).await?;
    let elsewhere = give(&rig, "elsewhere", &json!({ "elsewhere": "operator" })).await?;
    let kill = async |key: &str, what: &str, name: &str| {
        with_key(&rig, key, (Method::POST, "/admin/v1/kills"), Some(&json!({ what: name, "why": "a test" }))).await
    };
    let killed = kill(&here, "slot", "studio/hero").await?;
    assert_eq!(killed.status, StatusCode::CREATED, "{}", killed.text());
    for (what, name) in [("campaign", "studio"), ("slot", "studio/thumb"), ("value", "studio?product=vase")] {
        let refused = kill(&elsewhere, what, name).await?;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{what}: {}", refused.text());
    }
    // What a checkpoint had a part in may lie in any campaign.
    assert_eq!(kill(&here, "checkpoint", "studio-tiny").await?.status, StatusCode::FORBIDDEN);
    let path = format!("/admin/v1/kills/{}", killed.json()?["seq"]);
    let why = json!({ "why": "it was a test" });
    assert_eq!(with_key(&rig, &elsewhere, (Method::DELETE, &path), Some(&why)).await?.status, StatusCode::FORBIDDEN);
    let kills = async |key: &str| {
        let listed = with_key(&rig, key, (Method::GET, "/admin/v1/kills"), None).await?.json()?;
        anyhow::Ok(listed["kills"].as_array().map(Vec::len))
    };
    assert_eq!((kills(&here).await?, kills(&elsewhere).await?), (Some(1), Some(0)));
    assert_eq!(with_key(&rig, &elsewhere, (Method::GET, &path), None).await?.status, StatusCode::NOT_FOUND);
    assert_eq!(with_key(&rig, &here, (Method::DELETE, &path), Some(&why)).await?.status, StatusCode::OK);

    let purge = async |key: &str, body: Value| {
        anyhow::Ok(with_key(&rig, key, (Method::POST, "/admin/v1/purges"), Some(&body)).await?.status)
    };
    for within in [
        json!({ "campaign": "studio" }),
        json!({ "url": "/i/studio/thumb?product=vase" }),
        json!({ "variant": "studio/thumb" }),
    ] {
        assert_eq!(purge(&here, within.clone()).await?, StatusCode::OK, "{within}");
        assert_eq!(purge(&elsewhere, within.clone()).await?, StatusCode::FORBIDDEN, "{within}");
    }
    for beyond in [json!({ "everything": true }), json!({ "tag": "campaign:studio" }), json!({ "campaign": "autumn" })]
    {
        assert_eq!(purge(&here, beyond.clone()).await?, StatusCode::FORBIDDEN, "{beyond}");
    }
    let warm = async |key: &str| {
        let body = json!({ "campaign": "studio", "slot": "thumb", "axes": { "product": ["vase"], "colour": ["red"] } });
        with_key(&rig, key, (Method::POST, "/admin/v1/warm"), Some(&body)).await
    };
    assert_eq!(warm(&elsewhere).await?.status, StatusCode::FORBIDDEN);
    let job = warm(&here).await?;
    assert_eq!(job.status, StatusCode::ACCEPTED, "{}", job.text());
    let path = format!("/admin/v1/warm/{}", job.json()?["id"]);
    assert_eq!(with_key(&rig, &elsewhere, (Method::GET, &path), None).await?.status, StatusCode::NOT_FOUND);
    assert_eq!(with_key(&rig, &elsewhere, (Method::DELETE, &path), None).await?.status, StatusCode::FORBIDDEN);
    let status = with_key(&rig, &elsewhere, (Method::GET, "/admin/v1/status"), None).await?.json()?;
    assert_eq!(status["catalog"]["campaigns"], json!([]));
    let dossier = "/admin/v1/dossier?of=studio%2Fthumb";
    assert_eq!(with_key(&rig, &elsewhere, (Method::GET, dossier), None).await?.status, StatusCode::FORBIDDEN);
    assert_eq!(with_key(&rig, &here, (Method::GET, dossier), None).await?.status, StatusCode::OK);
    // A browser reads a page, as it does of all that it may not see.
    let browser = session(&rig, &elsewhere).await?;
    let fields = [(header::COOKIE, browser.cookie.as_str()), (header::ACCEPT, "text/html")];
    let page = rig.http.get(rig.admin(), "/papers/dossier?of=studio%2Fthumb", &fields).await?;
    assert_eq!((page.status, page.content_type()), (StatusCode::FORBIDDEN, "text/html; charset=utf-8"));
    let import = "/admin/v1/imports?variant=studio/thumb";
    assert_eq!(with_key(&rig, &elsewhere, (Method::POST, import), None).await?.status, StatusCode::FORBIDDEN);
    rig.stop().await;
    Ok(())
}

/// A picture that nobody has approved is seen by reviewers of its campaign, and made public by its approvers.
#[tokio::test]
async fn reviewers_look_and_approvers_decide() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let manifest = crate::reviews::reviewed;
    let rig = Rig::start(Plan { edge: with_giver, manifest, ..Plan::painted(&control) }).await?;
    let case = crate::reviews::make(&rig).await?;
    let path = format!("/admin/v1/decisions/{}", case["id"]);
    let picture = format!("{path}/picture?w=320");
    let mut keys = BTreeMap::new();
    for (name, roles) in [
        ("viewer", json!({ "studio": "viewer", "elsewhere": "operator" })),
        ("reviewer", json!({ "studio": "reviewer" })),
        ("approver", json!({ "studio": "approver" })),
        ("elsewhere", json!({ "elsewhere": "approver" })),
    ] {
        keys.insert(name, give(&rig, name, &roles).await?);
    }
    for (name, status) in [("viewer", 403), ("elsewhere", 403), ("reviewer", 200), ("approver", 200)] {
        let shown = with_key(&rig, &keys[name], (Method::GET, &picture), None).await?;
        assert_eq!(shown.status.as_u16(), status, "{name}: {:?}", shown.headers);
    }
    assert_eq!(with_key(&rig, &keys["elsewhere"], (Method::GET, &path), None).await?.status, StatusCode::NOT_FOUND);
    let listed = with_key(&rig, &keys["elsewhere"], (Method::GET, "/admin/v1/decisions"), None).await?.json()?;
    assert_eq!(listed["decisions"], json!([]));
    let decide =
        async |name: &str, order: Value| with_key(&rig, &keys[name], (Method::POST, &path), Some(&order)).await;
    for (name, decision) in [
        ("viewer", "request_changes"),
        ("elsewhere", "approve"),
        ("reviewer", "approve"),
        ("reviewer", "reject"),
        ("reviewer", "pause"),
    ] {
        let refused = decide(name, json!({ "decision": decision, "why": "a test" })).await?;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{name} {decision}: {}", refused.text());
    }
    let approved = decide("approver", json!({ "decision": "approve" })).await?;
    assert_eq!(approved.status, StatusCode::OK, "{}", approved.text());
    let document = with_key(&rig, TOKEN, (Method::GET, "/admin/v1/openapi.json"), None).await?.json()?;
    let schema = json!({ "$ref": "#/components/schemas/Decided" });
    schema::check(&document, &schema, &approved.json()?)?;
    let schema = json!({ "$ref": "#/components/schemas/Decisions" });
    let listed =
        with_key(&rig, &keys["viewer"], (Method::GET, "/admin/v1/decisions?state=live"), None).await?.json()?;
    schema::check(&document, &schema, &listed)?;
    assert_eq!(listed["decisions"].as_array().map(Vec::len), Some(1), "{listed}");
    rig.stop().await;
    Ok(())
}

fn cookies(reply: &Reply) -> Vec<(String, String)> {
    let lines = reply.headers.get_all("set-cookie").iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.filter_map(|line| line.split_once(';')?.0.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// What a form of the page has in a hidden field.
pub(crate) fn hidden(page: &str, name: &str) -> String {
    let rest = page.split_once(&format!("name=\"{name}\" value=\"")).map_or("", |(_, rest)| rest);
    rest.split('"').next().unwrap_or_default().to_owned()
}

/// Of a page of ours, as browsers tell.
pub(crate) const OURS: (&str, &str) = ("sec-fetch-site", "same-origin");

/// A browser's session: its cookie, and what its forms carry.
pub(crate) struct BrowserSession {
    pub(crate) cookie: String,
    pub(crate) csrf: String,
}

/// Logs in with a key.
pub(crate) async fn session(rig: &Rig, secret: &str) -> anyhow::Result<BrowserSession> {
    let entry = rig.http.get(rig.admin(), "/admin/login", &[(header::ACCEPT, "text/html")]).await?;
    let (name, value) = cookies(&entry).pop().unwrap_or_default();
    let before = format!("{name}={value}");
    let body = format!("csrf={}&to=%2Fpreview%2F&key={secret}", hidden(&entry.text(), "csrf"));
    let entered = form(rig, "/admin/login", &[("cookie", &before), OURS], body).await?;
    let held = cookies(&entered).into_iter().find(|(name, _)| name == "bildkante").unwrap_or_default().1;
    let cookie = format!("bildkante={held}");
    let me = rig.http.get(rig.admin(), "/admin/v1/me", &[(header::COOKIE, &cookie)]).await?.json()?;
    Ok(BrowserSession { cookie, csrf: me["csrf"]["value"].as_str().unwrap_or_default().to_owned() })
}

pub(crate) async fn form(rig: &Rig, path: &str, fields: &[(&str, &str)], body: String) -> anyhow::Result<Reply> {
    let mut request = Request::builder().method(Method::POST).uri(format!("http://{}{path}", rig.admin()));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    rig.http.send(request.body(Full::from(body))?).await
}

/// From a page that is closed to the login and back; changes with the page's token alone; and out again.
#[tokio::test]
async fn a_browser_logs_in_sees_its_campaigns_and_logs_out() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = plan(&control).await?;
    let page = async |path: &str, cookie: &str| {
        ask(&rig, rig.admin(), (Method::GET, path), &[("accept", "text/html"), ("cookie", cookie)], None).await
    };
    assert_eq!(page("/preview/", "").await?.status, StatusCode::OK, "without keys it is open on this machine");
    let secret = give(&rig, "anna", &json!({ "studio": "operator" })).await?;
    let closed = page("/preview/studio/hero?product=mug", "").await?;
    assert_eq!(closed.status, StatusCode::SEE_OTHER);
    let login = closed.header("location").to_owned();
    assert!(login.starts_with("/admin/login?to=%2Fpreview%2Fstudio%2Fhero%3Fproduct%3Dmug"), "{login}");
    assert_eq!(page("/preview/style.css", "").await?.status, StatusCode::OK, "the login's page has a style");
    let program = ask(&rig, rig.admin(), (Method::GET, "/preview/"), &[], None).await?;
    assert_eq!(program.status, StatusCode::UNAUTHORIZED, "programs get no page");

    let entry = page(&login, "").await?;
    assert!(entry.header("content-security-policy").contains("frame-ancestors 'none'"), "{:?}", entry.headers);
    let (name, value) = cookies(&entry).pop().unwrap_or_default();
    let before = format!("{name}={value}");
    let (csrf, to) = (hidden(&entry.text(), "csrf"), hidden(&entry.text(), "to"));
    let enter = async |fields: &[(&str, &str)], csrf: &str, key: &str| {
        form(&rig, "/admin/login", fields, format!("csrf={csrf}&to={}&key={key}", to.replace('/', "%2F"))).await
    };
    for (fields, csrf) in [
        (&[("cookie", before.as_str()), ("sec-fetch-site", "cross-site")][..], csrf.as_str()),
        (&[("cookie", before.as_str()), ("origin", "http://evil.example")][..], csrf.as_str()),
        (&[("cookie", before.as_str())][..], csrf.as_str()),
        (&[OURS][..], csrf.as_str()),
        (&[("cookie", before.as_str()), OURS][..], "0"),
    ] {
        let forged = enter(fields, csrf, &secret).await?;
        assert_eq!((forged.status, cookies(&forged).len()), (StatusCode::FORBIDDEN, 0), "{fields:?}");
    }
    let ours = [("cookie", before.as_str()), OURS];
    assert_eq!(enter(&ours, &csrf, "bk_wrong").await?.status, StatusCode::UNAUTHORIZED);
    let entered = enter(&ours, &csrf, &secret).await?;
    assert_eq!(
        (entered.status, entered.header("location")),
        (StatusCode::SEE_OTHER, "/preview/studio/hero?product=mug")
    );
    let set =
        entered.headers.get_all("set-cookie").iter().filter_map(|it| it.to_str().ok()).collect::<Vec<_>>().join("\n");
    assert!(set.contains("HttpOnly; SameSite=Strict") && set.contains("Max-Age=43200"), "{set}");
    let session = cookies(&entered).into_iter().find(|(name, _)| name == "bildkante").unwrap_or_default().1;
    let cookie = format!("a=b; bildkante={session}");
    assert!(!session.is_empty() && session != secret);

    let shown = page("/preview/studio/hero?product=mug", &cookie).await?;
    assert_eq!((shown.status, shown.header("cache-control")), (StatusCode::OK, "private, no-cache"));
    let policy = shown.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none';") && policy.ends_with("frame-ancestors 'none'"), "{policy}");
    assert_eq!(page("/preview/autumn/hero", &cookie).await?.status, StatusCode::FORBIDDEN);
    let me = page("/admin/v1/me", &cookie).await?.json()?;
    let csrf = me["csrf"]["value"].as_str().unwrap_or_default();
    let order = json!({ "slot": "studio/hero", "why": "a test" });
    let kill = async |fields: &[(&str, &str)]| {
        let fields: Vec<_> = fields.iter().copied().chain([("cookie", cookie.as_str())]).collect();
        anyhow::Ok(ask(&rig, rig.admin(), (Method::POST, "/admin/v1/kills"), &fields, Some(&order)).await?.status)
    };
    assert_eq!(kill(&[OURS]).await?, StatusCode::FORBIDDEN);
    assert_eq!(kill(&[("x-csrf-token", csrf)]).await?, StatusCode::FORBIDDEN);
    assert_eq!(kill(&[("x-csrf-token", csrf), ("sec-fetch-site", "same-site")]).await?, StatusCode::FORBIDDEN);
    assert_eq!(kill(&[("x-csrf-token", csrf), OURS]).await?, StatusCode::CREATED);

    let known = page("/admin/login", &cookie).await?.text();
    assert!(known.contains("You are anna") && known.contains("studio=operator"), "{known}");
    let out =
        async |csrf: &str| form(&rig, "/admin/logout", &[("cookie", &cookie), OURS], format!("csrf={csrf}")).await;
    assert_eq!(out("0").await?.status, StatusCode::FORBIDDEN);
    assert_eq!(page("/preview/", &cookie).await?.status, StatusCode::OK, "a forged form ends no session");
    assert_eq!(out(&hidden(&known, "csrf")).await?.status, StatusCode::SEE_OTHER);
    assert_eq!(page("/preview/", &cookie).await?.status, StatusCode::SEE_OTHER);

    let mut statuses = Vec::new();
    for _ in 0..12 {
        statuses.push(enter(&ours, &hidden(&entry.text(), "csrf"), "bk_wrong").await?.status);
    }
    assert_eq!(statuses.last(), Some(&StatusCode::TOO_MANY_REQUESTS), "{statuses:?}");
    assert_eq!(enter(&ours, &hidden(&entry.text(), "csrf"), &secret).await?.status, StatusCode::TOO_MANY_REQUESTS);
    rig.stop().await;
    Ok(())
}

/// The same in Chromium: it keeps the cookie, sends what our page proves itself with, and shows scripts neither.
#[tokio::test(flavor = "multi_thread")]
async fn chromium_takes_the_login() -> anyhow::Result<()> {
    let test = "chromium_takes_the_login";
    let (Some(driver), Some(chromium)) = (judge::find("chromedriver", test)?, judge::find("chromium", test)?) else {
        return Ok(());
    };
    let control = Arc::new(FakeControl::default());
    let rig = plan(&control).await?;
    let secret = give(&rig, "anna", &json!({ "studio": "operator" })).await?;
    let browser = Browser::open(&driver, &chromium).await?;
    browser.visit(&format!("http://{}/preview/studio/thumb", rig.admin())).await?;
    let path =
        async || anyhow::Ok(browser.run("return location.pathname").await?.as_str().unwrap_or_default().to_owned());
    assert_eq!(path().await?, "/admin/login");
    let fill = format!("document.querySelector('[name=key]').value = '{secret}'; document.forms[0].submit()");
    browser.run(&fill).await?;
    eventually("the login leads back", async || Ok(path().await? == "/preview/studio/thumb")).await?;
    assert_eq!(browser.run("return document.cookie").await?, "", "no script reads the session");
    let kill = |field: &str| {
        format!(
            "const done = arguments[arguments.length - 1]; (async () => {{
                const me = await (await fetch('/admin/v1/me')).json();
                const reply = await fetch('/admin/v1/kills', {{ method: 'POST',
                    headers: {{ 'Content-Type': 'application/json', '{field}': me.csrf.value }},
                    body: JSON.stringify({{ slot: 'studio/hero', why: 'a test' }}) }});
                done(reply.status);
            }})()"
        )
    };
    assert_eq!(browser.run_async(&kill("X-Other")).await?, 403);
    assert_eq!(browser.run_async(&kill("X-CSRF-Token")).await?, 201);
    browser.visit(&format!("http://{}/admin/login", rig.admin())).await?;
    browser.run("document.forms[0].submit()").await?;
    eventually("the session is over", async || {
        Ok(browser.run("return document.querySelector('[name=key]') !== null").await? == true)
    })
    .await?;
    browser.visit(&format!("http://{}/preview/", rig.admin())).await?;
    assert_eq!(path().await?, "/admin/login");
    browser.close().await?;
    rig.stop().await;
    Ok(())
}

/// The first key is given on the machine, to the state of an edge that does not run; with it others are given over the
/// API.
#[tokio::test]
async fn the_first_key_is_given_on_the_machine() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let mut rig = Rig::start(Plan::painted(&control)).await?;
    let config = rig.dir.path().join("key.toml");
    std::fs::write(&config, format!("[cache]\ndisk_dir = {:?}\n", rig.dir.path().join("edge")))?;
    let key = async |args: &[&str], token: Option<&str>| -> anyhow::Result<Output> {
        let mut command = Command::new(program("bildkante-edge")?);
        command.arg("key").args(args).env_remove("BILDKANTE_ADMIN_TOKEN");
        if let Some(token) = token {
            command.env("BILDKANTE_ADMIN_TOKEN", token);
        }
        Ok(tokio::task::spawn_blocking(move || command.output()).await??)
    };
    let file = config.display().to_string();
    let add = ["add", "anna", "--role", "*=operator", "--why", "the first", "--config", file.as_str()];
    let refused = key(&add, None).await?;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("while the edge runs"), "{refused:?}");
    rig.stop_edge().await;
    let mut given = key(&add, None).await?;
    // What an edge that has stopped still has under way holds its database until it is through.
    eventually("the state is free", async || {
        if !given.status.success() {
            given = key(&add, None).await?;
        }
        Ok(given.status.success())
    })
    .await?;
    let secret = String::from_utf8(given.stdout)?.trim().to_owned();
    rig.start_edge().await?;
    let admin = format!("http://{}", rig.admin());
    let second = key(
        &["add", "ben", "--role", "studio=viewer", "--days", "1", "--why", "a test", "--admin", &admin],
        Some(&secret),
    )
    .await?;
    assert!(second.status.success(), "{second:?}");
    let listed = key(&["list", "--admin", &admin], Some(&secret)).await?;
    let lines = String::from_utf8(listed.stdout)?;
    assert_eq!(lines.lines().count(), 2, "{lines}");
    let id =
        lines.lines().find(|line| line.contains("ben")).and_then(|line| line.split(' ').next()).unwrap_or_default();
    let revoked = key(&["revoke", id, "--why", "a test", "--admin", &admin], Some(&secret)).await?;
    assert!(revoked.status.success(), "{revoked:?}");
    let ben = String::from_utf8(second.stdout)?.trim().to_owned();
    assert_eq!(with_key(&rig, &ben, (Method::GET, "/admin/v1/me"), None).await?.status, StatusCode::UNAUTHORIZED);
    assert_eq!(with_key(&rig, &secret, (Method::GET, "/admin/v1/me"), None).await?.status, StatusCode::OK);
    rig.stop().await;
    Ok(())
}

/// Answers of every kind, held against what the API's description promises of them.
#[tokio::test]
async fn answers_are_as_they_are_described() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = plan(&control).await?;
    let all = give(&rig, "all", &json!({ "*": "operator" })).await?;
    let document = with_key(&rig, &all, (Method::GET, "/admin/v1/openapi.json"), None).await?.json()?;
    assert_eq!(document["openapi"], "3.1.0");
    let held = async |method: Method, path: &str, template: &str, body: Option<Value>| -> anyhow::Result<Value> {
        let reply = with_key(&rig, &all, (method.clone(), &format!("/admin/v1/{path}")), body.as_ref()).await?;
        let pointer = format!("/admin/v1/{template}");
        let responses = &document["paths"][&pointer][method.as_str().to_lowercase()]["responses"];
        let response = responses.get(reply.status.as_str()).unwrap_or(&document["components"]["responses"]["Problem"]);
        let content = &response["content"][reply.content_type()]["schema"];
        let value = reply.json()?;
        schema::check(&document, content, &value)
            .map_err(|error| anyhow::anyhow!("{method} {path} {}: {error}", reply.status))?;
        Ok(value)
    };
    let (get, post, delete) = (Method::GET, Method::POST, Method::DELETE);
    rig.http.image(rig.public(), "/i/studio/thumb?product=vase&fm=webp").await?;
    let why = Some(json!({ "why": "a test" }));
    let killed = held(post.clone(), "kills", "kills", Some(json!({ "slot": "studio/hero", "why": "a test" }))).await?;
    held(get.clone(), &format!("kills/{}", killed["seq"]), "kills/{seq}", None).await?;
    held(get.clone(), "kills?limit=1", "kills", None).await?;
    held(delete.clone(), &format!("kills/{}", killed["seq"]), "kills/{seq}", why.clone()).await?;
    let purge = held(post.clone(), "purges", "purges", Some(json!({ "campaign": "studio", "why": "a test" }))).await?;
    held(get.clone(), &format!("purges/{}", purge["id"]), "purges/{id}", None).await?;
    let job = json!({ "campaign": "studio", "slot": "thumb", "axes": { "product": ["vase"], "colour": ["red"] }, "formats": ["webp"] });
    let job = held(post.clone(), "warm", "warm", Some(job)).await?;
    held(get.clone(), &format!("warm/{}", job["id"]), "warm/{id}", None).await?;
    held(delete.clone(), &format!("warm/{}", job["id"]), "warm/{id}", None).await?;
    let key = held(post.clone(), "keys", "keys", Some(order("ben", &json!({ "studio": "viewer" }))?)).await?;
    let id = key["id"].as_str().unwrap_or_default();
    held(get.clone(), &format!("keys/{id}"), "keys/{id}", None).await?;
    held(delete.clone(), &format!("keys/{id}"), "keys/{id}", why.clone()).await?;
    held(delete.clone(), "audit/names/giver", "audit/names/{name}", why.clone()).await?;
    held(get.clone(), "dossier?of=studio%2Fthumb%3Fproduct%3Dvase", "dossier", None).await?;
    let draft = json!({ "variant": "studio/thumb?product=vase", "changes": { "steps": 9 }, "count": 2 });
    let draft = held(post.clone(), "drafts", "drafts", Some(draft)).await?;
    let id = draft["id"].as_str().unwrap_or_default();
    held(get.clone(), &format!("drafts/{id}"), "drafts/{id}", None).await?;
    held(get.clone(), "drafts?variant=studio%2Fthumb%3Fproduct%3Dvase", "drafts", None).await?;
    held(delete.clone(), &format!("drafts/{id}"), "drafts/{id}", None).await?;
    let split = json!({ "variant": "studio/thumb?product=vase", "why": "a test" });
    held(post.clone(), "splits", "splits", Some(split)).await?;
    held(get.clone(), "splits", "splits", None).await?;
    held(get.clone(), "masters?mark=0123456789abcdef", "masters", None).await?;
    for path in [
        "status",
        "me",
        "decisions",
        "purges",
        "audit",
        "state",
        "state/snapshot",
        "warm",
        "imports",
        "keys",
        "openapi.json",
    ] {
        held(get.clone(), path, path, None).await?;
    }
    // Problems are described, too.
    held(post.clone(), "state/promote", "state/promote", None).await?;
    for (method, path, template, body) in [
        (get.clone(), "kills?limit=0", "kills", None),
        (get.clone(), "kills?page=1", "kills", None),
        (get.clone(), "kills?limit=1&limit=2", "kills", None),
        (get.clone(), "keys/none", "keys/{id}", None),
        (post.clone(), "keys", "keys", Some(order("anybody", &json!({ "*": "viewer" }))?)),
        (post.clone(), "keys", "keys", Some(order("otto", &json!({}))?)),
        (post.clone(), "keys", "keys", Some(order("all", &json!({ "*": "viewer" }))?)),
        (post.clone(), "kills", "kills", Some(json!({ "slot": "studio/hero" }))),
        (get.clone(), "state/changes", "state/changes", None),
    ] {
        let problem = held(method, path, template, body).await?;
        assert!(problem["status"].as_u64().is_some_and(|status| (400..500).contains(&status)), "{path}: {problem}");
    }
    rig.stop().await;
    Ok(())
}
