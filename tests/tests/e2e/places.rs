//! The place of a packshot on its way into a scene: drawn and pinned by the lock, handed to the node, and kept free in the picture.

use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, ensure};
use bildkante_edge::campaign::{check as check_campaigns, write_locks};
use bildkante_edge::config::Config;
use bildkante_gpu_node::config::NodeConfig;
use bildkante_tests::repository;
use bildkante_tests::rig::{Plan, Rig};
use http::StatusCode;

/// The scene is drawn around the product, and no prompt names it. The product itself is not seen, so that the scene is.
const SCENE: &str = "[slots.hero.generate]
prompt   = \"a table, {backdrop} backdrop\"
init     = { image = \"begin.png\", strength = 1.0 }
mask     = { layer = \"packshot\", white = \"surroundings\" }
controls = [{ network = \"sd1-depth\", image = { layer = \"packshot\", grow = \"2%\", softness = \"4%\" }, weight = 0.5 }]

[[slots.hero.layers]]
name   = \"packshot\"
image  = \"packshots/{product}.png\"
anchor = \"bottom-end\"
width  = \"60%\"
height = \"60%\"
opacity = 0.0
only   = { product = [\"mug\", \"vase\"] }

[slots.teaser]";

fn models(config: &mut NodeConfig) {
    let models = config.data_dir.with_file_name("models");
    if !models.exists() {
        lay_out_models(&models).expect("links to fixtures");
    }
    config.models_dir = models;
}

fn lay_out_models(models: &Path) -> std::io::Result<()> {
    let fixtures = repository().join("gpu-node/fixtures");
    std::fs::create_dir(models)?;
    symlink(fixtures.join("checkpoints/sd1-tiny"), models.join("sd1-tiny"))?;
    symlink(fixtures.join("controlnets/sd1-depth"), models.join("sd1-depth"))
}

fn files_and_lock(config: &mut Config) {
    prepare(config).expect("files and a lock");
}

fn prepare(config: &Config) -> anyhow::Result<()> {
    let sources = config.campaigns.sources()?;
    let packshots = sources.campaigns_dir.join("layers/packshots");
    std::fs::create_dir_all(sources.images_dir())?;
    std::fs::create_dir_all(&packshots)?;
    image::RgbImage::from_pixel(192, 192, image::Rgb([250, 250, 250])).save(sources.images_dir().join("begin.png"))?;
    // The mug is wide, the vase is slim.
    for product in ["mug", "vase", "ball", "cube", "bottle", "ring", "gift", "lamp"] {
        let width = if product == "vase" { 4 } else { 16 };
        image::RgbaImage::from_pixel(width, 16, image::Rgba([0, 90, 90, 255]))
            .save(packshots.join(format!("{product}.png")))?;
    }
    let folder = sources.campaigns_dir.parent().context("a folder")?.to_owned();
    write_locks(&sources, &folder.join("models"))?;
    check_campaigns(&sources, Some(&folder.join("models")))?;
    Ok(())
}

fn manifest(text: String) -> String {
    // What the manifest says of its model goes with the model.
    let text = text.replace("\"studio-tiny\"", "\"sd1-tiny\"").replace("[models.studio-tiny]", "[models.sd1-tiny]");
    let text = text.replace("steps      = 20", "steps      = 5");
    text.replacen("[slots.teaser]", SCENE, 1)
}

/// A picture as its master is.
async fn master(rig: &Rig, query: &str) -> anyhow::Result<image::RgbImage> {
    let path = format!("/i/studio/hero?{query}&w=192&fm=png");
    let reply = rig.http.image(rig.public(), &path).await?;
    ensure!(reply.status == StatusCode::OK, "{path}: {}", reply.text());
    Ok(image::load_from_memory(&reply.body)?.into_rgb8())
}

/// How much two pictures differ on average in the lower rows of these columns, in steps of 255.
fn difference(one: &image::RgbImage, other: &image::RgbImage, columns: std::ops::Range<u32>) -> f64 {
    let pixels = columns.flat_map(|x| (90..190).map(move |y| (x, y)));
    let steps = pixels.flat_map(|(x, y)| {
        let (one, other) = (one.get_pixel(x, y).0, other.get_pixel(x, y).0);
        (0..3).map(move |channel| f64::from(one[channel].abs_diff(other[channel])))
    });
    let steps: Vec<f64> = steps.collect();
    steps.iter().sum::<f64>() / steps.len() as f64
}

fn places(rig: &Rig) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(rig.dir.path().join("campaigns/images"))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.retain(|name| name.starts_with("place-"));
    names.sort();
    Ok(names)
}

#[tokio::test]
async fn a_scene_leaves_room_for_the_packshot_that_will_lie_in_it() -> anyhow::Result<()> {
    let plan = Plan { manifest, node: models, edge: files_and_lock, ..Plan::shipped() };
    let rig = Rig::start(plan).await?;
    let names = places(&rig)?;
    assert_eq!(names.len(), 6, "mug, vase and nothing, as mask and for the ControlNet: {names:?}");
    let lock = std::fs::read_to_string(rig.dir.path().join("campaigns/studio.lock.toml"))?;
    assert!(names.iter().all(|name| lock.contains(&format!("\"{name}\" = "))), "{lock}");

    let mug = master(&rig, "product=mug").await?;
    let blobs = std::fs::read_dir(rig.dir.path().join("node/blobs"))?.count();
    assert_eq!(blobs, 3, "the node was handed what it begins with, the mask and the ControlNet's image");
    // Another scene around the mug is much alike in its place, and different elsewhere; without a place all is.
    let other = master(&rig, "product=mug&backdrop=blue").await?;
    let (place, elsewhere) = (difference(&mug, &other, 90..190), difference(&mug, &other, 0..60));
    assert!(place * 2.0 < elsewhere, "{place} in the place, {elsewhere} elsewhere");
    let [ball, vase] = [master(&rig, "product=ball").await?, master(&rig, "product=vase").await?];
    assert!(difference(&ball, &mug, 90..190) > place && difference(&vase, &mug, 0..160) > 0.0);

    // The other colour has the same place and the same words: it is the same picture.
    let drawn = "bildkante_node_http_responses_total{route=\"generations\",status=\"200\"}";
    rig.http.counts(rig.node(), drawn, 4.0).await?;
    assert_eq!(master(&rig, "product=mug&colour=red").await?, mug);
    rig.http.counts(rig.node(), drawn, 4.0).await?;
    rig.stop().await;
    Ok(())
}
