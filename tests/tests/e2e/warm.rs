//! Warming a campaign over the admin API and from the command line.

use std::process::Stdio;
use std::sync::Arc;

use anyhow::Context;
use bildkante_edge::warm::StoredJobs;
use bildkante_edge::warm::job::JobState;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::client::eventually;
use bildkante_tests::rig::{Plan, Rig};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::purge::{TOKEN, admin, with_tokens};
use bildkante_tests::program;

const WARM: &str = "/admin/v1/warm";

async fn start(rig: &Rig, order: Value) -> anyhow::Result<Value> {
    let reply = admin(rig, Method::POST, WARM, Some(order)).await?;
    anyhow::ensure!(reply.status == StatusCode::ACCEPTED, "{} {}", reply.status, reply.text());
    let job = reply.json()?;
    assert_eq!(reply.header("location"), format!("{WARM}/{}", job["id"]));
    Ok(job)
}

async fn job(rig: &Rig, id: &Value) -> anyhow::Result<Value> {
    admin(rig, Method::GET, &format!("{WARM}/{id}"), None).await?.json()
}

async fn ended(rig: &Rig, id: &Value) -> anyhow::Result<Value> {
    eventually("the job ends", async || Ok(job(rig, id).await?["state"] != "running")).await?;
    job(rig, id).await
}

/// One choice on every axis but the product.
fn axes(products: Value) -> Value {
    json!({ "product": products, "colour": ["teal"], "material": ["glossy"], "backdrop": ["cream"],
            "setting": ["studio"] })
}

fn order(products: &[&str]) -> Value {
    json!({ "campaign": "studio", "slot": "thumb", "axes": axes(json!(products)), "formats": ["webp", "jpeg"],
            "concurrency": 2 })
}

/// The images that a job says it made are there: in memory, at the final rung, for the first request.
#[tokio::test]
async fn a_warmed_campaign_is_answered_from_memory() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_tokens, ..Plan::painted(&control) }).await?;
    let job_one = ended(&rig, &start(&rig, order(&["mug", "vase"])).await?["id"]).await?;
    assert_eq!(job_one["state"], "done", "{job_one}");
    let total = job_one["total"].as_u64().unwrap_or_default();
    assert!(total > 0 && job_one["done"] == total && job_one["rendered"] == total, "{job_one}");
    assert_eq!((&job_one["generated"], &job_one["failed"], &job_one["cached"]), (&json!(2), &json!(0), &json!(0)));
    assert_eq!(control.calls(), 2);
    for format in ["webp", "jpg"] {
        let path = format!("/i/studio/thumb?product=vase&colour=teal&fm={format}");
        let image = rig.http.image(rig.public(), &path).await?;
        assert_eq!(image.outcome(), "memory", "{path}: {:?}", image.headers);
        assert!(image.header("cdn-cache-control").starts_with("max-age=300"), "a final rung");
    }
    // A second job finds all images in the cache; one more picture costs one more generation.
    let again = ended(&rig, &start(&rig, order(&["mug", "vase", "cube"])).await?["id"]).await?;
    assert_eq!((&again["cached"], &again["generated"]), (&json!(total), &json!(1)), "{again}");
    assert!(again["bytes"].as_u64() > job_one["bytes"].as_u64());
    rig.stop().await;
    Ok(())
}

/// What a restart would know of a job by now. The edge has its database open, so a copy of the file is read; a copy that
/// fell into a commit may not open, and is made again.
async fn stored_state(rig: &Rig, id: &Value) -> anyhow::Result<JobState> {
    let copy = tempfile::tempdir()?;
    let mut jobs = None;
    eventually("a copy of the database opens", async || {
        std::fs::copy(rig.dir.path().join("edge/jobs.redb"), copy.path().join("jobs.redb"))?;
        jobs = StoredJobs::open(copy.path()).and_then(|jobs| jobs.all()).ok();
        Ok(jobs.is_some())
    })
    .await?;
    let job = jobs.into_iter().flatten().find(|job| Some(job.id) == id.as_u64());
    Ok(job.context("the job is stored")?.state)
}

/// After a restart a job goes on with what is left. A cancelled job stops, and can be resumed.
#[tokio::test]
async fn a_job_survives_a_restart_and_a_cancellation() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let mut rig = Rig::start(Plan { edge: with_tokens, ..Plan::painted(&control) }).await?;
    let first = start(&rig, order(&["mug"])).await?;
    let cut = ended(&rig, &first["id"]).await?["total"].clone();
    control.hold();
    let started = start(&rig, order(&["mug", "vase", "cube", "ring"])).await?;
    let id = &started["id"];
    // The first picture is in the cache, the next waits at the node.
    eventually("the first picture is done", async || Ok(job(&rig, id).await?["done"] == cut)).await?;
    rig.stop_edge().await;
    control.release();
    rig.start_edge().await?;
    rig.ready().await?;
    let done = ended(&rig, id).await?;
    assert_eq!((&done["state"], &done["failed"]), (&json!("done"), &json!(0)), "{done}");
    assert_eq!(done["done"], done["total"]);

    control.hold();
    let before = control.calls();
    let started = start(&rig, order(&["ball", "gift"])).await?;
    let id = &started["id"];
    // What is acknowledged is on the disk.
    assert_eq!(stored_state(&rig, id).await?, JobState::Running);
    control.started(before + 1).await;
    let cancelled = admin(&rig, Method::DELETE, &format!("{WARM}/{id}"), None).await?;
    assert_eq!((cancelled.status, &cancelled.json()?["state"]), (StatusCode::ACCEPTED, &json!("cancelled")));
    assert_eq!(stored_state(&rig, id).await?, JobState::Cancelled);
    assert_eq!(ended(&rig, id).await?["state"], "cancelled");
    control.release();
    start(&rig, json!({ "resume": id })).await?;
    let done = ended(&rig, id).await?;
    assert_eq!((&done["state"], &done["done"]), (&json!("done"), &done["total"]), "{done}");
    rig.stop().await;
    Ok(())
}

