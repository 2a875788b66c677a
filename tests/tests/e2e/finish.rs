//! What a picture says of itself, and what becomes of renditions that said less.

use std::sync::Arc;

use bildkante_edge::cache::{CacheConfig, CacheMetrics, Caches, Lineage, Lookup, PutOutcome, Rendition, RenditionKey};
use bildkante_edge::campaign::{CampaignConfig, Catalog};
use bildkante_edge::provenance::xmp_of;
use bildkante_edge::words::Format;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::client::eventually;
use bildkante_tests::rig::{Plan, Rig};

/// An explicit format: of a small flat picture a negotiated one is the smaller WebP.
const PICTURE: &str = "/i/studio/thumb?product=vase&fm=avif";

fn xmp(body: &[u8]) -> anyhow::Result<String> {
    let packet = xmp_of(Format::Avif, body)?.unwrap_or_default();
    Ok(String::from_utf8(packet.to_vec())?)
}

/// The node's date is the picture's, in every width and after a restart of the edge without the node.
#[tokio::test(flavor = "multi_thread")]
async fn a_picture_tells_when_and_by_what_it_was_drawn() -> anyhow::Result<()> {
    let mut rig = Rig::start(Plan::painted(&Arc::new(FakeControl::default()))).await?;
    let first = xmp(&rig.http.image(rig.public(), PICTURE).await?.body)?;
    let (_, date) = first.split_once("photoshop:DateCreated=\"").unwrap_or_default();
    let date = date.split('"').next().unwrap_or_default().to_owned();
    assert!(date.len() == 20 && date.starts_with("20") && date.ends_with('Z'), "{first}");
    assert!(first.contains("AISystemUsed=\"studio-tiny\"") && first.contains("AISystemVersionUsed=\""), "{first}");
    assert!(!first.contains("AIPromptInformation"), "{first}");
    rig.stop_edge().await;
    rig.stop_node().await;
    rig.start_edge().await?;
    let other = rig.http.image(rig.public(), &format!("{PICTURE}&w=192")).await?;
    assert_eq!(other.outcome(), "rendered", "{:?}", other.headers);
    assert!(xmp(&other.body)?.contains(&format!("DateCreated=\"{date}\"")));
    rig.stop().await;
    Ok(())
}

/// What an edge kept before an upgrade is shown at once and replaced behind, without a drawing.
#[tokio::test(flavor = "multi_thread")]
async fn renditions_of_the_former_version_are_served_while_they_are_replaced() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let mut rig = Rig::start(Plan::painted(&control)).await?;
    rig.http.image(rig.public(), PICTURE).await?;
    eventually("it is on disk", async || Ok(!rig.edge_files("renditions")?.is_empty())).await?;
    rig.stop_edge().await;
    let renamed = as_the_former_version_kept_it(&rig).await?;
    rig.start_edge().await?;
    rig.ready().await?;
    let before = control.calls();
    let shown = rig.http.image(rig.public(), PICTURE).await?;
    assert_eq!((shown.outcome(), &shown.body[..]), ("stale", &renamed[..]), "{:?}", shown.headers);
    assert_eq!(shown.header("cache-control"), "no-cache");
    eventually("it is replaced", async || {
        let reply = rig.http.image(rig.public(), PICTURE).await?;
        anyhow::ensure!(matches!(reply.outcome(), "stale" | "memory"), "{:?}", reply.headers);
        Ok(reply.outcome() == "memory" && xmp(&reply.body)?.contains("DateCreated"))
    })
    .await?;
    assert_eq!(control.calls(), before, "nothing is drawn anew");
    rig.stop().await;
    Ok(())
}

/// Moves the one rendition on disk to the key that the version without dates had for it. Its bytes then.
async fn as_the_former_version_kept_it(rig: &Rig) -> anyhow::Result<Vec<u8>> {
    let folders = CampaignConfig {
        campaigns_dir: rig.dir.path().join("campaigns"),
        prompts_dir: rig.dir.path().join("prompts"),
        ..CampaignConfig::default()
    };
    let catalog = Catalog::load(&folders.sources()?)?;
    let former =
        catalog.campaign("studio").expect("it is shipped").finish.formers().last().expect("there is one").digest;
    let config = CacheConfig { disk_dir: rig.dir.path().join("edge"), ..CacheConfig::default() };
    let caches = Caches::open(&config, CacheMetrics::new(&prometheus::Registry::new())?)?;
    let mut moved = Vec::new();
    for path in rig.edge_files("renditions")? {
        let Some(key) = path.file_name().and_then(|name| name.to_str()?.parse::<RenditionKey>().ok()) else { continue };
        let Lookup::Hit(found) = caches.disk.get(key).await else { continue };
        let key = RenditionKey::new(found.master, &found.spec, former, None);
        let lineage = Lineage {
            key,
            master: found.master,
            recipe: found.recipe,
            created_unix_ms: found.created_unix_ms,
            generation: found.generation,
        };
        moved = found.body.to_vec();
        let rendition = Arc::new(Rendition::new(found.body, found.spec, found.rung, lineage));
        anyhow::ensure!(caches.disk.put(key, rendition).await == PutOutcome::Stored, "not stored");
        std::fs::remove_file(path)?;
    }
    anyhow::ensure!(!moved.is_empty(), "no rendition on disk");
    Ok(moved)
}
