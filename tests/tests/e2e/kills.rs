//! Kills, over the admin API and the command line: every way out is closed while one is in force, and opens again.

use std::process::Command;
use std::sync::Arc;

use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::client::{Reply, eventually};
use bildkante_tests::program;
use bildkante_tests::rig::{Plan, Rig};
use http::header::{ACCEPT, CONTENT_TYPE, IF_NONE_MATCH, RANGE};
use http::{HeaderName, Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::purge::{TOKEN, admin, with_tokens};

const KILLS: &str = "/admin/v1/kills";
pub(crate) const VASE: &str = "/i/studio/thumb?product=vase&fm=webp";
/// Another picture, which no kill of the vase touches.
pub(crate) const CUBE: &str = "/i/studio/thumb?product=cube&fm=webp";

async fn kill(rig: &Rig, target: (&str, &str)) -> anyhow::Result<Value> {
    let reply = admin(rig, Method::POST, KILLS, Some(json!({ target.0: target.1, "why": "a test" }))).await?;
    anyhow::ensure!(reply.status == StatusCode::CREATED, "{} {}", reply.status, reply.text());
    reply.json()
}

async fn lift(rig: &Rig, seq: &Value) -> anyhow::Result<Value> {
    let reply = admin(rig, Method::DELETE, &format!("{KILLS}/{seq}"), Some(json!({ "why": "it was a test" }))).await?;
    anyhow::ensure!(reply.status == StatusCode::OK, "{} {}", reply.status, reply.text());
    reply.json()
}

/// Until it is answered from memory, twice: the second time from the front map.
pub(crate) async fn warm(rig: &Rig, path: &str) -> anyhow::Result<Reply> {
    let mut reply = rig.http.image(rig.public(), path).await?;
    eventually("it is in memory, and final", async || {
        reply = rig.http.image(rig.public(), path).await?;
        let again = rig.http.image(rig.public(), path).await?;
        Ok((reply.outcome(), again.outcome()) == ("memory", "memory")
            && reply.header("cache-control").contains("max-age=60"))
    })
    .await?;
    Ok(reply)
}

/// A tag of an answer, without its kind.
pub(crate) fn tag(reply: &Reply, kind: &str) -> String {
    let tags = reply.header("cache-tag").to_owned();
    tags.split(',').find_map(|tag| tag.strip_prefix(kind)).unwrap_or_default().to_owned()
}

/// Every way in which a picture that is there can be asked for.
pub(crate) async fn ways_out(rig: &Rig, shown: &Reply) -> anyhow::Result<Vec<(&'static str, Reply)>> {
    let etag = shown.header("etag").to_owned();
    let ask = async |path: &str, fields: &[(HeaderName, &str)]| rig.http.get(rig.public(), path, fields).await;
    let accept = (ACCEPT, "image/webp,*/*;q=0.5");
    Ok(vec![
        ("as it was asked before", rig.http.image(rig.public(), VASE).await?),
        ("once more", rig.http.image(rig.public(), VASE).await?),
        ("if it is another", ask(VASE, &[(IF_NONE_MATCH, &etag)]).await?),
        ("if it is any other", ask(VASE, &[(IF_NONE_MATCH, &format!("W/\"x\", {etag}"))]).await?),
        ("in part", ask(VASE, &[(RANGE, "bytes=0-99")]).await?),
        ("in another spelling", ask("/i/studio/thumb/a-vase.webp?fm=webp&product=vase&utm_source=x", &[]).await?),
        ("pinned", ask(&format!("{VASE}&v=0123456789"), &[]).await?),
        ("in another format", ask("/i/studio/thumb?product=vase", &[accept]).await?),
        ("in another width", ask("/i/studio/thumb?product=vase&fm=webp&w=48", &[]).await?),
        ("by its screen", ask("/i/studio/thumb?product=vase&fm=webp&w=auto", &[]).await?),
        ("its head", rig.http.ask(Method::HEAD, rig.public(), VASE, &[]).await?),
    ])
}

fn is_withheld(way: &str, reply: &Reply, shown: &Reply, seq: &Value) {
    let told = format!("killed, epoch {seq}");
    assert!(reply.outcome().ends_with(&told), "{way}: {:?}", reply.headers);
    is_instead(way, reply, shown, "killed");
}

/// Something else is shown, kept by no browser, and taken for the picture by nobody.
pub(crate) fn is_instead(way: &str, reply: &Reply, shown: &Reply, reason: &str) {
    assert!(reply.outcome().contains(&format!("{reason}, epoch ")), "{way}: {:?}", reply.headers);
    assert_eq!(reply.header("cache-control"), "no-store", "{way}");
    assert_eq!(reply.header("cdn-cache-control"), "max-age=5", "{way}");
    assert_eq!(reply.header("x-robots-tag"), "noindex", "{way}");
    assert_ne!(reply.header("etag"), shown.header("etag"), "{way}");
    assert!(!reply.header("cache-tag").contains("recipe:"), "{way}: {:?}", reply.headers);
    assert!(reply.body.is_empty() || !shown.body.starts_with(&reply.body), "{way}");
    assert!(matches!(reply.status, StatusCode::OK | StatusCode::PARTIAL_CONTENT), "{way}: {}", reply.status);
}

/// For each kind of target: no way leads to the picture while it is killed, another picture is shown as before, and when the kill
/// is lifted the picture is there at once, without being made again.
#[tokio::test]
async fn a_kill_closes_every_way_out_and_a_lift_opens_them() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let mut rig = Rig::start(Plan { edge: with_tokens, ..Plan::painted(&control) }).await?;
    let shown = warm(&rig, VASE).await?;
    let other = warm(&rig, CUBE).await?;
    let (recipe, master) = (tag(&shown, "recipe:"), tag(&shown, "master:"));
    let calls = control.calls();
    for (target, is_of_both) in [
        (("campaign", "studio"), true),
        (("slot", "studio/thumb"), true),
        (("value", "studio?product=vase"), false),
        (("variant", "studio/thumb?product=vase"), false),
        (("recipe", recipe.as_str()), false),
        (("master", master.as_str()), false),
        (("checkpoint", "studio-tiny"), true),
        (("block", "product-shots/product-shot"), true),
    ] {
        let killed = kill(&rig, target).await?;
        for (way, reply) in ways_out(&rig, &shown).await? {
            is_withheld(&format!("{target:?}, {way}"), &reply, &shown, &killed["epoch"]);
        }
        let reply = rig.http.image(rig.public(), CUBE).await?;
        assert_eq!(reply.header("etag") != other.header("etag"), is_of_both, "{target:?}: {:?}", reply.headers);
        lift(&rig, &killed["seq"]).await?;
        let back = rig.http.image(rig.public(), VASE).await?;
        assert_eq!((back.outcome(), back.header("etag")), ("memory", shown.header("etag")), "{target:?}");
    }
    assert_eq!(control.calls(), calls, "nothing is drawn for a picture that is withheld");

    // From disk, after a restart: the kill outlives the process.
    let killed = kill(&rig, ("recipe", &recipe)).await?;
    rig.stop_edge().await;
    rig.start_edge().await?;
    for (way, reply) in ways_out(&rig, &shown).await? {
        is_withheld(&format!("after a restart, {way}"), &reply, &shown, &killed["epoch"]);
    }
    lift(&rig, &killed["seq"]).await?;
    assert_eq!(rig.http.image(rig.public(), VASE).await?.header("etag"), shown.header("etag"));
    assert_eq!(control.calls(), calls);
    rig.stop().await;
    Ok(())
}

