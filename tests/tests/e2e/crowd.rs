//! Many readers of the preview at once: each hears of a decision, and none costs the pictures of others anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::client::{eventually, within};
use bildkante_tests::raw::{Connection, request};
use bildkante_tests::rig::{Plan, Rig};
use http::{Method, StatusCode};
use serde_json::json;
use tokio::task::JoinSet;

use crate::people::{give, session, with_giver};
use crate::purge::admin;
use crate::reviews::reviewed;

const READERS: usize = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_open_pages_hear_of_a_decision() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_giver, manifest: reviewed, ..Plan::painted(&control) }).await?;
    let secret = give(&rig, "anna", &json!({ "studio": "approver" })).await?;
    let cookie = session(&rig, &secret).await?.cookie;
    let page = rig.http.get(rig.admin(), "/preview/", &[(http::header::COOKIE, &cookie)]).await?.text();
    let seq = page.split_once("data-seq=\"").and_then(|(_, rest)| rest.split('"').next()).context("no data-seq")?;

    let (waiting, told) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        let target = format!("/preview/events?after={seq}");
        let (to, cookie, waiting, told) = (rig.admin(), cookie.clone(), Arc::clone(&waiting), Arc::clone(&told));
        readers.spawn(async move {
            let mut connection = Connection::open(to).await?;
            waiting.fetch_add(1, Ordering::Relaxed);
            // A stream on which nothing happened for a while ends, and is asked for again, as a browser does.
            loop {
                let event = connection.send(&request("GET", &target, &[("cookie", &cookie)])).await?.reply;
                anyhow::ensure!(event.status == StatusCode::OK, "{}: {}", event.status, event.text());
                if event.text().contains("event: change") {
                    told.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
            }
        });
    }
    eventually("all of them wait", async || Ok(waiting.load(Ordering::Relaxed) == READERS)).await?;
    // Meanwhile pictures and pages are answered, and nobody was told anything.
    let picture = rig.http.image(rig.public(), "/i/studio/hero/a?product=mug&w=320&fm=webp").await?;
    assert_eq!(picture.status, StatusCode::OK, "{}", picture.text());
    let home = rig.http.get(rig.admin(), "/preview/", &[(http::header::COOKIE, &cookie)]).await?;
    assert_eq!(home.status, StatusCode::OK);
    assert_eq!(told.load(Ordering::Relaxed), 0, "nothing was decided yet");

    let order = json!({ "variant": "studio/thumb?product=vase", "count": 1 });
    let begun = admin(&rig, Method::POST, "/admin/v1/candidates", Some(order)).await?;
    assert_eq!(begun.status, StatusCode::ACCEPTED, "{}", begun.text());
    within("every reader is told", async {
        while let Some(reader) = readers.join_next().await {
            reader??;
        }
        anyhow::Ok(())
    })
    .await??;
    assert_eq!(told.load(Ordering::Relaxed), READERS);
    rig.stop().await;
    Ok(())
}
