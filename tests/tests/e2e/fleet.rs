//! Two edges, each with a node of its own, and the object store they share.

use std::sync::{Arc, OnceLock};

use bildkante_edge::cache::ObjectConfig;
use bildkante_edge::config::Config;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::client::eventually;
use bildkante_tests::rig::{Plan, Rig};
use tempfile::TempDir;

/// A plan's changes are plain functions, so this folder is a static.
static STORE: OnceLock<TempDir> = OnceLock::new();

fn store() -> &'static TempDir {
    STORE.get_or_init(|| tempfile::tempdir().expect("a folder"))
}

fn shared(config: &mut Config) {
    config.cache.object = Some(ObjectConfig::at(format!("file://{}", store().path().display())));
}

fn away(config: &mut Config) {
    // No server listens on port 1; without credentials the store is not even asked with a signature.
    let endpoint = Some("http://127.0.0.1:1".to_owned());
    let region = Some("eu-central-1".to_owned());
    config.cache.object = Some(ObjectConfig { endpoint, region, ..ObjectConfig::at("s3://pictures") });
}

#[tokio::test]
async fn a_picture_drawn_for_one_edge_is_not_drawn_for_another() -> anyhow::Result<()> {
    let (here, there) = (Arc::new(FakeControl::default()), Arc::new(FakeControl::default()));
    let one = Rig::start(Plan { edge: shared, ..Plan::painted(&here) }).await?;
    let mut other = Rig::start(Plan { edge: shared, ..Plan::painted(&there) }).await?;
    let (path, wider) = ("/i/studio/thumb?product=vase&fm=webp", "/i/studio/hero?product=vase&fm=webp");
    let first = one.http.image(one.public(), path).await?;
    assert_eq!(first.outcome(), "generated", "{:?}", first.headers);
    let renditions = store().path().join("renditions");
    eventually("the rendition is in the store", async || Ok(renditions.exists())).await?;

    // Not even its own node is needed.
    other.stop_node().await;
    let mut same = other.http.image(other.public(), path).await?;
    eventually("the same bytes at the other edge", async || {
        same = other.http.image(other.public(), path).await?;
        Ok(same.header("etag") == first.header("etag"))
    })
    .await?;
    assert_eq!(same.body, first.body);
    // The fallback of another slot is cut from a master in the shared store: the default hero of `one`.
    let drawn = one.http.image(one.public(), wider).await?;
    eventually("the hero from the shared master", async || {
        Ok(other.http.image(other.public(), wider).await?.header("etag") == drawn.header("etag"))
    })
    .await?;
    assert_eq!(there.calls(), 0, "the other node drew nothing");
    other.stop().await;
    one.stop().await;
    std::fs::remove_dir_all(store().path())?;
    Ok(())
}

#[tokio::test]
async fn a_store_that_is_away_changes_no_answer() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: away, ..Plan::painted(&control) }).await?;
    let path = "/i/studio/thumb?product=ring&fm=webp";
    let first = rig.http.image(rig.public(), path).await?;
    assert_eq!(first.outcome(), "generated", "{:?}", first.headers);
    eventually("kept on disk all the same", async || Ok(!rig.edge_files("renditions")?.is_empty())).await?;
    let errors = "bildkante_edge_cache_io_errors_total{operation=\"read\",tier=\"object\"}";
    eventually("and it is counted", async || Ok(rig.http.metric(rig.admin(), errors).await? > 0.0)).await?;
    rig.stop().await;
    Ok(())
}