/// What is killed while a reader waits for it is not shown to that reader; what is killed is not drawn, and a warming says so.
#[tokio::test]
async fn what_is_killed_is_neither_awaited_nor_drawn() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_tokens, ..Plan::painted(&control) }).await?;
    control.hold();
    let (http, address) = (rig.http.clone(), rig.public());
    let waiting = tokio::spawn(async move { http.image(address, VASE).await });
    eventually("it is being drawn", async || Ok(control.calls() == 1)).await?;
    let killed = kill(&rig, ("value", "studio?product=vase")).await?;
    control.release();
    let reply = waiting.await??;
    assert!(reply.outcome().contains("killed, epoch"), "{:?}", reply.headers);
    let calls = control.calls();
    for path in ["/i/studio/thumb?product=vase&colour=blue&fm=webp", "/i/studio/thumb?product=vase&colour=red&fm=webp"]
    {
        assert!(rig.http.image(rig.public(), path).await?.outcome().contains("killed, epoch"), "{path}");
    }
    let order = json!({ "campaign": "studio", "slot": "thumb", "axes": { "product": ["vase"], "colour": ["red"] } });
    let reply = admin(&rig, Method::POST, "/admin/v1/warm", Some(order.clone())).await?;
    anyhow::ensure!(reply.status == StatusCode::ACCEPTED, "{order} {}", reply.text());
    let job = reply.json()?;
    let mut done = Value::Null;
    eventually("the warming is over", async || {
        done = admin(&rig, Method::GET, &format!("/admin/v1/warm/{}", job["id"]), None).await?.json()?;
        Ok(done["state"] != "running")
    })
    .await?;
    let error = done["failures"][0]["error"].as_str().unwrap_or_default();
    assert!(error.contains("withheld by the state of epoch") && error.contains("killed"), "{done:#}");
    assert_eq!(control.calls(), calls, "nothing was drawn");
    lift(&rig, &killed["seq"]).await?;
    warm(&rig, VASE).await?;
    rig.stop().await;
    Ok(())
}

