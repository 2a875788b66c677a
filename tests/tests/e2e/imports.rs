//! Pictures that people bring: served with no node, after a purge, a restart and the loss of every cache.

use std::path::Path;
use std::sync::Arc;

use bildkante_edge::admin::token::{TokenConfig, TokenScope, hash};
use bildkante_edge::campaign::{
    CampaignConfig, CatalogSources, ImportOrder, Imported, Statements, import, write_locks,
};
use bildkante_edge::config::Config;
use bildkante_edge::provenance::xmp_of;
use bildkante_edge::words::Format;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_shared::import::DigitalSource;
use bildkante_tests::client::Reply;
use bildkante_tests::client::eventually;
use bildkante_tests::rig::{Plan, Rig};
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::purge::{TOKEN, admin};

pub(crate) const MANIFEST: &str = r#"schema = 1
campaign = "brought"
rights = { creator = "Studio", credit = "Shop" }
policy = { review = "none", signing = "optional", recallable = true, locales = ["de-DE", "en-GB"] }

[generate]
source = "import"
size = [64, 64]

[axes.product]
default = "mug"
values.mug = { label = { de = "Becher", en = "mug" } }
values.vase = { label = { de = "Vase", en = "vase" } }

[slots.hero]
ratio = "1:1"
widths = [32, 64]
alt = { de = "{product}", en = "{product}" }
"#;

fn with_importer(config: &mut Config) {
    let scopes = vec![TokenScope::Read, TokenScope::Purge, TokenScope::Import];
    config.admin.tokens = vec![TokenConfig { name: "tests".to_owned(), hash: hash(TOKEN), scopes }];
    config.campaigns.reload_ms = 100;
}

pub(crate) fn sources(rig: &Rig) -> anyhow::Result<CatalogSources> {
    let (campaigns_dir, prompts_dir) = (rig.dir.path().join("campaigns"), rig.dir.path().join("prompts"));
    Ok(CampaignConfig { campaigns_dir, prompts_dir, ..CampaignConfig::default() }.sources()?)
}

/// A JPEG of 96 × 72 px: dark left, light right.
pub(crate) fn photograph(light: u8) -> anyhow::Result<Vec<u8>> {
    let rgb: Vec<u8> = (0..96 * 72).flat_map(|at| [if at % 96 < 48 { 20 } else { light }; 3]).collect();
    let mut file = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut file, 95).encode(
        &rgb,
        96,
        72,
        image::ExtendedColorType::Rgb8,
    )?;
    Ok(file)
}

pub(crate) fn bring(rig: &Rig, variant: &str, file: &[u8]) -> anyhow::Result<Imported> {
    bring_of(rig, variant, file, "Jo Photo")
}

fn bring_of(rig: &Rig, variant: &str, file: &[u8], creator: &str) -> anyhow::Result<Imported> {
    let statements = Statements { creator: Some(creator.to_owned()), ..Statements::default() };
    let source = Some(DigitalSource::DigitalCapture);
    Ok(import(&sources(rig)?, &ImportOrder { variant, bytes: file, source, statements })?)
}

/// Waits until the running edge has read the lock.
async fn is_shown(rig: &Rig, path: &str, recipe: &str) -> anyhow::Result<()> {
    eventually("the edge serves the import", async || {
        let reply = rig.http.image(rig.public(), path).await?;
        Ok(reply.header("cache-tag").contains(recipe) && reply.status == StatusCode::OK)
    })
    .await
}

/// All three formats, as the import's own.
async fn serves(rig: &Rig, imported: &Imported) -> anyhow::Result<()> {
    for (fm, format) in [("avif", Format::Avif), ("webp", Format::Webp), ("jpg", Format::Jpeg)] {
        let path = format!("/i/brought/hero?product=vase&w=64&fm={fm}");
        let reply = rig.http.image(rig.public(), &path).await?;
        assert_eq!((reply.status, reply.content_type()), (StatusCode::OK, format.media_type()), "{:?}", reply.headers);
        assert!(reply.header("cache-tag").contains(&format!("recipe:{}", imported.recipe)), "{:?}", reply.headers);
        assert!(reply.header("cache-tag").contains(&format!("master:{}", imported.master)), "{:?}", reply.headers);
        let xmp = String::from_utf8_lossy(xmp_of(format, &reply.body)?.unwrap_or_default()).into_owned();
        assert!(xmp.contains("digitalsourcetype/digitalCapture") && !xmp.contains("trainedAlgorithmicMedia"), "{xmp}");
        assert!(xmp.contains("Jo Photo") && xmp.contains("Shop") && !xmp.contains("Studio"), "{xmp}");
    }
    Ok(())
}

