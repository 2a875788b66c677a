//! Reviews, over the admin API and the command line: what nobody has approved leaves by no way, and what was approved is shown
//! until something else is.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::client::{Reply, eventually};
use bildkante_tests::program;
use bildkante_tests::rig::{Plan, Rig};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::kills::{CUBE, VASE, is_instead, tag, warm as in_memory, ways_out};
use crate::purge::{TOKEN, admin, with_tokens};

const DECISIONS: &str = "/admin/v1/decisions";

pub(crate) fn reviewed(text: String) -> String {
    text.replace("review = \"none\"", "review = \"required\"")
}

pub(crate) fn by_two(text: String) -> String {
    text.replace("review = \"none\"", "review = \"required\", approvers = 2")
}

async fn rig(control: &Arc<FakeControl>, manifest: fn(String) -> String) -> anyhow::Result<Rig> {
    Rig::start(Plan { edge: with_tokens, manifest, ..Plan::painted(control) }).await
}

pub(crate) fn warming() -> Value {
    json!({ "campaign": "studio", "slot": "thumb", "formats": ["webp"], "why": "for review",
        "axes": { "product": ["vase"], "colour": ["teal"], "material": ["glossy"], "backdrop": ["cream"],
            "setting": ["studio"], "locale": ["de-DE"] } })
}

/// Has the vase of the small slot made, as a person who asks for a warming does, and waits until it is before reviewers.
pub(crate) async fn make(rig: &Rig) -> anyhow::Result<Value> {
    let before = awaiting(rig).await?.len();
    let reply = admin(rig, Method::POST, "/admin/v1/warm", Some(warming())).await?;
    anyhow::ensure!(reply.status == StatusCode::ACCEPTED, "{} {}", reply.status, reply.text());
    let mut found = Vec::new();
    eventually("it is before reviewers", async || {
        found = awaiting(rig).await?;
        Ok(found.len() == before + 1)
    })
    .await?;
    Ok(found.remove(before))
}

async fn awaiting(rig: &Rig) -> anyhow::Result<Vec<Value>> {
    let path = format!("{DECISIONS}?state=needs_review&campaign=studio");
    let page = admin(rig, Method::GET, &path, None).await?.json()?;
    Ok(page["decisions"].as_array().cloned().unwrap_or_default())
}

async fn rule(rig: &Rig, case: &Value, order: Value) -> anyhow::Result<Reply> {
    admin(rig, Method::POST, &format!("{DECISIONS}/{}", case["id"]), Some(order)).await
}

pub(crate) async fn ruled(rig: &Rig, case: &Value, order: Value) -> anyhow::Result<Value> {
    let reply = rule(rig, case, order).await?;
    anyhow::ensure!(reply.status == StatusCode::OK, "{} {}", reply.status, reply.text());
    reply.json()
}

async fn are_closed(rig: &Rig, shown: &Reply, when: &str) -> anyhow::Result<()> {
    for (way, reply) in ways_out(rig, shown).await? {
        is_instead(&format!("{when}, {way}"), &reply, shown, "awaiting-decision");
    }
    Ok(())
}

fn now_unix_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// The whole life of a picture: asked for in vain, made by a person's order, approved, paused, resumed, rejected.
#[tokio::test]
async fn nothing_is_public_that_was_not_approved() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let mut rig = rig(&control, reviewed).await?;
    let placeholder = rig.http.image(rig.public(), VASE).await?;
    assert_eq!(placeholder.header("cache-control"), "no-store", "{:?}", placeholder.headers);
    assert!(placeholder.outcome().contains("awaiting-decision, epoch "), "{:?}", placeholder.headers);
    assert_eq!(control.calls(), 0, "a reader has nothing drawn");

    let case = make(&rig).await?;
    assert_eq!(case["variant"], "studio/thumb?backdrop=cream&colour=teal&material=glossy&product=vase&setting=studio");
    let path = case["picture"].as_str().unwrap_or_default();
    let picture = admin(&rig, Method::GET, &format!("{path}?w=96&fm=webp"), None).await?;
    assert_eq!((picture.status, picture.header("content-type")), (StatusCode::OK, "image/webp"));
    assert_eq!(picture.header("cache-control"), "no-store");
    let unseen = rig.http.get(rig.admin(), path, &[]).await?;
    assert_eq!(unseen.status, StatusCode::UNAUTHORIZED, "{}", unseen.text());
    assert_eq!(rig.http.image(rig.public(), VASE).await?.body, placeholder.body);

    let approved = ruled(&rig, &case, json!({ "decision": "approve", "seen": case["seen"] })).await?;
    assert_eq!(approved["state"], "live");
    let shown = in_memory(&rig, VASE).await?;
    assert_eq!(tag(&shown, "master:"), case["master"].as_str().unwrap_or_default());
    let english = rig.http.image(rig.public(), &format!("{VASE}&locale=en-GB")).await?;
    assert_eq!(
        english.header("etag"),
        shown.header("etag"),
        "another locale has the same picture: {:?}",
        english.headers
    );
    let other = rig.http.image(rig.public(), CUBE).await?;
    assert!(other.outcome().contains("awaiting-decision"), "each picture is decided by itself: {:?}", other.headers);

    ruled(&rig, &case, json!({ "decision": "pause", "why": "a question" })).await?;
    are_closed(&rig, &shown, "paused").await?;
    ruled(&rig, &case, json!({ "decision": "resume" })).await?;
    assert_eq!(rig.http.image(rig.public(), VASE).await?.header("etag"), shown.header("etag"));

    rig.stop_edge().await;
    rig.start_edge().await?;
    assert_eq!(in_memory(&rig, VASE).await?.header("etag"), shown.header("etag"), "a decision outlives the process");
    let late = rule(&rig, &case, json!({ "decision": "reject", "seen": case["seen"], "why": "late" })).await?;
    assert_eq!(late.status, StatusCode::CONFLICT, "{}", late.text());
    assert!(late.text().contains("look again"), "{}", late.text());
    let silent = rule(&rig, &case, json!({ "decision": "reject" })).await?;
    assert_eq!(silent.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", silent.text());
    ruled(&rig, &case, json!({ "decision": "reject", "why": "the handle is wrong" })).await?;
    are_closed(&rig, &shown, "rejected").await?;
    assert_eq!(control.calls(), 1, "it was drawn once, for the person who asked");
    rig.stop().await;
    Ok(())
}