pub(crate) fn impatient(text: String) -> String {
    text.replace("wait_ms = 20000", "wait_ms = 100").replace("then = \"placeholder\"", "then = \"fallback\"")
}

/// The slot's default stands in where it may be shown; the variant's previous picture does not when it is killed.
#[tokio::test]
async fn stand_ins_pass_the_gate_too() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_tokens, manifest: impatient, ..Plan::painted(&control) }).await?;
    let default = warm(&rig, "/i/studio/thumb?fm=webp").await?;
    let shown = warm(&rig, VASE).await?;
    let variant = kill(&rig, ("variant", "studio/thumb?product=vase")).await?;
    let reply = rig.http.image(rig.public(), VASE).await?;
    assert!(reply.outcome().starts_with("fallback: killed"), "{:?}", reply.headers);
    assert_eq!(reply.body, default.body);
    let mug = kill(&rig, ("value", "studio?product=mug")).await?;
    let reply = rig.http.image(rig.public(), VASE).await?;
    assert!(reply.outcome().starts_with("placeholder: killed"), "{:?}", reply.headers);
    lift(&rig, &variant["seq"]).await?;
    lift(&rig, &mug["seq"]).await?;

    // Another recipe takes the variant over; what it was shown as before may not stand in for it.
    eventually("its master is on disk", async || Ok(!rig.edge_files("masters")?.is_empty())).await?;
    control.hold();
    let manifest = rig.dir.path().join("campaigns/studio.toml");
    let text = std::fs::read_to_string(&manifest)?;
    let guidance = text.lines().find(|line| line.starts_with("guidance")).unwrap_or_default().to_owned();
    std::fs::write(&manifest, text.replacen(&guidance, "guidance = 3.25", 1))?;
    eventually("the previous picture stands in", async || {
        Ok(rig.http.image(rig.public(), VASE).await?.outcome().starts_with("previous"))
    })
    .await?;
    for (kind, name) in [("recipe", tag(&shown, "recipe:")), ("master", tag(&shown, "master:"))] {
        let killed = kill(&rig, (kind, &name)).await?;
        let reply = rig.http.image(rig.public(), VASE).await?;
        assert!(!reply.outcome().starts_with("previous") && reply.body != shown.body, "{kind}: {:?}", reply.headers);
        lift(&rig, &killed["seq"]).await?;
        assert!(rig.http.image(rig.public(), VASE).await?.outcome().starts_with("previous"), "{kind}");
    }
    control.release();
    rig.stop().await;
    Ok(())
}

/// Orders are known again by their keys, lists are paged, and what names nothing is refused by name.
#[tokio::test]
async fn orders_are_repeated_listed_and_refused() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_tokens, ..Plan::painted(&control) }).await?;
    let keyed = async |body: Value| {
        let request = Request::builder().method(Method::POST).uri(format!("http://{}{KILLS}", rig.admin()));
        let request = request
            .header("authorization", format!("Bearer {TOKEN}"))
            .header(CONTENT_TYPE, "application/json")
            .header("idempotency-key", "\"one-order\"");
        rig.http.send(request.body(Full::from(body.to_string()))?).await
    };
    let order = json!({ "slot": "studio/hero", "why": "a test" });
    let first = keyed(order.clone()).await?;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.text());
    let again = keyed(order).await?;
    assert_eq!((again.status, &again.json()?["seq"]), (StatusCode::OK, &first.json()?["seq"]));
    let other = keyed(json!({ "slot": "studio/thumb", "why": "a test" })).await?;
    assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(other.json()?["type"].as_str().is_some_and(|kind| kind.contains("key-reused")), "{}", other.text());

    for product in ["vase", "cube", "ring"] {
        kill(&rig, ("value", &format!("studio?product={product}"))).await?;
    }
    let page = async |query: &str| admin(&rig, Method::GET, &format!("{KILLS}?{query}"), None).await?.json();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let query = after.map_or_else(|| "limit=3".to_owned(), |after: u64| format!("limit=3&after={after}"));
        let listed = page(&query).await?;
        seen.extend(listed["kills"].as_array().cloned().unwrap_or_default());
        after = listed["next"].as_u64();
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
    assert!(seen.is_sorted_by_key(|kill| kill["seq"].as_u64()), "{seen:?}");
    rig.http.counts(rig.admin(), "bildkante_edge_kills_in_force{kind=\"value\"}", 3.0).await?;

    for (body, says) in [
        (json!({ "campaign": "studio" }), "`why` says why"),
        (json!({ "why": "x" }), "nothing is named"),
        (json!({ "campaign": "studio", "slot": "studio/hero", "why": "x" }), "names one thing"),
        (json!({ "campaign": "nobody", "why": "x" }), "there is no campaign `nobody`"),
        (json!({ "slot": "studio/nothing", "why": "x" }), "has no slot `nothing`"),
        (json!({ "value": "studio?product=car", "why": "x" }), "has no value `car`"),
        (json!({ "variant": "studio/hero?product=car", "why": "x" }), "car"),
        (json!({ "checkpoint": "sdxl", "why": "x" }), "no lock names a checkpoint `sdxl`"),
        (json!({ "recipe": "abc", "why": "x" }), "recipe's id"),
        (json!({ "campaigns": "studio", "why": "x" }), "no field `campaigns`"),
    ] {
        let reply = admin(&rig, Method::POST, KILLS, Some(body.clone())).await?;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{body} {}", reply.text());
        assert!(reply.text().contains(says), "{body}: {}", reply.text());
    }
    let reply = admin(&rig, Method::DELETE, &format!("{KILLS}/4711"), Some(json!({ "why": "x" }))).await?;
    assert_eq!(reply.status, StatusCode::NOT_FOUND, "{}", reply.text());
    let reply = rig.http.post_json(rig.admin(), KILLS, &json!({ "campaign": "studio", "why": "x" })).await?;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    rig.stop().await;
    Ok(())
}

