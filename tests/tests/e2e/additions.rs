//! Adapters, ControlNets and images of a manifest on their way into a picture: the lock pins them, the edge hands an image to a
//! node that lacks it, and the node draws with them.

use std::path::PathBuf;

use anyhow::Context;
use bildkante_edge::campaign::check::write_locks;
use bildkante_edge::config::Config;
use bildkante_gpu_node::config::NodeConfig;
use bildkante_tests::models_of;
use bildkante_tests::rig::{Plan, Rig};
use http::StatusCode;

const PLAIN: &str = "prompt     = ";
const ADDED: &str = "loras      = [{ name = \"sd1.kohya\", weight = 0.8 }]
controls   = [{ network = \"sd1-edges\", image = \"edges.png\", weight = 0.9, end = 0.8 }]
init       = { image = \"begin.png\", strength = 0.9 }
prompt     = ";
const TEAL_MUG: &str = "/i/studio/hero?product=mug&colour=teal&w=480";

fn models(config: &mut NodeConfig) {
    models_of(config, &["checkpoints/sd1-tiny", "controlnets/sd1-edges", "adapters"]);
}

/// The campaign's images and its lock, before the edge reads them.
fn images_and_lock(config: &mut Config) {
    prepare(config).expect("images and a lock");
}

fn prepare(config: &Config) -> anyhow::Result<()> {
    let sources = config.campaigns.sources()?;
    std::fs::create_dir_all(sources.images_dir())?;
    for (name, from) in [("edges.png", 40), ("begin.png", 90)] {
        let picture = image::RgbImage::from_fn(192, 192, |x, y| image::Rgb([from, (x / 2) as u8, (y / 2) as u8]));
        picture.save(sources.images_dir().join(name))?;
    }
    let folder = sources.campaigns_dir.parent().context("a folder")?.to_owned();
    write_locks(&sources, &folder.join("models"))?;
    Ok(())
}

fn manifest(text: String) -> String {
    // What the manifest says of its model goes with the model.
    let text = text.replace("\"studio-tiny\"", "\"sd1-tiny\"").replace("[models.studio-tiny]", "[models.sd1-tiny]");
    let text = text.replace("steps      = 20", "steps      = 5");
    text.replacen(PLAIN, ADDED, 1)
}

fn blobs(rig: &Rig) -> Vec<PathBuf> {
    let folder = std::fs::read_dir(rig.dir.path().join("node/blobs"));
    folder.into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

#[tokio::test]
async fn adapters_controlnets_and_images_of_a_manifest_are_pinned_and_drawn() -> anyhow::Result<()> {
    let plan = Plan { manifest, node: models, edge: images_and_lock, ..Plan::shipped() };
    let rig = Rig::start(plan).await?;
    let lock = std::fs::read_to_string(rig.dir.path().join("campaigns/studio.lock.toml"))?;
    for words in ["\"sd1-edges\" = ", "[adapters]\n\"sd1.kohya\" = ", "[images]\n\"begin.png\" = ", "\"edges.png\" = "]
    {
        assert!(lock.contains(words), "no {words} in\n{lock}");
    }
    assert!(blobs(&rig).is_empty(), "the node has no image yet");
    let drawn = rig.http.image(rig.public(), TEAL_MUG).await?;
    assert_eq!((drawn.status, drawn.outcome()), (StatusCode::OK, "generated"), "{}", drawn.text());
    assert_eq!(blobs(&rig).len(), 2, "it was handed both");

    // The next picture finds the images at the node.
    let missed = "bildkante_node_http_responses_total{route=\"generations\",status=\"424\"}";
    rig.http.counts(rig.node(), missed, 1.0).await?;
    let next = rig.http.image(rig.public(), "/i/studio/hero?product=vase&colour=red&w=480").await?;
    assert_eq!((next.status, next.outcome()), (StatusCode::OK, "generated"), "{}", next.text());
    // The node counts an answer after it has sent it.
    let answered = "bildkante_node_http_responses_total{route=\"generations\",status=\"200\"}";
    rig.http.counts(rig.node(), answered, 2.0).await?;
    rig.http.counts(rig.node(), missed, 1.0).await?;
    rig.stop().await;
    Ok(())
}