/// A changed manifest makes another picture. The one that was approved is shown until the new one is, as any picture is.
#[tokio::test]
async fn the_last_approved_picture_is_shown_until_another_is() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = rig(&control, reviewed).await?;
    let first = make(&rig).await?;
    ruled(&rig, &first, json!({ "decision": "approve" })).await?;
    let shown = in_memory(&rig, VASE).await?;

    let manifest = rig.dir.path().join("campaigns/studio.toml");
    let text = fs::read_to_string(&manifest)?;
    let changed = text.replace("base = 1207", "base = 1208");
    anyhow::ensure!(changed != text, "the manifest has another seed");
    let variant = "/admin/v1/dossier?of=studio/thumb%3Fproduct%3Dvase";
    let recipe = async || -> anyhow::Result<Value> {
        Ok(admin(&rig, Method::GET, variant, None).await?.json()?["recipe"].clone())
    };
    let before = recipe().await?;
    fs::write(&manifest, changed)?;
    eventually("the manifest is taken", async || Ok(recipe().await? != before)).await?;

    let first_master = first["master"].as_str().unwrap_or_default();
    let still = in_memory(&rig, VASE).await?;
    assert_eq!([tag(&shown, "master:"), tag(&still, "master:")], [first_master; 2], "{:?}", still.headers);
    let second = make(&rig).await?;
    assert_ne!(second["recipe"], first["recipe"]);
    assert_eq!(tag(&rig.http.image(rig.public(), VASE).await?, "master:"), first_master);
    ruled(&rig, &second, json!({ "decision": "approve" })).await?;
    let new = in_memory(&rig, VASE).await?;
    assert_eq!(tag(&new, "master:"), second["master"].as_str().unwrap_or_default());
    // The first comes back when the second is taken away.
    ruled(&rig, &second, json!({ "decision": "reject", "why": "the first was better" })).await?;
    assert_eq!(tag(&in_memory(&rig, VASE).await?, "master:"), first_master);
    rig.stop().await;
    Ok(())
}

/// What was approved in one cut is not shown in another before people have seen it there, although nothing is drawn for it.
#[tokio::test]
async fn another_cut_is_another_decision() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = rig(&control, reviewed).await?;
    let first = make(&rig).await?;
    assert_eq!(first["cut"], "1:1");
    ruled(&rig, &first, json!({ "decision": "approve" })).await?;
    let shown = in_memory(&rig, VASE).await?;
    let manifest = rig.dir.path().join("campaigns/studio.toml");
    let text = fs::read_to_string(&manifest)?;
    let (before, thumb) = text.split_once("[slots.thumb]").unwrap_or_default();
    fs::write(&manifest, format!("{before}[slots.thumb]{}", thumb.replacen("\"1:1\"", "\"4:3\"", 1)))?;
    let path = format!("{DECISIONS}/{}", first["id"]);
    let state = async || anyhow::Ok(admin(&rig, Method::GET, &path, None).await?.json()?["state"].clone());
    eventually("the new cut is the slot's", async || Ok(state().await? == "superseded")).await?;
    are_closed(&rig, &shown, "in another cut").await?;
    let second = make(&rig).await?;
    assert_eq!((&second["cut"], &second["master"]), (&json!("4:3"), &first["master"]));
    ruled(&rig, &second, json!({ "decision": "approve" })).await?;
    let cut = in_memory(&rig, VASE).await?;
    assert_eq!(tag(&cut, "master:"), tag(&shown, "master:"));
    assert_ne!(cut.header("etag"), shown.header("etag"));
    assert_eq!(control.calls(), 1, "it is the same master");
    rig.stop().await;
    Ok(())
}