fn command(rig: &Rig, arguments: &[&str]) -> anyhow::Result<(bool, String)> {
    let output = Command::new(program("bildkante-edge")?)
        .args(arguments)
        .arg("--admin")
        .arg(format!("http://{}", rig.admin()))
        .env("BILDKANTE_ADMIN_TOKEN", TOKEN)
        .output()?;
    Ok((output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()))
}

/// The whole of it from the command line, and an audit that shows what was edited, removed or cut off.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_kills_and_the_audit_holds() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_tokens, ..Plan::painted(&control) }).await?;
    let (is_done, said) = command(&rig, &["kill", "--slot", "studio/hero", "--why", "legal called"])?;
    assert!(is_done && said.contains("slot:studio/hero is withheld by every edge"), "{said}");
    assert!(said.contains("browsers may show it for 60 s more, shared caches for 360 s"), "{said}");
    let seq = said.split_whitespace().nth(1).unwrap_or_default().trim_end_matches(':').to_owned();
    let (is_done, said) = command(&rig, &["status"])?;
    assert!(is_done && said.contains("primary at entry") && said.contains("slot:studio/hero"), "{said}");
    let (is_done, said) = command(&rig, &["lift", &seq, "--why", "they called back"])?;
    assert!(is_done && said.contains("slot:studio/hero is shown again"), "{said}");
    let (is_done, said) = command(&rig, &["kill", "--campaign", "nobody", "--why", "x"])?;
    assert!(!is_done && said.contains("there is no campaign `nobody`"), "{said}");
    admin(&rig, Method::POST, "/admin/v1/purges", Some(json!({ "campaign": "studio", "why": "new prices" }))).await?;

    let (is_done, said) = command(&rig, &["audit", "tail", "--once"])?;
    assert!(is_done, "{said}");
    for line in
        ["tests  kill slot:studio/hero  legal called", "lift slot:studio/hero", "purge campaign studio  new prices"]
    {
        assert!(said.contains(line), "{line}: {said}");
    }
    let (is_done, said) = command(&rig, &["audit", "verify"])?;
    assert!(is_done && said.contains("4 entries from 1 to 4 hold"), "{said}");
    let (is_done, lines) = command(&rig, &["audit", "export"])?;
    assert!(is_done && !lines.contains("\"tests\""), "no name stands in the log: {lines}");
    let verify = |text: &str| {
        let path = rig.dir.path().join("audit.jsonl");
        std::fs::write(&path, text)?;
        command(&rig, &["audit", "verify", "--file", &path.display().to_string()])
    };
    assert!(verify(&lines)?.0);
    let edited = verify(&lines.replacen("legal called", "nobody called", 1))?;
    assert!(!edited.0 && edited.1.contains("entry 2 is not what its hash says"), "{}", edited.1);
    let removed: Vec<&str> = lines.lines().enumerate().filter(|(at, _)| *at != 2).map(|(_, line)| line).collect();
    let removed = verify(&removed.join("\n"))?;
    assert!(!removed.0 && removed.1.contains("is missing"), "{}", removed.1);

    let (is_done, said) = command(&rig, &["audit", "forget", "tests", "--why", "she left"])?;
    assert!(is_done, "{said}");
    let (_, said) = command(&rig, &["audit", "tail", "--once"])?;
    assert!(!said.contains("tests  kill"), "the name is erased: {said}");
    assert!(command(&rig, &["audit", "verify"])?.0);
    rig.stop().await;
    Ok(())
}
