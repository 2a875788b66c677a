//! What goes wrong: nodes that die, files that rot, queues that fill, edges that restart.

use std::sync::Arc;
use std::time::Duration;

use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::client::eventually;
use bildkante_tests::rig::{Plan, Rig};
use http::StatusCode;

/// Far below any slot's patience, far above a busy machine's delays.
const AT_ONCE: Duration = Duration::from_secs(8);

/// Slots that wait fall back to their default variant.
fn then_fallback(text: String) -> String {
    text.replace("then = \"placeholder\"", "then = \"fallback\"")
}

/// While the node is gone, cached images are served, other images are answered at once with the slot's default variant, and
/// when the node is back the picture is drawn.
#[tokio::test]
async fn a_killed_node_means_fallbacks_and_then_recovery() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let mut rig = Rig::start(Plan { manifest: then_fallback, ..Plan::painted(&control) }).await?;
    let (default, other) = ("/i/studio/hero", "/i/studio/hero?product=ring");
    let first = rig.http.image(rig.public(), default).await?;
    assert_eq!(first.status, StatusCode::OK);

    rig.stop_node().await;
    let kept = rig.http.image(rig.public(), default).await?;
    assert_eq!(kept.outcome(), "memory");
    // Long before the slot's 20 s of patience are over.
    let instead = tokio::time::timeout(AT_ONCE, rig.http.image(rig.public(), other)).await??;
    let readiness = rig.http.get(rig.admin(), "/readyz", &[]).await?;
    assert_eq!(readiness.status, StatusCode::OK, "an edge that lost its nodes serves on");
    eventually("the state of the nodes is told beside it", async || {
        let readiness = rig.http.get(rig.admin(), "/readyz", &[]).await?.json()?;
        let asked = rig.http.get(rig.admin(), "/readyz?origins=1", &[]).await?;
        let metric = rig.http.metric(rig.admin(), "bildkante_edge_origins_ready").await?;
        Ok(readiness["ready"] == true && readiness["origins_ready"] == false && asked.status == 503 && metric == 0.0)
    })
    .await?;
    assert_eq!(instead.status, StatusCode::OK);
    assert!(instead.outcome().starts_with("fallback"), "{:?}", instead.headers);
    assert_eq!(instead.header("cache-control"), "no-cache");
    assert_eq!(instead.header("x-robots-tag"), "noindex");

    rig.start_node().await?;
    rig.ready().await?;
    eventually("the picture itself", async || {
        Ok(matches!(rig.http.image(rig.public(), other).await?.outcome(), "generated" | "memory" | "rendered"))
    })
    .await?;
    rig.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_restarted_edge_serves_from_disk_and_draws_nothing() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let mut rig = Rig::start(Plan::painted(&control)).await?;
    let path = "/i/studio/thumb?product=vase&fm=webp";
    let before = rig.http.image(rig.public(), path).await?;
    eventually("the rendition is on disk", async || Ok(!rig.edge_files("renditions")?.is_empty())).await?;
    rig.stop_edge().await;
    rig.stop_node().await;
    // Not even a node is needed.
    rig.start_edge().await?;
    let after = rig.http.image(rig.public(), path).await?;
    assert_eq!(after.outcome(), "disk", "{:?}", after.headers);
    assert_eq!(after.header("etag"), before.header("etag"));
    assert_eq!(after.body, before.body);
    assert_eq!(control.calls(), 1);
    rig.stop().await;
    Ok(())
}

/// A rendition whose file is damaged on disk is cut again from its master; the damaged bytes are never sent.
#[tokio::test]
async fn a_corrupt_file_is_rendered_again_and_never_served() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let mut rig = Rig::start(Plan::painted(&control)).await?;
    let path = "/i/studio/thumb?product=cube&fm=webp";
    let before = rig.http.image(rig.public(), path).await?;
    eventually("the rendition is on disk", async || Ok(!rig.edge_files("renditions")?.is_empty())).await?;
    rig.stop_edge().await;
    for file in rig.edge_files("renditions")? {
        let mut bytes = std::fs::read(&file)?;
        if let Some(last) = bytes.last_mut() {
            *last ^= 0x40;
        }
        std::fs::write(&file, bytes)?;
    }
    rig.start_edge().await?;
    rig.ready().await?;
    let after = rig.http.image(rig.public(), path).await?;
    assert_eq!(after.outcome(), "rendered", "{:?}", after.headers);
    assert_eq!(after.body, before.body, "rendering is deterministic");
    assert_eq!(control.calls(), 1);
    rig.stop().await;
    Ok(())
}