/// No cache is told to keep a picture longer than its time, and it leaves on its own when that is over.
#[tokio::test]
async fn a_picture_is_shown_in_its_time_and_no_cache_keeps_it_longer() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = rig(&control, reviewed).await?;
    let case = make(&rig).await?;
    let hour_ms = 3_600_000;
    let future = json!({ "decision": "approve", "from_unix_ms": now_unix_ms() + hour_ms });
    assert_eq!(ruled(&rig, &case, future).await?["state"], "scheduled");
    assert!(rig.http.image(rig.public(), VASE).await?.outcome().contains("awaiting-decision"));

    let ends = now_unix_ms() + 20_000;
    ruled(&rig, &case, json!({ "decision": "approve", "until_unix_ms": ends })).await?;
    let mut shown = rig.http.image(rig.public(), VASE).await?;
    eventually("it is final", async || {
        shown = rig.http.image(rig.public(), VASE).await?;
        Ok(shown.header("cache-control").contains("must-revalidate"))
    })
    .await?;
    let max_age: u64 =
        shown.header("cache-control").trim_start_matches("public, max-age=").split(',').next().unwrap_or("").parse()?;
    assert!(max_age <= 20, "{:?}", shown.headers);
    ruled(&rig, &case, json!({ "decision": "approve", "until_unix_ms": now_unix_ms() + 1 })).await?;
    eventually("its time is over", async || {
        Ok(rig.http.image(rig.public(), VASE).await?.outcome().contains("awaiting-decision"))
    })
    .await?;
    are_closed(&rig, &shown, "expired").await?;
    rig.stop().await;
    Ok(())
}

/// What gates are to look at is not people's to decide before each has reported; what they report is seen, and decides nothing.
#[tokio::test]
async fn gates_report_before_people_decide() -> anyhow::Result<()> {
    fn gated(text: String) -> String {
        text.replace("review = \"none\"", "review = \"required\", gates = [\"brand\", \"text\"]")
    }
    let control = Arc::new(FakeControl::default());
    let rig = rig(&control, gated).await?;
    let reply = admin(&rig, Method::POST, "/admin/v1/warm", Some(warming())).await?;
    assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.text());
    let mut case = Value::Null;
    eventually("it is being checked", async || {
        let page = admin(&rig, Method::GET, &format!("{DECISIONS}?state=checking"), None).await?.json()?;
        case = page["decisions"][0].clone();
        Ok(case.is_object())
    })
    .await?;
    assert_eq!(case["awaits"], json!(["brand", "text"]));
    let early = rule(&rig, &case, json!({ "decision": "approve" })).await?;
    assert_eq!(early.status, StatusCode::CONFLICT, "{}", early.text());
    assert!(early.text().contains("brand and text has not reported"), "{}", early.text());
    let path = format!("decisions/{}/reports", case["id"]);
    let report = async |gate: &str, verdict: &str| {
        let order = json!({ "gate": gate, "version": "1.2", "verdict": verdict, "why": "2.1 : 1" });
        crate::repeats::order(&rig, rig.admin(), (&path, &format!("{gate}-{verdict}")), &order).await
    };
    let unknown = report("faces", "pass").await?;
    assert_eq!(unknown.status, StatusCode::CONFLICT, "{}", unknown.text());
    let first = report("text", "fail").await?;
    assert_eq!((first.status, first.json()?["state"].clone()), (StatusCode::OK, json!("checking")), "{}", first.text());
    let again = report("text", "fail").await?;
    assert_eq!(
        (again.json()?["is_new"].clone(), again.json()?["seen"].clone()),
        (json!(false), first.json()?["seen"].clone())
    );
    let last = report("brand", "pass").await?.json()?;
    assert_eq!((&last["state"], &last["approved_by"]), (&json!("needs_review"), &json!([])), "{last}");
    assert_eq!(last["reports"][0]["finding"]["verdict"], "fail");
    assert!(rig.http.image(rig.public(), VASE).await?.outcome().contains("awaiting-decision"));
    assert_eq!(ruled(&rig, &case, json!({ "decision": "approve" })).await?["state"], "live");
    rig.stop().await;
    Ok(())
}

/// Two approvals are of two people, and the command line says what is missing.
#[tokio::test]
async fn two_people_approve_where_two_are_asked_for() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = rig(&control, by_two).await?;
    let case = make(&rig).await?;
    let first = ruled(&rig, &case, json!({ "decision": "approve" })).await?;
    assert_eq!(first["state"], "needs_review");
    let again = rule(&rig, &case, json!({ "decision": "approve" })).await?;
    assert_eq!(again.status, StatusCode::CONFLICT, "{}", again.text());
    assert!(again.text().contains("another one's"), "{}", again.text());
    let dir = rig.dir.path().join("token");
    fs::write(&dir, format!("{TOKEN}\n"))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o600))?;
    }
    let edge = program("bildkante-edge")?;
    let admin_url = format!("http://{}", rig.admin());
    let output = tokio::task::spawn_blocking(move || {
        Command::new(edge).args(["review", "list", "--admin", &admin_url, "--token-file"]).arg(&dir).output()
    })
    .await??;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text} {}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("studio/thumb?") && text.contains("needs_review") && text.contains("1 approval"), "{text}");
    rig.stop().await;
    Ok(())
}