async fn started(control: &Arc<FakeControl>) -> anyhow::Result<Rig> {
    let mut rig = Rig::start(Plan { edge: with_importer, ..Plan::painted(control) }).await?;
    rig.stop_node().await;
    std::fs::write(rig.dir.path().join("campaigns/brought.toml"), MANIFEST)?;
    Ok(rig)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_is_served_with_no_node_after_purge_restart_and_the_loss_of_all_caches() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let mut rig = started(&control).await?;
    let imported = bring(&rig, "brought/hero?product=vase", &photograph(240)?)?;
    is_shown(&rig, "/i/brought/hero?product=vase&w=64&fm=jpg", &imported.recipe.to_string()).await?;
    serves(&rig, &imported).await?;

    let order = json!({ "campaign": "brought", "kind": "hard", "reach": "masters", "why": "test" });
    let reply = admin(&rig, Method::POST, "/admin/v1/purges", Some(order)).await?;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    serves(&rig, &imported).await?;

    rig.stop_edge().await;
    std::fs::remove_dir_all(rig.dir.path().join("edge"))?;
    rig.start_edge().await?;
    serves(&rig, &imported).await?;
    write_locks(&sources(&rig)?, Path::new(env!("CARGO_MANIFEST_DIR")).join("../gpu-node/models").as_path())?;
    serves(&rig, &imported).await?;

    // A picture that nobody has brought yet is stood in for, and asks no node either.
    let mug = rig.http.image(rig.public(), "/i/brought/hero?product=mug&w=64&fm=jpg").await?;
    assert_eq!((mug.status, mug.header("cache-control")), (StatusCode::OK, "no-cache"), "{:?}", mug.headers);
    assert!(mug.outcome().starts_with("placeholder"), "{:?}", mug.headers);
    assert_eq!(control.calls(), 0);
    rig.stop().await;
    Ok(())
}

/// A picture never bears the credits of the one that took its place: it does not stand in for that one.
#[tokio::test(flavor = "multi_thread")]
async fn no_import_stands_in_under_the_credits_of_another() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = started(&control).await?;
    let (variant, path) = ("brought/hero?product=vase", "/i/brought/hero?product=vase&w=64&fm=jpg");
    let first = bring(&rig, variant, &photograph(240)?)?;
    is_shown(&rig, path, &first.recipe.to_string()).await?;
    eventually("its master is on disk", async || Ok(!rig.edge_files("masters")?.is_empty())).await?;

    let second = bring_of(&rig, variant, &photograph(120)?, "Kim Studio")?;
    std::fs::remove_file(&second.original)?;
    eventually("the second picture is wanted, and its original is away", async || {
        let reply = rig.http.image(rig.public(), path).await?;
        let shown = String::from_utf8_lossy(xmp_of(Format::Jpeg, &reply.body)?.unwrap_or_default()).into_owned();
        assert!(!reply.outcome().starts_with("previous"), "{:?}", reply.headers);
        assert!(!shown.contains("Kim Studio"), "{shown}");
        Ok(reply.outcome().starts_with("placeholder"))
    })
    .await?;
    rig.stop().await;
    Ok(())
}

async fn post(rig: &Rig, path: &str, file: Vec<u8>) -> anyhow::Result<Reply> {
    let request = Request::post(format!("http://{}{path}", rig.admin()))
        .header(AUTHORIZATION, format!("Bearer {TOKEN}"))
        .body(Full::new(Bytes::from(file)))?;
    rig.http.send(request).await
}

pub(crate) async fn candidates(rig: &Rig) -> anyhow::Result<Vec<Value>> {
    let listed: Value = admin(rig, Method::GET, "/admin/v1/imports", None).await?.json()?;
    Ok(listed["candidates"].as_array().cloned().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_posted_picture_is_a_candidate_and_serves_nothing_until_a_person_imports_it() -> anyhow::Result<()> {
    const TO: &str = "/admin/v1/imports?variant=brought/hero%3Fproduct%3Dvase";
    let control = Arc::new(FakeControl::default());
    let rig = started(&control).await?;
    let imported = bring(&rig, "brought/hero?product=vase", &photograph(240)?)?;
    let path = "/i/brought/hero?product=vase&w=64&fm=jpg";
    is_shown(&rig, path, &imported.recipe.to_string()).await?;
    let before = rig.http.image(rig.public(), path).await?.body;

    let other = photograph(120)?;
    assert_eq!(post(&rig, TO, other.clone()).await?.status, StatusCode::UNPROCESSABLE_ENTITY, "no source");
    let refused = post(&rig, &format!("{TO}&source=humanEdits"), b"GIF89a".to_vec()).await?;
    assert!(
        refused.status == StatusCode::UNPROCESSABLE_ENTITY && refused.text().contains("it is GIF, which is not taken")
    );
    assert!(candidates(&rig).await?.is_empty());
    for _ in 0..2 {
        let reply = post(&rig, &format!("{TO}&source=humanEdits&credit=Retouched"), other.clone()).await?;
        assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
    }
    let listed = candidates(&rig).await?;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0]["recipe"]["source"], "humanEdits");
    assert_eq!(rig.http.image(rig.public(), path).await?.body, before, "it serves nothing");

    let id = listed[0]["id"].as_str().unwrap_or_default().to_owned();
    let [campaigns, prompts, data] = ["campaigns", "prompts", "edge"].map(|name| rig.dir.path().join(name));
    let config = rig.dir.path().join("edge.toml");
    let text = format!(
        "[campaigns]\ncampaigns_dir = {campaigns:?}\nprompts_dir = {prompts:?}\n[cache]\ndisk_dir = {data:?}\n"
    );
    std::fs::write(&config, text)?;
    let mut command = std::process::Command::new(bildkante_tests::program("bildkante-edge")?);
    let output = command.arg("import").arg("--config").arg(&config).args(["--candidate", &id]).output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    is_shown(&rig, path, &id).await?;
    assert_ne!(rig.http.image(rig.public(), path).await?.body, before);

    let deleted = admin(&rig, Method::DELETE, &format!("/admin/v1/imports/{id}"), None).await?;
    assert_eq!(deleted.status, StatusCode::OK, "{}", deleted.text());
    assert!(candidates(&rig).await?.is_empty());
    assert_eq!(control.calls(), 0);
    rig.stop().await;
    Ok(())
}
