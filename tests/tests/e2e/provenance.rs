//! Signed pictures end to end: what an edge serves is what a validator accepts, and stays the same file.

use std::path::Path;
use std::sync::Arc;

use bildkante_edge::config::Config;
use bildkante_edge::credentials::{Finding, SignerConfig, Standing, Trust, authority, verify};
use bildkante_edge::words::Format;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::client::{Reply, eventually};
use bildkante_tests::rig::{Plan, Rig};
use http::StatusCode;

/// In its largest width: a file that a manifest may be embedded into.
const LARGE: &str = "/i/studio/hero?product=vase&fm=png&w=640";
/// A thumbnail that a manifest would double.
const SMALL: &str = "/i/studio/thumb?product=vase";

/// An authority for development in a folder, and the edge's configuration that names it.
fn signing(dir: &Path) -> anyhow::Result<(impl Fn(&mut Config) + use<>, Trust)> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let files = authority::init(&dir.join("authority"), now)?;
    let trust = Trust::from_pem(&std::fs::read_to_string(&files.root)?)?;
    let signer = SignerConfig {
        certificate: files.certificate,
        key: Some(files.key),
        command: Vec::new(),
        command_ms: 1000,
        renew: Vec::new(),
        renew_before_h: 0,
    };
    Ok((move |config: &mut Config| config.provenance.signer = Some(signer.clone()), trust))
}

/// As soon as it is of the final rung.
async fn settled(rig: &Rig, edge: &bildkante_edge::app::Edge, path: &str) -> anyhow::Result<Reply> {
    let mut last = rig.http.image(edge.http, path).await?;
    eventually("the final rung", async || {
        last = rig.http.image(edge.http, path).await?;
        anyhow::ensure!(last.status == StatusCode::OK, "{:?}", last.headers);
        Ok(!last.header("cache-control").contains("max-age=30"))
    })
    .await?;
    Ok(last)
}