/// Readers are served while a campaign is warmed, also those who ask for an image that is being warmed.
#[tokio::test]
async fn readers_are_served_while_a_campaign_is_warmed() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_tokens, ..Plan::painted(&control) }).await?;
    control.hold();
    let many = ["ball", "cube", "bottle", "mug", "vase", "ring", "gift", "lamp"];
    let many = json!({ "campaign": "studio", "slot": "thumb", "axes": axes(json!(many)), "formats": ["webp"],
                       "concurrency": 8 });
    let id = start(&rig, many).await?["id"].clone();
    control.started(1).await;
    let depth = "bildkante_node_queue_jobs";
    // All eight: what joins the queue from here on is the reader's.
    eventually("one is drawn and seven wait", async || Ok(rig.http.metric(rig.node(), depth).await? >= 7.0)).await?;
    let ask = |path: &'static str| {
        let (http, to) = (rig.http.clone(), rig.public());
        tokio::spawn(async move { http.image(to, path).await })
    };
    let before = rig.http.metric(rig.node(), depth).await?;
    let (other, same) = (
        ask("/i/studio/hero?product=ring&colour=red&fm=webp"),
        ask("/i/studio/thumb?product=lamp&colour=teal&fm=webp"),
    );
    eventually("the reader waits as well", async || Ok(rig.http.metric(rig.node(), depth).await? > before)).await?;
    control.release();
    assert_eq!(other.await??.outcome(), "generated");
    assert_eq!(same.await??.outcome(), "generated");
    let drawn = control.prompts();
    let place = drawn.iter().position(|prompt| prompt.contains("red ring"));
    assert!(place.is_some_and(|place| place <= 2), "readers first: {drawn:?}");
    assert_eq!(ended(&rig, &id).await?["state"], "done");
    rig.stop().await;
    Ok(())
}

#[tokio::test]
async fn wrong_orders_are_told_what_is_wrong() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_tokens, ..Plan::painted(&control) }).await?;
    for (order, parameter) in [
        (json!({}), "campaign"),
        (json!({ "campaign": "nobody" }), "campaign"),
        (json!({ "campaign": "studio", "slot": "nowhere" }), "slot"),
        (json!({ "campaign": "studio", "axes": { "product": ["car"] } }), "axes"),
        (json!({ "campaign": "studio", "axes": ["product"] }), "axes"),
        (json!({ "campaign": "studio", "formats": ["gif"] }), "formats"),
        (json!({ "campaign": "studio", "concurrency": 1000 }), "concurrency"),
        (json!({ "campaign": "studio", "resume": 1 }), "resume"),
    ] {
        let refused = admin(&rig, Method::POST, WARM, Some(order.clone())).await?;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{order}");
        assert_eq!(refused.json()?["parameter"], parameter, "{order}");
    }
    for (method, path) in [(Method::GET, "/admin/v1/warm/1"), (Method::DELETE, "/admin/v1/warm/1")] {
        assert_eq!(admin(&rig, method, path, None).await?.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(admin(&rig, Method::POST, WARM, Some(json!({ "resume": 7 }))).await?.status, StatusCode::NOT_FOUND);
    assert_eq!(control.calls(), 0);
    rig.stop().await;
    Ok(())
}

/// The command line against a real edge: what it prints, where it remembers, how it exits.
#[tokio::test]
async fn the_command_line_warms_and_purges() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_tokens, ..Plan::painted(&control) }).await?;
    let (token, state) = (rig.dir.path().join("token"), rig.dir.path().join("warm.state"));
    std::fs::write(&token, TOKEN)?;
    let run = async |arguments: &str| {
        let admin = format!("http://{}", rig.admin());
        let mut command = tokio::process::Command::new(program("bildkante-edge")?);
        command.args(arguments.split_whitespace()).args(["--admin", &admin, "--token-file"]).arg(&token);
        if arguments.starts_with("warm") {
            command.arg("--resume").arg(&state);
        }
        let output = command.stdin(Stdio::null()).output().await?;
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        anyhow::Ok((output.status.code(), text))
    };
    let order = "warm --campaign studio --slot thumb --axis product=mug --axis product=vase --axis colour=teal --axis material=glossy --axis backdrop=cream --axis setting=studio --formats webp,jpeg";
    let (status, text) = run(order).await?;
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("generated   2 pictures") && text.contains("failed      0"), "{text}");
    assert!(text.contains("warm: ") && text.contains("renditions: "), "lines where there is no terminal: {text}");
    // The file names a job that is done: nothing is asked again.
    let (status, text) = run(order).await?;
    assert!(status == Some(0) && text.contains("generated   2 pictures"), "{text}");
    assert_eq!(control.calls(), 2);
    let (status, text) = run("purge --campaign studio --soft --why test").await?;
    assert!(status == Some(0) && text.contains("is in force"), "{text}");
    let (status, text) = run("purge --tag colour:teal").await?;
    assert!(status == Some(1) && text.contains("campaign:NAME"), "{text}");
    assert_eq!(run("purge --soft").await?.0, Some(64), "nothing is named");
    std::fs::remove_file(&state)?;
    let (status, text) = run("warm --campaign nobody").await?;
    assert!(status == Some(1) && text.contains("allowed: "), "{text}");
    std::fs::write(&token, "bk_wrong")?;
    let (status, text) = run("purge --everything").await?;
    assert!(status == Some(1) && text.contains("401"), "{text}");
    rig.stop().await;
    Ok(())
}
