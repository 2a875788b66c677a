//! What is made behind readers leaves them a thread.

use std::sync::Arc;

use bildkante_edge::render::Load;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_shared::urgency::Urgency;
use bildkante_tests::client::eventually;
use bildkante_tests::rig::{Plan, Rig};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::json;

use crate::purge::{TOKEN, with_tokens};
use crate::stand_ins::FullPool;

/// While a warming and other work behind readers takes all threads that it may, a lone reader of the very picture that is
/// warmed gets it at once, at the quick rung.
#[tokio::test(flavor = "multi_thread")]
async fn a_lone_reader_beside_a_warming_is_neither_kept_waiting_nor_hurried() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_tokens, ..Plan::painted(&control) }).await?;
    let edge = rig
        .another_edge("behind", |config| {
            config.render.threads = 2;
            // A thread that a busy machine holds up for a second is no wait.
            config.render.queue_delay_target_ms = 20_000;
            config.serve.render_wait_ms = 120_000;
        })
        .await?;
    let made = async |rung: &str| {
        let line = format!("bildkante_edge_rendition_bytes_count{{format=\"avif\",rung=\"{rung}\"}}");
        Ok::<_, anyhow::Error>(rig.http.metric(edge.admin, &line).await.unwrap_or(0.0))
    };
    let drawn = rig.http.image(edge.http, "/i/studio/hero?product=vase&fm=avif&w=320").await?;
    assert_eq!(drawn.outcome(), "generated");
    eventually("the first picture is final", async || Ok(made("final").await? >= 1.0)).await?;

    let long = FullPool::of_jobs(&edge, Urgency::LEAST, 2).await?;
    let order = json!({ "campaign": "studio", "slot": "hero", "formats": ["avif"], "concurrency": 2, "axes": {
        "product": ["vase"], "colour": ["teal"], "material": ["glossy"], "backdrop": ["cream"], "setting": ["studio"] } });
    let request = Request::post(format!("http://{}/admin/v1/warm", edge.admin))
        .header(AUTHORIZATION, format!("Bearer {TOKEN}"))
        .header(CONTENT_TYPE, "application/json");
    let warming = rig.http.send(request.body(Full::new(order.to_string().into()))?).await?;
    assert_eq!(warming.status, StatusCode::ACCEPTED, "{}", warming.text());
    let is_kept = async || Ok(edge.pool.pending() >= 2 && edge.pool.running() == 1);
    eventually("the warming waits, and a thread is kept for readers", is_kept).await?;

    let reader = rig.http.image(edge.http, "/i/studio/hero?product=vase&fm=avif&w=640").await?;
    assert_eq!((reader.outcome(), reader.header("cache-control")), ("rendered", "public, max-age=30"));
    assert!(reader.header("server-timing").contains("rung;desc=quick"), "{:?}", reader.headers);
    assert_eq!((made("quick").await?, made("hurried").await?, made("final").await?), (2.0, 0.0, 1.0));
    assert_eq!(edge.pool.load(), Load::Light);
    assert_eq!(rig.http.metric(edge.admin, "bildkante_edge_finals_put_off_total").await?, 0.0);

    long.release().await?;
    eventually("what waited is made", async || {
        let reply = rig.http.image(edge.http, "/i/studio/hero?product=vase&fm=avif&w=640").await?;
        Ok(reply.header("server-timing").contains("rung;desc=final"))
    })
    .await?;
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}