fn is_trusted(finding: &Finding) -> bool {
    matches!(finding, Finding::Valid { credentials } if credentials.standing == Standing::Trusted)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_served_is_signed_embedded_or_beside_and_making_it_again_gives_the_same_file() -> anyhow::Result<()> {
    let rig = Rig::start(Plan::painted(&Arc::new(FakeControl::default()))).await?;
    let (sign, trust) = signing(rig.dir.path())?;
    let edge = rig.another_edge("signed", &sign).await?;
    rig.healthy_nodes(&edge, 1).await?;

    let embedded = settled(&rig, &edge, LARGE).await?;
    assert!(!embedded.header("link").contains("c2pa-manifest"), "{:?}", embedded.headers);
    let finding = verify(Format::Png, &embedded.body, None, &trust);
    assert!(is_trusted(&finding), "{finding:?}");
    let Finding::Valid { credentials } = finding else { anyhow::bail!("not valid") };
    let told: Vec<&str> = credentials.actions.iter().map(|action| action.action.as_str()).collect();
    assert!(told.starts_with(&["c2pa.created"]) && told.ends_with(&["c2pa.transcoded"]), "{told:?}");
    let generation = credentials.generation.expect("our assertion");
    assert!(embedded.header("cache-tag").contains(&generation.recipe), "{generation:?}");
    assert!(generation.checkpoint.is_some_and(|checkpoint| checkpoint.starts_with("studio-tiny@")));

    let beside = settled(&rig, &edge, SMALL).await?;
    let link = beside.header("link").to_owned();
    let (url, _) = link.split_once(">; rel=\"c2pa-manifest\"").unwrap_or_default();
    let url = url.rsplit('<').next().unwrap_or_default();
    let path = url.strip_prefix(&format!("http://{}", edge.http)).unwrap_or_default();
    assert!(path.starts_with("/c2pa/"), "{link}");
    // The file says so itself, for those who only have the file.
    let alone = verify(Format::Avif, &beside.body, None, &trust);
    assert_eq!(alone, Finding::Elsewhere { url: url.to_owned() });
    let manifest = rig.http.get(edge.http, path, &[]).await?;
    assert_eq!((manifest.status, manifest.content_type()), (StatusCode::OK, "application/c2pa"));
    assert!(manifest.header("cache-control").contains("immutable"));
    let finding = verify(Format::Avif, &beside.body, Some(&manifest.body), &trust);
    assert!(is_trusted(&finding), "{finding:?}");
    for wrong in ["/c2pa/nothing", "/c2pa/a2a9vq2cv3jakvzev4jhn17mr8-final"] {
        assert_eq!(rig.http.get(edge.http, wrong, &[]).await?.status, StatusCode::NOT_FOUND, "{wrong}");
    }
    edge.shut_down().await;

    // Everything is lost but the state: what is made again is the same file.
    std::fs::remove_dir_all(rig.dir.path().join("signed/renditions"))?;
    let edge = rig.another_edge("signed", &sign).await?;
    rig.healthy_nodes(&edge, 1).await?;
    assert_eq!(settled(&rig, &edge, LARGE).await?.body, embedded.body);
    let kept = rig.http.metric(edge.admin, "bildkante_edge_credentials_total{outcome=\"kept\"}").await?;
    assert!(kept >= 1.0, "{kept}");
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}

/// A signer that is away costs no picture: it is served for a short time, marked, or stood in for, as its campaign says.
#[tokio::test(flavor = "multi_thread")]
async fn a_signer_that_is_away_makes_nothing_final() -> anyhow::Result<()> {
    let rig = Rig::start(Plan::painted(&Arc::new(FakeControl::default()))).await?;
    let (sign, trust) = signing(rig.dir.path())?;
    let key = rig.dir.path().join("authority/signer.key");
    let hidden = key.with_extension("hidden");
    std::fs::rename(&key, &hidden)?;
    let edge = rig
        .another_edge("away", |config| {
            sign(config);
            config.provenance.reload_ms = 20;
        })
        .await?;
    rig.healthy_nodes(&edge, 1).await?;
    let unsigned = rig.http.image(edge.http, SMALL).await?;
    assert_eq!((unsigned.status, unsigned.header("cache-control")), (StatusCode::OK, "public, max-age=30"));
    assert_eq!(verify(Format::Avif, &unsigned.body, None, &trust), Finding::Absent);
    let failed = "bildkante_edge_credential_failures_total{reason=\"no_signer\"}";
    assert!(rig.http.metric(edge.admin, failed).await? >= 1.0);
    assert_eq!(rig.http.metric(edge.admin, "bildkante_edge_signer_valid").await?, 0.0);
    std::fs::rename(&hidden, &key)?;
    let settled = settled(&rig, &edge, SMALL).await?;
    assert!(settled.header("link").contains("c2pa-manifest"), "{:?}", settled.headers);
    assert_eq!(rig.http.metric(edge.admin, "bildkante_edge_signer_valid").await?, 1.0);
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}

/// Switching signing on renders nothing while a reader waits: what was unsigned is shown and replaced.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_unsigned_is_served_while_it_is_signed() -> anyhow::Result<()> {
    let rig = Rig::start(Plan::painted(&Arc::new(FakeControl::default()))).await?;
    let (sign, trust) = signing(rig.dir.path())?;
    let edge = rig.another_edge("later", |_| {}).await?;
    rig.healthy_nodes(&edge, 1).await?;
    let before = settled(&rig, &edge, LARGE).await?;
    assert_eq!(verify(Format::Png, &before.body, None, &trust), Finding::Absent);
    edge.shut_down().await;
    let edge = rig.another_edge("later", &sign).await?;
    rig.healthy_nodes(&edge, 1).await?;
    let shown = rig.http.image(edge.http, LARGE).await?;
    assert_eq!((shown.outcome(), &shown.body), ("stale", &before.body), "{:?}", shown.headers);
    eventually("it is signed", async || {
        let reply = rig.http.image(edge.http, LARGE).await?;
        Ok(is_trusted(&verify(Format::Png, &reply.body, None, &trust)))
    })
    .await?;
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}
