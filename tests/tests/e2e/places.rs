//! The place of a packshot on its way into a scene: drawn and pinned by the lock, and handed to the node.

use anyhow::{Context, ensure};
use bildkante_edge::campaign::{check as check_campaigns, write_locks};
use bildkante_edge::config::Config;
use bildkante_gpu_node::config::NodeConfig;
use bildkante_tests::rig::{Plan, Rig};
use bildkante_tests::{models_of, repository};
use http::StatusCode;

/// The scene is drawn around the product, and no prompt names it.
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
only   = { product = [\"mug\", \"vase\"] }

[slots.teaser]";

fn models(config: &mut NodeConfig) {
    models_of(config, &["checkpoints/sd1-tiny", "controlnets/sd1-depth"]);
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

async fn draw(rig: &Rig, query: &str) -> anyhow::Result<image::RgbImage> {
    let path = format!("/i/studio/hero?{query}&w=192&fm=png");
    let reply = rig.http.image(rig.public(), &path).await?;
    ensure!(reply.status == StatusCode::OK, "{path}: {}", reply.text());
    Ok(image::load_from_memory(&reply.body)?.into_rgb8())
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

    // What a mask and a control do to pixels is the node's, and tested there. Here each product's own reach it.
    let blobs = || std::fs::read_dir(rig.dir.path().join("node/blobs")).map(Iterator::count);
    let drawn = "bildkante_node_http_responses_total{route=\"generations\",status=\"200\"}";
    for (at, (product, handed)) in [("mug", 3), ("vase", 5), ("ball", 7)].into_iter().enumerate() {
        draw(&rig, &format!("product={product}")).await?;
        assert_eq!(blobs()?, handed, "{product}: the mask, the ControlNet's image, and what all begin with");
        rig.http.counts(rig.node(), drawn, at as f64 + 1.0).await?;
    }
    // Another colour has the same place and the same words: it is the same picture.
    draw(&rig, "product=mug&colour=red").await?;
    rig.http.counts(rig.node(), drawn, 3.0).await?;
    rig.stop().await;
    Ok(())
}

/// The built-in checkpoint paints anew where the packshot will lie, and nowhere else. The packshot itself cannot be seen.
const PAINTED_PLACE: &str = "[slots.hero.generate]
prompt   = \"product photo, glossy red ball in a plain studio, studio light, {backdrop} backdrop\"
steps    = 8
init     = { image = \"begin.png\", strength = 1.0 }
mask     = { layer = \"packshot\" }

[[slots.hero.layers]]
name    = \"packshot\"
image   = \"packshots/{product}.png\"
anchor  = \"centre\"
width   = \"100%\"
height  = \"100%\"
opacity = 0.01
only    = { product = [\"mug\", \"vase\"] }

[slots.teaser]";

/// Two places far from each other, and what lies between their edges and the middle of either.
const LEFT: [u32; 4] = [16, 56, 56, 136];
const RIGHT: [u32; 4] = [136, 56, 176, 136];
/// Mean difference to what the picture begins with, in steps of 255: what the autoencoder changes (0.8 was measured), and what
/// painting does (20).
const KEPT_MAX: f64 = 4.0;
const PAINTED_MIN: f64 = 10.0;

fn painted_places(config: &mut Config) {
    lay_out_places(config).expect("files and a lock");
}

fn lay_out_places(config: &Config) -> anyhow::Result<()> {
    let sources = config.campaigns.sources()?;
    let packshots = sources.campaigns_dir.join("layers/packshots");
    std::fs::create_dir_all(sources.images_dir())?;
    std::fs::create_dir_all(&packshots)?;
    begun().save(sources.images_dir().join("begin.png"))?;
    for product in ["mug", "vase", "ball", "cube", "bottle", "ring", "gift", "lamp"] {
        let is_there = |x: u32| if product == "vase" { x >= 128 } else { x < 64 };
        let pixel =
            |x: u32, y: u32| image::Rgba([0, 90, 90, if is_there(x) && (40..152).contains(&y) { 255 } else { 0 }]);
        image::RgbaImage::from_fn(192, 192, pixel).save(packshots.join(format!("{product}.png")))?;
    }
    let models = repository().join("gpu-node/models");
    write_locks(&sources, &models)?;
    check_campaigns(&sources, Some(&models))?;
    Ok(())
}

/// A slope of greys, which no prompt asks for.
fn begun() -> image::RgbImage {
    image::RgbImage::from_fn(192, 192, |_, y| image::Rgb([200 - (y / 4) as u8; 3]))
}

/// Mean difference of two pictures in a box, in steps of 255.
fn steps(one: &image::RgbImage, other: &image::RgbImage, [left, top, right, bottom]: [u32; 4]) -> f64 {
    let places = (top..bottom).flat_map(|y| (left..right).map(move |x| (x, y)));
    let all: Vec<f64> = places
        .flat_map(|(x, y)| one.get_pixel(x, y).0.into_iter().zip(other.get_pixel(x, y).0))
        .map(|(one, other)| f64::from(one.abs_diff(other)))
        .collect();
    all.iter().sum::<f64>() / all.len() as f64
}

#[tokio::test]
async fn pixels_follow_the_place_of_the_packshot() -> anyhow::Result<()> {
    let manifest = |text: String| text.replacen("[slots.teaser]", PAINTED_PLACE, 1);
    // A scene that is merged with another one for looking like it would hide what is tested.
    let node = |config: &mut NodeConfig| config.dedup.enabled = false;
    let rig = Rig::start(Plan { manifest, node, edge: painted_places, ..Plan::shipped() }).await?;
    let begun = begun();
    let [mug, vase, ball] =
        [draw(&rig, "product=mug").await?, draw(&rig, "product=vase").await?, draw(&rig, "product=ball").await?];
    for (product, picture, left_is_painted, right_is_painted) in
        [("mug", &mug, true, false), ("vase", &vase, false, true), ("ball", &ball, false, false)]
    {
        for (side, place, is_painted) in [("left", LEFT, left_is_painted), ("right", RIGHT, right_is_painted)] {
            let steps = steps(picture, &begun, place);
            println!("{product}, {side}: {steps:.1} steps from what it begins with");
            ensure!(if is_painted { steps >= PAINTED_MIN } else { steps <= KEPT_MAX }, "{product}, {side}: {steps:.1}");
        }
    }
    // What one keeps the other keeps as well, and each place has its own picture.
    ensure!(steps(&mug, &vase, LEFT) >= PAINTED_MIN && steps(&mug, &vase, RIGHT) >= PAINTED_MIN);
    ensure!(steps(&vase, &ball, LEFT) <= KEPT_MAX && steps(&mug, &ball, RIGHT) <= KEPT_MAX);
    rig.stop().await;
    Ok(())
}