/// A full queue is a 429 at the node and a stand-in at the edge, at once.
#[tokio::test]
async fn a_full_queue_is_a_429_at_the_node_and_a_stand_in_at_the_edge() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    control.hold();
    let plan = Plan { node: |config| config.queue.jobs_max = 1, ..Plan::painted(&control) };
    let rig = Rig::start(plan).await?;
    let ask = |product: &'static str| {
        let (http, to) = (rig.http.clone(), rig.public());
        tokio::spawn(async move { http.image(to, &format!("/i/studio/hero?product={product}")).await })
    };
    // One is drawn, one waits: the queue is full.
    let drawn = ask("ball");
    control.started(1).await;
    let waiting = ask("cube");
    let depth = "bildkante_node_queue_jobs";
    eventually("a job waits", async || Ok(rig.http.metric(rig.node(), depth).await? >= 1.0)).await?;

    let refused = tokio::time::timeout(AT_ONCE, ask("ring")).await???;
    assert_eq!(refused.status, StatusCode::OK);
    assert!(refused.outcome().starts_with("placeholder: queue-full"), "{:?}", refused.headers);
    assert_eq!(refused.header("cdn-cache-control"), "max-age=5, stale-while-revalidate=30");
    let direct = rig.http.post_json(rig.node(), "/v1/generations", &generation(&rig).await?).await?;
    assert_eq!(direct.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(!direct.header("retry-after").is_empty());

    control.release();
    assert_eq!(drawn.await??.outcome(), "generated");
    assert_eq!(waiting.await??.outcome(), "generated");
    rig.stop().await;
    Ok(())
}

async fn generation(rig: &Rig) -> anyhow::Result<serde_json::Value> {
    let checkpoints = rig.http.get(rig.node(), "/v1/checkpoints", &[]).await?.json()?;
    let first = checkpoints.get("checkpoints").unwrap_or(&checkpoints)[0].clone();
    Ok(serde_json::json!({
        "recipe": {
            "checkpoint": first["digest"], "prompt": "another", "width_px": 64, "height_px": 64,
            "seed": 1, "steps": 2, "guidance": 1.0
        },
        "deadline_ms": 1000
    }))
}

/// A slot that shows a placeholder at once.
#[tokio::test]
async fn placeholders_come_at_once_and_the_picture_next_time() -> anyhow::Result<()> {
    fn placeholder(text: String) -> String {
        let policy = text.lines().find(|line| line.starts_with("on_miss")).unwrap_or_default().to_owned();
        text.replacen(&policy, "on_miss = { policy = \"placeholder\" }", 1)
    }
    let control = Arc::new(FakeControl::default());
    control.hold();
    let rig = Rig::start(Plan { manifest: placeholder, ..Plan::painted(&control) }).await?;
    let path = "/i/studio/hero?product=gift";
    let first = tokio::time::timeout(AT_ONCE, rig.http.image(rig.public(), path)).await??;
    assert!(first.outcome().starts_with("placeholder"), "{:?}", first.headers);
    assert!(first.body.len() < 2500, "{} bytes", first.body.len());
    control.release();
    eventually("the picture itself", async || {
        Ok(matches!(rig.http.image(rig.public(), path).await?.outcome(), "memory" | "rendered" | "generated"))
    })
    .await?;
    rig.stop().await;
    Ok(())
}

/// An edge that is started while no node is there is ready, because it can answer: what is on its disk, and stand-ins.
#[tokio::test]
async fn an_edge_without_nodes_is_ready_with_what_it_has() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let mut rig = Rig::start(Plan { manifest: then_fallback, ..Plan::painted(&control) }).await?;
    let path = "/i/studio/thumb";
    assert_eq!(rig.http.image(rig.public(), path).await?.status, StatusCode::OK);
    eventually("its rendition is on disk", async || Ok(!rig.edge_files("renditions")?.is_empty())).await?;
    rig.stop_node().await;
    rig.stop_edge().await;
    rig.start_edge().await?;
    let readiness = rig.http.get(rig.admin(), "/readyz", &[]).await?;
    assert_eq!(readiness.status, StatusCode::OK, "{}", readiness.text());
    assert_eq!(readiness.json()?["origins_ready"], false);
    let asked = rig.http.get(rig.admin(), "/readyz?origins=1", &[]).await?;
    assert_eq!(asked.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(rig.http.image(rig.public(), path).await?.outcome(), "disk");
    rig.start_node().await?;
    eventually("it says so when the node is back", async || {
        Ok(rig.http.get(rig.admin(), "/readyz?origins=1", &[]).await?.status.is_success())
    })
    .await?;
    rig.stop().await;
    Ok(())
}
